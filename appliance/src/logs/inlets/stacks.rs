//! Stack traces that a shipper has cut into lines become one record again.
//!
//! Lines that follow one another in one source are joined where the later one goes on with what the one before began: it is indented,
//! or it is what Python, Java and Rust write between and after indented lines. Lines that have attributes of their own were cut on
//! purpose and stay.

use super::Entry;

/// Longest record that is put together, in lines and bytes.
const LINES_MAX: usize = 500;
const BYTES_MAX: usize = 256 * 1024;
/// What stands between the parts of one trace.
const LINKS: [&str; 5] =
    ["Caused by:", "stack backtrace:", "note: run with `RUST_BACKTRACE", "note: Some details are omitted", "... "];

/// What Python writes between an exception and the one that came of it.
const CHAINS: [&str; 2] = ["During handling of the above exception", "The above exception was the direct cause"];
const PYTHON: &str = "Traceback (most recent call last)";

/// How a record that is being put together goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// A line like any other; only what is indented belongs to it.
    Plain,
    /// Within Python's indented lines: the first one that is not names the exception.
    Python,
    /// A panic of Rust: its message is the next line.
    Panic,
    /// After the exception's name or the panic's message: links may follow.
    After,
    /// After a line that says another exception follows.
    Chained,
}

/// Joins the lines of one source.
pub(super) fn join(entries: Vec<Entry>) -> Vec<Entry> {
    let mut joined: Vec<Entry> = Vec::with_capacity(entries.len());
    let (mut state, mut lines) = (State::Plain, 0);
    for entry in entries {
        let next = joined.last().and_then(|last| {
            let has_room = lines < LINES_MAX && last.body.len() + entry.body.len() < BYTES_MAX;
            let is_bare = entry.attributes.is_empty() && last.attributes.is_empty();
            if has_room && is_bare { goes_on(state, &last.body, &entry.body) } else { None }
        });
        match (next, joined.last_mut()) {
            (Some(next), Some(last)) => {
                last.body.push('\n');
                last.body.push_str(&entry.body);
                state = next;
                lines += 1;
            }
            _ => {
                state = begin(&entry.body);
                lines = 1;
                joined.push(entry);
            }
        }
    }
    joined
}

/// The state after the first line of a record.
fn begin(line: &str) -> State {
    let line = line.lines().next_back().unwrap_or_default();
    if line.contains(PYTHON) {
        State::Python
    } else if line.contains("panicked at ") && line.ends_with(':') {
        State::Panic
    } else {
        State::Plain
    }
}

/// The state after `line`, if it goes on with a record that ends with `last`.
fn goes_on(state: State, last: &str, line: &str) -> Option<State> {
    if line.contains('\n') {
        return None; // was put together by its sender
    }
    if line.trim().is_empty() {
        return matches!(state, State::After | State::Python | State::Chained).then_some(state);
    }
    let is_indented = line.starts_with([' ', '\t']);
    let begins = |with: &str| line.trim_start().starts_with(with);
    match state {
        State::Panic => Some(State::After),
        State::Python if is_indented => Some(State::Python),
        State::Python => Some(State::After),
        State::Chained => line.contains(PYTHON).then_some(State::Python),
        State::After if CHAINS.iter().any(|chain| begins(chain)) => Some(State::Chained),
        State::After if LINKS.iter().any(|link| begins(link)) => Some(State::After),
        // `at …` of Java, the frames of Rust, a pretty-printed value.
        State::Plain | State::After if is_indented && !last.is_empty() => Some(State::After),
        State::Plain if line.starts_with("Caused by:") => Some(State::After),
        State::Plain | State::After => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(lines: &str) -> Vec<String> {
        let entries = lines.split('|').map(|line| Entry { body: line.into(), ..Entry::default() }).collect();
        join(entries).into_iter().map(|entry| entry.body.replace('\n', "|")).collect()
    }

    #[test]
    fn traces_of_all_kinds_become_one_record_and_nothing_else_does() {
        let python = "Traceback (most recent call last):|  File \"a.py\", line 3, in run|    go()|ValueError: no";
        let chained =
            format!("{python}||During handling of the above exception, another exception occurred:||{python}");
        let rust = "thread 'main' (7) panicked at src/main.rs:3:5:|index out of bounds|stack backtrace:|   0: main|             at ./main.rs:3|note: run with `RUST_BACKTRACE=1`";
        let java = "java.io.IOException: disk full|\tat Writer.write(Writer.java:7)|Caused by: java.lang.Error: x|\tat A.b(A.java:1)|\t... 3 more";
        for trace in [python, &chained, rust, java] {
            assert_eq!(joined(&format!("before|{trace}|after")), ["before", trace, "after"]);
            assert_eq!(joined(&format!("{trace}|{trace}")).len(), 2, "{trace}");
        }
        assert_eq!(joined("a|b|c"), ["a", "b", "c"]);
        assert_eq!(joined("a||b"), ["a", "", "b"]);
        assert_eq!(joined("panicked at the disco|b"), ["panicked at the disco", "b"]);
    }

    #[test]
    fn what_is_put_together_is_bounded_and_attributes_keep_lines_apart() {
        let long = vec!["  x"; 2 * LINES_MAX].join("|");
        let records = joined(&format!("a|{long}"));
        assert!(records.len() == 3 && records[0].split('|').count() == LINES_MAX, "{}", records.len());
        let attributes = serde_json::Map::from_iter([("n".to_owned(), 1.into())]);
        let entries = vec![
            Entry { body: "a".into(), ..Entry::default() },
            Entry { body: "  b".into(), attributes, time_ns: None },
        ];
        assert_eq!(join(entries).len(), 2);
    }
}
