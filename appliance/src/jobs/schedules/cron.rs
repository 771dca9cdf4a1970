//! Cron expressions of five fields, in a time zone.
//!
//! Where a clock is put forward, a time that does not exist that day is moved by as much; where it is put back, a time that comes twice
//! is taken once. A schedule for every hour knows neither: it goes by the hours that pass.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

/// Days that are looked at for a next time: 29 February comes within eight years, also around 2100.
const DAYS_MAX: usize = 8 * 366 + 1;
const MINUTE_MS: i64 = 60_000;
const TEXT_BYTES_MAX: usize = 256;

/// Sets of minutes, hours and so on, one bit each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cron {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Both the day of the month and the day of the week are given: one of them is enough.
    either_day: bool,
    every_hour: bool,
}

struct Field {
    name: &'static str,
    min: u8,
    max: u8,
    names: &'static [&'static str],
}

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const FIELDS: [Field; 5] = [
    Field { name: "minute", min: 0, max: 59, names: &[] },
    Field { name: "hour", min: 0, max: 23, names: &[] },
    Field { name: "day of month", min: 1, max: 31, names: &[] },
    Field { name: "month", min: 1, max: 12, names: MONTHS },
    Field { name: "day of week", min: 0, max: 7, names: WEEKDAYS },
];

impl Cron {
    /// Reads an expression.
    ///
    /// # Errors
    /// A sentence that names the field.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(format!("`cron` is at most {TEXT_BYTES_MAX} bytes"));
        }
        let whole = match text.trim() {
            "@hourly" => "0 * * * *",
            "@daily" | "@midnight" => "0 0 * * *",
            "@weekly" => "0 0 * * 0",
            "@monthly" => "0 0 1 * *",
            "@yearly" | "@annually" => "0 0 1 1 *",
            other => other,
        };
        let parts: Vec<&str> = whole.split_ascii_whitespace().collect();
        let [minute, hour, day, month, weekday] = parts[..] else {
            return Err(format!("`{text}` has {} fields; a cron expression has five", parts.len()));
        };
        let [minutes, hours, days, months, weekdays] =
            [(0, minute), (1, hour), (2, day), (3, month), (4, weekday)].map(|(at, part)| FIELDS[at].read(part));
        let sunday_twice = weekdays?;
        Ok(Self {
            minutes: minutes?,
            hours: hours?,
            days: days?,
            months: months?,
            weekdays: (sunday_twice | sunday_twice >> 7) & 0x7f,
            either_day: !day.starts_with('*') && !weekday.starts_with('*'),
            every_hour: hour == "*",
        })
    }

    /// The first time after `after_ms`, in milliseconds since 1970. `None`: there is none within eight years.
    pub(super) fn next(&self, zone: &TimeZone, after_ms: i64) -> Option<i64> {
        let mut day = zone.to_datetime(Timestamp::from_millisecond(after_ms).ok()?).date();
        for _ in 0..DAYS_MAX {
            if self.on_day(day)
                && let Some(at_ms) =
                    if self.every_hour { self.passing(zone, day, after_ms) } else { self.named(zone, day, after_ms) }
            {
                return Some(at_ms);
            }
            day = day.tomorrow().ok()?;
        }
        None
    }

    fn on_day(&self, day: Date) -> bool {
        let has = |set: u64, value: i8| set >> value & 1 == 1;
        let by_month = has(self.days, day.day());
        let by_week = has(self.weekdays, day.weekday().to_sunday_zero_offset());
        has(self.months, day.month()) && if self.either_day { by_month || by_week } else { by_month && by_week }
    }

    /// The first of the named times of `day` that comes after `after_ms`.
    fn named(&self, zone: &TimeZone, day: Date, after_ms: i64) -> Option<i64> {
        let hours = (0..24).filter(|hour| self.hours >> hour & 1 == 1);
        let times = hours.flat_map(|hour| (0..60).map(move |minute| (hour, minute)));
        let times = times.filter(|(_, minute)| self.minutes >> minute & 1 == 1);
        // A time that was moved may come after its neighbours.
        times.filter_map(|(hour, minute)| moment(zone, day, hour, minute)).filter(|at_ms| *at_ms > after_ms).min()
    }

    /// The first minute of `day`, as time passes, that comes after `after_ms`.
    fn passing(&self, zone: &TimeZone, day: Date, after_ms: i64) -> Option<i64> {
        let (from_ms, until_ms) = (moment(zone, day, 0, 0)?, moment(zone, day.tomorrow().ok()?, 0, 0)?);
        let mut at_ms = from_ms.max((after_ms.div_euclid(MINUTE_MS) + 1) * MINUTE_MS);
        while at_ms < until_ms {
            let minute = zone.to_datetime(Timestamp::from_millisecond(at_ms).ok()?).minute();
            if self.minutes >> minute & 1 == 1 {
                return Some(at_ms);
            }
            at_ms += MINUTE_MS;
        }
        None
    }
}

