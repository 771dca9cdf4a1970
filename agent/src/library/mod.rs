//! The models that jobs name: from the host's own folder, else from a cache on its disk that the bucket of models fills.
//!
//! A version of a model is fetched once, however many jobs wait for it, and is compared with its checksums before anybody sees it.
//! It stays until others need the room, the longest unused first; what a job under way uses is never taken away. While nobody
//! waits for it any more, a fetch ends and keeps what it has: the next one goes on from there.
//!
//! Absent on purpose: fetching ahead of any job, and sharing a cache between agents.

mod entry;
mod fetch;
mod shelf;
pub mod wanted;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use backlot_wire::model::{Manifest, manifest::MANIFEST_BYTES_MAX, manifest_key, version_key};
use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;
use parking_lot::Mutex;
use rustix::fs::{FlockOperation, flock, statvfs};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tracing::{Instrument, info, warn};

use self::entry::Entry;
use self::shelf::{NoRoom, Shelf};
use self::wanted::{Link, Wanted};
use crate::config::Config;
use crate::store::{Store, StoreError};

/// What the disk is left, whatever models need.
const RESERVE_BYTES: u64 = 1 << 30;
/// Most folders of links that are kept.
const VIEWS_MAX: usize = 1_000;

/// What is counted.
pub struct Meters {
    /// By outcome: `hit`, `miss`.
    pub wanted: Counter<u64>,
    pub fetched_bytes: Counter<u64>,
    pub fetch_seconds: Counter<f64>,
    pub evictions: Counter<u64>,
}

/// The models of this host.
pub struct Library {
    agent: String,
    /// The folder that the operator fills.
    folder: PathBuf,
    /// Empty: nothing is fetched.
    bucket: String,
    cache: PathBuf,
    parallel: usize,
    store: Arc<Store>,
    meters: Meters,
    state: Mutex<State>,
    _lock: Option<File>,
}

struct State {
    shelf: Shelf,
    /// Fetches under way, by digest.
    flights: HashMap<String, Weak<Flight>>,
    /// Folders of links, with those who use them.
    views: BTreeMap<String, usize>,
}

/// A fetch under way. It ends when nobody waits for it any more.
struct Flight {
    told: watch::Receiver<u64>,
    ended: watch::Receiver<Option<Result<(), StoreError>>>,
    task: AbortHandle,
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Models that are there and stay while this is kept.
#[derive(Default)]
pub struct Provided {
    /// The folder that the worker is to look in; `None`: the host's own.
    pub folder: Option<PathBuf>,
    /// What the job uses: `name@digest`, or `name` for one of the host's own folder.
    pub names: Vec<String>,
    _holds: Vec<Hold>,
}

impl Provided {
    /// Models that nobody has to fetch.
    #[must_use]
    pub fn named(names: Vec<String>) -> Self {
        Self { names, ..Self::default() }
    }
}

/// The right to find a version, or a folder of links, where it is.
struct Hold {
    library: Arc<Library>,
    what: Held,
}

enum Held {
    Version(String),
    View(String),
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.library.state.lock();
        match &self.what {
            Held::Version(digest) => state.shelf.release(digest),
            Held::View(view) => {
                if let Some(holders) = state.views.get_mut(view) {
                    *holders = holders.saturating_sub(1);
                }
            }
        }
    }
}

/// A version of a model, as the store or the cache knows it.
struct Version {
    digest: String,
    manifest: Manifest,
    bytes: Vec<u8>,
}

