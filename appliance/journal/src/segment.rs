//! Walks the groups of one segment and says where they end, and why.
//!
//! Reads through [`ReadAt`], so that a file, a slice and a fuzzer look the same.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::format::{
    GROUP_HEADER_BYTES, GROUP_MAGIC, GroupHeader, JournalId, NoHeader, SEGMENT_HEADER_BYTES, SegmentHeader, records,
};

/// Bytes that can be read at any offset.
pub(crate) trait ReadAt {
    /// Fills as much of `buffer` as there are bytes from `offset` on.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl ReadAt for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match FileExt::read_at(self, &mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(bytes) => filled += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}

impl ReadAt for [u8] {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|from| self.get(from..)).unwrap_or_default();
        let bytes = rest.len().min(buffer.len());
        buffer[..bytes].copy_from_slice(&rest[..bytes]);
        Ok(bytes)
    }
}

/// Reads the header of a segment.
pub(crate) fn header(source: &(impl ReadAt + ?Sized)) -> io::Result<Result<SegmentHeader, NoHeader>> {
    let mut bytes = [0; SEGMENT_HEADER_BYTES];
    let filled = source.read_at(&mut bytes, 0)?;
    Ok(SegmentHeader::decode(&bytes[..filled]))
}

/// Bytes asked of the file at once.
const READ_BYTES: usize = 1024 * 1024;

/// Compared with whole slices of a window: preallocated room is mostly zeros.
static ZEROS: [u8; 4096] = [0; 4096];

/// What stands at the walker's position.
pub(crate) enum Step<'a> {
    Group(GroupHeader, &'a [u8]),
    /// No whole group: the reason.
    Bad(&'static str),
}

/// Goes from group to group.
pub(crate) struct Walker<'a, S: ReadAt + ?Sized> {
    source: &'a S,
    id: JournalId,
    base: u64,
    position: u64,
    /// Bytes of the file from `window_from` on: the first `filled` of them.
    window: Vec<u8>,
    window_from: u64,
    filled: usize,
}

impl<'a, S: ReadAt + ?Sized> Walker<'a, S> {
    pub(crate) fn new(source: &'a S, header: SegmentHeader) -> Self {
        let position = header.base + SEGMENT_HEADER_BYTES as u64;
        Self { source, id: header.id, base: header.base, position, window: Vec::new(), window_from: 0, filled: 0 }
    }

