//! Aggregations: groups of series by labels, and what each becomes.

use std::collections::HashMap;

use promql_parser::parser::token::{
    T_AVG, T_BOTTOMK, T_COUNT, T_COUNT_VALUES, T_GROUP, T_LIMIT_RATIO, T_LIMITK, T_MAX, T_MIN, T_QUANTILE, T_STDDEV,
    T_STDVAR, T_SUM, T_TOPK,
};
use promql_parser::parser::{AggregateExpr, LabelModifier};

use super::eval::Evaluator;
use super::{ABSENT, Column, Kahan, Mean, QueryError, labelling, present, quantile};
use crate::metrics::model::{Labels, METRIC_NAME};

struct Group {
    labels: Labels,
    drop_name: bool,
    members: Vec<usize>,
}

pub(super) fn eval(at: &Evaluator<'_>, node: &AggregateExpr) -> Result<Vec<Column>, QueryError> {
    let op = node.op.id();
    let columns = at.vector_of(&node.expr)?;
    if op == T_COUNT_VALUES {
        let label = match &node.param {
            Some(param) => at.text_of(param)?,
            None => String::new(),
        };
        return count_values(at, node, &columns, &label);
    }
    let param = match &node.param {
        Some(param) => at.scalar_of(param)?,
        None => vec![0.0; at.steps()],
    };
    let groups = grouped(&columns, node.modifier.as_ref());
    at.budget.charge(groups.len().saturating_mul(at.steps()))?;
    match op {
        T_TOPK | T_BOTTOMK | T_LIMITK => choose(at, &columns, &groups, &counts(&param)?, op),
        T_LIMIT_RATIO => ratio(at, columns, &param),
        _ => Ok(groups.iter().map(|group| reduced(at, &columns, group, op, &param)).collect()),
    }
}

fn grouped(columns: &[Column], modifier: Option<&LabelModifier>) -> Vec<Group> {
    let mut at: HashMap<Labels, usize> = HashMap::new();
    let mut groups: Vec<Group> = Vec::new();
    for (member, column) in columns.iter().enumerate() {
        let labels = key(&column.labels, modifier);
        let index = *at.entry(labels.clone()).or_insert(groups.len());
        if index == groups.len() {
            groups.push(Group { labels, drop_name: false, members: Vec::new() });
        }
        groups[index].drop_name |= column.drop_name;
        groups[index].members.push(member);
    }
    groups
}

fn key(labels: &Labels, modifier: Option<&LabelModifier>) -> Labels {
    match modifier {
        None => Labels::default(),
        Some(LabelModifier::Include(names)) => labels.filtered(|name| names.labels.iter().any(|kept| kept == name)),
        Some(LabelModifier::Exclude(names)) => {
            labels.filtered(|name| name != METRIC_NAME && !names.labels.iter().any(|gone| gone == name))
        }
    }
}

fn reduced(at: &Evaluator<'_>, columns: &[Column], group: &Group, op: u16, param: &[f64]) -> Column {
    let mut there = Vec::with_capacity(group.members.len());
    let mut value = |step: usize| {
        there.clear();
        there.extend(group.members.iter().map(|&member| columns[member].values[step]).filter(|&value| present(value)));
        if there.is_empty() {
            return ABSENT;
        }
        match op {
            T_SUM => {
                let mut sum = Kahan::default();
                there.iter().for_each(|&value| sum.add(value));
                sum.total()
            }
            T_AVG => {
                let mut mean = Mean::default();
                there.iter().for_each(|&value| mean.add(value));
                mean.total()
            }
            T_MIN => there
                .iter()
                .copied()
                .fold(f64::NAN, |best, value| if value < best || best.is_nan() { value } else { best }),
            T_MAX => there
                .iter()
                .copied()
                .fold(f64::NAN, |best, value| if value > best || best.is_nan() { value } else { best }),
            T_COUNT => there.len() as f64,
            T_GROUP => 1.0,
            T_STDVAR => variance(&there),
            T_STDDEV => variance(&there).sqrt(),
            T_QUANTILE => {
                if !(0.0..=1.0).contains(&param[step]) {
                    at.budget.warn(format!("quantile value should be between 0 and 1, got {}", param[step]));
                }
                quantile(param[step], &mut there)
            }
            _ => ABSENT,
        }
    };
    let values = (0..at.steps()).map(&mut value).collect();
    Column { labels: group.labels.clone(), drop_name: group.drop_name, values }
}

fn variance(values: &[f64]) -> f64 {
    let (mut mean, mut sum) = (0.0, 0.0);
    for (at, value) in values.iter().enumerate() {
        let delta = value - mean;
        mean += delta / (at + 1) as f64;
        sum += delta * (value - mean);
    }
    sum / values.len() as f64
}

