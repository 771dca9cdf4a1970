//! What a value of a line is compared with: a number, a text with stars, or a regular expression.

use regex::Regex;
use serde_json::Value;

use super::regex;
use super::scan::Scanner;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Operator {
    /// The operator that stands next.
    pub(super) fn take(scanner: &mut Scanner<'_>) -> Option<Self> {
        let all = [
            ("!=", Self::Unequal),
            ("<=", Self::LessOrEqual),
            (">=", Self::GreaterOrEqual),
            ("=", Self::Equal),
            ("<", Self::Less),
            (">", Self::Greater),
        ];
        all.into_iter().find(|(text, _)| scanner.take(text)).map(|(_, operator)| operator)
    }

    fn orders(self) -> bool {
        !matches!(self, Self::Equal | Self::Unequal)
    }

    fn holds(self, of: f64, with: f64) -> bool {
        match self {
            Self::Equal => of == with,
            Self::Unequal => of != with,
            Self::Less => of < with,
            Self::LessOrEqual => of <= with,
            Self::Greater => of > with,
            Self::GreaterOrEqual => of >= with,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) enum Operand {
    /// As a number, and as it was written.
    Number(f64, String),
    /// The pieces between the stars.
    Text(Vec<String>),
    Regex(Regex),
}

/// An operator with what stands at its right.
#[derive(Clone, Debug)]
pub(super) struct Comparison {
    operator: Operator,
    operand: Operand,
}

impl Comparison {
    /// Reads what stands after an operator, up to where `ends` says.
    pub(super) fn take(
        scanner: &mut Scanner<'_>,
        operator: Operator,
        regexes: &mut usize,
        ends: impl Fn(char) -> bool,
    ) -> Result<Self, String> {
        scanner.skip_spaces();
        let operand = match scanner.peek() {
            Some('"') => Operand::Text(pieces(&scanner.quoted()?)),
            Some('%') => Operand::Regex(regex(&scanner.regex()?, regexes)?),
            _ => {
                let bare = scanner.bare(|sign| sign.is_whitespace() || ends(sign));
                match bare.parse::<f64>() {
                    _ if bare.is_empty() => {
                        return Err("Invalid filter pattern: there is no value to compare with".into());
                    }
                    Ok(number) if number.is_finite() => Operand::Number(number, bare.to_owned()),
                    _ => Operand::Text(pieces(bare)),
                }
            }
        };
        if operator.orders() && !matches!(operand, Operand::Number(..)) {
            return Err("Invalid filter pattern: only numbers can be compared by < and >".into());
        }
        Ok(Self { operator, operand })
    }

    /// Whether a word of a line is as it should be.
    pub(super) fn holds_for_text(&self, text: &str) -> bool {
        match &self.operand {
            Operand::Number(number, written) => match text.parse::<f64>() {
                Ok(of) => self.operator.holds(of, *number),
                Err(_) => !self.operator.orders() && (self.operator == Operator::Equal) == (text == written),
            },
            Operand::Text(pieces) => (self.operator == Operator::Equal) == is_made_of(text, pieces),
            Operand::Regex(regex) => (self.operator == Operator::Equal) == regex.is_match(text),
        }
    }

    /// The same for a value of JSON; an array or an object is like nothing.
    pub(super) fn holds_for(&self, value: &Value) -> bool {
        match (value, &self.operand) {
            (Value::Number(of), Operand::Number(number, _)) => {
                of.as_f64().is_some_and(|of| self.operator.holds(of, *number))
            }
            (Value::String(text), Operand::Number(_, written)) => {
                !self.operator.orders() && (self.operator == Operator::Equal) == (text == written)
            }
            (Value::String(text), _) => self.holds_for_text(text),
            (Value::Number(number), _) => self.holds_for_text(&number.to_string()),
            (Value::Bool(flag), _) => self.holds_for_text(if *flag { "true" } else { "false" }),
            (Value::Null | Value::Array(_) | Value::Object(_), _) => false,
        }
    }
}

fn pieces(text: &str) -> Vec<String> {
    text.split('*').map(str::to_owned).collect()
}

/// Whether `text` is the pieces in their order, with anything between them.
fn is_made_of(text: &str, pieces: &[String]) -> bool {
    let [first, between @ .., last] = pieces else { return pieces.first().is_some_and(|only| only == text) };
    let Some(mut rest) = text.strip_prefix(first.as_str()) else { return false };
    for piece in between {
        match rest.find(piece.as_str()) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.ends_with(last.as_str())
}
