//! Windows on disk: their folders, the one that is open for writing, those that are set aside.
//!
//! All chains stand in one folder, told apart by how a window's name begins: `w` for what arrived near its own
//! moment, `s` for strays, either with a dot and the name of its class, if it is not the default one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::class::Chain;
use crate::cold::{Loose, Manifest, Moved};
use crate::index::{IndexFault, Purpose, Window, Writer};
use crate::summary::{Meta, Summary, read_meta};
use crate::{Options, WindowsError};

/// Folder of the windows that did not read.
const ASIDE: &str = "aside";
const REASON_FILE: &str = "reason.json";
/// A folder that is on its way out.
const GONE_SUFFIX: &str = ".gone";

/// One window's folder, opened when somebody searches it.
pub(crate) struct Folder {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) chain: Chain,
    opened: Mutex<Option<Window>>,
    /// Set where its index lies far away.
    pub(crate) moved: Option<Moved>,
    /// Number of the search that used it last.
    pub(crate) used: AtomicU64,
}

impl Folder {
    pub(crate) fn new(dir: &Path, name: String, chain: Chain) -> Self {
        Self { path: dir.join(&name), name, chain, opened: Mutex::new(None), moved: None, used: AtomicU64::new(0) }
    }

    /// The same window, whose index lies far away.
    pub(crate) fn moved(dir: &Path, name: String, chain: Chain, moved: Moved) -> Self {
        Self { moved: Some(moved), ..Self::new(dir, name, chain) }
    }

    /// The window, opened if it was not. One that is far away is opened without the lock: it may take a while, and others only want to know
    /// whether it is open.
    pub(crate) fn window(&self) -> Result<Window, IndexFault> {
        let mut opened = lock(&self.opened);
        if let Some(window) = &*opened {
            return Ok(window.clone());
        }
        let window = match &self.moved {
            None => Window::open(&self.path, Purpose::Window)?,
            Some(moved) => {
                drop(opened);
                let window = moved.open(&self.path)?;
                opened = lock(&self.opened);
                window
            }
        };
        *opened = Some(window.clone());
        Ok(window)
    }

    fn is_named_far(&self, name: &str) -> bool {
        self.moved.as_ref().is_some_and(|moved| moved.manifest.name == name)
    }

    /// Bytes far away.
    pub(crate) fn cold_bytes(&self) -> u64 {
        self.moved.as_ref().map_or(0, |moved| moved.manifest.bytes)
    }

    pub(crate) fn is_opened(&self) -> bool {
        lock(&self.opened).is_some()
    }

    /// Lets go of the files. Searches under way keep theirs.
    pub(crate) fn shut(&self) {
        *lock(&self.opened) = None;
    }

    /// Lets go of what searches have touched of the files, and stays open. To be called while nobody commits: what it shows is the last commit.
    pub(crate) fn map_anew(&self) -> Result<(), IndexFault> {
        let mut opened = lock(&self.opened);
        if let Some(window) = &mut *opened {
            *window = window.anew()?;
        }
        Ok(())
    }

    /// Bytes on disk.
    pub(crate) fn disk_bytes(&self) -> u64 {
        let Ok(entries) = std::fs::read_dir(&self.path) else { return 0 };
        entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|meta| meta.len()).sum()
    }

    pub(crate) fn error(&self, verb: &'static str, problem: impl ToString) -> WindowsError {
        WindowsError::Index { verb, window: self.name.clone(), problem: problem.to_string() }
    }

    pub(crate) fn unwritten(&self, source: std::io::Error) -> WindowsError {
        WindowsError::Io { verb: "write", path: self.path.clone(), source }
    }

    /// What it holds as of the last commit, and whether it rests.
    pub(crate) fn meta(&self) -> Result<Meta, String> {
        read_meta(&self.path)?.ok_or_else(|| "has no meta.json".to_owned())
    }
}

/// A window as the searches see it.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) folder: Arc<Folder>,
    pub(crate) summary: Summary,
    /// A closed window rests once it was merged.
    pub(crate) rests: bool,
}

/// A window that did not read, and what is known of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Aside {
    pub(crate) name: String,
    pub(crate) reason: String,
    pub(crate) summary: Option<Summary>,
}

/// What was found in the folder.
pub(crate) struct Found {
    pub(crate) entries: Vec<Entry>,
    pub(crate) asides: Vec<Aside>,
    /// Those of `asides` that were set aside just now.
    pub(crate) damaged: Vec<Damaged>,
    /// Names far away that no window has.
    pub(crate) loose: Vec<Loose>,
}

