//! What a resting window cannot hold: a Bloom filter over the terms of a few names ([`crate::Options::filtered`]).
//!
//! Who asks for an id asks all windows within his time, and nearly none has it. A window's filter lies beside its index in a file of its own, so that
//! such a question passes the window by without its index: one block of 64 bytes is read for each term that is asked for. A filter says *no* for
//! certain, and *perhaps* about once in a hundred times where it is no.
//!
//! It is made from the dictionary when a window has come to rest, and again where it is missing, does not read, or is of other names;
//! a window without one is asked as it always was. Only the block that is asked for is read, so each ends with its own checksum.
//! Absent on purpose: filters in memory (they would grow with what is kept), and of windows that are still written (they are open anyway).

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use tantivy::Searcher;

use crate::index::{Fields, IndexFault, id_term, keyword_term};
use crate::query::Query;

/// The file's name in the folder of its window.
pub(crate) const FILE: &str = "terms.filter";
const MAGIC: [u8; 8] = *b"BLTERMS1";
const HEADER_BYTES: usize = 64;
const BLOCK_BYTES: usize = 64;
/// A block without its checksum.
const BITS_BYTES: usize = BLOCK_BYTES - 4;
const BITS: u64 = BITS_BYTES as u64 * 8;
const BITS_A_TERM: u64 = 12;
const PROBES: u32 = 7;
/// 16 MiB, ten million terms; with more of them it says *perhaps* more often.
const BLOCKS_MAX: u64 = (16 << 20) / BLOCK_BYTES as u64;

/// Whether the window in `dir` has nothing that answers to `query`, for certain and without its index.
pub(crate) fn rules_out(dir: &Path, names: &'static [&'static str], query: &Query) -> bool {
    asks_for(query, names) && Filter::open(dir, names).is_some_and(|filter| !filter.may_answer(query))
}

/// Whether there is a filter of these names that can be asked.
pub(crate) fn is_there(dir: &Path, names: &'static [&'static str]) -> bool {
    Filter::open(dir, names).is_some()
}

/// Whether a filter could say anything of `query`.
fn asks_for(query: &Query, names: &[&str]) -> bool {
    match query {
        Query::Keyword { name, .. } | Query::Id { name, whole: true, .. } => names.contains(&name.as_str()),
        Query::And(queries) | Query::Or(queries) => queries.iter().any(|query| asks_for(query, names)),
        _ => false,
    }
}

struct Filter {
    file: File,
    blocks: u64,
    names: &'static [&'static str],
}

impl Filter {
    fn open(dir: &Path, names: &'static [&'static str]) -> Option<Self> {
        let file = File::open(dir.join(FILE)).ok()?;
        let mut header = [0; HEADER_BYTES];
        file.read_exact_at(&mut header, 0).ok()?;
        let blocks = read_header(&header, names)?;
        let bytes = blocks.checked_mul(BLOCK_BYTES as u64)?.checked_add(HEADER_BYTES as u64)?;
        (file.metadata().ok()?.len() == bytes).then_some(Self { file, blocks, names })
    }

    fn may_answer(&self, query: &Query) -> bool {
        match query {
            Query::Nothing => false,
            Query::Keyword { name, value } if self.covers(name) => self.may_have(&keyword_term(name, value)),
            Query::Id { name, begin, whole: true } if self.covers(name) => self.may_have(&id_term(name, begin)),
            Query::And(all) => all.iter().all(|query| self.may_answer(query)),
            Query::Or(some) => some.iter().any(|query| self.may_answer(query)),
            _ => true,
        }
    }

    fn covers(&self, name: &str) -> bool {
        self.names.contains(&name)
    }

    fn may_have(&self, term: &str) -> bool {
        let place = Place::of(term.as_bytes(), self.blocks);
        let mut block = [0; BLOCK_BYTES];
        let at = HEADER_BYTES as u64 + place.block * BLOCK_BYTES as u64;
        if self.file.read_exact_at(&mut block, at).is_err() {
            return true;
        }
        let (bits, sum) = block.split_at(BITS_BYTES);
        if crc32c::crc32c(bits).to_le_bytes() != *sum {
            return true; // the index has the last word
        }
        place.bits().all(|bit| bits[bit / 8] & (1 << (bit % 8)) != 0)
    }
}

