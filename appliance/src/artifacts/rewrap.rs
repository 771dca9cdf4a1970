//! After the master key was changed: the keys of objects are wrapped again with the new one. No byte of an object is written.
//!
//! Uploads first, so that no completion brings an old key back behind the walk; then every version. Each change is a
//! journal record under the key's lock, and doing it twice is doing it once: a restart begins again and finds less to do.
//! When a walk has found nothing left under an old key, the data folder needs that key no more. Labels in front of bytes keep what they had:
//! a rebuild from them needs the old keys.

use std::time::Duration;

use backlot_journal::Class;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Artifacts;
use super::engine::{RECORD_SLACK_BYTES, records};
use super::error::ArtifactError;
use super::model::{ObjectRow, UploadRow};
use super::multipart::UploadName;
use super::record::Change;
use super::state::State;
use super::walk::{Met, Position};
use super::work::Work;
use crate::master::KeyId;

/// Time to the next try when something did not open.
const RETRY_AFTER: Duration = Duration::from_secs(3600);
/// Uploads read at once.
const FETCH: usize = 1000;

/// How far it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RewrapStatus {
    /// The key that wraps.
    pub current: KeyId,
    /// Old keys that must stay configured.
    pub old_in_use: Vec<KeyId>,
    pub running: bool,
    /// Versions and uploads looked at in this walk, or in the last one.
    pub seen: u64,
    pub rewrapped: u64,
    /// Keys that did not open: their master key is missing.
    pub failed: u64,
}

#[derive(Clone, Copy, Default)]
struct Progress {
    running: bool,
    seen: u64,
    rewrapped: u64,
    failed: u64,
}

#[derive(Default)]
pub(super) struct Rewrapper {
    progress: Mutex<Progress>,
    asked: Notify,
}

pub(super) async fn run(artifacts: Artifacts, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            done = artifacts.rewrap() => if let Err(error) = done {
                tracing::warn!(%error, "keys of objects could not be wrapped with the new master key; tried again later");
            }
        }
        artifacts.0.rewrapper.progress.lock().running = false;
        tokio::select! {
            () = stop.cancelled() => return,
            () = artifacts.0.rewrapper.asked.notified() => {}
            () = tokio::time::sleep(RETRY_AFTER) => {}
        }
    }
}

impl Artifacts {
    /// Looks now whether something is under an old key.
    pub fn rewrap_now(&self) {
        self.0.rewrapper.progress.lock().running = true; // so that who waits for the end does not see the one before
        self.0.rewrapper.asked.notify_one();
    }

    #[must_use]
    pub fn rewrap_status(&self) -> RewrapStatus {
        let Progress { running, seen, rewrapped, failed } = *self.0.rewrapper.progress.lock();
        let (current, old_in_use) = (self.0.master.current(), self.0.master.old_in_use());
        RewrapStatus { current, old_in_use, running, seen, rewrapped, failed }
    }

    /// One walk. Does nothing where no old key is in use.
    pub(super) async fn rewrap(&self) -> Result<(), ArtifactError> {
        let old = self.0.master.old_in_use();
        if old.is_empty() {
            return Ok(());
        }
        *self.0.rewrapper.progress.lock() = Progress { running: true, ..Progress::default() };
        let bucket_names: Vec<String> = self.buckets().into_iter().map(|bucket| bucket.name).collect();
        for bucket in bucket_names {
            self.rewrap_uploads(&bucket).await?;
        }
        let mut position = Position::default();
        while let Some((met, next)) = self.walk(&position).await? {
            for Met { object, row } in met {
                let done = match &row.seal {
                    Some(seal) if self.is_old(seal.master()) => {
                        self.rewrap_version(&object.bucket, &object.key, &row).await
                    }
                    _ => Ok(false),
                };
                self.count(done).await?;
            }
            position = next;
        }
        let Progress { seen, rewrapped, failed, .. } = *self.0.rewrapper.progress.lock();
        if failed > 0 {
            tracing::error!(failed, "keys of objects do not open with any master key; the old keys stay in use");
            return Ok(());
        }
        for id in old {
            self.0.master.retire(id).map_err(|error| ArtifactError::fault("retire a master key")(error.to_string()))?;
            tracing::info!(key = %id, seen, rewrapped, "nothing is under this old master key any more");
        }
        Ok(())
    }

