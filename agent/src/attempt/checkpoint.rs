//! Checkpoints: what a worker has kept of its work goes to S3 beside the job's outputs, and comes back to the next attempt.
//!
//! There is one for a job, `checkpoint` under the job's own prefix, the newest in the place of the one before. A later attempt finds it
//! in its output folder under that name before it begins, on whatever host. What it means is between
//! the worker and itself; one that it cannot use it ignores. It goes when the job has its result. Nothing here fails an
//! attempt: a checkpoint that is lost costs time.

use std::path::Path;
use std::sync::atomic::Ordering;

use backlot_wire::{FailureClass, JobSpec, job::split_s3_uri};
use tracing::{info, warn};

use super::Attempt;
use crate::output;
use crate::store::Upload;
use crate::worker::protocol;

/// The name in the output folder and in the bucket.
const NAME: &str = "checkpoint";
/// Longest checkpoint that is kept, in bytes.
const BYTES_MAX: u64 = 1 << 30;

impl Attempt {
    /// Bucket and key of the job's checkpoint.
    fn checkpoint_place(&self, spec: &JobSpec) -> Option<(String, String)> {
        let prefix = output::prefix(spec, &self.agent.config.output_prefix);
        let (bucket, prefix) = split_s3_uri(&prefix)?;
        let slash = if prefix.is_empty() || prefix.ends_with('/') { "" } else { "/" };
        Some((bucket.to_owned(), format!("{prefix}{slash}{}/{NAME}", self.job)))
    }

    /// Puts what an earlier attempt left into the output folder.
    pub(super) async fn take_checkpoint(&self, spec: &JobSpec, output_dir: &Path) {
        let Some((bucket, key)) = self.checkpoint_place(spec).filter(|_| self.number > 1) else { return };
        let file = output_dir.join(NAME);
        match self.agent.store.fetch(&bucket, &key, &file, BYTES_MAX).await {
            Ok(bytes) => {
                self.kept.store(true, Ordering::Relaxed);
                info!(key, bytes, "an earlier attempt left a checkpoint");
            }
            Err(error) => {
                // Most jobs have none.
                if error.class == FailureClass::Transient {
                    warn!(%error, "the checkpoint is not fetched");
                }
                let _ = tokio::fs::remove_file(&file).await;
            }
        }
    }

    /// Stores the checkpoint that the worker has announced.
    pub(super) async fn keep_checkpoint(&self, spec: &JobSpec, name: &str, output_dir: &Path) {
        let Some((bucket, key)) = self.checkpoint_place(spec) else { return };
        let file = match protocol::locate(output_dir, name) {
            Ok((file, _)) => file,
            Err(problem) => return warn!("{}", self.of_worker(&problem)),
        };
        let bytes = tokio::fs::metadata(&file).await.map_or(0, |data| data.len());
        if bytes > BYTES_MAX {
            return warn!(bytes, "the checkpoint has more than {BYTES_MAX} bytes and is not kept");
        }
        let content_type = "application/octet-stream";
        let upload = Upload { file: &file, bucket: &bucket, key: &key, content_type, metadata: &[] };
        match self.agent.store.put(&upload).await {
            Ok(stored) => {
                self.kept.store(true, Ordering::Relaxed);
                info!(key, bytes = stored.bytes, "a checkpoint is kept");
            }
            Err(error) => warn!(%error, "the checkpoint is not kept"),
        }
    }

    /// Removes the job's checkpoint, when the result is stored.
    pub(super) async fn drop_checkpoint(&self, spec: &JobSpec) {
        let Some((bucket, key)) = self.checkpoint_place(spec).filter(|_| self.kept.load(Ordering::Relaxed)) else {
            return;
        };
        if let Err(error) = self.agent.store.remove(&bucket, &key).await {
            warn!(%error, "the checkpoint stays behind");
        }
    }
}
