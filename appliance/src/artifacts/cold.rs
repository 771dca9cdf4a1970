//! The cold tier: another S3 that keeps the bytes of objects whose rows stay here.
//!
//! A lifecycle rule hands versions over whose time has come ([`Transition`]); [`mover`] moves one at a time. What is moved are whole blobs, header page
//! and data, as they lie on the disk: what is encrypted here is so there, and each still says what it is. Nothing but the place in
//! the row changes: keys, ranges, ETags, checksums, versions and locks are as before. Small objects share packs with others and stay.
//!
//! A blob is moved in this order: its name there is journaled as *loose*; it is put, checked against its CRC while it is read and against
//! what the other S3 tells afterwards; the row is changed, under the key's lock and only if it is still the same, and the name
//! bound in the same record; the file is removed when its last reader has gone. The way back ([`warm`]) is the mirror of it. What is loose
//! and not being written is deleted there ([`loose`]), again and again until it is gone: a crash at any point leaves a readable object and
//! nothing forgotten. Names are written once: see [`Name`].
//!
//! Absent on purpose: classes that want a restore before a read; moving from one class of the other S3 to another (its own rules can);
//! a bucket there that keeps versions is never told to delete them.

mod fetch;
pub(super) mod loose;
mod mover;
mod remote;
mod status;
mod warm;

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, OnceLock};

use backlot_wire::metrics::{ARTIFACT_COLD_MOVED, ARTIFACT_COLD_READ_FAILURES};
use futures::future::BoxFuture;
use opentelemetry::KeyValue;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use uuid::Uuid;

pub(super) use fetch::Fetch;
pub(super) use remote::{Name, Remote, RemoteError};
pub use status::ColdStatus;
pub use warm::WarmAsked;

use self::mover::Order;
use self::status::Progress;
use self::warm::Walk;
use super::error::ArtifactError;
use super::health::Named;
use super::lifecycle::Transition;
use super::model::{Body, ColdClass, Extent, ObjectRow, Place};
use super::{Artifacts, Stage};
use crate::clock::SystemClock;
use crate::config::ColdConfig;
use crate::telemetry::counter;

/// Most versions that wait to be moved; further ones are offered again at the next visit of their rule.
const ORDERS_MAX: usize = 10_000;
/// How long nobody asks for cold objects in bulk after the other S3 did not answer.
const AWAY_MS: u64 = 60_000;

/// What one move has put into the cold tier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ColdRun {
    /// Whose readers are waited for: the upload of an object of parts, the blob of any other.
    #[serde(rename = "o")]
    pub(super) body: Uuid,
    #[serde(rename = "c")]
    pub(super) copy: u64,
    #[serde(rename = "b")]
    pub(super) blobs: Vec<Uuid>,
}

impl ColdRun {
    pub(super) fn names(&self) -> impl Iterator<Item = Name> {
        self.blobs.iter().map(|blob| Name { blob: *blob, copy: self.copy })
    }

    /// What the cold tier has of an object of parts, its manifest included.
    pub(super) fn of_parts<'a>(body: Uuid, extents: impl Iterator<Item = &'a Extent>) -> Vec<Self> {
        let mut runs: Vec<Self> = Vec::new();
        for extent in extents {
            let Place::Cold(blob, copy) = extent.place else { continue };
            match runs.iter_mut().find(|run| run.copy == copy) {
                Some(run) => run.blobs.push(blob),
                None => runs.push(Self { body, copy, blobs: vec![body, blob] }),
            }
        }
        runs
    }
}

/// The other S3, once there is one. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Slot(Arc<OnceLock<Remote>>);

impl Slot {
    pub(super) fn remote(&self) -> Result<Remote, ArtifactError> {
        let missing = || ArtifactError::ColdAway("none is configured; set `cold.bucket` to the one it was".into());
        self.0.get().cloned().ok_or_else(missing)
    }
}

/// What the cold tier keeps in memory.
#[derive(Default)]
pub(super) struct Cold {
    slot: Slot,
    config: OnceLock<ColdConfig>,
    orders: Mutex<Orders>,
    /// Something waits to be moved.
    wake: Notify,
    /// Something is to be deleted there.
    clean: Notify,
    /// The number of the move that goes on: what it writes is loose, and not to be deleted.
    active: Mutex<Option<u64>>,
    progress: Mutex<Progress>,
}

#[derive(Default)]
struct Orders {
    out: VecDeque<Order>,
    /// Versions in `out`.
    known: HashSet<Uuid>,
    back: VecDeque<Walk>,
    /// More was offered than there was room for.
    was_full: bool,
}

impl Cold {
    pub(super) fn slot(&self) -> Slot {
        self.slot.clone()
    }

    /// Whether the scrubber reads what is there whole.
    pub(super) fn scrub_reads(&self) -> bool {
        self.config.get().is_some_and(|config| config.scrub_reads)
    }

