//! The start: which segments there are, whether they are whole, where the log ends.
//!
//! The writer syncs each group before it writes the next, and each segment before it makes the next. So only the last group
//! of the last segment can be torn; whatever else is not whole had been durable, and is damage. A later header in the
//! last segment that names a later durable position proves the same there.

use std::collections::VecDeque;
use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::folder::{self, Folder};
use crate::format::{GROUP_HEADER_BYTES, JournalId, NoHeader, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::log::SegmentFile;
use crate::segment::{Step, Walker, header};
use crate::{Lsn, OpenError, Opened, Options};

/// A folder that was found whole, or has been made so.
pub(crate) struct Recovered {
    pub(crate) id: JournalId,
    pub(crate) segments: VecDeque<SegmentFile>,
    pub(crate) last: Arc<File>,
    pub(crate) opened: Opened,
}

pub(crate) fn recover(folder: &Folder, options: &Options) -> Result<Recovered, OpenError> {
    let in_folder = |source| OpenError::Io { path: options.dir.clone(), source };
    let bases = folder.bases().map_err(in_folder)?;
    if bases.is_empty() {
        make_first(folder, options).map_err(in_folder)?;
        return recover_some(folder, options, &[0]);
    }
    recover_some(folder, options, &bases)
}

/// A fresh journal begins at position 0, with a header: no record stands at 0.
fn make_first(folder: &Folder, options: &Options) -> io::Result<()> {
    // The standard library's hash keys come from the system's random source.
    let id = JournalId(std::hash::RandomState::new().build_hasher().finish());
    let (file, _) = folder.prepare(folder::SPARE, &[options.segment_bytes])?;
    file.write_all_at(&SegmentHeader { id, base: 0 }.encode(), 0)?;
    file.sync_data()?;
    folder.name_segment(folder::SPARE, 0)
}

fn recover_some(folder: &Folder, options: &Options, bases: &[u64]) -> Result<Recovered, OpenError> {
    let mut segments = VecDeque::with_capacity(bases.len());
    let mut id = None;
    let mut torn_bytes = 0;
    let mut last = None;
    for (index, &base) in bases.iter().enumerate() {
        let path = folder.segment(base);
        let io = |source| OpenError::Io { path: path.clone(), source };
        let found = Found { path: path.clone(), base };
        let next = bases.get(index + 1).copied();
        let file = folder.open_segment(base, true).map_err(io)?;
        let header = found.header(&file, *id.get_or_insert(JournalId(0)), index > 0)?;
        id = Some(header.id);
        let end = match next {
            Some(next) => found.verify_closed(&file, header, next)?,
            None => {
                let (end, torn) = found.verify_last(&file, header)?;
                torn_bytes = torn;
                end
            }
        };
        let file = Arc::new(file);
        let bytes = file.metadata().map_err(io)?.len();
        if next.is_none() {
            last = Some(Arc::clone(&file));
        }
        segments.push_back(SegmentFile { base, end, bytes, file: next.is_none().then_some(file) });
    }
    let (Some(last), Some(id), Some(oldest), Some(end)) =
        (last, id, segments.front().map(|first| first.base), segments.back().map(|last| last.end))
    else {
        unreachable!("there is at least one segment")
    };
    let opened = Opened {
        segments: segments.len(),
        bytes: segments.iter().map(|segment| segment.bytes).sum(),
        torn_bytes,
        oldest: Lsn(oldest),
        end: Lsn(end),
    };
    debug_assert!(options.segment_bytes > 0);
    Ok(Recovered { id, segments, last, opened })
}

/// One segment under examination.
struct Found {
    path: PathBuf,
    base: u64,
}

impl Found {
    fn damaged(&self, offset: u64, problem: impl Into<String>) -> OpenError {
        OpenError::Damaged { segment: self.path.clone(), offset, problem: problem.into() }
    }

    fn io(&self, source: io::Error) -> OpenError {
        OpenError::Io { path: self.path.clone(), source }
    }

    fn header(&self, file: &File, id: JournalId, known: bool) -> Result<SegmentHeader, OpenError> {
        match header(file).map_err(|source| self.io(source))? {
            Err(NoHeader::LaterVersion) => Err(OpenError::LaterVersion(self.path.clone())),
            Err(NoHeader::Bad(problem)) => Err(self.damaged(0, problem)),
            Ok(header) if header.base != self.base => {
                Err(self.damaged(0, format!("its header says that it is the segment {:020}", header.base)))
            }
            Ok(header) if known && header.id != id => Err(self.damaged(0, "it belongs to another journal")),
            Ok(header) => Ok(header),
        }
    }

    /// A segment that has a successor must be whole up to it.
    fn verify_closed(&self, file: &File, header: SegmentHeader, next: u64) -> Result<u64, OpenError> {
        let mut walker = Walker::new(file, header);
        while walker.position() < next {
            let problem = match walker.step().map_err(|source| self.io(source))? {
                Step::Group(..) => continue,
                Step::Bad(problem) => problem,
            };
            return Err(self
                .damaged(walker.position() - self.base, format!("{problem}, and the next segment begins at {next}")));
        }
        if walker.position() != next {
            return Err(self.damaged(walker.position() - self.base, format!("the next segment begins at {next}")));
        }
        Ok(next)
    }

    /// End of the last segment, and how many bytes of a torn tail were cut.
    fn verify_last(&self, file: &File, header: SegmentHeader) -> Result<(u64, u64), OpenError> {
        let io = |source| self.io(source);
        let mut walker = Walker::new(file, header);
        let mut newest = None;
        let problem = loop {
            match walker.step().map_err(io)? {
                Step::Group(group, _) => newest = Some(group.lsn),
                Step::Bad(problem) => break problem,
            }
        };
        let end = walker.position();
        let torn = match walker.proof_of_damage().map_err(io)? {
            Some(true) => {
                return Err(self.damaged(end - self.base, format!("{problem}, and a later group follows")));
            }
            Some(false) => cut(file, end - self.base).map_err(io)?,
            None => 0,
        };
        if let Some(newest) = newest {
            write_again(file, newest - self.base, end - self.base).map_err(io)?;
        }
        file.sync_all().map_err(io)?;
        Ok((end, torn))
    }
}

/// Cuts what was written after `offset` and takes the room on disk again. Returns how many bytes stood there.
fn cut(file: &File, offset: u64) -> io::Result<u64> {
    let length = file.metadata()?.len();
    file.set_len(offset)?;
    match folder::allocate(file, length) {
        Err(error) if !matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
            return Err(error);
        }
        Err(_) => file.set_len(offset)?, // on a full disk the segment ends here
        Ok(()) => {}
    }
    Ok(length - offset)
}

/// Writes the last group once more. The process before may have ended because its sync failed; the kernel then calls the
/// pages clean though the disk never had them, and a sync alone would not bring them there.
fn write_again(file: &File, from: u64, to: u64) -> io::Result<()> {
    let mut bytes = vec![0; (to - from) as usize];
    debug_assert!(bytes.len() >= GROUP_HEADER_BYTES && from >= SEGMENT_HEADER_BYTES as u64);
    file.read_exact_at(&mut bytes, from)?;
    file.write_all_at(&bytes, from)
}
