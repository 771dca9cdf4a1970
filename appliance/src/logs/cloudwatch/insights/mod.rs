//! Insights: the query language of CloudWatch Logs. Pure: a query is read once, and then takes records one after the other.
//!
//! `fields`, `display`, `filter`, `parse` (glob and regular expression), `stats … by`, `sort`, `limit`, `dedup`; arithmetic,
//! comparisons, `like`, `=~`, `in`; functions of numbers, texts and time. What a record lacks is less, greater
//! and equal to nothing, and unequal to everything.
//!
//! Absent on purpose: `pattern`, `diff`, `anomaly`, `unmask`, `join`, `lookup`, `unnest`, subqueries; a query that has one is refused.

mod ast;
mod eval;
mod parse;
mod row;
mod run;
mod scan;
mod stats;
mod value;

use self::ast::{Command, Direction, Expr, Likeness, Operator};
pub(super) use self::parse::ROWS_MAX;
pub(super) use self::row::Input;
pub(super) use self::run::{Run, Stopped};
pub(super) use self::scan::Malformed;

/// Longest query, in characters (AWS).
pub(super) const QUERY_CHARS_MAX: usize = 10_000;

/// A query that was read.
#[derive(Clone, Debug)]
pub(super) struct Query {
    commands: Vec<Command>,
}

impl Query {
    /// # Errors
    /// [`Malformed`] points at the character.
    pub(super) fn parse(text: &str) -> Result<Self, Malformed> {
        Ok(Self { commands: parse::commands(text)? })
    }

    /// Whether the records are wanted oldest first, so that a sort by time has nothing left to do.
    pub(super) fn oldest_first(&self) -> bool {
        self.sorts_by_time() == Some(Direction::Ascending)
    }

    /// How the first sort sorts, where it is by nothing but the time of the records.
    fn sorts_by_time(&self) -> Option<Direction> {
        for command in &self.commands {
            match command {
                Command::Sort(by) => {
                    return match by.as_slice() {
                        [(Expr::Field(name), direction)] if name == "@timestamp" => Some(*direction),
                        _ => None,
                    };
                }
                Command::Filter(_) | Command::Display(_) => {}
                Command::Fields(named) if named.iter().all(|named| named.name != "@timestamp") => {}
                Command::Fields(named)
                    if named.iter().all(|named| matches!(&named.expr, Expr::Field(name) if *name == named.name)) => {}
                Command::Parse { pattern, .. } if pattern.names.iter().all(|(_, name)| name != "@timestamp") => {}
                _ => return None, // which rows a limit or a dedup leaves depends on the order before it
            }
        }
        None
    }

    /// Texts that the line of every record that answers has in it.
    pub(super) fn required(&self) -> Vec<&str> {
        let mut texts = Vec::new();
        for command in &self.commands {
            match command {
                Command::Filter(expr) => required(expr, &mut texts),
                Command::Sort(_) => {}
                Command::Fields(named) | Command::Display(named)
                    if named.iter().all(|named| named.name != "@message" || is_message(&named.expr)) => {}
                _ => break, // what comes after may be about another message
            }
        }
        texts
    }

    /// Begins; at most `limit` rows are answered.
    pub(super) fn run(&self, limit: usize) -> Run {
        Run::new(&self.commands, limit, self.sorts_by_time().is_some())
    }
}

fn is_message(expr: &Expr) -> bool {
    matches!(expr, Expr::Field(name) if name == "@message")
}

fn required<'a>(expr: &'a Expr, texts: &mut Vec<&'a str>) {
    match expr {
        Expr::Like(of, Likeness::Contains(text)) if is_message(of) && !text.is_empty() => texts.push(text),
        Expr::Binary(Operator::And, left, right) => {
            required(left, texts);
            required(right, texts);
        }
        _ => {}
    }
}

/// Reads `text` as a query, puts lines through it, and throws the outcome away: for fuzzing.
pub fn fuzz_insights(text: &str, lines: &str) {
    let Ok(query) = Query::parse(text) else { return };
    let mut run = query.run(100);
    for (at, line) in (0..).zip(lines.lines()) {
        let input = Input { time_ms: at, message: line.to_owned(), ..Input::default() };
        if !matches!(run.add(&input), Ok(true)) {
            break;
        }
    }
    let _ = run.finish();
}

#[cfg(test)]
mod tests;
