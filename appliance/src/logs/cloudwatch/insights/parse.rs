//! Reads a query.

use regex::{Regex, RegexBuilder};

use super::ast::{Aggregate, AggregateKind, Command, Direction, Expr, Extract, Function, Likeness, Named, Operator};
use super::scan::{Malformed, Scanner};

/// Most commands of a query, expressions of a list, and most rows it may ask for (AWS).
const COMMANDS_MAX: usize = 50;
const LIST_MAX: usize = 200;
pub(in crate::logs::cloudwatch) const ROWS_MAX: usize = 10_000;
/// How deep expressions may be nested.
const DEPTH_MAX: usize = 40;
const OPERATORS_MAX: usize = 300;
const REGEX_BYTES_MAX: usize = 1 << 20;
/// Commands of Insights that are not served.
const ABSENT: [&str; 8] = ["pattern", "diff", "anomaly", "unmask", "join", "lookup", "unnest", "addtotals"];

type Parsed<T> = Result<T, Malformed>;

pub(super) fn commands(text: &str) -> Parsed<Vec<Command>> {
    let mut parser = Parser { scanner: Scanner::new(text), in_stats: false, operators: 0 };
    let mut commands = Vec::new();
    parser.scanner.take("|");
    loop {
        if parser.scanner.is_done() {
            return Ok(commands);
        }
        if commands.len() >= COMMANDS_MAX {
            return parser.scanner.fault(format!("a query has at most {COMMANDS_MAX} commands"));
        }
        commands.push(parser.command()?);
        if !parser.scanner.take("|") && !parser.scanner.is_done() {
            return parser.scanner.fault("a | or the end was expected");
        }
    }
}

struct Parser<'a> {
    scanner: Scanner<'a>,
    /// Whether an aggregate may stand here.
    in_stats: bool,
    operators: usize,
}

