//! Selectors and the stages behind them.

use backlot_windows::Pattern;

use super::ast::{LogExpr, Unit, Unwrap};
use super::cursor::Cursor;
use super::lex::Token;
use super::{LIST_MAX, ParseError};
use crate::logs::loki::pipeline::{
    Compare, Format, JsonPath, LabelFilter, LabelPick, LineFilter, LineTest, Pieces, Quantity, Stage, Template,
    named_groups,
};

/// A condition on one label.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::logs::loki) enum Matcher {
    Equal(String, String),
    NotEqual(String, String),
    Matches(String, Pattern),
    NotMatches(String, Pattern),
}

impl Matcher {
    pub(in crate::logs::loki) fn name(&self) -> &str {
        match self {
            Self::Equal(name, _) | Self::NotEqual(name, _) | Self::Matches(name, _) | Self::NotMatches(name, _) => name,
        }
    }

    /// Whether a value passes; that of a label which is not there is empty.
    pub(in crate::logs::loki) fn holds(&self, value: &str) -> bool {
        match self {
            Self::Equal(_, wanted) => value == wanted,
            Self::NotEqual(_, wanted) => value != wanted,
            Self::Matches(_, pattern) => pattern.is_match(value),
            Self::NotMatches(_, pattern) => !pattern.is_match(value),
        }
    }
}

/// Reads a selector alone, as `match[]` has it. `{}` is every stream here.
///
/// # Errors
/// [`ParseError`].
pub(in crate::logs::loki) fn selector(text: &str) -> Result<Vec<Matcher>, ParseError> {
    let mut cursor = Cursor::new(text)?;
    let matchers = matchers(&mut cursor)?;
    if *cursor.peek() == Token::End { Ok(matchers) } else { Err(cursor.unexpected("$end")) }
}

/// A selector of a query, which must name some streams.
pub(super) fn streams(cursor: &mut Cursor) -> Result<Vec<Matcher>, ParseError> {
    let matchers = matchers(cursor)?;
    let names_some =
        |matcher: &Matcher| matches!(matcher, Matcher::Equal(..) | Matcher::Matches(..)) && !matcher.holds("");
    if matchers.iter().any(names_some) {
        return Ok(matchers);
    }
    Err(ParseError::Whole(
        "queries require at least one regexp or equality matcher that does not have an empty-compatible value. For instance, \
         app=~\".*\" does not meet this requirement, but app=~\".+\" will"
            .to_owned(),
    ))
}

fn matchers(cursor: &mut Cursor) -> Result<Vec<Matcher>, ParseError> {
    cursor.expect("{")?;
    if cursor.takes("}") {
        return Ok(Vec::new());
    }
    let mut matchers = Vec::new();
    loop {
        if matchers.len() >= LIST_MAX {
            return Err(cursor.error(format!("more than {LIST_MAX} matchers")));
        }
        matchers.push(matcher(cursor)?);
        if cursor.takes(",") {
            if cursor.takes("}") {
                return Ok(matchers); // a comma may stand at the end
            }
        } else if cursor.takes("}") {
            return Ok(matchers);
        } else {
            return Err(cursor.unexpected("} or ,"));
        }
    }
}

fn matcher(cursor: &mut Cursor) -> Result<Matcher, ParseError> {
    let name = cursor.expect_word()?;
    let make: fn(String, String) -> Matcher = match cursor.peek() {
        Token::Sign("=") => Matcher::Equal,
        Token::Sign("!=") => Matcher::NotEqual,
        Token::Sign(sign @ ("=~" | "!~")) => {
            let negated = *sign == "!~";
            cursor.take();
            let place = cursor.place();
            let pattern = whole(&cursor.expect_text()?, place)?;
            return Ok(if negated { Matcher::NotMatches(name, pattern) } else { Matcher::Matches(name, pattern) });
        }
        _ => return Err(cursor.unexpected("= or != or =~ or !~")),
    };
    cursor.take();
    Ok(make(name, cursor.expect_text()?))
}

/// An expression for a whole value.
fn whole(text: &str, place: (usize, usize)) -> Result<Pattern, ParseError> {
    Pattern::new(text, true).map_err(|problem| Cursor::error_at(place, format!("error parsing regexp: {problem}")))
}

