//! The tables that the rows of a window refer to, in memory and in the file `rows.tables` beside the index.
//!
//! The file begins with a header and grows by *frames* (length, CRC-32C, entries), each of which is durable before a commit refers to it, and is never
//! changed. After a crash it may end in frames, or in a part of one, that no commit refers to: the next writer cuts off what does not
//! read, and what does is as good as any. A commit says how many bytes of the file it needs.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use super::{Grain, put_number, take_number};

/// The file's name in the folder of its window.
pub(crate) const FILE: &str = "rows.tables";
const HEADER: &[u8; 8] = b"BLROWS01";
/// Room for values, and for templates of each grain: coarser ones fit more lines, and have what finer ones cannot take.
const VALUES_BYTES_MAX: usize = 4 << 20;
const FINE_BYTES_MAX: usize = 256 << 10;
const WORDY_BYTES_MAX: usize = FINE_BYTES_MAX + (128 << 10);
const COARSE_BYTES_MAX: usize = WORDY_BYTES_MAX + (128 << 10);
/// Numbering an entry takes some ten bytes while a window is read, and some thirty while it is written.
const ENTRIES_MAX: usize = 256 << 10;
/// Most bytes of all tables of a window in memory, without what it costs to number them.
pub(super) const BYTES_MAX: usize = VALUES_BYTES_MAX + COARSE_BYTES_MAX;
/// A file of more is none of ours: an entry has at most some bytes beside its own, and a frame has a header.
const FILE_BYTES_MAX: u64 = 4 * BYTES_MAX as u64;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Template(Grain),
    Value,
}

/// Texts behind one another, by number.
#[derive(Debug, Default)]
pub(super) struct Arena {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Arena {
    pub(super) fn get(&self, at: usize) -> Option<&[u8]> {
        let end = *self.ends.get(at)? as usize;
        let begin = at.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        self.bytes.get(begin..end)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.ends.len()).filter_map(|at| self.get(at))
    }

    fn cut(&mut self, entries: usize) {
        self.ends.truncate(entries);
        self.bytes.truncate(self.ends.last().map_or(0, |end| *end as usize));
    }

    fn push(&mut self, text: &[u8]) -> Option<usize> {
        let end = u32::try_from(self.bytes.len() + text.len()).ok()?;
        self.bytes.extend_from_slice(text);
        self.ends.push(end);
        Some(self.ends.len() - 1)
    }
}

#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) templates: Arena,
    pub(super) values: Arena,
    /// Entries that are not in the file yet.
    unsaved: Vec<u8>,
    /// Up to where the file has what is in memory.
    saved_bytes: u64,
}

/// The tables of one window. The writer adds to them while searches read.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    path: PathBuf,
    held: RwLock<Held>,
}

impl Tables {
    /// Makes the file of a new window in `dir`.
    ///
    /// # Errors
    /// When it cannot be written, or is there.
    pub(crate) fn create(dir: &Path) -> std::io::Result<Self> {
        let path = dir.join(FILE);
        let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        file.write_all_at(HEADER, 0)?;
        file.sync_all()?;
        File::open(dir)?.sync_all()?;
        Ok(Self { path, held: RwLock::new(Held { saved_bytes: HEADER.len() as u64, ..Held::default() }) })
    }

    /// Reads the tables of the window in `dir`, whose commit needs the first `needed_bytes` of them.
    ///
    /// # Errors
    /// Why they cannot be read; `true` when their bytes are at fault.
    pub(crate) fn read(dir: &Path, needed_bytes: u64) -> Result<Self, (String, bool)> {
        let path = dir.join(FILE);
        let is_missing = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
        let fault = |error: std::io::Error| (format!("read {FILE}: {error}"), is_missing(&error));
        let file_bytes = std::fs::metadata(&path).map_err(fault)?.len();
        if file_bytes > FILE_BYTES_MAX {
            return Err((format!("{FILE} has {file_bytes} bytes, more than one can have"), true));
        }
        let tables = Self { path: path.clone(), ..Self::parse(&std::fs::read(&path).map_err(fault)?) };
        let good_bytes = tables.with(|held| held.saved_bytes);
        if good_bytes < needed_bytes.max(HEADER.len() as u64) {
            return Err((format!("{FILE} reads up to byte {good_bytes} of {needed_bytes} that are needed"), true));
        }
        Ok(tables)
    }

