//! Puts records through the commands of a query, one after the other.
//!
//! Records come newest first, or oldest first where [`Query::oldest_first`] says so. A row goes through the commands until one keeps it:
//! `sort` and `stats` keep rows until all are there. Everything that is kept is bounded; a query that would
//! keep more is [`Stopped`].

use std::collections::HashSet;

use super::ast::{Command, Direction, Expr, Named};
use super::eval::{eval, extract};
use super::parse::ROWS_MAX;
use super::row::{Input, Row};
use super::stats::Grouping;
use super::value::Val;

/// Most bytes of rows and keys that a query keeps.
const KEPT_BYTES_MAX: usize = 64 << 20;

/// Why a query does not come to its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::logs::cloudwatch) enum Stopped {
    #[error("the query needs too many {0}")]
    TooMuch(&'static str),
}

/// A row that is kept: its columns, and what it is sorted by.
struct Kept {
    keys: Vec<Val>,
    columns: Vec<(String, Val)>,
}

enum Stage {
    Fields(Vec<Named>),
    Filter(Expr),
    Parse(Expr, super::ast::Extract),
    Display(Vec<String>),
    Dedup(Vec<Named>, HashSet<Vec<Option<String>>>),
    Limit(usize),
    Sort { by: Vec<(Expr, Direction)>, rows: Vec<Kept>, keep: usize, bytes: usize },
    Stats(Option<Grouping>),
}

/// A query under way.
pub(in crate::logs::cloudwatch) struct Run {
    stages: Vec<Stage>,
    /// Columns that rows are answered with.
    columns: Vec<String>,
    /// Whether rows are records, which have a pointer.
    of_records: bool,
    limit: usize,
    results: Vec<Vec<(String, String)>>,
    bytes: usize,
    pub(in crate::logs::cloudwatch) matched: u64,
    /// The first stage after which a record counts as matched.
    matched_at: usize,
}

impl Run {
    pub(super) fn new(commands: &[Command], limit: usize, in_order: bool) -> Self {
        let mut columns: Vec<String> = Vec::new();
        let (mut displayed, mut of_records, mut sorted_already) = (false, true, in_order);
        let mut stages = Vec::new();
        for (at, command) in commands.iter().enumerate() {
            match command {
                Command::Fields(named) => {
                    if !displayed {
                        for name in named.iter().map(|named| &named.name) {
                            if !columns.contains(name) {
                                columns.push(name.clone());
                            }
                        }
                    }
                    stages.push(Stage::Fields(computed(named)));
                }
                Command::Display(named) => {
                    columns = named.iter().map(|named| named.name.clone()).collect();
                    displayed = true;
                    stages.push(Stage::Fields(computed(named)));
                    if !of_records {
                        stages.push(Stage::Display(columns.clone()));
                    }
                }
                Command::Filter(expr) => stages.push(Stage::Filter(expr.clone())),
                Command::Parse { of, pattern } => {
                    stages.push(Stage::Parse(of.clone(), pattern.clone()));
                }
                Command::Dedup(named) => stages.push(Stage::Dedup(named.clone(), HashSet::new())),
                Command::Limit(rows) => stages.push(Stage::Limit(*rows)),
                Command::Sort(_) if std::mem::take(&mut sorted_already) => {}
                Command::Sort(by) => {
                    let keep = kept_after(&commands[at + 1..], limit);
                    stages.push(Stage::Sort { by: by.clone(), rows: Vec::new(), keep, bytes: 0 });
                }
                Command::Stats { aggregates, by } => {
                    columns = by.iter().chain(aggregates).map(|named| named.name.clone()).collect();
                    (displayed, of_records, sorted_already) = (false, false, false);
                    stages.push(Stage::Stats(Some(Grouping::new(aggregates.clone(), by.clone()))));
                }
            }
        }
        if columns.is_empty() {
            columns = vec!["@timestamp".to_owned(), "@message".to_owned()];
        }
        let is_plain = |stage: &Stage| matches!(stage, Stage::Fields(_) | Stage::Filter(_) | Stage::Parse(..));
        let plain = stages.iter().take_while(|stage| is_plain(stage)).count();
        let matched_at =
            stages[..plain].iter().rposition(|stage| matches!(stage, Stage::Filter(_))).map_or(0, |at| at + 1);
        Self { stages, columns, of_records, limit, results: Vec::new(), bytes: 0, matched: 0, matched_at }
    }

