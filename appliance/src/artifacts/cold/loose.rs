//! Names in the cold tier that no row refers to: rows of their own, from before a blob is put until it is bound to an object, and from
//! when its object has gone until it is deleted.
//!
//! The clean-up deletes what is loose, not being written and not being read; what fails stays and is tried again, later each time.

use std::time::Duration;

use backlot_journal::Class;
use backlot_wire::metrics::ARTIFACT_COLD_LOOSE;
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::remote::{Name, Remote, RemoteError};
use super::{ArtifactError, Artifacts, ColdRun};
use crate::artifacts::engine::{RECORD_SLACK_BYTES, records};
use crate::artifacts::model::{decode, encode};
use crate::artifacts::record::Change;
use crate::artifacts::state::State;
use crate::catalogue::{Batch, Table};
use crate::telemetry::gauge;

/// Rows looked at before those that are gone are taken out.
const PAGE: usize = 500;
/// Deletes that are under way at once.
const AT_ONCE: usize = 8;
/// Time to the next look where nobody asks for one: what was being read may not be any more.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Pause after the other S3 did not answer: half of the first, and the longest.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(600);

#[derive(Serialize, Deserialize)]
struct Loose {
    #[serde(rename = "o")]
    body: Uuid,
    /// It was being put: an upload may have begun that was never completed.
    #[serde(rename = "u", default)]
    was_begun: bool,
}

pub(in super::super) fn key(name: Name) -> Vec<u8> {
    [name.blob.as_bytes().as_slice(), &name.copy.to_be_bytes()].concat()
}

fn read(row: &[u8]) -> Option<Name> {
    let (blob, copy) = row.split_at_checked(16)?;
    Some(Name { blob: Uuid::from_slice(blob).ok()?, copy: u64::from_be_bytes(copy.try_into().ok()?) })
}

pub(in super::super) fn put(run: &ColdRun, was_begun: bool, batch: &mut Batch) -> Result<(), String> {
    let row = encode(&Loose { body: run.body, was_begun })?;
    run.names().for_each(|name| batch.put(Table::Cold, key(name), row.clone()));
    Ok(())
}

pub(super) async fn run(artifacts: Artifacts, stop: CancellationToken) {
    let mut retry_pause = RETRY_PAUSE;
    loop {
        let cleaned = tokio::select! {
            () = stop.cancelled() => return,
            cleaned = artifacts.clean_cold() => cleaned,
        };
        let is_well = cleaned.is_ok();
        match cleaned {
            Ok(left) => {
                artifacts.0.cold.progress.lock().to_delete = left;
                #[allow(clippy::cast_precision_loss, reason = "a gauge is a float")]
                gauge(&ARTIFACT_COLD_LOOSE).record(left as f64, &[]);
                retry_pause = RETRY_PAUSE;
            }
            Err(error) => {
                tracing::warn!(%error, "could not delete what nothing refers to in the cold tier; tried again later");
                retry_pause = (retry_pause * 2).min(RETRY_PAUSE_MAX);
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = artifacts.0.cold.clean.notified(), if is_well => {}
            () = tokio::time::sleep(if is_well { LOOK_EVERY } else { retry_pause }) => {}
        }
    }
}

impl Artifacts {
    /// Goes once through what is loose; gives how much is left.
    pub(in super::super) async fn clean_cold(&self) -> Result<u64, ArtifactError> {
        let (mut left, mut from, mut failed) = (0, Vec::new(), None);
        loop {
            let rows = self.catalogue().range(Table::Cold, &[], &from, PAGE)?;
            let Some((last, _)) = rows.last() else { break };
            from = [last.as_slice(), b"\0"].concat();
            left += rows.len() as u64;
            // Without the other S3 they are counted, and wait for it.
            let Ok(remote) = self.0.cold.slot.remote() else { continue };
            let delete = |(row, value): (Vec<u8>, Vec<u8>)| self.delete_cold(&remote, row, value);
            let mut deleting = futures::stream::iter(rows).map(delete).buffer_unordered(AT_ONCE);
            let mut names = Vec::new();
            while let Some(deleted) = deleting.next().await {
                match deleted {
                    Ok(name) => names.extend(name),
                    Err(error) => failed = Some(error),
                }
            }
            drop(deleting);
            left -= names.len() as u64;
            self.forget_cold(names).await?;
            if failed.is_some() {
                break;
            }
        }
        failed.map_or(Ok(left), |error| Err(ArtifactError::ColdAway(error.to_string())))
    }

    /// Deletes one name there; `None` where it is not its time.
    async fn delete_cold(&self, remote: &Remote, row: Vec<u8>, value: Vec<u8>) -> Result<Option<Name>, RemoteError> {
        let (Some(name), Ok(loose)) = (read(&row), decode::<Loose>(&value)) else { return Ok(None) };
        // Whether it is being written is asked before its row is looked for: what is bound loses its row before its move ends.
        let is_active = *self.0.cold.active.lock() == Some(name.copy);
        if is_active || self.0.pins.is_pinned(loose.body) {
            return Ok(None);
        }
        if !matches!(self.catalogue().get(Table::Cold, &row), Ok(Some(_))) {
            return Ok(None);
        }
        if loose.was_begun {
            remote.abort_all(name).await?;
        }
        remote.delete(name).await?;
        Ok(Some(name))
    }

    async fn forget_cold(&self, names: Vec<Name>) -> Result<(), ArtifactError> {
        if names.is_empty() {
            return Ok(());
        }
        let room = RECORD_SLACK_BYTES + names.len() * 64;
        let change = Change::ColdGone { names };
        self.commit(None, room, Class::Shrinking, |_: &mut State| Ok((records(&[change])?, ())), || {}).await
    }

    /// Writes down what is about to be put.
    pub(in super::super) async fn begin_cold(&self, run: ColdRun) -> Result<(), ArtifactError> {
        let room = RECORD_SLACK_BYTES + run.blobs.len() * 32;
        let change = Change::ColdBegun(run);
        self.commit(None, room, Class::Shrinking, |_: &mut State| Ok((records(&[change])?, ())), || {}).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_back_from_its_row() {
        let name = Name { blob: Uuid::from_u128(7), copy: 0x0102 };
        assert_eq!(read(&key(name)), Some(name));
        assert_eq!(read(b"short"), None);
    }
}
