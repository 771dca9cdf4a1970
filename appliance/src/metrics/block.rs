//! Blocks: two hours of samples in one file that never changes.
//!
//! ```text
//! magic  (per series: times by pco, values by pco, CRC32C of both)…  index  footer
//! index  = version, number of series, (labels, offset, bytes of times, bytes of values, samples)…
//! footer = index offset u64, index bytes u64, first ms i64, last ms i64, CRC32C of the index, CRC32C of all that, magic
//! ```
//! Values are compressed as their bits, so that every NaN comes back as it was. The index is read when it is first
//! asked for, and forgotten when it has not been for a while, so that a month of blocks costs no memory at rest.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use pco::standalone::{simple_compress, simple_decompress};

use super::codec::{Malformed, Reader, Writer};
use super::files;
use super::model::{Labels, Sample, Selector, SeriesSamples};
use super::promql::{Budget, QueryError};

const MAGIC: &[u8; 8] = b"BKMBLK\x00\x01";
const VERSION: u64 = 1;
const FOOTER_BYTES: usize = 8 * 4 + 4 * 2 + MAGIC.len();
/// Largest index that is read into memory.
const INDEX_BYTES_MAX: u64 = 1 << 30;
/// Most samples of one series in one block.
const SAMPLES_MAX: u64 = 50_000_000;
const LEVEL: usize = 8;

