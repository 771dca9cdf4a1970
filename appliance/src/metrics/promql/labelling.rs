//! `label_replace` and `label_join`, and how label values are ordered by `sort_by_label`.

use std::cmp::Ordering;
use std::collections::HashSet;

use promql_parser::parser::Expr;

use super::eval::{Evaluator, same_labelset};
use super::{Column, QueryError, read};
use crate::metrics::model::METRIC_NAME;

pub(super) fn replace(at: &Evaluator<'_>, args: &[&Expr]) -> Result<Vec<Column>, QueryError> {
    let mut columns = at.vector_of(args[0])?;
    let (target, template) = (at.text_of(args[1])?, at.text_of(args[2])?);
    let (source, pattern) = (at.text_of(args[3])?, at.text_of(args[4])?);
    let regex = read::regex(&format!("^(?:{pattern})$"))
        .map_err(|_| QueryError::execution(format!("invalid regular expression in label_replace(): {pattern}")))?;
    if !valid_name(&target) {
        return Err(QueryError::execution(format!("invalid destination label name in label_replace(): {target}")));
    }
    for column in &mut columns {
        let Some(found) = regex.captures(column.labels.get(&source)) else { continue };
        let mut value = String::new();
        found.expand(&go_template(&template), &mut value);
        column.labels = column.labels.with(&target, &value);
        if target == METRIC_NAME {
            column.drop_name = false; // somebody has named it anew
        }
    }
    unique(columns)
}

pub(super) fn join(at: &Evaluator<'_>, args: &[&Expr]) -> Result<Vec<Column>, QueryError> {
    let mut columns = at.vector_of(args[0])?;
    let (target, separator) = (at.text_of(args[1])?, at.text_of(args[2])?);
    let sources = args[3..].iter().map(|arg| at.text_of(arg)).collect::<Result<Vec<_>, _>>()?;
    if !valid_name(&target) {
        return Err(QueryError::execution(format!("invalid destination label name in label_join(): {target}")));
    }
    if let Some(bad) = sources.iter().find(|source| !valid_name(source)) {
        return Err(QueryError::execution(format!("invalid source label name in label_join(): {bad}")));
    }
    for column in &mut columns {
        let values: Vec<&str> = sources.iter().map(|source| column.labels.get(source)).collect();
        column.labels = column.labels.with(&target, &values.join(&separator));
        if target == METRIC_NAME {
            column.drop_name = false;
        }
    }
    unique(columns)
}

/// Any UTF-8 text is a label's name in Prometheus 3, if there is some.
pub(super) fn valid_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(char::REPLACEMENT_CHARACTER)
}

fn unique(columns: Vec<Column>) -> Result<Vec<Column>, QueryError> {
    let mut seen = HashSet::new();
    if columns.iter().all(|column| seen.insert((&column.labels, column.drop_name))) {
        Ok(columns)
    } else {
        Err(same_labelset())
    }
}

/// Go takes the longest run of letters, digits and `_` after `$` for a group's name; Rust does so too, and both know `${name}` and
/// `$$`. They differ in what a lone `$` means: Rust keeps it, Go drops it.
fn go_template(template: &str) -> String {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(behind) = after.strip_prefix('$') {
            out.push_str("$$");
            rest = behind;
        } else {
            if after.starts_with(|c: char| c == '{' || c == '_' || c.is_alphanumeric()) {
                out.push('$');
            }
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// Numbers inside of texts compare as numbers: `node2` before `node10`.
pub(super) fn natural(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let (in_a, in_b) = (digits(a), digits(b));
        if in_a > 0 && in_b > 0 {
            let (number_a, number_b) = (a[..in_a].trim_start_matches('0'), b[..in_b].trim_start_matches('0'));
            let order = number_a.len().cmp(&number_b.len()).then_with(|| number_a.cmp(number_b));
            if order != Ordering::Equal {
                return order;
            }
            (a, b) = (&a[in_a..], &b[in_b..]);
            continue;
        }
        match (a.chars().next(), b.chars().next()) {
            (Some(c), Some(d)) if c == d => (a, b) = (&a[c.len_utf8()..], &b[d.len_utf8()..]),
            (c, d) => return c.cmp(&d),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_label_values_sort_as_numbers() {
        let mut values = ["node10", "node2", "node1", "", "node02b", "x"];
        values.sort_by(|a, b| natural(a, b));
        assert_eq!(values, ["", "node1", "node2", "node02b", "node10", "x"]);
    }

    #[test]
    fn a_lone_dollar_vanishes_as_in_go() {
        assert_eq!(go_template("a-$1-$$-$-${x}"), "a-$1-$$--${x}");
    }
}
