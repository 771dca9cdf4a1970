//! Pack files: small objects one after the other, made durable in groups by one committer.
//!
//! An entry is a header, the bytes, and zeros up to the next 512. All entries that wait when the committer is free
//! share one write and one `fdatasync`, so that a 4 KiB object costs neither a file nor a sync of its own. What lies
//! behind the last durable entry after a crash is dead space: nothing refers to it, and the next entry is appended behind it.
//! A group whose sync failed is refused and its pack is not written again.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::blobs::{read_up_to, sync_folder};
use super::checksums::Verifier;
use super::label::{self, Found, Label};

/// Entries begin at multiples of this, so that a reader finds the next one behind damage.
const ALIGNMENT: u64 = 512;
/// Most entries that wait for the committer; a further put waits before it hands its bytes over.
const WAITING_MAX: usize = 1024;
/// Most bytes written and synced as one group.
const GROUP_BYTES_MAX: usize = 4 << 20;

struct Entry {
    label: Label,
    data: Bytes,
    reply: oneshot::Sender<io::Result<Packed>>,
}

/// Where an entry's bytes lie. While it lives, its pack is neither compacted nor removed.
pub(super) struct Packed {
    pub(super) pack: Uuid,
    pub(super) offset: u64,
    settling: Arc<Mutex<HashMap<Uuid, usize>>>,
}

impl Drop for Packed {
    fn drop(&mut self) {
        let mut settling = self.settling.lock();
        if let Some(count) = settling.get_mut(&self.pack) {
            *count -= 1;
            if *count == 0 {
                settling.remove(&self.pack);
            }
        }
    }
}

/// The folder of packs and its committer. Cheap to clone; the committer ends with the last clone.
#[derive(Clone)]
pub(super) struct Packs {
    dir: Arc<PathBuf>,
    entries: mpsc::Sender<Entry>,
    shared: Shared,
}

#[derive(Clone, Default)]
struct Shared {
    /// Entries durable or about to be whose row is not yet in the catalogue, by pack.
    settling: Arc<Mutex<HashMap<Uuid, usize>>>,
    current: Arc<Mutex<Option<Uuid>>>,
}

impl Packs {
    /// Opens or makes the folder and starts the committer. `fresh` makes the ids of new packs, each above all before it.
    pub(super) fn open(dir: PathBuf, pack_bytes: u64, fresh: impl Fn() -> Uuid + Send + 'static) -> io::Result<Self> {
        std::fs::create_dir_all(&dir)?;
        let shared = Shared::default();
        let mut committer =
            Committer { dir: dir.clone(), pack_bytes, fresh: Box::new(fresh), shared: shared.clone(), open: None };
        if let Some(last) = list(&dir)?.into_iter().max() {
            committer.reopen(last)?;
        }
        let (entries, waiting) = mpsc::channel(WAITING_MAX);
        std::thread::Builder::new().name("packs".into()).spawn(move || committer.run(waiting))?;
        Ok(Self { dir: Arc::new(dir), entries, shared })
    }

