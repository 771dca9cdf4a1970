//! What a policy's conditions can ask about a request.

use std::net::IpAddr;

use http::HeaderMap;

use super::Caller;
use crate::artifacts::Artifacts;
use crate::artifacts::tags::Tag;

/// A request, as far as conditions see it.
#[derive(Clone, Copy)]
pub(crate) struct Facts<'a> {
    pub(crate) headers: &'a HeaderMap,
    pub(crate) query: &'a str,
    pub(crate) caller: &'a Caller,
    pub(crate) address: Option<IpAddr>,
    pub(crate) now_ms: u64,
}

/// The object that a request is about, for conditions about what it is.
#[derive(Clone, Copy)]
pub(crate) struct Named<'a> {
    pub(crate) artifacts: &'a Artifacts,
    pub(crate) bucket: &'a str,
    pub(crate) key: Option<&'a str>,
    pub(crate) version: Option<&'a str>,
}

impl Named<'_> {
    /// None where there is no such object, and none where they cannot be read.
    fn tags(&self) -> Vec<Tag> {
        let tags = || {
            let row = self.artifacts.find(self.bucket, self.key?, super::named(self.version).ok()?).ok()?;
            self.artifacts.tags(row.version).ok()
        };
        tags().unwrap_or_default()
    }
}

/// Pairs of a form's text, decoded.
pub(crate) fn pairs(text: &str) -> impl Iterator<Item = (String, String)> {
    let decode = |text: &str| {
        let plain = text.replace('+', " ");
        percent_encoding::percent_decode_str(&plain).decode_utf8_lossy().into_owned()
    };
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs.map(move |pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name), decode(value))
    })
}

/// A parameter of a query string, whatever the case of its name.
pub(crate) fn parameter(query: &str, name: &str) -> Option<String> {
    pairs(query).find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

impl Facts<'_> {
    /// A header's value. A presigned URL may carry it as a parameter.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let sent = self.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        sent.or_else(|| parameter(self.query, name))
    }

    /// Whether there is a header of this name, or one that begins so where the name ends with `-`.
    pub(crate) fn has_header(&self, name: &str) -> bool {
        if name.ends_with('-') {
            return self.headers.keys().any(|header| header.as_str().starts_with(name));
        }
        self.header(name).is_some()
    }

    /// Tags that the request brings, in the form of `x-amz-tagging`.
    fn tags_brought(&self) -> Vec<(String, String)> {
        pairs(&self.header("x-amz-tagging").unwrap_or_default()).collect()
    }

    /// The values of a condition key, whose name is in lower case.
    pub(crate) fn values(&self, name: &str, object: &Named<'_>) -> Vec<String> {
        if let Some(header) = name.strip_prefix("s3:").filter(|header| header.starts_with("x-amz-")) {
            return self.header(header).into_iter().collect();
        }
        if let Some(tag) = name.strip_prefix("s3:requestobjecttag/") {
            let of_tag = |(key, value): (String, String)| (key.to_ascii_lowercase() == tag).then_some(value);
            return self.tags_brought().into_iter().filter_map(of_tag).collect();
        }
        if let Some(tag) = name.strip_prefix("s3:existingobjecttag/") {
            return object
                .tags()
                .into_iter()
                .filter(|held| held.key.to_ascii_lowercase() == tag)
                .map(|held| held.value)
                .collect();
        }
        let holder = self.caller.holder.as_ref();
        let one = match name {
            "aws:currenttime" => Some(backlot_wire::Timestamp(self.now_ms).to_string()),
            "aws:epochtime" => Some((self.now_ms / 1000).to_string()),
            "aws:principalaccount" => holder.map(|holder| holder.account.number()),
            "aws:principalarn" => self.caller.arn(),
            "aws:principaltype" => Some(if holder.is_some() { "User" } else { "Anonymous" }.to_owned()),
            "aws:referer" => self.header("referer"),
            // No door speaks TLS. What a proxy before it says of itself is not proof.
            "aws:securetransport" => Some("false".to_owned()),
            "aws:sourceip" => self.address.map(|address| address.to_canonical().to_string()),
            "aws:useragent" => self.header("user-agent"),
            "aws:userid" | "aws:username" => holder.map(|holder| holder.key_id.clone()),
            "s3:authtype" => holder.map(|_| self.signed_how().0.to_owned()),
            "s3:signatureversion" => holder.map(|_| self.signed_how().1.to_owned()),
            "s3:versionid" => object.version.map(str::to_owned),
            "s3:delimiter" | "s3:max-keys" | "s3:prefix" => parameter(self.query, &name[3..]),
            "s3:requestobjecttagkeys" => {
                return self.tags_brought().into_iter().map(|(key, _)| key).collect();
            }
            _ => None, // no service of AWS calls here: there is no source account or ARN
        };
        one.into_iter().collect()
    }

    /// Where the signature stands, and its version.
    fn signed_how(&self) -> (&'static str, &'static str) {
        let has = |name| parameter(self.query, name).is_some();
        match () {
            () if has("X-Amz-Signature") => ("REST-QUERY-STRING", "AWS4-HMAC-SHA256"),
            () if has("Signature") => ("REST-QUERY-STRING", "AWS"),
            () if self.headers.contains_key("authorization") => ("REST-HEADER", "AWS4-HMAC-SHA256"),
            () => ("POST", "AWS4-HMAC-SHA256"),
        }
    }
}
