//! `{ $.level = "error" && ($.took > 3 || $.retries NOT EXISTS) }`: conditions on the values of a JSON object.

use serde_json::Value;

use super::DEPTH_MAX;
use super::compare::{Comparison, Operator};
use super::scan::Scanner;
use super::select::Selector;

/// Most conditions of a pattern.
const CONDITIONS_MAX: usize = 200;

#[derive(Clone, Debug)]
pub(super) enum Condition {
    All(Vec<Condition>),
    Some(Vec<Condition>),
    /// One of the values at the path is so. A path that leads nowhere is neither equal nor unequal to anything.
    Is(Selector, Comparison),
    Constant(Selector, Value),
    Exists(Selector, bool),
}

impl Condition {
    pub(super) fn holds(&self, root: &Value) -> bool {
        match self {
            Self::All(all) => all.iter().all(|condition| condition.holds(root)),
            Self::Some(some) => some.iter().any(|condition| condition.holds(root)),
            Self::Is(selector, comparison) => {
                selector.values(root).into_iter().any(|value| comparison.holds_for(value))
            }
            Self::Constant(selector, constant) => selector.values(root).into_iter().any(|value| value == constant),
            Self::Exists(selector, wanted) => selector.values(root).is_empty() != *wanted,
        }
    }
}

pub(super) fn parse(text: &str) -> Result<Condition, String> {
    let inner = text.strip_prefix('{').and_then(|text| text.strip_suffix('}'));
    let Some(inner) = inner else { return Err("Invalid filter pattern: the brace is not closed".into()) };
    let mut parser = Parser { scanner: Scanner::new(inner), regexes: 0, conditions: 0 };
    let condition = parser.any(0)?;
    parser.scanner.skip_spaces();
    match parser.scanner.is_done() {
        true => Ok(condition),
        false => Err(format!("Invalid filter pattern: && or || is missing before {}", parser.scanner.rest())),
    }
}

struct Parser<'a> {
    scanner: Scanner<'a>,
    regexes: usize,
    conditions: usize,
}

impl Parser<'_> {
    fn any(&mut self, depth: usize) -> Result<Condition, String> {
        let mut some = vec![self.all(depth)?];
        while self.scanner.take("||") {
            some.push(self.all(depth)?);
        }
        Ok(if some.len() == 1 { some.remove(0) } else { Condition::Some(some) })
    }

    fn all(&mut self, depth: usize) -> Result<Condition, String> {
        let mut all = vec![self.one(depth)?];
        while self.scanner.take("&&") {
            all.push(self.one(depth)?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Condition::All(all) })
    }

    fn one(&mut self, depth: usize) -> Result<Condition, String> {
        self.conditions += 1;
        if depth >= DEPTH_MAX || self.conditions > CONDITIONS_MAX {
            return Err("Invalid filter pattern: it has too many conditions".into());
        }
        if self.scanner.take("(") {
            let inner = self.any(depth + 1)?;
            return match self.scanner.take(")") {
                true => Ok(inner),
                false => Err("Invalid filter pattern: a parenthesis is not closed".into()),
            };
        }
        self.scanner.skip_spaces();
        let selector = Selector::take(&mut self.scanner)?;
        if self.scanner.take_word("IS") {
            let constants = [("NULL", Value::Null), ("TRUE", Value::Bool(true)), ("FALSE", Value::Bool(false))];
            let found = constants.into_iter().find(|(word, _)| self.scanner.take_word(word));
            let (_, constant) = found.ok_or("Invalid filter pattern: IS is followed by NULL, TRUE or FALSE")?;
            return Ok(Condition::Constant(selector, constant));
        }
        if self.scanner.take_word("NOT") {
            return match self.scanner.take_word("EXISTS") {
                true => Ok(Condition::Exists(selector, false)),
                false => Err("Invalid filter pattern: NOT is followed by EXISTS".into()),
            };
        }
        if self.scanner.take_word("EXISTS") {
            return Ok(Condition::Exists(selector, true));
        }
        let Some(operator) = Operator::take(&mut self.scanner) else {
            return Err(format!("Invalid filter pattern: a comparison is missing before {}", self.scanner.rest()));
        };
        let ends = |sign| matches!(sign, ')' | '&' | '|');
        Comparison::take(&mut self.scanner, operator, &mut self.regexes, ends)
            .map(|comparison| Condition::Is(selector, comparison))
    }
}