/// The `k` of each step.
fn counts(param: &[f64]) -> Result<Vec<usize>, QueryError> {
    let count = |&k: &f64| {
        if k.is_nan() {
            return Err(QueryError::execution("Parameter value is NaN"));
        }
        if k >= 9.223_372_036_854_775e18 {
            return Err(QueryError::execution(format!("Scalar value {k} overflows int64")));
        }
        if k <= -9.223_372_036_854_775e18 {
            return Err(QueryError::execution(format!("Scalar value {k} underflows int64")));
        }
        Ok(k.max(0.0) as usize)
    };
    param.iter().map(count).collect()
}

/// `topk`, `bottomk`, `limitk`: some members of each group stay as they are.
fn choose(
    at: &Evaluator<'_>,
    columns: &[Column],
    groups: &[Group],
    counts: &[usize],
    op: u16,
) -> Result<Vec<Column>, QueryError> {
    at.budget.charge(columns.len().saturating_mul(at.steps()))?;
    let mut chosen: Vec<Vec<f64>> = columns.iter().map(|column| vec![ABSENT; column.values.len()]).collect();
    let mut order: Vec<usize> = Vec::new();
    for group in groups {
        for (step, &count) in counts.iter().enumerate() {
            let value = |member: usize| columns[member].values[step];
            let mut members: Vec<usize> =
                group.members.iter().copied().filter(|&member| present(value(member))).collect();
            if op != T_LIMITK {
                members.sort_by(|&a, &b| {
                    let (a, b) = (value(a), value(b));
                    let by_value = if op == T_TOPK { b.total_cmp(&a) } else { a.total_cmp(&b) };
                    a.is_nan().cmp(&b.is_nan()).then(by_value)
                });
            }
            members.truncate(count);
            for &member in &members {
                chosen[member][step] = value(member);
            }
            if at.is_instant {
                order.extend(&members);
            }
        }
    }
    if !at.is_instant {
        order = (0..columns.len()).collect();
    }
    let kept = order.into_iter().map(|member| Column {
        labels: columns[member].labels.clone(),
        drop_name: columns[member].drop_name,
        values: std::mem::take(&mut chosen[member]),
    });
    Ok(kept.filter(|column| column.values.iter().any(|&value| present(value))).collect())
}

/// `limit_ratio`: a share of the series, chosen by a hash of their labels, so that the choice is the same each time.
fn ratio(at: &Evaluator<'_>, mut columns: Vec<Column>, param: &[f64]) -> Result<Vec<Column>, QueryError> {
    let mut ratios = Vec::with_capacity(param.len());
    for &wanted in param {
        if wanted.is_nan() {
            return Err(QueryError::execution("Ratio value is NaN"));
        }
        let capped = wanted.clamp(-1.0, 1.0);
        if capped != wanted {
            at.budget.warn(format!("ratio value should be between -1 and 1, got {wanted}, capping to {capped}"));
        }
        ratios.push(capped);
    }
    for column in &mut columns {
        let place = column.labels.stable_hash() as f64 / u64::MAX as f64;
        for (value, &ratio) in column.values.iter_mut().zip(&ratios) {
            let stays = if ratio >= 0.0 { place < ratio } else { place >= 1.0 + ratio };
            if !stays {
                *value = ABSENT;
            }
        }
    }
    Ok(columns)
}

fn count_values(
    at: &Evaluator<'_>,
    node: &AggregateExpr,
    columns: &[Column],
    label: &str,
) -> Result<Vec<Column>, QueryError> {
    if !labelling::valid_name(label) {
        return Err(QueryError::execution(format!("invalid label name {label:?}")));
    }
    let mut found: HashMap<Labels, usize> = HashMap::new();
    let mut counted: Vec<Column> = Vec::new();
    for column in columns {
        for (step, &value) in column.values.iter().enumerate().filter(|(_, value)| present(**value)) {
            let labels = key(&column.labels.with(label, &go_plain(value)), with_label(node, label).as_ref());
            let index = match found.get(&labels) {
                Some(&index) => index,
                None => {
                    at.budget.charge(at.steps())?;
                    found.insert(labels.clone(), counted.len());
                    counted.push(Column { labels, drop_name: column.drop_name, values: vec![ABSENT; at.steps()] });
                    counted.len() - 1
                }
            };
            let slot = &mut counted[index].values[step];
            *slot = if present(*slot) { *slot + 1.0 } else { 1.0 };
        }
    }
    Ok(counted)
}

/// The grouping with the new label among what stays.
fn with_label(node: &AggregateExpr, label: &str) -> Option<LabelModifier> {
    match &node.modifier {
        Some(LabelModifier::Exclude(names)) => {
            let mut names = names.clone();
            names.labels.retain(|name| name != label);
            Some(LabelModifier::Exclude(names))
        }
        Some(LabelModifier::Include(names)) => {
            let mut names = names.clone();
            names.labels.push(label.to_owned());
            Some(LabelModifier::Include(names))
        }
        None => Some(LabelModifier::include(vec![label])),
    }
}

/// A float as Go prints it with `'f', -1`: never with an exponent.
fn go_plain(value: f64) -> String {
    if value.is_infinite() { if value > 0.0 { "+Inf".into() } else { "-Inf".into() } } else { value.to_string() }
}