/// What stands in `rate(…)`: lines, their range, the number in them.
pub(super) struct RangeOfLogs {
    pub(super) log: LogExpr,
    pub(super) unwrap: Option<Unwrap>,
    pub(super) range_ns: i64,
    pub(super) offset_ns: i64,
}

/// `{…} | …`.
pub(super) fn log(cursor: &mut Cursor) -> Result<LogExpr, ParseError> {
    let matchers = streams(cursor)?;
    let mut stages = Vec::new();
    while starts_stage(cursor) {
        push(cursor, &mut stages)?;
    }
    Ok(LogExpr { matchers, stages })
}

/// `{…} | … | unwrap x [5m] offset 1h`; the range may also stand behind the selector, and either in parentheses.
pub(super) fn range(cursor: &mut Cursor) -> Result<RangeOfLogs, ParseError> {
    let mut found = Partly { range_ns: None, offset_ns: 0, unwrap: None };
    let log = ranged(cursor, &mut found)?;
    let Partly { range_ns, offset_ns, unwrap } = found;
    let range_ns = range_ns.ok_or_else(|| cursor.unexpected("RANGE"))?;
    Ok(RangeOfLogs { log, unwrap, range_ns, offset_ns })
}

struct Partly {
    range_ns: Option<i64>,
    offset_ns: i64,
    unwrap: Option<Unwrap>,
}

fn ranged(cursor: &mut Cursor, found: &mut Partly) -> Result<LogExpr, ParseError> {
    let mut log = if cursor.takes("(") {
        let inner = cursor.deeper(|cursor| ranged(cursor, found))?;
        cursor.expect(")")?;
        inner
    } else {
        LogExpr { matchers: streams(cursor)?, stages: Vec::new() }
    };
    loop {
        if cursor.is_sign("[") && found.range_ns.is_none() {
            cursor.take();
            let place = cursor.place();
            let range_ns = cursor.duration()?;
            if range_ns <= 0 {
                return Err(Cursor::error_at(place, "the range must be greater than 0"));
            }
            cursor.expect("]")?;
            found.range_ns = Some(range_ns);
            if cursor.takes_word("offset") {
                found.offset_ns = cursor.duration()?;
            }
        } else if cursor.is_sign("|") && matches!(cursor.peek_second(), Token::Word(word) if word == "unwrap") {
            if found.unwrap.is_some() {
                return Err(cursor.unexpected(""));
            }
            cursor.take();
            cursor.take();
            found.unwrap = Some(unwrap(cursor)?);
        } else if starts_stage(cursor) {
            match &mut found.unwrap {
                None => push(cursor, &mut log.stages)?,
                Some(unwrap) => {
                    // Behind the number only labels are looked at.
                    cursor.expect("|")?;
                    unwrap.filters.push(any_label(cursor)?);
                }
            }
        } else {
            return Ok(log);
        }
    }
}

fn unwrap(cursor: &mut Cursor) -> Result<Unwrap, ParseError> {
    let place = cursor.place();
    let word = cursor.expect_word()?;
    if !cursor.takes("(") {
        return Ok(Unwrap { label: word, unit: Unit::Number, filters: Vec::new() });
    }
    let unit = match word.as_str() {
        "duration" | "duration_seconds" => Unit::Duration,
        "bytes" => Unit::Bytes,
        _ => {
            return Err(Cursor::error_at(
                place,
                "syntax error: unexpected IDENTIFIER, expecting bytes or duration or duration_seconds",
            ));
        }
    };
    let label = cursor.expect_word()?;
    cursor.expect(")")?;
    Ok(Unwrap { label, unit, filters: Vec::new() })
}

fn starts_stage(cursor: &Cursor) -> bool {
    matches!(cursor.peek(), Token::Sign("|" | "|=" | "|~" | "|>" | "!=" | "!~" | "!>"))
}

fn push(cursor: &mut Cursor, stages: &mut Vec<Stage>) -> Result<(), ParseError> {
    if stages.len() >= LIST_MAX {
        return Err(cursor.error(format!("more than {LIST_MAX} stages")));
    }
    stages.push(stage(cursor)?);
    Ok(())
}

