//! A query as it was read.

use regex::Regex;

use super::Matcher;
use crate::logs::loki::pipeline::{LabelFilter, Stage};

#[derive(Debug)]
pub(in crate::logs::loki) enum Expr {
    Logs(LogExpr),
    Metric(Metric),
}

/// Streams, and what is done with their lines.
#[derive(Debug)]
pub(in crate::logs::loki) struct LogExpr {
    pub(in crate::logs::loki) matchers: Vec<Matcher>,
    pub(in crate::logs::loki) stages: Vec<Stage>,
}

#[derive(Debug)]
pub(in crate::logs::loki) enum Metric {
    Number(f64),
    /// `vector(1)`: one sample without labels.
    Vector(f64),
    Range(Box<RangeAggregate>),
    Aggregate(Box<Aggregate>),
    Binary(Box<Binary>),
    LabelReplace(Box<LabelReplace>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::logs::loki) enum RangeOp {
    Rate,
    CountOverTime,
    BytesRate,
    BytesOverTime,
    AbsentOverTime,
    RateCounter,
    Sum,
    Avg,
    Min,
    Max,
    First,
    Last,
    Stddev,
    Stdvar,
    Quantile,
}

/// `rate({…} | … [5m] offset 1h) by (x)`.
#[derive(Debug)]
pub(in crate::logs::loki) struct RangeAggregate {
    /// Its number among those of the query.
    pub(in crate::logs::loki) id: usize,
    pub(in crate::logs::loki) op: RangeOp,
    /// Of a quantile.
    pub(in crate::logs::loki) parameter: f64,
    pub(in crate::logs::loki) log: LogExpr,
    pub(in crate::logs::loki) unwrap: Option<Unwrap>,
    pub(in crate::logs::loki) range_ns: i64,
    pub(in crate::logs::loki) offset_ns: i64,
    pub(in crate::logs::loki) grouping: Option<Grouping>,
}

/// The label whose value is the sample.
#[derive(Debug)]
pub(in crate::logs::loki) struct Unwrap {
    pub(in crate::logs::loki) label: String,
    pub(in crate::logs::loki) unit: Unit,
    pub(in crate::logs::loki) filters: Vec<LabelFilter>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::logs::loki) enum Unit {
    Number,
    /// Text such as `1.5s`, as seconds.
    Duration,
    /// Text such as `5KiB`.
    Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::logs::loki) struct Grouping {
    pub(in crate::logs::loki) without: bool,
    pub(in crate::logs::loki) names: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::logs::loki) enum AggregateOp {
    Sum,
    Avg,
    Min,
    Max,
    Count,
    Stddev,
    Stdvar,
    Topk,
    Bottomk,
    Sort,
    SortDesc,
}

#[derive(Debug)]
pub(in crate::logs::loki) struct Aggregate {
    pub(in crate::logs::loki) op: AggregateOp,
    /// Of topk and bottomk.
    pub(in crate::logs::loki) count: usize,
    pub(in crate::logs::loki) of: Metric,
    pub(in crate::logs::loki) grouping: Grouping,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::logs::loki) enum BinaryOp {
    Or,
    And,
    Unless,
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Pow,
    Equal,
    NotEqual,
    Greater,
    GreaterEqual,
    Less,
    LessEqual,
}

#[derive(Debug)]
pub(in crate::logs::loki) struct Binary {
    pub(in crate::logs::loki) op: BinaryOp,
    pub(in crate::logs::loki) left: Metric,
    pub(in crate::logs::loki) right: Metric,
    /// A comparison answers 0 or 1 and filters nothing.
    pub(in crate::logs::loki) returns_bool: bool,
    pub(in crate::logs::loki) matching: Matching,
}

/// Which series of both sides belong together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::logs::loki) struct Matching {
    /// `on`, otherwise `ignoring`.
    pub(in crate::logs::loki) on: bool,
    pub(in crate::logs::loki) names: Vec<String>,
    /// The side with many series for each of the other, and the labels that it takes over from there.
    pub(in crate::logs::loki) many: Option<Many>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::logs::loki) struct Many {
    pub(in crate::logs::loki) left: bool,
    pub(in crate::logs::loki) include: Vec<String>,
}

