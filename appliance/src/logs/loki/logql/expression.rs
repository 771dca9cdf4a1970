//! Queries as a whole: aggregations and operators over what selectors find.

use regex::RegexBuilder;

use super::ast::{
    Aggregate, AggregateOp, Binary, BinaryOp, Expr, Grouping, LabelReplace, Many, Matching, Metric, RangeAggregate,
    RangeOp,
};
use super::cursor::Cursor;
use super::lex::Token;
use super::selector::{RangeOfLogs, log, range};
use super::{LIST_MAX, ParseError, RANGES_MAX};
use crate::logs::loki::evaluate::calculate;

/// Most memory of one expression.
const REGEX_BYTES_MAX: usize = 1 << 20;
/// Most series that topk may keep.
const TOP_MAX: f64 = 10_000.0;

/// Reads a query.
///
/// # Errors
/// [`ParseError`], which says where.
pub(in crate::logs::loki) fn parse(text: &str) -> Result<Expr, ParseError> {
    let mut parser = Parser { cursor: Cursor::new(text)?, ranges: 0 };
    let expr = parser.expression(0)?;
    if *parser.cursor.peek() == Token::End { Ok(expr) } else { Err(parser.cursor.unexpected("")) }
}

struct Parser {
    cursor: Cursor,
    /// Aggregations over ranges so far.
    ranges: usize,
}

/// An operator and how its sides are matched.
struct Operator {
    op: BinaryOp,
    returns_bool: bool,
    matching: Matching,
}

