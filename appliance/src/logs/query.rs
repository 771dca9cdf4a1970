//! The query language for people, as logs speak it: levels have an order, and some names go by several.

use std::ops::Bound;

use backlot_windows::{Dialect, Query};

pub use backlot_windows::QueryError;

use super::model::{level_of, severity_named};
use super::moments::{Edge, moment_ns};
use super::schema::{BODY, KEYWORDS, RESERVED, SEVERITY, SPAN, field_of};
use crate::clock::Now;
use crate::signals::duration_ms;

/// Reads a query that is asked `now`. An empty one, and `*`, ask for everything.
///
/// # Errors
/// [`QueryError`] points at the character.
pub fn parse(text: &str, now: Now) -> Result<Query, QueryError> {
    backlot_windows::parse(text, &Records { now: Some(now) })
}

/// Reads a query that is put to records for as long as they come, and so cannot ask for their time.
///
/// # Errors
/// [`QueryError`] points at the character.
pub(super) fn parse_lasting(text: &str) -> Result<Query, QueryError> {
    backlot_windows::parse(text, &Records { now: None })
}

/// The name of a field as records have it: people may write another.
pub(super) fn field(written: &str) -> String {
    Records { now: None }.field(written)
}

/// The time of a record, as queries name it.
const TIME: &str = "@timestamp";

/// How log records are asked for.
pub(super) struct Records {
    /// When it is asked; nothing where it is asked again and again.
    pub(super) now: Option<Now>,
}

impl Dialect for Records {
    /// People may write `trace_id`, and `attributes.` in front of an attribute.
    fn field(&self, written: &str) -> String {
        let name = match written {
            "trace_id" => "trace",
            "span_id" => "span",
            "message" | "msg" => BODY,
            "time" => TIME,
            other => field_of(other).unwrap_or(other),
        };
        match name.strip_prefix("attributes.") {
            Some(rest) if !RESERVED.contains(&rest) => rest.to_owned(),
            _ => name.to_owned(),
        }
    }

    fn text(&self) -> &str {
        BODY
    }

    fn is_keyword(&self, name: &str) -> bool {
        KEYWORDS.contains(&name)
    }

    fn is_id(&self, name: &str) -> bool {
        name == SPAN
    }

    fn takes_patterns(&self) -> bool {
        true
    }

    fn keyword_prefix(&self, name: &str, prefix: &str) -> String {
        if name == "level" { prefix.to_lowercase() } else { prefix.to_owned() }
    }

    /// A day, a second, milliseconds since 1970, `now-15m`, or how long ago.
    fn moment(&self, name: &str, text: &str, end: bool) -> Option<Result<i64, String>> {
        if name != TIME {
            return None;
        }
        let Some(now) = self.now else {
            return Some(Err("the time cannot be asked for where records are looked at as they come".to_owned()));
        };
        if let Some(ago_ms) = duration_ms(text) {
            let ms = now.wall_ms.saturating_sub(ago_ms);
            return Some(Ok(i64::try_from(ms).unwrap_or(i64::MAX).saturating_mul(1_000_000)));
        }
        let edge = if end { Edge::Last } else { Edge::First };
        Some(moment_ns(text, None, edge, now).map_err(|_| {
            format!(
                "`{}` is no moment: write 2026-11-22, \"2026-11-22T12:00:00Z\", now-15m/m, 15m (ago) or milliseconds since 1970; an attribute \
                 of this name is `attributes.time`",
                backlot_windows::clip(text, 60)
            )
        }))
    }

    fn value(&self, name: &str, value: &str) -> Option<Result<Query, String>> {
        if name == "level" {
            // Of levels that loggers tell apart and records do not, those of that severity alone.
            let severity = severity_named(value);
            let exactly = |severity: u8| Query::Number {
                name: SEVERITY.to_owned(),
                from: Bound::Included(f64::from(severity)),
                to: Bound::Included(f64::from(severity)),
            };
            return match severity {
                None => Some(Err("this is no level: trace, debug, info, warn, error or fatal".to_owned())),
                Some(severity) if severity % 4 != 1 => Some(Ok(exactly(severity))),
                Some(severity) => Some(Ok(Query::keyword(name, level_of(severity)))),
            };
        }
        (name == SEVERITY).then(|| {
            let number: f64 = value.parse().map_err(|_| "the severity is a number from 1 to 24".to_owned())?;
            Ok(self.range(name, Bound::Included(number), Bound::Included(number)))
        })
    }

    fn edge(&self, name: &str, text: &str, _: bool) -> Option<Result<f64, String>> {
        let severity = || severity_named(text).map(f64::from);
        (name == "level")
            .then(|| severity().ok_or_else(|| "this is no level: trace, debug, info, warn, error or fatal".to_owned()))
    }

    /// Every record has a time.
    fn beginning(&self, name: &str, begin: &str) -> Option<Result<Query, String>> {
        (name == TIME && begin.is_empty()).then_some(Ok(Query::All))
    }

