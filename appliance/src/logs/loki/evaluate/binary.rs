//! Operators between series and numbers.

use std::collections::{BTreeMap, HashMap};

use super::{EvaluateError, LabelSet, Series, Steps, Value, labels_text};
use crate::logs::loki::logql::{Binary, BinaryOp, Matching};

/// The arithmetic of an operator; a comparison gives 1 or 0.
pub(in crate::logs::loki) fn calculate(op: BinaryOp, left: f64, right: f64) -> f64 {
    let truth = |holds: bool| if holds { 1.0 } else { 0.0 };
    match op {
        BinaryOp::Add => left + right,
        BinaryOp::Sub => left - right,
        BinaryOp::Mul => left * right,
        BinaryOp::Div => left / right,
        BinaryOp::Mod => left % right,
        BinaryOp::Pow => left.powf(right),
        BinaryOp::Equal => truth(left == right),
        BinaryOp::NotEqual => truth(left != right),
        BinaryOp::Greater => truth(left > right),
        BinaryOp::GreaterEqual => truth(left >= right),
        BinaryOp::Less => truth(left < right),
        BinaryOp::LessEqual => truth(left <= right),
        BinaryOp::Or | BinaryOp::And | BinaryOp::Unless => f64::NAN, // these compare series, not numbers
    }
}

pub(super) fn evaluate(binary: &Binary, left: Value, right: Value, steps: Steps) -> Result<Value, EvaluateError> {
    Ok(match (left, right) {
        (Value::Scalar(left), Value::Scalar(right)) => Value::Scalar(calculate(binary.op, left, right)),
        (Value::Vector(series), Value::Scalar(number)) => {
            Value::Vector(with_number(binary, series, |value| (value, number)))
        }
        (Value::Scalar(number), Value::Vector(series)) => {
            Value::Vector(with_number(binary, series, |value| (number, value)))
        }
        (Value::Vector(left), Value::Vector(right)) if binary.op.is_set() => {
            Value::Vector(set(binary, left, right, steps))
        }
        (Value::Vector(left), Value::Vector(right)) => Value::Vector(matched(binary, left, right, steps)?),
    })
}

/// What an operation answers: a comparison keeps the value `kept`, or nothing, unless it is asked for 0 or 1.
fn outcome(binary: &Binary, left: f64, right: f64, kept: f64) -> Option<f64> {
    let value = calculate(binary.op, left, right);
    if binary.op.is_comparison() && !binary.returns_bool { (value == 1.0).then_some(kept) } else { Some(value) }
}

fn with_number(binary: &Binary, mut series: Vec<Series>, sides: impl Fn(f64) -> (f64, f64)) -> Vec<Series> {
    for one in &mut series {
        for value in &mut one.values {
            *value = value.and_then(|value| {
                let (left, right) = sides(value);
                outcome(binary, left, right, value)
            });
        }
    }
    series.retain(|one| one.values.iter().any(Option::is_some));
    series
}

/// The labels by which series of both sides are matched.
fn signature(labels: &LabelSet, matching: &Matching) -> LabelSet {
    let keeps = |name: &String| matching.names.contains(name) == matching.on;
    labels.iter().filter(|(name, _)| keeps(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn by_signature(series: &[Series], matching: &Matching) -> HashMap<LabelSet, Vec<usize>> {
    let mut found = HashMap::<_, Vec<usize>>::new();
    for (at, one) in series.iter().enumerate() {
        found.entry(signature(&one.labels, matching)).or_default().push(at);
    }
    found
}

fn set(binary: &Binary, left: Vec<Series>, right: Vec<Series>, steps: Steps) -> Vec<Series> {
    let is_there = |series: &[Series], members: Option<&Vec<usize>>, step: usize| {
        members.is_some_and(|members| members.iter().any(|at| series[*at].values[step].is_some()))
    };
    let mut made: Vec<Series> = Vec::new();
    if binary.op == BinaryOp::Or {
        let lefts = by_signature(&left, &binary.matching);
        let mut places: BTreeMap<LabelSet, usize> =
            left.iter().enumerate().map(|(at, series)| (series.labels.clone(), at)).collect();
        made.clone_from(&left);
        for series in right {
            let members = lefts.get(&signature(&series.labels, &binary.matching));
            let values: Vec<_> =
                (0..steps.count).map(|step| series.values[step].filter(|_| !is_there(&left, members, step))).collect();
            if let Some(at) = places.get(&series.labels) {
                for (mine, theirs) in made[*at].values.iter_mut().zip(values) {
                    *mine = mine.or(theirs);
                }
            } else {
                places.insert(series.labels.clone(), made.len());
                made.push(Series { labels: series.labels, values });
            }
        }
    } else {
        let rights = by_signature(&right, &binary.matching);
        for mut series in left {
            let members = rights.get(&signature(&series.labels, &binary.matching));
            for (step, value) in series.values.iter_mut().enumerate() {
                if is_there(&right, members, step) != (binary.op == BinaryOp::And) {
                    *value = None;
                }
            }
            made.push(series);
        }
    }
    made.retain(|series| series.values.iter().any(Option::is_some));
    made
}

/// Series of both sides, one with one, or many with one.
fn matched(binary: &Binary, left: Vec<Series>, right: Vec<Series>, steps: Steps) -> Result<Vec<Series>, EvaluateError> {
    let matching = &binary.matching;
    // The side with one series for each signature is looked up from the other.
    let left_is_one = matching.many.as_ref().is_some_and(|many| !many.left);
    let (many, one) = if left_is_one { (&right, &left) } else { (&left, &right) };
    let ones = by_signature(one, matching);
    let mut made = BTreeMap::<LabelSet, Vec<Option<f64>>>::new();
    for series in many {
        let signed = signature(&series.labels, matching);
        let Some(members) = ones.get(&signed) else { continue };
        for (step, value) in series.values.iter().enumerate() {
            let Some(value) = *value else { continue };
            let mut there = members.iter().filter_map(|at| Some((*at, one[*at].values[step]?)));
            let Some((at, other)) = there.next() else { continue };
            if there.next().is_some() {
                let side = if left_is_one { "left" } else { "right" };
                let group = labels_text(&signed);
                return Err(EvaluateError::Matching(format!(
                    "found duplicate series for the match group {group} on the {side} hand-side of the operation"
                )));
            }
            let (left_value, right_value) = if left_is_one { (other, value) } else { (value, other) };
            let Some(answer) = outcome(binary, left_value, right_value, left_value) else { continue };
            let labels = result_labels(matching, &series.labels, &one[at].labels, &signed);
            let values = made.entry(labels).or_insert_with(|| vec![None; steps.count]);
            if values[step].replace(answer).is_some() {
                return Err(EvaluateError::Matching(
                    "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)"
                        .to_owned(),
                ));
            }
        }
    }
    Ok(made.into_iter().map(|(labels, values)| Series { labels, values }).collect())
}

fn result_labels(matching: &Matching, many: &LabelSet, one: &LabelSet, signed: &LabelSet) -> LabelSet {
    let Some(grouped) = &matching.many else { return signed.clone() };
    let mut labels = many.clone();
    for name in &grouped.include {
        match one.get(name) {
            Some(value) => labels.insert(name.clone(), value.clone()),
            None => labels.remove(name),
        };
    }
    labels
}
