//! What an artifact looks like: a small picture of it, and the facts that a player or an editor asks for first.
//!
//! Both are made when somebody first asks, whoever put the artifact, and kept as objects of the bucket [`BUCKET`] under the
//! bucket and version they show: an object that is put over has another version, and so another picture. A sweep drops
//! those whose artifact has gone. Nothing here is the truth of anything: the bucket can be emptied at any time.
//!
//! Pictures are decoded in the process, under limits; clips and sounds by `ffmpeg` and `ffprobe` in processes of their own. One is
//! made at a time, and only so many wait. What cannot be read is remembered, so that it is not tried again on every look.

mod api_http;
mod clip;
mod library;
mod picture;
mod sweep;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use backlot_wire::metrics::ARTIFACT_PREVIEWS;
use backlot_wire::{MediaFacts, MediaKind};
use bytes::Bytes;
use futures::StreamExt;
use opentelemetry::KeyValue;
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;
use uuid::Uuid;

pub use api_http::routes;
pub use library::Library;
#[cfg(test)]
pub(super) use sweep::sweep;

use self::library::{Head, Pieces};
use super::door::ReadError;
use super::error::ArtifactError;
use crate::config::ArtifactConfig;
use crate::tasks::Stage;
use crate::telemetry::counter;

/// Where pictures and facts are kept.
pub const BUCKET: &str = "backlot-previews";
/// Lengths of the longer side; another length is answered with the next larger one.
const SIDES: [u32; 4] = [160, 320, 640, 1280];
/// Largest picture file that is decoded.
const PICTURE_BYTES_MAX: u64 = 64 << 20;
/// Bytes of the disk that no copy takes: they are for what is put.
const RESERVE_BYTES: u64 = 1 << 30;
/// Most callers that wait for their turn.
const WAITING_MAX: usize = 64;
/// Versions that are remembered as unreadable; then all are forgotten.
const UNREADABLE_MAX: usize = 4096;
/// Metadata of a kept object: the key that it shows, in base64, since keys hold more than headers may.
const OF: &str = "of";

#[derive(Clone, Debug, thiserror::Error)]
pub enum MediaError {
    #[error("{0}")]
    Artifact(Arc<ArtifactError>),
    #[error("{0}")]
    Other(Arc<ReadError>),
    #[error("this is no picture, clip or sound by its content type and name")]
    NotMedia,
    #[error("it is encrypted with a customer's key")]
    CustomersKey,
    #[error("a sound has no picture")]
    NoPicture,
    #[error("it has {bytes} bytes, and at most {max} are looked at")]
    TooLarge { bytes: u64, max: u64 },
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    #[error("`{program}` could not be started: {problem}")]
    NoProgram { program: String, problem: String },
    #[error("{needed} bytes are to be copied for it, and the disk has {free} free, of which {RESERVE_BYTES} stay so")]
    NoRoom { needed: u64, free: u64 },
    #[error("{WAITING_MAX} callers wait for pictures already")]
    Busy,
    #[error("a picture could not be made: {0}")]
    Fault(String),
}

impl From<ArtifactError> for MediaError {
    fn from(error: ArtifactError) -> Self {
        Self::Artifact(Arc::new(error))
    }
}

impl From<ReadError> for MediaError {
    fn from(error: ReadError) -> Self {
        Self::Other(Arc::new(error))
    }
}

/// The maker of pictures. Cheap to clone.
#[derive(Clone)]
pub struct Media(Arc<Shared>);

struct Shared {
    library: Library,
    /// For copies of what a program reads. Empty at the start.
    folder: PathBuf,
    config: ArtifactConfig,
    turn: Semaphore,
    waiting: AtomicUsize,
    unreadable: Mutex<HashMap<String, MediaError>>,
}

/// What was made of one artifact.
struct Made {
    facts: MediaFacts,
    /// JPEG.
    picture: Option<Vec<u8>>,
}

