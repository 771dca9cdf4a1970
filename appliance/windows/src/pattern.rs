//! Regular expressions of questions: bounded in size, matched in time linear in the text, and how the index narrows them down.

use regex::{Regex, RegexBuilder};
use regex_syntax::hir::{Hir, HirKind};

use crate::document::{word_key, words};

/// Longest expression.
const BYTES_MAX: usize = 1024;
/// Most memory of a compiled expression, and of its automaton while it runs.
const COMPILED_BYTES_MAX: usize = 1 << 20;

/// A compiled expression.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    /// It must match the whole value.
    whole: bool,
    regex: Regex,
    /// Words that are in every text it matches in.
    required: Vec<String>,
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text && self.whole == other.whole
    }
}

impl Pattern {
    /// Compiles `text`, which is to match the `whole` of a value or anywhere in it.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn new(text: &str, whole: bool) -> Result<Self, String> {
        if text.len() > BYTES_MAX {
            return Err(format!("a regular expression has at most {BYTES_MAX} bytes"));
        }
        let anchored = if whole { format!("^(?:{text})$") } else { text.to_owned() };
        let regex = RegexBuilder::new(&anchored)
            .size_limit(COMPILED_BYTES_MAX)
            .dfa_size_limit(COMPILED_BYTES_MAX)
            .dot_matches_new_line(whole)
            .build()
            .map_err(|error| match error {
                regex::Error::CompiledTooBig(_) => {
                    "this regular expression is too large when it is compiled".to_owned()
                }
                // The last line of the message names the problem; those before it draw the expression.
                other => last_line(&other.to_string()),
            })?;
        let mut found = Required::default();
        if let Ok(parsed) = regex_syntax::parse(&anchored) {
            found.take(&parsed);
            found.cut();
        }
        Ok(Self { text: text.to_owned(), whole, regex, required: found.words })
    }

    /// Which character of an expression that [`new`](Self::new) refuses is wrong, counted from 0; nothing when it is too large as a whole.
    #[must_use]
    pub fn wrong_at(text: &str) -> Option<usize> {
        let offset = match regex_syntax::parse(text).err()? {
            regex_syntax::Error::Parse(error) => error.span().start.offset,
            regex_syntax::Error::Translate(error) => error.span().start.offset,
            _ => return None,
        };
        text.get(..offset).map(|before| before.chars().count())
    }

    #[must_use]
    pub fn is_match(&self, value: &str) -> bool {
        self.regex.is_match(value)
    }

    pub(crate) fn required(&self) -> &[String] {
        &self.required
    }
}

fn last_line(message: &str) -> String {
    let line = message.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or(message);
    line.trim_start_matches("error: ").to_owned()
}

/// Gathers the literal stretches that every match has, one after the other.
#[derive(Default)]
struct Required {
    stretch: Vec<u8>,
    words: Vec<String>,
}

impl Required {
    fn take(&mut self, hir: &Hir) {
        match hir.kind() {
            HirKind::Literal(literal) => self.stretch.extend_from_slice(&literal.0),
            HirKind::Concat(parts) => parts.iter().for_each(|part| self.take(part)),
            HirKind::Capture(capture) => self.take(&capture.sub),
            HirKind::Repetition(repetition) if repetition.min > 0 => {
                self.cut();
                self.take(&repetition.sub);
                self.cut();
            }
            HirKind::Empty | HirKind::Look(_) => {}
            HirKind::Class(_) | HirKind::Repetition(_) | HirKind::Alternation(_) => self.cut(),
        }
    }

    /// What comes next does not follow the stretch at once.
    fn cut(&mut self) {
        if let Ok(text) = std::str::from_utf8(&self.stretch) {
            self.words.extend(inner_words(text));
        }
        self.stretch.clear();
    }
}

/// The words that stand whole in `text` wherever it stands: those with something else than a letter or digit on both sides.
pub(crate) fn inner_words(text: &str) -> Vec<String> {
    let begins = text.find(|c: char| !c.is_alphanumeric());
    let ends = text.rfind(|c: char| !c.is_alphanumeric());
    let (Some(begins), Some(ends)) = (begins, ends) else { return Vec::new() };
    words(&text[begins..ends.max(begins)]).map(|word| word_key(word).into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_every_match_has_are_found() {
        for (text, expected) in [
            ("CUDA error: out of memory", vec!["error", "out", "of"]),
            (r"shot \d+ failed: (disk full)", vec!["failed", "disk"]),
            (r"(\[a\]|b) \[mp4\]", vec!["mp4"]),
            ("(?i)x error y", vec![]),
            ("(a )?b c d", vec!["c"]),
            ("x( ab )+y", vec!["ab"]),
            ("memory", vec![]),
            (" é ", vec!["é"]),
        ] {
            let pattern = Pattern::new(text, false).unwrap();
            assert_eq!(pattern.required, expected, "{text}");
        }
    }

    #[test]
    fn wrong_large_and_exploding_expressions_are_bounded() {
        assert!(Pattern::new("(", false).unwrap_err().contains("unclosed"));
        assert!(Pattern::new(r"\w{1000}{1000}", false).unwrap_err().contains("too large"));
        assert!(Pattern::new(&"x".repeat(2000), false).is_err());
        let nested = Pattern::new("(a*)*(a*)*(a*)*b", true).unwrap();
        assert!(!nested.is_match(&"a".repeat(100_000)));
        assert!(Pattern::new("gpu-0", true).unwrap().is_match("gpu-0"));
        assert!(!Pattern::new("gpu-0", true).unwrap().is_match("gpu-01"));
    }
}
