//! Where windows of logs and traces go when they are old: a bucket of another S3, where they are searched like those that are here.
//!
//! What moves, in which order, and what a crash leaves is the windows' own; here is how the other S3 is asked ([`far`]), who asks it to
//! take what is due ([`mover`]), and what is told of it. Searches and moves share nothing but the client: a store that takes nothing may
//! still be read.

mod far;
mod mover;

use std::path::Path;
use std::sync::Arc;

use backlot_windows::{Cache, Cold};
use backlot_wire::metrics::{WINDOWS_COLD_MOVED, WINDOWS_COLD_READS};
use opentelemetry::KeyValue;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Notify;

use self::far::Shelf;
use super::Store;
use crate::clock::Clock;
use crate::config::ColdWindowsConfig;
use crate::other_s3::bucket::Bucket;
use crate::tasks::Stage;
use crate::telemetry::counter;

/// Folder of what was read of late, below the data folder.
const CACHE_DIR: &str = "cold-cache";

/// Why the place cannot be used: the key that is wrong and what it should be, or the folder of the cache.
#[derive(Debug, thiserror::Error)]
pub enum ColdError {
    #[error("cold_windows.{0}: {1}")]
    Config(&'static str, String),
    #[error(transparent)]
    Cache(#[from] backlot_windows::WindowsError),
}

/// The place. Cheap to clone.
#[derive(Clone)]
pub struct ColdWindows(Arc<Shared>);

struct Shared {
    config: ColdWindowsConfig,
    bucket: Bucket,
    cache: Cache,
    clock: Arc<dyn Clock>,
    runtime: tokio::runtime::Handle,
    /// Nobody asks until then, and what was said last.
    away: Mutex<Option<(u64, String)>>,
    progress: Mutex<Progress>,
    /// Something is due, or is to be deleted there.
    wake: Notify,
}

/// What is known of moves, since the start.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Progress {
    pub moved: u64,
    pub moved_bytes: u64,
    pub failed: u64,
    /// Images there that are no window's any more and are not deleted yet.
    pub to_delete: usize,
    /// What went wrong last; nothing has gone well since.
    pub problem: Option<String>,
}

/// What `GET /v1/retention` tells of it.
#[derive(Debug, Serialize)]
pub(super) struct Told {
    /// `s3://bucket/prefix` there, and its endpoint; empty is Amazon's.
    to: String,
    endpoint: String,
    cache_bytes: u64,
    cache_bytes_max: u64,
    #[serde(flatten)]
    progress: Progress,
    /// Set while searches do not ask there: why.
    away: Option<String>,
}

impl ColdWindows {
    /// `None` where no bucket is configured. Nothing is asked yet: that the other S3 does not answer is no error, it may come.
    ///
    /// # Errors
    /// [`ColdError`].
    pub async fn open(
        config: &ColdWindowsConfig,
        data_dir: &Path,
        clock: Arc<dyn Clock>,
    ) -> Result<Option<Self>, ColdError> {
        if config.bucket.is_empty() {
            return Ok(None);
        }
        let cache = Cache::open(data_dir.join(CACHE_DIR), config.cache_bytes_max)?;
        let client = config.other().client().await.map_err(|(key, problem)| ColdError::Config(key, problem))?;
        Ok(Some(Self(Arc::new(Shared {
            config: config.clone(),
            bucket: Bucket::new(client, &config.bucket),
            cache,
            clock,
            runtime: tokio::runtime::Handle::current(),
            away: Mutex::default(),
            progress: Mutex::default(),
            wake: Notify::new(),
        }))))
    }

    /// The place of one signal's windows.
    pub(super) fn of(&self, signal: &'static str) -> Cold {
        Cold::new(Arc::new(Shelf::new(self.clone(), signal)), self.0.cache.clone())
    }

    /// Starts moving. `stage` is that of the stores.
    pub fn start(&self, stage: &Stage, stores: Vec<Store>) {
        // Known before anything goes wrong: a rule sees how they rise.
        for store in &stores {
            let signal = || KeyValue::new("signal", store.kind().as_str());
            for outcome in ["moved", "away", "failed"] {
                counter(&WINDOWS_COLD_MOVED).add(0, &[signal(), KeyValue::new("outcome", outcome)]);
            }
            for outcome in ["read", "away", "missing", "damaged"] {
                counter(&WINDOWS_COLD_READS).add(0, &[signal(), KeyValue::new("outcome", outcome)]);
            }
        }
        stage.spawn("cold windows", mover::run(self.clone(), stores, stage.stopping()));
    }

    /// Looks now for what is to be moved.
    pub(super) fn look_soon(&self) {
        self.0.wake.notify_one();
    }

    pub(super) fn told(&self) -> Told {
        let config = &self.0.config;
        Told {
            to: format!("s3://{}/{}", config.bucket, config.prefix),
            endpoint: config.endpoint.clone(),
            cache_bytes: self.0.cache.stats().bytes,
            cache_bytes_max: config.cache_bytes_max,
            progress: self.0.progress.lock().clone(),
            away: self.away(),
        }
    }

    /// Why nobody asks at the moment.
    fn away(&self) -> Option<String> {
        let now_ms = self.0.clock.now().mono_ms;
        self.0.away.lock().as_ref().filter(|(until_ms, _)| now_ms < *until_ms).map(|(_, why)| why.clone())
    }
}

/// Asks the other S3 whether it is there, and changes nothing: what was found, or what is wrong.
///
/// # Errors
/// A sentence, without secrets.
pub async fn probe(config: &ColdWindowsConfig) -> Result<String, String> {
    if config.bucket.is_empty() {
        return Ok("no place is configured".into());
    }
    let client = config.other().client().await.map_err(|(key, problem)| format!("cold_windows.{key}: {problem}"))?;
    let listed = Bucket::new(client, &config.bucket).list(&config.prefix, None).await;
    let to = format!("s3://{}/{}", config.bucket, config.prefix);
    match listed {
        Ok(_) => Ok(format!("{to} answers")),
        Err(error) => Err(format!("{to}: {error}. Cold windows cannot be searched until it answers")),
    }
}
