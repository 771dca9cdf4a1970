//! Binary operators: between scalars, a vector and a scalar, and two vectors with their matching.

use std::collections::{HashMap, HashSet};

use promql_parser::parser::token::{
    T_ADD, T_ATAN2, T_DIV, T_EQLC, T_GTE, T_GTR, T_LAND, T_LOR, T_LSS, T_LTE, T_MOD, T_MUL, T_NEQ, T_POW, T_SUB,
};
use promql_parser::parser::{BinModifier, BinaryExpr, LabelModifier, VectorMatchCardinality};

use super::eval::{Evaluator, Value};
use super::{ABSENT, Column, QueryError, present};
use crate::metrics::model::{Labels, METRIC_NAME};

pub(super) fn eval(at: &Evaluator<'_>, node: &BinaryExpr) -> Result<Value, QueryError> {
    let (op, returns_bool) = (Op { id: node.op.id() }, node.return_bool());
    let none = BinModifier::default();
    let matching = node.modifier.as_ref().unwrap_or(&none);
    match (at.eval(&node.lhs)?, at.eval(&node.rhs)?) {
        (Value::Scalar(left), Value::Scalar(right)) => {
            let values = left.into_iter().zip(right).map(|(left, right)| op.number(left, right));
            Ok(Value::Scalar(values.collect()))
        }
        (Value::Vector(columns), Value::Scalar(scalars)) => {
            Ok(Value::Vector(with_scalar(op, returns_bool, columns, &scalars, false)))
        }
        (Value::Scalar(scalars), Value::Vector(columns)) => {
            Ok(Value::Vector(with_scalar(op, returns_bool, columns, &scalars, true)))
        }
        (Value::Vector(left), Value::Vector(right)) => {
            if node.op.is_set_operator() {
                return Ok(Value::Vector(sets(at, op, matching, left, right)));
            }
            Join::new(at, op, returns_bool, matching).run(left, right).map(Value::Vector)
        }
        _ => Err(QueryError::Parse("binary expression must contain only scalar and instant vector types".into())),
    }
}

#[derive(Clone, Copy)]
struct Op {
    id: u16,
}

impl Op {
    fn compares(self) -> bool {
        matches!(self.id, T_EQLC | T_NEQ | T_GTR | T_LSS | T_GTE | T_LTE)
    }

    fn holds(self, left: f64, right: f64) -> bool {
        match self.id {
            T_EQLC => left == right,
            T_NEQ => left != right,
            T_GTR => left > right,
            T_LSS => left < right,
            T_GTE => left >= right,
            T_LTE => left <= right,
            _ => false,
        }
    }

    /// The number that two numbers make; 0 or 1 for a comparison.
    fn number(self, left: f64, right: f64) -> f64 {
        match self.id {
            T_ADD => left + right,
            T_SUB => left - right,
            T_MUL => left * right,
            T_DIV => left / right,
            T_POW => left.powf(right),
            T_MOD => left % right,
            T_ATAN2 => left.atan2(right),
            _ => f64::from(u8::from(self.holds(left, right))),
        }
    }

    /// What stays of an element: for a comparison without `bool` the element's own value, or nothing.
    fn element(self, returns_bool: bool, left: f64, right: f64, own: f64) -> f64 {
        if self.compares() && !returns_bool {
            return if self.holds(left, right) { own } else { ABSENT };
        }
        self.number(left, right)
    }
}

fn with_scalar(op: Op, returns_bool: bool, mut columns: Vec<Column>, scalars: &[f64], swapped: bool) -> Vec<Column> {
    for column in &mut columns {
        column.drop_name |= !op.compares() || returns_bool;
        for (value, &scalar) in column.values.iter_mut().zip(scalars).filter(|(value, _)| present(**value)) {
            let (left, right) = if swapped { (scalar, *value) } else { (*value, scalar) };
            *value = op.element(returns_bool, left, right, *value);
        }
    }
    columns
}

/// The labels by which two series are found to belong together.
fn signature(labels: &Labels, matching: Option<&LabelModifier>) -> Labels {
    match matching {
        Some(LabelModifier::Include(names)) => labels.filtered(|name| names.labels.iter().any(|kept| kept == name)),
        Some(LabelModifier::Exclude(names)) => {
            labels.filtered(|name| name != METRIC_NAME && !names.labels.iter().any(|gone| gone == name))
        }
        None => labels.without_name(),
    }
}

