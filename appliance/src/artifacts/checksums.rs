//! Checksums as S3 has them: five algorithms, of an object's bytes or of its parts' checksums.
//!
//! MD5 (the ETag) and CRC-64/NVME (what reading verifies, and S3's default) are computed of all bytes; a third one where the
//! client asks for it. CRCs of parts combine to the CRC of the whole without reading the bytes again.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use s3s::crypto::{Checksum as _, Crc32, Crc32c, Crc64Nvme, Md5, Sha1, Sha256};
use serde::{Deserialize, Serialize};

/// Bytes of a digest or CRC, big-endian.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest(pub Vec<u8>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    #[serde(rename = "3")]
    Crc32,
    #[serde(rename = "c")]
    Crc32c,
    #[serde(rename = "n")]
    Crc64Nvme,
    #[serde(rename = "1")]
    Sha1,
    #[serde(rename = "2")]
    Sha256,
}

impl Algorithm {
    pub const ALL: [Self; 5] = [Self::Crc32, Self::Crc32c, Self::Crc64Nvme, Self::Sha1, Self::Sha256];

    /// As S3 writes it in `x-amz-checksum-algorithm`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Crc32 => "CRC32",
            Self::Crc32c => "CRC32C",
            Self::Crc64Nvme => "CRC64NVME",
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
        }
    }

    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name().eq_ignore_ascii_case(name))
    }

    /// Header that carries a value of it, also as a trailer.
    #[must_use]
    pub fn header(self) -> &'static str {
        match self {
            Self::Crc32 => "x-amz-checksum-crc32",
            Self::Crc32c => "x-amz-checksum-crc32c",
            Self::Crc64Nvme => "x-amz-checksum-crc64nvme",
            Self::Sha1 => "x-amz-checksum-sha1",
            Self::Sha256 => "x-amz-checksum-sha256",
        }
    }

    #[must_use]
    pub fn digest_bytes(self) -> usize {
        match self {
            Self::Crc32 | Self::Crc32c => 4,
            Self::Crc64Nvme => 8,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }

    /// Whether values of parts combine to the value of the whole.
    #[must_use]
    pub fn is_crc(self) -> bool {
        matches!(self, Self::Crc32 | Self::Crc32c | Self::Crc64Nvme)
    }
}

/// A checksum that a client is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checksum {
    #[serde(rename = "a")]
    pub algorithm: Algorithm,
    /// 0: of the object's bytes. Else of the checksums of so many parts (S3's `COMPOSITE`).
    #[serde(rename = "n", default)]
    pub parts: u16,
    #[serde(rename = "v")]
    pub value: Digest,
}

impl Checksum {
    /// Base64, with `-N` behind a composite one.
    #[must_use]
    pub fn text(&self) -> String {
        let value = BASE64.encode(&self.value.0);
        if self.parts > 0 { format!("{value}-{}", self.parts) } else { value }
    }
}

/// Reads the base64 value of `algorithm`; `None` when it is not one, or has the wrong length.
#[must_use]
pub(super) fn parse_value(algorithm: Algorithm, text: &str) -> Option<Digest> {
    let bytes = BASE64.decode(text.trim()).ok()?;
    (bytes.len() == algorithm.digest_bytes()).then_some(Digest(bytes))
}

enum Extra {
    Crc32(Crc32),
    Crc32c(Crc32c),
    Sha1(Sha1),
    Sha256(Sha256),
}

/// What is to be computed of some bytes beside CRC-64/NVME.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sums {
    pub extra: Option<Algorithm>,
    /// The MD5, which takes longer than everything else together.
    pub md5: bool,
}

impl From<Option<Algorithm>> for Sums {
    /// With the MD5.
    fn from(extra: Option<Algorithm>) -> Self {
        Self { extra, md5: true }
    }
}

/// Computes everything wanted of a stream in one pass.
pub(super) struct Hasher {
    size: u64,
    md5: Option<Md5>,
    crc: Crc64Nvme,
    extra: Option<(Algorithm, Extra)>,
}