/// A time of the wall as a moment: the earlier of two, and, of one that does not exist, as long after the last that does.
fn moment(zone: &TimeZone, day: Date, hour: i8, minute: i8) -> Option<i64> {
    let moment = zone.to_ambiguous_timestamp(day.at(hour, minute, 0, 0)).compatible();
    moment.ok().map(Timestamp::as_millisecond)
}

impl Field {
    fn read(&self, text: &str) -> Result<u64, String> {
        text.split(',').try_fold(0, |set, part| Ok(set | self.read_part(part)?))
    }

    fn read_part(&self, part: &str) -> Result<u64, String> {
        let wrong = || {
            let Self { name, min, max, .. } = self;
            format!("`{part}` is no {name}: {min} to {max}, `*`, `a-b`, `*/n`, and several with commas")
        };
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(step.parse::<u8>().ok().filter(|step| *step > 0).ok_or_else(wrong)?)),
            None => (part, None),
        };
        let (from, to) = match range.split_once('-') {
            _ if range == "*" => (self.min, if self.max == 7 { 6 } else { self.max }),
            Some((from, to)) => (self.value(from).ok_or_else(wrong)?, self.value(to).ok_or_else(wrong)?),
            None => {
                let from = self.value(range).ok_or_else(wrong)?;
                (from, if step.is_some() { self.max } else { from })
            }
        };
        if from > to {
            return Err(wrong());
        }
        Ok((from..=to).step_by(usize::from(step.unwrap_or(1))).fold(0, |set, value| set | 1 << value))
    }

    fn value(&self, text: &str) -> Option<u8> {
        if let Some(at) = self.names.iter().position(|name| text.eq_ignore_ascii_case(name)) {
            return u8::try_from(at).ok().map(|at| at + self.min);
        }
        let digits = !text.is_empty() && text.len() <= 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        let value: u8 = digits.then(|| text.parse().ok())??;
        (self.min..=self.max).contains(&value).then_some(value)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_millisecond()
    }

    fn following(cron: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let (cron, zone) = (Cron::parse(cron).unwrap(), TimeZone::get(zone).unwrap());
        let mut at_ms = ms(after);
        let next = || {
            at_ms = cron.next(&zone, at_ms)?;
            Some(Timestamp::from_millisecond(at_ms).unwrap().to_string())
        };
        std::iter::from_fn(next).take(count).collect()
    }

    #[test]
    fn times_come_in_order_and_after_the_one_before() {
        assert_eq!(
            following("*/20 9-10 * * mon-fri", "UTC", "2026-11-20T10:30:00Z", 3),
            ["2026-11-20T10:40:00Z", "2026-11-23T09:00:00Z", "2026-11-23T09:20:00Z"]
        );
        assert_eq!(following("0 0 29 2 *", "UTC", "2026-11-22T00:00:00Z", 1), ["2028-02-29T00:00:00Z"]);
        assert_eq!(following("@weekly", "UTC", "2026-11-22T00:00:00Z", 1), ["2026-11-29T00:00:00Z"]);
        assert_eq!(following("30 6 * * 7", "UTC", "2026-11-22T00:00:00Z", 1), ["2026-11-22T06:30:00Z"]);
        // Given both, either day will do.
        assert_eq!(
            following("0 0 1 * fri", "UTC", "2026-11-22T00:00:00Z", 3),
            ["2026-11-27T00:00:00Z", "2026-12-01T00:00:00Z", "2026-12-04T00:00:00Z"]
        );
        assert_eq!(following("0 0 30 2 *", "UTC", "2026-11-22T00:00:00Z", 1), Vec::<String>::new());
    }

    #[test]
    fn a_time_that_a_clock_skips_or_repeats_comes_once() {
        // On 29 March 2026 Berlin has no 02:30, on 25 October it has two.
        assert_eq!(
            following("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", 2),
            ["2026-03-29T01:30:00Z", "2026-03-30T00:30:00Z"]
        );
        assert_eq!(
            following("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2),
            ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]
        );
        assert_eq!(
            following("30 * * * *", "Europe/Berlin", "2026-10-24T23:40:00Z", 3),
            ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:30:00Z"]
        );
        assert_eq!(
            following("0 * * * *", "Europe/Berlin", "2026-03-29T00:10:00Z", 2),
            ["2026-03-29T01:00:00Z", "2026-03-29T02:00:00Z"]
        );
    }

    #[test]
    fn what_is_no_expression_names_its_field() {
        for (text, word) in [
            ("", "five"),
            ("* * * *", "five"),
            ("60 * * * *", "minute"),
            ("* 24 * * *", "hour"),
            ("* * 0 * *", "day of month"),
            ("* * * 13 *", "month"),
            ("* * * * 8", "day of week"),
            ("5-1 * * * *", "minute"),
            ("*/0 * * * *", "minute"),
            ("1,,2 * * * *", "minute"),
            ("+1 * * * *", "minute"),
            ("* * * foo *", "month"),
            ("@reboot", "five"),
        ] {
            assert!(Cron::parse(text).unwrap_err().contains(word), "{text}");
        }
    }

    proptest! {
        /// Against a walk through every minute.
        #[test]
        fn the_next_time_is_the_first_minute_that_matches(
            minute in 0..60_u8, hour in proptest::option::of(0..24_u8), day in proptest::option::of(1..32_u8),
            weekday in proptest::option::of(0..7_u8), start_s in 1_700_000_000..1_900_000_000_i64,
        ) {
            let star = |field: Option<u8>| field.map_or("*".to_owned(), |value| value.to_string());
            let text = format!("{minute} {} {} * {}", star(hour), star(day), star(weekday));
            let cron = Cron::parse(&text).unwrap();
            let found = cron.next(&TimeZone::UTC, start_s * 1_000).unwrap();
            let matches = |at_ms: i64| {
                let at = TimeZone::UTC.to_datetime(Timestamp::from_millisecond(at_ms).unwrap());
                let by_month = day.is_none_or(|day| i8::try_from(day).unwrap() == at.day());
                let by_week = weekday.is_none_or(|w| i8::try_from(w).unwrap() == at.weekday().to_sunday_zero_offset());
                let on = if day.is_some() && weekday.is_some() { by_month || by_week } else { by_month && by_week };
                on && i8::try_from(minute).unwrap() == at.minute()
                    && hour.is_none_or(|hour| i8::try_from(hour).unwrap() == at.hour())
            };
            let mut at_ms = (start_s * 1_000).div_euclid(MINUTE_MS) * MINUTE_MS + MINUTE_MS;
            while !matches(at_ms) {
                at_ms += MINUTE_MS;
            }
            prop_assert_eq!(found, at_ms, "{}", text);
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,40}") {
            let _ = Cron::parse(&text);
        }
    }
}
