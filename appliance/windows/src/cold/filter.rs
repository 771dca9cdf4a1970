//! Which values are not in a window: a Bloom filter over its terms, so that a search for a rare word or one trace asks only the windows that have
//! it, or one in a hundred of the others.
//!
//! The filter of `filter.rs` goes with it as well: that one knows a few names and is asked for less than a read of the disk; this one knows what costs a request.
//!
//! Where all terms would take too much room, the words of texts are left out; where keywords alone would, there is no filter.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::opened;
use crate::document::keyword_key;
use crate::index::{Window, id_term, keyword_term, number_term};
use crate::query::Query;

pub(super) const FILTER_FILE: &str = "cold.filter";
const BITS_PER_TERM: u64 = 10;
/// The best for ten bits: one of 120 terms that are not there seems to be.
const HASHES: u64 = 7;
/// The filter takes this part of its window at most, or so many bytes.
const PART_OF_WINDOW: u64 = 40;
const BYTES_MIN: u64 = 64 * 1024;
const BYTES_MAX: u64 = 32 << 20;

/// What the manifest says of a filter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FilterMark {
    bytes: u64,
    crc: u32,
    /// Whether words of texts are in it.
    words: bool,
}

pub(crate) struct Filter {
    mark: FilterMark,
    bits: Bits,
}

enum Bits {
    Made(Vec<u8>),
    /// Read bit by bit: a filter takes no memory of its own.
    Kept(File),
}

#[derive(Clone, Copy)]
enum Kind {
    Term = 1,
    Word = 2,
}

impl Filter {
    /// A filter of a window that has `window_bytes` on the disk; `None` where there is no room for one.
    pub(super) fn of(window: &Window, window_bytes: u64) -> Result<Option<Self>, String> {
        let room = (window_bytes / PART_OF_WINDOW).clamp(BYTES_MIN, BYTES_MAX);
        let (terms, words) = opened::count_terms(window).map_err(|error| error.to_string())?;
        let bytes_of = |terms: u64| (terms.saturating_mul(BITS_PER_TERM)).div_ceil(8).max(8);
        let (bytes, with_words) = match (bytes_of(terms), bytes_of(terms + words)) {
            (_, both) if both <= room => (both, true),
            (alone, _) if alone <= room => (alone, false),
            _ => return Ok(None),
        };
        let mut bits = vec![0; usize::try_from(bytes).unwrap_or_default()];
        let mut add = |kind: Kind, term: &[u8]| {
            for bit in bits_of(kind, term, bytes) {
                bits[usize::try_from(bit / 8).unwrap_or_default()] |= 1 << (bit % 8);
            }
        };
        opened::each_term(window, window.fields.term, |term| add(Kind::Term, term))
            .map_err(|error| error.to_string())?;
        if with_words {
            opened::each_term(window, window.fields.word, |word| add(Kind::Word, word))
                .map_err(|error| error.to_string())?;
        }
        let mark = FilterMark { bytes, crc: crc32c::crc32c(&bits), words: with_words };
        Ok(Some(Self { mark, bits: Bits::Made(bits) }))
    }

    /// The filter in the folder of a window. One that is not what was written is none.
    pub(super) fn open(dir: &Path, mark: Option<&FilterMark>) -> Option<Self> {
        let mark = mark?.clone();
        let path = dir.join(FILTER_FILE);
        let bytes = std::fs::read(&path).ok()?;
        if bytes.len() as u64 != mark.bytes || crc32c::crc32c(&bytes) != mark.crc || mark.bytes == 0 {
            tracing::warn!(path = %path.display(), "the filter of a cold window is damaged; it is searched without one");
            return None;
        }
        Some(Self { mark, bits: Bits::Kept(File::open(&path).ok()?) })
    }

    pub(super) fn mark(&self) -> FilterMark {
        self.mark.clone()
    }

    /// Of one that was just made.
    pub(super) fn bytes(&self) -> &[u8] {
        match &self.bits {
            Bits::Made(bytes) => bytes,
            Bits::Kept(_) => &[],
        }
    }

    fn has(&self, kind: Kind, term: &str) -> bool {
        bits_of(kind, term.as_bytes(), self.mark.bytes).all(|bit| {
            let mut byte = [0];
            let read = match &self.bits {
                Bits::Made(bytes) => {
                    byte[0] = bytes[usize::try_from(bit / 8).unwrap_or_default()];
                    true
                }
                Bits::Kept(file) => file.read_exact_at(&mut byte, bit / 8).is_ok(),
            };
            !read || byte[0] & 1 << (bit % 8) != 0
        })
    }

