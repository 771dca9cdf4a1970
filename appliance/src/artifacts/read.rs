//! Giving an object's bytes, in order, verified where whole runs are read.
//!
//! A run that is read from its first to its last byte is checked against its CRC before its last batch is given, so that
//! nobody takes damaged bytes for a whole object. A reader holds two batches: one given, one read ahead.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::Stream;
use tokio::task::JoinHandle;

use super::blobs::{Blobs, HEADER_BYTES};
use super::checksums::Verifier;
use super::error::ArtifactError;
use super::health::{Health, Named};
use super::model::{Extent, Place};
use super::packs::Packs;
use super::pins::Pin as BodyPin;
use super::seal::{CHUNK_BYTES, DataKey, RunKey, SEALED_CHUNK_BYTES, stored_bytes};

/// Bytes read at once: whole chunks of what is encrypted.
const BATCH_BYTES: u64 = 8 * CHUNK_BYTES as u64;

/// A stretch of one run of stored bytes.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) extent: Extent,
    pub(super) from: u64,
    pub(super) length: u64,
}

/// How a body's bytes are encrypted.
#[derive(Clone)]
pub(super) struct Opening {
    pub(super) key: DataKey,
    /// Each blob is a part, with a key of its own.
    pub(super) parts: bool,
}

impl Opening {
    fn run(&self, place: &Place) -> Result<RunKey, ArtifactError> {
        let part = match place {
            Place::File(id) => Some(*id),
            Place::Pack(..) => None,
        };
        self.key.run(part.filter(|_| self.parts))
    }
}

/// The stretches of `extents`, which follow one another from byte 0 of the object, that lie in `first .. first + length`.
pub(super) fn pieces(extents: impl Iterator<Item = Extent>, first: u64, length: u64) -> VecDeque<Piece> {
    let (mut offset, end) = (0, first + length);
    let mut pieces = VecDeque::new();
    for extent in extents {
        let (begins, ends) = (offset.max(first), (offset + extent.size).min(end));
        if begins < ends {
            pieces.push_back(Piece { from: begins - offset, length: ends - begins, extent: extent.clone() });
        }
        offset += extent.size;
    }
    pieces
}

/// Where stored bytes are.
#[derive(Clone)]
pub(super) struct Stores {
    pub(super) blobs: Blobs,
    pub(super) packs: Packs,
    pub(super) health: Health,
}

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

enum Problem {
    Io(std::io::Error),
    Damaged(String),
}

struct Reader {
    stores: Stores,
    opening: Option<Opening>,
    pieces: VecDeque<Piece>,
    open: Option<Open>,
    /// Read when the object was looked up.
    ready: Option<Bytes>,
}

struct Open {
    file: File,
    /// Of the bytes that are given.
    position: u64,
    remaining: u64,
    /// Of the whole run.
    size: u64,
    check: Check,
}

/// How damage is noticed.
enum Check {
    /// Part of a run that is not encrypted: not at all.
    Nothing,
    Crc(Box<Verifier>, u64),
    /// Each chunk vouches for itself.
    Key(Box<RunKey>),
}

impl Reader {
    fn step(&mut self) -> Result<Option<Bytes>, Problem> {
        if self.open.is_none() {
            let Some(piece) = self.pieces.pop_front() else { return Ok(None) };
            match begin(&self.stores, self.opening.as_ref(), &piece)? {
                Begun::Read(bytes) => return Ok(Some(bytes)),
                Begun::Open(open) => self.open = Some(open),
            }
        }
        let Some(open) = &mut self.open else { return Ok(None) };
        let bytes = open.step()?;
        if open.remaining == 0
            && let Some(Check::Crc(verifier, crc)) = self.open.take().map(|open| open.check)
            && verifier.finish() != crc
        {
            return Err(Problem::Damaged("the checksum of a blob does not match".into()));
        }
        Ok(Some(bytes))
    }
}

/// A piece of which the first bytes can be given.
enum Begun {
    Read(Bytes),
    Open(Open),
}

