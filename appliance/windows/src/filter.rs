//! What a resting window cannot hold: a Bloom filter over terms of its dictionary, in a file beside its index.
//!
//! Who asks for an id or a rare word asks all windows within his time, and nearly none has it. A filter tells that without the index: one block of 64
//! bytes is read for each term that is asked for. It says *no* for certain, and *perhaps* about once in a hundred times where it is no.
//!
//! What it covers is weighed against what looking costs. A window that is here knows the keywords and ids of a few names ([`crate::Options::filtered`]),
//! since its dictionary is a read of the disk away. When it moves far away, and each look is a request, a filter of all its terms and words takes
//! the place of that one, as far as there is room.
//!
//! It is made from the dictionary, and made again where it is missing, does not read, or is of other names; a window without one is
//! asked all the same. Only the block that is asked for is read, so each ends with its own checksum. Absent on purpose: filters in memory
//! (they would grow with what is kept), and of windows that are still written (they are open anyway).

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use tantivy::Searcher;
use tantivy::schema::Field;

use crate::cold::write_whole;
use crate::document::keyword_key;
use crate::index::{Fields, IndexFault, id_term, keyword_term, number_term};
use crate::query::Query;

/// The file's name in the folder of its window.
pub(crate) const FILE: &str = "terms.filter";
/// The filter of windows that moved before there was one kind of filter for all. It is not read, only removed.
const EARLIER_FILE: &str = "cold.filter";
const MAGIC: [u8; 8] = *b"BLTERMS1";
const HEADER_BYTES: usize = 64;
const BLOCK_BYTES: usize = 64;
/// A block without its checksum.
const BITS_BYTES: usize = BLOCK_BYTES - 4;
const BITS: u64 = BITS_BYTES as u64 * 8;
const BITS_A_TERM: u64 = 12;
const PROBES: u32 = 7;
/// 32 MiB, twenty million terms; with more of them it says *perhaps* more often.
const BLOCKS_MAX: u64 = (32 << 20) / BLOCK_BYTES as u64;
/// The filter of all terms takes this part of its window at most, or so many bytes.
const PART_OF_WINDOW: u64 = 40;
const ALL_BYTES_MIN: u64 = 64 * 1024;

type Names = &'static [&'static str];

/// Which terms a filter knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Covers {
    /// Keywords and ids of these names.
    Names(Names),
    /// All keywords and ids, and the names of numbers.
    Terms,
    /// The words of texts as well.
    TermsAndWords,
}

impl Covers {
    /// What the header says. Of files.
    fn mark(self) -> u64 {
        match self {
            Self::Names(names) => hash(names.join("\0").as_bytes()),
            Self::Terms => hash(b"\x01terms"),
            Self::TermsAndWords => hash(b"\x01terms and words"),
        }
    }

    /// Whether keywords and ids of this name are in it.
    fn has_terms_of(self, name: &str) -> bool {
        match self {
            Self::Names(names) => names.contains(&name),
            Self::Terms | Self::TermsAndWords => true,
        }
    }
}

/// Whether the window in `dir` has nothing that answers to `query`, for certain and without its index. One that lies far away may know
/// more than `names`.
pub(crate) fn rules_out(dir: &Path, names: Names, is_far: bool, query: &Query) -> bool {
    (is_far || asks_for(query, names)) && Filter::open(dir, names).is_some_and(|filter| !filter.may_answer(query))
}

/// Whether there is a filter that can be asked.
pub(crate) fn is_there(dir: &Path, names: Names) -> bool {
    Filter::open(dir, names).is_some()
}

/// Whether a filter of these names could say anything of `query`.
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
    covers: Covers,
}

impl Filter {
    fn open(dir: &Path, names: Names) -> Option<Self> {
        let file = File::open(dir.join(FILE)).ok()?;
        let mut header = [0; HEADER_BYTES];
        file.read_exact_at(&mut header, 0).ok()?;
        let of = [Covers::Names(names), Covers::Terms, Covers::TermsAndWords];
        let (covers, blocks) = of.into_iter().find_map(|covers| Some((covers, read_header(&header, covers)?)))?;
        let bytes = blocks.checked_mul(BLOCK_BYTES as u64)?.checked_add(HEADER_BYTES as u64)?;
        (file.metadata().ok()?.len() == bytes).then_some(Self { file, blocks, covers })
    }

    /// Whether any document may answer to `query`. As [`crate::plan`] looks terms up; what it does not look up whole may be there.
    fn may_answer(&self, query: &Query) -> bool {
        let covers = self.covers;
        match query {
            Query::Nothing => false,
            Query::Keyword { name, value } if covers.has_terms_of(name) => {
                self.may_have(Kind::Term, &keyword_term(name, keyword_key(value)))
            }
            Query::Id { name, begin, whole: true } if covers.has_terms_of(name) => {
                self.may_have(Kind::Term, &id_term(name, begin))
            }
            Query::Number { name, .. } if !matches!(covers, Covers::Names(_)) => {
                self.may_have(Kind::Term, &number_term(name))
            }
            Query::Words { name, words } if covers == Covers::TermsAndWords => {
                words.iter().all(|word| self.may_have(Kind::Word, &format!("{name}\0{word}")))
            }
            Query::And(all) => all.iter().all(|query| self.may_answer(query)),
            Query::Or(some) => some.iter().any(|query| self.may_answer(query)),
            _ => true,
        }
    }

