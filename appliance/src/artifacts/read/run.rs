//! One run of stored bytes that is being read, or a piece of it: from its file, its pack or the cold tier, verified on the way.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use bytes::Bytes;

use super::{Opening, Piece, Stores};
use crate::artifacts::blobs::HEADER_BYTES;
use crate::artifacts::blocks::{BLOCK_BYTES, Shape, Table, shape};
use crate::artifacts::checksums::Verifier;
use crate::artifacts::cold::{Fetch, Name, RemoteError};
use crate::artifacts::error::ArtifactError;
use crate::artifacts::model::{Extent, Place};
use crate::artifacts::seal::{CHUNK_BYTES, RunKey, SEALED_CHUNK_BYTES, stored_bytes};

/// Bytes read at once: whole chunks of what is encrypted, whole blocks of what is not.
const BATCH_BYTES: u64 = 8 * CHUNK_BYTES as u64;

impl Stores {
    /// All that a pack entry holds, verified, and decrypted where `key` is given.
    fn packed(&self, extent: &Extent, key: Option<&RunKey>) -> std::io::Result<Result<Bytes, String>> {
        let Place::Pack(pack, offset) = extent.place else { return Ok(Err("it is in no pack".into())) };
        let stored = if key.is_some() { stored_bytes(extent.size) } else { extent.size };
        let read = self.packs.read(pack, offset, stored, extent.crc)?;
        Ok(read.and_then(|bytes| match key {
            Some(key) => key.open(bytes.into(), 0, extent.size).map(Bytes::from),
            None => Ok(bytes),
        }))
    }
}

pub(super) enum Problem {
    Io(std::io::Error),
    Damaged(String),
    /// Of the cold tier, and passes.
    Away(ArtifactError),
    /// In the cold tier.
    Missing,
}

impl From<RemoteError> for Problem {
    fn from(error: RemoteError) -> Self {
        match error {
            RemoteError::Missing => Self::Missing,
            RemoteError::Wrong(problem) => Self::Damaged(problem),
            RemoteError::Away(problem) => Self::Away(ArtifactError::ColdAway(problem)),
            RemoteError::Busy => Self::Away(ArtifactError::ColdBusy),
        }
    }
}

/// Where the stored bytes of a run come from.
pub(super) enum Source {
    File(File),
    Cold(Box<Fetch>),
}

pub(super) struct Open {
    pub(super) source: Source,
    /// Of the bytes that are given.
    position: u64,
    pub(super) remaining: u64,
    /// Of the whole run.
    size: u64,
    check: Check,
}

/// How damage is noticed.
enum Check {
    /// Part of a run that is not encrypted and has no table: not at all.
    Nothing,
    /// Part of a run that has a table.
    Blocks(Table),
    Crc(Box<Verifier>, u64),
    /// Each chunk vouches for itself.
    Key(Box<RunKey>),
}

/// A piece of which the first bytes can be given.
pub(super) enum Begun {
    Read(Bytes),
    Open(Open),
}

fn key_of(opening: Option<&Opening>, piece: &Piece) -> Result<Option<RunKey>, Problem> {
    let key = opening.map(|opening| opening.run(&piece.extent.place)).transpose();
    key.map_err(|error| Problem::Damaged(error.to_string()))
}

/// A piece in the cold tier, of which nothing is asked for yet.
pub(super) fn begin_cold(stores: &Stores, opening: Option<&Opening>, piece: &Piece) -> Result<Open, Problem> {
    let Place::Cold(blob, copy) = piece.extent.place else {
        return Err(Problem::Damaged("it is not in the cold tier".into()));
    };
    let remote = stores.cold.remote().map_err(Problem::Away)?;
    let key = key_of(opening, piece)?;
    let stored = if key.is_some() { stored_bytes(piece.extent.size) } else { piece.extent.size };
    let (from, end) = match &key {
        Some(_) => {
            let (chunk, sealed_chunk) = (CHUNK_BYTES as u64, SEALED_CHUNK_BYTES as u64);
            let end = (piece.from + piece.length).div_ceil(chunk) * sealed_chunk;
            (piece.from / chunk * sealed_chunk, end.min(stored))
        }
        None => (piece.from, piece.from + piece.length),
    };
    let wanted = (HEADER_BYTES + from, HEADER_BYTES + end);
    let fetch = Fetch::new(remote, Name { blob, copy }, wanted, HEADER_BYTES + stored);
    Ok(Open::of(Source::Cold(Box::new(fetch)), piece, key))
}

pub(super) fn begin(stores: &Stores, opening: Option<&Opening>, piece: &Piece) -> Result<Begun, Problem> {
    let key = key_of(opening, piece)?;
    match piece.extent.place {
        Place::Pack(..) => {
            let bytes = stores.packed(&piece.extent, key.as_ref()).map_err(Problem::Io)?.map_err(Problem::Damaged)?;
            Ok(Begun::Read(cut(&bytes, piece.from, piece.length)))
        }
        Place::File(id) => {
            let file = stores.blobs.open_data(id).map_err(Problem::Io)?;
            let opened = Open::new(file, piece, key).map_err(Problem::Io)?.map_err(Problem::Damaged)?;
            Ok(Begun::Open(opened))
        }
        Place::Cold(..) => begin_cold(stores, opening, piece).map(Begun::Open),
    }
}

