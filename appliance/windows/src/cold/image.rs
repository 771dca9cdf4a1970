//! The image of a window: its files behind one another, cut into blocks that have a checksum each.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::loose::{Loose, write_whole};
use super::opened;
use crate::filter;

pub(super) const HEAD_FILE: &str = "cold.head";
const MANIFEST_FILE: &str = "cold.json";
const VERSION: u32 = 1;
/// What is read and compared at once.
pub(super) const BLOCK_BYTES: u64 = 64 * 1024;
/// Most bytes of one file's part of the head, and of the head.
const HEAD_PART_BYTES_MAX: u64 = 256 * 1024;
const HEAD_BYTES_MAX: u64 = 4 << 20;

/// What lies where in an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    version: u32,
    /// See [`super::Far::place`] and [`super::Far::key`].
    pub(crate) place: String,
    pub(crate) key: String,
    /// As [`super::Loose::name`].
    pub(crate) name: String,
    pub(crate) moved_ms: u64,
    pub(crate) bytes: u64,
    pub(super) block_bytes: u64,
    /// CRC-32C of each block.
    pub(super) crcs: Vec<u32>,
    pub(super) files: Vec<Part>,
    pub(super) head: Head,
}

/// A file of the window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Part {
    pub(super) name: String,
    /// Where it begins in the image.
    pub(super) at: u64,
    pub(super) bytes: u64,
}

/// Stretches of the image that lie in `cold.head`, one behind the other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    /// Rising, with nothing in common: where each begins in the image, and its bytes.
    pub(super) stretches: Vec<(u64, u64)>,
    pub(super) crc: u32,
}

impl Manifest {
    /// Reads the manifest in the folder of a window; `None` when it has none.
    pub(crate) fn read(dir: &Path) -> Result<Option<Self>, String> {
        match std::fs::read(dir.join(MANIFEST_FILE)) {
            Ok(bytes) => Self::parse(&bytes).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("{MANIFEST_FILE}: {error}")),
        }
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let manifest: Self = serde_json::from_slice(bytes).map_err(|error| format!("{MANIFEST_FILE}: {error}"))?;
        if manifest.version > VERSION {
            return Err(format!("{MANIFEST_FILE} was written by a later version ({})", manifest.version));
        }
        if manifest.is_sound() { Ok(manifest) } else { Err(format!("{MANIFEST_FILE} contradicts itself")) }
    }

    fn is_sound(&self) -> bool {
        let within = |at: u64, bytes: u64| at.checked_add(bytes).is_some_and(|end| end <= self.bytes);
        let blocks = self.block_bytes > 0 && self.block_bytes <= 1 << 24 && !self.crcs.is_empty();
        let mut end = 0;
        let rises = self.head.stretches.iter().all(|(at, bytes)| {
            let follows = *at >= end && within(*at, *bytes);
            end = at.saturating_add(*bytes);
            follows
        });
        blocks
            && self.bytes.div_ceil(self.block_bytes) == self.crcs.len() as u64
            && self.files.iter().all(|part| within(part.at, part.bytes) && is_plain(&part.name))
            && rises
    }

    /// From now on the window lies far away.
    pub(crate) fn write(&self, dir: &Path) -> std::io::Result<()> {
        write_whole(&dir.join(MANIFEST_FILE), &serde_json::to_vec(self)?)
    }

    /// Removes the files that are in the image. What a crash leaves is removed at the next start.
    pub(crate) fn remove_local(&self, dir: &Path) {
        for part in &self.files {
            match std::fs::remove_file(dir.join(&part.name)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    let path = dir.join(&part.name);
                    tracing::warn!(path = %path.display(), %error, "could not remove a file of a window that has moved");
                }
                _ => {}
            }
        }
    }
}

/// A name that stays in its folder.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.contains(['/', '\0']) && name != "." && name != ".."
}

/// A window's files as they are put: what is read is compared with the checksums that were reckoned first.
pub struct Image<'a> {
    dir: &'a Path,
    manifest: &'a Manifest,
}

