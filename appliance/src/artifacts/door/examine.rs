//! Whether the other S3 is what the configuration says: reached, taken the credentials of, on time, with the buckets that are used.

use std::sync::Arc;

use http::{Method, header};

use super::place::Named;
use super::send::{Call, Trouble};
use super::{Upstream, reader};
use crate::artifacts::api_http::parse_date;
use crate::clock::{Clock, SystemClock};
use crate::config::UpstreamConfig;

/// A difference of clocks that is worth a word, in seconds; S3 refuses 15 minutes.
const SKEW_S_MAX: u64 = 120;

/// What was looked at, and what was found; for a problem, with what helps.
pub type Finding = (&'static str, Result<String, String>);

/// Looks at the other S3, and at each of `buckets`. Nothing is changed there.
pub async fn examine(config: &UpstreamConfig, buckets: &[&str]) -> Vec<Finding> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let upstream = match Upstream::build(config, Arc::clone(&clock)).await {
        Ok(upstream) => upstream,
        Err((key, problem)) => return vec![("other S3", Err(format!("upstream.{key}: {problem}")))],
    };
    let place = upstream.0.sender.place.shown();
    let answer = upstream.0.sender.send(Call::read(Method::GET, Named::default(), String::new())).await;
    let answer = match answer {
        Ok(answer) => answer,
        Err(trouble) => return vec![("other S3", Err(help(&trouble)))],
    };
    let date = reader::text(answer.headers(), header::DATE).and_then(parse_date);
    let said = match answer.status() {
        status if status.is_success() => Ok(format!("{place} answers, and takes the credentials")),
        status if status.is_server_error() => Err(format!("{place} answers {status}; its own log says why")),
        status => Ok(format!("{place} answers, and takes the credentials; they may not list buckets ({status})")),
    };
    let mut findings = vec![("other S3", said), ("other S3's clock", skew(date, clock.now().wall_ms))];
    for bucket in buckets {
        findings.push(("other S3's bucket", look_for(&upstream, bucket).await));
    }
    findings
}

fn help(trouble: &Trouble) -> String {
    match trouble {
        Trouble::Away { .. } => {
            format!("{trouble}; is upstream.endpoint right, does it run, and may this machine connect to it?")
        }
        other => other.to_string(),
    }
}

fn skew(date_s: Option<i64>, wall_ms: u64) -> Result<String, String> {
    let Some(theirs) = date_s.and_then(|date| u64::try_from(date).ok()) else {
        return Ok("it does not say what time it is".into());
    };
    let apart_s = theirs.abs_diff(wall_ms / 1000);
    if apart_s <= SKEW_S_MAX {
        return Ok(format!("{apart_s} s from this machine's"));
    }
    Err(format!("{apart_s} s from this machine's; signatures are refused from 900 s on. Set both by NTP"))
}

async fn look_for(upstream: &Upstream, bucket: &str) -> Result<String, String> {
    let there = upstream.0.sender.place.bucket_there(bucket);
    let answer = upstream.0.sender.send(Call::read(Method::HEAD, Named::bucket(bucket), String::new())).await;
    match answer.map(|answer| answer.status().as_u16()) {
        Ok(200..300) => Ok(format!("{bucket} is there as {there}")),
        Ok(404) => Err(format!("{bucket} is not there as {there}; make it (`aws s3 mb s3://{there}`)")),
        Ok(403) => Err(format!(
            "{bucket} is not these credentials' to read as {there}; give them leave, or set upstream.bucket_prefix"
        )),
        Ok(status) => Err(format!("{bucket}: asked for {there}, it answers {status}")),
        Err(trouble) => Err(format!("{bucket}: {}", help(&trouble))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_that_are_apart_are_told() {
        assert!(skew(Some(1_000), 1_060_000).unwrap().starts_with("60 s"));
        assert!(skew(Some(1_000), 2_000_000).unwrap_err().contains("NTP"));
        assert!(skew(None, 0).is_ok());
    }
}
