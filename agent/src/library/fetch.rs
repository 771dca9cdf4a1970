//! A model comes from the store: in ranges that arrive side by side, each written down when it is there, so that a crash costs the
//! ranges under way and no more.
//!
//! A file is hashed while it arrives, from its beginning as far as it has come without a gap, and gets its name only when
//! its SHA-256 is the manifest's.

use std::collections::BTreeSet;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use backlot_wire::model::{Manifest, ModelFile, file_key};
use futures::{StreamExt, TryStreamExt};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::sync::{Semaphore, watch};
use tracing::warn;

use super::entry::Entry;
use crate::store::{Store, StoreError};

/// Bytes of one range.
const RANGE_BYTES: u64 = 16 << 20;
/// Files that are worked on at once.
const FILES_AT_ONCE: usize = 4;

/// Fetches what is missing of a model into its entry. `told` counts the bytes that are there.
///
/// # Errors
/// [`StoreError`]: permanent when the store has not what the manifest says.
pub(super) async fn fetch(
    store: &Store,
    bucket: &str,
    manifest: &Manifest,
    entry: &Entry,
    parallel: usize,
    told: &watch::Sender<u64>,
) -> Result<(), StoreError> {
    let permits = Semaphore::new(parallel.max(1));
    let fetch = Fetch { store, bucket, model: &manifest.name, entry, permits: &permits, told };
    let mut seen = BTreeSet::new();
    let (first, again): (Vec<_>, Vec<_>) = manifest.files.iter().partition(|file| seen.insert(&file.sha256));
    let files: Vec<_> = first.into_iter().map(|file| fetch.file(file)).collect();
    futures::stream::iter(files).buffer_unordered(FILES_AT_ONCE).try_collect::<Vec<()>>().await?;
    for file in again {
        let of = manifest.files.iter().find(|first| first.sha256 == file.sha256).map(|first| entry.file(&first.path));
        let (from, to) = (of.unwrap_or_default(), entry.file(&file.path));
        local(
            "make",
            &to,
            make_folder(&to).and_then(|()| if to.exists() { Ok(()) } else { std::fs::hard_link(&from, &to) }),
        )?;
        told.send_modify(|bytes| *bytes += file.bytes);
    }
    Ok(())
}

fn local<T>(verb: &str, path: &Path, done: std::io::Result<T>) -> Result<T, StoreError> {
    done.map_err(|error| StoreError::transient(format!("{verb} {}: {error}", path.display())))
}

fn make_folder(file: &Path) -> std::io::Result<()> {
    file.parent().map_or(Ok(()), std::fs::create_dir_all)
}

struct Fetch<'a> {
    store: &'a Store,
    bucket: &'a str,
    model: &'a str,
    entry: &'a Entry,
    /// Ranges under way, of all files together.
    permits: &'a Semaphore,
    told: &'a watch::Sender<u64>,
}

impl Fetch<'_> {
    async fn file(&self, file: &ModelFile) -> Result<(), StoreError> {
        let target = self.entry.file(&file.path);
        // It got its name when it was compared.
        if std::fs::metadata(&target).is_ok_and(|there| there.len() == file.bytes) {
            self.told.send_modify(|bytes| *bytes += file.bytes);
            return Ok(());
        }
        loop {
            let part = local("make", &target, Part::open(self.entry.part(&file.sha256), file.bytes))?;
            let (resumed, place) = (!part.there.is_empty(), part.file.clone());
            let found = self.ranges(file, part).await?;
            if found == file.sha256 {
                let to = target.clone();
                let named = tokio::task::spawn_blocking(move || name(&place, &to)).await;
                return local("name", &target, named.unwrap_or_else(|error| Err(std::io::Error::other(error))));
            }
            Part::forget(&place);
            self.told.send_modify(|bytes| *bytes = bytes.saturating_sub(file.bytes));
            let (path, expected) = (&file.path, &file.sha256);
            if !resumed {
                return Err(StoreError::permanent(format!(
                    "the model `{}` is damaged in the store: `{path}` has SHA-256 {found}, its manifest says {expected}; \
                     `backlot model verify {}` looks at all of it, importing it anew mends it",
                    self.model, self.model
                )));
            }
            // What a crash had left may be at fault.
            warn!(path, found, expected, "a file that was fetched in two goes is fetched anew");
        }
    }

    /// Fetches the ranges that are missing, and gives the SHA-256 of all.
    async fn ranges(&self, file: &ModelFile, part: Part) -> Result<String, StoreError> {
        let key = file_key(self.model, &file.sha256);
        let Part { file: place, log, there, .. } = part;
        let (came, coming) = mpsc::channel();
        let hashing = {
            let (place, bytes) = (place.clone(), file.bytes);
            tokio::task::spawn_blocking(move || hash(&place, bytes, &coming))
        };
        let all = file.bytes.div_ceil(RANGE_BYTES);
        for index in &there {
            self.told.send_modify(|bytes| *bytes += length_of(*index, file.bytes));
            let _ = came.send(*index); // the other end tells its failure by its end
        }
        let log = Mutex::new(log);
        let one = |index: u64| {
            let (key, place, log, came) = (&key, &place, &log, came.clone());
            async move {
                let _permit = self.permits.acquire().await.map_err(|error| StoreError::transient(error.to_string()))?;
                let length = length_of(index, file.bytes);
                self.store.fetch_part((self.bucket, key), place, index * RANGE_BYTES, length).await?;
                local("write", place, log.lock().write_all(format!("{index}\n").as_bytes()))?;
                self.told.send_modify(|bytes| *bytes += length);
                let _ = came.send(index);
                Ok::<(), StoreError>(())
            }
        };
        let missing = (0..all).filter(|index| !there.contains(index));
        let fetched = futures::stream::iter(missing).map(one).buffer_unordered(64).try_collect::<Vec<()>>().await;
        drop(came);
        let hashed = hashing.await.map_err(|error| StoreError::transient(format!("hash {}: {error}", place.display())));
        fetched?;
        local("read", &place, hashed?)
    }
}