impl Parser<'_> {
    fn command(&mut self) -> Parsed<Command> {
        let began = self.scanner;
        let word = self.scanner.name()?.unwrap_or_default().to_ascii_lowercase();
        match word.as_str() {
            "fields" => Ok(Command::Fields(self.list(Self::named)?)),
            "display" => Ok(Command::Display(self.list(Self::named)?)),
            "dedup" => Ok(Command::Dedup(self.list(Self::named)?)),
            "filter" | "filterindex" => Ok(Command::Filter(self.expr(0)?)),
            "parse" => self.parse(),
            "stats" => self.stats(),
            "sort" | "order" => {
                self.scanner.take_word("by");
                Ok(Command::Sort(self.list(Self::key)?))
            }
            "limit" | "head" => match self.scanner.number()? {
                Some(number) if number.fract() == 0.0 && (1.0..=ROWS_MAX as f64).contains(&number) => {
                    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "is 1 to 10,000")]
                    let rows = number as usize;
                    Ok(Command::Limit(rows))
                }
                _ => self.scanner.fault(format!("limit is 1 to {ROWS_MAX}")),
            },
            absent if ABSENT.contains(&absent) => began.fault(format!("the command {absent} is not served here")),
            _ => began.fault("a command was expected: fields, display, filter, parse, stats, sort, limit or dedup"),
        }
    }

    /// One or more, with commas between them.
    fn list<T>(&mut self, mut one: impl FnMut(&mut Self) -> Parsed<T>) -> Parsed<Vec<T>> {
        let mut all = vec![one(self)?];
        while self.scanner.take(",") {
            if all.len() >= LIST_MAX {
                return self.scanner.fault(format!("a list has at most {LIST_MAX} entries"));
            }
            all.push(one(self)?);
        }
        Ok(all)
    }

    fn named(&mut self) -> Parsed<Named> {
        self.scanner.skip();
        let began = self.scanner.position();
        let expr = self.expr(0)?;
        let written = match &expr {
            Expr::Field(name) => name.clone(),
            _ => self.scanner.since(began).to_owned(),
        };
        let name = if self.scanner.take_word("as") { self.column()? } else { written };
        Ok(Named { name, expr })
    }

    fn column(&mut self) -> Parsed<String> {
        match self.scanner.name()? {
            Some(name) => Ok(name),
            None => self.scanner.fault("a name was expected"),
        }
    }

    fn key(&mut self) -> Parsed<(Expr, Direction)> {
        self.scanner.skip();
        let began = self.scanner.position();
        let before = std::mem::replace(&mut self.in_stats, true);
        let expr = self.expr(0);
        self.in_stats = before;
        let expr = match expr? {
            // After stats, `sort count(*)` means the column of that name.
            expr if has_aggregate(&expr) => Expr::Field(self.scanner.since(began).to_owned()),
            expr => expr,
        };
        let descending = self.scanner.take_word("desc");
        if !descending {
            self.scanner.take_word("asc");
        }
        Ok((expr, if descending { Direction::Descending } else { Direction::Ascending }))
    }

    fn stats(&mut self) -> Parsed<Command> {
        self.in_stats = true;
        let aggregates = self.list(Self::named);
        self.in_stats = false;
        let aggregates = aggregates?;
        let by = if self.scanner.take_word("by") { self.list(Self::named)? } else { Vec::new() };
        match aggregates.iter().find(|named| !has_aggregate(&named.expr)) {
            Some(plain) => self.scanner.fault(format!("{} is no aggregate", plain.name)),
            None => Ok(Command::Stats { aggregates, by }),
        }
    }

    fn parse(&mut self) -> Parsed<Command> {
        let of = match self.scanner.name()? {
            Some(name) => Expr::Field(name),
            None => Expr::Field("@message".to_owned()),
        };
        if let Some(text) = self.scanner.slashed()? {
            let regex = self.regex(&text)?;
            let mut names: Vec<_> =
                regex.capture_names().enumerate().filter_map(|(at, name)| Some((at, name?.to_owned()))).collect();
            if self.scanner.take_word("as") {
                names = (1..).zip(self.list(Self::column)?).collect();
            }
            if names.is_empty() || names.len() >= regex.captures_len() {
                return self.scanner.fault("the regular expression needs a named group for each field");
            }
            return Ok(Command::Parse { of, pattern: Extract { regex, names } });
        }
        let Some(glob) = self.scanner.quoted()? else {
            return self.scanner.fault("a pattern was expected, in quotation marks or between slashes");
        };
        if !self.scanner.take_word("as") {
            return self.scanner.fault("as was expected, with a name for each *");
        }
        let columns = self.list(Self::column)?;
        let stars = glob.matches('*').count();
        if stars == 0 || stars != columns.len() {
            return self.scanner.fault(format!("the pattern has {stars} * and there are {} names", columns.len()));
        }
        let regex = self.regex(&glob_expression(&glob))?;
        Ok(Command::Parse { of, pattern: Extract { regex, names: (1..).zip(columns).collect() } })
    }

    fn regex(&self, text: &str) -> Parsed<Regex> {
        match RegexBuilder::new(text).size_limit(REGEX_BYTES_MAX).dfa_size_limit(REGEX_BYTES_MAX).build() {
            Ok(regex) => Ok(regex),
            Err(_) => self.scanner.fault("this is no regular expression that can be served, or too large a one"),
        }
    }

    fn expr(&mut self, depth: usize) -> Parsed<Expr> {
        if depth > DEPTH_MAX {
            return self.scanner.fault("this is nested too deeply");
        }
        let mut left = self.and(depth + 1)?;
        while self.scanner.take_word("or") || self.scanner.take("||") {
            let right = self.and(depth + 1)?;
            left = self.join(Operator::Or, left, right)?;
        }
        Ok(left)
    }

    fn and(&mut self, depth: usize) -> Parsed<Expr> {
        let mut left = self.not(depth)?;
        while self.scanner.take_word("and") || self.scanner.take("&&") {
            let right = self.not(depth)?;
            left = self.join(Operator::And, left, right)?;
        }
        Ok(left)
    }

    fn not(&mut self, depth: usize) -> Parsed<Expr> {
        if depth > DEPTH_MAX {
            return self.scanner.fault("this is nested too deeply");
        }
        let negated = self.scanner.take_word("not")
            || (self.scanner.rest().starts_with('!')
                && !self.scanner.rest().starts_with("!=")
                && self.scanner.take("!"));
        if negated { Ok(Expr::Not(Box::new(self.not(depth + 1)?))) } else { self.comparison(depth) }
    }

    fn comparison(&mut self, depth: usize) -> Parsed<Expr> {
        let left = self.sum(depth)?;
        let before = self.scanner;
        let negated = self.scanner.take_word("not");
        let wrap = |expr: Expr| if negated { Expr::Not(Box::new(expr)) } else { expr };
        if self.scanner.take_word("like") {
            return Ok(wrap(Expr::Like(Box::new(left), self.likeness(true)?)));
        }
        if self.scanner.take_word("in") {
            if !self.scanner.take("[") {
                return self.scanner.fault("[ was expected");
            }
            let values = self.list(|parser| parser.sum(depth + 1))?;
            return match self.scanner.take("]") {
                true => Ok(wrap(Expr::In(Box::new(left), values))),
                false => self.scanner.fault("] was expected"),
            };
        }
        if negated {
            self.scanner = before;
            return Ok(left);
        }
        if self.scanner.take("=~") {
            return Ok(Expr::Like(Box::new(left), self.likeness(false)?));
        }
        let operators = [
            ("!=", Operator::Unequal),
            ("<=", Operator::LessOrEqual),
            (">=", Operator::GreaterOrEqual),
            ("==", Operator::Equal),
            ("=", Operator::Equal),
            ("<", Operator::Less),
            (">", Operator::Greater),
        ];
        match operators.into_iter().find(|(sign, _)| self.scanner.take(sign)) {
            Some((_, operator)) => {
                let right = self.sum(depth)?;
                self.join(operator, left, right)
            }
            None => Ok(left),
        }
    }

    /// What `like` (where a text is a part of the other) and `=~` (where it is an expression) compare with.
    fn likeness(&mut self, literal: bool) -> Parsed<Likeness> {
        if let Some(text) = self.scanner.slashed()? {
            return Ok(Likeness::Matches(self.regex(&text)?));
        }
        match self.scanner.quoted()? {
            Some(text) if literal => Ok(Likeness::Contains(text)),
            Some(text) => Ok(Likeness::Matches(self.regex(&text)?)),
            None => self.scanner.fault("a text in quotation marks or a regular expression was expected"),
        }
    }

    fn sum(&mut self, depth: usize) -> Parsed<Expr> {
        let mut left = self.product(depth)?;
        loop {
            let operator = if self.scanner.take("+") {
                Operator::Add
            } else if self.scanner.take("-") {
                Operator::Subtract
            } else {
                return Ok(left);
            };
            let right = self.product(depth)?;
            left = self.join(operator, left, right)?;
        }
    }

    fn product(&mut self, depth: usize) -> Parsed<Expr> {
        let mut left = self.power(depth)?;
        loop {
            let operator = if self.scanner.take("*") {
                Operator::Multiply
            } else if self.scanner.take("/") {
                Operator::Divide
            } else if self.scanner.take("%") {
                Operator::Modulo
            } else {
                return Ok(left);
            };
            let right = self.power(depth)?;
            left = self.join(operator, left, right)?;
        }
    }

    fn power(&mut self, depth: usize) -> Parsed<Expr> {
        if depth > DEPTH_MAX {
            return self.scanner.fault("this is nested too deeply");
        }
        let left = self.primary(depth)?;
        if !self.scanner.take("^") {
            return Ok(left);
        }
        let right = self.power(depth + 1)?;
        self.join(Operator::Power, left, right)
    }

    /// One more operator: a chain of them is as deep as it is long.
    fn join(&mut self, operator: Operator, left: Expr, right: Expr) -> Parsed<Expr> {
        self.operators += 1;
        if self.operators > OPERATORS_MAX {
            return self.scanner.fault(format!("a query has at most {OPERATORS_MAX} operators"));
        }
        Ok(Expr::Binary(operator, Box::new(left), Box::new(right)))
    }

    fn primary(&mut self, depth: usize) -> Parsed<Expr> {
        if depth > DEPTH_MAX {
            return self.scanner.fault("this is nested too deeply");
        }
        if self.scanner.take("(") {
            let inner = self.expr(depth + 1)?;
            return if self.scanner.take(")") { Ok(inner) } else { self.scanner.fault(") was expected") };
        }
        if self.scanner.take("-") {
            return Ok(Expr::Negative(Box::new(self.primary(depth + 1)?)));
        }
        if let Some(text) = self.scanner.quoted()? {
            return Ok(Expr::Text(text));
        }
        if let Some(number) = self.scanner.number()? {
            #[allow(
                clippy::cast_possible_truncation,
                reason = "saturates, and periods are bounded where they are used"
            )]
            let period = |ms: i64| Expr::Period((number * ms as f64) as i64);
            return Ok(self.scanner.unit().map_or(Expr::Number(number), period));
        }
        let backticked = self.scanner.rest().starts_with('`');
        let began = self.scanner;
        let Some(name) = self.scanner.name()? else { return self.scanner.fault("a value was expected") };
        if !backticked && self.scanner.rest().trim_start().starts_with('(') {
            return self.call(&name, began, depth);
        }
        Ok(Expr::Field(name))
    }

    fn call(&mut self, name: &str, began: Scanner<'_>, depth: usize) -> Parsed<Expr> {
        self.scanner.take("(");
        if let Some(kind) = aggregate_named(name) {
            if !self.in_stats {
                return began.fault(format!("{name} can stand in stats alone"));
            }
            return self.aggregate(kind, depth);
        }
        let Some((function, least, most)) = Function::named(name) else {
            return began.fault(format!("there is no function {name}"));
        };
        let arguments = if self.scanner.take(")") {
            Vec::new()
        } else {
            let arguments = self.list(|parser| parser.expr(depth + 1))?;
            if !self.scanner.take(")") {
                return self.scanner.fault(") was expected");
            }
            arguments
        };
        if arguments.len() < least || arguments.len() > most {
            return began.fault(format!("{name} does not take {} arguments", arguments.len()));
        }
        let takes_period = matches!(function, Function::Bin | Function::DateFloor | Function::DateCeil);
        if takes_period && !matches!(arguments.last(), Some(Expr::Period(1..))) {
            return began.fault(format!("{name} takes a length of time such as 5m"));
        }
        Ok(Expr::Call(function, arguments))
    }

    fn aggregate(&mut self, kind: AggregateKind, depth: usize) -> Parsed<Expr> {
        let mut kind = kind;
        let of = if self.scanner.take("*") || self.scanner.rest().trim_start().starts_with(')') {
            None
        } else {
            // No aggregate of aggregates.
            self.in_stats = false;
            let of = self.expr(depth + 1);
            self.in_stats = true;
            Some(of?)
        };
        if let AggregateKind::Percentile(percent) = &mut kind
            && percent.is_nan()
        {
            let given = if self.scanner.take(",") { self.scanner.number()? } else { None };
            match given.filter(|given| (0.0..=100.0).contains(given)) {
                Some(given) => *percent = given,
                None => return self.scanner.fault("a percentage from 0 to 100 was expected"),
            }
        }
        if of.is_none() && kind != AggregateKind::Count {
            return self.scanner.fault("a field was expected");
        }
        if !self.scanner.take(")") {
            return self.scanner.fault(") was expected");
        }
        Ok(Expr::Aggregate(Box::new(Aggregate { kind, of })))
    }
}

