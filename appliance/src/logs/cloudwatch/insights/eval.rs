//! What an expression is, for one row.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::ast::{Expr, Extract, Function, Likeness, Operator};
use super::row::Row;
use super::value::Val;

/// Longest text that functions make.
const TEXT_BYTES_MAX: usize = 256 * 1024;

pub(super) fn eval(expr: &Expr, row: &Row<'_>) -> Val {
    match expr {
        Expr::Number(number) => Val::Number(*number),
        Expr::Text(text) => Val::Text(text.clone()),
        Expr::Period(ms) => Val::Number(*ms as f64),
        Expr::Field(name) => row.get(name),
        Expr::Call(function, arguments) => call(*function, arguments, row),
        Expr::Aggregate(_) => Val::Missing, // stats puts a value in its place before
        Expr::Binary(operator, left, right) => binary(*operator, left, right, row),
        Expr::Negative(of) => number(eval(of, row).number().map(|number| -number)),
        Expr::Not(of) => Val::Bool(!eval(of, row).is_true()),
        Expr::Like(of, likeness) => Val::Bool(eval(of, row).text().is_some_and(|text| is_like(&text, likeness))),
        Expr::In(of, values) => {
            let of = eval(of, row);
            Val::Bool(!of.is_missing() && values.iter().any(|value| of.equals(&eval(value, row))))
        }
    }
}

pub(super) fn is_like(text: &str, likeness: &Likeness) -> bool {
    match likeness {
        Likeness::Contains(part) => text.contains(part.as_str()),
        Likeness::Matches(regex) => regex.is_match(text),
    }
}

/// The fields that a pattern takes out of a text; none where it does not match.
pub(super) fn extract(pattern: &Extract, text: &str) -> Vec<(String, Val)> {
    let Some(found) = pattern.regex.captures(text) else { return Vec::new() };
    let of = |(group, name): &(usize, String)| {
        found.get(*group).map(|part| (name.clone(), Val::Text(part.as_str().to_owned())))
    };
    pattern.names.iter().filter_map(of).collect()
}

fn number(number: Option<f64>) -> Val {
    number.filter(|number| number.is_finite()).map_or(Val::Missing, Val::Number)
}

fn binary(operator: Operator, left: &Expr, right: &Expr, row: &Row<'_>) -> Val {
    let left = eval(left, row);
    match operator {
        Operator::Or => return Val::Bool(left.is_true() || eval(right, row).is_true()),
        Operator::And => return Val::Bool(left.is_true() && eval(right, row).is_true()),
        _ => {}
    }
    let right = eval(right, row);
    let compare = |test: fn(std::cmp::Ordering) -> bool| Val::Bool(left.compare(&right).is_some_and(test));
    let calculate =
        |with: fn(f64, f64) -> f64| number(left.number().zip(right.number()).map(|(left, right)| with(left, right)));
    match operator {
        Operator::Equal => Val::Bool(!left.is_missing() && left.equals(&right)),
        Operator::Unequal => Val::Bool(!left.equals(&right)),
        Operator::Less => compare(std::cmp::Ordering::is_lt),
        Operator::LessOrEqual => compare(std::cmp::Ordering::is_le),
        Operator::Greater => compare(std::cmp::Ordering::is_gt),
        Operator::GreaterOrEqual => compare(std::cmp::Ordering::is_ge),
        Operator::Add => calculate(|left, right| left + right),
        Operator::Subtract => calculate(|left, right| left - right),
        Operator::Multiply => calculate(|left, right| left * right),
        Operator::Divide => calculate(|left, right| left / right),
        Operator::Modulo => calculate(|left, right| left % right),
        Operator::Power => calculate(f64::powf),
        Operator::Or | Operator::And => Val::Missing, // answered above
    }
}