impl Media {
    /// Makes the folder `previews` in `data_dir`, or empties it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn build(library: Library, data_dir: &Path, config: ArtifactConfig) -> std::io::Result<Self> {
        let folder = data_dir.join("previews");
        std::fs::create_dir_all(&folder)?;
        for entry in std::fs::read_dir(&folder)? {
            std::fs::remove_file(entry?.path())?;
        }
        let (turn, waiting, unreadable) = (Semaphore::new(1), AtomicUsize::new(0), Mutex::default());
        Ok(Self(Arc::new(Shared { library, folder, config, turn, waiting, unreadable })))
    }

    /// Starts the sweep of pictures whose artifacts have gone.
    pub fn start(&self, stage: &Stage) {
        // What is kept in the other S3 goes by a lifecycle rule there.
        if let Library::Own(artifacts) = &self.0.library {
            stage.spawn("preview sweep", sweep::run(artifacts.clone(), stage.stopping()));
        }
    }

    /// A JPEG of an artifact whose longer side is at most `side` pixels or the next of the usual lengths.
    ///
    /// # Errors
    /// [`MediaError`].
    pub async fn picture(&self, bucket: &str, key: &str, side: u32) -> Result<Bytes, MediaError> {
        let head = self.0.library.head(bucket, key).await?;
        if MediaKind::of(head.content_type.as_deref(), key) == Some(MediaKind::Audio) {
            return Err(MediaError::NoPicture);
        }
        let side = SIDES.into_iter().find(|known| *known >= side).unwrap_or(SIDES[SIDES.len() - 1]);
        let name = format!("{bucket}/{}/{side}.jpg", head.version);
        if let Some(kept) = self.0.library.kept(&name).await? {
            return Ok(kept);
        }
        let made = self.make(bucket, key, &head, Some(side), &name).await?;
        made.ok_or(MediaError::NoPicture)
    }

    /// What is known of an artifact.
    ///
    /// # Errors
    /// [`MediaError`].
    pub async fn facts(&self, bucket: &str, key: &str) -> Result<MediaFacts, MediaError> {
        let head = self.0.library.head(bucket, key).await?;
        let name = format!("{bucket}/{}/facts.json", head.version);
        let kept = match self.0.library.kept(&name).await? {
            Some(kept) => Some(kept),
            None => self.make(bucket, key, &head, None, &name).await?,
        };
        let kept = kept.ok_or_else(|| MediaError::Fault("the facts were not kept".into()))?;
        serde_json::from_slice(&kept).map_err(|error| MediaError::Fault(error.to_string()))
    }

    /// Makes facts and, where `side` says how large, a picture; keeps both and gives what is kept as `name`.
    async fn make(
        &self,
        bucket: &str,
        key: &str,
        head: &Head,
        side: Option<u32>,
        name: &str,
    ) -> Result<Option<Bytes>, MediaError> {
        let kind = MediaKind::of(head.content_type.as_deref(), key).ok_or(MediaError::NotMedia)?;
        if head.customers_key {
            return Err(MediaError::CustomersKey);
        }
        if let Some(error) = self.0.unreadable.lock().get(&head.version) {
            return Err(error.clone());
        }
        let _waiting = Waiting::enter(&self.0.waiting).ok_or(MediaError::Busy)?;
        let turn = self.0.turn.acquire().await;
        let _turn = turn.map_err(|error| MediaError::Fault(error.to_string()))?;
        if let Some(kept) = self.0.library.kept(name).await? {
            return Ok(Some(kept)); // made by somebody who was before us
        }
        let outcome = match kind {
            MediaKind::Image => self.look_at_picture(bucket, key, head, side).await,
            MediaKind::Video | MediaKind::Audio => self.look_at_clip(bucket, key, head, kind, side).await,
        };
        let told = if outcome.is_ok() { "made" } else { "failed" };
        counter(&ARTIFACT_PREVIEWS).add(1, &[KeyValue::new("outcome", told)]);
        let made = outcome.inspect_err(|error| self.remember(head.version.clone(), error))?;
        self.keep(bucket, key, head, side, made).await
    }

    fn remember(&self, version: String, error: &MediaError) {
        if let MediaError::Unreadable(_) | MediaError::TooLarge { .. } = error {
            let mut unreadable = self.0.unreadable.lock();
            if unreadable.len() >= UNREADABLE_MAX {
                unreadable.clear();
            }
            unreadable.insert(version, error.clone());
        }
    }

    async fn look_at_picture(
        &self,
        bucket: &str,
        key: &str,
        head: &Head,
        side: Option<u32>,
    ) -> Result<Made, MediaError> {
        if head.size > PICTURE_BYTES_MAX {
            return Err(MediaError::TooLarge { bytes: head.size, max: PICTURE_BYTES_MAX });
        }
        let length = usize::try_from(head.size).unwrap_or_default();
        let bytes = gather(self.0.library.get(bucket, key).await?, length).await?;
        let made = tokio::task::spawn_blocking(move || picture::look(&bytes, side)).await;
        made.map_err(|error| MediaError::Unreadable(error.to_string()))?
    }

    async fn look_at_clip(
        &self,
        bucket: &str,
        key: &str,
        head: &Head,
        kind: MediaKind,
        side: Option<u32>,
    ) -> Result<Made, MediaError> {
        let max = self.0.config.preview_source_bytes_max;
        if head.size > max {
            return Err(MediaError::TooLarge { bytes: head.size, max });
        }
        let copy = self.copy(bucket, key, head.size).await?;
        let facts = clip::facts(&self.0.config.ffprobe, copy.path()).await?;
        let picture = match side.filter(|_| kind == MediaKind::Video && facts.kind == MediaKind::Video) {
            Some(side) => Some(clip::poster(&self.0.config.ffmpeg, copy.path(), &facts, side).await?),
            None => None,
        };
        Ok(Made { facts, picture })
    }

    /// The bytes of an artifact as a file, since programs seek in it.
    async fn copy(&self, bucket: &str, key: &str, needed: u64) -> Result<FileCopy, MediaError> {
        let fault = |error: std::io::Error| MediaError::Fault(format!("copy it for a program: {error}"));
        let disk = rustix::fs::statvfs(&self.0.folder).map_err(|error| fault(error.into()))?;
        has_room(needed, disk.f_bavail.saturating_mul(disk.f_frsize))?;
        let copy = FileCopy(self.0.folder.join(Uuid::new_v4().simple().to_string()));
        let mut pieces = self.0.library.get(bucket, key).await?;
        let mut file = tokio::fs::File::create(copy.path()).await.map_err(fault)?;
        while let Some(bytes) = pieces.next().await {
            file.write_all(&bytes?).await.map_err(fault)?;
        }
        file.flush().await.map_err(fault)?;
        Ok(copy)
    }

    /// Keeps what was made, and gives what was asked for: the picture, or without one the facts.
    async fn keep(
        &self,
        bucket: &str,
        key: &str,
        head: &Head,
        side: Option<u32>,
        made: Made,
    ) -> Result<Option<Bytes>, MediaError> {
        let folder = format!("{bucket}/{}", head.version);
        let facts = serde_json::to_vec(&made.facts).map_err(|error| MediaError::Fault(error.to_string()))?;
        let facts = Bytes::from(facts);
        let library = &self.0.library;
        library.keep(format!("{folder}/facts.json"), "application/json", (key, head), facts.clone()).await?;
        let Some(side) = side else { return Ok(Some(facts)) };
        let Some(jpeg) = made.picture.map(Bytes::from) else { return Ok(None) };
        library.keep(format!("{folder}/{side}.jpg"), "image/jpeg", (key, head), jpeg.clone()).await?;
        Ok(Some(jpeg))
    }
}

