//! What a request says: parameters of its query and of a form alike, moments, limits.

use axum::extract::{FromRequest, Request};
use backlot_windows::Order;
use http::{Method, header};
use percent_encoding::percent_decode_str;

use super::answer::Refused;
use super::evaluate::Steps;
use super::logql::duration_ns;

const PARAMETERS_MAX: usize = 200;
const FORM_BYTES_MAX: usize = 1 << 20;
/// Most steps of a range query, as Loki has it.
const STEPS_MAX: i64 = 11_000;
/// Loki's default and its most.
const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 5000;
const SECOND_NS: i64 = 1_000_000_000;
/// How far back a request without a beginning looks.
const SINCE_NS: i64 = 3600 * SECOND_NS;

/// All parameters, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Params(Vec<(String, String)>);

impl<S: Send + Sync> FromRequest<S> for Params {
    type Rejection = Refused;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refused> {
        let mut params = Self::of(request.uri().query().unwrap_or_default())?;
        let kind = request.headers().get(header::CONTENT_TYPE).map_or(&b""[..], |kind| kind.as_bytes());
        let is_form = kind.to_ascii_lowercase().starts_with(b"application/x-www-form-urlencoded");
        if request.method() == Method::POST && is_form {
            let body = axum::body::to_bytes(request.into_body(), FORM_BYTES_MAX).await;
            let body = body.map_err(|error| Refused::bad(format!("the form does not read: {error}")))?;
            let text = std::str::from_utf8(&body).map_err(|_| Refused::bad("the form is no UTF-8"))?;
            params.0.extend(Self::of(text)?.0);
        }
        Ok(params)
    }
}

impl Params {
    pub(super) fn of(encoded: &str) -> Result<Self, Refused> {
        let mut params = Vec::new();
        for pair in encoded.split('&').filter(|pair| !pair.is_empty()) {
            if params.len() >= PARAMETERS_MAX {
                return Err(Refused::bad(format!("more than {PARAMETERS_MAX} parameters")));
            }
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            params.push((decode(name)?, decode(value)?));
        }
        Ok(Self(params))
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    pub(super) fn all<'a>(&'a self, names: &'a [&str]) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(|(key, _)| names.contains(&key.as_str())).map(|(_, value)| value.as_str())
    }

    pub(super) fn query(&self) -> &str {
        self.get("query").unwrap_or_default()
    }

    fn moment(&self, name: &str) -> Result<Option<i64>, Refused> {
        let read = |text| {
            moment_ns(text)
                .ok_or_else(|| Refused::bad(format!("could not parse '{name}' parameter: {text:?} is no moment")))
        };
        self.get(name).map(read).transpose()
    }

    pub(super) fn time_ns(&self, now_ns: i64) -> Result<i64, Refused> {
        Ok(self.moment("time")?.unwrap_or(now_ns))
    }

    /// `start` and `end`, or `since`.
    pub(super) fn range(&self, now_ns: i64) -> Result<(i64, i64), Refused> {
        let end_ns = self.moment("end")?.unwrap_or(now_ns);
        let since_ns = match self.get("since") {
            None => SINCE_NS,
            Some(text) => duration_ns(text).ok_or_else(|| {
                Refused::bad(format!("could not parse 'since' parameter: not a valid duration string: {text:?}"))
            })?,
        };
        let start_ns = self.moment("start")?.unwrap_or(end_ns.min(now_ns).saturating_sub(since_ns));
        Ok((start_ns, end_ns))
    }

    /// The steps of a range query.
    pub(super) fn steps(&self, now_ns: i64) -> Result<Steps, Refused> {
        let (start_ns, end_ns) = self.range(now_ns)?;
        if end_ns < start_ns {
            return Err(Refused::bad("end timestamp must not be before or equal to start time"));
        }
        let span_ns = i128::from(end_ns) - i128::from(start_ns);
        let step_ns = match self.get("step") {
            None => {
                i64::try_from(span_ns / 250 / i128::from(SECOND_NS)).unwrap_or(i64::MAX / SECOND_NS).max(1) * SECOND_NS
            }
            Some(text) => {
                step_ns(text).ok_or_else(|| Refused::bad(format!("cannot parse {text:?} to a valid duration")))?
            }
        };
        if step_ns <= 0 {
            return Err(Refused::bad(
                "zero or negative query resolution step widths are not accepted. Try a positive integer",
            ));
        }
        let steps = span_ns / i128::from(step_ns);
        if steps > i128::from(STEPS_MAX) {
            return Err(Refused::bad(
                "exceeded maximum resolution of 11,000 points per time series. Try increasing the value of the step parameter",
            ));
        }
        Ok(Steps { start_ns, step_ns, count: usize::try_from(steps).unwrap_or(0) + 1 })
    }

