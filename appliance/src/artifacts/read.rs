//! Giving an object's bytes, in order and verified.
//!
//! What lies in the cold tier is read the same way, but that its bytes are waited for, and no thread with them.
//!
//! A run that is read from its first to its last byte is checked against its CRC before its last batch is given, so that
//! nobody takes damaged bytes for a whole object. A part of a run is checked block by block, before any byte of the block is given; blobs of
//! earlier versions and those in the cold tier have no checksums of blocks, and parts of those are not checked. A reader holds two batches: one
//! given, one read ahead.

mod run;

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use backlot_wire::metrics::ARTIFACT_COLD_READ_FAILURES;
use bytes::Bytes;
use futures::Stream;
use opentelemetry::KeyValue;
use tokio_util::task::AbortOnDropHandle;

use self::run::{Begun, Open, Problem, Source, begin, begin_cold};
use super::blobs::Blobs;
use super::cold::Slot;
use super::error::ArtifactError;
use super::health::{Health, Named};
use super::model::{Extent, Place};
use super::packs::Packs;
use super::pins::Pin as BodyPin;
use super::seal::{DataKey, RunKey};
use crate::telemetry::counter;

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
            Place::File(id) | Place::Cold(id, _) => Some(*id),
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
    pub(super) cold: Slot,
}

struct Reader {
    stores: Stores,
    opening: Option<Opening>,
    pieces: VecDeque<Piece>,
    open: Option<Open>,
    /// Read when the object was looked up.
    ready: Option<Bytes>,
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
        let (offset, length) = open.next();
        let stored = open.read(offset, length)?;
        self.take(stored).map(Some)
    }

    /// What the next stored bytes are for readers.
    fn take(&mut self, stored: Vec<u8>) -> Result<Bytes, Problem> {
        let Some(open) = &mut self.open else { return Ok(Bytes::new()) };
        let bytes = open.take(stored)?;
        if let Some(open) = self.open.take_if(|open| open.remaining == 0) {
            open.finish()?;
        }
        Ok(bytes)
    }

    /// Whether the next bytes are in the cold tier.
    fn is_cold(&self) -> bool {
        match &self.open {
            Some(open) => matches!(open.source, Source::Cold(_)),
            None => self.pieces.front().is_some_and(|piece| matches!(piece.extent.place, Place::Cold(..))),
        }
    }

    /// As [`Reader::step`], of bytes that are waited for.
    async fn step_cold(mut self: Box<Self>) -> ReadPart {
        match self.fetch().await {
            Ok(stored) => {
                // Decrypting and checksums are work for another thread.
                let taken = tokio::task::spawn_blocking(move || {
                    let taken = self.take(stored).map(Some);
                    (Some(self), taken)
                });
                taken.await.unwrap_or_else(|error| (None, Err(Problem::Io(std::io::Error::other(error)))))
            }
            Err(problem) => (Some(self), Err(problem)),
        }
    }

    async fn fetch(&mut self) -> Result<Vec<u8>, Problem> {
        if self.open.is_none()
            && let Some(piece) = self.pieces.pop_front()
        {
            self.open = Some(begin_cold(&self.stores, self.opening.as_ref(), &piece)?);
        }
        let Some(open) = &mut self.open else { return Ok(Vec::new()) };
        let (_, length) = open.next();
        match &mut open.source {
            Source::Cold(fetch) => Ok(fetch.read(usize::try_from(length).unwrap_or_default()).await?),
            Source::File(_) => Err(Problem::Damaged("it is not in the cold tier".into())),
        }
    }
}

/// The reader comes back with what it has read; not from a thread that has panicked.
type ReadPart = (Option<Box<Reader>>, Result<Option<Bytes>, Problem>);

/// The bytes of an object or of a range of it.
pub struct ObjectStream {
    object: Named,
    stores: Stores,
    reader: Option<Box<Reader>>,
    /// Ends with the stream: nobody fetches for a reader who has gone.
    reading: Option<AbortOnDropHandle<ReadPart>>,
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
        // What is in the cold tier is asked for by `ObjectStream::prime`.
        if let Some(piece) = pieces.front().filter(|piece| !matches!(piece.extent.place, Place::Cold(..))) {
            match begin(&stores, opening.as_ref(), piece) {
                Ok(Begun::Read(bytes)) => ready = Some(bytes),
                Ok(Begun::Open(opened)) => open = Some(opened),
                Err(Problem::Damaged(problem)) => return Err(damaged(problem)),
                Err(Problem::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                Err(Problem::Missing) => return Ok(None),
                Err(Problem::Io(error)) => return Err(ArtifactError::io("open a blob")(error)),
                Err(Problem::Away(error)) => return Err(error),
            }
            pieces.pop_front();
        }
        let reader = Some(Box::new(Reader { stores: stores.clone(), opening, pieces, open, ready }));
        Ok(Some(Self { object, stores, reader, reading: None, remaining, _pin: pin }))
    }

    /// Waits for the first bytes where these are in the cold tier, so that one that is away is known before anything is
    /// answered. False when the blob is not there.
    pub(super) async fn prime(&mut self) -> Result<bool, ArtifactError> {
        let Some(reader) = self.reader.take_if(|reader| reader.is_cold()) else { return Ok(true) };
        let (reader, read) = reader.step_cold().await;
        self.reader = reader;
        match read {
            Ok(bytes) => {
                if let Some(reader) = &mut self.reader {
                    reader.ready = bytes;
                }
                Ok(true)
            }
            Err(Problem::Missing) => Ok(false),
            Err(problem) => Err(self.failed(problem)),
        }
    }

    fn failed(&self, problem: Problem) -> ArtifactError {
        let problem = match problem {
            Problem::Damaged(problem) => problem,
            Problem::Io(error) => format!("read: {error}"),
            Problem::Missing => "its blob is missing in the cold tier".into(),
            Problem::Away(error) => {
                let reason = if matches!(error, ArtifactError::ColdBusy) { "busy" } else { "away" };
                counter(&ARTIFACT_COLD_READ_FAILURES).add(1, &[KeyValue::new("reason", reason)]);
                return error;
            }
        };
        damaged(&self.stores, &self.object, problem)
    }

    /// Bytes that are still to come.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.remaining
    }

    fn read_ahead(&mut self) {
        if let Some(mut reader) = self.reader.take() {
            let reading = match reader.is_cold() {
                true => tokio::spawn(reader.step_cold()),
                false => tokio::task::spawn_blocking(move || {
                    let step = reader.step();
                    (Some(reader), step)
                }),
            };
            self.reading = Some(AbortOnDropHandle::new(reading));
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
                self.reader = reader;
                self.remaining = self.remaining.saturating_sub(bytes.len() as u64);
                if self.remaining > 0 {
                    self.read_ahead();
                }
                return Poll::Ready(Some(Ok(bytes)));
            }
            Ok((_, Ok(None))) => damaged(&self.stores, &self.object, format!("{} bytes are missing", self.remaining)),
            Ok((_, Err(problem))) => self.failed(problem),
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
