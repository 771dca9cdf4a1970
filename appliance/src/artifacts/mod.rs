//! Artifact store: buckets and objects, S3 semantics, on one machine's disks.
//!
//! A put makes its bytes durable first (a file of its own, or an entry in a pack for small objects), then its journal
//! record, whose group acknowledges, then its row in the catalogue. An object is visible when its row is there; reads and
//! listings look at rows alone, so both are consistent with every answered write. Changes of one key are
//! decided under that key's lock, which is held until the row is there.
//!
//! What is absent on purpose: nothing of a bucket's or key's name reaches the file system; bytes are never changed in
//! place; no acknowledgement waits for the catalogue's flush.

mod access;
pub mod api_http;
pub mod api_s3;
pub mod api_upkeep;
mod blobs;
mod blocks;
mod buckets;
mod byteranges;
mod checksums;
mod cold;
mod conditions;
mod documents;
pub mod door;
mod engine;
mod error;
mod health;
mod intake;
mod label;
mod lifecycle;
mod listing;
mod lock;
mod logbook;
mod manifest;
pub mod media;
mod model;
mod multipart;
mod notify;
mod packs;
mod pins;
pub mod quota;
mod read;
mod rebuild;
mod record;
mod rewrap;
mod scrub;
mod seal;
mod seal_keys;
mod state;
mod sweep;
mod tags;
#[cfg(test)]
mod tests;
mod verify;
mod versions;
mod walk;
mod work;

use std::hash::BuildHasher;
use std::path::Path;
use std::sync::Arc;

use backlot_journal::{Class, Lsn};
use parking_lot::Mutex;
use uuid::Uuid;

pub use access::{Acl, AclProblem, Grantee, Permissions};
pub use cold::{ColdStatus, WarmAsked, probe_cold};
pub use conditions::{ReadConditions, Tags, WriteConditions};
pub use documents::{DOCUMENT_BYTES_MAX, Document, DocumentKind};
pub use door::Upstream;
pub use engine::{Delete, Deleted, Got, Put, Stored};
pub use error::ArtifactError;
pub use intake::{Expected, Received, Taking};
pub use lifecycle::Transition;
pub use model::{ColdClass, ContentHeaders, Description, ETag, ObjectRow, RangeAsked, Tier, Versioning};
pub use notify::{Listener, Post, RuleDid, TellRule};
pub use read::ObjectStream;
pub use rebuild::{Recovered, from_blobs};
pub use rewrap::RewrapStatus;
pub use scrub::{Round, ScrubStatus};
pub use seal_keys::{CustomerKey, Kept, Seal, SealAsked, Sealer};
pub use versions::VersionName;

use crate::catalogue::{Batch, Catalogue};
use crate::clock::{Clock, Now};
use crate::config::{ArtifactConfig, EncryptionConfig};
use crate::control::{Commit, Control, Follower, Kind, Permit, Record};
use crate::identity::Account;
use crate::master::MasterKeys;
use crate::tasks::Stage;
use blobs::Blobs;
use packs::Packs;
use pins::Pins;
use read::Stores;
use state::State;

/// Locks that keys are spread over. Two keys that share one wait for each other, nothing more.
const LOCKS: usize = 1024;

/// The store. Cheap to clone.
#[derive(Clone)]
pub struct Artifacts(Arc<Shared>);

struct Shared {
    control: Control,
    clock: Arc<dyn Clock>,
    config: ArtifactConfig,
    encryption: EncryptionConfig,
    master: MasterKeys,
    stores: Stores,
    pins: Pins,
    state: Mutex<State>,
    /// Who hands events over; nobody in a test of the store alone.
    post: std::sync::OnceLock<Arc<dyn Post>>,
    tell_rule: std::sync::OnceLock<TellRule>,
    lifecycle: lifecycle::Lifecycle,
    logbook: logbook::Logbook,
    scrubber: scrub::Scrubber,
    rewrapper: rewrap::Rewrapper,
    cold: Arc<cold::Cold>,
    locks: Vec<Arc<tokio::sync::Mutex<()>>>,
    hash: std::hash::RandomState,
}

/// Exclusive use of a key. Travels with the commit, so that a caller who goes away does not let go of it early.
type KeyLock = tokio::sync::OwnedMutexGuard<()>;

