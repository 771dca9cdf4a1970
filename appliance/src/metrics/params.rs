//! What a caller of Prometheus's API says: parameters of the query and of a form body alike, times, durations.

use axum::extract::{FromRequest, Request};
use http::{Method, StatusCode, header};
use percent_encoding::percent_decode_str;

use super::api_prometheus::PromError;
use super::promql;

/// Most parameters of a request.
const PARAMETERS_MAX: usize = 1000;
/// Largest form, in bytes.
const FORM_BYTES_MAX: usize = 1 << 20;

/// All parameters of a request, in order; a name may come more than once.
#[derive(Clone, Debug, Default)]
pub(super) struct Params(Vec<(String, String)>);

impl<S: Send + Sync> FromRequest<S> for Params {
    type Rejection = PromError;

    async fn from_request(request: Request, _: &S) -> Result<Self, PromError> {
        let mut params = Self::default();
        params.add(request.uri().query().unwrap_or_default())?;
        if request.method() == Method::POST {
            let kind =
                request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
            let is_form = kind
                .split(';')
                .next()
                .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded"));
            let body = axum::body::to_bytes(request.into_body(), FORM_BYTES_MAX).await.map_err(|error| PromError {
                status: StatusCode::PAYLOAD_TOO_LARGE,
                kind: "bad_data",
                message: format!("error parsing form values: {error}"),
            })?;
            if is_form {
                let text = std::str::from_utf8(&body)
                    .map_err(|_| PromError::bad("error parsing form values: it is no UTF-8"))?;
                params.add(text)?;
            }
        }
        Ok(params)
    }
}

impl Params {
    fn add(&mut self, encoded: &str) -> Result<(), PromError> {
        for pair in encoded.split('&').filter(|pair| !pair.is_empty()) {
            if self.0.len() >= PARAMETERS_MAX {
                return Err(PromError::bad(format!("more than {PARAMETERS_MAX} parameters")));
            }
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            self.0.push((decode(name)?, decode(value)?));
        }
        Ok(())
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A moment in milliseconds.
    pub(super) fn time(&self, name: &'static str) -> Result<Option<i64>, PromError> {
        self.get(name).map(|text| time_ms(text).map_err(|problem| PromError::parameter(name, &problem))).transpose()
    }

    pub(super) fn needed_time(&self, name: &'static str) -> Result<i64, PromError> {
        self.time(name)?.ok_or_else(|| PromError::parameter(name, "cannot parse \"\" to a valid timestamp"))
    }

    /// A duration in milliseconds.
    pub(super) fn duration(&self, name: &'static str) -> Result<Option<i64>, PromError> {
        self.get(name)
            .map(|text| promql::duration_ms(text).map_err(|problem| PromError::parameter(name, &problem)))
            .transpose()
    }

    /// A limit; 0 and nothing mean that there is none.
    pub(super) fn limit(&self, name: &'static str) -> Result<usize, PromError> {
        match self.get(name).map(str::parse::<usize>) {
            None | Some(Ok(0)) => Ok(usize::MAX),
            Some(Ok(limit)) => Ok(limit),
            Some(Err(_)) => Err(PromError::parameter(name, "limit must be a non-negative number")),
        }
    }
}

fn decode(text: &str) -> Result<String, PromError> {
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8();
    decoded.map(|text| text.into_owned()).map_err(|_| PromError::bad("a parameter is no UTF-8"))
}

/// Unix seconds with a fraction, or RFC 3339.
fn time_ms(text: &str) -> Result<i64, String> {
    if let Ok(seconds) = text.parse::<f64>() {
        let ms = (seconds * 1000.0).round();
        if ms.is_finite() && ms.abs() < 9e15 {
            return Ok(ms as i64);
        }
    }
    let moment = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339);
    moment
        .ok()
        .and_then(|moment| i64::try_from(moment.unix_timestamp_nanos() / 1_000_000).ok())
        .ok_or_else(|| format!("cannot parse {text:?} to a valid timestamp"))
}

/// Reads `text` as parameters and as each value of them, and throws the outcome away: for fuzzing.
pub fn fuzz_values(text: &str) {
    let _ = Params::default().add(text);
    let _ = time_ms(text);
    let _ = promql::duration_ms(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_unix_seconds_or_rfc_3339() {
        assert_eq!(time_ms("1700000000.123"), Ok(1_700_000_000_123));
        assert_eq!(time_ms("2023-11-14T22:13:20.5Z"), Ok(1_700_000_000_500));
        assert_eq!(time_ms("2023-11-14T23:13:20+01:00"), Ok(1_700_000_000_000));
        for bad in ["", "yesterday", "NaN", "1e300", "2023-11-14"] {
            assert!(time_ms(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_form_is_decoded() {
        let mut params = Params::default();
        params.add("query=sum%28up%29+%3E+0&match[]=a&match%5B%5D=b&empty=").expect("a form");
        assert_eq!(params.get("query"), Some("sum(up) > 0"));
        assert_eq!(params.all("match[]").collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(params.get("empty"), None);
        assert!(params.add("x=%ff").is_err());
    }
}