/// Where the bits of a term are.
struct Place {
    block: u64,
    first: u32,
    step: u32,
}

impl Place {
    fn of(term: &[u8], blocks: u64) -> Self {
        let hash = hash(term);
        let block = (u128::from(hash) * u128::from(blocks)) >> 64;
        let within = mixed(hash);
        #[allow(clippy::cast_possible_truncation, reason = "the two halves of a number")]
        let (first, step) = (within as u32, (within >> 32) as u32 | 1);
        Self { block: u64::try_from(block).unwrap_or(0), first, step }
    }

    fn bits(&self) -> impl Iterator<Item = usize> + use<> {
        let (first, step) = (self.first, self.step);
        (0..PROBES).map(move |probe| {
            let number = u64::from(first.wrapping_add(step.wrapping_mul(probe)));
            usize::try_from((number * BITS) >> 32).unwrap_or(0)
        })
    }
}

/// FNV-1a, and mixed so that all bits depend on all. Of files: it cannot be changed without another [`MAGIC`].
fn hash(bytes: &[u8]) -> u64 {
    mixed(
        bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)),
    )
}

/// The last steps of splitmix64.
fn mixed(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

fn header(names: &[&str], blocks: u64) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8..16].copy_from_slice(&hash(names.join("\0").as_bytes()).to_le_bytes());
    header[16..24].copy_from_slice(&blocks.to_le_bytes());
    let sum = crc32c::crc32c(&header[..24]);
    header[24..28].copy_from_slice(&sum.to_le_bytes());
    header
}

/// How many blocks follow, if this is the header of a filter of these names.
fn read_header(bytes: &[u8; HEADER_BYTES], names: &[&str]) -> Option<u64> {
    let blocks = u64::from_le_bytes(bytes[16..24].try_into().ok()?);
    (*bytes == header(names, blocks) && (1..=BLOCKS_MAX).contains(&blocks)).then_some(blocks)
}

/// Bits of terms, while they are set.
struct Bits(Vec<[u8; BLOCK_BYTES]>);

impl Bits {
    fn for_terms(terms: u64) -> Self {
        let blocks = (terms.saturating_mul(BITS_A_TERM)).div_ceil(BITS).clamp(1, BLOCKS_MAX);
        Self(vec![[0; BLOCK_BYTES]; usize::try_from(blocks).unwrap_or(1)])
    }

    fn put(&mut self, term: &[u8]) {
        let place = Place::of(term, self.0.len() as u64);
        let Some(block) = usize::try_from(place.block).ok().and_then(|at| self.0.get_mut(at)) else { return };
        place.bits().for_each(|bit| block[bit / 8] |= 1 << (bit % 8));
    }

    /// Writes the file so that it is there as a whole or not at all.
    fn write(mut self, dir: &Path, names: &[&str]) -> std::io::Result<()> {
        let blocks = self.0.len() as u64;
        for block in &mut self.0 {
            let sum = crc32c::crc32c(&block[..BITS_BYTES]);
            block[BITS_BYTES..].copy_from_slice(&sum.to_le_bytes());
        }
        let making = dir.join(format!("{FILE}.new"));
        let mut file = File::create(&making)?;
        file.write_all(&header(names, blocks))?;
        file.write_all(self.0.as_flattened())?;
        file.sync_all()?;
        std::fs::rename(&making, dir.join(FILE))?;
        File::open(dir)?.sync_all()
    }
}

/// Makes the filter of the window in `dir` from its dictionary. To be called when nothing more comes into it.
pub(crate) fn make(dir: &Path, searcher: &Searcher, fields: &Fields, names: &[&str]) -> Result<(), IndexFault> {
    let mut terms = 0;
    each_term(searcher, fields, names, |_| terms += 1)?;
    let mut bits = Bits::for_terms(terms);
    each_term(searcher, fields, names, |term| bits.put(term))?;
    let done = bits.write(dir, names);
    done.map_err(|error| IndexFault { problem: format!("write {FILE}: {error}"), is_damage: false })
}