    /// A range of levels is one of severities.
    fn range(&self, name: &str, from: Bound<f64>, to: Bound<f64>) -> Query {
        if name != "level" {
            return Query::Number { name: name.to_owned(), from, to };
        }
        // A level covers four severities: up to and with error means up to 20.
        let first = |severity: f64| ((severity - 1.0) / 4.0).floor() * 4.0 + 1.0;
        let from = match from {
            Bound::Included(severity) => Bound::Included(first(severity)),
            Bound::Excluded(severity) => Bound::Included(first(severity) + 4.0),
            Bound::Unbounded => Bound::Unbounded,
        };
        let to = match to {
            Bound::Included(severity) => Bound::Excluded(first(severity) + 4.0),
            Bound::Excluded(severity) => Bound::Excluded(first(severity)),
            Bound::Unbounded => Bound::Unbounded,
        };
        Query::Number { name: SEVERITY.to_owned(), from, to }
    }
}

#[cfg(test)]
mod tests {
    use backlot_windows::Pattern;
    use proptest::prelude::*;

    use super::*;

    /// 2026-11-22T12:00:00Z.
    const NOON: Now = Now { mono_ms: 0, wall_ms: 1_795_348_800_000 };

    fn parse(text: &str) -> Result<Query, QueryError> {
        super::parse(text, NOON)
    }

    fn words_of(name: &str, text: &str) -> Query {
        Query::text(name, text)
    }

    fn equals(name: &str, number: f64) -> Query {
        Query::Number { name: name.into(), from: Bound::Included(number), to: Bound::Included(number) }
    }

    fn keyword(name: &str, value: &str) -> Query {
        Query::keyword(name, value)
    }