impl Image<'_> {
    /// It is read in multiples of this, and to its end.
    pub const BLOCK_BYTES: u64 = BLOCK_BYTES;

    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.manifest.bytes
    }

    /// Reads whole blocks, and to the end at most.
    ///
    /// # Errors
    /// A sentence: the disk fails, or gives other bytes than before.
    pub fn read(&self, range: Range<u64>) -> Result<Vec<u8>, String> {
        let block = self.manifest.block_bytes;
        if !range.start.is_multiple_of(block) || (!range.end.is_multiple_of(block) && range.end != self.bytes()) {
            return Err("a part of an image is whole blocks".to_owned());
        }
        let mut bytes = Vec::new();
        read_at(self.dir, &self.manifest.files, range.clone(), &mut bytes)?;
        let first = usize::try_from(range.start / block).unwrap_or(usize::MAX);
        let blocks = bytes.chunks(usize::try_from(block).unwrap_or(usize::MAX)).enumerate();
        for (number, bytes) in blocks {
            if self.manifest.crcs.get(first + number) != Some(&crc32c::crc32c(bytes)) {
                return Err("the disk gives other bytes than before".to_owned());
            }
        }
        Ok(bytes)
    }
}

/// A window as it is about to be moved.
pub(crate) struct Packed {
    dir: PathBuf,
    pub(crate) manifest: Manifest,
    head: Vec<u8>,
    filter: filter::Made,
}

impl Packed {
    /// Looks at all bytes of the window in `dir`, to be put under the name that `loose` notes. `filtered` are names that it is
    /// filtered by at least. Nothing is changed.
    ///
    /// # Errors
    /// What does not read.
    pub(crate) fn new(
        dir: &Path,
        loose: &Loose,
        filtered: &'static [&'static str],
        now_ms: u64,
    ) -> Result<Self, String> {
        let mut files = Vec::new();
        let mut bytes = 0;
        for (name, length) in opened::files(dir)? {
            files.push(Part { name, at: bytes, bytes: length });
            bytes += length;
        }
        let crcs = checksums(dir, &files)?;
        let opened = opened::open(dir)?;
        let ranges = opened.ranges.iter().filter_map(|(name, range)| {
            let at = files.iter().find(|part| part.name == *name)?.at;
            Some((at + range.start, at + range.end))
        });
        let stretches = joined(ranges.collect());
        let mut head = Vec::new();
        for (at, length) in &stretches {
            read_at(dir, &files, *at..at + length, &mut head)?;
        }
        let searcher = opened.window.searcher();
        let filter = filter::Made::of_all(&searcher, &opened.window.fields, bytes, filtered);
        let filter = filter.map_err(|fault| fault.problem)?;
        let Loose { name, place, key } = loose.clone();
        let manifest = Manifest {
            version: VERSION,
            place,
            key,
            name,
            moved_ms: now_ms,
            bytes,
            block_bytes: BLOCK_BYTES,
            crcs,
            files,
            head: Head { stretches, crc: crc32c::crc32c(&head) },
        };
        match manifest.is_sound() {
            true => Ok(Self { dir: dir.to_owned(), manifest, head, filter }),
            false => Err("it has no files".to_owned()),
        }
    }

    pub(crate) fn image(&self) -> Image<'_> {
        Image { dir: &self.dir, manifest: &self.manifest }
    }

    /// Writes what stays here, the manifest last: then the window lies far away.
    pub(crate) fn bind(&self) -> std::io::Result<()> {
        write_whole(&self.dir.join(HEAD_FILE), &self.head)?;
        self.filter.write(&self.dir)?;
        self.manifest.write(&self.dir)
    }
}

/// Adds a range of the files behind one another to `bytes`.
fn read_at(dir: &Path, files: &[Part], range: Range<u64>, bytes: &mut Vec<u8>) -> Result<(), String> {
    for part in files {
        let (from, to) = (range.start.max(part.at), range.end.min(part.at + part.bytes));
        if from >= to {
            continue;
        }
        let path = dir.join(&part.name);
        let before = bytes.len();
        bytes.resize(before + usize::try_from(to - from).unwrap_or(usize::MAX), 0);
        let read = File::open(&path).and_then(|file| file.read_exact_at(&mut bytes[before..], from - part.at));
        read.map_err(|error| format!("read {}: {error}", path.display()))?;
    }
    Ok(())
}