/// All bytes of a stream that is known to be small.
async fn gather(mut pieces: Pieces, length: usize) -> Result<Bytes, MediaError> {
    let mut bytes = Vec::with_capacity(length);
    while let Some(piece) = pieces.next().await {
        bytes.extend_from_slice(&piece?);
    }
    Ok(bytes.into())
}

/// Whether a copy of `needed` bytes leaves its reserve to a disk with `free`.
fn has_room(needed: u64, free: u64) -> Result<(), MediaError> {
    match needed.checked_add(RESERVE_BYTES) {
        Some(all) if all <= free => Ok(()),
        _ => Err(MediaError::NoRoom { needed, free }),
    }
}

/// A file that goes with its name.
struct FileCopy(PathBuf);

impl FileCopy {
    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for FileCopy {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.0.display(), %error, "could not remove a copy; the next start does");
        }
    }
}

/// One of those who wait.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn enter(count: &'a AtomicUsize) -> Option<Self> {
        let entered = Self(count);
        // Counted first, so that of two at the door one stays outside; dropping uncounts.
        (count.fetch_add(1, Ordering::Relaxed) < WAITING_MAX).then_some(entered)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_leaves_the_disk_its_reserve() {
        assert!(has_room(0, RESERVE_BYTES).is_ok() && has_room(5, RESERVE_BYTES + 5).is_ok());
        assert!(matches!(has_room(6, RESERVE_BYTES + 5), Err(MediaError::NoRoom { needed: 6, .. })));
        assert!(has_room(u64::MAX, u64::MAX).is_err());
    }

    #[test]
    fn only_so_many_wait() {
        let count = AtomicUsize::new(0);
        let entered: Vec<_> = (0..WAITING_MAX).map(|_| Waiting::enter(&count).unwrap()).collect();
        assert!(Waiting::enter(&count).is_none());
        drop(entered);
        assert_eq!(count.load(Ordering::Relaxed), 0);
    }
}
