//! Whether what a row says lies on the disk: every byte of it, against its checksum.

use std::fs::File;
use std::time::Duration;

use super::Artifacts;
use super::blobs::{Blobs, HEADER_BYTES, blocking, read_up_to};
use super::blocks::{self, Summing};
use super::checksums::Verifier;
use super::cold::{Name, RemoteError};
use super::error::ArtifactError;
use super::health::Named;
use super::label::Found;
use super::model::{Body, Extent, ObjectRow, Place};
use super::seal::stored_bytes;
use super::versions::VersionName;

/// Bytes read at once.
const BATCH_BYTES: u64 = 1 << 20;
/// Shortest pause: what is read is paid for in such pieces.
const PAUSE_MIN: Duration = Duration::from_millis(10);

/// Reads no faster than it may.
pub(super) struct Pace {
    bytes_s: u64,
    owed: u64,
    pub(super) read: u64,
}

impl Pace {
    pub(super) fn new(bytes_s: u64) -> Self {
        Self { bytes_s: bytes_s.max(1), owed: 0, read: 0 }
    }

    pub(super) async fn took(&mut self, bytes: u64) {
        self.read += bytes;
        self.owed += bytes;
        let pause = Duration::from_nanos(self.owed.saturating_mul(1_000_000_000) / self.bytes_s);
        if pause >= PAUSE_MIN {
            self.owed = 0;
            tokio::time::sleep(pause).await;
        }
    }
}

/// A run of bytes as a row knows it.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) place: Place,
    /// Bytes, as they lie there.
    pub(super) stored: u64,
    pub(super) crc: u64,
    /// Whether checksums of its blocks may lie behind it, where it has a file here.
    pub(super) has_table: bool,
}

impl Run {
    pub(super) fn of(extent: &Extent, is_sealed: bool) -> Self {
        let stored = if is_sealed { stored_bytes(extent.size) } else { extent.size };
        let has_table = !is_sealed && !matches!(extent.place, Place::Pack(..));
        Self { place: extent.place.clone(), stored, crc: extent.crc, has_table }
    }
}

impl Artifacts {
    /// Reads a version. `None`: it is well, or has been put over or deleted meanwhile. Else what is wrong.
    pub(super) async fn verify(
        &self,
        object: &Named,
        row: &ObjectRow,
        pace: &mut Pace,
    ) -> Result<Option<String>, ArtifactError> {
        let mut problem = self.key_problem(object, row);
        if problem.is_none() {
            for run in self.runs(row)? {
                problem = self.verify_run(object, run, pace).await?;
                if problem.is_some() {
                    break;
                }
            }
        }
        // What is wrong with bytes that nothing refers to any more is nobody's business.
        let now = self.stored_version(object)?;
        Ok(problem.filter(|_| now.is_some_and(|now| now.body == row.body)))
    }