    /// Position of the next step.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// The group here, whole and checked; then stands after it. Stays where it is before a bad one.
    pub(crate) fn step(&mut self) -> io::Result<Step<'_>> {
        let header = match self.peek()? {
            Ok(header) => header,
            Err(problem) => return Ok(Step::Bad(problem)),
        };
        let offset = self.position - self.base + GROUP_HEADER_BYTES as u64;
        let length = header.body_bytes as usize;
        if !self.fetch(offset, length)? {
            return Ok(Step::Bad("the file ends within a group"));
        }
        let from = (offset - self.window_from) as usize;
        if crc32c::crc32c(&self.window[from..from + length]) != header.body_checksum {
            return Ok(Step::Bad("a group does not match its checksum"));
        }
        self.position = header.end();
        Ok(Step::Group(header, &self.window[from..from + length]))
    }

    /// The header here, without its body.
    pub(crate) fn peek(&mut self) -> io::Result<Result<GroupHeader, &'static str>> {
        let offset = self.position - self.base;
        if !self.fetch(offset, GROUP_HEADER_BYTES)? {
            return Ok(Err("the file ends"));
        }
        let from = (offset - self.window_from) as usize;
        let header = self.window[from..self.filled].first_chunk().and_then(|bytes| GroupHeader::decode(bytes, self.id));
        Ok(match header {
            None => Err("there is no group header"),
            Some(header) if header.base != self.base => Err("the group belongs to another segment"),
            Some(header) if header.lsn != self.position => Err("the group belongs to another position"),
            Some(header) => Ok(header),
        })
    }

    /// Stands at `position` if a group begins there, and stays where it is otherwise: whoever goes on where an earlier
    /// walk ended need not walk the whole segment again.
    pub(crate) fn stand_at(&mut self, position: u64) -> io::Result<()> {
        let before = self.position;
        if position > before {
            self.position = position;
            if self.peek()?.is_err() {
                self.position = before;
            }
        }
        Ok(())
    }

    /// Passes over the group whose header was peeked.
    pub(crate) fn skip(&mut self, header: &GroupHeader) {
        self.position = header.end();
    }

    /// Whether a later header in this file proves that the group here had been durable. `None`: the rest is nothing but zeros.
    pub(crate) fn proof_of_damage(&mut self) -> io::Result<Option<bool>> {
        let bad = self.position;
        let mut offset = bad - self.base;
        let mut any = false;
        loop {
            // Windows overlap by a header, so that none hides on the border.
            self.fetch(offset, READ_BYTES)?;
            let from = (offset - self.window_from) as usize;
            let window = &self.window[from..self.filled];
            let blank = window.chunks(ZEROS.len()).all(|chunk| *chunk == ZEROS[..chunk.len()]);
            any |= !blank;
            let candidates = if blank { &[] } else { window };
            for at in positions(GROUP_MAGIC[0], candidates) {
                let Some(bytes) = window[at..].first_chunk() else { break };
                let Some(header) = GroupHeader::decode(bytes, self.id) else { continue };
                let lsn = self.base + offset + at as u64;
                if header.base == self.base && header.lsn == lsn && header.durable > bad {
                    return Ok(Some(true));
                }
            }
            if window.len() <= GROUP_HEADER_BYTES {
                return Ok(any.then_some(false));
            }
            offset += (window.len() - GROUP_HEADER_BYTES + 1) as u64;
        }
    }

    /// Makes `length` bytes at `offset` stand in the window; false when the file has fewer.
    fn fetch(&mut self, offset: u64, length: usize) -> io::Result<bool> {
        let end = offset.saturating_add(length as u64);
        if offset >= self.window_from && end <= self.window_from + self.filled as u64 {
            return Ok(true);
        }
        (self.window_from, self.filled) = (offset, 0);
        let wanted = length.max(READ_BYTES);
        while self.filled < wanted {
            // A length that a header claims is believed only as far as the file reaches: the window grows in steps.
            if self.window.len() == self.filled {
                let mut larger = vec![0; wanted.min(self.filled + 4 * READ_BYTES)];
                larger[..self.filled].copy_from_slice(&self.window);
                self.window = larger;
            }
            let room = &mut self.window[self.filled..];
            let filled = self.source.read_at(room, offset + self.filled as u64)?;
            let ended = filled < room.len();
            self.filled += filled;
            if ended {
                break;
            }
        }
        Ok(self.filled >= length)
    }
}

fn positions(byte: u8, bytes: &[u8]) -> impl Iterator<Item = usize> {
    bytes.iter().enumerate().filter(move |&(_, &other)| other == byte).map(|(at, _)| at)
}

/// What a look at one segment found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inspection {
    pub base: u64,
    pub groups: u64,
    pub records: u64,
    /// Offset in the file after the last whole group.
    pub end_offset: u64,
    /// Why there is no further group; absent where the rest is empty.
    pub problem: Option<String>,
    /// A later group proves that the bad one had been durable.
    pub damaged: bool,
}

/// Looks at the bytes of one segment: for `backlot doctor`, and for the fuzzer. Never panics.
#[must_use]
pub fn inspect(bytes: &[u8]) -> Inspection {
    let mut found = Inspection::default();
    let header = match header(bytes) {
        Ok(Ok(header)) => header,
        Ok(Err(NoHeader::LaterVersion)) => return Inspection { problem: Some("a later version".into()), ..found },
        Ok(Err(NoHeader::Bad(problem))) => return Inspection { problem: Some(problem.into()), ..found },
        Err(error) => return Inspection { problem: Some(error.to_string()), ..found },
    };
    found.base = header.base;
    let mut walker = Walker::new(bytes, header);
    loop {
        match walker.step() {
            Ok(Step::Group(group, body)) => {
                found.groups += 1;
                found.records += records(body, group.lsn + GROUP_HEADER_BYTES as u64).count() as u64;
                found.end_offset = group.end() - header.base;
            }
            Ok(Step::Bad(problem)) => {
                let proof = walker.proof_of_damage().unwrap_or(Some(false));
                found.end_offset = walker.position() - header.base;
                found.damaged = proof == Some(true);
                found.problem = proof.map(|_| problem.to_owned());
                return found;
            }
            Err(error) => return Inspection { problem: Some(error.to_string()), ..found },
        }
    }
}
