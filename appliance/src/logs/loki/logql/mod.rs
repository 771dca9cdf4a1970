//! LogQL: reads a query into an [`Expr`], with everything in it compiled, and says where it is wrong.
//!
//! Read: selectors, line filters, the parsers `json`, `logfmt`, `pattern`, `regexp` and `unpack`, label filters, `line_format`,
//! `label_format`, `drop`, `keep`, `decolorize`, `unwrap`, the aggregations over ranges and over vectors, binary operators with their
//! matching, `offset`, `vector`, `label_replace`.
//!
//! Absent on purpose, and answered with an error: the filter `ip()`, `approx_topk`, `variants`, conditions and loops of Go's templates.

mod ast;
mod cursor;
mod expression;
mod lex;
mod selector;
mod units;

pub(super) use ast::{
    Aggregate, AggregateOp, Binary, BinaryOp, Expr, Grouping, LabelReplace, LogExpr, Matching, Metric, RangeAggregate,
    RangeOp, Unit, Unwrap,
};
pub(super) use expression::parse;
pub(super) use selector::{Matcher, selector};
pub(super) use units::{bytes, duration_ns};

/// Longest query.
const BYTES_MAX: usize = 16 * 1024;
/// Deepest nesting.
const DEPTH_MAX: usize = 48;
/// Most aggregations over ranges in one query: each reads records.
const RANGES_MAX: usize = 20;
/// Most stages, matchers, alternatives or names in one list.
const LIST_MAX: usize = 100;

/// What is wrong with a query, in Loki's words where it has some.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ParseError {
    /// Lines and columns count from 1.
    #[error("parse error at line {line}, col {column}: {message}")]
    At { line: usize, column: usize, message: String },
    /// Of the query as a whole.
    #[error("parse error : {0}")]
    Whole(String),
}

#[cfg(test)]
mod tests;