/// What is known of some bytes when they have all been seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Digests {
    pub size: u64,
    /// Empty where it was not asked for.
    pub md5: Digest,
    pub crc: u64,
    extra: Option<Checksum>,
}

impl Hasher {
    #[must_use]
    pub(super) fn new(sums: impl Into<Sums>) -> Self {
        let Sums { extra, md5 } = sums.into();
        let extra = extra.and_then(|algorithm| {
            let state = match algorithm {
                Algorithm::Crc32 => Extra::Crc32(Crc32::new()),
                Algorithm::Crc32c => Extra::Crc32c(Crc32c::new()),
                Algorithm::Sha1 => Extra::Sha1(Sha1::new()),
                Algorithm::Sha256 => Extra::Sha256(Sha256::new()),
                Algorithm::Crc64Nvme => return None,
            };
            Some((algorithm, state))
        });
        Self { size: 0, md5: md5.then(Md5::new), crc: Crc64Nvme::new(), extra }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        if let Some(md5) = &mut self.md5 {
            md5.update(bytes);
        }
        self.crc.update(bytes);
        match &mut self.extra {
            Some((_, Extra::Crc32(state))) => state.update(bytes),
            Some((_, Extra::Crc32c(state))) => state.update(bytes),
            Some((_, Extra::Sha1(state))) => state.update(bytes),
            Some((_, Extra::Sha256(state))) => state.update(bytes),
            None => {}
        }
    }

    #[must_use]
    pub(super) fn finish(self) -> Digests {
        let extra = self.extra.map(|(algorithm, state)| {
            let value = match state {
                Extra::Crc32(state) => state.finalize().to_vec(),
                Extra::Crc32c(state) => state.finalize().to_vec(),
                Extra::Sha1(state) => state.finalize().to_vec(),
                Extra::Sha256(state) => state.finalize().to_vec(),
            };
            Checksum { algorithm, parts: 0, value: Digest(value) }
        });
        Digests {
            size: self.size,
            md5: Digest(self.md5.map(|md5| md5.finalize().to_vec()).unwrap_or_default()),
            crc: u64::from_be_bytes(self.crc.finalize()),
            extra,
        }
    }
}

impl Digests {
    /// The checksum that was asked for, else S3's default, CRC-64/NVME.
    #[must_use]
    pub(super) fn checksum(&self) -> Checksum {
        self.extra.clone().unwrap_or_else(|| crc64(self.crc))
    }

    /// The value of `algorithm`, if it was computed.
    #[must_use]
    pub(super) fn value(&self, algorithm: Algorithm) -> Option<Digest> {
        if algorithm == Algorithm::Crc64Nvme {
            return Some(crc64(self.crc).value);
        }
        self.extra.as_ref().filter(|extra| extra.algorithm == algorithm).map(|extra| extra.value.clone())
    }
}

/// A full-object CRC-64/NVME.
#[must_use]
pub(super) fn crc64(crc: u64) -> Checksum {
    Checksum { algorithm: Algorithm::Crc64Nvme, parts: 0, value: Digest(crc.to_be_bytes().to_vec()) }
}

/// Running CRC-64/NVME, for verifying what is read.
#[derive(Default)]
pub(super) struct Verifier(Crc64Nvme);

impl Verifier {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    #[must_use]
    pub(super) fn finish(self) -> u64 {
        u64::from_be_bytes(self.0.finalize())
    }
}

/// The composite checksum: `algorithm` over the values of the parts.
#[must_use]
pub(super) fn composite(algorithm: Algorithm, parts: &[Digest]) -> Checksum {
    let mut hasher = Hasher::new(Some(algorithm));
    for part in parts {
        hasher.update(&part.0);
    }
    let mut checksum = hasher.finish().checksum();
    checksum.parts = u16::try_from(parts.len()).unwrap_or(u16::MAX);
    checksum
}

