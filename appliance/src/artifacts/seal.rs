//! Encryption of stored bytes: AES-256-GCM in chunks, so that a range is read by its chunks alone.
//!
//! Each object has a random data key. A *run* is what one blob or pack entry holds: the whole object, or one part, whose key is derived
//! from the data key and the id of its blob. Under a key no run but one is ever written, and a chunk's nonce is its
//! index and whether it is the last: chunks that were swapped, repeated, cut off or taken from elsewhere do not open.
//!
//! On the disk a chunk is up to 64 KiB of bytes and 16 of tag. An empty run is one empty chunk, so that its emptiness is vouched for.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf;
use uuid::Uuid;

use super::error::ArtifactError;
use crate::master::random;

/// Bytes of a chunk before it is encrypted.
pub(super) const CHUNK_BYTES: usize = 64 * 1024;
pub(super) const TAG_BYTES: usize = 16;
/// Bytes of a chunk on the disk, but for the last.
pub(super) const SEALED_CHUNK_BYTES: usize = CHUNK_BYTES + TAG_BYTES;
pub(super) const DATA_KEY_BYTES: usize = 32;

/// Bytes that a run of `size` bytes has on the disk.
#[must_use]
pub(super) fn stored_bytes(size: u64) -> u64 {
    size + size.div_ceil(CHUNK_BYTES as u64).max(1) * TAG_BYTES as u64
}

/// The bytes of a run that has `stored` on the disk; `None` where no run has so many.
#[must_use]
pub(super) fn plain_bytes(stored: u64) -> Option<u64> {
    let size = stored.checked_sub(stored.div_ceil(SEALED_CHUNK_BYTES as u64).max(1) * TAG_BYTES as u64)?;
    (stored_bytes(size) == stored).then_some(size)
}

/// The key of one object.
#[derive(Clone)]
pub(super) struct DataKey([u8; DATA_KEY_BYTES]);

impl DataKey {
    pub(super) fn random() -> Result<Self, ArtifactError> {
        random().map(Self).map_err(|error| ArtifactError::fault("make a key")(error.to_string()))
    }

    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The key of a run: of the whole object, or of the part in the blob `part`.
    pub(super) fn run(&self, part: Option<Uuid>) -> Result<RunKey, ArtifactError> {
        let failed = |_| ArtifactError::fault("derive a key")("the lengths are wrong".into());
        let id = part.map_or([0; 16], Uuid::into_bytes);
        let what: &[u8] = if part.is_some() { b"backlot part" } else { b"backlot object" };
        let derived = hkdf::Salt::new(hkdf::HKDF_SHA256, b"backlot run 1").extract(&self.0);
        let info = [what, &id];
        let unbound: UnboundKey = derived.expand(&info, &AES_256_GCM).map_err(failed)?.into();
        Ok(RunKey(LessSafeKey::new(unbound)))
    }
}

/// The key of one run.
pub(super) struct RunKey(LessSafeKey);

impl RunKey {
    fn nonce(index: u64, last: bool) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce[0] = u8::from(last);
        nonce[4..].copy_from_slice(&index.to_be_bytes());
        Nonce::assume_unique_for_key(nonce)
    }

    /// Encrypts what `buffer` has from `from` on, one chunk, and puts its tag behind.
    fn seal(&self, index: u64, last: bool, buffer: &mut Vec<u8>, from: usize) -> std::io::Result<()> {
        let sealed = self.0.seal_in_place_separate_tag(Self::nonce(index, last), Aad::empty(), &mut buffer[from..]);
        let tag = sealed.map_err(|_| std::io::Error::other("a chunk was not encrypted"))?;
        buffer.extend_from_slice(tag.as_ref());
        Ok(())
    }

    /// Decrypts the chunks in `buffer`, which are whole and begin with number `first` of a run of `size` bytes; gives
    /// their bytes without the tags.
    ///
    /// # Errors
    /// A sentence when a chunk is not the one that was written there under this key.
    pub(super) fn open(&self, mut buffer: Vec<u8>, first: u64, size: u64) -> Result<Vec<u8>, String> {
        let last = size.div_ceil(CHUNK_BYTES as u64).max(1) - 1;
        let (mut read, mut written, mut index) = (0, 0, first);
        while read < buffer.len() {
            let end = (read + SEALED_CHUNK_BYTES).min(buffer.len());
            let opened = self.0.open_in_place(Self::nonce(index, index == last), Aad::empty(), &mut buffer[read..end]);
            let bytes =
                opened.map_err(|_| format!("chunk {index} does not open: its bytes are not those written"))?.len();
            buffer.copy_within(read..read + bytes, written);
            (read, written, index) = (end, written + bytes, index + 1);
        }
        buffer.truncate(written);
        Ok(buffer)
    }
}

/// Encrypts a run as its bytes come.
pub(super) struct Sealing {
    key: RunKey,
    index: u64,
    /// The chunk that is being filled. It is encrypted when a byte comes that does not belong to it, or at the end.
    pending: Vec<u8>,
}