    /// Takes a record in; answers whether more are wanted.
    pub(in crate::logs::cloudwatch) fn add(&mut self, input: &Input) -> Result<bool, Stopped> {
        self.push(0, Row::of(input))
    }

    /// The rows, after the last record.
    pub(in crate::logs::cloudwatch) fn finish(mut self) -> Result<Vec<Vec<(String, String)>>, Stopped> {
        for at in 0..self.stages.len() {
            let rows: Vec<Row<'static>> = match &mut self.stages[at] {
                Stage::Stats(grouping) => grouping.take().map(Grouping::rows).unwrap_or_default(),
                Stage::Sort { by, rows, .. } => {
                    sort(rows, by);
                    rows.drain(..).map(|kept| Row::made_of(kept.columns)).collect()
                }
                _ => continue,
            };
            for row in rows {
                if !self.push(at + 1, row)? {
                    break;
                }
            }
        }
        Ok(self.results)
    }

    fn push(&mut self, from: usize, mut row: Row<'_>) -> Result<bool, Stopped> {
        if from == 0 && self.matched_at == 0 {
            self.matched += 1;
        }
        for at in from..self.stages.len() {
            match &mut self.stages[at] {
                Stage::Fields(named) => {
                    for named in named {
                        let value = eval(&named.expr, &row);
                        row.put(named.name.clone(), value);
                    }
                }
                Stage::Filter(expr) => {
                    if !eval(expr, &row).is_true() {
                        return Ok(true);
                    }
                }
                Stage::Parse(of, pattern) => {
                    if let Some(text) = eval(of, &row).text() {
                        extract(pattern, &text).into_iter().for_each(|(name, value)| row.put(name, value));
                    }
                }
                Stage::Display(names) => {
                    row = Row::made_of(names.iter().map(|name| (name.clone(), row.get(name))).collect());
                }
                Stage::Dedup(named, seen) => {
                    let key: Vec<_> = named.iter().map(|named| eval(&named.expr, &row).text()).collect();
                    // A row that lacks one of them is like no other.
                    if key.iter().all(Option::is_some) {
                        self.bytes += key.iter().flatten().map(|text| text.len() + 48).sum::<usize>();
                        if !seen.insert(key) {
                            return Ok(true);
                        }
                    }
                }
                Stage::Limit(0) => return Ok(false),
                Stage::Limit(left) => *left -= 1,
                Stage::Stats(Some(grouping)) => {
                    grouping.add(&row)?;
                    return self.goes_on(at, true);
                }
                Stage::Stats(None) => return Ok(false),
                Stage::Sort { by, .. } => {
                    let keys = by.iter().map(|(expr, _)| eval(expr, &row)).collect();
                    let columns = columns_of(&row, &self.stages[at + 1..], &self.columns, self.of_records);
                    let Stage::Sort { by, rows, keep, bytes } = &mut self.stages[at] else { return Ok(false) };
                    let kept = Kept { keys, columns };
                    *bytes += kept.bytes();
                    rows.push(kept);
                    if rows.len() >= keep.saturating_mul(2).max(1_000) {
                        sort(rows, by);
                        rows.truncate(*keep);
                        *bytes = rows.iter().map(Kept::bytes).sum();
                    }
                    if *bytes > KEPT_BYTES_MAX {
                        return Err(Stopped::TooMuch("bytes to sort"));
                    }
                    return self.goes_on(at, true);
                }
            }
            if from == 0 && at + 1 == self.matched_at {
                self.matched += 1;
            }
        }
        self.answer(&row)
    }

    /// A row has come to the stage `at`; more are wanted unless a limit before it is used up.
    fn goes_on(&self, at: usize, wanted: bool) -> Result<bool, Stopped> {
        if self.bytes > KEPT_BYTES_MAX {
            return Err(Stopped::TooMuch("bytes to tell rows apart"));
        }
        Ok(wanted && !self.stages[..at].iter().any(|stage| matches!(stage, Stage::Limit(0))))
    }

    fn answer(&mut self, row: &Row<'_>) -> Result<bool, Stopped> {
        let cell = |name: &String| Some((name.clone(), row.get(name).text()?));
        let mut cells: Vec<_> = self.columns.iter().filter_map(cell).collect();
        if self.of_records
            && let Some(pointer) = row.get("@ptr").text()
        {
            cells.push(("@ptr".to_owned(), pointer));
        }
        self.bytes += cells.iter().map(|(name, value)| name.len() + value.len() + 64).sum::<usize>();
        self.results.push(cells);
        let more = self.results.len() < self.limit;
        self.goes_on(self.stages.len(), more)
    }
}