    pub(super) fn clean_soon(&self) {
        self.clean.notify_one();
    }

    fn bytes_s_max(&self) -> u64 {
        self.config.get().map_or(u64::MAX, |config| config.bytes_s_max)
    }

    /// Whether it did not answer a short time ago.
    pub(super) fn is_away(&self, now_ms: u64) -> bool {
        now_ms < self.progress.lock().away_until_ms
    }

    pub(super) fn went_away(&self, now_ms: u64) {
        self.progress.lock().away_until_ms = now_ms + AWAY_MS;
    }
}

/// Asks the other S3 whether it is there, and changes nothing: what was found, or what is wrong.
///
/// # Errors
/// A sentence, without secrets.
pub async fn probe_cold(config: &ColdConfig) -> Result<String, String> {
    if config.bucket.is_empty() {
        return Ok("none is configured".into());
    }
    let client = config.other().client().await.map_err(|(key, problem)| format!("cold.{key}: {problem}"))?;
    let listed = Remote::new(client, config, Arc::new(SystemClock::new())).list(None).await;
    let to = format!("s3://{}/{}", config.bucket, config.prefix);
    match listed {
        Ok(_) => Ok(format!("{to} answers")),
        Err(error) => Err(format!("{to}: {error}. Objects there cannot be read until it answers")),
    }
}

/// How the lifecycle hands versions over.
struct Offer(Arc<Cold>);

impl Transition for Offer {
    fn takes(&self, storage_class: &str) -> bool {
        ColdClass::parse(storage_class).is_some()
    }

    fn carry(
        &self,
        bucket: String,
        key: String,
        row: ObjectRow,
        storage_class: String,
    ) -> BoxFuture<'static, Result<bool, ArtifactError>> {
        let is_large = !matches!(row.body, Body::One(Extent { place: Place::Pack(..) | Place::Cold(..), .. }));
        let class = ColdClass::parse(&storage_class).filter(|_| is_large && row.cold_class().is_none());
        let taken = class.is_some_and(|class| {
            let mut orders = self.0.orders.lock();
            if orders.out.len() >= ORDERS_MAX {
                orders.was_full = true;
                return false;
            }
            let is_new = orders.known.insert(row.version);
            if is_new {
                orders.out.push_back(Order { object: Named::of(&bucket, &key, &row), class });
            }
            is_new
        });
        if taken {
            self.0.wake.notify_one();
        }
        Box::pin(async move { Ok(taken) })
    }
}

impl Artifacts {
    /// Takes another S3 as the cold tier; without a bucket there is none. Called once, before anything is started.
    ///
    /// # Errors
    /// The key of the section that is wrong, and what it should be. That the other S3 does not answer is no error: it may come.
    pub async fn open_cold(&self, config: &ColdConfig) -> Result<(), (&'static str, String)> {
        if config.bucket.is_empty() {
            return Ok(());
        }
        let client = config.other().client().await?;
        let remote = Remote::new(client, config, Arc::clone(&self.0.clock));
        if self.0.cold.slot.0.set(remote).is_err() || self.0.cold.config.set(config.clone()).is_err() {
            return Err(("bucket", "is the cold tier already".into()));
        }
        self.offer_transition(Arc::new(Offer(Arc::clone(&self.0.cold))));
        Ok(())
    }

    pub(super) fn start_cold(&self, stage: &Stage) {
        if self.0.cold.config.get().is_some() {
            // Known before anything goes wrong: a rule sees how they rise.
            for reason in ["away", "busy"] {
                counter(&ARTIFACT_COLD_READ_FAILURES).add(0, &[KeyValue::new("reason", reason)]);
            }
            for outcome in ["moved", "returned", "failed", "away"] {
                counter(&ARTIFACT_COLD_MOVED).add(0, &[KeyValue::new("outcome", outcome)]);
            }
        }
        stage.spawn("artifact cold tier", mover::run(self.clone(), stage.stopping()));
        stage.spawn("artifact cold tier's clean-up", loose::run(self.clone(), stage.stopping()));
    }

    /// All runs of a version, in order.
    fn extents(&self, row: &ObjectRow) -> Result<Vec<Extent>, ArtifactError> {
        match &row.body {
            Body::One(extent) => Ok(vec![extent.clone()]),
            Body::Parts(body) => Ok(self.completed_parts(*body)?.into_iter().map(|(_, extent)| extent).collect()),
        }
    }
}

/// Whose readers keep the blobs of a version.
fn body_id(row: &ObjectRow) -> Uuid {
    match &row.body {
        Body::One(Extent { place: Place::File(id) | Place::Cold(id, _) | Place::Pack(id, _), .. }) => *id,
        Body::Parts(body) => *body,
    }
}
