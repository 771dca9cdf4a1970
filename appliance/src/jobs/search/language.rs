//! The query language, as jobs speak it: moments, durations, and the names of a specification.
//!
//! ```text
//! status:failed user:anna "out of memory" parameters.steps:[20 TO 50] created:>2h duration:>90s labels.shot:42
//! ```

use std::ops::Bound;

use backlot_windows::{Dialect, Query, QueryError};
use backlot_wire::Timestamp;

use crate::clock::Now;

/// Found as a whole or by their beginning.
pub(super) const KEYWORDS: &[&str] =
    &["id", "type", "status", "user", "project", "queue", "agent", "trace", "flow", "cause"];
/// Found by moment.
pub(super) const MOMENTS: &[&str] = &["created", "updated", "started", "ended", "runs_after"];
/// Found by seconds, which may be written `90s`, `5m`, `2h`.
pub(super) const DURATIONS: &[&str] = &["duration", "wait", "gpu"];
/// Where bare words are looked for: parameters, labels, errors, reasons, the id.
pub(super) const TEXT: &str = "text";

pub(super) const HOUR_MS: f64 = 3_600_000.0;
const DAY_MS: u64 = 86_400_000;

/// Under this name a moment is found by its hour: a year has few of them, and a million milliseconds that were used.
pub(super) fn hours(moment: &str) -> String {
    format!("{moment}/h")
}

/// What is asked, and of jobs that were created when.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::jobs) struct Asked {
    pub query: Query,
    /// Both ends included.
    pub from_ns: i64,
    pub to_ns: i64,
}

/// Reads a query. An empty one, and `*`, ask for everything.
///
/// # Errors
/// [`QueryError`] points at the character.
pub(in crate::jobs) fn parse(text: &str, now: Now) -> Result<Asked, QueryError> {
    Ok(plan(backlot_windows::parse(text, &Specified { now })?))
}

struct Specified {
    now: Now,
}

impl Dialect for Specified {
    fn field(&self, written: &str) -> String {
        let name = match written {
            "job_id" | "job" => "id",
            "user_id" => "user",
            "project_id" => "project",
            "trace_id" => "trace",
            "flow_id" => "flow",
            "prompt" => "parameters.prompt",
            "created_at" => "created",
            "updated_at" => "updated",
            "started_at" => "started",
            "ended_at" => "ended",
            "duration_s" => "duration",
            "wait_s" => "wait",
            "gpu_s" => "gpu",
            "cost_usd" => "cost",
            "message" => "error",
            other => other,
        };
        let long = |short: &str, long: &str| name.strip_prefix(short).map(|rest| format!("{long}{rest}"));
        long("label.", "labels.").or_else(|| long("params.", "parameters.")).unwrap_or_else(|| name.to_owned())
    }

    fn text(&self) -> &str {
        TEXT
    }

    fn is_keyword(&self, name: &str) -> bool {
        KEYWORDS.contains(&name)
    }

    fn keyword(&self, name: &str, value: &str) -> String {
        match name {
            "status" => value.to_lowercase(),
            "type" => backlot_wire::job::canonical_type(value).to_owned(),
            _ => value.to_owned(),
        }
    }

    fn value(&self, name: &str, value: &str) -> Option<Result<Query, String>> {
        if DURATIONS.contains(&name) {
            let equals = |s: f64| self.range(name, Bound::Included(s), Bound::Included(s));
            return Some(seconds(value).map(equals));
        }
        MOMENTS.contains(&name).then(|| {
            let (from, to) = (moment(value, self.now, false)?, moment(value, self.now, true)?);
            Ok(self.range(name, Bound::Included(from), Bound::Included(to)))
        })
    }

    fn edge(&self, name: &str, text: &str, end: bool) -> Option<Result<f64, String>> {
        if DURATIONS.contains(&name) {
            return Some(seconds(text));
        }
        MOMENTS.contains(&name).then(|| moment(text, self.now, end))
    }
}