    #[test]
    fn the_language_is_what_its_page_says() {
        let number = |name: &str, from, to| Query::Number { name: name.into(), from, to };
        let cases = [
            ("", Query::All),
            ("*", Query::All),
            ("*:*", Query::All),
            ("(*:* host:gpu-7)", Query::And(vec![Query::All, keyword("host", "gpu-7")])),
            ("memory", words_of("body", "memory")),
            (r#""Out of memory""#, words_of("body", "out of memory")),
            ("a b", Query::And(vec![words_of("body", "a"), words_of("body", "b")])),
            ("a AND b", Query::And(vec![words_of("body", "a"), words_of("body", "b")])),
            (
                "a b OR c",
                Query::Or(vec![Query::And(vec![words_of("body", "a"), words_of("body", "b")]), words_of("body", "c")]),
            ),
            ("a || b", Query::Or(vec![words_of("body", "a"), words_of("body", "b")])),
            (
                "a (b OR c)",
                Query::And(vec![words_of("body", "a"), Query::Or(vec![words_of("body", "b"), words_of("body", "c")])]),
            ),
            ("NOT a", Query::Not(Box::new(words_of("body", "a")))),
            ("-host:gpu-7", Query::Not(Box::new(keyword("host", "gpu-7")))),
            ("+a !b", Query::And(vec![words_of("body", "a"), Query::Not(Box::new(words_of("body", "b")))])),
            ("level:ERROR", keyword("level", "error")),
            ("level:Warning", keyword("level", "warn")),
            ("level:err", keyword("level", "error")),
            ("level:(verbose OR panic)", Query::Or(vec![keyword("level", "trace"), keyword("level", "fatal")])),
            ("level:critical", number("severity", Bound::Included(18.0), Bound::Included(18.0))),
            ("level:>=warn", number("severity", Bound::Included(13.0), Bound::Unbounded)),
            ("level:[warn TO error]", number("severity", Bound::Included(13.0), Bound::Excluded(21.0))),
            ("service:back*", Query::KeywordPrefix { name: "service".into(), prefix: "back".into() }),
            (
                "job:(a OR b*)",
                Query::Or(vec![keyword("job", "a"), Query::KeywordPrefix { name: "job".into(), prefix: "b".into() }]),
            ),
            ("trace_id:0af7", keyword("trace", "0af7")),
            ("job.attempt:a-1", keyword("attempt", "a-1")),
            ("attributes.job.attempt:x", words_of("job.attempt", "x")),
            ("gpu.index:[1 TO 3]", number("gpu.index", Bound::Included(1.0), Bound::Included(3.0))),
            ("gpu.index:{1 TO *}", number("gpu.index", Bound::Excluded(1.0), Bound::Unbounded)),
            ("x:<-2.5", number("x", Bound::Unbounded, Bound::Excluded(-2.5))),
            ("attributes.x:yes", words_of("x", "yes")),
            ("attributes.level:yes", words_of("attributes.level", "yes")),
            ("x:*", Query::Exists { name: "x".into() }),
            ("_exists_:x.y", Query::Exists { name: "x.y".into() }),
            ("x:3", Query::Or(vec![equals("x", 3.0), words_of("x", "3")])),
            ("id:9007199254740993", words_of("id", "9007199254740993")),
            (r"a\:b", words_of("body", "a b")),
            ("OR\u{301}", words_of("body", "OR\u{301}")),
            (
                "frame_0*",
                Query::And(vec![
                    words_of("body", "frame"),
                    Query::WordPrefix { name: "body".into(), prefix: "0".into() },
                ]),
            ),
            ("ORDER", words_of("body", "order")),
            ("/v1/jobs", words_of("body", "v1 jobs")),
            ("/step [0-9]+ of/ -host:/gpu-0[1-3]/", {
                let pattern = |text, whole| Pattern::new(text, whole).unwrap();
                Query::And(vec![
                    Query::Matches { name: "body".into(), pattern: pattern("step [0-9]+ of", false) },
                    Query::Not(Box::new(Query::Matches { name: "host".into(), pattern: pattern("gpu-0[1-3]", true) })),
                ])
            }),
            (r"body:/a\/b\d/", Query::Matches { name: "body".into(), pattern: Pattern::new(r"a/b\d", false).unwrap() }),
            ("span:0af7", Query::Id { name: "span".into(), begin: "0af7".into(), whole: true }),
            ("span_id:0a*", Query::Id { name: "span".into(), begin: "0a".into(), whole: false }),
            ("pattern:ab", keyword("pattern", "ab")),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn the_time_is_asked_for_as_lucene_writes_it() {
        const MS: i64 = 1_000_000;
        let noon = 1_795_348_800_000 * MS;
        let (hour, day) = (3_600_000 * MS, 86_400_000 * MS);
        let time = |from_ns, to_ns| Query::Time { from_ns, to_ns };
        for (text, expected) in [
            ("@timestamp:[now-1h TO now]", time(noon - hour, noon)),
            ("time:{now-1h TO now}", time(noon - hour + 1, noon - 1)),
            ("time:>=1h", time(noon - hour, i64::MAX)),
            ("time:[* TO 2026-11-22]", time(i64::MIN, noon + day / 2 - 1)),
            ("time:<2026-11-22", time(i64::MIN, noon - day / 2 - 1)),
            ("time:2026-11-22", time(noon - day / 2, noon + day / 2 - 1)),
            ("time:>2026-11-22T11:00:00Z", time(noon - hour + MS, i64::MAX)),
            (
                r#"@timestamp:["2026-11-22T11:00:00+00:00" TO "2026-11-22T12:00:00.5Z"]"#,
                time(noon - hour, noon + 501 * MS - 1),
            ),
            ("@timestamp:[1795345200000 TO *]", time(noon - hour, i64::MAX)),
            (r#"time:"2026-11-22T12:00:00Z""#, time(noon, noon + MS - 1)),
            ("time:*", Query::All),
            (
                "attributes.time:>3",
                Query::Number { name: "time".into(), from: Bound::Excluded(3.0), to: Bound::Unbounded },
            ),
        ] {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
        assert_eq!(parse_lasting("a time:>1h").unwrap_err().at, 8);
        assert_eq!(parse_lasting("level:debug"), parse("level:debug"));
    }

    #[test]
    fn errors_point_at_the_character() {
        let long = "(".repeat(40);
        let many = "a ".repeat(300);
        for (text, at) in [
            ("a)", 1),
            ("(a", 0),
            (r#"ä "open"#, 2),
            ("a AND", 2),
            ("AND a", 0),
            ("a OR", 4),
            ("x:", 2),
            ("x: 3", 2),
            ("a*b", 1),
            ("a?", 1),
            ("a~2", 1),
            (r#""a b"~2"#, 5),
            ("[1 TO 2]", 0),
            ("x:[1 2]", 5),
            ("x:[1 TO z]", 8),
            ("x:[1 TO 2", 2),
            ("host:[a TO b]", 6),
            (">3", 0),
            ("x:/re", 2),
            ("x:/(/", 3),
            ("a /[/", 3),
            ("severity:high", 9),
            ("level:loud", 6),
            ("a x:/b[0-9/", 6),
            (r"x:/ä\/\d+(c|/", 9),
            ("x:/(a{1000}){1000}/", 2),
            ("*:x", 1),
            ("time:>soon", 6),
            ("@timestamp:[now-1h TO later]", 22),
            ("time:2026", 5),
            ("level:>=loud", 8),
            ("---", 3),
            ("a ::", 2),
            (long.as_str(), 33),
            (many.as_str(), 512),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.at, at, "{text}: {error}");
        }
        assert!(parse(&"x".repeat(5000)).is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_or_point_outside(text in "[a-z:()\\[\\]{}\"*?~^/\\\\<>=+! ANDORTé0-9._-]{0,60}") {
            if let Err(error) = parse(&text) {
                prop_assert!(error.at <= text.chars().count());
            }
        }
    }
}
