//! The bytes of a segment. Pure: nothing in here touches a file.
//!
//! ```text
//! segment  magic 8 | version 4 | checksum 4 | journal id 8 | base 8
//! group    magic 4 | segment base 8 | lsn 8 | durable before 8 | body length 4 | body checksum 4 | header checksum 4
//! record   length 4 | checksum 4 | payload
//! ```
//!
//! Numbers are little endian, checksums CRC32C. Those of group headers and records begin with the journal's id, which
//! is random and never leaves the folder: nobody can put bytes into a payload that would pass for a header.
//! The first 32 bytes of a segment keep their layout in every later version, so that an older program can tell
//! "later" from "damaged".

pub(crate) const VERSION: u32 = 1;
pub(crate) const SEGMENT_HEADER_BYTES: usize = 32;
pub(crate) const GROUP_HEADER_BYTES: usize = 40;
pub(crate) const RECORD_HEADER_BYTES: usize = 8;

const SEGMENT_MAGIC: [u8; 8] = *b"BKLTJRNL";
pub(crate) const GROUP_MAGIC: [u8; 4] = *b"BkGr";

/// Tells the segments of one journal from those of any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct JournalId(pub(crate) u64);

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) id: JournalId,
    pub(crate) base: u64,
}

/// Why the first bytes of a file are no segment header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoHeader {
    LaterVersion,
    Bad(&'static str),
}

impl SegmentHeader {
    pub(crate) fn encode(self) -> [u8; SEGMENT_HEADER_BYTES] {
        self.encode_version(VERSION)
    }

    pub(crate) fn encode_version(self, version: u32) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        bytes[..8].copy_from_slice(&SEGMENT_MAGIC);
        bytes[8..12].copy_from_slice(&version.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.id.0.to_le_bytes());
        bytes[24..].copy_from_slice(&self.base.to_le_bytes());
        let checksum = Self::checksum(&bytes);
        bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, NoHeader> {
        let Some(bytes) = bytes.first_chunk::<SEGMENT_HEADER_BYTES>() else {
            return Err(NoHeader::Bad("the file is shorter than a segment's header"));
        };
        if bytes[..8] != SEGMENT_MAGIC {
            return Err(NoHeader::Bad("the file does not begin like a segment"));
        }
        if u32_at(bytes, 12) != Self::checksum(bytes) {
            return Err(NoHeader::Bad("the segment's header does not match its checksum"));
        }
        match u32_at(bytes, 8) {
            VERSION if u64_at(bytes, 24) > u64::MAX / 2 => Err(NoHeader::Bad("its base is beyond any position")),
            VERSION => Ok(Self { id: JournalId(u64_at(bytes, 16)), base: u64_at(bytes, 24) }),
            0 => Err(NoHeader::Bad("the segment has no version")),
            _ => Err(NoHeader::LaterVersion),
        }
    }

    fn checksum(bytes: &[u8; SEGMENT_HEADER_BYTES]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..])
    }
}

/// What stands before the records that were made durable together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupHeader {
    /// Base of the segment that holds the group.
    pub(crate) base: u64,
    /// The group's own position: that of its header.
    pub(crate) lsn: u64,
    /// Everything before this was durable when the group was written.
    pub(crate) durable: u64,
    pub(crate) body_bytes: u32,
    pub(crate) body_checksum: u32,
}

impl GroupHeader {
    pub(crate) fn encode(self, id: JournalId) -> [u8; GROUP_HEADER_BYTES] {
        let mut bytes = [0; GROUP_HEADER_BYTES];
        bytes[..4].copy_from_slice(&GROUP_MAGIC);
        bytes[4..12].copy_from_slice(&self.base.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.lsn.to_le_bytes());
        bytes[20..28].copy_from_slice(&self.durable.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.body_bytes.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.body_checksum.to_le_bytes());
        let checksum = crc32c::crc32c_append(seed(id), &bytes[..36]);
        bytes[36..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// `None` when these bytes are no group header of this journal.
    pub(crate) fn decode(bytes: &[u8; GROUP_HEADER_BYTES], id: JournalId) -> Option<Self> {
        if bytes[..4] != GROUP_MAGIC || u32_at(bytes, 36) != crc32c::crc32c_append(seed(id), &bytes[..36]) {
            return None;
        }
        Some(Self {
            base: u64_at(bytes, 4),
            lsn: u64_at(bytes, 12),
            durable: u64_at(bytes, 20),
            body_bytes: u32_at(bytes, 28),
            body_checksum: u32_at(bytes, 32),
        })
    }

    /// Position after the group.
    pub(crate) fn end(&self) -> u64 {
        self.lsn.saturating_add(GROUP_HEADER_BYTES as u64).saturating_add(u64::from(self.body_bytes))
    }
}

/// Appends one record, whose payload comes in two parts, to the body of a group.
pub(crate) fn append_record(body: &mut Vec<u8>, id: JournalId, lsn: u64, parts: [&[u8]; 2]) {
    let length = (parts[0].len() + parts[1].len()) as u32; // `reserve` has bounded it
    let checksum = crc32c::crc32c_append(crc32c::crc32c_append(record_seed(id, lsn, length), parts[0]), parts[1]);
    body.extend_from_slice(&length.to_le_bytes());
    body.extend_from_slice(&checksum.to_le_bytes());
    body.extend_from_slice(parts[0]);
    body.extend_from_slice(parts[1]);
}

/// The first bytes of a record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecordHeader {
    pub(crate) length: u32,
    checksum: u32,
}

impl RecordHeader {
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.first_chunk::<RECORD_HEADER_BYTES>()?;
        Some(Self { length: u32_at(bytes, 0), checksum: u32_at(bytes, 4) })
    }

    /// Whether `payload` is what was written at `lsn`.
    pub(crate) fn verifies(self, id: JournalId, lsn: u64, payload: &[u8]) -> bool {
        payload.len() == self.length as usize
            && self.checksum == crc32c::crc32c_append(record_seed(id, lsn, self.length), payload)
    }
}

/// The records of a group's body, which begins at position `lsn`. Ends early where lengths do not add up.
pub(crate) fn records(body: &[u8], lsn: u64) -> impl Iterator<Item = (u64, &[u8])> {
    let mut at = 0_usize;
    std::iter::from_fn(move || {
        let header = RecordHeader::decode(body.get(at..)?)?;
        let from = at + RECORD_HEADER_BYTES;
        let payload = body.get(from..from.checked_add(header.length as usize)?)?;
        let record = (lsn + at as u64, payload);
        at = from + payload.len();
        Some(record)
    })
}

fn seed(id: JournalId) -> u32 {
    crc32c::crc32c(&id.0.to_le_bytes())
}

fn record_seed(id: JournalId, lsn: u64, length: u32) -> u32 {
    let mut bytes = [0; 20];
    bytes[..8].copy_from_slice(&id.0.to_le_bytes());
    bytes[8..16].copy_from_slice(&lsn.to_le_bytes());
    bytes[16..].copy_from_slice(&length.to_le_bytes());
    crc32c::crc32c(&bytes)
}

fn u32_at<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

fn u64_at<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}