/// What a bucket holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketInfo {
    pub name: String,
    pub created_ms: u64,
    pub region: String,
    pub owner: Account,
    /// What is current.
    pub objects: u64,
    pub bytes: u64,
    /// What is kept behind that.
    pub noncurrent: u64,
    pub noncurrent_bytes: u64,
    pub markers: u64,
    /// How much of all that is in the cold tier.
    pub cold: u64,
    pub cold_bytes: u64,
    pub versioning: Versioning,
    /// Whether its objects may be locked.
    pub lock: bool,
}

impl Artifacts {
    /// Opens or makes the folders `blobs` and `packs` in `data_dir`. Objects appear after [`Follower::replayed`]. `master` wraps
    /// the keys of those that are encrypted.
    ///
    /// # Errors
    /// When the folders cannot be made or read.
    pub fn build(
        control: Control,
        clock: Arc<dyn Clock>,
        data_dir: &Path,
        config: ArtifactConfig,
        (master, encryption): (MasterKeys, EncryptionConfig),
    ) -> std::io::Result<Self> {
        let blobs = Blobs::open(data_dir.join("blobs"))?;
        let ids = clock.clone();
        let packs = Packs::open(data_dir.join("packs"), config.pack_bytes, move || new_id(ids.now()))?;
        let (scrubber, damages) = scrub::Scrubber::open(data_dir.join("scrub.json"));
        let health = health::Health::new(clock.clone());
        health.load(damages);
        let cold = Arc::<cold::Cold>::default();
        Ok(Self(Arc::new(Shared {
            control,
            clock,
            config,
            encryption,
            master,
            pins: Pins::new(blobs.clone()),
            stores: Stores { blobs, packs, health, cold: cold.slot() },
            state: Mutex::default(),
            post: std::sync::OnceLock::new(),
            tell_rule: std::sync::OnceLock::new(),
            lifecycle: lifecycle::Lifecycle::default(),
            logbook: logbook::Logbook::default(),
            scrubber,
            rewrapper: rewrap::Rewrapper::default(),
            cold,
            locks: (0..LOCKS).map(|_| Arc::default()).collect(),
            hash: std::hash::RandomState::new(),
        })))
    }

    /// Starts the sweeper, the lifecycle, the scrubber, the wrapping of old keys, the cold tier and the gauges.
    pub fn start(&self, stage: &Stage) {
        self.0.stores.health.begin();
        stage.spawn("artifact scrubber", scrub::run(self.clone(), stage.stopping()));
        stage.spawn("artifact keys", rewrap::run(self.clone(), stage.stopping()));
        stage.spawn("artifact sweeper", sweep::run(self.clone(), stage.stopping()));
        stage.spawn("artifact lifecycle", lifecycle::run(self.clone(), stage.stopping()));
        self.start_cold(stage);
        stage.spawn("artifact access log", logbook::run(self.clone(), stage.stopping()));
        stage.spawn("artifact gauges", sweep::gauges(self.clone(), stage.stopping()));
    }

    fn catalogue(&self) -> &Catalogue {
        self.0.control.catalogue()
    }

    fn now(&self) -> Now {
        self.0.clock.now()
    }

    async fn lock(&self, bucket: &str, key: &str) -> KeyLock {
        let stripe = self.0.hash.hash_one((bucket, key)) % LOCKS as u64;
        let stripe = usize::try_from(stripe).unwrap_or_default();
        self.0.locks[stripe].clone().lock_owned().await
    }

    /// Submits what `decide` makes under the state's lock, and waits until it is durable and applied. Then, and also
    /// when the caller has gone meanwhile, `then` runs where it may block.
    ///
    /// `room` is at least the bytes of the records.
    async fn commit<T: Send + 'static>(
        &self,
        lock: Option<KeyLock>,
        room: usize,
        class: Class,
        decide: impl FnOnce(&mut State) -> Result<(Vec<Record>, T), ArtifactError>,
        then: impl FnOnce() + Send + 'static,
    ) -> Result<T, ArtifactError> {
        let permit = self.0.control.reserve(room, class).await?;
        let (commit, answer) = {
            let mut state = self.0.state.lock();
            let (records, answer) = decide(&mut state)?;
            debug_assert!(records.iter().map(|record| record.payload.len()).sum::<usize>() <= room);
            (permit.submit(&records), answer)
        };
        let finished = tokio::spawn(async move {
            commit.acknowledged().await?;
            drop(lock);
            tokio::task::spawn_blocking(then);
            Ok::<_, ArtifactError>(answer)
        });
        finished.await.map_err(|error| ArtifactError::fault("finish a change")(error.to_string()))?
    }
}