/// Seconds, as a number or with a unit behind.
fn seconds(text: &str) -> Result<f64, String> {
    let wrong = || format!("`{text}` is no duration: write 90, 90s, 5m, 2h or 1d");
    let unit = text.chars().next_back().ok_or_else(wrong)?;
    let each = match unit {
        's' => 1.0,
        'm' => 60.0,
        'h' => 3_600.0,
        'd' => 86_400.0,
        _ => return text.parse().ok().filter(|s: &f64| s.is_finite()).ok_or_else(wrong),
    };
    text[..text.len() - 1].parse().ok().filter(|n: &f64| n.is_finite()).map(|n| n * each).ok_or_else(wrong)
}

/// A moment in milliseconds since 1970: RFC 3339, a day, such a number, or how long ago. Of a day, its beginning or its `end`.
fn moment(text: &str, now: Now, end: bool) -> Result<f64, String> {
    let wrong = || {
        let short: String = text.chars().take(40).collect();
        format!("`{short}` is no moment: write 2026-11-22, 2026-11-22T12:00:00Z, now, or how long ago (15m, 2h, 7d)")
    };
    if text == "now" {
        return Ok(now.wall_ms as f64);
    }
    if text.len() == 10 && text.as_bytes()[4] == b'-' {
        let day = Timestamp::parse_rfc3339(&format!("{text}T00:00:00Z")).map_err(|_| wrong())?;
        return Ok((day.unix_ms() + if end { DAY_MS - 1 } else { 0 }) as f64);
    }
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().map_err(|_| wrong());
    }
    if let Ok(at) = Timestamp::parse_rfc3339(text) {
        return Ok(at.unix_ms() as f64);
    }
    let ago_s = match text.strip_suffix('w') {
        Some(weeks) => weeks.parse::<f64>().map_err(|_| wrong())? * 604_800.0,
        None => seconds(text).map_err(|_| wrong())?,
    };
    Ok((now.wall_ms as f64 - (ago_s * 1_000.0).round()).max(0.0))
}

/// Takes out of a query what says when jobs were created, so that the walk begins and ends there; what is left of moments is
/// asked for by hours and, at both ends, by milliseconds.
fn plan(query: Query) -> Asked {
    let mut asked = Asked { query: Query::All, from_ns: i64::MIN, to_ns: i64::MAX };
    let parts = match query {
        Query::And(all) => all,
        other => vec![other],
    };
    let mut left = Vec::new();
    for part in parts {
        match part {
            Query::Number { name, from, to } if name == "created" => {
                let at = |ms: f64| (ms.clamp(0.0, 9.0e12) as i64).saturating_mul(1_000_000);
                let (begins, ends) = match (from, to) {
                    (Bound::Unbounded, _) => (i64::MIN, to),
                    (Bound::Included(ms), _) => (at(ms.ceil()), to),
                    (Bound::Excluded(ms), _) => (at(ms.floor() + 1.0), to),
                };
                let ends = match ends {
                    Bound::Unbounded => i64::MAX,
                    Bound::Included(ms) => at(ms.floor()),
                    Bound::Excluded(ms) => at(ms.ceil()) - 1,
                };
                asked.from_ns = asked.from_ns.max(begins);
                asked.to_ns = asked.to_ns.min(ends);
            }
            other => left.push(by_hours(other)),
        }
    }
    asked.query = match left.len() {
        0 => Query::All,
        1 => left.remove(0),
        _ => Query::And(left),
    };
    asked
}

