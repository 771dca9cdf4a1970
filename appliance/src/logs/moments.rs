//! Moments as queries name them, which is as Elasticsearch does: milliseconds, RFC 3339, days, and `now-15m/m`; and stretches of a calendar.

use time::{Date, Duration, Month, OffsetDateTime, Time, UtcOffset};

use crate::clock::Now;

const MS_NS: i64 = 1_000_000;
const SECOND_NS: i64 = 1_000_000_000;
const DAY_NS: i64 = 86_400 * SECOND_NS;
/// Days from a Monday to 1970-01-01.
const MONDAY_DAYS: i64 = 3;

/// Which moments of what a date names are meant: a date that ends with a day means all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Edge {
    First,
    Last,
}

/// A date in nanoseconds. `format` is that of the request, if it has one.
///
/// # Errors
/// A sentence.
pub(super) fn moment_ns(text: &str, format: Option<&str>, edge: Edge, now: Now) -> Result<i64, String> {
    let wrong = || format!("failed to parse date field [{}]", backlot_windows::clip(text, 80));
    if let Some(math) = text.strip_prefix("now") {
        let now_ns = i64::try_from(now.wall_ms).unwrap_or(i64::MAX).saturating_mul(MS_NS);
        return shifted(now_ns, math, edge).ok_or_else(wrong);
    }
    let is_seconds = format.is_some_and(|format| format.split("||").any(|one| one == "epoch_second"));
    if let Ok(number) = text.parse::<i64>()
        && (text.len() > 4 || format.is_some_and(|format| format.contains("epoch")))
    {
        let (each_ns, rest) = if is_seconds { (SECOND_NS, SECOND_NS - 1) } else { (MS_NS, MS_NS - 1) };
        let ns = number.saturating_mul(each_ns);
        return Ok(if edge == Edge::Last { ns.saturating_add(rest) } else { ns });
    }
    let (date, math) = text.split_once("||").unwrap_or((text, ""));
    let ns = written(date, edge).ok_or_else(wrong)?;
    if math.is_empty() { Ok(ns) } else { shifted(ns, math, edge).ok_or_else(wrong) }
}

/// RFC 3339, with or without its end: a day, a day and a time.
fn written(text: &str, edge: Edge) -> Option<i64> {
    let ns_of = |moment: OffsetDateTime| i64::try_from(moment.unix_timestamp_nanos()).ok();
    let format = &time::format_description::well_known::Rfc3339;
    if text.len() == 10 {
        let ns = ns_of(OffsetDateTime::parse(&format!("{text}T00:00:00Z"), format).ok()?)?;
        return Some(if edge == Edge::Last { ns + DAY_NS - 1 } else { ns });
    }
    let spaced = text.replacen(' ', "T", 1);
    let moment =
        OffsetDateTime::parse(&spaced, format).or_else(|_| OffsetDateTime::parse(&format!("{spaced}Z"), format));
    let ns = ns_of(moment.ok()?)?;
    // Dates have milliseconds, and the last one is meant whole.
    Some(if edge == Edge::Last && ns % MS_NS == 0 { ns + MS_NS - 1 } else { ns })
}

/// `-1h+30m/d`.
fn shifted(mut ns: i64, math: &str, edge: Edge) -> Option<i64> {
    let mut rest = math;
    while let Some(sign) = rest.chars().next() {
        rest = &rest[1..];
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let unit = rest[digits..].chars().next()?;
        if sign == '/' {
            let interval = Interval::unit(unit)?;
            ns = interval.floor(ns, 0);
            if edge == Edge::Last {
                ns = interval.next(ns, 0).saturating_sub(1);
            }
        } else {
            let count: i64 = if digits == 0 { 1 } else { rest[..digits].parse().ok()? };
            let count = match sign {
                '+' => count,
                '-' => count.checked_neg()?,
                _ => return None,
            };
            ns = match Interval::unit(unit)? {
                Interval::Fixed { length_ns, .. } => ns.saturating_add(length_ns.checked_mul(count)?),
                Interval::Months(months) => months_later(ns, months.checked_mul(count)?)?,
            };
        }
        rest = &rest[digits + unit.len_utf8()..];
    }
    Some(ns)
}

/// A stretch of time, of a length or of the calendar: a bucket of a histogram of dates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interval {
    /// One begins at `origin_ns`.
    Fixed {
        length_ns: i64,
        origin_ns: i64,
    },
    Months(i64),
}