    /// The row of a version by its name, if it is still that put.
    pub(super) fn stored_version(&self, object: &Named) -> Result<Option<ObjectRow>, ArtifactError> {
        let Some(name) = VersionName::parse(&object.version) else { return Ok(None) };
        match self.version(&object.bucket, &object.key, Some(name)) {
            Ok(version) => {
                Ok(version.and_then(|version| version.object().cloned()).filter(|row| row.version == object.id))
            }
            Err(ArtifactError::NoSuchBucket(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn key_problem(&self, object: &Named, row: &ObjectRow) -> Option<String> {
        let seal = row.seal.as_ref().filter(|seal| !seal.is_customers());
        match self.data_key(&object.bucket, &object.key, seal, None) {
            Err(ArtifactError::Damaged { problem, .. }) => Some(problem),
            _ => None,
        }
    }

    fn runs(&self, row: &ObjectRow) -> Result<Vec<Run>, ArtifactError> {
        let extents = match &row.body {
            Body::One(extent) => vec![extent.clone()],
            Body::Parts(body) => self.completed_parts(*body)?.into_iter().map(|(_, extent)| extent).collect(),
        };
        Ok(extents.iter().map(|extent| Run::of(extent, row.seal.is_some())).collect())
    }

    async fn verify_run(&self, object: &Named, run: Run, pace: &mut Pace) -> Result<Option<String>, ArtifactError> {
        if let Place::Cold(blob, copy) = run.place {
            return self.verify_cold(object, run, Name { blob, copy }, pace).await;
        }
        let Run { place, stored, crc, has_table } = run;
        let stores = self.0.stores.clone();
        let named = object.clone();
        // The file, where the bytes begin, and what is wrong before any of them is read.
        let opened = blocking(move || {
            let (path, offset, label) = match place {
                Place::File(id) => {
                    let path = stores.blobs.path(id);
                    let label = Blobs::read_label(&path);
                    (path, HEADER_BYTES, label)
                }
                Place::Pack(pack, offset) => (stores.packs.path(pack), offset, stores.packs.label_before(pack, offset)),
                Place::Cold(..) => return Ok(Err("it is in the cold tier".to_owned())),
            };
            let found = match (File::open(&path), label) {
                (Ok(file), Ok(label)) => Ok((file, label)),
                (Err(error), _) | (_, Err(error)) => Err(error),
            };
            Ok(match found {
                Ok((file, label)) => match label.and_then(|found| agrees(&found, &named, stored, crc)) {
                    Ok(()) => Ok((file, offset)),
                    Err(problem) => Err(problem),
                },
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err("its blob is missing".to_owned()),
                Err(error) => Err(format!("read: {error}")),
            })
        });
        let (file, begin) = match opened.await.map_err(ArtifactError::io("open a blob"))? {
            Ok(opened) => opened,
            Err(problem) => return Ok(Some(problem)),
        };
        let (file, mut position) = (std::sync::Arc::new(file), 0);
        let mut verifier = Some(Box::new((Verifier::default(), Summing::default())));
        while position < stored {
            let length = BATCH_BYTES.min(stored - position);
            let (file, at) = (std::sync::Arc::clone(&file), begin + position);
            let Some(mut checking) = verifier.take() else { break };
            let read = blocking(move || {
                let mut buffer = vec![0; usize::try_from(length).unwrap_or_default()];
                let bytes = read_up_to(&file, &mut buffer, at)?;
                checking.0.update(&buffer[..bytes]);
                if has_table {
                    checking.1.update(&buffer[..bytes]);
                }
                Ok((checking, bytes as u64))
            });
            match read.await {
                Ok((checked, bytes)) if bytes == length => verifier = Some(checked),
                Ok((_, bytes)) => return Ok(Some(format!("a blob ends {} bytes early", stored - position - bytes))),
                Err(error) => return Ok(Some(format!("read: {error}"))),
            }
            position += length;
            pace.took(length).await;
        }
        let Some((verifier, sums)) = verifier.map(|checked| *checked) else { return Ok(None) };
        if verifier.finish() != crc {
            return Ok(Some("the checksum of a blob does not match".to_owned()));
        }
        if !has_table {
            return Ok(None);
        }
        match blocking(move || blocks::check_table(&file, stored, sums)).await {
            Ok(checked) => Ok(checked.err()),
            Err(error) => Ok(Some(format!("read: {error}"))),
        }
    }

    /// Compares what the cold tier tells; reads it whole where that is asked for, or where it was found damaged.
    async fn verify_cold(
        &self,
        object: &Named,
        run: Run,
        name: Name,
        pace: &mut Pace,
    ) -> Result<Option<String>, ArtifactError> {
        let cold = &self.0.cold;
        let away = |problem: String| {
            cold.went_away(self.now().mono_ms);
            ArtifactError::ColdAway(problem)
        };
        if cold.is_away(self.now().mono_ms) {
            return Err(ArtifactError::ColdAway("it did not answer a moment ago".into()));
        }
        match cold.slot().remote()?.head(name).await {
            Ok(told) if told.bytes != HEADER_BYTES + run.stored => {
                let (bytes, expected) = (told.bytes, HEADER_BYTES + run.stored);
                return Ok(Some(format!("a blob has {bytes} bytes in the cold tier instead of {expected}")));
            }
            Ok(told) if told.crc.is_some_and(|crc| crc != run.crc) => {
                return Ok(Some("the cold tier tells another checksum than the blob had".into()));
            }
            Ok(_) => {}
            Err(RemoteError::Missing) => return Ok(Some("its blob is missing in the cold tier".into())),
            Err(RemoteError::Wrong(problem)) => return Ok(Some(problem)),
            Err(error @ (RemoteError::Away(_) | RemoteError::Busy)) => return Err(away(error.to_string())),
        }
        if !cold.scrub_reads() && !self.0.stores.health.is_damaged(object) {
            return Ok(None);
        }
        let mut fetching = self.fetching(object, run)?;
        loop {
            match fetching.next(pace).await {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(_))) => {}
                Ok(Some(Err(problem))) => return Ok(Some(problem)),
                Err(error) => return Err(away(error.to_string())),
            }
        }
    }
}

/// Whether a label is that of the object: on the worst day there is nothing else.
pub(super) fn agrees(found: &Found, object: &Named, stored: u64, crc: u64) -> Result<(), String> {
    let label = &found.label;
    if label.bucket != object.bucket || label.key != object.key {
        return Err("its header is that of another object".into());
    }
    if found.data_bytes != stored || label.crc != crc {
        return Err("its header tells other bytes than were put".into());
    }
    Ok(())
}