    pub(super) fn limit(&self) -> Result<usize, Refused> {
        let Some(text) = self.get("limit") else { return Ok(LIMIT_DEFAULT) };
        match text.parse::<usize>() {
            Ok(0) => Err(Refused::bad("limit must be a positive value")),
            Ok(limit) if limit > LIMIT_MAX => Err(Refused::bad(format!(
                "max entries limit per query exceeded, limit > max_entries_limit ({limit} > {LIMIT_MAX})"
            ))),
            Ok(limit) => Ok(limit),
            Err(_) => Err(Refused::bad(format!("could not parse 'limit' parameter: {text:?} is no number"))),
        }
    }

    /// A number of things that are wanted, at most as many as lines can be.
    pub(super) fn count(&self, name: &str, default: usize) -> Result<usize, Refused> {
        let Some(text) = self.get(name) else { return Ok(default) };
        let number = text.parse::<usize>().ok().filter(|number| (1..=LIMIT_MAX).contains(number));
        number.ok_or_else(|| Refused::bad(format!("'{name}' is a number from 1 to {LIMIT_MAX}")))
    }

    pub(super) fn order(&self) -> Result<Order, Refused> {
        match self.get("direction").map(str::to_ascii_lowercase).as_deref() {
            None | Some("backward") => Ok(Order::Newest),
            Some("forward") => Ok(Order::Oldest),
            Some(other) => Err(Refused::bad(format!("invalid direction '{other}'"))),
        }
    }

    /// Refuses what would change the answer and is not known here.
    pub(super) fn refuse(&self, name: &str) -> Result<(), Refused> {
        match self.get(name) {
            None | Some("0" | "0s") => Ok(()),
            Some(_) => Err(Refused::bad(format!("the parameter '{name}' is not supported"))),
        }
    }
}

fn decode(text: &str) -> Result<String, Refused> {
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8();
    decoded.map(|text| text.into_owned()).map_err(|_| Refused::bad("a parameter is no UTF-8"))
}

/// Nanoseconds, seconds (up to ten digits, or with a fraction), or RFC 3339.
fn moment_ns(text: &str) -> Option<i64> {
    if let Ok(number) = text.parse::<i64>() {
        return if text.len() <= 10 { number.checked_mul(SECOND_NS) } else { Some(number) };
    }
    if text.contains('.')
        && let Ok(seconds) = text.parse::<f64>()
    {
        return (seconds.abs() < 9.2e9).then_some((seconds * 1e9) as i64);
    }
    let moment = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).ok()?;
    i64::try_from(moment.unix_timestamp_nanos()).ok()
}

/// A length of time, or seconds.
fn step_ns(text: &str) -> Option<i64> {
    if let Ok(seconds) = text.parse::<f64>() {
        return (seconds.abs() < 9.2e9).then_some((seconds * 1e9) as i64);
    }
    duration_ns(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(text: &str) -> Result<Steps, Refused> {
        Params::of(text).unwrap().steps(5_000 * SECOND_NS)
    }

    #[test]
    fn moments_steps_and_limits_are_read_as_loki_reads_them() {
        let moments =
            ["1700000000", "1700000000000000123", "1700000000.5", "2023-11-14T22:13:20.5Z", "x", "1e30.", "-5"];
        let second = 1_700_000_000 * SECOND_NS;
        let expected = [
            Some(second),
            Some(second + 123),
            Some(second + SECOND_NS / 2),
            Some(second + SECOND_NS / 2),
            None,
            None,
            Some(-5 * SECOND_NS),
        ];
        assert_eq!(moments.map(moment_ns), expected);
        assert_eq!(
            steps("start=1000&end=1060&step=15").unwrap(),
            Steps { start_ns: 1000 * SECOND_NS, step_ns: 15 * SECOND_NS, count: 5 }
        );
        assert_eq!(steps("start=1000&end=1000&step=1m").unwrap().count, 1);
        assert_eq!(steps("").unwrap(), Steps { start_ns: 1400 * SECOND_NS, step_ns: 14 * SECOND_NS, count: 258 });
        for wrong in ["start=2&end=1", "step=0", "step=-1", "step=x", "start=0&end=4000&step=100ms", "start=soon"] {
            assert!(steps(wrong).is_err(), "{wrong}");
        }
        let limit = |text| Params::of(text).unwrap().limit();
        assert_eq!((limit(""), limit("limit=5000")), (Ok(100), Ok(5000)));
        assert!(limit("limit=0").is_err() && limit("limit=5001").is_err() && limit("limit=x").is_err());
        assert!(Params::of("x=%ff").is_err());
    }
}