    /// Makes `data` durable in a pack.
    pub(super) async fn put(&self, label: Label, data: Bytes) -> io::Result<Packed> {
        let (reply, answer) = oneshot::channel();
        let gone = || io::Error::other("the pack committer has ended");
        self.entries.send(Entry { label, data, reply }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Reads `size` bytes at `offset` and verifies them.
    pub(super) fn read(&self, pack: Uuid, offset: u64, size: u64, crc: u64) -> io::Result<Result<Bytes, String>> {
        let file = File::open(self.path(pack))?;
        let mut buffer = vec![0; usize::try_from(size).map_err(io::Error::other)?];
        let bytes = read_up_to(&file, &mut buffer, offset)?;
        if bytes < buffer.len() {
            return Ok(Err(format!("pack {pack} ends {} bytes early", buffer.len() - bytes)));
        }
        let mut verifier = Verifier::default();
        verifier.update(&buffer);
        if verifier.finish() != crc {
            return Ok(Err(format!("checksum of {size} bytes at {offset} in pack {pack} does not match")));
        }
        Ok(Ok(buffer.into()))
    }

    pub(super) fn path(&self, pack: Uuid) -> PathBuf {
        path(&self.dir, pack)
    }

    /// All packs but the one being written and those with entries that are settling, with their sizes.
    pub(super) fn at_rest(&self) -> io::Result<Vec<(Uuid, u64)>> {
        // The list comes first: an entry that settles meanwhile is in the current pack, or counted.
        let listed = list(&self.dir)?;
        let current = *self.shared.current.lock();
        let mut packs = Vec::new();
        for pack in listed {
            if Some(pack) != current && !self.shared.settling.lock().contains_key(&pack) {
                packs.push((pack, std::fs::metadata(self.path(pack))?.len()));
            }
        }
        Ok(packs)
    }

    /// All packs.
    pub(super) fn all(&self) -> io::Result<Vec<Uuid>> {
        list(&self.dir)
    }

    /// Removes a pack that holds no object's bytes.
    pub(super) fn remove(&self, pack: Uuid) -> io::Result<()> {
        std::fs::remove_file(self.path(pack))
    }

    /// The label of the entry whose data begins at `offset`.
    pub(super) fn label_before(&self, pack: Uuid, offset: u64) -> io::Result<Result<Found, String>> {
        let file = File::open(self.path(pack))?;
        let begin = offset.saturating_sub(super::blobs::HEADER_BYTES);
        let mut buffer = vec![0; usize::try_from(offset - begin).map_err(io::Error::other)?];
        if read_up_to(&file, &mut buffer, begin)? < buffer.len() {
            return Ok(Err(format!("pack {pack} ends before {offset}")));
        }
        Ok(label_at_end(&buffer, begin))
    }

    /// Each whole entry of a pack with the offset of its data, found by their headers. Damage is skipped.
    pub(super) fn entries(&self, pack: Uuid) -> io::Result<Vec<(u64, Found)>> {
        let file = File::open(self.path(pack))?;
        let end = file.metadata()?.len();
        walk(end, |buffer, position| read_up_to(&file, buffer, position))
    }
}

/// The header in `buffer` that ends with its last byte. `begin` is where the buffer lies in its pack.
fn label_at_end(buffer: &[u8], begin: u64) -> Result<Found, String> {
    let mut start = usize::try_from(align(begin) - begin).unwrap_or(buffer.len());
    while start < buffer.len() {
        if let Ok(found) = label::read(&buffer[start..])
            && start + found.header_bytes == buffer.len()
        {
            return Ok(found);
        }
        start += ALIGNMENT as usize;
    }
    Err("it has no readable header".into())
}

/// The entries of a pack of `end` bytes. `read` fills a buffer from a position, as far as there are bytes.
pub(super) fn walk(end: u64, read: impl Fn(&mut [u8], u64) -> io::Result<usize>) -> io::Result<Vec<(u64, Found)>> {
    let mut found = Vec::new();
    let mut position = 0;
    let mut buffer = vec![0; super::blobs::HEADER_BYTES as usize];
    while position < end {
        let bytes = read(&mut buffer, position)?;
        let entry = label::read(&buffer[..bytes]).ok().and_then(|entry| {
            let offset = position + entry.header_bytes as u64;
            let entry_end = offset.checked_add(entry.data_bytes).filter(|entry_end| *entry_end <= end)?;
            Some((offset, entry_end, entry))
        });
        match entry {
            Some((offset, entry_end, entry)) => {
                position = align(entry_end);
                found.push((offset, entry));
            }
            None => position += ALIGNMENT,
        }
    }
    Ok(found)
}

fn path(dir: &Path, pack: Uuid) -> PathBuf {
    dir.join(format!("{}.pack", pack.simple()))
}

fn list(dir: &Path) -> io::Result<Vec<Uuid>> {
    let mut packs = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name();
        match name.to_str().and_then(|name| name.strip_suffix(".pack")).and_then(|id| Uuid::parse_str(id).ok()) {
            Some(id) => packs.push(id),
            None => tracing::warn!(?name, "a file among the packs is not ours"),
        }
    }
    Ok(packs)
}

fn align(position: u64) -> u64 {
    position.next_multiple_of(ALIGNMENT)
}

struct Committer {
    dir: PathBuf,
    pack_bytes: u64,
    fresh: Box<dyn Fn() -> Uuid + Send>,
    shared: Shared,
    open: Option<Open>,
}

struct Open {
    id: Uuid,
    file: File,
    end: u64,
}

impl Committer {
    fn run(mut self, mut waiting: mpsc::Receiver<Entry>) {
        while let Some(first) = waiting.blocking_recv() {
            let mut bytes = first.data.len();
            let mut group = vec![first];
            while bytes < GROUP_BYTES_MAX {
                let Ok(entry) = waiting.try_recv() else { break };
                bytes += entry.data.len();
                group.push(entry);
            }
            self.commit(group);
        }
    }

