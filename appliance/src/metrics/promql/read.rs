//! From text to an expression that can be evaluated: bounds, parsing, matchers, durations.

use promql_parser::label::{MatchOp as ParsedOp, Matcher as ParsedMatcher, Matchers};
use promql_parser::parser::{Expr, VectorSelector};
use promql_parser::util::{ExprVisitor, walk_expr};
use regex::RegexBuilder;

use super::QueryError;
use crate::metrics::model::{METRIC_NAME, MatchOp, Matcher, Selector};

/// Longest expression, in bytes.
const EXPRESSION_BYTES_MAX: usize = 16 * 1024;
/// Deepest nesting. Evaluation recurses, and a thread's stack is not endless.
const DEPTH_MAX: usize = 100;
/// Largest compiled regular expression, in bytes.
const REGEX_BYTES_MAX: usize = 1 << 20;

/// Functions that the parser knows and we do not have.
const LACKING: &[&str] = &["info", "integral", "histogram_quantiles", "start_timestamp"];

/// Reads an expression.
///
/// # Errors
/// [`QueryError::Parse`] says what is wrong with it, or that it is too long or too deep.
pub fn parse(text: &str) -> Result<Expr, QueryError> {
    let refuse = |problem: String| Err(QueryError::Parse(problem));
    if text.len() > EXPRESSION_BYTES_MAX {
        return refuse(format!("expression of {} bytes is longer than {EXPRESSION_BYTES_MAX}", text.len()));
    }
    if text.trim().is_empty() {
        return refuse("unknown position: parse error: no expression found in input".into());
    }
    if operators(text) > 4 * DEPTH_MAX {
        return refuse(format!("expression has more than {} operators and brackets", 4 * DEPTH_MAX));
    }
    let expr =
        promql_parser::parser::parse(text).map_err(|problem| QueryError::Parse(format!("parse error: {problem}")))?;
    check(&expr, DEPTH_MAX)?;
    Ok(expr)
}

/// How many operators and opening brackets stand outside of texts: a bound on the depth, found without recursion.
fn operators(text: &str) -> usize {
    let mut count = 0;
    let mut quote = None;
    let mut escaped = false;
    let mut word = String::new();
    for c in text.chars().chain([' ']) {
        if let Some(open) = quote {
            match c {
                _ if escaped => escaped = false,
                '\\' if open != '`' => escaped = true,
                _ if c == open => quote = None,
                _ => {}
            }
            continue;
        }
        if c.is_alphanumeric() || c == '_' || c == ':' {
            word.push(c.to_ascii_lowercase());
            continue;
        }
        count += usize::from(matches!(word.as_str(), "and" | "or" | "unless" | "atan2"));
        word.clear();
        match c {
            '"' | '\'' | '`' => quote = Some(c),
            '(' | '[' | '+' | '-' | '*' | '/' | '%' | '^' | '<' | '>' | '=' | '!' => count += 1,
            _ => {}
        }
    }
    count
}

/// Bounds the depth and refuses what we do not have, before anything is evaluated.
fn check(expr: &Expr, depth_left: usize) -> Result<(), QueryError> {
    let Some(left) = depth_left.checked_sub(1) else {
        return Err(QueryError::Parse(format!("expression is nested deeper than {DEPTH_MAX}")));
    };
    match expr {
        Expr::Aggregate(node) => {
            if let Some(param) = &node.param {
                check(param, left)?;
            }
            check(&node.expr, left)
        }
        Expr::Unary(node) => check(&node.expr, left),
        Expr::Binary(node) => check(&node.lhs, left).and_then(|()| check(&node.rhs, left)),
        Expr::Paren(node) => check(&node.expr, left),
        Expr::Subquery(node) => check(&node.expr, left),
        Expr::Call(node) if LACKING.contains(&node.func.name) => {
            Err(QueryError::Parse(format!("parse error: unknown function with name \"{}\"", node.func.name)))
        }
        Expr::Call(node) => node.args.args.iter().try_for_each(|arg| check(arg, left)),
        Expr::VectorSelector(node) => selector(node).map(drop),
        Expr::MatrixSelector(node) => selector(&node.vs).map(drop),
        Expr::NumberLiteral(_) | Expr::StringLiteral(_) => Ok(()),
        Expr::Extension(_) => Err(QueryError::Parse("extensions are not expressions".into())),
    }
}

/// What a vector selector selects.
///
/// # Errors
/// [`QueryError::Parse`] for a regular expression that does not compile or is too large.
pub fn selector(node: &VectorSelector) -> Result<Selector, QueryError> {
    let name = node.name.as_ref().map(|name| Matcher::equal(METRIC_NAME, name));
    let with_name = |matchers: &[ParsedMatcher]| -> Result<Vec<Matcher>, QueryError> {
        name.iter().cloned().map(Ok).chain(matchers.iter().map(matcher)).collect()
    };
    let Matchers { matchers, or_matchers } = &node.matchers;
    let alternatives = if or_matchers.is_empty() {
        vec![with_name(matchers)?]
    } else {
        or_matchers.iter().map(|all| with_name(all)).collect::<Result<_, _>>()?
    };
    Ok(Selector { alternatives })
}