#[derive(Debug)]
pub(in crate::logs::loki) struct LabelReplace {
    pub(in crate::logs::loki) of: Metric,
    pub(in crate::logs::loki) to: String,
    pub(in crate::logs::loki) replacement: String,
    pub(in crate::logs::loki) from: String,
    pub(in crate::logs::loki) regex: Regex,
}

impl BinaryOp {
    pub(in crate::logs::loki) fn is_comparison(self) -> bool {
        matches!(self, Self::Equal | Self::NotEqual | Self::Greater | Self::GreaterEqual | Self::Less | Self::LessEqual)
    }

    pub(in crate::logs::loki) fn is_set(self) -> bool {
        matches!(self, Self::Or | Self::And | Self::Unless)
    }

    pub(super) fn sign(self) -> &'static str {
        match self {
            Self::Or => "or",
            Self::And => "and",
            Self::Unless => "unless",
            Self::Add => "+",
            Self::Sub => "-",
            Self::Mul => "*",
            Self::Div => "/",
            Self::Mod => "%",
            Self::Pow => "^",
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Greater => ">",
            Self::GreaterEqual => ">=",
            Self::Less => "<",
            Self::LessEqual => "<=",
        }
    }

    /// How tightly it binds.
    pub(super) fn strength(self) -> u8 {
        match self {
            Self::Or => 1,
            Self::And | Self::Unless => 2,
            Self::Equal | Self::NotEqual | Self::Greater | Self::GreaterEqual | Self::Less | Self::LessEqual => 3,
            Self::Add | Self::Sub => 4,
            Self::Mul | Self::Div | Self::Mod => 5,
            Self::Pow => 6,
        }
    }
}

impl RangeOp {
    pub(super) fn named(word: &str) -> Option<Self> {
        Some(match word {
            "rate" => Self::Rate,
            "count_over_time" => Self::CountOverTime,
            "bytes_rate" => Self::BytesRate,
            "bytes_over_time" => Self::BytesOverTime,
            "absent_over_time" => Self::AbsentOverTime,
            "rate_counter" => Self::RateCounter,
            "sum_over_time" => Self::Sum,
            "avg_over_time" => Self::Avg,
            "min_over_time" => Self::Min,
            "max_over_time" => Self::Max,
            "first_over_time" => Self::First,
            "last_over_time" => Self::Last,
            "stddev_over_time" => Self::Stddev,
            "stdvar_over_time" => Self::Stdvar,
            "quantile_over_time" => Self::Quantile,
            _ => return None,
        })
    }

    /// Whether it needs (`Some(true)`) or refuses (`Some(false)`) `unwrap`.
    pub(super) fn unwraps(self) -> Option<bool> {
        match self {
            Self::Rate | Self::AbsentOverTime => None,
            Self::CountOverTime | Self::BytesRate | Self::BytesOverTime => Some(false),
            _ => Some(true),
        }
    }

    pub(super) fn may_group(self) -> bool {
        matches!(
            self,
            Self::Avg | Self::Min | Self::Max | Self::First | Self::Last | Self::Stddev | Self::Stdvar | Self::Quantile
        )
    }
}

impl AggregateOp {
    pub(super) fn named(word: &str) -> Option<Self> {
        Some(match word {
            "sum" => Self::Sum,
            "avg" => Self::Avg,
            "min" => Self::Min,
            "max" => Self::Max,
            "count" => Self::Count,
            "stddev" => Self::Stddev,
            "stdvar" => Self::Stdvar,
            "topk" => Self::Topk,
            "bottomk" => Self::Bottomk,
            "sort" => Self::Sort,
            "sort_desc" => Self::SortDesc,
            _ => return None,
        })
    }
}