impl Kept {
    fn bytes(&self) -> usize {
        let text = |value: &Val| if let Val::Text(text) = value { text.len() + 64 } else { 64 };
        self.keys.iter().map(text).sum::<usize>()
            + self.columns.iter().map(|(name, value)| name.len() + text(value)).sum::<usize>()
    }
}

/// Those that are more than the name of a field.
fn computed(named: &[Named]) -> Vec<Named> {
    let is_computed = |named: &&Named| !matches!(&named.expr, Expr::Field(name) if *name == named.name);
    named.iter().filter(is_computed).cloned().collect()
}

/// How many rows of a sort can matter: what a limit leaves, where nothing between them leaves rows out.
fn kept_after(commands: &[Command], limit: usize) -> usize {
    for command in commands {
        match command {
            Command::Limit(rows) => return *rows,
            Command::Fields(_) | Command::Display(_) | Command::Parse { .. } => {}
            Command::Filter(_) | Command::Stats { .. } | Command::Sort(_) | Command::Dedup(_) => return usize::MAX / 4,
        }
    }
    limit.min(ROWS_MAX)
}

/// What the rest of a query can still ask of a row.
fn columns_of(row: &Row<'_>, rest: &[Stage], columns: &[String], of_records: bool) -> Vec<(String, Val)> {
    let mut names: Vec<String> = columns.to_vec();
    if of_records || rest.iter().any(|stage| matches!(stage, Stage::Stats(_))) {
        names.extend(["@ptr".to_owned(), "@timestamp".to_owned()]);
    }
    for stage in rest {
        match stage {
            Stage::Fields(named) | Stage::Dedup(named, _) => {
                named.iter().for_each(|named| fields_of(&named.expr, &mut names));
            }
            Stage::Filter(expr) | Stage::Parse(expr, _) => fields_of(expr, &mut names),
            Stage::Sort { by, .. } => by.iter().for_each(|(expr, _)| fields_of(expr, &mut names)),
            Stage::Stats(Some(grouping)) => grouping.fields(&mut names),
            Stage::Display(_) | Stage::Limit(_) | Stage::Stats(None) => {}
        }
    }
    names.sort_unstable();
    names.dedup();
    names.into_iter().map(|name| (name.clone(), row.get(&name))).collect()
}

pub(super) fn fields_of(expr: &Expr, names: &mut Vec<String>) {
    match expr {
        Expr::Field(name) => names.push(name.clone()),
        Expr::Call(function, arguments) => {
            if *function == super::ast::Function::Bin {
                names.push("@timestamp".to_owned());
            }
            arguments.iter().for_each(|argument| fields_of(argument, names));
        }
        Expr::Aggregate(aggregate) => {
            if let Some(of) = &aggregate.of {
                fields_of(of, names);
            }
        }
        Expr::Binary(_, left, right) => {
            fields_of(left, names);
            fields_of(right, names);
        }
        Expr::Negative(of) | Expr::Not(of) | Expr::Like(of, _) => fields_of(of, names),
        Expr::In(of, values) => {
            fields_of(of, names);
            values.iter().for_each(|value| fields_of(value, names));
        }
        Expr::Number(_) | Expr::Text(_) | Expr::Period(_) => {}
    }
}

/// Rows that are alike stay in the order in which they came.
fn sort(rows: &mut [Kept], by: &[(Expr, Direction)]) {
    rows.sort_by(|one, other| {
        let keys = one.keys.iter().zip(&other.keys).zip(by);
        let orders = keys.map(|((one, other), (_, direction))| match direction {
            Direction::Ascending => one.rank(other),
            Direction::Descending => other.rank(one),
        });
        orders.into_iter().find(|order| order.is_ne()).unwrap_or(std::cmp::Ordering::Equal)
    });
}
