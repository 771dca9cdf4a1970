//! Where something lies in the other S3: which address, and how bytes of a path and a query are written.
//!
//! A caller may write a key's bytes in several ways (`+` or `%2B`); a signature is made of one. What goes on is written that one
//! way, so that a store that signs what it reads and one that signs what it decodes agree. The decoded bytes stay the same.

use http::Uri;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

use crate::config::UpstreamConfig;

/// What S3 leaves as it is in a path.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');
/// And in a query.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// What of a query is a signature of ours, which the other S3 must not see.
const SIGNATURE_V4: [&str; 7] = [
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-SignedHeaders",
    "X-Amz-Signature",
    "X-Amz-Security-Token",
];
const SIGNATURE_V2: [&str; 3] = ["AWSAccessKeyId", "Expires", "Signature"];

/// What a request is about, as its path and host say it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) bucket: Option<String>,
    /// As bytes are written in a path: empty, or `/` and the key.
    pub(super) rest: String,
}

impl Named {
    /// Of a path; `bucket` is what the host's name says, where it says one.
    pub(super) fn read(bucket: Option<&str>, path: &str) -> Self {
        let written = |raw: &str| percent_encode(&percent_decode_str(raw).collect::<Vec<u8>>(), PATH).to_string();
        if let Some(bucket) = bucket {
            return Self { bucket: Some(bucket.to_owned()), rest: written(path) };
        }
        let path = path.strip_prefix('/').unwrap_or(path);
        let (first, rest) = path.find('/').map_or((path, ""), |at| path.split_at(at));
        if first.is_empty() && rest.is_empty() {
            return Self::default();
        }
        let bucket = percent_decode_str(first).decode_utf8_lossy().into_owned();
        Self { bucket: Some(bucket), rest: written(rest) }
    }

    /// An object by its key.
    pub(super) fn object(bucket: &str, key: &str) -> Self {
        Self { bucket: Some(bucket.to_owned()), rest: format!("/{}", percent_encode(key.as_bytes(), PATH)) }
    }

    pub(super) fn bucket(bucket: &str) -> Self {
        Self { bucket: Some(bucket.to_owned()), rest: String::new() }
    }

    pub(super) fn has_key(&self) -> bool {
        self.rest.len() > 1
    }
}

/// A query without signatures, each pair as a signature has it. A name without a value stays one.
pub(super) fn query(raw: &str) -> String {
    let is_v2 = pairs(raw).any(|(name, _)| name == "Signature");
    let ours = |name: &str| SIGNATURE_V4.contains(&name) || is_v2 && SIGNATURE_V2.contains(&name);
    let kept = pairs(raw).filter(|(name, _)| !ours(name));
    let write = |(name, value): (String, Option<String>)| {
        let name = percent_encode(name.as_bytes(), QUERY).to_string();
        value.map_or_else(|| name.clone(), |value| format!("{name}={}", percent_encode(value.as_bytes(), QUERY)))
    };
    kept.map(write).collect::<Vec<_>>().join("&")
}

/// A value as a query has it.
pub(super) fn encode(value: &str) -> String {
    percent_encode(value.as_bytes(), QUERY).to_string()
}

/// Names and values, decoded; a `+` is a space there.
pub(super) fn pairs(raw: &str) -> impl Iterator<Item = (String, Option<String>)> {
    let decoded = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    raw.split('&').filter(|pair| !pair.is_empty()).map(move |pair| match pair.split_once('=') {
        Some((name, value)) => (decoded(name), Some(decoded(value))),
        None => (decoded(pair), None),
    })
}

/// The address of the other S3.
#[derive(Clone, Debug)]
pub(super) struct Place {
    scheme: String,
    /// With its port, unless that is the scheme's own: as it stands in a Host header.
    host: String,
    path_style: bool,
    bucket_prefix: String,
}