    fn commit(&mut self, group: Vec<Entry>) {
        match self.write(&group) {
            Ok((pack, offsets)) => {
                for (entry, offset) in group.into_iter().zip(offsets) {
                    // Each counts itself before the answer leaves; an asker that has gone drops it, which uncounts it.
                    *self.shared.settling.lock().entry(pack).or_default() += 1;
                    let packed = Packed { pack, offset, settling: self.shared.settling.clone() };
                    let _ = entry.reply.send(Ok(packed));
                }
            }
            Err(error) => {
                tracing::error!(%error, entries = group.len(), "could not write a pack; its puts are refused");
                // What this file now holds behind its last durable entry is not known.
                self.leave();
                for entry in group {
                    let copy = error
                        .raw_os_error()
                        .map_or_else(|| io::Error::new(error.kind(), error.to_string()), io::Error::from_raw_os_error);
                    let _ = entry.reply.send(Err(copy));
                }
            }
        }
    }

    /// Writes and syncs a group; gives the pack and where each entry's data lies in it.
    fn write(&mut self, group: &[Entry]) -> io::Result<(Uuid, Vec<u64>)> {
        if self.open.as_ref().is_some_and(|open| open.end >= self.pack_bytes) {
            self.leave();
        }
        let open = match &mut self.open {
            Some(open) => open,
            None => {
                let id = (self.fresh)();
                let file = OpenOptions::new().read(true).write(true).create_new(true).open(path(&self.dir, id))?;
                sync_folder(&self.dir)?;
                *self.shared.current.lock() = Some(id);
                self.open.insert(Open { id, file, end: 0 })
            }
        };
        let mut buffer = Vec::new();
        let mut offsets = Vec::with_capacity(group.len());
        for entry in group {
            buffer.extend_from_slice(&label::write(&entry.label, entry.data.len() as u64).map_err(io::Error::other)?);
            offsets.push(open.end + buffer.len() as u64);
            buffer.extend_from_slice(&entry.data);
            buffer.resize(buffer.len().next_multiple_of(ALIGNMENT as usize), 0);
        }
        open.file.write_all_at(&buffer, open.end)?;
        open.file.sync_data()?;
        open.end += buffer.len() as u64;
        Ok((open.id, offsets))
    }

    /// Goes on with a pack of an earlier run, behind whatever a crash has left at its end.
    fn reopen(&mut self, id: Uuid) -> io::Result<()> {
        let file = OpenOptions::new().read(true).write(true).open(path(&self.dir, id))?;
        let end = align(file.metadata()?.len());
        *self.shared.current.lock() = Some(id);
        self.open = Some(Open { id, file, end });
        Ok(())
    }

