//! `[ip, user, status = 4*, ...]`: the words of a line by their place.

use super::compare::{Comparison, Operator};
use super::scan::Scanner;
use super::{DEPTH_MAX, REGEXES_MAX};

/// Most fields of a pattern.
const FIELDS_MAX: usize = 200;

#[derive(Clone, Debug)]
pub(super) struct Delimited {
    /// What stands before the `...`, and what after it.
    before: Vec<Condition>,
    after: Option<Vec<Condition>>,
}

#[derive(Clone, Debug)]
enum Condition {
    Any,
    Is(Comparison),
    All(Vec<Condition>),
    Some(Vec<Condition>),
}

impl Condition {
    fn holds(&self, word: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Is(comparison) => comparison.holds_for_text(word),
            Self::All(all) => all.iter().all(|condition| condition.holds(word)),
            Self::Some(some) => some.iter().any(|condition| condition.holds(word)),
        }
    }
}

impl Delimited {
    pub(super) fn matches(&self, message: &str) -> bool {
        let words = words(message);
        let hold = |conditions: &[Condition], words: &[&str]| {
            conditions.iter().zip(words).all(|(condition, word)| condition.holds(word))
        };
        match &self.after {
            None => words.len() == self.before.len() && hold(&self.before, &words),
            Some(after) => {
                words.len() >= self.before.len() + after.len()
                    && hold(&self.before, &words)
                    && hold(after, &words[words.len() - after.len()..])
            }
        }
    }
}

/// The words of a line: what spaces part, with what stands between quotation marks or square brackets as one, without them.
fn words(message: &str) -> Vec<&str> {
    let (mut words, mut rest) = (Vec::new(), message.trim());
    while !rest.is_empty() {
        let closing = match rest.as_bytes()[0] {
            b'"' => Some('"'),
            b'[' => Some(']'),
            _ => None,
        };
        let enclosed = closing.and_then(|closing| rest[1..].split_once(closing));
        let (word, after) = match enclosed {
            Some((word, after)) if after.is_empty() || after.starts_with(char::is_whitespace) => (word, after),
            _ => rest.split_once(char::is_whitespace).unwrap_or((rest, "")),
        };
        words.push(word);
        rest = after.trim_start();
    }
    words
}

pub(super) fn parse(text: &str) -> Result<Delimited, String> {
    let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let Some(inner) = inner else { return Err("Invalid filter pattern: the square bracket is not closed".into()) };
    let mut parser = Parser { scanner: Scanner::new(inner), regexes: 0 };
    let (mut fields, mut before) = (Vec::new(), None);
    loop {
        if parser.scanner.take("...") {
            if before.replace(std::mem::take(&mut fields)).is_some() {
                return Err("Invalid filter pattern: it has more than one ellipsis".into());
            }
            parser.scanner.skip_spaces();
        } else {
            fields.push(parser.field()?);
        }
        if fields.len() > FIELDS_MAX {
            return Err(format!("Invalid filter pattern: it has more than {FIELDS_MAX} fields"));
        }
        if parser.scanner.take(",") {
            continue;
        }
        if parser.scanner.is_done() {
            break;
        }
        return Err(format!("Invalid filter pattern: a comma is missing before {}", parser.scanner.rest()));
    }
    Ok(match before {
        Some(before) => Delimited { before, after: Some(fields) },
        None => Delimited { before: fields, after: None },
    })
}

struct Parser<'a> {
    scanner: Scanner<'a>,
    regexes: usize,
}

fn ends(sign: char) -> bool {
    matches!(sign, ',' | ')' | '&' | '|')
}

impl Parser<'_> {
    /// A name, or conditions on a name.
    fn field(&mut self) -> Result<Condition, String> {
        self.any(0)
    }

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
        if self.scanner.take("(") {
            if depth >= DEPTH_MAX {
                return Err("Invalid filter pattern: it is nested too deeply".into());
            }
            let inner = self.any(depth + 1)?;
            return match self.scanner.take(")") {
                true => Ok(inner),
                false => Err("Invalid filter pattern: a parenthesis is not closed".into()),
            };
        }
        // The name means nothing but for people.
        self.scanner.skip_spaces();
        self.scanner.bare(|sign| sign.is_whitespace() || ends(sign) || "=!<>(".contains(sign));
        let Some(operator) = Operator::take(&mut self.scanner) else { return Ok(Condition::Any) };
        debug_assert!(self.regexes <= REGEXES_MAX);
        Comparison::take(&mut self.scanner, operator, &mut self.regexes, ends).map(Condition::Is)
    }
}