impl Interval {
    fn unit(unit: char) -> Option<Self> {
        let fixed = |length_ns| Some(Self::Fixed { length_ns, origin_ns: 0 });
        match unit {
            's' => fixed(SECOND_NS),
            'm' => fixed(60 * SECOND_NS),
            'h' | 'H' => fixed(3600 * SECOND_NS),
            'd' => fixed(DAY_NS),
            'w' => Some(Self::Fixed { length_ns: 7 * DAY_NS, origin_ns: -MONDAY_DAYS * DAY_NS }),
            'M' => Some(Self::Months(1)),
            'y' => Some(Self::Months(12)),
            _ => None,
        }
    }

    /// `5m`, `250ms`, `1d`.
    pub(super) fn fixed(text: &str) -> Option<Self> {
        let digits = text.find(|c: char| !c.is_ascii_digit())?;
        let count: i64 = text[..digits].parse().ok().filter(|count| *count > 0)?;
        let each_ns = match &text[digits..] {
            "ms" => MS_NS,
            "s" => SECOND_NS,
            "m" => 60 * SECOND_NS,
            "h" => 3600 * SECOND_NS,
            "d" => DAY_NS,
            _ => return None,
        };
        Some(Self::Fixed { length_ns: each_ns.checked_mul(count)?, origin_ns: 0 })
    }

    /// `day`, `1M`.
    pub(super) fn calendar(text: &str) -> Option<Self> {
        match text {
            "second" | "1s" => Self::unit('s'),
            "minute" | "1m" => Self::unit('m'),
            "hour" | "1h" => Self::unit('h'),
            "day" | "1d" => Self::unit('d'),
            "week" | "1w" => Self::unit('w'),
            "month" | "1M" => Self::unit('M'),
            "quarter" | "1q" => Some(Self::Months(3)),
            "year" | "1y" => Self::unit('y'),
            _ => None,
        }
    }

    /// The beginning of the bucket that a moment is in. `zone_ns` is how far local time is ahead of UTC.
    pub(super) fn floor(self, ns: i64, zone_ns: i64) -> i64 {
        match self {
            Self::Fixed { length_ns, origin_ns } => {
                let local = i128::from(ns) + i128::from(zone_ns) - i128::from(origin_ns);
                let begin = i128::from(ns) - local.rem_euclid(i128::from(length_ns.max(1)));
                i64::try_from(begin).unwrap_or(i64::MIN)
            }
            Self::Months(months) => {
                let Some(local) = date_of(ns.saturating_add(zone_ns)) else { return ns };
                let month = i64::from(u8::from(local.month())) - 1;
                let first = month - month % months;
                of_month(local.year(), first).map_or(ns, |local_ns| local_ns.saturating_sub(zone_ns))
            }
        }
    }

    /// The beginning of the bucket after the one that begins at `begin_ns`.
    pub(super) fn next(self, begin_ns: i64, zone_ns: i64) -> i64 {
        match self {
            Self::Fixed { length_ns, .. } => begin_ns.saturating_add(length_ns),
            Self::Months(months) => {
                let local = begin_ns.saturating_add(zone_ns);
                months_later(local, months).map_or(i64::MAX, |later| later.saturating_sub(zone_ns))
            }
        }
    }
}

fn date_of(ns: i64) -> Option<Date> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(ns)).ok().map(OffsetDateTime::date)
}

/// The first moment of a month, which counts from 0 and may be beyond the year's end.
fn of_month(year: i32, month: i64) -> Option<i64> {
    let year = year.checked_add(i32::try_from(month.div_euclid(12)).ok()?)?;
    let month = Month::try_from(u8::try_from(month.rem_euclid(12) + 1).ok()?).ok()?;
    let date = Date::from_calendar_date(year, month, 1).ok()?;
    i64::try_from(date.with_time(Time::MIDNIGHT).assume_utc().unix_timestamp_nanos()).ok()
}

/// The same day of a later month, or its last day.
fn months_later(ns: i64, months: i64) -> Option<i64> {
    let moment = OffsetDateTime::from_unix_timestamp_nanos(i128::from(ns)).ok()?;
    let month = i64::from(u8::from(moment.month())) - 1;
    let first_ns = of_month(moment.year(), month.checked_add(months)?)?;
    let length = date_of(first_ns)?.month().length(date_of(first_ns)?.year());
    let day = moment.day().min(length);
    let of_day = moment.unix_timestamp_nanos() - moment.replace_time(Time::MIDNIGHT).unix_timestamp_nanos();
    let ns = i128::from(first_ns) + Duration::days(i64::from(day) - 1).whole_nanoseconds() + of_day;
    i64::try_from(ns).ok()
}