/// A window that was set aside, and where the first of its documents stood.
pub(crate) struct Damaged {
    pub(crate) chain: Chain,
    pub(crate) first_seq: u64,
}

impl Damaged {
    pub(crate) fn of(folder: &Folder) -> Option<Self> {
        let (_, seq) = folder.name.rsplit_once('-')?;
        Some(Self { chain: folder.chain.clone(), first_seq: u64::from_str_radix(seq, 16).ok()? })
    }
}

/// Reads all windows of the folder, removes what was half made or half removed, and sets aside what does not read.
pub(crate) fn list(options: &Options) -> Result<Found, WindowsError> {
    let dir = &options.dir;
    std::fs::create_dir_all(dir).map_err(io("make", dir))?;
    let mut found = Found { entries: Vec::new(), asides: list_asides(dir)?, damaged: Vec::new(), loose: Vec::new() };
    for entry in std::fs::read_dir(dir).map_err(io("list", dir))? {
        let entry = entry.map_err(io("list", dir))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(GONE_SUFFIX) {
            std::fs::remove_dir_all(entry.path()).map_err(io("remove", &entry.path()))?;
            continue;
        }
        let Some(chain) = Chain::of_window(&name) else { continue };
        let mut folder = Folder::new(dir, name, chain);
        match Manifest::read(&folder.path) {
            Ok(None) => {}
            Ok(Some(manifest)) => {
                manifest.remove_local(&folder.path); // a crash may have left them
                folder.moved = Some(Moved::new(manifest, options.cold.clone()));
            }
            Err(reason) => {
                found.set_aside(dir, &folder, None, reason)?;
                continue;
            }
        }
        let folder = Arc::new(folder);
        match read_meta(&folder.path) {
            Ok(Some(Meta { summary, rests })) => {
                let rests = rests || folder.moved.is_some();
                found.entries.push(Entry { folder, summary, rests });
            }
            Ok(None) if is_bare(&folder.path) => remove(&folder.path)?,
            Ok(None) => found.set_aside(dir, &folder, None, "has no meta.json".to_owned())?,
            Err(reason) => found.set_aside(dir, &folder, None, reason)?,
        }
    }
    found.entries.sort_by(|a, b| a.folder.name.cmp(&b.folder.name));
    found.loose = Loose::list(dir);
    found.loose.retain(|loose| {
        let is_bound = found.entries.iter().any(|entry| entry.folder.is_named_far(&loose.name));
        if is_bound && let Err(error) = loose.settle(dir) {
            tracing::warn!(name = loose.name, %error, "a name far away that is a window's is noted as loose still");
        }
        !is_bound
    });
    Ok(found)
}

impl Found {
    pub(crate) fn set_aside(
        &mut self,
        dir: &Path,
        folder: &Folder,
        summary: Option<Summary>,
        reason: String,
    ) -> Result<(), WindowsError> {
        self.asides.push(set_aside(dir, folder, summary, reason)?);
        self.damaged.extend(Damaged::of(folder));
        Ok(())
    }
}

/// Whether nothing was ever committed here: making it had only begun.
fn is_bare(path: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(path) else { return false };
    !entries.flatten().any(|entry| {
        let name = entry.file_name();
        Path::new(&name).extension().is_some_and(|extension| extension == "store" || extension == "idx")
    })
}

pub(crate) fn list_asides(dir: &Path) -> Result<Vec<Aside>, WindowsError> {
    let path = dir.join(ASIDE);
    let entries = match std::fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io("list", &path)(error)),
    };
    let read = |entry: std::fs::DirEntry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        let note = std::fs::read(entry.path().join(REASON_FILE)).ok();
        let note = note.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        note.unwrap_or(Aside { name, reason: "set aside earlier".to_owned(), summary: None })
    };
    Ok(entries.flatten().map(read).collect())
}

/// Moves a window out of the way, with a note that says why.
pub(crate) fn set_aside(
    dir: &Path,
    folder: &Folder,
    summary: Option<Summary>,
    reason: String,
) -> Result<Aside, WindowsError> {
    let aside = dir.join(ASIDE);
    std::fs::create_dir_all(&aside).map_err(io("make", &aside))?;
    let target = aside.join(&folder.name);
    std::fs::rename(&folder.path, &target).map_err(io("set aside", &folder.path))?;
    let note = Aside { name: folder.name.clone(), reason, summary };
    tracing::error!(window = %target.display(), reason = note.reason, "set a damaged window aside; the rest stays searchable");
    let text = serde_json::to_vec_pretty(&note).unwrap_or_default();
    std::fs::write(target.join(REASON_FILE), text).map_err(io("write", &target))?;
    sync(dir)?;
    Ok(note)
}