    fn may_have(&self, kind: Kind, term: &str) -> bool {
        let place = Place::of(kind, term.as_bytes(), self.blocks);
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

/// Words of texts stand in a dictionary of their own.
#[derive(Clone, Copy)]
enum Kind {
    Term,
    Word,
}

/// Where the bits of a term are. Of files: it cannot be changed without another [`MAGIC`].
struct Place {
    block: u64,
    first: u32,
    step: u32,
}

impl Place {
    fn of(kind: Kind, term: &[u8], blocks: u64) -> Self {
        let hash = match kind {
            Kind::Term => hash(term),
            Kind::Word => mixed(hash(term)),
        };
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

/// FNV-1a, and mixed so that all bits depend on all.
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

fn header(covers: Covers, blocks: u64) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8..16].copy_from_slice(&covers.mark().to_le_bytes());
    header[16..24].copy_from_slice(&blocks.to_le_bytes());
    let sum = crc32c::crc32c(&header[..24]);
    header[24..28].copy_from_slice(&sum.to_le_bytes());
    header
}

/// How many blocks follow, if this is the header of a filter that covers this.
fn read_header(bytes: &[u8; HEADER_BYTES], covers: Covers) -> Option<u64> {
    let blocks = u64::from_le_bytes(bytes[16..24].try_into().ok()?);
    (*bytes == header(covers, blocks) && (1..=BLOCKS_MAX).contains(&blocks)).then_some(blocks)
}

/// Bits of terms, while they are set.
struct Bits(Vec<[u8; BLOCK_BYTES]>);

fn blocks_for(terms: u64) -> u64 {
    terms.saturating_mul(BITS_A_TERM).div_ceil(BITS).clamp(1, BLOCKS_MAX)
}

impl Bits {
    fn for_terms(terms: u64) -> Self {
        Self(vec![[0; BLOCK_BYTES]; usize::try_from(blocks_for(terms)).unwrap_or(1)])
    }

    fn put(&mut self, kind: Kind, term: &[u8]) {
        let place = Place::of(kind, term, self.0.len() as u64);
        let Some(block) = usize::try_from(place.block).ok().and_then(|at| self.0.get_mut(at)) else { return };
        place.bits().for_each(|bit| block[bit / 8] |= 1 << (bit % 8));
    }

    fn into_made(mut self, covers: Covers) -> Made {
        for block in &mut self.0 {
            let sum = crc32c::crc32c(&block[..BITS_BYTES]);
            block[BITS_BYTES..].copy_from_slice(&sum.to_le_bytes());
        }
        let header = header(covers, self.0.len() as u64);
        Made([header.as_slice(), self.0.as_flattened()].concat())
    }
}

/// The bytes of a filter.
pub(crate) struct Made(Vec<u8>);

impl Made {
    /// Of the few names alone. To be called when nothing more comes into the window.
    pub(crate) fn of_names(searcher: &Searcher, fields: &Fields, names: Names) -> Result<Self, IndexFault> {
        let mut terms = 0;
        each_of_names(searcher, fields, names, |_| terms += 1)?;
        let mut bits = Bits::for_terms(terms);
        each_of_names(searcher, fields, names, |term| bits.put(Kind::Term, term))?;
        Ok(bits.into_made(Covers::Names(names)))
    }

    /// Of as many terms of a window of `window_bytes` as there is room for.
    pub(crate) fn of_all(
        searcher: &Searcher,
        fields: &Fields,
        window_bytes: u64,
        names: Names,
    ) -> Result<Self, IndexFault> {
        let count = |field| -> Result<u64, IndexFault> {
            let counts = searcher.segment_readers().iter().map(|reader| reader.inverted_index(field));
            Ok(counts.map(|index| index.map(|index| index.terms().num_terms() as u64)).sum::<tantivy::Result<u64>>()?)
        };
        let (terms, words) = (count(fields.term)?, count(fields.word)?);
        let room = (window_bytes / PART_OF_WINDOW).max(ALL_BYTES_MIN) / BLOCK_BYTES as u64;
        let (covers, terms) = match (blocks_for(terms), blocks_for(terms + words)) {
            (_, both) if both <= room => (Covers::TermsAndWords, terms + words),
            (alone, _) if alone <= room => (Covers::Terms, terms),
            _ => return Self::of_names(searcher, fields, names),
        };
        let mut bits = Bits::for_terms(terms);
        each_of_field(searcher, fields.term, |term| bits.put(Kind::Term, term))?;
        if covers == Covers::TermsAndWords {
            each_of_field(searcher, fields.word, |word| bits.put(Kind::Word, word))?;
        }
        Ok(bits.into_made(covers))
    }

    /// Writes the file so that it is there as a whole or not at all.
    pub(crate) fn write(&self, dir: &Path) -> std::io::Result<()> {
        write_whole(&dir.join(FILE), &self.0)?;
        match std::fs::remove_file(dir.join(EARLIER_FILE)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// The keywords and ids of these names, as they stand in the dictionary.
fn each_of_names(
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

/// Every term of a field.
fn each_of_field(searcher: &Searcher, field: Field, mut take: impl FnMut(&[u8])) -> Result<(), IndexFault> {
    for reader in searcher.segment_readers() {
        let inverted = reader.inverted_index(field)?;
        let stream = inverted.terms().stream();
        let mut stream = stream.map_err(|error| IndexFault { problem: error.to_string(), is_damage: false })?;
        while stream.advance() {
            take(stream.key());
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test panics with what went wrong")]
mod tests;