fn begin(stores: &Stores, opening: Option<&Opening>, piece: &Piece) -> Result<Begun, Problem> {
    let key = opening.map(|opening| opening.run(&piece.extent.place)).transpose();
    let key = key.map_err(|error| Problem::Damaged(error.to_string()))?;
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
    }
}

impl Open {
    fn new(file: File, piece: &Piece, key: Option<RunKey>) -> std::io::Result<Result<Self, String>> {
        let bytes = file.metadata()?.len();
        let size = piece.extent.size;
        let expected = HEADER_BYTES + if key.is_some() { stored_bytes(size) } else { size };
        if bytes != expected {
            return Ok(Err(format!("a blob has {bytes} bytes instead of {expected}")));
        }
        let whole = piece.length == size;
        let check = match key {
            Some(key) => Check::Key(Box::new(key)),
            None if whole => Check::Crc(Box::default(), piece.extent.crc),
            None => Check::Nothing,
        };
        Ok(Ok(Self { file, position: piece.from, remaining: piece.length, size, check }))
    }

    /// The next bytes, up to [`BATCH_BYTES`].
    fn step(&mut self) -> Result<Bytes, Problem> {
        let wanted = self.remaining.min(BATCH_BYTES);
        let bytes = match &self.check {
            Check::Key(key) => {
                // Whole chunks around what is wanted; at the end of a batch the next one begins with a chunk.
                let (chunk, sealed_chunk) = (CHUNK_BYTES as u64, SEALED_CHUNK_BYTES as u64);
                let first = self.position / chunk;
                let end = (self.position + wanted).div_ceil(chunk).min(first + BATCH_BYTES / chunk);
                let stored = (end * sealed_chunk).min(stored_bytes(self.size)) - first * sealed_chunk;
                let sealed = self.read(HEADER_BYTES + first * sealed_chunk, stored)?;
                let opened = key.open(sealed, first, self.size).map_err(Problem::Damaged)?;
                let from = self.position - first * chunk;
                let length = wanted.min((opened.len() as u64).saturating_sub(from));
                cut(&opened.into(), from, length)
            }
            Check::Nothing | Check::Crc(..) => self.read(HEADER_BYTES + self.position, wanted)?.into(),
        };
        if let Check::Crc(verifier, _) = &mut self.check {
            verifier.update(&bytes);
        }
        self.position += bytes.len() as u64;
        self.remaining -= bytes.len() as u64;
        Ok(bytes)
    }

    fn read(&self, offset: u64, length: u64) -> Result<Vec<u8>, Problem> {
        let mut buffer = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
        // Into memory that nobody has filled with zeros before: nobody else moves this descriptor.
        let mut file = &self.file;
        let read = file.seek(SeekFrom::Start(offset)).and_then(|_| file.take(length).read_to_end(&mut buffer));
        match read.map_err(Problem::Io)? as u64 {
            bytes if bytes < length => Err(Problem::Damaged(format!("a blob ends {} bytes early", length - bytes))),
            _ => Ok(buffer),
        }
    }
}

fn cut(bytes: &Bytes, from: u64, length: u64) -> Bytes {
    let clamp = |position: u64| usize::try_from(position).unwrap_or(usize::MAX).min(bytes.len());
    bytes.slice(clamp(from)..clamp(from + length))
}

/// The reader comes back with what it has read.
type ReadPart = (Box<Reader>, Result<Option<Bytes>, Problem>);

/// The bytes of an object or of a range of it.
pub struct ObjectStream {
    object: Named,
    stores: Stores,
    reader: Option<Box<Reader>>,
    reading: Option<JoinHandle<ReadPart>>,
    remaining: u64,
    _pin: Option<BodyPin>,
}