/// Removes a folder so that half of it is never taken for a window.
pub(crate) fn remove(path: &Path) -> Result<(), WindowsError> {
    let mut gone = path.as_os_str().to_owned();
    gone.push(GONE_SUFFIX);
    std::fs::rename(path, &gone).map_err(io("remove", path))?;
    sync(path.parent().unwrap_or(path))?; // it is not to come back when what it refers to is gone
    std::fs::remove_dir_all(&gone).map_err(io("remove", path))
}

/// What a commit says beside its documents; see [`Summary`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct CommitAt {
    pub(crate) journal: u32,
    pub(crate) applied: u64,
    pub(crate) whole: u64,
    pub(crate) classes: u64,
    /// `None`: as before.
    pub(crate) retention_ms: Option<u64>,
    pub(crate) closed: bool,
}

/// The window that takes documents.
pub(crate) struct Open {
    pub(crate) folder: Arc<Folder>,
    writer: Writer,
    /// With what is not committed yet.
    pub(crate) summary: Summary,
    pub(crate) dirty: bool,
}

impl Open {
    /// Makes a new window whose first document arrived at `arrived_ms` and stands at `seq`.
    pub(crate) fn create(options: &Options, chain: &Chain, arrived_ms: u64, seq: u64) -> Result<Self, WindowsError> {
        let name = format!("{}-{arrived_ms:014}-{seq:016x}", chain.prefix());
        let folder = Folder::new(&options.dir, name, chain.clone());
        std::fs::create_dir_all(&folder.path).map_err(io("make", &folder.path))?;
        let window = Window::create(&folder.path, Purpose::Window).map_err(|error| folder.error("make", error))?;
        sync(&options.dir)?;
        let writer = window.writer(options.writer_bytes).map_err(|error| folder.error("open", error))?;
        *lock(&folder.opened) = Some(window);
        Ok(Self { folder: Arc::new(folder), writer, summary: Summary::empty(), dirty: false })
    }

    /// Goes on with a window that was not closed.
    pub(crate) fn resume(options: &Options, entry: &Entry) -> Result<Self, WindowsError> {
        let folder = Arc::clone(&entry.folder);
        let window = folder.window().map_err(|fault| folder.error("open", fault))?;
        let writer = window.writer(options.writer_bytes).map_err(|error| folder.error("open", error))?;
        Ok(Self { folder, writer, summary: entry.summary.clone(), dirty: false })
    }

    pub(crate) fn add(&mut self, document: &crate::Document, arrived_ms: u64) -> Result<(), WindowsError> {
        self.writer.add(document).map_err(|error| self.folder.error("write", error))?;
        self.summary.count(document, arrived_ms);
        self.dirty = true;
        Ok(())
    }

    /// Makes everything durable.
    pub(crate) fn commit(&mut self, at: CommitAt) -> Result<(), WindowsError> {
        let CommitAt { journal, applied, whole, classes, retention_ms, closed } = at;
        self.summary = Summary {
            journal,
            applied,
            whole: Some(whole),
            classes,
            retention_ms: retention_ms.or(self.summary.retention_ms),
            closed,
            ..self.summary.clone()
        };
        self.writer.commit(&mut self.summary).map_err(|error| self.folder.error("commit", error))?;
        self.dirty = false;
        Ok(())
    }

    /// Lets new searches see what was committed.
    pub(crate) fn refresh(&self) -> Result<(), WindowsError> {
        let window = self.folder.window().map_err(|fault| self.folder.error("open", fault))?;
        window.refresh().map_err(|error| self.folder.error("refresh", error))
    }

    pub(crate) fn finish(self) -> Result<(), WindowsError> {
        self.writer.finish().map_err(|error| self.folder.error("finish", error))
    }

    pub(crate) fn entry(&self) -> Entry {
        Entry { folder: Arc::clone(&self.folder), summary: self.summary.clone(), rests: false }
    }
}

pub(crate) fn sync(dir: &Path) -> Result<(), WindowsError> {
    std::fs::File::open(dir).and_then(|file| file.sync_all()).map_err(io("sync", dir))
}

fn io(verb: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> WindowsError {
    let path = path.to_owned();
    move |source| WindowsError::Io { verb, path, source }
}

/// A poisoned lock guards plain values here that are whole between any two statements.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn next_use(folder: &Folder, number: u64) {
    folder.used.store(number, Ordering::Relaxed);
}
