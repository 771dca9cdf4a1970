//! A query as tokens, each with its place.

use super::units::{bytes, duration_ns};
use super::{BYTES_MAX, ParseError};

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// A name or a word of the language.
    Word(String),
    Text(String),
    Number(f64),
    /// Nanoseconds.
    Duration(i64),
    Bytes(f64),
    /// `--strict`.
    Flag(String),
    Sign(&'static str),
    End,
}

impl Token {
    /// What Loki's errors call it.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Word(word) if keyword(word) => word.clone(),
            Self::Word(_) => "IDENTIFIER".to_owned(),
            Self::Text(_) => "STRING".to_owned(),
            Self::Number(_) => "NUMBER".to_owned(),
            Self::Duration(_) => "DURATION".to_owned(),
            Self::Bytes(_) => "BYTES".to_owned(),
            Self::Flag(_) => "FUNCTION_FLAG".to_owned(),
            Self::Sign(sign) => (*sign).to_owned(),
            Self::End => "$end".to_owned(),
        }
    }
}

fn keyword(word: &str) -> bool {
    const WORDS: &[&str] = &[
        "by",
        "without",
        "and",
        "or",
        "unless",
        "bool",
        "on",
        "ignoring",
        "group_left",
        "group_right",
        "offset",
        "json",
        "logfmt",
        "pattern",
        "regexp",
        "unpack",
        "unwrap",
        "line_format",
        "label_format",
        "decolorize",
        "drop",
        "keep",
    ];
    WORDS.contains(&word)
}

/// The longest first.
const SIGNS: [&str; 30] = [
    "|=", "|~", "|>", "!>", "!=", "!~", "=~", "==", ">=", "<=", "|", "=", ">", "<", "{", "}", "(", ")", "[", "]", ",",
    "+", "-", "*", "/", "%", "^", ".", ":", "!",
];

/// A token and the line and column where it begins, both from 1.
pub(super) type Placed = (Token, (usize, usize));

pub(super) fn tokens(text: &str) -> Result<Vec<Placed>, ParseError> {
    if text.len() > BYTES_MAX {
        return Err(ParseError::Whole(format!("input size too long ({} > {BYTES_MAX})", text.len())));
    }
    let mut lexer = Lexer { text, at: 0, line: 1, column: 1 };
    let mut tokens = Vec::new();
    loop {
        lexer.space();
        let place = (lexer.line, lexer.column);
        let token = lexer.next()?;
        let ends = token == Token::End;
        tokens.push((token, place));
        if ends {
            return Ok(tokens);
        }
    }
}

struct Lexer<'a> {
    text: &'a str,
    /// In bytes.
    at: usize,
    line: usize,
    column: usize,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn error(&self, message: impl Into<String>) -> ParseError {
        ParseError::At { line: self.line, column: self.column, message: message.into() }
    }

    fn skip(&mut self, bytes: usize) -> &'a str {
        let taken = &self.rest()[..bytes];
        for c in taken.chars() {
            if c == '\n' {
                self.line += 1;
                self.column = 1;
            } else {
                self.column += 1;
            }
        }
        self.at += bytes;
        taken
    }

    /// Skips space and comments, which go from `#` to the end of the line.
    fn space(&mut self) {
        loop {
            let rest = self.rest();
            let blank = rest.len() - rest.trim_start().len();
            if blank > 0 {
                self.skip(blank);
            } else if rest.starts_with('#') {
                self.skip(rest.find('\n').unwrap_or(rest.len()));
            } else {
                return;
            }
        }
    }

    fn next(&mut self) -> Result<Token, ParseError> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return Ok(Token::End) };
        if first.is_ascii_alphabetic() || first == '_' {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            return Ok(Token::Word(self.skip(end).to_owned()));
        }
        if first.is_ascii_digit() || (first == '.' && rest[1..].starts_with(|c: char| c.is_ascii_digit())) {
            return self.number();
        }
        match first {
            '"' => return self.quoted().map(Token::Text),
            '`' => {
                let Some(end) = rest[1..].find('`') else { return Err(self.error("literal not terminated")) };
                let text = rest[1..=end].to_owned();
                self.skip(end + 2);
                return Ok(Token::Text(text));
            }
            _ => {}
        }
        if let Some(flag) = rest.strip_prefix("--") {
            let end = flag.find(|c: char| !c.is_ascii_alphanumeric() && c != '-').unwrap_or(flag.len());
            if flag.starts_with(|c: char| c.is_ascii_alphabetic()) {
                return Ok(Token::Flag(self.skip(end + 2)[2..].to_owned()));
            }
        }
        match SIGNS.into_iter().find(|sign| rest.starts_with(sign)) {
            Some(sign) => {
                self.skip(sign.len());
                Ok(Token::Sign(sign))
            }
            None => Err(self.error(format!("syntax error: unexpected character {first:?}"))),
        }
    }

    /// A number, a length of time or a size.
    fn number(&mut self) -> Result<Token, ParseError> {
        let rest = self.rest();
        let mut end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let exponent = &rest[end..];
        if exponent.starts_with(['e', 'E']) {
            let digits = exponent[1..].trim_start_matches(['+', '-']);
            let signs = exponent.len() - 1 - digits.len();
            let count = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
            if signs <= 1 && count > 0 {
                end += 1 + signs + count;
            }
        }
        let more = rest[end..].find(|c: char| !c.is_alphanumeric() && c != '.').unwrap_or(rest.len() - end);
        let text = &rest[..end + more];
        let token = match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Some(Token::Number(number)),
            _ => duration_ns(text).map(Token::Duration).or_else(|| bytes(text).map(Token::Bytes)),
        };
        let token =
            token.ok_or_else(|| self.error(format!("syntax error: {text:?} is no number, duration or size")))?;
        self.skip(text.len());
        Ok(token)
    }

    /// A text in quotation marks, with Go's escapes.
    fn quoted(&mut self) -> Result<String, ParseError> {
        let rest = self.rest();
        match unquote(rest) {
            Some((text, length)) => {
                self.skip(length);
                Ok(text)
            }
            None => Err(self.error("literal not terminated, or an escape in it that is none")),
        }
    }
}

/// Reads a text in quotation marks at the beginning of `rest`; how many bytes it has is told with it.
pub(super) fn unquote(rest: &str) -> Option<(String, usize)> {
    let mut made = String::new();
    let mut chars = rest.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((made, at + 1)),
            '\n' => return None,
            '\\' => {
                let (_, escape) = chars.next()?;
                let mut code = |digits: usize| {
                    let digits: String = chars.by_ref().take(digits).map(|(_, digit)| digit).collect();
                    u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32)
                };
                made.push(match escape {
                    'a' => '\u{7}',
                    'b' => '\u{8}',
                    'f' => '\u{c}',
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    'v' => '\u{b}',
                    '\\' | '"' | '\'' => escape,
                    'x' => code(2)?,
                    'u' => code(4)?,
                    'U' => code(8)?,
                    _ => return None,
                });
            }
            c => made.push(c),
        }
    }
    None
}
