//! Files that hold one object or one part each: a header page, then the bytes, then the checksums of their blocks where they are not encrypted.
//!
//! A blob is written under a temporary name; the header, whose checksums are known at the end only, is written into its
//! page last; then `fdatasync`, rename, and the folder's `fsync`. A file under its final name is whole. Names are
//! ids: nothing that a client wrote becomes part of a path.

mod returning;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::blocks::Summing;
use super::checksums::{Digests, Hasher, Sums, Verifier};
use super::label::{self, Found, Label};
use super::seal::{RunKey, Sealing};

pub(super) use returning::Returning;

/// Bytes before the data. The largest label, with 1 KiB of key and 3 KiB of description, fits.
pub(super) const HEADER_BYTES: u64 = 8192;
/// Bytes gathered before they are written. An upload holds at most twice as many: one batch being written, one filling.
const BATCH_BYTES: usize = 1024 * 1024;
/// Bytes after which the disk is set to work while more are coming, so that the sync at the end finds little to do.
const EARLY_SYNC_BYTES: u64 = 8 << 20;

/// The folder of blobs. Cheap to clone.
#[derive(Clone)]
pub(super) struct Blobs {
    root: Arc<PathBuf>,
    /// Renamed or about to be, and not yet in the catalogue: the sweeper leaves these alone.
    settling: Arc<Mutex<std::collections::HashSet<Uuid>>>,
}

/// A durable file that no row refers to yet. Dropped, it is up to the sweeper unless [`Blobs::remove`] is called.
pub(super) struct Settling {
    blobs: Blobs,
    pub(super) id: Uuid,
}

impl Drop for Settling {
    fn drop(&mut self) {
        self.blobs.settling.lock().remove(&self.id);
    }
}

impl Blobs {
    /// Opens or makes the folder, and removes what interrupted puts have left in it.
    pub(super) fn open(root: PathBuf) -> io::Result<Self> {
        std::fs::create_dir_all(root.join("tmp"))?;
        for byte in 0..=u8::MAX {
            std::fs::create_dir_all(root.join(hex::encode([byte])))?;
        }
        for entry in std::fs::read_dir(root.join("tmp"))? {
            std::fs::remove_file(entry?.path())?;
        }
        sync_folder(&root)?;
        Ok(Self { root: Arc::new(root), settling: Arc::default() })
    }

    pub(super) fn path(&self, id: Uuid) -> PathBuf {
        // The last byte of an id is random, its first ones are time.
        let bytes = id.as_bytes();
        self.root.join(hex::encode(&bytes[15..])).join(hex::encode(bytes))
    }

    fn temporary(&self, id: Uuid) -> PathBuf {
        self.root.join("tmp").join(hex::encode(id.as_bytes()))
    }

    /// Begins a blob, encrypted where `key` is given.
    pub(super) async fn create(&self, id: Uuid, wanted: impl Into<Sums>, key: Option<RunKey>) -> io::Result<Writer> {
        let path = self.temporary(id);
        let at = path.clone();
        let file = blocking(move || OpenOptions::new().write(true).create_new(true).open(at)).await?;
        let file = Arc::new(file);
        let (crc, sums) = match key {
            Some(_) => (Some(Verifier::default()), None),
            None => (None, Some(Summing::default())),
        };
        let run = Run { file: Arc::clone(&file), position: HEADER_BYTES, crc, sums };
        Ok(Writer {
            blobs: self.clone(),
            id,
            temporary: Some(path),
            file,
            hasher: Some(Box::new(Hasher::new(wanted))),
            storing: Some(Box::new(Storing { run, sealing: key.map(Sealing::new) })),
            batch: Vec::new(),
            batch_bytes: 0,
            working: None,
            early: None,
            early_from: 0,
        })
    }

    pub(super) fn open_data(&self, id: Uuid) -> io::Result<File> {
        File::open(self.path(id))
    }

    /// The label of a blob, from its header page.
    pub(super) fn read_label(path: &Path) -> io::Result<Result<Found, String>> {
        let file = File::open(path)?;
        let mut page = vec![0; HEADER_BYTES as usize];
        let bytes = read_up_to(&file, &mut page, 0)?;
        Ok(label::read(&page[..bytes]))
    }