fn aggregate_named(name: &str) -> Option<AggregateKind> {
    Some(match name.to_ascii_lowercase().as_str() {
        "count" => AggregateKind::Count,
        "count_distinct" => AggregateKind::CountDistinct,
        "sum" => AggregateKind::Sum,
        "avg" => AggregateKind::Average,
        "min" => AggregateKind::Least,
        "max" => AggregateKind::Greatest,
        // Which one, is still to come.
        "pct" | "percentile" => AggregateKind::Percentile(f64::NAN),
        "median" => AggregateKind::Percentile(50.0),
        "stddev" => AggregateKind::Deviation,
        "earliest" => AggregateKind::Earliest,
        "latest" => AggregateKind::Latest,
        "sortsfirst" => AggregateKind::SortsFirst,
        "sortslast" => AggregateKind::SortsLast,
        _ => return None,
    })
}

fn has_aggregate(expr: &Expr) -> bool {
    match expr {
        Expr::Aggregate(_) => true,
        Expr::Binary(_, left, right) => has_aggregate(left) || has_aggregate(right),
        Expr::Negative(of) | Expr::Not(of) | Expr::Like(of, _) => has_aggregate(of),
        Expr::In(of, values) => has_aggregate(of) || values.iter().any(has_aggregate),
        Expr::Call(_, arguments) => arguments.iter().any(has_aggregate),
        Expr::Number(_) | Expr::Text(_) | Expr::Period(_) | Expr::Field(_) => false,
    }
}

/// Each star takes as little as it can, the last one all that is left.
fn glob_expression(glob: &str) -> String {
    let pieces: Vec<_> = glob.split('*').map(regex::escape).collect();
    let last = pieces.len() - 1;
    let ends_with_star = pieces[last].is_empty();
    let mut expression = String::from("(?s)");
    for (at, piece) in pieces.iter().enumerate() {
        expression.push_str(piece);
        if at < last {
            expression.push_str(if at + 1 == last && ends_with_star { "(.*)" } else { "(.*?)" });
        }
    }
    expression
}