    /// Whether any document may answer to `query`. As [`crate::plan`] looks terms up; what it does not look up whole may be there.
    pub(crate) fn may_answer(&self, query: &Query) -> bool {
        match query {
            Query::Nothing => false,
            Query::Keyword { name, value } => self.has(Kind::Term, &keyword_term(name, keyword_key(value))),
            Query::Id { name, begin, whole: true } => self.has(Kind::Term, &id_term(name, begin)),
            Query::Number { name, .. } => self.has(Kind::Term, &number_term(name)),
            Query::Words { name, words } => {
                !self.mark.words || words.iter().all(|word| self.has(Kind::Word, &format!("{name}\0{word}")))
            }
            Query::And(all) => all.iter().all(|query| self.may_answer(query)),
            Query::Or(some) => some.iter().any(|query| self.may_answer(query)),
            Query::All
            | Query::KeywordPrefix { .. }
            | Query::Id { whole: false, .. }
            | Query::WordPrefix { .. }
            | Query::WordInfix { .. }
            | Query::Contains { .. }
            | Query::Matches { .. }
            | Query::Exists { .. }
            | Query::Not(_) => true,
        }
    }
}

/// Where the bits of a term are. What is on the disk depends on it.
fn bits_of(kind: Kind, term: &[u8], bytes: u64) -> impl Iterator<Item = u64> {
    // FNV-1a, then mixed, so that all bits depend on all bytes.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ kind as u64;
    for byte in term {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let mix = |mut x: u64| {
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    };
    let (first, step) = (mix(hash), mix(hash.wrapping_add(0x9e37_79b9_7f4a_7c15)) | 1);
    (0..HASHES).map(move |number| first.wrapping_add(step.wrapping_mul(number)) % (bytes * 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(terms: &[&str], bytes: u64) -> Filter {
        let mut bits = vec![0; usize::try_from(bytes).unwrap()];
        for term in terms {
            for bit in bits_of(Kind::Term, term.as_bytes(), bytes) {
                bits[usize::try_from(bit / 8).unwrap()] |= 1 << (bit % 8);
            }
        }
        let mark = FilterMark { bytes, crc: crc32c::crc32c(&bits), words: false };
        Filter { mark, bits: Bits::Made(bits) }
    }

    #[test]
    fn what_was_added_is_there_and_few_others_seem_to_be() {
        let terms: Vec<_> = (0..2000).map(|number| format!("trace\0k{number:032x}")).collect();
        let filter = made(&terms.iter().map(String::as_str).collect::<Vec<_>>(), 2500);
        assert!(terms.iter().all(|term| filter.has(Kind::Term, term)));
        let others = (0..10_000).filter(|number| filter.has(Kind::Term, &format!("trace\0kx{number}"))).count();
        assert!(others < 200, "{others} of 10000");
        assert!(!filter.has(Kind::Word, &terms[0]) || !filter.has(Kind::Word, &terms[1]), "kinds are told apart");
    }

    #[test]
    fn a_question_is_ruled_out_only_by_what_must_be_there() {
        let filter = made(&["level\0kerror", "gpu\0n"], 64);
        let (yes, no) = (Query::keyword("level", "error"), Query::keyword("level", "info"));
        let any = |name: &str| Query::Number {
            name: name.into(),
            from: std::ops::Bound::Unbounded,
            to: std::ops::Bound::Unbounded,
        };
        assert!(filter.may_answer(&yes) && !filter.may_answer(&no));
        assert!(filter.may_answer(&any("gpu")) && !filter.may_answer(&any("cpu")));
        assert!(!filter.may_answer(&Query::And(vec![yes.clone(), no.clone()])));
        assert!(filter.may_answer(&Query::Or(vec![yes, no.clone()])));
        assert!(filter.may_answer(&Query::Not(Box::new(no))));
        assert!(filter.may_answer(&Query::text("body", "words are not in it")));
        assert!(filter.may_answer(&Query::And(Vec::new())) && !filter.may_answer(&Query::Or(Vec::new())));
    }

    #[test]
    fn the_places_of_bits_do_not_change() {
        let bits: Vec<_> = bits_of(Kind::Term, b"level\0kerror", 1000).collect();
        assert_eq!(bits, [7894, 4825, 1372, 6303, 2850, 7781, 4712]);
    }
}