fn sets(
    at: &Evaluator<'_>,
    op: Op,
    matching: &BinModifier,
    mut left: Vec<Column>,
    mut right: Vec<Column>,
) -> Vec<Column> {
    let signatures = |columns: &[Column]| -> Vec<Labels> {
        columns.iter().map(|column| signature(&column.labels, matching.matching.as_ref())).collect()
    };
    let (of_left, of_right) = (signatures(&left), signatures(&right));
    let there = |columns: &[Column], of: &[Labels], step: usize| -> HashSet<Labels> {
        let pairs = columns.iter().zip(of).filter(|(column, _)| present(column.values[step]));
        pairs.map(|(_, signature)| signature.clone()).collect()
    };
    for step in 0..at.steps() {
        if op.id == T_LOR {
            let taken = there(&left, &of_left, step);
            for (column, _) in right.iter_mut().zip(&of_right).filter(|(_, signature)| taken.contains(*signature)) {
                column.values[step] = ABSENT;
            }
            continue;
        }
        let found = there(&right, &of_right, step);
        for (column, signature) in left.iter_mut().zip(&of_left) {
            if found.contains(signature) != (op.id == T_LAND) {
                column.values[step] = ABSENT;
            }
        }
    }
    if op.id == T_LOR {
        left.append(&mut right);
    }
    left.retain(|column| column.values.iter().any(|&value| present(value)));
    left
}

/// One arithmetic or comparison between two vectors.
struct Join<'a> {
    at: &'a Evaluator<'a>,
    op: Op,
    returns_bool: bool,
    matching: &'a BinModifier,
    /// The "many" side stands on the right in the expression, and on the left here.
    swapped: bool,
}

impl<'a> Join<'a> {
    fn new(at: &'a Evaluator<'a>, op: Op, returns_bool: bool, matching: &'a BinModifier) -> Self {
        let swapped = matches!(matching.card, VectorMatchCardinality::OneToMany(_));
        Self { at, op, returns_bool, matching, swapped }
    }

    fn one_to_one(&self) -> bool {
        matches!(self.matching.card, VectorMatchCardinality::OneToOne)
    }

    fn run(&self, left: Vec<Column>, right: Vec<Column>) -> Result<Vec<Column>, QueryError> {
        let (many, one) = if self.swapped { (right, left) } else { (left, right) };
        let fill = &self.matching.fill_values;
        let (fill_many, fill_one) = if self.swapped { (fill.rhs, fill.lhs) } else { (fill.lhs, fill.rhs) };
        let mut ids: HashMap<Labels, usize> = HashMap::new();
        let mut signatures: Vec<Labels> = Vec::new();
        let mut identify = |columns: &[Column]| -> Vec<usize> {
            let id = |column: &Column| {
                let labels = signature(&column.labels, self.matching.matching.as_ref());
                *ids.entry(labels.clone()).or_insert_with(|| {
                    signatures.push(labels);
                    signatures.len() - 1
                })
            };
            columns.iter().map(id).collect()
        };
        let (ids_many, ids_one) = (identify(&many), identify(&one));
        let mut out = Joined::default();
        for step in 0..self.at.steps() {
            self.at.budget.check()?;
            let any = |columns: &[Column]| columns.iter().any(|column| present(column.values[step]));
            if (!any(&many) && fill_many.is_none()) || (!any(&one) && fill_one.is_none()) {
                continue; // nothing can match, so nothing can match twice
            }
            let mut of_signature: Vec<Option<usize>> = vec![None; signatures.len()];
            for (index, column) in one.iter().enumerate().filter(|(_, column)| present(column.values[step])) {
                if let Some(other) = of_signature[ids_one[index]].replace(index) {
                    return Err(self.duplicate(&signatures[ids_one[index]], &column.labels, &one[other].labels));
                }
            }
            let mut matched = vec![false; signatures.len()];
            let mut results: HashSet<usize> = HashSet::new();
            for (index, column) in many.iter().enumerate().filter(|(_, column)| present(column.values[step])) {
                let id = ids_many[index];
                let partner = of_signature[id];
                let other = match (partner, fill_one) {
                    (Some(partner), _) => one[partner].values[step],
                    (None, Some(filled)) => filled,
                    (None, None) => continue,
                };
                if self.one_to_one() && matched[id] {
                    return Err(QueryError::execution(
                        "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)",
                    ));
                }
                matched[id] = true;
                let value = self.value(column.values[step], other);
                let slot = out.slot((Some(index), partner), self.at, || {
                    self.labels(&column.labels, partner.map(|partner| &one[partner].labels))
                })?;
                if !self.one_to_one() && !results.insert(slot) {
                    return Err(QueryError::execution(
                        "multiple matches for labels: grouping labels must ensure unique matches",
                    ));
                }
                out.columns[slot].drop_name |= self.returns_bool || column.drop_name;
                if present(value) {
                    out.columns[slot].values[step] = value;
                }
            }
            let Some(filled) = fill_many else { continue };
            for (index, column) in one.iter().enumerate().filter(|(_, column)| present(column.values[step])) {
                if matched[ids_one[index]] {
                    continue;
                }
                let value = self.value(filled, column.values[step]);
                let slot = out.slot((None, Some(index)), self.at, || {
                    self.labels(&signatures[ids_one[index]], Some(&column.labels))
                })?;
                out.columns[slot].drop_name |= self.returns_bool;
                if present(value) {
                    out.columns[slot].values[step] = value;
                }
            }
        }
        out.columns.retain(|column| column.values.iter().any(|&value| present(value)));
        Ok(out.columns)
    }