fn call(function: Function, arguments: &[Expr], row: &Row<'_>) -> Val {
    let value = |at: usize| arguments.get(at).map_or(Val::Missing, |expr| eval(expr, row));
    let of_number = |with: fn(f64) -> f64| number(value(0).number().map(with));
    let of_text = |with: &dyn Fn(&str) -> Val| value(0).text().map_or(Val::Missing, |text| with(&text));
    let second = || value(1).text();
    match function {
        Function::Abs => of_number(f64::abs),
        Function::Ceil => of_number(f64::ceil),
        Function::Floor => of_number(f64::floor),
        Function::Log => of_number(f64::ln),
        Function::Sqrt => of_number(f64::sqrt),
        Function::Greatest => number((0..arguments.len()).filter_map(|at| value(at).number()).reduce(f64::max)),
        Function::Least => number((0..arguments.len()).filter_map(|at| value(at).number()).reduce(f64::min)),
        Function::IsPresent => Val::Bool(!value(0).is_missing()),
        Function::Coalesce => (0..arguments.len()).map(value).find(|value| !value.is_missing()).unwrap_or(Val::Missing),
        Function::IsEmpty => Val::Bool(value(0).text().is_none_or(|text| text.is_empty())),
        Function::IsBlank => Val::Bool(value(0).text().is_none_or(|text| text.trim().is_empty())),
        Function::Concat => {
            let mut whole = String::new();
            for at in 0..arguments.len() {
                whole.push_str(&value(at).text().unwrap_or_default());
            }
            Val::Text(backlot_windows::clip(&whole, TEXT_BYTES_MAX).to_owned())
        }
        Function::Trim | Function::TrimLeft | Function::TrimRight => of_text(&|text| {
            let signs = second();
            let is_one = |sign: char| match &signs {
                Some(signs) => signs.contains(sign),
                None => sign.is_whitespace(),
            };
            let left = if function == Function::TrimRight { text } else { text.trim_start_matches(is_one) };
            let whole = if function == Function::TrimLeft { left } else { left.trim_end_matches(is_one) };
            Val::Text(whole.to_owned())
        }),
        Function::Length => of_text(&|text| Val::Number(text.chars().count() as f64)),
        Function::Upper => of_text(&|text| Val::Text(text.to_uppercase())),
        Function::Lower => of_text(&|text| Val::Text(text.to_lowercase())),
        Function::Substring => {
            let (begin, length) =
                (whole(&value(1)), if arguments.len() > 2 { whole(&value(2)) } else { Some(usize::MAX) });
            match begin.zip(length) {
                Some((begin, length)) => of_text(&|text| Val::Text(text.chars().skip(begin).take(length).collect())),
                None => Val::Missing,
            }
        }
        Function::Replace => match second().filter(|part| !part.is_empty()).zip(value(2).text()) {
            Some((part, with)) => of_text(&|text| {
                let made = text.len() + text.matches(part.as_str()).count().saturating_mul(with.len());
                if made > TEXT_BYTES_MAX { Val::Missing } else { Val::Text(text.replace(&part, &with)) }
            }),
            None => value(0),
        },
        Function::Contains => match second() {
            Some(part) => of_text(&|text| Val::Number(f64::from(u8::from(text.contains(&part))))),
            None => Val::Missing,
        },
        Function::IsIp => of_text(&|text| Val::Bool(text.parse::<IpAddr>().is_ok())),
        Function::IsIpv4 => of_text(&|text| Val::Bool(text.parse::<Ipv4Addr>().is_ok())),
        Function::IsIpv6 => of_text(&|text| Val::Bool(text.parse::<Ipv6Addr>().is_ok())),
        Function::Bin => rounded(row.get("@timestamp"), &value(0), false),
        Function::DateFloor => rounded(value(0), &value(1), false),
        Function::DateCeil => rounded(value(0), &value(1), true),
        Function::FromMillis => whole_ms(&value(0)).map_or(Val::Missing, Val::Time),
        Function::ToMillis => number(value(0).number()),
    }
}

/// A moment, down (or up) to a multiple of a length of time.
fn rounded(moment: Val, period: &Val, up: bool) -> Val {
    let (Some(ms), Some(period_ms)) = (whole_ms(&moment), whole_ms(period).filter(|ms| *ms > 0)) else {
        return Val::Missing;
    };
    let floor = ms.div_euclid(period_ms) * period_ms;
    Val::Time(if up && floor < ms { floor.saturating_add(period_ms) } else { floor })
}

#[allow(clippy::cast_possible_truncation, reason = "saturates")]
fn whole_ms(value: &Val) -> Option<i64> {
    match value {
        Val::Time(ms) => Some(*ms),
        value => value.number().map(|number| number as i64),
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates; less than nothing is nothing")]
fn whole(value: &Val) -> Option<usize> {
    value.number().map(|number| number as usize)
}
