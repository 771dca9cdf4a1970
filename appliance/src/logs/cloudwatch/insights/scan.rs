//! The characters of a query, one after the other.

/// A mistake, and the character where it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem} at character {at}")]
pub(in crate::logs::cloudwatch) struct Malformed {
    pub(in crate::logs::cloudwatch) at: usize,
    problem: String,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

fn is_name(sign: char) -> bool {
    sign.is_alphanumeric() || matches!(sign, '_' | '@' | '.' | '#' | '$')
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    pub(super) fn fault<T>(&self, problem: impl Into<String>) -> Result<T, Malformed> {
        Err(Malformed { at: self.text[..self.at].chars().count() + 1, problem: problem.into() })
    }

    pub(super) fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    pub(super) fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn advance(&mut self, bytes: usize) {
        self.at += bytes;
    }

    /// Skips spaces and comments.
    pub(super) fn skip(&mut self) {
        loop {
            let spaces = self.rest().len() - self.rest().trim_start().len();
            self.advance(spaces);
            if !self.rest().starts_with('#') {
                return;
            }
            let line = self.rest().find('\n').unwrap_or(self.rest().len());
            self.advance(line);
        }
    }

    pub(super) fn is_done(&mut self) -> bool {
        self.skip();
        self.rest().is_empty()
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// What was read since `from`, without spaces at its ends.
    pub(super) fn since(&self, from: usize) -> &'a str {
        self.text[from..self.at].trim()
    }

    /// Takes a sign, if it stands next.
    pub(super) fn take(&mut self, sign: &str) -> bool {
        self.skip();
        let found = self.rest().starts_with(sign);
        if found {
            self.advance(sign.len());
        }
        found
    }

    /// Takes a word, whatever its case, if it stands next and is whole.
    pub(super) fn take_word(&mut self, word: &str) -> bool {
        self.skip();
        let rest = self.rest();
        let found = rest.get(..word.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(word))
            && !rest[word.len()..].starts_with(is_name);
        if found {
            self.advance(word.len());
        }
        found
    }

    /// A name: plain, or between backticks.
    pub(super) fn name(&mut self) -> Result<Option<String>, Malformed> {
        self.skip();
        if self.rest().starts_with('`') {
            let Some((name, _)) = self.rest()[1..].split_once('`') else {
                return self.fault("a backtick is not closed");
            };
            self.advance(name.len() + 2);
            return Ok(Some(name.to_owned()));
        }
        if !self.rest().starts_with(|sign: char| sign.is_alphabetic() || matches!(sign, '_' | '@' | '$')) {
            return Ok(None);
        }
        let rest = self.rest();
        let end = rest.find(|sign| !is_name(sign)).unwrap_or(rest.len());
        self.advance(end);
        Ok(Some(rest[..end].to_owned()))
    }

    /// A number.
    pub(super) fn number(&mut self) -> Result<Option<f64>, Malformed> {
        self.skip();
        let rest = self.rest();
        if !rest.starts_with(|sign: char| sign.is_ascii_digit() || sign == '.') {
            return Ok(None);
        }
        let mut end = rest.find(|sign: char| !sign.is_ascii_digit() && sign != '.').unwrap_or(rest.len());
        if rest[end..].starts_with(['e', 'E']) {
            let exponent = rest[end + 1..].trim_start_matches(['+', '-']);
            let digits = exponent.find(|sign: char| !sign.is_ascii_digit()).unwrap_or(exponent.len());
            if digits > 0 {
                end = rest.len() - exponent.len() + digits;
            }
        }
        match rest[..end].parse::<f64>() {
            Ok(number) if number.is_finite() => {
                self.advance(end);
                Ok(Some(number))
            }
            _ => self.fault("this is no number"),
        }
    }

    /// The unit of time that follows a number at once, in milliseconds.
    pub(super) fn unit(&mut self) -> Option<i64> {
        let rest = self.rest();
        let end = rest.find(|sign: char| !sign.is_ascii_alphabetic()).unwrap_or(rest.len());
        let ms = match &rest[..end] {
            "ms" | "msec" => 1,
            "s" | "sec" => 1_000,
            "m" | "min" => 60_000,
            "h" | "hr" => 3_600_000,
            "d" => 86_400_000,
            "w" => 7 * 86_400_000,
            _ => return None,
        };
        self.advance(end);
        Some(ms)
    }

    /// A text between quotation marks of either kind; a backslash takes the next mark as it is.
    pub(super) fn quoted(&mut self) -> Result<Option<String>, Malformed> {
        self.skip();
        let Some(mark @ ('"' | '\'')) = self.peek() else { return Ok(None) };
        let (mut text, mut signs) = (String::new(), self.rest().char_indices().skip(1));
        while let Some((at, sign)) = signs.next() {
            match sign {
                sign if sign == mark => {
                    self.advance(at + 1);
                    return Ok(Some(text));
                }
                '\\' => match signs.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, 't')) => text.push('\t'),
                    Some((_, next)) if next == mark || next == '\\' => text.push(next),
                    Some((_, next)) => text.extend(['\\', next]),
                    None => break,
                },
                sign => text.push(sign),
            }
        }
        self.fault("the quotation mark is not closed")
    }

    /// A regular expression between slashes; `\/` is one within it.
    pub(super) fn slashed(&mut self) -> Result<Option<String>, Malformed> {
        self.skip();
        if self.peek() != Some('/') {
            return Ok(None);
        }
        let (mut text, mut signs) = (String::new(), self.rest().char_indices().skip(1));
        while let Some((at, sign)) = signs.next() {
            match sign {
                '/' => {
                    self.advance(at + 1);
                    return Ok(Some(text));
                }
                '\\' => match signs.next() {
                    Some((_, '/')) => text.push('/'),
                    Some((_, next)) => text.extend(['\\', next]),
                    None => break,
                },
                sign => text.push(sign),
            }
        }
        self.fault("the regular expression is not closed")
    }
}