/// The keywords and ids of these names, as they stand in the dictionary.
fn each_term(
    searcher: &Searcher,
    fields: &Fields,
    names: &[&str],
    mut take: impl FnMut(&[u8]),
) -> Result<(), IndexFault> {
    for reader in searcher.segment_readers() {
        let inverted = reader.inverted_index(fields.term)?;
        for begin in names.iter().flat_map(|name| [keyword_term(name, ""), id_term(name, "")]) {
            let stream = inverted.terms().range().ge(begin.as_bytes()).into_stream();
            let mut stream = stream.map_err(|error| IndexFault { problem: error.to_string(), is_damage: false })?;
            while stream.advance() && stream.key().starts_with(begin.as_bytes()) {
                take(stream.key());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test panics with what went wrong")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAMES: &[&str] = &["trace", "span"];

    fn written(dir: &Path, values: &[String]) -> Filter {
        let mut bits = Bits::for_terms(values.len() as u64);
        values.iter().for_each(|value| bits.put(keyword_term("trace", value).as_bytes()));
        bits.write(dir, NAMES).unwrap();
        Filter::open(dir, NAMES).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_in_it_is_never_ruled_out(values in prop::collection::vec(".{0,40}", 1..200)) {
            let dir = tempfile::tempdir().unwrap();
            let filter = written(dir.path(), &values);
            for value in &values {
                prop_assert!(filter.may_answer(&Query::keyword("trace", value)));
            }
        }

        #[test]
        fn bytes_that_are_no_filter_are_taken_for_none(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join(FILE), &bytes).unwrap();
            prop_assert!(Filter::open(dir.path(), NAMES).is_none());
        }
    }

    #[test]
    fn what_is_not_in_it_is_nearly_always_ruled_out() {
        let dir = tempfile::tempdir().unwrap();
        let values: Vec<String> = (0..20_000).map(|number| format!("{number:032x}")).collect();
        let filter = written(dir.path(), &values);
        let wrong =
            (20_000..60_000).filter(|number| filter.may_have(&keyword_term("trace", &format!("{number:032x}"))));
        let wrong = wrong.count();
        assert!(wrong < 600, "{wrong} of 40,000");
        let of_both = |a: u32, b: u32| {
            let of = |number: u32| Query::keyword("trace", &format!("{number:032x}"));
            (Query::And(vec![of(a), of(b), Query::All]), Query::Or(vec![of(a), of(b)]))
        };
        let absent =
            (20_000..).find(|number| !filter.may_have(&keyword_term("trace", &format!("{number:032x}")))).unwrap();
        let (and, or) = of_both(7, absent);
        assert!(!filter.may_answer(&and) && filter.may_answer(&or));
        // Of other names, and of what is not there, it knows nothing.
        assert!(filter.may_answer(&Query::keyword("job", "x")));
        assert!(filter.may_answer(&Query::Not(Box::new(Query::keyword("trace", "x")))));
        assert!(!asks_for(&Query::Not(Box::new(Query::keyword("trace", "x"))), NAMES));
    }

    #[test]
    fn a_damaged_block_rules_nothing_out_and_other_names_have_no_filter() {
        let dir = tempfile::tempdir().unwrap();
        let filter = written(dir.path(), &["one".to_owned()]);
        assert!(!filter.may_have(&keyword_term("trace", "two")));
        let path = dir.path().join(FILE);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[HEADER_BYTES + 3] ^= 4;
        std::fs::write(&path, &bytes).unwrap();
        assert!(Filter::open(dir.path(), NAMES).unwrap().may_have(&keyword_term("trace", "two")));
        assert!(Filter::open(dir.path(), &["trace"]).is_none());
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert!(Filter::open(dir.path(), NAMES).is_none());
    }
}
