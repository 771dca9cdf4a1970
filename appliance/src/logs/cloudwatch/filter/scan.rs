//! The characters of a pattern, one after the other.

/// Where in a pattern reading stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scanner<'a> {
    rest: &'a str,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { rest: text }
    }

    pub(super) fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    pub(super) fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.rest = &self.rest[next.len_utf8()..];
        Some(next)
    }

    pub(super) fn rest(&self) -> &'a str {
        self.rest
    }

    pub(super) fn is_done(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn skip_spaces(&mut self) {
        self.rest = self.rest.trim_start();
    }

    /// Takes `text` after spaces, if it stands there.
    pub(super) fn take(&mut self, text: &str) -> bool {
        self.skip_spaces();
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// Takes a word after spaces, whatever its case, if it stands there whole.
    pub(super) fn take_word(&mut self, word: &str) -> bool {
        self.skip_spaces();
        let is_it = self.rest.get(..word.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(word));
        let ends = is_it && !self.rest[word.len()..].starts_with(|sign: char| sign.is_alphanumeric());
        if ends {
            self.rest = &self.rest[word.len()..];
        }
        ends
    }

    /// Everything up to where `ends` says.
    pub(super) fn bare(&mut self, ends: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(ends).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    /// A text in double quotes, in which a backslash takes the next sign as it is.
    pub(super) fn quoted(&mut self) -> Result<String, String> {
        let began = self.rest;
        self.next();
        let mut text = String::new();
        loop {
            match self.next() {
                Some('"') => return Ok(text),
                Some('\\') => match self.next() {
                    Some(next @ ('"' | '\\')) => text.push(next),
                    Some(next) => text.extend(['\\', next]),
                    None => break,
                },
                Some(next) => text.push(next),
                None => break,
            }
        }
        Err(format!("Invalid filter pattern: the quotation mark is not closed in {began}"))
    }

    /// A regular expression between percent signs; `\%` is one within it.
    pub(super) fn regex(&mut self) -> Result<String, String> {
        let began = self.rest;
        self.next();
        let mut text = String::new();
        loop {
            match self.next() {
                Some('%') => return Ok(text),
                Some('\\') if self.peek() == Some('%') => {
                    self.next();
                    text.push('%');
                }
                Some('\\') => {
                    text.push('\\');
                    text.extend(self.next());
                }
                Some(next) => text.push(next),
                None => return Err(format!("Invalid filter pattern: the regular expression is not closed in {began}")),
            }
        }
    }
}