/// MD5 over the MD5s of the parts.
#[must_use]
pub(super) fn md5_of(parts: &[Digest]) -> Digest {
    let mut md5 = Md5::new();
    for part in parts {
        md5.update(&part.0);
    }
    Digest(md5.finalize().to_vec())
}

/// The CRC of two runs of bytes from the CRC of each and the length of the second; `None` where `algorithm` is no CRC.
///
/// Feeding `second_bytes` zero bytes into a CRC is a linear map over GF(2), applied by squaring its
/// matrix. The register's start and end values cancel out, as all three CRCs have them all ones.
#[must_use]
pub(super) fn combine(algorithm: Algorithm, first: &Digest, second: &Digest, second_bytes: u64) -> Option<Digest> {
    // Reflected polynomials of CRC-32/ISO-HDLC, CRC-32/ISCSI, CRC-64/NVME.
    let (polynomial, bits) = match algorithm {
        Algorithm::Crc32 => (0xEDB8_8320, 32),
        Algorithm::Crc32c => (0x82F6_3B78, 32),
        Algorithm::Crc64Nvme => (0x9A6C_9329_AC4B_C9B5, 64),
        Algorithm::Sha1 | Algorithm::Sha256 => return None,
    };
    let number = |digest: &Digest| digest.0.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    let mut value = number(first);
    // One zero bit: shift right, and the polynomial where a bit falls out.
    let mut matrix: Vec<u64> = (0..bits).map(|bit| if bit == 0 { polynomial } else { 1 << (bit - 1) }).collect();
    let mut zero_bits = u128::from(second_bytes) * 8;
    while zero_bits > 0 {
        if zero_bits & 1 == 1 {
            value = times(&matrix, value);
        }
        matrix = matrix.iter().map(|column| times(&matrix, *column)).collect();
        zero_bits >>= 1;
    }
    let combined = (value ^ number(second)).to_be_bytes();
    Some(Digest(combined[8 - bits / 8..].to_vec()))
}

fn times(matrix: &[u64], vector: u64) -> u64 {
    let column = |(bit, column): (usize, &u64)| if vector >> bit & 1 == 1 { *column } else { 0 };
    matrix.iter().enumerate().map(column).fold(0, |sum, column| sum ^ column)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value(algorithm: Algorithm, bytes: &[u8]) -> Digest {
        let mut hasher = Hasher::new(Some(algorithm));
        hasher.update(bytes);
        hasher.finish().checksum().value
    }

    #[test]
    fn known_answers() {
        // The check values of the catalogue of parametrised CRCs, of "123456789".
        assert_eq!(hex::encode(value(Algorithm::Crc32, b"123456789").0), "cbf43926");
        assert_eq!(hex::encode(value(Algorithm::Crc32c, b"123456789").0), "e3069283");
        assert_eq!(hex::encode(value(Algorithm::Crc64Nvme, b"123456789").0), "ae8b14860a799888");
        assert_eq!(hex::encode(value(Algorithm::Sha1, b"abc").0), "a9993e364706816aba3e25717850c26c9cd0d89d");
    }

    #[test]
    fn a_value_of_the_wrong_length_or_alphabet_is_refused() {
        assert!(parse_value(Algorithm::Crc32, "AAAAAA==").is_some());
        for bad in ["", "AAAA", "AAAAAAAA", "????????"] {
            assert!(parse_value(Algorithm::Crc32, bad).is_none(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn crcs_of_parts_combine_to_the_crc_of_the_whole(
            first in proptest::collection::vec(any::<u8>(), 0..300),
            second in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            for algorithm in [Algorithm::Crc32, Algorithm::Crc32c, Algorithm::Crc64Nvme] {
                let whole = value(algorithm, &[first.as_slice(), &second].concat());
                let combined =
                    combine(algorithm, &value(algorithm, &first), &value(algorithm, &second), second.len() as u64);
                prop_assert_eq!(combined, Some(whole));
            }
        }
    }
}