    fn is_old(&self, master: Option<KeyId>) -> bool {
        master.is_some_and(|master| master != self.0.master.current())
    }

    /// Counts one that was looked at, and waits where it was written.
    async fn count(&self, done: Result<bool, ArtifactError>) -> Result<(), ArtifactError> {
        let is_written = {
            let mut progress = self.0.rewrapper.progress.lock();
            progress.seen += 1;
            match done {
                Ok(is_written) => {
                    progress.rewrapped += u64::from(is_written);
                    is_written
                }
                Err(ArtifactError::Damaged { .. }) => {
                    progress.failed += 1;
                    false
                }
                Err(error) => return Err(error),
            }
        };
        if is_written {
            tokio::time::sleep(Duration::from_secs(1) / self.0.encryption.rewraps_s_max.max(1)).await;
        }
        Ok(())
    }

    async fn rewrap_version(&self, bucket: &str, key: &str, row: &ObjectRow) -> Result<bool, ArtifactError> {
        let lock = self.lock(bucket, key).await;
        let current = match self.version(bucket, key, Some(row.name())) {
            Ok(version) => version.and_then(|version| version.object().cloned()),
            Err(ArtifactError::NoSuchBucket(_)) => None,
            Err(error) => return Err(error),
        };
        let Some(current) = current else { return Ok(false) };
        let Some(seal) = &current.seal else { return Ok(false) };
        let Some(seal) = self.rewrapped(bucket, key, seal)? else { return Ok(false) };
        let now = ObjectRow { seal: Some(seal), ..current.clone() };
        let plan = self.held(bucket, key)?.amend(bucket, key, &current, now);
        self.carry_out(lock, Class::Growing, Work::of(plan), || ()).await?;
        Ok(true)
    }

    async fn rewrap_uploads(&self, bucket: &str) -> Result<(), ArtifactError> {
        let mut after: Option<(String, uuid::Uuid)> = None;
        loop {
            let from = after.as_ref().map(|(key, id)| (key.as_str(), Some(*id)));
            let found = match self.uploads(bucket, "", from, FETCH) {
                Err(ArtifactError::NoSuchBucket(_)) => return Ok(()),
                found => found?,
            };
            let is_last = found.len() < FETCH;
            for (key, id, row) in found {
                let is_old = row.seal.as_ref().is_some_and(|seal| self.is_old(seal.master()));
                let name = UploadName { bucket: bucket.to_owned(), key, id };
                let done = if is_old { self.rewrap_upload(&name).await } else { Ok(false) };
                self.count(done).await?;
                after = Some((name.key, id));
            }
            if is_last {
                return Ok(());
            }
        }
    }

    async fn rewrap_upload(&self, name: &UploadName) -> Result<bool, ArtifactError> {
        let lock = self.lock(&name.bucket, &name.key).await;
        let upload = match self.upload(name) {
            Err(ArtifactError::NoSuchUpload | ArtifactError::NoSuchBucket(_)) => return Ok(false),
            upload => upload?,
        };
        let Some(seal) = &upload.seal else { return Ok(false) };
        let Some(seal) = self.rewrapped(&name.bucket, &name.key, seal)? else { return Ok(false) };
        let row = UploadRow { seal: Some(seal), ..upload };
        let (bucket, key) = (name.bucket.clone(), name.key.clone());
        let change = Change::UploadSet { bucket, key, upload: name.id, row };
        let room = change.record().map_err(ArtifactError::fault("write a record"))?.payload.len() + RECORD_SLACK_BYTES;
        let decide = |_: &mut State| Ok((records(&[change])?, ()));
        self.commit(Some(lock), room, Class::Growing, decide, || {}).await?;
        Ok(true)
    }
}