impl Parser {
    fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, ParseError>) -> Result<T, ParseError> {
        self.cursor.enter()?;
        let made = read(self);
        self.cursor.leave();
        made
    }

    /// Operators that bind at least as tightly as `strength`.
    fn expression(&mut self, strength: u8) -> Result<Expr, ParseError> {
        self.deeper(|parser| {
            let mut left = parser.primary()?;
            let mut operators = 0;
            while let Some(op) = parser.operator().filter(|op| op.strength() >= strength) {
                operators += 1;
                if operators > LIST_MAX {
                    return Err(parser.cursor.error(format!("more than {LIST_MAX} operators in a row")));
                }
                let place = parser.cursor.place();
                let operator = parser.operation(op)?;
                // `^` binds to the right.
                let next = if op == BinaryOp::Pow { op.strength() } else { op.strength() + 1 };
                let right = parser.expression(next)?;
                left = Expr::Metric(binary(operator, left, right, place)?);
            }
            Ok(left)
        })
    }

    fn operator(&self) -> Option<BinaryOp> {
        Some(match self.cursor.peek() {
            Token::Word(word) => match word.as_str() {
                "or" => BinaryOp::Or,
                "and" => BinaryOp::And,
                "unless" => BinaryOp::Unless,
                _ => return None,
            },
            Token::Sign(sign) => match *sign {
                "+" => BinaryOp::Add,
                "-" => BinaryOp::Sub,
                "*" => BinaryOp::Mul,
                "/" => BinaryOp::Div,
                "%" => BinaryOp::Mod,
                "^" => BinaryOp::Pow,
                "==" => BinaryOp::Equal,
                "!=" => BinaryOp::NotEqual,
                ">" => BinaryOp::Greater,
                ">=" => BinaryOp::GreaterEqual,
                "<" => BinaryOp::Less,
                "<=" => BinaryOp::LessEqual,
                _ => return None,
            },
            _ => return None,
        })
    }

    fn operation(&mut self, op: BinaryOp) -> Result<Operator, ParseError> {
        let cursor = &mut self.cursor;
        cursor.take();
        let place = cursor.place();
        let returns_bool = cursor.takes_word("bool");
        if returns_bool && !op.is_comparison() {
            return Err(Cursor::error_at(place, format!("unexpected bool after {}", op.sign())));
        }
        let mut matching = Matching::default();
        for (word, on) in [("on", true), ("ignoring", false)] {
            if cursor.takes_word(word) {
                matching.on = on;
                matching.names = names(cursor)?;
                for (word, left) in [("group_left", true), ("group_right", false)] {
                    let place = cursor.place();
                    if cursor.takes_word(word) {
                        if op.is_set() {
                            let problem = format!("no grouping allowed for {:?} operation", op.sign());
                            return Err(Cursor::error_at(place, problem));
                        }
                        let include = if cursor.is_sign("(") { names(cursor)? } else { Vec::new() };
                        matching.many = Some(Many { left, include });
                        break;
                    }
                }
                break;
            }
        }
        Ok(Operator { op, returns_bool, matching })
    }

    fn primary(&mut self) -> Result<Expr, ParseError> {
        if let Some(number) = self.cursor.number() {
            return Ok(Expr::Metric(Metric::Number(number)));
        }
        match self.cursor.peek().clone() {
            Token::Sign("{") => log(&mut self.cursor).map(Expr::Logs),
            Token::Sign("(") => {
                self.cursor.take();
                let inner = self.expression(0)?;
                self.cursor.expect(")")?;
                Ok(inner)
            }
            Token::Word(word) => self.call(&word).map(Expr::Metric),
            _ => Err(self.cursor.unexpected("")),
        }
    }

    fn call(&mut self, word: &str) -> Result<Metric, ParseError> {
        let place = self.cursor.place();
        if let Some(op) = RangeOp::named(word) {
            self.cursor.take();
            return self.range_aggregate(op, word, place);
        }
        if let Some(op) = AggregateOp::named(word) {
            self.cursor.take();
            return self.aggregate(op, word, place);
        }
        match word {
            "vector" => {
                self.cursor.take();
                self.cursor.expect("(")?;
                let number = self.cursor.number().ok_or_else(|| self.cursor.unexpected("NUMBER"))?;
                self.cursor.expect(")")?;
                Ok(Metric::Vector(number))
            }
            "label_replace" => {
                self.cursor.take();
                self.label_replace()
            }
            _ => Err(self.cursor.unexpected("")),
        }
    }

    fn range_aggregate(&mut self, op: RangeOp, word: &str, place: (usize, usize)) -> Result<Metric, ParseError> {
        let cursor = &mut self.cursor;
        cursor.expect("(")?;
        let parameter = cursor.number();
        if parameter.is_some() {
            cursor.expect(",")?;
        }
        let problem = |problem: String| Cursor::error_at(place, problem);
        if parameter.is_some() && op != RangeOp::Quantile {
            return Err(problem(format!("parameter {} not supported for operation {word}", parameter.unwrap_or(0.0))));
        }
        if parameter.is_none() && op == RangeOp::Quantile {
            return Err(problem(format!("parameter required for operation {word}")));
        }
        let RangeOfLogs { log, unwrap, range_ns, offset_ns } = range(cursor)?;
        cursor.expect(")")?;
        match op.unwraps() {
            Some(true) if unwrap.is_none() => {
                return Err(problem(format!("invalid aggregation {word} without unwrap")));
            }
            Some(false) if unwrap.is_some() => return Err(problem(format!("invalid aggregation {word} with unwrap"))),
            _ => {}
        }
        let grouping = grouping(cursor)?;
        if grouping.is_some() && !op.may_group() {
            return Err(problem(format!("grouping not allowed for {word} aggregation")));
        }
        if self.ranges >= RANGES_MAX {
            return Err(problem(format!("more than {RANGES_MAX} aggregations over ranges in one query")));
        }
        let id = self.ranges;
        self.ranges += 1;
        let parameter = parameter.unwrap_or(0.0);
        Ok(Metric::Range(Box::new(RangeAggregate { id, op, parameter, log, unwrap, range_ns, offset_ns, grouping })))
    }

    fn aggregate(&mut self, op: AggregateOp, word: &str, place: (usize, usize)) -> Result<Metric, ParseError> {
        let mut grouped = grouping(&mut self.cursor)?;
        self.cursor.expect("(")?;
        let is_top = matches!(op, AggregateOp::Topk | AggregateOp::Bottomk);
        let mut count = 0;
        // A number and a comma are a parameter; a number alone is what is aggregated.
        if is_top {
            let Some(number) = self.cursor.number() else {
                return Err(Cursor::error_at(place, format!("parameter required for operation {word}")));
            };
            if !(1.0..=TOP_MAX).contains(&number) {
                return Err(Cursor::error_at(
                    place,
                    format!("invalid parameter (must be greater than 0) {word}({number}"),
                ));
            }
            count = number as usize;
            self.cursor.expect(",")?;
        }
        let place_of = self.cursor.place();
        let Expr::Metric(of) = self.expression(0)? else {
            return Err(Cursor::error_at(
                place_of,
                format!("{word} is over series: put a range aggregation such as count_over_time around the lines"),
            ));
        };
        self.cursor.expect(")")?;
        if grouped.is_none() {
            grouped = grouping(&mut self.cursor)?;
        }
        if grouped.is_some() && matches!(op, AggregateOp::Sort | AggregateOp::SortDesc) {
            return Err(Cursor::error_at(place, format!("grouping not allowed for {word} aggregation")));
        }
        let grouping = grouped.unwrap_or(Grouping { without: false, names: Vec::new() });
        Ok(Metric::Aggregate(Box::new(Aggregate { op, count, of, grouping })))
    }

    fn label_replace(&mut self) -> Result<Metric, ParseError> {
        self.cursor.expect("(")?;
        let place = self.cursor.place();
        let Expr::Metric(of) = self.expression(0)? else {
            return Err(Cursor::error_at(place, "label_replace is over series"));
        };
        let mut texts = [const { String::new() }; 4];
        let mut place = self.cursor.place();
        for text in &mut texts {
            self.cursor.expect(",")?;
            place = self.cursor.place();
            *text = self.cursor.expect_text()?;
        }
        self.cursor.expect(")")?;
        let [to, replacement, from, expression] = texts;
        let regex = RegexBuilder::new(&format!("^(?s:{expression})$"))
            .size_limit(REGEX_BYTES_MAX)
            .dfa_size_limit(REGEX_BYTES_MAX)
            .build()
            .map_err(|_| Cursor::error_at(place, format!("invalid regex in label_replace: {expression}")))?;
        Ok(Metric::LabelReplace(Box::new(LabelReplace { of, to, replacement, from, regex })))
    }
}

