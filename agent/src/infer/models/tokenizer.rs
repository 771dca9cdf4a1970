//! CLIP's tokenizer from a model's own `vocab.json` and `merges.txt`: text in, numbers of words out.
//!
//! It is the fast tokenizer of transformers: NFC, white space to one space, lower case; words, single digits and runs of
//! other signs apart; byte-level BPE with `</w>` at a word's end. Words that textual inversion has added are cut out
//! of the text before, as they are written.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{Lowercase, NFC, Replace, Sequence as Normal};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as Cuts;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer as Inner};

use super::config;
use crate::infer::weights::WeightError;

/// Longest text that is taken, in bytes. It is far more than the parts that a prompt may have.
pub const TEXT_BYTES_MAX: usize = 20_000;
/// Longest file of words that is read. CLIP's has 1 MB.
const FILE_BYTES_MAX: u64 = 16 << 20;
const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";

/// A text as the encoder takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// As many as the encoder has places.
    pub ids: Vec<u32>,
    /// The place of the text's end.
    pub end: usize,
    /// Tokens that did not fit.
    pub cut: usize,
}

/// A word that textual inversion added, and the numbers that stand for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Added {
    pub word: String,
    pub ids: Vec<u32>,
}

pub struct Tokenizer {
    inner: Inner,
    start: u32,
    end: u32,
    pad: u32,
    added: Vec<Added>,
}

/// `special_tokens_map.json`: a token is its text, or an object that has it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Special {
    pad_token: Option<Token>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Token {
    Text(String),
    Object { content: String },
}

impl Tokenizer {
    /// Reads the folder of a tokenizer.
    ///
    /// # Errors
    /// [`WeightError`]: a file is missing, too long or not what it should be.
    pub fn read(folder: &Path) -> Result<Self, WeightError> {
        let words_file = folder.join("vocab.json");
        let merges_file = folder.join("merges.txt");
        let words: std::collections::HashMap<String, u32> =
            serde_json::from_str(&text(&words_file)?).map_err(|error| config::wrong(&words_file, error))?;
        let merges = merges(&text(&merges_file)?).map_err(|problem| config::wrong(&merges_file, problem))?;
        let number =
            |word: &str| words.get(word).copied().ok_or_else(|| config::wrong(&words_file, format!("has no `{word}`")));
        let (start, end) = (number(START)?, number(END)?);
        let special_file = folder.join("special_tokens_map.json");
        let special = if special_file.is_file() { config::read(&special_file)? } else { Special::default() };
        let pad = match special.pad_token {
            Some(Token::Text(text) | Token::Object { content: text }) => number(&text)?,
            None => end,
        };
        let inner = build(words.into_iter().collect(), merges).map_err(|error| config::wrong(&words_file, error))?;
        Ok(Self { inner, start, end, pad, added: Vec::new() })
    }

    /// Adds a word. The longest one that fits is found first.
    pub fn add(&mut self, word: Added) {
        self.added.push(word);
        self.added.sort_by_key(|word| std::cmp::Reverse(word.word.len()));
    }

    /// Pads with another number than the files say.
    pub fn pad_with(&mut self, number: u32) {
        self.pad = number;
    }

    /// The text with its start and its end, cut or padded to `length` places.
    ///
    /// # Errors
    /// A sentence: the text is too long to be looked at.
    pub fn encode(&self, text: &str, length: usize) -> Result<Tokens, String> {
        let (mut parts, cut) = self.parts(text, length, 1)?;
        let first = parts.pop().ok_or("has no part")?;
        Ok(Tokens { cut, ..first })
    }

    /// The text in as many parts of `length` places as it takes, `most` of them, each with a start and an end; and how many tokens
    /// did not fit. An empty text is one part.
    ///
    /// # Errors
    /// A sentence: the text is too long to be looked at.
    pub fn parts(&self, text: &str, length: usize, most: usize) -> Result<(Vec<Tokens>, usize), String> {
        let ids = self.ids(text)?;
        let room = length.saturating_sub(2);
        let part = |inside: &[u32]| {
            // A text may name the end itself: the encoder's pooled text is at the first one.
            let mut ids = [&[self.start], inside, &[self.end]].concat();
            let end = ids.iter().position(|id| *id == self.end).unwrap_or(0);
            ids.resize(length.max(2), self.pad);
            Tokens { ids, end, cut: 0 }
        };
        if ids.is_empty() || room == 0 {
            return Ok((vec![part(&[])], ids.len()));
        }
        let cut = ids.len().saturating_sub(room * most);
        Ok((ids.chunks(room).take(most).map(part).collect(), cut))
    }

    /// The numbers of a text's words, without its start and its end.
    fn ids(&self, text: &str) -> Result<Vec<u32>, String> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(format!("has {} bytes; {TEXT_BYTES_MAX} are the most", text.len()));
        }
        let mut ids = Vec::new();
        let mut rest = text;
        while let Some((at, word)) = self.next_added(rest) {
            self.plain(&rest[..at], &mut ids)?;
            ids.extend(&word.ids);
            rest = &rest[at + word.word.len()..];
        }
        self.plain(rest, &mut ids)?;
        Ok(ids)
    }

    fn next_added<'a>(&'a self, text: &str) -> Option<(usize, &'a Added)> {
        let found = self.added.iter().filter_map(|word| Some((text.find(&word.word)?, word)));
        found.min_by_key(|(at, _)| *at)
    }

    fn plain(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), String> {
        if !text.is_empty() {
            let encoded = self.inner.encode_fast(text, false).map_err(|error| error.to_string())?;
            ids.extend(encoded.get_ids());
        }
        Ok(())
    }
}

fn text(path: &Path) -> Result<String, WeightError> {
    let open = |source| WeightError::Open { file: path.display().to_string(), source };
    let mut text = String::new();
    File::open(path).map_err(open)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(open)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(config::wrong(path, format!("is longer than {FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

fn merges(text: &str) -> Result<Vec<(String, String)>, String> {
    let lines =
        text.lines().enumerate().filter(|(i, line)| !(line.is_empty() || *i == 0 && line.starts_with("#version")));
    lines
        .map(|(i, line)| match line.split_once(' ') {
            Some((a, b)) if !a.is_empty() && !b.is_empty() && !b.contains(' ') => Ok((a.to_owned(), b.to_owned())),
            _ => Err(format!("line {} is no pair", i + 1)),
        })
        .collect()
}

fn build(words: Vocab, merges: Vec<(String, String)>) -> tokenizers::Result<Inner> {
    let model = BPE::builder()
        .vocab_and_merges(words, merges)
        .unk_token(END.to_owned())
        .end_of_word_suffix("</w>".to_owned())
        .build()?;
    let mut inner = Inner::new(model);
    let spaces = Replace::new(ReplacePattern::Regex(r"\s+".to_owned()), " ")?;
    inner.with_normalizer(Some(Normal::new(vec![NFC.into(), spaces.into(), Lowercase.into()])))?;
    let words = Split::new(SplitPattern::Regex(WORDS.to_owned()), SplitDelimiterBehavior::Removed, true)?;
    inner.with_pre_tokenizer(Some(Cuts::new(vec![words.into(), ByteLevel::new(false, true, true).into()])));
    inner.add_special_tokens([AddedToken::from(START, true), AddedToken::from(END, true)])?;
    Ok(inner)
}