    fn leave(&mut self) {
        self.open = None;
        *self.shared.current.lock() = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifacts::checksums::Hasher;
    use crate::artifacts::label::What;
    use crate::artifacts::model::Description;

    fn open(dir: &Path, pack_bytes: u64) -> Packs {
        Packs::open(dir.to_owned(), pack_bytes, Uuid::now_v7).unwrap()
    }

    fn entry(number: u8, bytes: usize) -> (Label, Bytes, u64) {
        let data = vec![number; bytes];
        let mut hasher = Hasher::new(None);
        hasher.update(&data);
        let digests = hasher.finish();
        let label = Label {
            bucket: "b".into(),
            key: format!("k{number}"),
            what: What::Object,
            id: Uuid::from_u128(number.into()),
            written_ms: 1,
            md5: digests.md5.clone(),
            parts: 0,
            crc: digests.crc,
            description: Description::default(),
            version: None,
            named: false,
            checksum: None,
            seal: None,
        };
        (label, data.into(), digests.crc)
    }

    #[tokio::test]
    async fn entries_are_read_back_after_reopening_and_a_full_pack_is_followed_by_another() {
        let dir = tempfile::tempdir().unwrap();
        let mut placed = Vec::new();
        for round in 0..3_u8 {
            let packs = open(dir.path(), 6000);
            for number in 0..5 {
                let (label, data, crc) = entry(round * 10 + number, 1000);
                let packed = packs.put(label, data.clone()).await.unwrap();
                placed.push((packed.pack, packed.offset, data, crc));
            }
        }
        let packs = open(dir.path(), 6000);
        let files = list(dir.path()).unwrap().len();
        assert!((2..15).contains(&files), "{files}");
        for (pack, offset, data, crc) in placed {
            assert_eq!(packs.read(pack, offset, 1000, crc).unwrap().unwrap(), data);
            let label = packs.label_before(pack, offset).unwrap().unwrap().label;
            assert_eq!(label.crc, crc);
            assert!(packs.label_before(pack, offset + 1).unwrap().is_err());
        }
    }

    #[tokio::test]
    async fn a_torn_tail_is_dead_space_and_a_flipped_byte_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let packs = open(dir.path(), 1 << 20);
        let (label, data, crc) = entry(1, 700);
        let first = packs.put(label, data).await.unwrap();
        drop(packs);
        // A crash in the middle of a group: a header of which half has reached the disk, and noise.
        let file = path(dir.path(), first.pack);
        let mut bytes = std::fs::read(&file).unwrap();
        let torn = label::write(&entry(2, 700).0, 700).unwrap();
        bytes.extend_from_slice(&torn[..torn.len() / 2]);
        bytes.extend_from_slice(&[0x5a; 333]);
        std::fs::write(&file, &bytes).unwrap();

        let packs = open(dir.path(), 1 << 20);
        let (label, data, third_crc) = entry(3, 900);
        let third = packs.put(label, data.clone()).await.unwrap();
        assert_eq!(third.pack, first.pack);
        assert_eq!(packs.read(third.pack, third.offset, 900, third_crc).unwrap().unwrap(), data);
        let keys: Vec<_> = packs.entries(first.pack).unwrap().into_iter().map(|(_, found)| found.label.key).collect();
        assert_eq!(keys, ["k1", "k3"]);

        let mut bytes = std::fs::read(&file).unwrap();
        bytes[usize::try_from(first.offset).unwrap() + 5] ^= 1;
        std::fs::write(&file, &bytes).unwrap();
        let problem = packs.read(first.pack, first.offset, 700, crc).unwrap().unwrap_err();
        assert!(problem.contains("does not match"), "{problem}");
    }

    #[test]
    fn an_entry_that_claims_more_bytes_than_there_are_is_skipped() {
        let encoded = label::write(&entry(1, 10).0, 10).unwrap().split_off(label::FIXED_BYTES);
        for claimed in [1 << 40, u64::MAX - 3] {
            let mut pack = label::sealed(&encoded, claimed).unwrap();
            pack.resize(512, 0);
            pack.extend(label::write(&entry(2, 3).0, 3).unwrap());
            pack.extend([2; 3]);
            let keys: Vec<_> = super::super::fuzz_pack(&pack).into_iter().map(|found| found.label.key).collect();
            assert_eq!(keys, ["k2"], "{claimed}");
        }
    }

    #[tokio::test]
    async fn a_pack_is_at_rest_only_when_it_is_not_written_and_nothing_in_it_is_settling() {
        let dir = tempfile::tempdir().unwrap();
        let packs = open(dir.path(), 1000);
        let (label, data, _) = entry(1, 2000);
        let first = packs.put(label, data).await.unwrap();
        assert!(packs.at_rest().unwrap().is_empty(), "it is the current one");
        let (label, data, _) = entry(2, 2000);
        let second = packs.put(label, data).await.unwrap();
        assert_ne!(first.pack, second.pack);
        assert!(packs.at_rest().unwrap().is_empty(), "its entry has no row yet");
        let pack = first.pack;
        drop(first);
        assert_eq!(packs.at_rest().unwrap().into_iter().map(|(id, _)| id).collect::<Vec<_>>(), [pack]);
    }
}