#[derive(Debug, thiserror::Error)]
pub(super) enum BlockError {
    #[error("{}: {problem}", path.display())]
    Damaged { path: PathBuf, problem: String },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// A block on disk.
pub(super) struct Block {
    pub(super) path: PathBuf,
    file: File,
    pub(super) bytes: u64,
    pub(super) min_ms: i64,
    pub(super) max_ms: i64,
    index_at: u64,
    index_bytes: u64,
    index_crc: [u8; 4],
    index: Mutex<Option<Arc<Vec<Entry>>>>,
    used: AtomicBool,
}

/// Where one series stands.
#[derive(Debug)]
struct Entry {
    labels: Labels,
    offset: u64,
    times_bytes: usize,
    values_bytes: usize,
    samples: usize,
}

/// Writes a block of `series`, each with its samples in time order, none empty. Nothing is written when there are none.
pub(super) fn write(path: &Path, series: impl Iterator<Item = (Labels, Vec<Sample>)>) -> Result<bool, BlockError> {
    let mut series = series.filter(|(_, samples)| !samples.is_empty()).peekable();
    if series.peek().is_none() {
        return Ok(false);
    }
    let io = |source| BlockError::Io { path: path.to_owned(), source };
    files::replace(path, |out| {
        out.write_all(MAGIC)?;
        let mut entries = Writer::default();
        let (mut count, mut min_ms, mut max_ms) = (0_u64, i64::MAX, i64::MIN);
        for (labels, samples) in series {
            let times: Vec<i64> = samples.iter().map(|sample| sample.t_ms).collect();
            let values: Vec<u64> = samples.iter().map(|sample| sample.value.to_bits()).collect();
            // As floats `pco` finds more in them; as bits nothing but the bits is promised, so that is the fallback.
            let times = compress(&times)?;
            let values = compress_values(&samples, &values)?;
            let offset = out.bytes;
            let crc = crc32c::crc32c_append(crc32c::crc32c(&times), &values);
            out.write_all(&times)?;
            out.write_all(&values)?;
            out.write_all(&crc.to_le_bytes())?;
            entries.labels(&labels);
            for number in [offset, times.len() as u64, values.len() as u64, samples.len() as u64] {
                entries.number(number);
            }
            count += 1;
            min_ms = min_ms.min(samples.first().map_or(i64::MAX, |sample| sample.t_ms));
            max_ms = max_ms.max(samples.last().map_or(i64::MIN, |sample| sample.t_ms));
        }
        let mut index = Writer::default();
        index.number(VERSION);
        index.number(count);
        index.bytes.extend(&entries.bytes);
        let mut tail = out.bytes.to_le_bytes().to_vec();
        tail.extend((index.bytes.len() as u64).to_le_bytes());
        tail.extend(min_ms.to_le_bytes());
        tail.extend(max_ms.to_le_bytes());
        tail.extend(crc32c::crc32c(&index.bytes).to_le_bytes());
        let crc = crc32c::crc32c(&tail);
        out.write_all(&index.bytes)?;
        out.write_all(&tail)?;
        out.write_all(&crc.to_le_bytes())?;
        out.write_all(MAGIC)
    })
    .map_err(io)?;
    Ok(true)
}

fn compress<T: pco::data_types::Number>(numbers: &[T]) -> io::Result<Vec<u8>> {
    let config = pco::ChunkConfig::default().with_compression_level(LEVEL);
    simple_compress(numbers, &config).map_err(io::Error::other)
}

/// One byte says how: 0 as bits, 1 as floats.
fn compress_values(samples: &[Sample], bits: &[u64]) -> io::Result<Vec<u8>> {
    let floats: Vec<f64> = samples.iter().map(|sample| sample.value).collect();
    let (how, body) =
        if floats.iter().any(|value| value.is_nan()) { (0, compress(bits)?) } else { (1, compress(&floats)?) };
    let mut out = vec![how];
    out.extend(body);
    Ok(out)
}

impl Block {
    /// Opens a block and checks its footer; the index is checked when it is read.
    pub(super) fn open(path: &Path) -> Result<Self, BlockError> {
        let io = |source| BlockError::Io { path: path.to_owned(), source };
        let damaged = |problem: &str| BlockError::Damaged { path: path.to_owned(), problem: problem.to_owned() };
        let file = File::open(path).map_err(io)?;
        let bytes = file.metadata().map_err(io)?.len();
        let footer_at = bytes.checked_sub(FOOTER_BYTES as u64).ok_or_else(|| damaged("it is too short"))?;
        let mut footer = [0; FOOTER_BYTES];
        file.read_exact_at(&mut footer, footer_at).map_err(io)?;
        if footer[FOOTER_BYTES - MAGIC.len()..] != *MAGIC {
            return Err(damaged("its end is not that of a block, or of a later version"));
        }
        if footer[36..40] != crc32c::crc32c(&footer[..36]).to_le_bytes() {
            return Err(damaged("the checksum of its footer does not fit"));
        }
        let mut index_crc = [0; 4];
        index_crc.copy_from_slice(&footer[32..36]);
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&footer[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let (index_at, index_bytes) = (word(0), word(8));
        if index_bytes > INDEX_BYTES_MAX || index_at.checked_add(index_bytes) != Some(footer_at) {
            return Err(damaged("its index is not where its footer says"));
        }
        let (min_ms, max_ms) = (word(16) as i64, word(24) as i64);
        let (index_cache, used) = (Mutex::new(None), AtomicBool::new(false));
        Ok(Self {
            path: path.to_owned(),
            file,
            bytes,
            min_ms,
            max_ms,
            index_at,
            index_bytes,
            index_crc,
            index: index_cache,
            used,
        })
    }

    fn entries(&self) -> Result<Arc<Vec<Entry>>, BlockError> {
        self.used.store(true, Ordering::Relaxed);
        let mut index = self.index.lock();
        if let Some(entries) = &*index {
            return Ok(entries.clone());
        }
        let mut bytes = vec![0; self.index_bytes as usize];
        let io = |source| BlockError::Io { path: self.path.clone(), source };
        self.file.read_exact_at(&mut bytes, self.index_at).map_err(io)?;
        if crc32c::crc32c(&bytes).to_le_bytes() != self.index_crc {
            let problem = "the checksum of its index does not fit".to_owned();
            return Err(BlockError::Damaged { path: self.path.clone(), problem });
        }
        let entries = read_entries(&bytes, self.index_at)
            .map_err(|error| BlockError::Damaged { path: self.path.clone(), problem: error.to_string() })?;
        let entries = Arc::new(entries);
        *index = Some(entries.clone());
        Ok(entries)
    }

    /// Forgets the index when nobody has asked since the last call.
    pub(super) fn rest(&self) {
        if !self.used.swap(false, Ordering::Relaxed) {
            *self.index.lock() = None;
        }
    }

    /// Calls `visit` with the labels of each series that matches.
    pub(super) fn labels(&self, selector: &Selector, mut visit: impl FnMut(&Labels)) -> Result<(), BlockError> {
        self.entries()?
            .iter()
            .map(|entry| &entry.labels)
            .filter(|labels| selector.matches(labels))
            .for_each(&mut visit);
        Ok(())
    }

    /// The series that match with their samples from `from_ms` to `to_ms`.
    pub(super) fn select(
        &self,
        selector: &Selector,
        from_ms: i64,
        to_ms: i64,
        budget: &Budget,
    ) -> Result<Vec<SeriesSamples>, QueryError> {
        let storage = |error: BlockError| QueryError::Storage(error.to_string());
        let mut found = Vec::new();
        for entry in self.entries().map_err(storage)?.iter().filter(|entry| selector.matches(&entry.labels)) {
            budget.charge(entry.samples)?;
            let mut samples = self.read(entry).map_err(storage)?;
            samples.retain(|sample| (from_ms..=to_ms).contains(&sample.t_ms));
            budget.refund(entry.samples - samples.len());
            if !samples.is_empty() {
                found.push(SeriesSamples { labels: entry.labels.clone(), samples });
            }
        }
        Ok(found)
    }

    fn read(&self, entry: &Entry) -> Result<Vec<Sample>, BlockError> {
        let damaged = |problem: &str| BlockError::Damaged {
            path: self.path.clone(),
            problem: format!("series {} at byte {}: {problem}", entry.labels, entry.offset),
        };
        let body = entry.times_bytes + entry.values_bytes;
        let mut bytes = vec![0; body + 4];
        let io = |source| BlockError::Io { path: self.path.clone(), source };
        self.file.read_exact_at(&mut bytes, entry.offset).map_err(io)?;
        if bytes[body..] != crc32c::crc32c(&bytes[..body]).to_le_bytes() {
            return Err(damaged("its checksum does not fit"));
        }
        let (times, values) = bytes[..body].split_at(entry.times_bytes);
        let times: Vec<i64> = simple_decompress(times).map_err(|error| damaged(&error.to_string()))?;
        let values: Vec<f64> = match values.split_first() {
            Some((0, bits)) => {
                let bits: Vec<u64> = simple_decompress(bits).map_err(|error| damaged(&error.to_string()))?;
                bits.into_iter().map(f64::from_bits).collect()
            }
            Some((1, floats)) => simple_decompress(floats).map_err(|error| damaged(&error.to_string()))?,
            _ => return Err(damaged("its values are of an unknown kind")),
        };
        if times.len() != entry.samples || values.len() != entry.samples {
            return Err(damaged("it holds another number of samples than its index says"));
        }
        Ok(times.into_iter().zip(values).map(|(t_ms, value)| Sample { t_ms, value }).collect())
    }
}

fn read_entries(bytes: &[u8], data_end: u64) -> Result<Vec<Entry>, Malformed> {
    let mut from = Reader::new(bytes);
    if from.number()? != VERSION {
        return Err(Malformed("its index is of a later version"));
    }
    let mut entries = Vec::new();
    for _ in 0..from.count()? {
        let labels = from.labels()?;
        let [offset, times, values, samples] = [from.number()?, from.number()?, from.number()?, from.number()?];
        let end = [times, values, 4].iter().try_fold(offset, |sum, &part| sum.checked_add(part));
        if end.is_none_or(|end| end > data_end) || samples > SAMPLES_MAX {
            return Err(Malformed("a series lies outside of the data"));
        }
        entries.push(Entry {
            labels,
            offset,
            times_bytes: times as usize,
            values_bytes: values as usize,
            samples: samples as usize,
        });
    }
    Ok(entries)
}

/// For fuzzing.
pub(super) fn fuzz_index(bytes: &[u8]) {
    let _ = read_entries(bytes, 1 << 20);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::metrics::model::{Matcher, STALE_BITS};
    use crate::metrics::testing::budget;

    fn labels(at: usize) -> Labels {
        Labels::from_texts(&[("__name__", "x"), ("n", &at.to_string())])
    }

    fn everything() -> Selector {
        Selector { alternatives: vec![vec![Matcher::equal("__name__", "x")]] }
    }

    fn read_all(path: &Path) -> Vec<Vec<Sample>> {
        let block = Block::open(path).unwrap();
        let found = block.select(&everything(), i64::MIN, i64::MAX, &budget()).unwrap();
        found.into_iter().map(|series| series.samples).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn any_samples_come_back_to_the_bit(series in proptest::collection::vec(
            proptest::collection::vec((0_i64..10_000, prop_oneof![any::<u64>(), Just(STALE_BITS), (0..100_u32).prop_map(|n| f64::from(n).to_bits())]), 1..200), 1..5)
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("b.blk");
            let given: Vec<Vec<Sample>> = series.into_iter().map(|pairs| {
                let mut t_ms = 0;
                pairs.into_iter().map(|(step, bits)| { t_ms += step; Sample { t_ms, value: f64::from_bits(bits) } }).collect()
            }).collect();
            let written = write(&path, given.iter().enumerate().map(|(at, samples)| (labels(at), samples.clone())));
            prop_assert!(written.unwrap());
            prop_assert_eq!(read_all(&path), given);
        }
    }

    #[test]
    fn a_changed_byte_is_found_wherever_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("b.blk");
        let samples: Vec<Sample> = (0..200).map(|at| Sample { t_ms: at * 15_000, value: (at % 7) as f64 }).collect();
        assert!(write(&path, [(labels(0), samples)].into_iter()).unwrap());
        let whole = std::fs::read(&path).unwrap();
        for at in MAGIC.len()..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            std::fs::write(&path, &bytes).unwrap();
            let read = Block::open(&path).map(|block| block.select(&everything(), i64::MIN, i64::MAX, &budget()));
            assert!(!matches!(read, Ok(Ok(_))), "byte {at} of {}", whole.len());
        }
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(Block::open(&path).is_err(), "cut at {length}");
        }
    }

    #[test]
    fn an_empty_block_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("b.blk");
        assert!(!write(&path, [(labels(0), vec![])].into_iter()).unwrap());
        assert!(!path.exists());
    }
}
