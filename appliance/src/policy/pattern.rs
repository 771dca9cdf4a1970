//! Texts with `*` and `?`, and with `${variables}`.

use std::borrow::Cow;

/// A text in which `*` stands for any run of characters and `?` for one, and `${key}` for a condition key's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }

    pub(super) fn lower(&self) -> Self {
        Self(self.0.to_ascii_lowercase())
    }

    /// Each variable's value in its place. What it brings is literal: a `*` in a value matches a `*` alone. A variable without
    /// a value, or with several, matches nothing.
    pub(super) fn filled(&self, values: &dyn Fn(&str) -> Vec<String>) -> Filled<'_> {
        if !self.0.contains("${") {
            return Filled(Some(vec![Piece::Wild(Cow::from(self.0.as_str()))]));
        }
        let (mut pieces, mut rest) = (Vec::new(), self.0.as_str());
        while let Some((before, behind)) = rest.split_once("${") {
            let Some((name, after)) = behind.split_once('}') else { return Filled(None) };
            pieces.push(Piece::Wild(Cow::from(before)));
            let value = match name {
                "*" | "?" | "$" => name.to_owned(),
                _ => match (values(&name.to_ascii_lowercase()).as_slice(), name) {
                    ([value], _) => value.clone(),
                    _ => return Filled(None),
                },
            };
            pieces.push(Piece::Plain(value));
            rest = after;
        }
        pieces.push(Piece::Wild(Cow::from(rest)));
        Filled(Some(pieces))
    }

    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        matches(&tokens(&[Piece::Wild(Cow::from(self.0.as_str()))]), text)
    }
}

/// A pattern with its variables' values.
pub(super) struct Filled<'a>(Option<Vec<Piece<'a>>>);

pub(super) enum Piece<'a> {
    Wild(Cow<'a, str>),
    Plain(String),
}

impl Filled<'_> {
    pub(super) fn matches(&self, text: &str) -> bool {
        self.0.as_ref().is_some_and(|pieces| matches(&tokens(pieces), text))
    }

    /// The text itself, where nothing in it is wild.
    pub(super) fn equals(&self, text: &str, same: impl Fn(&str, &str) -> bool) -> bool {
        let whole = self.0.as_ref().map(|pieces| {
            let piece = |piece: &Piece<'_>| match piece {
                Piece::Wild(text) => text.to_string(),
                Piece::Plain(text) => text.clone(),
            };
            pieces.iter().map(piece).collect::<String>()
        });
        whole.is_some_and(|whole| same(&whole, text))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Token {
    One(char),
    AnyOne,
    Any,
}

fn tokens(pieces: &[Piece<'_>]) -> Vec<Token> {
    let wild = |letter: char| match letter {
        '*' => Token::Any,
        '?' => Token::AnyOne,
        other => Token::One(other),
    };
    let mut tokens = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Wild(text) => tokens.extend(text.chars().map(wild)),
            Piece::Plain(text) => tokens.extend(text.chars().map(Token::One)),
        }
    }
    tokens
}

/// Goes back to the last `*` alone, so that the time is at most the product of both lengths.
fn matches(pattern: &[Token], text: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    let (mut at, mut next) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while next < text.len() {
        match pattern.get(at) {
            Some(Token::Any) => {
                retry = Some((at + 1, next));
                at += 1;
            }
            Some(Token::AnyOne) => (at, next) = (at + 1, next + 1),
            Some(Token::One(letter)) if *letter == text[next] => (at, next) = (at + 1, next + 1),
            _ => match &mut retry {
                Some((behind, from)) => {
                    *from += 1;
                    (at, next) = (*behind, *from);
                }
                None => return false,
            },
        }
    }
    pattern.get(at..).unwrap_or_default().iter().all(|token| *token == Token::Any)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_any_run_and_question_marks_for_one_letter() {
        let matches = |pattern: &str, text: &str| Pattern::new(pattern.into()).matches(text);
        for (pattern, text) in
            [("*", ""), ("*", "a/b"), ("a*c", "abbc"), ("a?c", "aéc"), ("*a*b", "xaxbab"), ("", ""), ("a**", "a")]
        {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("a", ""), ("a?", "a"), ("a*c", "abd"), ("", "a"), ("?", ""), ("a*b*c", "acb")] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
        assert!(!matches(&"*a".repeat(500), &"a".repeat(400)), "and in time");
    }

    #[test]
    fn what_a_variable_brings_is_literal() {
        let values = |key: &str| match key {
            "aws:username" => vec!["a*".to_owned()],
            _ => Vec::new(),
        };
        let filled = |pattern: &str, text: &str| Pattern::new(pattern.into()).filled(&values).matches(text);
        assert!(filled("users/${aws:username}/*", "users/a*/x"));
        assert!(!filled("users/${aws:username}/*", "users/ab/x"));
        assert!(!filled("users/${aws:unknown}*", "users/"));
        assert!(filled("${*}", "*") && !filled("${*}", "x"));
        assert!(!filled("${open", "${open"));
    }
}
