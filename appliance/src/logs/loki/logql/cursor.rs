//! A place among tokens, and the errors that point at it.

use super::lex::{Placed, Token, tokens};
use super::{DEPTH_MAX, LIST_MAX, ParseError};

pub(super) struct Cursor {
    tokens: Vec<Placed>,
    at: usize,
    depth: usize,
}

impl Cursor {
    pub(super) fn new(text: &str) -> Result<Self, ParseError> {
        Ok(Self { tokens: tokens(text)?, at: 0, depth: 0 })
    }

    pub(super) fn peek(&self) -> &Token {
        &self.tokens[self.at].0
    }

    /// The token after the next.
    pub(super) fn peek_second(&self) -> &Token {
        &self.tokens[(self.at + 1).min(self.tokens.len() - 1)].0
    }

    pub(super) fn place(&self) -> (usize, usize) {
        self.tokens[self.at].1
    }

    /// Goes on; the end stays where it is.
    pub(super) fn take(&mut self) -> Token {
        let token = self.peek().clone();
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        token
    }

    pub(super) fn takes(&mut self, sign: &str) -> bool {
        let found = matches!(self.peek(), Token::Sign(next) if *next == sign);
        if found {
            self.take();
        }
        found
    }

    pub(super) fn takes_word(&mut self, word: &str) -> bool {
        let found = self.is_word(word);
        if found {
            self.take();
        }
        found
    }

    pub(super) fn is_sign(&self, sign: &str) -> bool {
        matches!(self.peek(), Token::Sign(next) if *next == sign)
    }

    pub(super) fn is_word(&self, word: &str) -> bool {
        matches!(self.peek(), Token::Word(next) if next == word)
    }

    pub(super) fn expect(&mut self, sign: &'static str) -> Result<(), ParseError> {
        if self.takes(sign) { Ok(()) } else { Err(self.unexpected(sign)) }
    }

    pub(super) fn expect_word(&mut self) -> Result<String, ParseError> {
        match self.peek() {
            Token::Word(word) => {
                let word = word.clone();
                self.take();
                Ok(word)
            }
            _ => Err(self.unexpected("IDENTIFIER")),
        }
    }

    pub(super) fn expect_text(&mut self) -> Result<String, ParseError> {
        match self.peek() {
            Token::Text(text) => {
                let text = text.clone();
                self.take();
                Ok(text)
            }
            _ => Err(self.unexpected("STRING")),
        }
    }

    /// A number with or without a sign.
    pub(super) fn number(&mut self) -> Option<f64> {
        let (sign, token) = match self.peek() {
            Token::Sign("-") => (-1.0, self.peek_second()),
            Token::Sign("+") => (1.0, self.peek_second()),
            token => (1.0, token),
        };
        let Token::Number(number) = token else { return None };
        let number = sign * number;
        if matches!(self.peek(), Token::Sign(_)) {
            self.take();
        }
        self.take();
        Some(number)
    }

    pub(super) fn duration(&mut self) -> Result<i64, ParseError> {
        let sign = if self.takes("-") { -1 } else { 1 };
        match *self.peek() {
            Token::Duration(ns) => {
                self.take();
                Ok(sign * ns)
            }
            _ => Err(self.unexpected("DURATION")),
        }
    }

    /// Names or whatever `read` reads, with commas between them.
    pub(super) fn list<T>(
        &mut self,
        mut read: impl FnMut(&mut Self) -> Result<T, ParseError>,
    ) -> Result<Vec<T>, ParseError> {
        let mut list = vec![read(self)?];
        while self.takes(",") {
            if list.len() >= LIST_MAX {
                return Err(self.error(format!("more than {LIST_MAX} in one list")));
            }
            list.push(read(self)?);
        }
        Ok(list)
    }

    pub(super) fn error(&self, message: impl Into<String>) -> ParseError {
        Self::error_at(self.place(), message)
    }

    pub(super) fn error_at((line, column): (usize, usize), message: impl Into<String>) -> ParseError {
        ParseError::At { line, column, message: message.into() }
    }

    pub(super) fn unexpected(&self, expected: &str) -> ParseError {
        let expecting = if expected.is_empty() { String::new() } else { format!(", expecting {expected}") };
        self.error(format!("syntax error: unexpected {}{expecting}", self.peek().name()))
    }

    /// Runs `read` one level deeper.
    pub(super) fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, ParseError>) -> Result<T, ParseError> {
        self.enter()?;
        let made = read(self);
        self.leave();
        made
    }

    /// One level deeper, until [`Cursor::leave`].
    pub(super) fn enter(&mut self) -> Result<(), ParseError> {
        if self.depth >= DEPTH_MAX {
            return Err(self.error(format!("more than {DEPTH_MAX} levels of nesting")));
        }
        self.depth += 1;
        Ok(())
    }

    pub(super) fn leave(&mut self) {
        self.depth -= 1;
    }
}