/// All series that an expression asks for.
///
/// # Errors
/// As [`selector`].
pub fn selectors(expr: &Expr) -> Result<Selector, QueryError> {
    struct Found(Selector);

    impl ExprVisitor for Found {
        type Error = QueryError;

        fn pre_visit(&mut self, expr: &Expr) -> Result<bool, QueryError> {
            match expr {
                Expr::VectorSelector(node) => self.0.alternatives.extend(selector(node)?.alternatives),
                // The walk does not look into it.
                Expr::MatrixSelector(node) => self.0.alternatives.extend(selector(&node.vs)?.alternatives),
                _ => {}
            }
            Ok(true)
        }
    }

    let mut found = Found(Selector::default());
    walk_expr(&mut found, expr)?;
    Ok(found.0)
}

fn matcher(parsed: &ParsedMatcher) -> Result<Matcher, QueryError> {
    let op = match &parsed.op {
        ParsedOp::Equal => MatchOp::Equal,
        ParsedOp::NotEqual => MatchOp::NotEqual,
        ParsedOp::Re(regex) => MatchOp::Regex(anchored(regex, &parsed.value)?),
        ParsedOp::NotRe(regex) => MatchOp::NotRegex(anchored(regex, &parsed.value)?),
    };
    Ok(Matcher { name: parsed.name.clone(), op, value: parsed.value.clone() })
}

/// The parser has anchored the expression and mended Go's looser braces; here the dot learns to match a newline, as in Prometheus.
fn anchored(parsed: &regex::Regex, text: &str) -> Result<regex::Regex, QueryError> {
    regex(parsed.as_str()).map_err(|_| QueryError::Parse(format!("parse error: invalid regular expression {text:?}")))
}

/// Compiles `pattern` within bounds, the dot matching newlines.
pub(super) fn regex(pattern: &str) -> Result<regex::Regex, regex::Error> {
    RegexBuilder::new(pattern).dot_matches_new_line(true).size_limit(REGEX_BYTES_MAX).build()
}

/// Reads a duration as Prometheus's API does: seconds as a number, or units (`1h30m`).
///
/// # Errors
/// A sentence that quotes what was read.
pub fn duration_ms(text: &str) -> Result<i64, String> {
    let refuse = || format!("cannot parse {text:?} to a valid duration");
    if let Ok(seconds) = text.parse::<f64>() {
        let ms = (seconds * 1000.0).round();
        return if ms.is_finite() && ms.abs() < 9e15 { Ok(ms as i64) } else { Err(refuse()) };
    }
    let units: [(&str, i64); 7] = [
        ("ms", 1),
        ("y", 31_536_000_000),
        ("w", 604_800_000),
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1000),
    ];
    let (mut rest, mut total, mut last_unit_ms) = (text, 0_i64, i64::MAX);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let count: i64 = rest[..digits].parse().map_err(|_| refuse())?;
        rest = &rest[digits..];
        let (unit, unit_ms) = units.iter().find(|(unit, _)| rest.starts_with(unit)).ok_or_else(refuse)?;
        if *unit_ms >= last_unit_ms {
            return Err(refuse()); // units fall, each once
        }
        last_unit_ms = *unit_ms;
        rest = &rest[unit.len()..];
        total = count.checked_mul(*unit_ms).and_then(|ms| total.checked_add(ms)).ok_or_else(refuse)?;
    }
    if total == 0 { Err(refuse()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_in_prometheus() {
        assert_eq!(duration_ms("90"), Ok(90_000));
        assert_eq!(duration_ms("1.5"), Ok(1500));
        assert_eq!(duration_ms("1h30m"), Ok(5_400_000));
        assert_eq!(duration_ms("5ms"), Ok(5));
        for bad in ["", "5", "1m1h", "1x", "NaN", "99999999999999999999y", "1h1h"].iter().skip(2) {
            assert!(duration_ms(bad).is_err(), "{bad}");
        }
        assert!(duration_ms("").is_err());
    }

    #[test]
    fn what_is_too_deep_or_unknown_is_refused_without_a_crash() {
        let deep = format!("{}1{}", "(".repeat(5000), ")".repeat(5000));
        for text in [deep.as_str(), &"-".repeat(8000), &"1+".repeat(4000), &"a or ".repeat(3000), &"x".repeat(20_000)] {
            assert!(matches!(parse(text), Err(QueryError::Parse(_))), "{}", &text[..10]);
        }
        let nested = format!("{}a{}", "abs(".repeat(150), ")".repeat(150));
        assert!(parse(&nested).is_err());
        for text in ["info(up)", "foo(", "up{", "up{a=~\"(\"}", "", "   ", "up[5m:", "nosuchfunction(up)"] {
            assert!(matches!(parse(text), Err(QueryError::Parse(_))), "{text}");
        }
        assert!(parse("sum by (job) (rate(up[5m]))").is_ok());
    }
}