    /// What can be read of the bytes of a file.
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let mut held = Held::default();
        let mut rest = bytes;
        if rest.split_off(..HEADER.len()) != Some(HEADER) {
            return Self::default();
        }
        held.saved_bytes = HEADER.len() as u64;
        while let Some(payload) = take_frame(&mut rest) {
            let before = (held.templates.ends.len(), held.values.ends.len());
            if take_entries(payload, &mut held).is_none() {
                held.templates.cut(before.0); // the next entry takes the number of the first of these
                held.values.cut(before.1);
                break;
            }
            held.saved_bytes = (bytes.len() - rest.len()) as u64;
        }
        Self { path: PathBuf::new(), held: RwLock::new(held) }
    }

    pub(super) fn with<T>(&self, read: impl FnOnce(&Held) -> T) -> T {
        read(&self.held.read().unwrap_or_else(PoisonError::into_inner)) // whole between any two statements
    }

    /// Adds an entry, if there is room for it. Returns its number.
    pub(super) fn take_in(&self, kind: Kind, text: &[u8]) -> Option<usize> {
        let held = &mut *self.held.write().unwrap_or_else(PoisonError::into_inner);
        let (arena, bytes_max, letter) = match kind {
            Kind::Template(Grain::Fine) => (&mut held.templates, FINE_BYTES_MAX, TEMPLATE),
            Kind::Template(Grain::Wordy) => (&mut held.templates, WORDY_BYTES_MAX, TEMPLATE),
            Kind::Template(Grain::Coarse) => (&mut held.templates, COARSE_BYTES_MAX, TEMPLATE),
            Kind::Value => (&mut held.values, VALUES_BYTES_MAX, VALUE),
        };
        if arena.bytes.len() + text.len() > bytes_max || arena.ends.len() >= ENTRIES_MAX {
            return None;
        }
        let at = arena.push(text)?;
        held.unsaved.push(letter);
        put_number(&mut held.unsaved, text.len() as u64);
        held.unsaved.extend_from_slice(text);
        Some(at)
    }

    /// The file, for one writer at a time, without what does not read.
    pub(super) fn file(&self) -> std::io::Result<File> {
        let file = OpenOptions::new().write(true).open(&self.path)?;
        file.set_len(self.with(|held| held.saved_bytes))?;
        Ok(file)
    }

    /// Writes a frame of what is new where the last one ended, so that a failed write is written over. Answers with the bytes of
    /// the file.
    pub(super) fn save(&self, file: &File) -> std::io::Result<u64> {
        let frame = self.with(|held| held.frame())?;
        if !frame.is_empty() {
            file.write_all_at(&frame, self.with(|held| held.saved_bytes))?;
            file.sync_data()?;
            let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
            held.saved_bytes += frame.len() as u64;
            held.unsaved.clear(); // the one writer is here, so nothing was added
        }
        Ok(self.with(|held| held.saved_bytes))
    }
}

impl Held {
    fn frame(&self) -> std::io::Result<Vec<u8>> {
        if self.unsaved.is_empty() {
            return Ok(Vec::new());
        }
        let bytes = u32::try_from(self.unsaved.len()).map_err(std::io::Error::other)?;
        let sum = crc32c::crc32c(&self.unsaved);
        Ok([&bytes.to_le_bytes(), &sum.to_le_bytes(), self.unsaved.as_slice()].concat())
    }
}

const TEMPLATE: u8 = b't';
const VALUE: u8 = b'v';

fn take_frame<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let mut ahead = *rest;
    let bytes = u32::from_le_bytes(ahead.split_off(..4)?.try_into().ok()?);
    let sum = u32::from_le_bytes(ahead.split_off(..4)?.try_into().ok()?);
    let payload = ahead.split_off(..usize::try_from(bytes).ok()?)?;
    if payload.is_empty() || crc32c::crc32c(payload) != sum {
        return None;
    }
    *rest = ahead;
    Some(payload)
}

fn take_entries(mut payload: &[u8], held: &mut Held) -> Option<()> {
    while !payload.is_empty() {
        let arena = match *payload.split_off_first()? {
            TEMPLATE => &mut held.templates,
            VALUE => &mut held.values,
            _ => return None,
        };
        let bytes = usize::try_from(take_number(&mut payload)?).ok()?;
        arena.push(payload.split_off(..bytes)?)?;
    }
    Some(())
}
