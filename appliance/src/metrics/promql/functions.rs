//! Functions: which one a call names, and those over instant vectors and scalars.

use promql_parser::label::MatchOp as ParsedOp;
use promql_parser::parser::{Call, Expr, VectorSelector};

use super::eval::{Evaluator, Value};
use super::{ABSENT, Column, QueryError, calendar, histogram, labelling, over_time, present};
use crate::metrics::model::{Labels, METRIC_NAME};

/// Applies `f` to each value there is; the name goes.
pub(super) fn map(mut columns: Vec<Column>, f: impl Fn(f64) -> f64) -> Vec<Column> {
    for column in &mut columns {
        column.drop_name = true;
        for value in column.values.iter_mut().filter(|value| present(**value)) {
            *value = f(*value);
        }
    }
    columns
}

pub(super) fn call(at: &Evaluator<'_>, node: &Call) -> Result<Value, QueryError> {
    let args: Vec<&Expr> = node.args.args.iter().map(AsRef::as_ref).collect();
    let name = node.func.name;
    if let Some(f) = math(name) {
        return Ok(Value::Vector(map(at.vector_of(args[0])?, f)));
    }
    if let Some(f) = calendar::function(name) {
        let columns = match args.first() {
            Some(arg) => at.vector_of(arg)?,
            None => vec![now(at)],
        };
        return Ok(Value::Vector(map(columns, f)));
    }
    if over_time::is(name) {
        return over_time::call(at, name, &args).map(Value::Vector);
    }
    Ok(match name {
        "time" => Value::Scalar(seconds(at)),
        "pi" => Value::Scalar(vec![std::f64::consts::PI; at.steps()]),
        "vector" => {
            let values = at.scalar_of(args[0])?;
            Value::Vector(vec![Column { labels: Labels::default(), drop_name: false, values }])
        }
        "scalar" => Value::Scalar(scalar(at, &at.vector_of(args[0])?)),
        "min_of" | "max_of" => {
            let (a, b) = (at.scalar_of(args[0])?, at.scalar_of(args[1])?);
            let pick = if name == "min_of" { f64::min } else { f64::max };
            Value::Scalar(
                a.into_iter()
                    .zip(b)
                    .map(|(a, b)| if a.is_nan() || b.is_nan() { f64::NAN } else { pick(a, b) })
                    .collect(),
            )
        }
        "timestamp" => Value::Vector(timestamp(at, args[0])?),
        "absent" => {
            let columns = at.vector_of(args[0])?;
            let anything = |step: usize| columns.iter().any(|column| present(column.values[step]));
            Value::Vector(vec![missing(at, args[0], anything)])
        }
        "absent_over_time" => {
            let windows = at.windows(args[0])?;
            let mut anything = vec![false; at.steps()];
            for one in &windows.series {
                windows.each(&one.samples, |step, _, samples| anything[step] |= !samples.is_empty());
            }
            Value::Vector(vec![missing(at, args[0], |step| anything[step])])
        }
        "clamp" => {
            let (columns, low, high) = (at.vector_of(args[0])?, at.scalar_of(args[1])?, at.scalar_of(args[2])?);
            Value::Vector(map_steps(columns, |step, value| {
                let (low, high) = (low[step], high[step]);
                if high < low { ABSENT } else { larger(low, smaller(high, value)) }
            }))
        }
        "clamp_min" | "clamp_max" => {
            let (columns, limit) = (at.vector_of(args[0])?, at.scalar_of(args[1])?);
            let pick = if name == "clamp_min" { larger } else { smaller };
            Value::Vector(map_steps(columns, |step, value| pick(limit[step], value)))
        }
        "round" => {
            let columns = at.vector_of(args[0])?;
            let nearest = match args.get(1) {
                Some(arg) => at.scalar_of(arg)?,
                None => vec![1.0; at.steps()],
            };
            Value::Vector(map_steps(columns, |step, value| {
                let inverse = 1.0 / nearest[step];
                (value * inverse + 0.5).floor() / inverse
            }))
        }
        "sort" | "sort_desc" | "sort_by_label" | "sort_by_label_desc" => Value::Vector(sort(at, name, &args)?),
        "label_replace" => Value::Vector(labelling::replace(at, &args)?),
        "label_join" => Value::Vector(labelling::join(at, &args)?),
        "histogram_quantile" => {
            let phi = at.scalar_of(args[0])?;
            Value::Vector(histogram::quantiles(at, &phi, at.vector_of(args[1])?))
        }
        "histogram_fraction" => {
            let (low, high) = (at.scalar_of(args[0])?, at.scalar_of(args[1])?);
            Value::Vector(histogram::fractions(&low, &high, at.vector_of(args[2])?))
        }
        // Over float samples, which are all that there are here, these answer nothing in Prometheus either.
        "histogram_avg" | "histogram_count" | "histogram_sum" | "histogram_stddev" | "histogram_stdvar" => {
            at.vector_of(args[0])?;
            Value::Vector(Vec::new())
        }
        _ => return Err(QueryError::Parse(format!("parse error: unknown function with name {name:?}"))),
    })
}