fn stage(cursor: &mut Cursor) -> Result<Stage, ParseError> {
    if !cursor.is_sign("|") {
        return line_filter(cursor).map(Stage::Line);
    }
    cursor.take();
    let place = cursor.place();
    let word = match cursor.peek() {
        Token::Word(word) => word.clone(),
        Token::Sign("(") => return any_label(cursor).map(Stage::Labels),
        _ => return Err(cursor.unexpected("IDENTIFIER")),
    };
    // A label may be called like a stage: `| pattern="x"`.
    if matches!(cursor.peek_second(), Token::Sign("=" | "!=" | "=~" | "!~" | "==" | ">" | "<" | ">=" | "<=")) {
        return any_label(cursor).map(Stage::Labels);
    }
    cursor.take();
    let at = |problem: String| Cursor::error_at(place, problem);
    Ok(match word.as_str() {
        "json" => {
            let fields = fields(cursor)?;
            let path = |(label, path): (String, String)| Ok((label, JsonPath::parse(&path).map_err(at)?));
            Stage::Json(fields.into_iter().map(path).collect::<Result<_, _>>()?)
        }
        "logfmt" => {
            let (mut strict, mut keep_empty) = (false, false);
            while let Token::Flag(flag) = cursor.peek() {
                match flag.as_str() {
                    "strict" => strict = true,
                    "keep-empty" => keep_empty = true,
                    _ => return Err(cursor.unexpected("--strict or --keep-empty")),
                }
                cursor.take();
            }
            Stage::Logfmt { strict, keep_empty, fields: fields(cursor)? }
        }
        "pattern" => Stage::Pattern(Pieces::parse(&cursor.expect_text()?).map_err(at)?),
        "regexp" => Stage::Regexp(named_groups(&cursor.expect_text()?).map_err(at)?),
        "unpack" => Stage::Unpack,
        "line_format" => Stage::LineFormat(Template::parse(&cursor.expect_text()?).map_err(at)?),
        "label_format" => Stage::LabelFormat(cursor.list(label_format)?),
        "decolorize" => Stage::Decolorize,
        "drop" => Stage::Drop(cursor.list(label_pick)?),
        "keep" => Stage::Keep(cursor.list(label_pick)?),
        _ => return Err(at("syntax error: unexpected IDENTIFIER".to_owned())),
    })
}

/// `a="path", b`, or nothing.
fn fields(cursor: &mut Cursor) -> Result<Vec<(String, String)>, ParseError> {
    if !matches!(cursor.peek(), Token::Word(word) if word != "offset") {
        return Ok(Vec::new());
    }
    cursor.list(|cursor| {
        let label = cursor.expect_word()?;
        let path = if cursor.takes("=") { cursor.expect_text()? } else { label.clone() };
        Ok((label, path))
    })
}

fn label_format(cursor: &mut Cursor) -> Result<(String, Format), ParseError> {
    let label = cursor.expect_word()?;
    cursor.expect("=")?;
    if let Token::Word(other) = cursor.peek() {
        let other = other.clone();
        cursor.take();
        return Ok((label, Format::Rename(other)));
    }
    let place = cursor.place();
    let template = Template::parse(&cursor.expect_text()?);
    Ok((label, Format::Template(template.map_err(|problem| Cursor::error_at(place, problem))?)))
}

fn label_pick(cursor: &mut Cursor) -> Result<LabelPick, ParseError> {
    let is_condition = matches!(cursor.peek_second(), Token::Sign("=" | "!=" | "=~" | "!~"));
    if is_condition {
        return matcher(cursor).map(LabelPick::If);
    }
    cursor.expect_word().map(LabelPick::Named)
}

/// `|= "a" or "b"`.
fn line_filter(cursor: &mut Cursor) -> Result<LineFilter, ParseError> {
    let Token::Sign(sign) = cursor.take() else { return Err(cursor.unexpected("")) };
    let mut any = Vec::new();
    loop {
        let place = cursor.place();
        if cursor.is_word("ip") {
            return Err(cursor.error("the filter ip() is not supported; write a regular expression with |~"));
        }
        let text = cursor.expect_text()?;
        any.push(line_test(sign, text).map_err(|problem| Cursor::error_at(place, problem))?);
        if any.len() > LIST_MAX {
            return Err(cursor.error(format!("more than {LIST_MAX} alternatives")));
        }
        if !cursor.takes_word("or") {
            break;
        }
    }
    Ok(LineFilter { negated: matches!(sign, "!=" | "!~" | "!>"), any })
}

