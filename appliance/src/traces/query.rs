//! The query language for people, as spans speak it: durations have units, errors have a name.

use std::ops::Bound;

use backlot_windows::{Dialect, Query};

pub use backlot_windows::QueryError;

use super::schema::{DURATION, IDS, KEYWORDS, PARENT, RESERVED, TEXT};

/// Reads a query. An empty one, and `*`, ask for everything.
///
/// # Errors
/// [`QueryError`] points at the character.
pub fn parse(text: &str) -> Result<Query, QueryError> {
    backlot_windows::parse(text, &Spans)
}

/// How spans are asked for.
struct Spans;

impl Dialect for Spans {
    /// People may write `operation`, and `attributes.` in front of an attribute.
    fn field(&self, written: &str) -> String {
        let name = match written {
            "trace_id" => "trace",
            "span_id" => "span",
            "parent_id" | "parent_span_id" => PARENT,
            "operation" | "span.name" => "name",
            "job_id" | "job.id" => "job",
            "service.name" => "service",
            "host.name" => "host",
            "duration" => DURATION,
            "message" => TEXT,
            other => other,
        };
        match name.strip_prefix("attributes.") {
            Some(rest) if !RESERVED.contains(&rest) => rest.to_owned(),
            _ => name.to_owned(),
        }
    }

    fn text(&self) -> &str {
        TEXT
    }

    fn is_keyword(&self, name: &str) -> bool {
        KEYWORDS.contains(&name)
    }

    fn is_id(&self, name: &str) -> bool {
        IDS.contains(&name)
    }

    fn takes_patterns(&self) -> bool {
        true
    }

    fn keyword(&self, name: &str, value: &str) -> String {
        if has_small_letters(name) { value.to_lowercase() } else { value.to_owned() }
    }

    fn keyword_prefix(&self, name: &str, prefix: &str) -> String {
        self.keyword(name, prefix)
    }

    fn value(&self, name: &str, value: &str) -> Option<Result<Query, String>> {
        match name {
            DURATION => {
                let equals = |ns: f64| self.range(name, Bound::Included(ns), Bound::Included(ns));
                Some(duration_ns(value).map(equals))
            }
            "root" => Some(match value {
                "true" => Ok(is_root()),
                "false" => Ok(Query::Not(Box::new(is_root()))),
                _ => Err("write root:true or root:false".to_owned()),
            }),
            _ => None,
        }
    }

    fn edge(&self, name: &str, text: &str, _: bool) -> Option<Result<f64, String>> {
        (name == DURATION).then(|| duration_ns(text))
    }
}

/// Spans that name no parent.
pub(super) fn is_root() -> Query {
    Query::Not(Box::new(Query::Exists { name: PARENT.to_owned() }))
}

fn has_small_letters(name: &str) -> bool {
    matches!(name, "trace" | "kind" | "status" | "link")
}

/// A length of time as people and Jaeger write it: `250ms`, `1.5s`, `1h30m`, `40us`. In nanoseconds.
///
/// # Errors
/// A sentence that says what is read.
pub(super) fn duration_ns(text: &str) -> Result<f64, String> {
    let wrong = || {
        let text: String = text.chars().take(40).collect();
        format!("`{text}` is no duration: write 250ms, 1.5s, 2m, 1h30m, 40us or 7ns")
    };
    let mut rest = text.trim();
    let mut total_ns = 0.0;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        total_ns += number
            * match &rest[..unit] {
                "ns" => 1.0,
                "us" | "µs" | "μs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => 3_600e9,
                "d" => 86_400e9,
                _ => return Err(wrong()),
            };
        rest = &rest[unit..];
    }
    Ok(total_ns.round())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_language_is_what_its_page_says() {
        let number = |from, to| Query::Number { name: DURATION.into(), from, to };
        for (text, expected) in [
            ("", Query::All),
            ("operation:render", Query::keyword("name", "render")),
            ("status:ERROR", Query::keyword("status", "error")),
            ("service.name:agent", Query::keyword("service", "agent")),
            ("duration:>1.5s", number(Bound::Excluded(1.5e9), Bound::Unbounded)),
            ("duration:[250ms TO 1h30m]", number(Bound::Included(250e6), Bound::Included(5_400e9))),
            ("root:true", is_root()),
            ("span:ab*", Query::Id { name: "span".into(), begin: "ab".into(), whole: false }),
            ("attributes.gpu.index:x", Query::text("gpu.index", "x")),
            ("attributes.name:x", Query::text("attributes.name", "x")),
            ("\"out of memory\"", Query::text(TEXT, "out of memory")),
        ] {
            assert_eq!(parse(text).as_ref(), Ok(&expected), "{text}");
        }
        for (text, at) in [("duration:>5", 10), ("duration:fast", 9), ("root:maybe", 5), ("name:(a", 5)] {
            assert_eq!(parse(text).unwrap_err().at, at, "{text}");
        }
    }

    #[test]
    fn durations_are_read_as_jaeger_writes_them() {
        for (text, ns) in
            [("1.2s", 1.2e9), ("100ms", 1e8), ("500us", 5e5), ("500µs", 5e5), ("1h2m3s", 3_723e9), ("0s", 0.0)]
        {
            assert_eq!(duration_ns(text), Ok(ns), "{text}");
        }
        for wrong in ["", "s", "5", "5 s", "-1s", "1..5s", "1e3s", "ms1", "1ß"] {
            assert!(duration_ns(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,40}") {
            let _ = parse(&text);
            let _ = parse(&format!("duration:{text}"));
            let _ = duration_ns(&text);
        }
    }
}