impl Library {
    /// Opens the cache, and takes up what an earlier run has left in it.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn open(config: &Config, scratch: &Path, store: Arc<Store>, meters: Meters) -> Result<Arc<Self>, String> {
        let cache = match config.models_cache.as_os_str().is_empty() {
            true => scratch.join("models"),
            false => std::path::absolute(&config.models_cache).unwrap_or_else(|_| config.models_cache.clone()),
        };
        let mut shelf = Shelf::new(config.models_cache_bytes);
        let mut lock = None;
        if !config.models_bucket.is_empty() {
            let failed = |error: std::io::Error| format!("`models_cache` {}: {error}", cache.display());
            std::fs::create_dir_all(&cache).map_err(failed)?;
            let file = File::create(cache.join("lock")).map_err(failed)?;
            flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
                format!("`models_cache` {} is in use by another agent; each needs its own", cache.display())
            })?;
            lock = Some(file);
            let _ = std::fs::remove_dir_all(cache.join("views"));
            std::fs::create_dir_all(cache.join("views")).map_err(failed)?;
            for left in entry::load(&cache.join("entries")).map_err(failed)? {
                shelf.put(&left.digest, &left.name, left.bytes, left.whole);
            }
        }
        let library = Arc::new(Self {
            agent: config.name.clone(),
            folder: std::path::absolute(&config.models).unwrap_or_else(|_| config.models.clone()),
            bucket: config.models_bucket.clone(),
            cache,
            parallel: config.models_parallel,
            store,
            meters,
            state: Mutex::new(State { shelf, flights: HashMap::new(), views: BTreeMap::new() }),
            _lock: lock,
        });
        // The bound may be smaller than it was.
        if let Err(problem) = library.make_room("", 0) {
            warn!(?problem, "the cache of models has more than it may");
        }
        Ok(library)
    }

    /// Bytes that the cache has, or has given away to fetches under way.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.state.lock().shelf.bytes()
    }

    /// Versions in the cache, as `name@digest`, the last used first.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.state.lock().shelf.names()
    }

    /// Sees to it that the models which a job names are on this host. `told` hears of bytes that are there and bytes in all, while
    /// something is fetched.
    ///
    /// # Errors
    /// [`StoreError`]: permanent for a model that is nowhere or damaged, transient for a store or a disk that may be better later.
    pub async fn provide(
        self: &Arc<Self>,
        kind: &str,
        parameters: &Map<String, Value>,
        told: &mut (dyn FnMut(u64, u64) + Send),
    ) -> Result<Provided, StoreError> {
        let wanted = wanted::of(kind, parameters);
        let local: Vec<Option<Vec<Link>>> = wanted.iter().map(|one| one.local(&self.folder, parameters)).collect();
        if self.bucket.is_empty() || local.iter().all(Option::is_some) {
            let names = wanted.into_iter().map(|one| one.name).collect();
            return Ok(Provided::named(names));
        }
        let (mut names, mut links, mut holds) = (Vec::new(), Vec::new(), Vec::new());
        for (one, local) in wanted.iter().zip(local) {
            if let Some(found) = local {
                names.push(one.name.clone());
                links.extend(found);
                continue;
            }
            let version = self.find(one).await?;
            holds.push(self.hold(&version, told).await?);
            names.push(format!("{}@{}", one.name, version.digest));
            let files = self.entry(&version.digest).files();
            links.extend(one.cached(&version.manifest, &files).map_err(StoreError::permanent)?);
        }
        let (folder, hold) = self.view(&links)?;
        holds.push(hold);
        Ok(Provided { folder: Some(folder), names, _holds: holds })
    }

    fn entry(&self, digest: &str) -> Entry {
        Entry::new(&self.cache.join("entries"), digest)
    }

    /// Which version a job means. A version that is named and is there needs no word of the store.
    async fn find(&self, wanted: &Wanted) -> Result<Version, StoreError> {
        let name = &wanted.name;
        if let Some(asked) = &wanted.digest {
            let here = self.state.lock().shelf.whole(name, asked);
            let here = here.and_then(|digest| {
                let (manifest, bytes) = self.entry(&digest).manifest()?;
                Some(Version { digest, manifest, bytes })
            });
            if let Some(version) = here {
                return Ok(version);
            }
        }
        let bucket = &self.bucket;
        let nowhere = |what: String| {
            StoreError::permanent(format!(
                "{what} is neither in {} on this host nor in s3://{bucket}; `backlot model import` puts it there, `backlot model list` says what there is",
                self.folder.display()
            ))
        };
        let key = match &wanted.digest {
            None => manifest_key(name),
            Some(asked) => match self.store.keys(bucket, &version_key(name, asked)).await?.as_slice() {
                [] => return Err(nowhere(format!("the version {asked} of the model `{name}`"))),
                [key] => key.clone(),
                _ => {
                    let problem =
                        format!("several versions of the model `{name}` begin with {asked}; name one by more digits");
                    return Err(StoreError::permanent(problem));
                }
            },
        };
        let bytes = self.store.read(bucket, &key, MANIFEST_BYTES_MAX).await?;
        let bytes = bytes.ok_or_else(|| nowhere(format!("the model `{name}`")))?.to_vec();
        let digest = hex::encode(Sha256::digest(&bytes));
        let unfit = |problem: &dyn std::fmt::Display| StoreError::permanent(format!("s3://{bucket}/{key}: {problem}"));
        if wanted.digest.as_ref().is_some_and(|asked| !digest.starts_with(asked.as_str())) {
            return Err(unfit(&format!("the manifest is damaged: its SHA-256 is {digest}")));
        }
        let manifest = Manifest::parse(&bytes).map_err(|error| unfit(&error))?;
        if manifest.name != *name {
            return Err(unfit(&format!("the manifest is of the model `{}`", manifest.name)));
        }
        Ok(Version { digest, manifest, bytes })
    }

    /// Holds a version, and waits until it is there.
    async fn hold(
        self: &Arc<Self>,
        version: &Version,
        told: &mut (dyn FnMut(u64, u64) + Send),
    ) -> Result<Hold, StoreError> {
        let digest = &version.digest;
        let (hold, flight) = self.begin(version)?;
        let Some(flight) = flight else {
            let _ = self.entry(digest).touch();
            return Ok(hold);
        };
        let (mut bytes, mut ended) = (flight.told.clone(), flight.ended.clone());
        let all = version.manifest.bytes();
        loop {
            let now = *bytes.borrow_and_update();
            told(now, all);
            tokio::select! {
                changed = bytes.changed() => if changed.is_err() { break },
                _ = ended.wait_for(Option::is_some) => break,
            }
        }
        let result = ended.wait_for(Option::is_some).await.ok().and_then(|result| result.clone());
        match result {
            Some(Ok(())) => {
                told(all, all);
                Ok(hold)
            }
            Some(Err(error)) => Err(error),
            None => {
                Err(StoreError::transient(format!("the fetch of the model `{}` ended early", version.manifest.name)))
            }
        }
    }

    /// Takes a hold of a version, and joins or begins the fetch of one that is not whole.
    fn begin(self: &Arc<Self>, version: &Version) -> Result<(Hold, Option<Arc<Flight>>), StoreError> {
        let (digest, name, bytes) = (&version.digest, &version.manifest.name, version.manifest.bytes());
        let mut state = self.state.lock();
        let hold = |state: &mut State| {
            state.shelf.hold(digest);
            Hold { library: Arc::clone(self), what: Held::Version(digest.clone()) }
        };
        let is_here = state.shelf.is_whole(digest) && self.entry(digest).has_all(&version.manifest);
        let outcome = if is_here { "hit" } else { "miss" };
        self.meters.wanted.add(1, &[self.label(), KeyValue::new("outcome", outcome)]);
        if is_here {
            return Ok((hold(&mut state), None));
        }
        if let Some(flight) = state.flights.get(digest).and_then(Weak::upgrade) {
            return Ok((hold(&mut state), Some(flight)));
        }
        state.shelf.damaged(digest); // of what is whole, somebody has removed files
        self.make_room_in(&mut state, digest, bytes).map_err(|problem| no_room(name, bytes, &problem))?;
        if !state.shelf.is_held(digest) {
            state.shelf.put(digest, name, bytes, false);
        }
        let begun = self.entry(digest).begin(&version.bytes);
        begun.map_err(|error| StoreError::transient(format!("make room for the model `{name}`: {error}")))?;
        let (told, telling) = watch::channel(0);
        let (end, ended) = watch::channel(None);
        let task =
            tokio::spawn(Arc::clone(self).fly(digest.clone(), version.manifest.clone(), told, end).in_current_span());
        let flight = Arc::new(Flight { told: telling, ended, task: task.abort_handle() });
        state.flights.retain(|_, flight| flight.strong_count() > 0);
        state.flights.insert(digest.clone(), Arc::downgrade(&flight));
        Ok((hold(&mut state), Some(flight)))
    }

    /// One fetch, to its end.
    async fn fly(
        self: Arc<Self>,
        digest: String,
        manifest: Manifest,
        told: watch::Sender<u64>,
        end: watch::Sender<Option<Result<(), StoreError>>>,
    ) {
        let (name, bytes, began) = (&manifest.name, manifest.bytes(), Instant::now());
        let entry = self.entry(&digest);
        info!(model = name, digest, bytes, "a model is fetched");
        let fetched = fetch::fetch(&self.store, &self.bucket, &manifest, &entry, self.parallel, &told).await;
        let whole = fetched.and_then(|()| {
            let complete = entry.complete();
            complete.map_err(|error| StoreError::transient(format!("finish the model `{name}`: {error}")))
        });
        let labels = [self.label()];
        match &whole {
            Ok(()) => {
                let seconds = began.elapsed().as_secs_f64();
                self.meters.fetched_bytes.add(bytes, &labels);
                self.meters.fetch_seconds.add(seconds, &labels);
                self.state.lock().shelf.completed(&digest);
                info!(model = name, digest, bytes, seconds, "a model has come");
            }
            Err(error) => warn!(model = name, digest, %error, "a model has not come"),
        }
        self.state.lock().flights.remove(&digest);
        end.send_replace(Some(whole));
    }

    fn label(&self) -> KeyValue {
        KeyValue::new("agent", self.agent.clone())
    }

    fn make_room(&self, digest: &str, bytes: u64) -> Result<(), NoRoom> {
        self.make_room_in(&mut self.state.lock(), digest, bytes)
    }

    fn make_room_in(&self, state: &mut State, digest: &str, bytes: u64) -> Result<(), NoRoom> {
        // A disk that cannot be asked is taken to have room: writing to it says more.
        let free = statvfs(&self.cache).map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        let free = if bytes == 0 { u64::MAX } else { free.saturating_sub(RESERVE_BYTES) };
        for going in state.shelf.room(digest, bytes, free)? {
            self.entry(&going).remove();
            state.shelf.remove(&going);
            self.meters.evictions.add(1, &[self.label()]);
            info!(digest = going, "a model leaves the cache to make room");
        }
        Ok(())
    }

    /// A folder with links to what a job uses. The same models have the same folder, so that a worker knows what it has loaded.
    fn view(self: &Arc<Self>, links: &[Link]) -> Result<(PathBuf, Hold), StoreError> {
        let failed = |error: std::io::Error| StoreError::transient(format!("show models to the worker: {error}"));
        let mut sum = Sha256::new();
        for (to, from) in links {
            sum.update(format!("{}\0{}\0", to.display(), from.display()));
        }
        let name = hex::encode(&sum.finalize()[..16]);
        let views = self.cache.join("views");
        let place = views.join(&name);
        let mut state = self.state.lock();
        if !state.views.contains_key(&name) {
            if state.views.len() >= VIEWS_MAX {
                state.views.retain(|name, holders| *holders > 0 || std::fs::remove_dir_all(views.join(name)).is_err());
            }
            let new = views.join("new");
            let _ = std::fs::remove_dir_all(&new);
            std::fs::create_dir_all(&new).map_err(failed)?;
            for (to, from) in links {
                let to = new.join(to);
                if let Some(above) = to.parent() {
                    std::fs::create_dir_all(above).map_err(failed)?;
                }
                match std::os::unix::fs::symlink(from, &to) {
                    // Two models may each bring CLIP's words; they are the same.
                    Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                    made => made.map_err(failed)?,
                }
            }
            let _ = std::fs::remove_dir_all(&place);
            std::fs::rename(&new, &place).map_err(failed)?;
        }
        *state.views.entry(name.clone()).or_default() += 1;
        Ok((place, Hold { library: Arc::clone(self), what: Held::View(name) }))
    }
}

fn no_room(name: &str, bytes: u64, problem: &NoRoom) -> StoreError {
    match problem {
        NoRoom::TooLarge { bytes_max } => StoreError::permanent(format!(
            "the model `{name}` has {bytes} bytes, the cache of models may have {bytes_max} (`models_cache_bytes`)"
        )),
        NoRoom::InUse { held_bytes, bytes_max } => StoreError::transient(format!(
            "the model `{name}` has {bytes} bytes, and jobs under way use {held_bytes} of the {bytes_max} that the cache of models may have (`models_cache_bytes`)"
        )),
        NoRoom::Disk { free_bytes } => StoreError::transient(format!(
            "the model `{name}` has {bytes} bytes, the disk of the cache has {free_bytes} to give beside a reserve of {RESERVE_BYTES}"
        )),
    }
}