/// The CRC of each block of the files behind one another.
fn checksums(dir: &Path, files: &[Part]) -> Result<Vec<u32>, String> {
    let block_bytes = usize::try_from(BLOCK_BYTES).unwrap_or(usize::MAX);
    let (mut crcs, mut crc, mut filled) = (Vec::new(), 0_u32, 0_usize);
    let mut buffer = vec![0; block_bytes];
    for part in files {
        let file = File::open(dir.join(&part.name)).map_err(|error| format!("{}: {error}", part.name))?;
        let mut at = 0;
        while at < part.bytes {
            let length = (block_bytes - filled).min(usize::try_from(part.bytes - at).unwrap_or(usize::MAX));
            file.read_exact_at(&mut buffer[..length], at).map_err(|error| format!("{}: {error}", part.name))?;
            crc = crc32c::crc32c_append(crc, &buffer[..length]);
            filled += length;
            at += length as u64;
            if filled == block_bytes {
                crcs.push(std::mem::take(&mut crc));
                filled = 0;
            }
        }
    }
    if filled > 0 {
        crcs.push(crc);
    }
    Ok(crcs)
}

/// Where stretches begin and their bytes, those that touch made one; the small ones alone, and as many as there is room for.
fn joined(mut ranges: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    ranges.retain(|(from, to)| from < to && to - from <= HEAD_PART_BYTES_MAX);
    ranges.sort_unstable();
    let (mut stretches, mut total) = (Vec::<(u64, u64)>::new(), 0);
    for (from, to) in ranges {
        match stretches.last_mut() {
            Some((at, bytes)) if from <= *at + *bytes => {
                let longer = (to - *at).max(*bytes);
                total += longer - *bytes;
                *bytes = longer;
            }
            _ if total + (to - from) > HEAD_BYTES_MAX => break,
            _ => {
                total += to - from;
                stretches.push((from, to - from));
            }
        }
    }
    stretches
}

/// Reads `bytes` as a manifest, and throws the outcome away: for fuzzing.
#[cfg(test)]
pub(super) fn try_parse(bytes: &[u8]) -> bool {
    Manifest::parse(bytes).is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            version: VERSION,
            place: "b".into(),
            key: "k".into(),
            name: "n".into(),
            moved_ms: 1,
            bytes: 100,
            block_bytes: 64,
            crcs: vec![1, 2],
            files: vec![Part { name: "a.store".into(), at: 0, bytes: 100 }],
            head: Head { stretches: vec![(0, 4), (90, 10)], crc: 3 },
        }
    }

    #[test]
    fn a_manifest_is_read_back_and_one_that_contradicts_itself_is_refused() {
        let text = |manifest: &Manifest| serde_json::to_vec(manifest).unwrap();
        assert_eq!(Manifest::parse(&text(&manifest())), Ok(manifest()));
        let mut earlier = serde_json::to_value(manifest()).unwrap();
        earlier["filter"] = serde_json::json!({"bytes": 8, "crc": 1, "words": true});
        assert_eq!(Manifest::parse(&serde_json::to_vec(&earlier).unwrap()), Ok(manifest()));
        let wrong: [fn(&mut Manifest); 7] = [
            |m| m.version = 2,
            |m| m.block_bytes = 0,
            |m| m.crcs.truncate(1),
            |m| m.files[0].bytes = 101,
            |m| m.files[0].name = "../a".into(),
            |m| m.head.stretches = vec![(90, 10), (0, 4)],
            |m| m.head.stretches = vec![(u64::MAX, 2)],
        ];
        for (at, change) in wrong.into_iter().enumerate() {
            let mut changed = manifest();
            change(&mut changed);
            assert!(!try_parse(&text(&changed)), "{at}");
        }
    }

    #[test]
    fn stretches_that_touch_are_one_and_large_ones_are_left_out() {
        assert_eq!(joined(vec![(10, 20), (0, 10), (15, 18), (30, 31), (5, 5)]), [(0, 20), (30, 1)]);
        assert_eq!(joined(vec![(0, HEAD_PART_BYTES_MAX + 1), (7, 9)]), [(7, 2)]);
        let many: Vec<_> = (0..40).map(|at| (at * 1_000_000, at * 1_000_000 + HEAD_PART_BYTES_MAX)).collect();
        assert!(joined(many).iter().map(|(_, bytes)| bytes).sum::<u64>() <= HEAD_BYTES_MAX);
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_manifest_panic(text in "\\PC*", cut in 0..400_usize, byte: u8) {
            try_parse(text.as_bytes());
            let mut bytes = serde_json::to_vec(&manifest()).unwrap();
            let at = cut.min(bytes.len() - 1);
            bytes[at] = byte;
            try_parse(&bytes);
            try_parse(&bytes[..at]);
        }
    }
}