impl Place {
    /// # Errors
    /// What is wrong with the endpoint.
    pub(super) fn new(config: &UpstreamConfig) -> Result<Self, String> {
        let own = || {
            let end = if config.region.starts_with("cn-") { ".cn" } else { "" };
            format!("https://s3.{}.amazonaws.com{end}", config.region)
        };
        let endpoint = if config.endpoint.is_empty() { own() } else { config.endpoint.clone() };
        let wrong = || "is an http:// or https:// URL of a host, without a path or userinfo".to_owned();
        let uri: Uri = endpoint.parse().map_err(|_| wrong())?;
        let (Some(scheme @ ("http" | "https")), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(wrong());
        };
        if authority.as_str().contains('@') || !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(wrong());
        }
        let own_port = if scheme == "https" { 443 } else { 80 };
        let host = match authority.port_u16() {
            Some(port) if port == own_port => authority.host().to_owned(),
            _ => authority.as_str().to_owned(),
        };
        let (path_style, bucket_prefix) = (config.path_style, config.bucket_prefix.clone());
        Ok(Self { scheme: scheme.to_owned(), host, path_style, bucket_prefix })
    }

    /// Scheme and host, for people.
    pub(super) fn shown(&self) -> String {
        format!("{}://{}", self.scheme, self.host)
    }

    /// Whether nobody on the way can read what is sent.
    pub(super) fn is_private(&self) -> bool {
        let name = self.host.rsplit_once(':').map_or(self.host.as_str(), |(name, _)| name);
        let address = name.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
        self.scheme == "https" || name == "localhost" || address.is_ok_and(|address| address.is_loopback())
    }

    /// A bucket's name in the other S3.
    pub(super) fn bucket_there(&self, bucket: &str) -> String {
        format!("{}{bucket}", self.bucket_prefix)
    }

    /// A bucket's name here; `None` for one that is not ours.
    pub(super) fn bucket_here<'a>(&self, bucket: &'a str) -> Option<&'a str> {
        bucket.strip_prefix(self.bucket_prefix.as_str()).filter(|name| !name.is_empty())
    }

    pub(super) fn maps_buckets(&self) -> bool {
        !self.bucket_prefix.is_empty()
    }

    /// Host and URL of something there.
    ///
    /// # Errors
    /// When a bucket's name cannot stand in a host's name.
    pub(super) fn address(&self, named: &Named, query: &str) -> Result<(String, Uri), String> {
        let (mut host, mut path) = (self.host.clone(), named.rest.clone());
        if let Some(bucket) = &named.bucket {
            let bucket = self.bucket_there(bucket);
            if self.path_style {
                path = format!("/{}{path}", percent_encode(bucket.as_bytes(), QUERY));
            } else {
                host = format!("{bucket}.{host}");
            }
        }
        if !path.starts_with('/') {
            path.insert(0, '/');
        }
        let mark = if query.is_empty() { "" } else { "?" };
        let uri = format!("{}://{host}{path}{mark}{query}", self.scheme).parse();
        Ok((host, uri.map_err(|error| format!("make the address: {error}"))?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(endpoint: &str, path_style: bool, prefix: &str) -> Result<Place, String> {
        let config = UpstreamConfig {
            endpoint: endpoint.to_owned(),
            region: "eu-west-1".to_owned(),
            path_style,
            bucket_prefix: prefix.to_owned(),
            ..UpstreamConfig::default()
        };
        Place::new(&config)
    }

    #[test]
    fn the_bytes_of_a_key_stay_and_are_written_in_the_one_way_that_is_signed() {
        let read = |path: &str| Named::read(None, path).rest;
        assert_eq!(read("/b/a+b=c~d/%2b%7E/../é%C3%A9//x"), "/a%2Bb%3Dc~d/%2B~/../%C3%A9%C3%A9//x");
        assert_eq!(read("/b"), "");
        assert_eq!(read("/b/"), "/");
        assert_eq!(Named::read(None, "/%62uck/k").bucket.as_deref(), Some("buck"));
        assert_eq!(Named::read(None, "/"), Named::default());
        assert_eq!(Named::read(Some("b"), "/a/k"), Named { bucket: Some("b".into()), rest: "/a/k".into() });
        assert_eq!(Named::object("b", "a b/\u{1}?").rest, "/a%20b/%01%3F");
    }

    #[test]
    fn a_query_loses_our_signatures_and_nothing_else() {
        assert_eq!(query("uploads&prefix=a+b%2F&X-Amz-Signature=0&X-Amz-Date=1"), "uploads&prefix=a%20b%2F");
        assert_eq!(query("AWSAccessKeyId=k&Expires=1&Signature=s%3D&versionId=v"), "versionId=v");
        assert_eq!(query("Expires=soon&marker="), "Expires=soon&marker=");
        assert_eq!(query(""), "");
    }

    #[test]
    fn an_address_has_the_bucket_in_its_path_or_in_its_host() {
        let named = Named::object("dailies", "a");
        let told = |place: Result<Place, String>| place.unwrap().address(&named, "acl").unwrap();
        let (host, uri) = told(at("http://ceph.studio:7480/", true, ""));
        assert_eq!(
            (host.as_str(), uri.to_string().as_str()),
            ("ceph.studio:7480", "http://ceph.studio:7480/dailies/a?acl")
        );
        let (host, uri) = told(at("", false, "acme-"));
        assert_eq!(host, "acme-dailies.s3.eu-west-1.amazonaws.com");
        assert_eq!(uri.to_string(), "https://acme-dailies.s3.eu-west-1.amazonaws.com/a?acl");
        let (host, _) = told(at("https://s3.example:443", true, ""));
        assert_eq!(host, "s3.example");
        for wrong in ["s3.example", "ftp://x", "http://", "http://u:p@x", "http://x/minio", "http://x?y"] {
            assert!(at(wrong, true, "").is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_prefix_of_buckets_is_put_on_and_taken_off() {
        let place = at("http://[::1]:9000", true, "acme-").unwrap();
        assert_eq!(place.bucket_there("studio"), "acme-studio");
        assert_eq!(place.bucket_here("acme-studio"), Some("studio"));
        assert_eq!(place.bucket_here("other"), None);
        assert!(place.is_private() && place.maps_buckets());
        assert!(!at("http://10.0.0.1", true, "").unwrap().is_private());
    }
}
