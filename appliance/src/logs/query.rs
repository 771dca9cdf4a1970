//! The query language for people, as logs speak it: levels have an order, and some names go by several.

use std::ops::Bound;

use backlot_windows::{Dialect, Query};

pub use backlot_windows::QueryError;

use super::model::severity_named;
use super::schema::{BODY, KEYWORDS, RESERVED, SEVERITY, SPAN, field_of};

/// Reads a query. An empty one, and `*`, ask for everything.
///
/// # Errors
/// [`QueryError`] points at the character.
pub fn parse(text: &str) -> Result<Query, QueryError> {
    backlot_windows::parse(text, &Records)
}

/// The name of a field as records have it: people may write another.
pub(super) fn field(written: &str) -> String {
    Records.field(written)
}

/// How log records are asked for.
struct Records;

impl Dialect for Records {
    /// People may write `trace_id`, and `attributes.` in front of an attribute.
    fn field(&self, written: &str) -> String {
        let name = match written {
            "trace_id" => "trace",
            "span_id" => "span",
            "message" | "msg" => BODY,
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

    fn keyword(&self, name: &str, value: &str) -> String {
        if name != "level" {
            return value.to_owned();
        }
        let level = value.to_lowercase();
        if level == "warning" { "warn".to_owned() } else { level }
    }

    fn keyword_prefix(&self, name: &str, prefix: &str) -> String {
        if name == "level" { prefix.to_lowercase() } else { prefix.to_owned() }
    }

    fn value(&self, name: &str, value: &str) -> Option<Result<Query, String>> {
        (name == SEVERITY).then(|| {
            let number: f64 = value.parse().map_err(|_| "the severity is a number from 1 to 24".to_owned())?;
            Ok(self.range(name, Bound::Included(number), Bound::Included(number)))
        })
    }

    fn edge(&self, name: &str, text: &str, _: bool) -> Option<Result<f64, String>> {
        let severity = || severity_named(text).map(f64::from);
        (name == "level").then(|| severity().ok_or_else(|| "this is no level".to_owned()))
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
            ("x:/(/", 2),
            ("a /[/", 2),
            ("severity:high", 9),
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