/// How far a zone is ahead of UTC. Zones with daylight saving are not known.
pub(super) fn zone_ns(text: &str) -> Option<i64> {
    if matches!(text.to_ascii_lowercase().as_str(), "utc" | "z" | "etc/utc" | "gmt") {
        return Some(0);
    }
    let sign = if text.starts_with('-') { -1 } else { 1 };
    let (hours, minutes) = text.strip_prefix(['+', '-'])?.split_once(':')?;
    let offset = UtcOffset::from_hms(hours.parse::<i8>().ok()? * sign, minutes.parse::<i8>().ok()? * sign, 0).ok()?;
    Some(i64::from(offset.whole_seconds()) * SECOND_NS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> i64 {
        written(text, Edge::First).unwrap()
    }

    #[test]
    fn dates_are_read_as_elasticsearch_reads_them() {
        let now = Now { mono_ms: 0, wall_ms: u64::try_from(at("2026-03-31T12:34:56Z") / MS_NS).unwrap() };
        let read = |text: &str, edge| moment_ns(text, None, edge, now);
        for (text, expected) in [
            ("1763812800123", "2025-11-22T12:00:00.123Z"),
            ("2025-11-22T12:00:00.5Z", "2025-11-22T12:00:00.5Z"),
            ("2025-11-22T13:00:00+01:00", "2025-11-22T12:00:00Z"),
            ("2025-11-22 12:00:00", "2025-11-22T12:00:00Z"),
            ("2025-11-22", "2025-11-22T00:00:00Z"),
            ("now", "2026-03-31T12:34:56Z"),
            ("now-15m", "2026-03-31T12:19:56Z"),
            ("now-1d/d", "2026-03-30T00:00:00Z"),
            ("now/w", "2026-03-30T00:00:00Z"),
            ("now-1M", "2026-02-28T12:34:56Z"),
            ("now/y", "2026-01-01T00:00:00Z"),
            ("2025-11-22||+1d", "2025-11-23T00:00:00Z"),
        ] {
            assert_eq!(read(text, Edge::First), Ok(at(expected)), "{text}");
        }
        assert_eq!(read("2025-11-22", Edge::Last), Ok(at("2025-11-23") - 1));
        assert_eq!(read("1763812800123", Edge::Last), Ok(1_763_812_800_124 * MS_NS - 1));
        assert_eq!(read("now/M", Edge::Last), Ok(at("2026-04-01") - 1));
        assert_eq!(moment_ns("5", Some("epoch_second"), Edge::First, now), Ok(5 * SECOND_NS));
        for wrong in ["", "soon", "now-", "now-15", "now*2d", "now/é", "2025-13-01", "12"] {
            assert!(read(wrong, Edge::First).is_err(), "{wrong}");
        }
    }

    #[test]
    fn buckets_begin_where_the_calendar_says() {
        let moment = at("2026-05-20T22:30:00Z");
        for (interval, zone, begin, next) in [
            (Interval::fixed("5m"), "UTC", "2026-05-20T22:30:00Z", "2026-05-20T22:35:00Z"),
            (Interval::calendar("day"), "+02:00", "2026-05-20T22:00:00Z", "2026-05-21T22:00:00Z"),
            (Interval::calendar("week"), "Z", "2026-05-18T00:00:00Z", "2026-05-25T00:00:00Z"),
            (Interval::calendar("1M"), "utc", "2026-05-01T00:00:00Z", "2026-06-01T00:00:00Z"),
            (Interval::calendar("quarter"), "utc", "2026-04-01T00:00:00Z", "2026-07-01T00:00:00Z"),
            (Interval::calendar("year"), "-03:30", "2026-01-01T03:30:00Z", "2027-01-01T03:30:00Z"),
        ] {
            let (interval, zone) = (interval.unwrap(), zone_ns(zone).unwrap());
            let found = interval.floor(moment, zone);
            assert_eq!((found, interval.next(found, zone)), (at(begin), at(next)), "{interval:?}");
        }
        assert_eq!((Interval::fixed("0s"), Interval::fixed("1w"), Interval::calendar("2d")), (None, None, None));
        assert_eq!((zone_ns("Europe/Berlin"), zone_ns("+99:00")), (None, None));
    }
}