impl Sealing {
    pub(super) fn new(key: RunKey) -> Self {
        Self { key, index: 0, pending: Vec::with_capacity(SEALED_CHUNK_BYTES) }
    }

    /// Takes `bytes`, and hands each chunk that is full to `write`.
    pub(super) fn push(
        &mut self,
        mut bytes: &[u8],
        mut write: impl FnMut(&[u8]) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        while !bytes.is_empty() {
            if self.pending.len() == CHUNK_BYTES {
                self.chunk(false, &mut write)?;
            }
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK_BYTES - self.pending.len()));
            self.pending.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    /// The last chunk.
    pub(super) fn finish(&mut self, mut write: impl FnMut(&[u8]) -> std::io::Result<()>) -> std::io::Result<()> {
        self.chunk(true, &mut write)
    }

    fn chunk(&mut self, last: bool, write: &mut impl FnMut(&[u8]) -> std::io::Result<()>) -> std::io::Result<()> {
        self.key.seal(self.index, last, &mut self.pending, 0)?;
        write(&self.pending)?;
        self.pending.clear();
        self.index += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sealed(key: &DataKey, part: Option<Uuid>, bytes: &[u8]) -> Vec<u8> {
        let mut sealing = Sealing::new(key.run(part).unwrap());
        let mut stored = Vec::new();
        let mut write = |chunk: &[u8]| {
            stored.extend_from_slice(chunk);
            Ok(())
        };
        for piece in bytes.chunks(10_007) {
            sealing.push(piece, &mut write).unwrap();
        }
        sealing.finish(&mut write).unwrap();
        stored
    }

    fn size() -> impl Strategy<Value = usize> {
        let edges = [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 3 * CHUNK_BYTES + 5];
        prop_oneof![proptest::sample::select(edges.to_vec()), 0..4 * CHUNK_BYTES]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

        #[test]
        fn what_was_sealed_opens_whole_and_from_any_chunk_on(size in size(), byte in any::<u8>()) {
            let bytes: Vec<u8> = (0..size).map(|at| byte.wrapping_add((at % 251) as u8)).collect();
            let key = DataKey::random().unwrap();
            let stored = sealed(&key, None, &bytes);
            prop_assert_eq!(stored.len() as u64, stored_bytes(size as u64));
            prop_assert_eq!(plain_bytes(stored.len() as u64), Some(size as u64));
            let run = key.run(None).unwrap();
            prop_assert!(run.open(stored.clone(), 0, size as u64).unwrap() == bytes);
            for chunk in 0..size.div_ceil(CHUNK_BYTES) {
                let rest = run.open(stored[chunk * SEALED_CHUNK_BYTES..].to_vec(), chunk as u64, size as u64).unwrap();
                prop_assert!(rest == bytes[chunk * CHUNK_BYTES..]);
            }
        }
    }

    #[test]
    fn chunks_that_were_changed_swapped_cut_or_taken_from_elsewhere_do_not_open() {
        let key = DataKey::random().unwrap();
        let size = 3 * CHUNK_BYTES;
        let bytes = vec![7; size];
        let stored = sealed(&key, None, &bytes);
        let run = key.run(None).unwrap();
        let whole = size as u64;
        let mut flipped = stored.clone();
        flipped[SEALED_CHUNK_BYTES + 3] ^= 1;
        assert!(run.open(flipped, 0, whole).unwrap_err().contains("chunk 1"));
        let (first, rest) = stored.split_at(SEALED_CHUNK_BYTES);
        let (second, third) = rest.split_at(SEALED_CHUNK_BYTES);
        assert!(run.open([second, first, third].concat(), 0, whole).is_err(), "swapped");
        // A catalogue that was made to believe in a shorter object.
        assert!(run.open([first, second].concat(), 0, 2 * CHUNK_BYTES as u64).is_err(), "cut");
        assert!(run.open(third.to_vec(), 2, whole + 1).is_err(), "made longer");
        let part = Uuid::from_u128(1);
        assert!(key.run(Some(part)).unwrap().open(stored.clone(), 0, whole).is_err());
        let parts = sealed(&key, Some(part), &bytes);
        assert!(key.run(Some(Uuid::from_u128(2))).unwrap().open(parts.clone(), 0, whole).is_err());
        assert!(key.run(Some(part)).unwrap().open(parts, 0, whole).is_ok());
        assert!(DataKey::random().unwrap().run(None).unwrap().open(stored, 0, whole).is_err());
        let empty = sealed(&key, None, &[]);
        assert_eq!(empty.len(), TAG_BYTES);
        assert!(run.open(vec![0; TAG_BYTES], 0, 0).is_err());
    }

    #[test]
    fn sizes_that_no_run_has_are_told() {
        for impossible in [0, 1, 15, (CHUNK_BYTES + TAG_BYTES + 1) as u64, (CHUNK_BYTES + 2 * TAG_BYTES) as u64] {
            assert_eq!(plain_bytes(impossible), None, "{impossible}");
        }
        assert_eq!(plain_bytes(stored_bytes(5 << 40)), Some(5 << 40));
    }
}
