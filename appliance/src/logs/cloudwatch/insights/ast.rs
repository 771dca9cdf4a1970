//! What a query says.

use regex::Regex;

/// One step of a query.
#[derive(Clone, Debug)]
pub(super) enum Command {
    Fields(Vec<Named>),
    Display(Vec<Named>),
    Filter(Expr),
    Parse { of: Expr, pattern: Extract },
    Stats { aggregates: Vec<Named>, by: Vec<Named> },
    Sort(Vec<(Expr, Direction)>),
    Limit(usize),
    Dedup(Vec<Named>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Ascending,
    Descending,
}

/// An expression and the name of its column.
#[derive(Clone, Debug)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) expr: Expr,
}

/// What `parse` takes out of a text: the groups of an expression, by their names.
#[derive(Clone, Debug)]
pub(super) struct Extract {
    pub(super) regex: Regex,
    /// Group and name.
    pub(super) names: Vec<(usize, String)>,
}

#[derive(Clone, Debug)]
pub(super) enum Expr {
    Number(f64),
    Text(String),
    /// A length of time, in milliseconds.
    Period(i64),
    Field(String),
    Call(Function, Vec<Expr>),
    /// Only in `stats`: the place of its value among the aggregates.
    Aggregate(Box<Aggregate>),
    Binary(Operator, Box<Expr>, Box<Expr>),
    Negative(Box<Expr>),
    Not(Box<Expr>),
    Like(Box<Expr>, Likeness),
    In(Box<Expr>, Vec<Expr>),
}

#[derive(Clone, Debug)]
pub(super) enum Likeness {
    Contains(String),
    Matches(Regex),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Or,
    And,
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
    Power,
}

#[derive(Clone, Debug)]
pub(super) struct Aggregate {
    pub(super) kind: AggregateKind,
    pub(super) of: Option<Expr>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum AggregateKind {
    Count,
    CountDistinct,
    Sum,
    Average,
    Least,
    Greatest,
    Percentile(f64),
    Deviation,
    Earliest,
    Latest,
    SortsFirst,
    SortsLast,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Abs,
    Ceil,
    Floor,
    Greatest,
    Least,
    Log,
    Sqrt,
    IsPresent,
    Coalesce,
    IsEmpty,
    IsBlank,
    Concat,
    Trim,
    TrimLeft,
    TrimRight,
    Length,
    Upper,
    Lower,
    Substring,
    Replace,
    Contains,
    IsIp,
    IsIpv4,
    IsIpv6,
    Bin,
    DateFloor,
    DateCeil,
    FromMillis,
    ToMillis,
}

impl Function {
    /// By its name, whatever its case, with the fewest and the most arguments.
    pub(super) fn named(name: &str) -> Option<(Self, usize, usize)> {
        const MANY: usize = 32;
        Some(match name.to_ascii_lowercase().as_str() {
            "abs" => (Self::Abs, 1, 1),
            "ceil" => (Self::Ceil, 1, 1),
            "floor" => (Self::Floor, 1, 1),
            "greatest" => (Self::Greatest, 1, MANY),
            "least" => (Self::Least, 1, MANY),
            "log" => (Self::Log, 1, 1),
            "sqrt" => (Self::Sqrt, 1, 1),
            "ispresent" => (Self::IsPresent, 1, 1),
            "coalesce" => (Self::Coalesce, 1, MANY),
            "isempty" => (Self::IsEmpty, 1, 1),
            "isblank" => (Self::IsBlank, 1, 1),
            "concat" => (Self::Concat, 1, MANY),
            "trim" => (Self::Trim, 1, 2),
            "ltrim" => (Self::TrimLeft, 1, 2),
            "rtrim" => (Self::TrimRight, 1, 2),
            "strlen" => (Self::Length, 1, 1),
            "toupper" => (Self::Upper, 1, 1),
            "tolower" => (Self::Lower, 1, 1),
            "substr" => (Self::Substring, 2, 3),
            "replace" => (Self::Replace, 3, 3),
            "strcontains" => (Self::Contains, 2, 2),
            "isvalidip" => (Self::IsIp, 1, 1),
            "isvalidipv4" => (Self::IsIpv4, 1, 1),
            "isvalidipv6" => (Self::IsIpv6, 1, 1),
            "bin" => (Self::Bin, 1, 1),
            "datefloor" => (Self::DateFloor, 2, 2),
            "dateceil" => (Self::DateCeil, 2, 2),
            "frommillis" => (Self::FromMillis, 1, 1),
            "tomillis" => (Self::ToMillis, 1, 1),
            _ => return None,
        })
    }
}