impl Open {
    fn new(file: File, piece: &Piece, key: Option<RunKey>) -> std::io::Result<Result<Self, String>> {
        let (bytes, size) = (file.metadata()?.len(), piece.extent.size);
        let shape = shape(bytes, size, key.is_some());
        if let Shape::Wrong(expected) = shape {
            return Ok(Err(format!("a blob has {bytes} bytes instead of {expected}")));
        }
        let mut open = Self::of(Source::File(file), piece, key);
        if shape == Shape::Table && matches!(open.check, Check::Nothing) {
            open.check = Check::Blocks(Table::new(size));
        }
        Ok(Ok(open))
    }

    fn of(source: Source, piece: &Piece, key: Option<RunKey>) -> Self {
        let size = piece.extent.size;
        let check = match key {
            Some(key) => Check::Key(Box::new(key)),
            None if piece.length == size => Check::Crc(Box::default(), piece.extent.crc),
            None => Check::Nothing,
        };
        Self { source, position: piece.from, remaining: piece.length, size, check }
    }

    /// The stored bytes that the next batch is made of: where they begin and how many.
    pub(super) fn next(&self) -> (u64, u64) {
        let wanted = self.remaining.min(BATCH_BYTES);
        match &self.check {
            Check::Key(_) => {
                // Whole chunks around what is wanted; at the end of a batch the next one begins with a chunk.
                let (chunk, sealed_chunk) = (CHUNK_BYTES as u64, SEALED_CHUNK_BYTES as u64);
                let first = self.position / chunk;
                let end = (self.position + wanted).div_ceil(chunk).min(first + BATCH_BYTES / chunk);
                let stored = (end * sealed_chunk).min(stored_bytes(self.size)) - first * sealed_chunk;
                (HEADER_BYTES + first * sealed_chunk, stored)
            }
            Check::Blocks(_) => {
                // Whole blocks in the same way.
                let first = self.position / BLOCK_BYTES;
                let end = (self.position + wanted).div_ceil(BLOCK_BYTES).min(first + BATCH_BYTES / BLOCK_BYTES);
                (HEADER_BYTES + first * BLOCK_BYTES, (end * BLOCK_BYTES).min(self.size) - first * BLOCK_BYTES)
            }
            Check::Nothing | Check::Crc(..) => (HEADER_BYTES + self.position, wanted),
        }
    }

    /// The next batch, of those.
    pub(super) fn take(&mut self, stored: Vec<u8>) -> Result<Bytes, Problem> {
        let wanted = self.remaining.min(BATCH_BYTES);
        let bytes: Bytes = match &mut self.check {
            Check::Key(key) => {
                let first = self.position / CHUNK_BYTES as u64;
                let opened = key.open(stored, first, self.size).map_err(Problem::Damaged)?;
                let from = self.position - first * CHUNK_BYTES as u64;
                let length = wanted.min((opened.len() as u64).saturating_sub(from));
                cut(&opened.into(), from, length)
            }
            Check::Blocks(table) => {
                let Source::File(file) = &self.source else {
                    return Err(Problem::Damaged("it is in the cold tier".into()));
                };
                let first = self.position / BLOCK_BYTES;
                table.check(file, first, &stored).map_err(Problem::Io)?.map_err(Problem::Damaged)?;
                let from = self.position - first * BLOCK_BYTES;
                let length = wanted.min((stored.len() as u64).saturating_sub(from));
                cut(&stored.into(), from, length)
            }
            Check::Nothing | Check::Crc(..) => stored.into(),
        };
        if let Check::Crc(verifier, _) = &mut self.check {
            verifier.update(&bytes);
        }
        self.position += bytes.len() as u64;
        self.remaining -= bytes.len() as u64;
        Ok(bytes)
    }

    pub(super) fn read(&self, offset: u64, length: u64) -> Result<Vec<u8>, Problem> {
        let Source::File(file) = &self.source else {
            return Err(Problem::Damaged("it is in the cold tier".into()));
        };
        let mut buffer = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
        // Into memory that nobody has filled with zeros before: nobody else moves this descriptor.
        let mut file = file;
        let read = file.seek(SeekFrom::Start(offset)).and_then(|_| file.take(length).read_to_end(&mut buffer));
        match read.map_err(Problem::Io)? as u64 {
            bytes if bytes < length => Err(Problem::Damaged(format!("a blob ends {} bytes early", length - bytes))),
            _ => Ok(buffer),
        }
    }

    /// What was given is all of it: whether that was right.
    pub(super) fn finish(self) -> Result<(), Problem> {
        let Check::Crc(verifier, crc) = self.check else { return Ok(()) };
        match verifier.finish() == crc {
            true => Ok(()),
            false => Err(Problem::Damaged("the checksum of a blob does not match".into())),
        }
    }
}

fn cut(bytes: &Bytes, from: u64, length: u64) -> Bytes {
    let clamp = |position: u64| usize::try_from(position).unwrap_or(usize::MAX).min(bytes.len());
    bytes.slice(clamp(from)..clamp(from + length))
}