fn length_of(index: u64, bytes: u64) -> u64 {
    RANGE_BYTES.min(bytes.saturating_sub(index * RANGE_BYTES))
}

/// Gives a file that has come whole its name, once its bytes are on the disk.
fn name(place: &Path, target: &Path) -> std::io::Result<()> {
    std::fs::File::open(place)?.sync_all()?;
    make_folder(target)?;
    std::fs::rename(place, target)?;
    Part::forget(place);
    Ok(())
}

/// Hashes a file whose ranges come in any order. Ends early when no more will come.
fn hash(place: &Path, bytes: u64, coming: &mpsc::Receiver<u64>) -> std::io::Result<String> {
    let mut file = std::fs::File::open(place)?;
    let (mut sum, mut ahead, mut chunk) = (Sha256::new(), BTreeSet::new(), vec![0; 1 << 20]);
    for index in 0..bytes.div_ceil(RANGE_BYTES) {
        while !ahead.remove(&index) {
            match coming.recv() {
                Ok(came) => drop(ahead.insert(came)),
                Err(_) => return Err(std::io::Error::other("not all of it came")),
            }
        }
        file.seek(SeekFrom::Start(index * RANGE_BYTES))?;
        let mut left = length_of(index, bytes);
        while left > 0 {
            let want = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            file.read_exact(&mut chunk[..want])?;
            sum.update(&chunk[..want]);
            left -= want as u64;
        }
    }
    Ok(hex::encode(sum.finalize()))
}

/// A file that has not come whole, and beside it which of its ranges have.
struct Part {
    file: PathBuf,
    log: std::fs::File,
    there: BTreeSet<u64>,
}

impl Part {
    fn open(file: PathBuf, bytes: u64) -> std::io::Result<Self> {
        make_folder(&file)?;
        let log_file = Self::log_of(&file);
        let is_there = std::fs::metadata(&file).is_ok_and(|there| there.len() == bytes);
        let said = if is_there { std::fs::read_to_string(&log_file).unwrap_or_default() } else { String::new() };
        // A line that a crash has cut says nothing.
        let whole = said.rfind('\n').map_or("", |end| &said[..end]);
        let all = bytes.div_ceil(RANGE_BYTES);
        let there: BTreeSet<u64> =
            whole.lines().filter_map(|line| line.parse().ok()).filter(|index| *index < all).collect();
        let part = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&file)?;
        part.set_len(bytes)?;
        let mut log = std::fs::File::create(&log_file)?;
        log.write_all(there.iter().map(|index| format!("{index}\n")).collect::<String>().as_bytes())?;
        Ok(Self { file, log, there })
    }

    fn log_of(file: &Path) -> PathBuf {
        file.with_extension("ranges")
    }

    fn forget(file: &Path) {
        let _ = std::fs::remove_file(file);
        let _ = std::fs::remove_file(Self::log_of(file));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_that_came_before_a_crash_are_known_and_a_cut_line_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.part");
        let bytes = RANGE_BYTES * 20 + 5;
        let mut part = Part::open(file.clone(), bytes).unwrap();
        assert!(part.there.is_empty());
        part.log.write_all(b"3\n20\n99\n1").unwrap();
        drop(part);
        let again = Part::open(file.clone(), bytes).unwrap();
        assert_eq!(again.there, BTreeSet::from([3, 20]), "of `1` or `19` nobody knows, 99 is none");
        assert_eq!(length_of(20, bytes), 5);
        drop(again);
        assert!(Part::open(file.clone(), bytes + 1).unwrap().there.is_empty(), "another length is another file");
        Part::forget(&file);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_hash_that_waits_for_what_never_comes_ends() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.part");
        let bytes = RANGE_BYTES * 2;
        drop(Part::open(file.clone(), bytes).unwrap());
        let (came, coming) = mpsc::channel();
        came.send(1).unwrap();
        drop(came);
        assert!(hash(&file, bytes, &coming).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4))]
        #[test]
        fn ranges_in_any_order_hash_as_the_whole(order in Just((0..3_u64).collect::<Vec<_>>()).prop_shuffle(), tail in 1..999_usize) {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("x.part");
            let content: Vec<u8> = (0..RANGE_BYTES as usize * 2 + tail).map(|at| ((at * 31) >> 3) as u8).collect();
            std::fs::write(&file, &content).unwrap();
            let (came, coming) = mpsc::channel();
            order.iter().for_each(|index| came.send(*index).unwrap());
            prop_assert_eq!(hash(&file, content.len() as u64, &coming).unwrap(), hex::encode(Sha256::digest(&content)));
        }
    }
}
