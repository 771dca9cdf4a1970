//! Wall-clock moments as the APIs write them.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// A wall-clock moment in milliseconds since the Unix epoch; RFC 3339 in UTC in JSON.
///
/// Read from an RFC 3339 text or from a number of milliseconds. Never used for deadlines
/// within one run of a process: those are monotonic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

impl Timestamp {
    #[must_use]
    pub fn unix_ms(self) -> u64 {
        self.0
    }

    /// The same moment as RFC 3339 text with milliseconds, in UTC.
    #[must_use]
    pub fn to_rfc3339(self) -> String {
        let moment = OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000_000)
            .unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let (year, month, day) = moment.to_calendar_date();
        let (hour, minute, second, milli) = moment.to_hms_milli();
        format!("{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z", u8::from(month))
    }

    /// Reads RFC 3339 text with any offset.
    ///
    /// # Errors
    /// A sentence that quotes what was read when it is no RFC 3339 moment at or after 1970.
    pub fn parse_rfc3339(text: &str) -> Result<Self, String> {
        let moment = OffsetDateTime::parse(text, &Rfc3339)
            .map_err(|_| format!("`{text}` is not an RFC 3339 time such as 2026-11-22T12:00:00Z"))?;
        u64::try_from(moment.unix_timestamp_nanos() / 1_000_000)
            .map(Timestamp)
            .map_err(|_| format!("`{text}` is before 1970"))
    }
}

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.to_rfc3339())
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_rfc3339())
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Timestamp;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an RFC 3339 time or milliseconds since 1970")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Timestamp, E> {
                Timestamp::parse_rfc3339(text).map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, ms: u64) -> Result<Timestamp, E> {
                Ok(Timestamp(ms))
            }
            fn visit_i64<E: de::Error>(self, ms: i64) -> Result<Timestamp, E> {
                u64::try_from(ms).map(Timestamp).map_err(|_| E::custom("a time before 1970"))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_survives_text_and_back() {
        for ms in [0, 1, 999, 1_763_812_800_123, 253_402_300_799_000] {
            assert_eq!(Timestamp::parse_rfc3339(&Timestamp(ms).to_rfc3339()), Ok(Timestamp(ms)));
        }
        assert_eq!(
            Timestamp::parse_rfc3339("2026-11-22T13:00:00+01:00"),
            Timestamp::parse_rfc3339("2026-11-22T12:00:00Z")
        );
        assert!(Timestamp::parse_rfc3339("yesterday").is_err());
        assert!(Timestamp::parse_rfc3339("1969-12-31T23:59:59Z").is_err());
    }
}