/// `by (a, b)` or `without (a)`, if it stands here.
fn grouping(cursor: &mut Cursor) -> Result<Option<Grouping>, ParseError> {
    let without = match (cursor.is_word("by"), cursor.is_word("without")) {
        (false, false) => return Ok(None),
        (_, without) => without,
    };
    cursor.take();
    Ok(Some(Grouping { without, names: names(cursor)? }))
}

/// Names in parentheses; there may be none.
fn names(cursor: &mut Cursor) -> Result<Vec<String>, ParseError> {
    cursor.expect("(")?;
    if cursor.takes(")") {
        return Ok(Vec::new());
    }
    let names = cursor.list(Cursor::expect_word)?;
    cursor.expect(")")?;
    Ok(names)
}

fn binary(
    Operator { op, returns_bool, matching }: Operator,
    left: Expr,
    right: Expr,
    place: (usize, usize),
) -> Result<Metric, ParseError> {
    let side = |expr, side: &str| match expr {
        Expr::Metric(metric) => Ok(metric),
        Expr::Logs(_) => Err(Cursor::error_at(
            place,
            format!("unexpected type for {side} leg of binary operation ({}): a log query", op.sign()),
        )),
    };
    let (left, right) = (side(left, "left")?, side(right, "right")?);
    if op.is_set() {
        for (metric, side) in [(&left, "left"), (&right, "right")] {
            if let Metric::Number(number) = metric {
                return Err(Cursor::error_at(
                    place,
                    format!(
                        "unexpected literal for {side} leg of logical/set binary operation ({}): {number}",
                        op.sign()
                    ),
                ));
            }
        }
    }
    if let (Metric::Number(left), Metric::Number(right)) = (&left, &right) {
        // A comparison of two numbers filters nothing: it is 0 or 1.
        return Ok(Metric::Number(calculate(op, *left, *right)));
    }
    Ok(Metric::Binary(Box::new(Binary { op, left, right, returns_bool, matching })))
}