fn line_test(sign: &str, text: String) -> Result<LineTest, String> {
    let matching = |text: &str| {
        Pattern::new(text, false).map(LineTest::Matches).map_err(|why| format!("error parsing regexp: {why}"))
    };
    match sign {
        "|=" | "!=" => Ok(LineTest::Contains(text)),
        "|~" | "!~" => matching(&text),
        _ => matching(&Pieces::line_expression(&text)),
    }
}

/// `a="x" or b>5, c<1s`: a comma binds as `and` does, and so does nothing at all.
fn any_label(cursor: &mut Cursor) -> Result<LabelFilter, ParseError> {
    cursor.deeper(|cursor| {
        let mut some = vec![all_labels(cursor)?];
        while cursor.takes_word("or") {
            bounded(cursor, some.len())?;
            some.push(all_labels(cursor)?);
        }
        Ok(if some.len() == 1 { some.remove(0) } else { LabelFilter::Any(some) })
    })
}

fn all_labels(cursor: &mut Cursor) -> Result<LabelFilter, ParseError> {
    let mut all = vec![one_label(cursor)?];
    loop {
        let goes_on = cursor.takes_word("and") || cursor.takes(",") || {
            let starts = cursor.is_sign("(") || matches!(cursor.peek(), Token::Word(_));
            starts && !cursor.is_word("or")
        };
        if !goes_on {
            return Ok(if all.len() == 1 { all.remove(0) } else { LabelFilter::All(all) });
        }
        bounded(cursor, all.len())?;
        all.push(one_label(cursor)?);
    }
}

fn bounded(cursor: &Cursor, length: usize) -> Result<(), ParseError> {
    if length < LIST_MAX { Ok(()) } else { Err(cursor.error(format!("more than {LIST_MAX} conditions"))) }
}

fn one_label(cursor: &mut Cursor) -> Result<LabelFilter, ParseError> {
    if cursor.takes("(") {
        let inner = any_label(cursor)?;
        cursor.expect(")")?;
        return Ok(inner);
    }
    let label = cursor.expect_word()?;
    let Token::Sign(sign) = cursor.peek().clone() else { return Err(cursor.unexpected("")) };
    let is_text =
        matches!(sign, "=~" | "!~") || (matches!(sign, "=" | "!=") && matches!(cursor.peek_second(), Token::Text(_)));
    let compare = match sign {
        "=" | "==" => Compare::Equal,
        "!=" => Compare::NotEqual,
        ">" => Compare::Greater,
        ">=" => Compare::GreaterEqual,
        "<" => Compare::Less,
        "<=" => Compare::LessEqual,
        "=~" | "!~" => Compare::Equal, // not looked at: it is text
        _ => return Err(cursor.unexpected("")),
    };
    cursor.take();
    if is_text {
        let place = cursor.place();
        let text = cursor.expect_text()?;
        return Ok(LabelFilter::Text(match sign {
            "=" => Matcher::Equal(label, text),
            "!=" => Matcher::NotEqual(label, text),
            "=~" => Matcher::Matches(label, whole(&text, place)?),
            _ => Matcher::NotMatches(label, whole(&text, place)?),
        }));
    }
    let (quantity, than) = match *cursor.peek() {
        Token::Duration(ns) => {
            cursor.take();
            (Quantity::Duration, ns as f64)
        }
        Token::Bytes(bytes) => {
            cursor.take();
            (Quantity::Bytes, bytes)
        }
        Token::Sign("-") if matches!(cursor.peek_second(), Token::Duration(_)) => {
            (Quantity::Duration, cursor.duration()? as f64)
        }
        _ if cursor.is_word("ip") => return Err(cursor.error("the filter ip() is not supported")),
        _ => (Quantity::Number, cursor.number().ok_or_else(|| cursor.unexpected("BYTES or DURATION or NUMBER"))?),
    };
    Ok(LabelFilter::Number { label, compare, quantity, than })
}