    fn value(&self, many: f64, one: f64) -> f64 {
        let (left, right) = if self.swapped { (one, many) } else { (many, one) };
        // The element that a comparison keeps is the left one of the expression, also where the right side is the many.
        self.op.element(self.returns_bool, left, right, left)
    }

    /// The labels of a result: those of the many side, less the name where a number was made, and what `group_…` takes over.
    fn labels(&self, many: &Labels, one: Option<&Labels>) -> Labels {
        let mut labels = if self.op.compares() { many.clone() } else { many.without_name() };
        if self.one_to_one() {
            labels = match &self.matching.matching {
                Some(LabelModifier::Include(names)) => {
                    labels.filtered(|name| names.labels.iter().any(|kept| kept == name))
                }
                Some(LabelModifier::Exclude(names)) => {
                    labels.filtered(|name| !names.labels.iter().any(|gone| gone == name))
                }
                None => labels,
            };
        }
        if let Some(included) = self.matching.card.labels() {
            for name in &included.labels {
                labels = labels.with(name, one.map_or("", |one| one.get(name)));
            }
        }
        labels
    }

    fn duplicate(&self, group: &Labels, found: &Labels, other: &Labels) -> QueryError {
        let side = if self.swapped { "left" } else { "right" };
        QueryError::execution(format!(
            "found duplicate series for the match group {group} on the {side} hand-side of the operation: [{other}, {found}];\
             many-to-many matching not allowed: matching labels must be unique on one side"
        ))
    }
}

/// The result's series, found by their labels; who made which is remembered so that labels are computed once.
#[derive(Default)]
struct Joined {
    columns: Vec<Column>,
    by_pair: HashMap<(Option<usize>, Option<usize>), usize>,
    by_labels: HashMap<Labels, usize>,
}

impl Joined {
    fn slot(
        &mut self,
        pair: (Option<usize>, Option<usize>),
        at: &Evaluator<'_>,
        labels: impl FnOnce() -> Labels,
    ) -> Result<usize, QueryError> {
        if let Some(&slot) = self.by_pair.get(&pair) {
            return Ok(slot);
        }
        let labels = labels();
        let slot = match self.by_labels.get(&labels) {
            Some(&slot) => slot,
            None => {
                at.budget.charge(at.steps())?;
                self.by_labels.insert(labels.clone(), self.columns.len());
                self.columns.push(Column { labels, drop_name: false, values: vec![ABSENT; at.steps()] });
                self.columns.len() - 1
            }
        };
        self.by_pair.insert(pair, slot);
        Ok(slot)
    }
}