    /// Removes a blob that no row refers to. One that is gone already is no error.
    pub(super) fn remove(&self, id: Uuid) -> io::Result<()> {
        match std::fs::remove_file(self.path(id)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    pub(super) fn is_settling(&self, id: Uuid) -> bool {
        self.settling.lock().contains(&id)
    }

    /// The ids under final names in one of the 256 folders.
    pub(super) fn folder(&self, byte: u8) -> io::Result<Vec<Uuid>> {
        let mut ids = Vec::new();
        for entry in std::fs::read_dir(self.root.join(hex::encode([byte])))? {
            let name = entry?.file_name();
            let id = name.to_str().and_then(|name| hex::decode(name).ok()).and_then(|id| Uuid::from_slice(&id).ok());
            match id {
                Some(id) => ids.push(id),
                None => tracing::warn!(?name, "a file among the blobs is not ours"),
            }
        }
        Ok(ids)
    }
}

/// The data of a blob on its way to the disk.
struct Run {
    file: Arc<File>,
    position: u64,
    /// Of what is on the disk, where that is not what the client sent.
    crc: Option<Verifier>,
    /// Of what is not encrypted, for the table behind it.
    sums: Option<Summing>,
}

impl Run {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(crc) = &mut self.crc {
            crc.update(bytes);
        }
        if let Some(sums) = &mut self.sums {
            sums.update(bytes);
        }
        self.file.write_all_at(bytes, self.position)?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    /// Writes the table behind the bytes.
    fn finish(&mut self) -> io::Result<()> {
        let table = self.sums.take().map(Summing::finish).unwrap_or_default();
        self.file.write_all_at(&table, self.position)
    }
}

/// The half of a writer that writes; the other half hashes meanwhile.
struct Storing {
    run: Run,
    sealing: Option<Sealing>,
}

impl Storing {
    fn write(&mut self, batch: &[Bytes]) -> io::Result<()> {
        let Self { run, sealing } = self;
        for bytes in batch {
            match sealing {
                Some(sealing) => sealing.push(bytes, |chunk| run.append(chunk))?,
                None => run.append(bytes)?,
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        let Self { run, sealing } = self;
        if let Some(sealing) = sealing {
            sealing.finish(|chunk| run.append(chunk))?;
        }
        run.finish()
    }
}

/// One batch in both halves.
type Working = (JoinHandle<Box<Hasher>>, JoinHandle<io::Result<Box<Storing>>>);

/// A blob being written. Dropped unfinished, it leaves nothing.
pub(super) struct Writer {
    blobs: Blobs,
    id: Uuid,
    temporary: Option<PathBuf>,
    file: Arc<File>,
    hasher: Option<Box<Hasher>>,
    storing: Option<Box<Storing>>,
    batch: Vec<Bytes>,
    batch_bytes: usize,
    working: Option<Working>,
    /// A sync that goes on while more bytes come. The kernel tells a failure once: it must not be missed here.
    early: Option<JoinHandle<io::Result<()>>>,
    early_from: u64,
}

impl Writer {
    /// Takes `bytes`; waits while an earlier batch is still being written.
    pub(super) async fn push(&mut self, bytes: Bytes) -> io::Result<()> {
        self.batch_bytes += bytes.len();
        self.batch.push(bytes);
        if self.batch_bytes >= BATCH_BYTES { self.begin_batch().await } else { Ok(()) }
    }

    async fn begin_batch(&mut self) -> io::Result<()> {
        self.end_batch().await?;
        let failed = || io::Error::other("blob failed before");
        let mut hasher = self.hasher.take().ok_or_else(failed)?;
        let mut storing = self.storing.take().ok_or_else(failed)?;
        let batch = Arc::new(std::mem::take(&mut self.batch));
        self.batch_bytes = 0;
        let same = Arc::clone(&batch);
        let hashing = tokio::task::spawn_blocking(move || {
            batch.iter().for_each(|bytes| hasher.update(bytes));
            hasher
        });
        let writing = tokio::task::spawn_blocking(move || storing.write(&same).map(|()| storing));
        self.working = Some((hashing, writing));
        Ok(())
    }

    async fn end_batch(&mut self) -> io::Result<()> {
        let Some((hashing, writing)) = self.working.take() else { return Ok(()) };
        let (hashed, written) = tokio::join!(hashing, writing);
        let storing = written.map_err(io::Error::other)??;
        self.hasher = Some(hashed.map_err(io::Error::other)?);
        let position = storing.run.position;
        self.storing = Some(storing);
        let is_idle = self.early.as_ref().is_none_or(JoinHandle::is_finished);
        if is_idle && position - self.early_from >= EARLY_SYNC_BYTES {
            self.end_early().await?;
            self.early_from = position;
            let file = Arc::clone(&self.file);
            self.early = Some(tokio::task::spawn_blocking(move || file.sync_data()));
        }
        Ok(())
    }

    async fn end_early(&mut self) -> io::Result<()> {
        match self.early.take() {
            Some(early) => early.await.map_err(io::Error::other)?,
            None => Ok(()),
        }
    }

    /// All bytes are written, none is durable. Gives what is known of them.
    pub(super) async fn written(mut self) -> io::Result<Written> {
        self.begin_batch().await?;
        self.end_batch().await?;
        self.end_early().await?;
        let failed = || io::Error::other("blob failed before");
        let hasher = self.hasher.take().ok_or_else(failed)?;
        let mut storing = self.storing.take().ok_or_else(failed)?;
        let storing = blocking(move || storing.finish().map(|()| storing)).await?;
        let Run { file, position, crc, .. } = storing.run;
        let digests = hasher.finish();
        let stored_crc = crc.map_or(digests.crc, Verifier::finish);
        Ok(Written { file, stored_bytes: position - HEADER_BYTES, stored_crc, digests, writer: self })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(path) = self.temporary.take()
            && let Err(error) = std::fs::remove_file(&path)
        {
            tracing::warn!(path = %path.display(), %error, "could not remove an unfinished blob; the next start does");
        }
    }
}

/// A blob with all its bytes and without a header.
pub(super) struct Written {
    file: Arc<File>,
    /// Of what the client sent.
    pub(super) digests: Digests,
    /// What is on the disk.
    pub(super) stored_bytes: u64,
    pub(super) stored_crc: u64,
    writer: Writer,
}

impl Written {
    pub(super) fn id(&self) -> Uuid {
        self.writer.id
    }

    /// Writes the header and makes the blob durable under its final name.
    pub(super) async fn settle(self, label: Label) -> io::Result<Settling> {
        let Self { file, stored_bytes, mut writer, .. } = self;
        let header = label::write(&label, stored_bytes).map_err(io::Error::other)?;
        if header.len() as u64 > HEADER_BYTES {
            return Err(io::Error::other("label is larger than the header page"));
        }
        let (blobs, id) = (writer.blobs.clone(), writer.id);
        // Before the rename, so that a file under its final name is settling, referred to, or an orphan.
        blobs.settling.lock().insert(id);
        let settling = Settling { blobs: blobs.clone(), id };
        let Some(temporary) = writer.temporary.take() else { return Err(io::Error::other("blob failed before")) };
        blocking(move || {
            let target = blobs.path(id);
            let finish = || {
                file.write_all_at(&header, 0)?;
                file.sync_data()?;
                std::fs::rename(&temporary, &target)?;
                sync_folder(target.parent().unwrap_or(&target))
            };
            finish().inspect_err(|_| {
                // Whichever of the two names it has by now; the sweeper has the last word.
                let _ = std::fs::remove_file(&temporary);
                let _ = std::fs::remove_file(&target);
            })
        })
        .await?;
        Ok(settling)
    }
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Fills `buffer` from `offset` on until it is full or the file ends.
pub(super) fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(bytes) => filled += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Runs file work where it may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifacts::checksums::Algorithm;
    use crate::artifacts::label::What;
    use crate::artifacts::model::Description;

    fn label(id: Uuid, digests: &Digests) -> Label {
        Label {
            bucket: "b".into(),
            key: "k".into(),
            what: What::Object,
            id,
            written_ms: 1,
            md5: digests.md5.clone(),
            parts: 0,
            crc: digests.crc,
            description: Description::default(),
            version: None,
            named: false,
            checksum: None,
            seal: None,
        }
    }

    #[tokio::test]
    async fn a_settled_blob_has_its_bytes_behind_a_header_that_says_what_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path().join("blobs")).unwrap();
        let id = Uuid::from_u128(0xabcd);
        let mut writer = blobs.create(id, Some(Algorithm::Sha256), None).await.unwrap();
        let mut expected = Vec::new();
        for piece in 0..40_u8 {
            let bytes = vec![piece; 20_000];
            expected.extend_from_slice(&bytes);
            writer.push(bytes.into()).await.unwrap();
        }
        let written = writer.written().await.unwrap();
        let digests = written.digests.clone();
        assert_eq!(digests.size, expected.len() as u64);
        let settling = written.settle(label(id, &digests)).await.unwrap();
        assert!(blobs.is_settling(id));
        drop(settling);
        assert!(!blobs.is_settling(id));

        let bytes = std::fs::read(blobs.path(id)).unwrap();
        assert_eq!(&bytes[HEADER_BYTES as usize..][..expected.len()], expected);
        let shape = super::super::blocks::shape(bytes.len() as u64, digests.size, false);
        assert_eq!(shape, super::super::blocks::Shape::Table);
        let found = Blobs::read_label(&blobs.path(id)).unwrap().unwrap();
        assert_eq!((found.label, found.data_bytes), (label(id, &digests), digests.size));
        assert_eq!(blobs.folder(0xcd).unwrap(), [id]);
        blobs.remove(id).unwrap();
        blobs.remove(id).unwrap();
        assert!(blobs.folder(0xcd).unwrap().is_empty());
    }

    #[tokio::test]
    async fn an_interrupted_blob_leaves_nothing_at_once_or_after_a_crash() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("blobs");
        let blobs = Blobs::open(root.clone()).unwrap();
        let mut writer = blobs.create(Uuid::from_u128(1), None, None).await.unwrap();
        writer.push(vec![1; BATCH_BYTES * 3].into()).await.unwrap();
        drop(writer);
        assert_eq!(std::fs::read_dir(root.join("tmp")).unwrap().count(), 0);

        let mut writer = blobs.create(Uuid::from_u128(2), None, None).await.unwrap();
        writer.push(vec![1; BATCH_BYTES * 3].into()).await.unwrap();
        std::mem::forget(writer); // kill -9
        assert_eq!(std::fs::read_dir(root.join("tmp")).unwrap().count(), 1);
        Blobs::open(root.clone()).unwrap();
        assert_eq!(std::fs::read_dir(root.join("tmp")).unwrap().count(), 0);
    }
}
