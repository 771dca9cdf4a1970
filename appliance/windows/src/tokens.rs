//! How the two texts that a document is indexed by are put together, and taken apart again by tantivy.
//!
//! Its terms stand one behind the other, each after its length, which is the number of one character. Its words stand in sections `name NUL text`, with a
//! mark between them. tantivy takes each text of a document as a value of its own, with a tokenizer of its own, which is what two texts instead of
//! forty save.

use tantivy::tokenizer::{Token, TokenStream, Tokenizer};

use crate::document::{clip_word, word_key};

/// Ends a section. In a text it is no letter, so a space in its place changes no word.
const SECTION_MARK: char = '\u{1}';

/// Adds a term, given in parts, of less than 55,000 bytes in all; a longer one is left out.
pub(crate) fn put_term(to: &mut String, parts: [&str; 3]) {
    let bytes: usize = parts.iter().map(|part| part.len()).sum();
    if let Some(length) = u32::try_from(bytes).ok().and_then(char::from_u32) {
        to.push(length);
        to.extend(parts);
    }
}

/// Adds a named text.
pub(crate) fn put_section(to: &mut String, name: &str, text: &str) {
    to.reserve(name.len() + text.len() + 2);
    to.extend([name, "\0"]);
    if text.contains(SECTION_MARK) {
        to.extend(text.chars().map(|c| if c == SECTION_MARK { ' ' } else { c }));
    } else {
        to.push_str(text);
    }
    to.push(SECTION_MARK);
}

/// Makes a token of each term.
#[derive(Clone, Default)]
pub(crate) struct Terms {
    token: Token,
}

pub(crate) struct TermStream<'a> {
    token: &'a mut Token,
    rest: &'a str,
}

impl Tokenizer for Terms {
    type TokenStream<'a> = TermStream<'a>;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> TermStream<'a> {
        self.token.reset();
        TermStream { token: &mut self.token, rest: text }
    }
}

impl TokenStream for TermStream<'_> {
    fn advance(&mut self) -> bool {
        let mut chars = self.rest.chars();
        let Some(length) = chars.next() else { return false };
        let rest = chars.as_str();
        let Some((term, rest)) = rest.split_at_checked(length as usize) else { return false };
        self.rest = rest;
        self.token.position = self.token.position.wrapping_add(1);
        self.token.text.clear();
        self.token.text.push_str(term);
        true
    }

    fn token(&self) -> &Token {
        self.token
    }

    fn token_mut(&mut self) -> &mut Token {
        self.token
    }
}

/// Makes tokens `name NUL word` of the words in each section.
#[derive(Clone, Default)]
pub(crate) struct Words {
    token: Token,
}

pub(crate) struct WordStream<'a> {
    token: &'a mut Token,
    /// Of the section that is being read: its name with the NUL, in bytes of the token.
    name_bytes: usize,
    section: &'a str,
    rest: &'a str,
    position: usize,
}

impl Tokenizer for Words {
    type TokenStream<'a> = WordStream<'a>;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> WordStream<'a> {
        self.token.reset();
        WordStream { token: &mut self.token, name_bytes: 0, section: "", rest: text, position: 0 }
    }
}

impl WordStream<'_> {
    /// Goes on to the next section, if there is one.
    fn open(&mut self) -> bool {
        if self.rest.is_empty() {
            return false;
        }
        let (section, rest) = self.rest.split_once(SECTION_MARK).unwrap_or((self.rest, ""));
        let text = section.find('\0').map_or(0, |nul| nul + 1);
        self.token.text.clear();
        self.token.text.push_str(&section[..text]);
        (self.name_bytes, self.section, self.rest) = (text, &section[text..], rest);
        self.position += 1; // no phrase goes from one text into the next
        true
    }
}

/// Bytes of the letters and digits that a text begins with.
fn run(text: &str) -> usize {
    let ascii = text.bytes().take_while(u8::is_ascii_alphanumeric).count();
    if text.as_bytes().get(ascii).is_none_or(u8::is_ascii) {
        return ascii;
    }
    text.find(|c: char| !c.is_alphanumeric()).unwrap_or(text.len())
}

/// Bytes before the first letter or digit of a text.
fn gap(text: &str) -> Option<usize> {
    let at = text.bytes().position(|byte| byte.is_ascii_alphanumeric() || !byte.is_ascii())?;
    if text.as_bytes()[at].is_ascii() { Some(at) } else { text.find(char::is_alphanumeric) }
}

impl TokenStream for WordStream<'_> {
    fn advance(&mut self) -> bool {
        let begin = loop {
            match gap(self.section) {
                Some(begin) => break begin,
                None if !self.open() => return false,
                None => {}
            }
        };
        let word = &self.section[begin..];
        let (word, rest) = word.split_at(run(word));
        self.section = rest;
        self.token.position = self.position;
        self.position += 1;
        self.token.text.truncate(self.name_bytes);
        let word = clip_word(word);
        if word.is_ascii() {
            self.token.text.push_str(word);
            self.token.text[self.name_bytes..].make_ascii_lowercase();
        } else {
            self.token.text.push_str(&word_key(word));
        }
        true
    }

    fn token(&self) -> &Token {
        self.token
    }

    fn token_mut(&mut self) -> &mut Token {
        self.token
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::document::words;

    fn tokens(mut tokenizer: impl Tokenizer, text: &str) -> Vec<(usize, String)> {
        let mut made = Vec::new();
        tokenizer.token_stream(text).process(&mut |token| made.push((token.position, token.text.clone())));
        made
    }

    #[test]
    fn words_carry_the_name_of_their_text_and_only_the_first_nul_separates() {
        let mut text = String::new();
        put_section(&mut text, "body", "Out of\0memory");
        put_section(&mut text, "empty", " ");
        put_section(&mut text, "a.b", "Ünïcode\u{1}É");
        let expected = [(1, "body\0out"), (2, "body\0of"), (3, "body\0memory"), (6, "a.b\0ünïcode"), (7, "a.b\0é")];
        assert_eq!(tokens(Words::default(), &text), expected.map(|(at, text)| (at, text.to_owned())));
    }

    #[test]
    fn what_is_no_frame_ends_the_terms_and_nothing_else() {
        for text in ["\u{5}ab", "\u{2}é\u{2}", "\u{10ffff}x"] {
            assert!(tokens(Terms::default(), text).len() <= 1);
        }
    }

    proptest! {
        #[test]
        fn terms_come_out_as_they_went_in(terms in prop::collection::vec(("\\PC{0,12}", ".{0,300}"), 0..20)) {
            let mut text = String::new();
            terms.iter().for_each(|(name, value)| put_term(&mut text, [name, "\0k", value]));
            let made: Vec<String> = tokens(Terms::default(), &text).into_iter().map(|(_, text)| text).collect();
            let expected: Vec<String> = terms.iter().map(|(name, value)| format!("{name}\0k{value}")).collect();
            prop_assert_eq!(made, expected);
        }

        #[test]
        fn words_are_those_of_each_text(texts in prop::collection::vec(("[a-z]{0,6}", "(?s).{0,80}|[\u{0}-\u{20}a-zA-Zäß]{0,200}"), 0..8)) {
            let mut text = String::new();
            texts.iter().for_each(|(name, value)| put_section(&mut text, name, value));
            let made: Vec<String> = tokens(Words::default(), &text).into_iter().map(|(_, text)| text).collect();
            let of = |(name, value): &(String, String)| words(value).map(|word| format!("{name}\0{}", word_key(word))).collect::<Vec<_>>();
            prop_assert_eq!(made, texts.iter().flat_map(of).collect::<Vec<_>>());
        }
    }
}
