//! Addresses in virtual-host style: the bucket stands in the host's name.

use std::borrow::Cow;

use s3s::S3Result;
use s3s::host::{S3Host, VirtualHost};

use crate::artifacts::model::check_bucket_name;

/// What stands between a bucket and the domain where its website is asked for.
const WEBSITE: &str = "s3-website";

/// Domains below which names are buckets.
#[derive(Clone)]
pub(in crate::artifacts) struct Hosts(Vec<String>);

/// What a host's name says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::artifacts) enum Named {
    /// The path has the bucket, if any.
    Nothing,
    Bucket(String),
    Website(String),
}

impl Hosts {
    /// `localhost` is one of them always.
    pub(in crate::artifacts) fn new(domains: &[String]) -> Self {
        let given = domains.iter().map(|domain| domain.trim_matches('.').to_ascii_lowercase());
        let mut all: Vec<_> = given.chain(std::iter::once("localhost".to_owned())).collect();
        all.sort_by_key(|domain| std::cmp::Reverse(domain.len())); // the longest that fits
        Self(all)
    }

    pub(in crate::artifacts) fn named(&self, host: &str) -> Named {
        let host = host.to_ascii_lowercase();
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host.as_str(),
        };
        let below = |domain: &String| name.strip_suffix(domain.as_str())?.strip_suffix('.');
        let Some(name) = self.0.iter().find_map(below) else { return Named::Nothing };
        let (bucket, is_website) = match name.rsplit_once('.') {
            Some((bucket, last)) if last == WEBSITE || last.starts_with("s3-website-") => (bucket, true),
            _ => (name, false),
        };
        match (check_bucket_name(bucket), is_website) {
            (Ok(()), true) => Named::Website(bucket.to_owned()),
            (Ok(()), false) => Named::Bucket(bucket.to_owned()),
            (Err(_), _) => Named::Nothing, // `s3.example.com` itself
        }
    }

    /// The bucket that a request is about.
    pub(in crate::artifacts) fn bucket<'a>(&self, host: &str, path: &'a str) -> Option<Cow<'a, str>> {
        match self.named(host) {
            Named::Bucket(bucket) | Named::Website(bucket) => Some(Cow::Owned(bucket)),
            Named::Nothing => {
                let first = path.strip_prefix('/').unwrap_or(path).split('/').next().filter(|first| !first.is_empty());
                first.and_then(|first| percent_encoding::percent_decode_str(first).decode_utf8().ok())
            }
        }
    }
}

impl Hosts {
    /// The key that a request is about.
    pub(super) fn key(&self, host: &str, path: &str) -> Option<String> {
        let path = path.strip_prefix('/').unwrap_or(path);
        let key = match self.named(host) {
            Named::Bucket(_) | Named::Website(_) => path,
            Named::Nothing => path.split_once('/')?.1,
        };
        let key = percent_encoding::percent_decode_str(key).decode_utf8_lossy().into_owned();
        (!key.is_empty()).then_some(key)
    }
}

impl S3Host for Hosts {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        let plain = VirtualHost::new(host);
        Ok(match self.named(host) {
            Named::Bucket(bucket) => plain.with_bucket(bucket),
            Named::Nothing | Named::Website(_) => plain,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_below_a_domain_is_a_bucket_and_its_path_is_the_key() {
        let hosts = Hosts::new(&["s3.studio.example".to_owned(), "studio.example".to_owned()]);
        let bucket = |name: &str| Named::Bucket(name.to_owned());
        assert_eq!(hosts.named("dailies.localhost:4566"), bucket("dailies"));
        assert_eq!(hosts.named("Dailies.S3.studio.example"), bucket("dailies"));
        assert_eq!(hosts.named("a.b-c.s3.studio.example:80"), bucket("a.b-c"));
        assert_eq!(hosts.named("site.s3-website.localhost"), Named::Website("site".to_owned()));
        assert_eq!(hosts.named("site.s3-website-eu-west-1.studio.example"), Named::Website("site".to_owned()));
        for plain in
            ["localhost", "localhost:4566", "s3.studio.example", "127.0.0.1:4566", "other.example", "", "x_y.localhost"]
        {
            assert_eq!(hosts.named(plain), Named::Nothing, "{plain}");
        }
        assert_eq!(hosts.bucket("localhost", "/a%2Db/k").as_deref(), Some("a-b"));
        assert_eq!(hosts.bucket("dailies.localhost", "/k").as_deref(), Some("dailies"));
        assert_eq!(hosts.bucket("localhost", "/"), None);
        assert_eq!(hosts.key("localhost", "/b/a%20b/c").as_deref(), Some("a b/c"));
        assert_eq!(hosts.key("dailies.localhost", "/a/").as_deref(), Some("a/"));
        for none in ["/", "/b", "/b/"] {
            assert_eq!(hosts.key("localhost", none), None);
        }
    }
}