/// Reads `bytes` as everything that the store keeps in files, in the journal and in the catalogue, and throws the
/// outcome away: for fuzzing.
pub fn fuzz_stored(bytes: &[u8]) {
    let _ = label::read(bytes);
    blocks::fuzz(bytes);
    fuzz_pack(bytes);
    // Behind a right checksum, which no fuzzer guesses.
    if let Some((size, encoded)) = bytes.split_first_chunk::<8>()
        && let Ok(header) = label::sealed(encoded, u64::from_le_bytes(*size))
    {
        fuzz_pack(&header);
    }
    let mut batch = Batch::default();
    let _ = record::Change::project(bytes, &mut batch);
    let _ = model::decode::<ObjectRow>(bytes);
    let _ = model::decode::<versions::Version>(bytes);
    let _ = model::decode::<lifecycle::rules::Rules>(bytes);
    let _ = model::decode::<tags::Tag>(bytes);
    let _ = versions::keys::read(bytes, "bucket");
    let _ = model::decode::<model::PartChunk>(bytes);
    let _ = model::decode::<model::UploadRow>(bytes);
    let _ = model::decode::<manifest::Manifest>(bytes);
    let _ = model::keys::read_upload(bytes, "bucket");
    let _ = model::keys::number(bytes);
}

/// The entries of a pack that is `bytes`.
fn fuzz_pack(bytes: &[u8]) -> Vec<label::Found> {
    let read = |buffer: &mut [u8], position: u64| {
        let rest = usize::try_from(position).ok().and_then(|position| bytes.get(position..)).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    };
    let found = packs::walk(bytes.len() as u64, read).unwrap_or_default(); // reading memory does not fail
    found.into_iter().map(|(_, entry)| entry).collect()
}

/// Ids rise with time; their last bytes are random.
fn new_id(now: Now) -> Uuid {
    let (seconds, nanos) = (now.wall_ms / 1000, (now.wall_ms % 1000) * 1_000_000);
    let nanos = u32::try_from(nanos).unwrap_or_default();
    Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, seconds, nanos))
}

/// Keeps the catalogue behind the journal while the store is another S3: what lies on this machine is there again, as it was left,
/// when the engine is set back.
pub struct AtRest;

impl Follower for AtRest {
    fn kinds(&self) -> &'static [Kind] {
        &[Kind::Object]
    }

    fn replay(&self, _: Kind, _: Lsn, _: &[u8]) -> Result<(), String> {
        Ok(())
    }

    fn replayed(&self, _: Now) {}

    fn projects(&self, _: Kind) -> bool {
        true
    }

    fn project(&self, _: Kind, _: Lsn, payload: &[u8], _: &Catalogue, batch: &mut Batch) -> Result<(), String> {
        record::Change::project(payload, batch)
    }

    fn relocate(&self, _: Kind, _: Lsn, _: &[u8], _: Permit) -> Option<Commit> {
        None // the catalogue's checkpoint covers every record
    }
}

impl Follower for Artifacts {
    fn kinds(&self) -> &'static [Kind] {
        &[Kind::Object]
    }

    fn replay(&self, _: Kind, _: Lsn, _: &[u8]) -> Result<(), String> {
        Ok(()) // all state is in the catalogue
    }

    fn replayed(&self, _: Now) {
        match State::load(self.catalogue()) {
            Ok(state) => *self.0.state.lock() = state,
            Err(problem) => {
                // Buckets that are not loaded do not exist: every call is refused, nothing is overwritten.
                tracing::error!(problem, "could not read the buckets from the catalogue; run `backlot rebuild`");
            }
        }
    }

    fn projects(&self, _: Kind) -> bool {
        true
    }

    fn project(&self, _: Kind, _: Lsn, payload: &[u8], _: &Catalogue, batch: &mut Batch) -> Result<(), String> {
        record::Change::project(payload, batch)
    }

    fn relocate(&self, _: Kind, _: Lsn, _: &[u8], _: Permit) -> Option<Commit> {
        None // the catalogue's checkpoint covers every record
    }
}