fn math(name: &str) -> Option<fn(f64) -> f64> {
    Some(match name {
        "abs" => f64::abs,
        "ceil" => f64::ceil,
        "floor" => f64::floor,
        "exp" => f64::exp,
        "sqrt" => f64::sqrt,
        "ln" => f64::ln,
        "log2" => f64::log2,
        "log10" => f64::log10,
        "sin" => f64::sin,
        "cos" => f64::cos,
        "tan" => f64::tan,
        "asin" => f64::asin,
        "acos" => f64::acos,
        "atan" => f64::atan,
        "sinh" => f64::sinh,
        "cosh" => f64::cosh,
        "tanh" => f64::tanh,
        "asinh" => f64::asinh,
        "acosh" => f64::acosh,
        "atanh" => f64::atanh,
        "deg" => |value| value * 180.0 / std::f64::consts::PI,
        "rad" => |value| value * std::f64::consts::PI / 180.0,
        "sgn" => |value| {
            if value > 0.0 {
                1.0
            } else if value < 0.0 {
                -1.0
            } else {
                value
            }
        },
        _ => return None,
    })
}

/// NaN wins, as in Go's `math.Max`.
fn larger(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

fn smaller(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.min(b) }
}

fn map_steps(mut columns: Vec<Column>, f: impl Fn(usize, f64) -> f64) -> Vec<Column> {
    for column in &mut columns {
        column.drop_name = true;
        for (step, value) in column.values.iter_mut().enumerate().filter(|(_, value)| present(**value)) {
            *value = f(step, *value);
        }
    }
    columns
}

fn seconds(at: &Evaluator<'_>) -> Vec<f64> {
    at.times_ms.iter().map(|&t_ms| t_ms as f64 / 1000.0).collect()
}

fn now(at: &Evaluator<'_>) -> Column {
    Column { labels: Labels::default(), drop_name: false, values: seconds(at) }
}

fn scalar(at: &Evaluator<'_>, columns: &[Column]) -> Vec<f64> {
    let one = |step: usize| {
        let mut values = columns.iter().map(|column| column.values[step]).filter(|&value| present(value));
        match (values.next(), values.next()) {
            (Some(value), None) => value,
            _ => f64::NAN,
        }
    };
    (0..at.steps()).map(one).collect()
}

/// The time of the sample for a selector, the time of the step for anything computed.
fn timestamp(at: &Evaluator<'_>, arg: &Expr) -> Result<Vec<Column>, QueryError> {
    let mut inner = arg;
    while let Expr::Paren(paren) = inner {
        inner = &paren.expr;
    }
    if let Expr::VectorSelector(selector) = inner {
        let columns = at.vector(selector, |sample| sample.t_ms as f64 / 1000.0)?;
        return Ok(map(columns, |seconds| seconds));
    }
    let times = seconds(at);
    Ok(map_steps(at.vector_of(arg)?, |step, _| times[step]))
}

/// 1 where there is nothing, with the labels that the selector says it would have had.
fn missing(at: &Evaluator<'_>, arg: &Expr, anything: impl Fn(usize) -> bool) -> Column {
    let values = (0..at.steps()).map(|step| if anything(step) { ABSENT } else { 1.0 }).collect();
    Column { labels: labels_of(arg), drop_name: false, values }
}

fn labels_of(arg: &Expr) -> Labels {
    let selector: &VectorSelector = match arg {
        Expr::VectorSelector(selector) => selector,
        Expr::MatrixSelector(selector) => &selector.vs,
        _ => return Labels::default(),
    };
    let mut pairs: Vec<(&str, &str)> = Vec::new();
    let matchers = &selector.matchers.matchers;
    for matcher in matchers.iter().filter(|matcher| matcher.name != METRIC_NAME) {
        let alone = matchers.iter().filter(|other| other.name == matcher.name).count() == 1;
        if alone && matches!(matcher.op, ParsedOp::Equal) {
            pairs.push((&matcher.name, &matcher.value));
        }
    }
    Labels::from_texts(&pairs)
}

fn sort(at: &Evaluator<'_>, name: &str, args: &[&Expr]) -> Result<Vec<Column>, QueryError> {
    let mut columns = at.vector_of(args[0])?;
    if !at.is_instant {
        at.budget.warn("sort is ineffective for range queries since results are always ordered by labels");
        return Ok(columns);
    }
    match name {
        "sort" | "sort_desc" => {
            // NaN goes to the end both ways.
            columns.sort_by(|a, b| {
                let (a, b) = (a.values[0], b.values[0]);
                let order = if name == "sort" { a.total_cmp(&b) } else { b.total_cmp(&a) };
                a.is_nan().cmp(&b.is_nan()).then(order)
            });
        }
        _ => {
            let names = args[1..].iter().map(|arg| at.text_of(arg)).collect::<Result<Vec<_>, _>>()?;
            columns.sort_by(|a, b| {
                let by_names = names.iter().map(|name| labelling::natural(a.labels.get(name), b.labels.get(name)));
                let order = by_names.fold(std::cmp::Ordering::Equal, std::cmp::Ordering::then);
                order.then_with(|| a.labels.cmp(&b.labels))
            });
            if name == "sort_by_label_desc" {
                columns.reverse();
            }
        }
    }
    Ok(columns)
}
