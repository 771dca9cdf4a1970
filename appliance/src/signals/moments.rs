//! Moments with nanoseconds: how requests say them and answers write them.

use backlot_wire::Timestamp;
use serde_json::Value;

use crate::clock::Now;

/// A moment of a request: RFC 3339, milliseconds since 1970, or a time ago such as `15m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment(pub i64);

impl Moment {
    /// # Errors
    /// A sentence that says what is read.
    pub fn parse(text: &str, now: Now) -> Result<Self, String> {
        let ns = |ms: u64| i64::try_from(ms).ok().and_then(|ms| ms.checked_mul(1_000_000)).unwrap_or(i64::MAX);
        if let Some(ago_ms) = duration_ms(text) {
            return Ok(Self(ns(now.wall_ms.saturating_sub(ago_ms))));
        }
        if let Ok(ms) = text.parse::<u64>() {
            return Ok(Self(ns(ms)));
        }
        match time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339) {
            Ok(moment) => Ok(Self(i64::try_from(moment.unix_timestamp_nanos()).unwrap_or(i64::MAX))),
            Err(_) => Err(format!(
                "`{}` is no moment: write 2026-11-22T12:00:00Z, milliseconds since 1970, or how long ago (15m, 2h, 7d)",
                text.chars().take(60).collect::<String>()
            )),
        }
    }
}

/// A length of time such as `15m`, in milliseconds.
#[must_use]
pub fn duration_ms(text: &str) -> Option<u64> {
    let unit = text.chars().next_back()?;
    let each_ms = match unit {
        's' => 1_000,
        'm' => 60_000,
        'h' => 3_600_000,
        'd' => 86_400_000,
        'w' => 604_800_000,
        _ => return None,
    };
    text[..text.len() - 1].parse::<u64>().ok()?.checked_mul(each_ms)
}

/// A moment as loggers write it: RFC 3339, or a number of seconds, milliseconds, microseconds or nanoseconds, told apart by its size.
#[must_use]
pub fn logger_ns(value: &Value) -> Option<u64> {
    match value {
        Value::String(text) => {
            let format = &time::format_description::well_known::Rfc3339;
            match time::OffsetDateTime::parse(text, format) {
                Ok(moment) => u64::try_from(moment.unix_timestamp_nanos()).ok(),
                Err(_) => text.parse::<f64>().ok().and_then(number_ns),
            }
        }
        Value::Number(number) => match number.as_u64() {
            Some(whole) if whole > 100_000_000_000_000_000 => Some(whole), // exact as nanoseconds
            _ => number.as_f64().and_then(number_ns),
        },
        _ => None,
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "is positive, and small enough for its unit"
)]
fn number_ns(number: f64) -> Option<u64> {
    // Each unit covers the years 1973 to 5138.
    let ns = match number {
        number if number < 1e8 => return None,
        number if number < 1e11 => number * 1e9,
        number if number < 1e14 => number * 1e6,
        number if number < 1e17 => number * 1e3,
        number => number,
    };
    (ns < i64::MAX as f64).then_some(ns as u64)
}

/// RFC 3339 in UTC with all nine digits of the second.
#[must_use]
pub fn rfc3339_ns(time_ns: i64) -> String {
    let whole = Timestamp(u64::try_from(time_ns.max(0) / 1_000_000).unwrap_or(0)).to_rfc3339();
    let seconds = whole.split('.').next().unwrap_or_default();
    format!("{seconds}.{:09}Z", time_ns.max(0) % 1_000_000_000)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn moments_are_read_as_people_write_them() {
        let now = Now { mono_ms: 0, wall_ms: 1_000_000_000 };
        let read = |text| Moment::parse(text, now).map(|moment| moment.0);
        assert_eq!(read("15m"), Ok((1_000_000_000 - 900_000) * 1_000_000));
        assert_eq!(read("1970-01-01T00:00:01.5Z"), Ok(1_500_000_000));
        assert_eq!(read("1500"), Ok(1_500_000_000));
        assert_eq!(read("99999w"), Ok(0));
        assert_eq!(read("18446744073709551615"), Ok(i64::MAX));
        for wrong in ["", "m", "yesterday", "-5m", "ä"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn nanoseconds_are_written_in_full() {
        assert_eq!(rfc3339_ns(1_763_812_800_123_456_789), "2025-11-22T12:00:00.123456789Z");
        assert_eq!(rfc3339_ns(i64::MAX), "2262-04-11T23:47:16.854775807Z");
        assert_eq!(rfc3339_ns(-1), "1970-01-01T00:00:00.000000000Z");
    }

    #[test]
    fn moments_of_all_units_are_told_apart() {
        let second = 1_763_812_800_000_000_000;
        for value in [
            json!("2025-11-22T12:00:00Z"),
            json!("2025-11-22T13:00:00+01:00"),
            json!(1_763_812_800),
            json!(1_763_812_800.0),
            json!("1763812800"),
            json!(1_763_812_800_000_u64),
            json!(1_763_812_800_000_000_u64),
            json!(1_763_812_800_000_000_000_u64),
        ] {
            assert_eq!(logger_ns(&value), Some(second), "{value}");
        }
        assert_eq!(logger_ns(&json!(1_763_812_800_000_000_123_u64)), Some(second + 123));
        for value in [json!("yesterday"), json!(12), json!(-1), json!(null), json!({}), json!(1e300)] {
            assert_eq!(logger_ns(&value), None, "{value}");
        }
    }
}
