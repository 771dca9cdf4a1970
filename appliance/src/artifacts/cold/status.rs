//! How far the cold tier is: for people, and as metrics.

use serde::{Deserialize, Serialize};

use crate::artifacts::Artifacts;

/// What is known of the cold tier.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ColdStatus {
    pub configured: bool,
    /// `s3://bucket/prefix` there, and its endpoint; empty is Amazon's.
    pub to: String,
    pub endpoint: String,
    /// Versions that are there, and their bytes.
    pub objects: u64,
    pub bytes: u64,
    /// What is being moved now, either way.
    pub moving: Option<String>,
    /// Versions that wait to be moved, and prefixes that wait to be brought back.
    pub waiting: usize,
    pub warming: Vec<String>,
    /// Since the start.
    pub moved: u64,
    pub moved_bytes: u64,
    pub returned: u64,
    pub returned_bytes: u64,
    pub failed: u64,
    /// Blobs that nothing refers to any more and that are not deleted there yet.
    pub to_delete: u64,
    /// The last that went wrong; nothing has gone well since.
    pub problem: Option<String>,
}

#[derive(Default)]
pub(super) struct Progress {
    pub(super) moving: Option<String>,
    pub(super) moved: u64,
    pub(super) moved_bytes: u64,
    pub(super) returned: u64,
    pub(super) returned_bytes: u64,
    pub(super) failed: u64,
    pub(super) to_delete: u64,
    pub(super) problem: Option<String>,
    pub(super) away_until_ms: u64,
}

impl Artifacts {
    #[must_use]
    pub fn cold_status(&self) -> ColdStatus {
        let cold = &self.0.cold;
        let (objects, bytes) = self
            .buckets()
            .iter()
            .fold((0, 0), |(objects, bytes), bucket| (objects + bucket.cold, bytes + bucket.cold_bytes));
        let (waiting, warming) = {
            let orders = cold.orders.lock();
            (orders.out.len(), orders.back.iter().map(ToString::to_string).collect())
        };
        let progress = cold.progress.lock();
        let config = cold.config.get();
        ColdStatus {
            configured: config.is_some(),
            to: config.map(|config| format!("s3://{}/{}", config.bucket, config.prefix)).unwrap_or_default(),
            endpoint: config.map(|config| config.endpoint.clone()).unwrap_or_default(),
            objects,
            bytes,
            moving: progress.moving.clone(),
            waiting,
            warming,
            moved: progress.moved,
            moved_bytes: progress.moved_bytes,
            returned: progress.returned,
            returned_bytes: progress.returned_bytes,
            failed: progress.failed,
            to_delete: progress.to_delete,
            problem: progress.problem.clone(),
        }
    }
}