fn by_hours(query: Query) -> Query {
    match query {
        Query::And(all) => Query::And(all.into_iter().map(by_hours).collect()),
        Query::Or(some) => Query::Or(some.into_iter().map(by_hours).collect()),
        Query::Not(query) => Query::Not(Box::new(by_hours(*query))),
        Query::Number { name, from, to } if MOMENTS.contains(&name.as_str()) => {
            let hour = |bound: Bound<f64>| match bound {
                Bound::Included(ms) | Bound::Excluded(ms) => Some((ms / HOUR_MS).floor()),
                Bound::Unbounded => None,
            };
            let (first, last) = (hour(from), hour(to));
            if first.is_some() && first == last {
                return Query::Number { name, from, to };
            }
            let edge = |hour: Option<f64>| hour.map_or(Bound::Unbounded, Bound::Excluded);
            let mut some = vec![Query::Number { name: hours(&name), from: edge(first), to: edge(last) }];
            if let Some(first) = first {
                let to = Bound::Excluded((first + 1.0) * HOUR_MS);
                some.push(Query::Number { name: name.clone(), from, to });
            }
            if let Some(last) = last {
                some.push(Query::Number { name, from: Bound::Included(last * HOUR_MS), to });
            }
            Query::Or(some)
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use backlot_windows::{Document, Value};
    use proptest::prelude::*;

    use super::*;

    const NOW: Now = Now { mono_ms: 0, wall_ms: 1_795_348_800_000 }; // 2026-11-22T12:00:00Z

    fn asked(text: &str) -> Asked {
        parse(text, NOW).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn names_go_by_what_a_specification_calls_them() {
        assert_eq!(asked("user_id:anna"), asked("user:anna"));
        assert_eq!(asked("type:image_generation"), asked("type:image.generate"));
        assert_eq!(asked("status:FAILED").query, Query::keyword("status", "failed"));
        assert_eq!(asked("prompt:\"a red fox\"").query, Query::text("parameters.prompt", "a red fox"));
        assert_eq!(asked("label.shot:42"), asked("labels.shot:42"));
        assert_eq!(asked("params.steps:>20"), asked("parameters.steps:>20"));
        assert_eq!(asked("\"out of memory\"").query, Query::text("text", "out of memory"));
        assert_eq!(asked("").query, Query::All);
    }

    #[test]
    fn when_a_job_was_created_bounds_the_walk() {
        let ms = |ms: u64| ms as i64 * 1_000_000;
        let hour = 3_600_000;
        assert_eq!(
            (asked("created:>2h").from_ns, asked("created:>2h").to_ns),
            (ms(NOW.wall_ms - 2 * hour + 1), i64::MAX)
        );
        let day = asked("created:2026-11-22 status:failed");
        let begins = NOW.wall_ms - 12 * hour;
        assert_eq!((day.from_ns, day.to_ns), (ms(begins), ms(begins + 24 * hour - 1)));
        assert_eq!(day.query, Query::keyword("status", "failed"));
        let both = asked("created:[2026-11-21 TO 2026-11-22] created:<2026-11-22T06:00:00Z");
        assert_eq!((both.from_ns, both.to_ns), (ms(begins - 24 * hour), ms(begins + 6 * hour) - 1));
        assert_eq!(asked("created:>2026-11-22").from_ns, ms(begins + 24 * hour));
        assert_eq!(asked("created:<=2026-11-22").to_ns, ms(begins + 24 * hour - 1));
    }

    #[test]
    fn what_is_no_moment_and_no_duration_is_pointed_at() {
        for (text, at) in [
            ("created:>yesterday", 9),
            ("ended:[2026-13-01 TO now]", 7),
            ("duration:>long", 10),
            ("status:[a TO b]", 8),
        ] {
            assert_eq!(parse(text, NOW).unwrap_err().at, at, "{text}");
        }
    }

    proptest! {
        #[test]
        fn asking_by_hours_finds_what_asking_by_milliseconds_does(
            at in 0_u64..20_000_000, from in 0_u64..20_000_000, length in 0_u64..20_000_000,
            closed in any::<(bool, bool)>(), open in any::<(bool, bool)>()
        ) {
            let mut document = Document::new(0, 0);
            document.add("ended", Value::Number(at as f64));
            document.add(hours("ended"), Value::Number((at as f64 / HOUR_MS).floor()));
            let bound = |ms: u64, closed: bool, open: bool| match (open, closed) {
                (true, _) => Bound::Unbounded,
                (_, true) => Bound::Included(ms as f64),
                _ => Bound::Excluded(ms as f64),
            };
            let to = from + length;
            let plain = Query::Number {
                name: "ended".into(), from: bound(from, closed.0, open.0), to: bound(to, closed.1, open.1),
            };
            prop_assert_eq!(by_hours(plain.clone()).matches(&document), plain.matches(&document));
        }

        #[test]
        fn no_text_makes_it_panic(text in "[a-z:()\\[\\]{}\"*<>=! TO0-9.-]{0,40}") {
            let _ = parse(&text, NOW);
        }
    }
}