impl ObjectStream {
    /// Begins to read: what lies in a pack is read at once, a file is opened, so that a delete meanwhile changes nothing.
    /// `None` when it has gone since its row was read. Blocks.
    pub(super) fn open(
        stores: Stores,
        object: Named,
        mut pieces: VecDeque<Piece>,
        opening: Option<Opening>,
        pin: Option<BodyPin>,
    ) -> Result<Option<Self>, ArtifactError> {
        let remaining = pieces.iter().map(|piece| piece.length).sum();
        let damaged = |problem| damaged(&stores, &object, problem);
        let (mut open, mut ready) = (None, None);
        if let Some(piece) = pieces.front() {
            match begin(&stores, opening.as_ref(), piece) {
                Ok(Begun::Read(bytes)) => ready = Some(bytes),
                Ok(Begun::Open(opened)) => open = Some(opened),
                Err(Problem::Damaged(problem)) => return Err(damaged(problem)),
                Err(Problem::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                Err(Problem::Io(error)) => return Err(ArtifactError::io("open a blob")(error)),
            }
            pieces.pop_front();
        }
        let reader = Some(Box::new(Reader { stores: stores.clone(), opening, pieces, open, ready }));
        Ok(Some(Self { object, stores, reader, reading: None, remaining, _pin: pin }))
    }

    /// Bytes that are still to come.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.remaining
    }

    fn read_ahead(&mut self) {
        if let Some(mut reader) = self.reader.take() {
            self.reading = Some(tokio::task::spawn_blocking(move || {
                let step = reader.step();
                (reader, step)
            }));
        }
    }
}

/// Damage is for the operator at least as much as for the caller.
fn damaged(stores: &Stores, object: &Named, problem: String) -> ArtifactError {
    stores.health.damaged(object.clone(), problem.clone());
    ArtifactError::Damaged { bucket: object.bucket.clone(), key: object.key.clone(), problem }
}

impl Stream for ObjectStream {
    type Item = Result<Bytes, ArtifactError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.remaining == 0 {
            return Poll::Ready(None);
        }
        // What lies in a pack was read when the object was looked up.
        if let Some(bytes) = self.reader.as_mut().and_then(|reader| reader.ready.take()) {
            self.remaining = self.remaining.saturating_sub(bytes.len() as u64);
            if self.remaining > 0 {
                self.read_ahead();
            }
            return Poll::Ready(Some(Ok(bytes)));
        }
        self.read_ahead();
        let Some(reading) = &mut self.reading else { return Poll::Ready(None) };
        let joined = ready!(Pin::new(reading).poll(context));
        self.reading = None;
        let failed = match joined {
            Ok((reader, Ok(Some(bytes)))) => {
                self.reader = Some(reader);
                self.remaining = self.remaining.saturating_sub(bytes.len() as u64);
                if self.remaining > 0 {
                    self.read_ahead();
                }
                return Poll::Ready(Some(Ok(bytes)));
            }
            Ok((_, Ok(None))) => damaged(&self.stores, &self.object, format!("{} bytes are missing", self.remaining)),
            Ok((_, Err(Problem::Damaged(problem)))) => damaged(&self.stores, &self.object, problem),
            Ok((_, Err(Problem::Io(error)))) => damaged(&self.stores, &self.object, format!("read: {error}")),
            Err(error) => ArtifactError::fault("read a blob")(error.to_string()),
        };
        self.remaining = 0;
        Poll::Ready(Some(Err(failed)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    proptest! {
        #[test]
        fn pieces_cover_exactly_the_range(sizes in proptest::collection::vec(0_u64..9, 1..9), first in 0_u64..70, length in 0_u64..70) {
            let extents: Vec<_> = sizes
                .iter()
                .enumerate()
                .map(|(index, size)| Extent { place: Place::File(Uuid::from_u128(index as u128)), size: *size, crc: 0 })
                .collect();
            // Every byte of the object as (extent, position in it).
            let all: Vec<_> = extents.iter().flat_map(|extent| (0..extent.size).map(|at| (extent.place.clone(), at))).collect();
            let total = all.len() as u64;
            let (first, length) = (first.min(total), length.min(total - first.min(total)));
            let covered: Vec<_> = pieces(extents.into_iter(), first, length)
                .into_iter()
                .flat_map(|piece| (piece.from..piece.from + piece.length).map(move |at| (piece.extent.place.clone(), at)))
                .collect();
            prop_assert_eq!(covered, all[usize::try_from(first).unwrap()..usize::try_from(first + length).unwrap()].to_vec());
        }
    }
}
