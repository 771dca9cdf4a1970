//! Weights: named tensors in memory-mapped files, read with suspicion.
//!
//! A file is mapped and its SHA-256 compared before anybody reads it, so that what is parsed is what was pinned.
//! The readers hold all the same for files that nobody pinned: every length is checked against the bytes that are
//! there before anything is allocated, and an error names the line or the offset. Values become f32 only when an
//! executor asks, and a value that is not finite is refused there.

#![allow(unsafe_code, reason = "a memory map is as valid as the file under it; see `map`")]

pub mod ncnn;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use backlot_kernels::Source as _;
use bytes::Bytes;
use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};
use sha2::{Digest, Sha256};

/// Most tensors of one file.
const TENSORS_MAX: usize = 100_000;

/// How a file keeps a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    F32,
    F16,
    Bf16,
}

impl Stored {
    fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// Why a weight file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WeightError {
    #[error("open `{file}`: {source}")]
    Open { file: String, source: std::io::Error },
    #[error("`{file}` has SHA-256 {found}, not the pinned {pinned}")]
    Checksum { file: String, found: String, pinned: String },
    #[error("line {line}: {problem}")]
    Line { line: usize, problem: String },
    #[error("offset {offset}: {problem}")]
    Offset { offset: usize, problem: String },
    #[error("`{file}`: {problem}")]
    Config { file: String, problem: String },
    #[error("safetensors: {0}")]
    Safetensors(String),
    #[error("weight `{name}` {problem}")]
    Tensor { name: String, problem: String },
}

/// One tensor, still in its file.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub shape: Vec<usize>,
    pub stored: Stored,
    data: Bytes,
}

/// The tensors of a file by name.
#[derive(Clone, Debug, Default)]
pub struct Weights {
    tensors: BTreeMap<String, Tensor>,
    /// Tensors that are no floats, with what they are. Published files carry some that nobody reads.
    others: BTreeMap<String, String>,
}

impl Weights {
    /// Reads a safetensors file of f32, f16 and bf16 tensors. Others in it are an error only where one is asked for.
    ///
    /// # Errors
    /// [`WeightError::Safetensors`] for a header that is not well formed or does not agree with the file's length.
    pub fn safetensors(file: &Bytes) -> Result<Self, WeightError> {
        let read = SafeTensors::deserialize(file).map_err(|error| WeightError::Safetensors(error.to_string()))?;
        if read.len() > TENSORS_MAX {
            return Err(WeightError::Safetensors(format!("{} tensors are too many", read.len())));
        }
        let mut weights = Self::default();
        for (name, view) in read.iter() {
            let stored = match view.dtype() {
                Dtype::F32 => Stored::F32,
                Dtype::F16 => Stored::F16,
                Dtype::BF16 => Stored::Bf16,
                other => {
                    weights.others.insert(name.to_owned(), format!("{other:?}"));
                    continue;
                }
            };
            weights.insert(name.to_owned(), view.shape().to_vec(), stored, file.slice_ref(view.data()))?;
        }
        Ok(weights)
    }

    /// Adds a tensor whose bytes are exactly as many as its shape says.
    fn insert(&mut self, name: String, shape: Vec<usize>, stored: Stored, data: Bytes) -> Result<(), WeightError> {
        let needed = shape.iter().try_fold(stored.bytes(), |all, side| all.checked_mul(*side));
        if needed != Some(data.len()) {
            let problem = format!("of shape {shape:?} has {} bytes", data.len());
            return Err(WeightError::Tensor { name, problem });
        }
        if self.tensors.contains_key(&name) {
            return Err(WeightError::Tensor { name, problem: "is there twice".to_owned() });
        }
        self.tensors.insert(name, Tensor { shape, stored, data });
        Ok(())
    }

    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// All tensors by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Puts a tensor under `name`, in the place of one that is there.
    pub fn put(&mut self, name: impl Into<String>, tensor: Tensor) {
        self.tensors.insert(name.into(), tensor);
    }

    /// Adds the tensors of another file of the same model.
    ///
    /// # Errors
    /// [`WeightError::Tensor`] when both have one of the same name.
    pub fn join(&mut self, other: Self) -> Result<(), WeightError> {
        for (name, Tensor { shape, stored, data }) in other.tensors {
            self.insert(name, shape, stored, data)?;
        }
        self.others.extend(other.others);
        Ok(())
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Values of the tensor `name`, which must have this shape.
    ///
    /// # Errors
    /// [`WeightError::Tensor`]: it is missing, has another shape, or holds NaN or infinity.
    pub fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, WeightError> {
        let values = self.find(name, shape)?.to_f32();
        match values.iter().position(|value| !value.is_finite()) {
            Some(at) => Err(not_finite(name, values[at], at)),
            None => Ok(values),
        }
    }

    /// The bytes of a tensor that its file keeps as f16, without a copy; `None` for one that it keeps otherwise.
    ///
    /// # Errors
    /// As [`Self::values`].
    pub fn halves(&self, name: &str, shape: &[usize]) -> Result<Option<&[[u8; 2]]>, WeightError> {
        let tensor = self.find(name, shape)?;
        if tensor.stored != Stored::F16 {
            return Ok(None);
        }
        let (halves, _) = tensor.data.as_chunks();
        let finite = |half: &[u8; 2]| half[1] & 0x7c != 0x7c; // all ones in the exponent
        match halves.iter().position(|half| !finite(half)) {
            Some(at) => Err(not_finite(name, f16::from_le_bytes(halves[at]).to_f32(), at)),
            None => Ok(Some(halves)),
        }
    }

    /// A tensor that becomes floats bit by bit, when a loop wants them. All of it is read once here: that it is finite is
    /// known before anything is computed.
    ///
    /// # Errors
    /// As [`Self::values`].
    pub fn source(&self, name: &str, shape: &[usize]) -> Result<Lazy, WeightError> {
        const PART: usize = 4096;
        let tensor = self.find(name, shape)?;
        let lazy = Lazy { stored: tensor.stored, data: tensor.data.clone() };
        let mut values = [0.0; PART];
        for first in (0..lazy.len()).step_by(PART) {
            let values = &mut values[..PART.min(lazy.len() - first)];
            lazy.read(first, values);
            if backlot_kernels::all_finite(values) {
                continue;
            }
            let at = values.iter().position(|value| !value.is_finite()).unwrap_or(0);
            return Err(not_finite(name, values[at], first + at));
        }
        Ok(lazy)
    }

    fn find(&self, name: &str, shape: &[usize]) -> Result<&Tensor, WeightError> {
        let wrong = |problem: String| WeightError::Tensor { name: name.to_owned(), problem };
        let tensor = self.get(name).ok_or_else(|| match self.others.get(name) {
            Some(kind) => wrong(format!("is {kind}, not a float this agent reads")),
            None => wrong("is missing".to_owned()),
        })?;
        if tensor.shape != shape {
            return Err(wrong(format!("has shape {:?}, not {shape:?}", tensor.shape)));
        }
        Ok(tensor)
    }
}

/// A tensor in its file, read as floats a part at a time.
#[derive(Clone, Debug)]
pub struct Lazy {
    stored: Stored,
    data: Bytes,
}

impl Lazy {
    #[must_use]
    pub fn len(&self) -> usize {
        self.data.len() / self.stored.bytes()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }
}

impl backlot_kernels::Source for Lazy {
    fn read(&self, first: usize, to: &mut [f32]) {
        let data = &self.data[first * self.stored.bytes()..][..to.len() * self.stored.bytes()];
        match self.stored {
            Stored::F32 => backlot_kernels::widen_f32(data.as_chunks().0, to),
            Stored::F16 => backlot_kernels::widen_f16(data.as_chunks().0, to),
            Stored::Bf16 => backlot_kernels::widen_bf16(data.as_chunks().0, to),
        }
    }
}

fn not_finite(name: &str, value: f32, at: usize) -> WeightError {
    WeightError::Tensor { name: name.to_owned(), problem: format!("holds {value} at element {at}") }
}

impl Tensor {
    /// A tensor of values in memory, as many as `shape` says, rounded to what `stored` keeps.
    #[must_use]
    pub fn stored_as(stored: Stored, shape: &[usize], values: &[f32]) -> Self {
        debug_assert_eq!(shape.iter().product::<usize>(), values.len());
        let data: Vec<u8> = match stored {
            Stored::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Stored::F16 => values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect(),
            Stored::Bf16 => values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect(),
        };
        Self { shape: shape.to_vec(), stored, data: data.into() }
    }

    /// Part `index` of `parts` equal ones along the first axis, without a copy; `None` when it does not divide.
    #[must_use]
    pub fn part(&self, index: usize, parts: usize) -> Option<Self> {
        let rows = *self.shape.first()?;
        if parts == 0 || index >= parts || !rows.is_multiple_of(parts) {
            return None;
        }
        let bytes = self.data.len() / parts;
        let mut shape = self.shape.clone();
        shape[0] = rows / parts;
        Some(Self { shape, stored: self.stored, data: self.data.slice(index * bytes..(index + 1) * bytes) })
    }

    /// The same values under another shape; `None` when there are more or fewer.
    #[must_use]
    pub fn reshaped(&self, shape: &[usize]) -> Option<Self> {
        let same = shape.iter().product::<usize>() == self.shape.iter().product::<usize>();
        same.then(|| Self { shape: shape.to_vec(), ..self.clone() })
    }

    #[must_use]
    pub fn to_f32(&self) -> Vec<f32> {
        let pairs = || self.data.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
        match self.stored {
            Stored::F32 => self.data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            Stored::F16 => pairs().map(|bits| f16::from_bits(bits).to_f32()).collect(),
            Stored::Bf16 => pairs().map(|bits| bf16::from_bits(bits).to_f32()).collect(),
        }
    }
}

/// Maps a whole file.
///
/// # Errors
/// [`WeightError::Open`] when it cannot be opened or mapped.
pub fn map(path: &Path) -> Result<Bytes, WeightError> {
    let open = |source| WeightError::Open { file: path.display().to_string(), source };
    let file = File::open(path).map_err(open)?;
    // SAFETY: the model folder belongs to the agent, which writes a file whole and renames it into place, and never
    // changes one. Somebody else who truncates it under a running worker ends that worker by SIGBUS; the job goes
    // back and the next worker finds the checksum wrong.
    let mapped = unsafe { memmap2::Mmap::map(&file) }.map_err(open)?;
    Ok(Bytes::from_owner(mapped))
}

/// Maps a file whose content must have this SHA-256 (hex).
///
/// # Errors
/// [`WeightError::Open`] or [`WeightError::Checksum`].
pub fn map_pinned(path: &Path, pinned: &str) -> Result<Bytes, WeightError> {
    let mapped = map(path)?;
    let found = hex::encode(Sha256::digest(&mapped));
    if found.eq_ignore_ascii_case(pinned) {
        Ok(mapped)
    } else {
        Err(WeightError::Checksum { file: path.display().to_string(), found, pinned: pinned.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn safetensors(header: &str, data: &[u8]) -> Bytes {
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(header.as_bytes());
        file.extend_from_slice(data);
        file.into()
    }

    #[test]
    fn floats_of_each_width_become_f32() {
        let header = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},
            "b":{"dtype":"F16","shape":[1],"data_offsets":[4,6]},"c":{"dtype":"BF16","shape":[1,1],"data_offsets":[6,8]}}"#;
        let weights = Weights::safetensors(&safetensors(header, &[0, 0, 0x80, 0x3f, 0, 0x3c, 0x80, 0x3f])).unwrap();
        for (name, shape) in [("a", &[1][..]), ("b", &[1]), ("c", &[1, 1])] {
            assert_eq!(weights.values(name, shape).unwrap(), [1.0], "{name}");
        }
        assert!(weights.values("c", &[1]).unwrap_err().to_string().contains("shape [1, 1], not [1]"));
        assert!(weights.values("d", &[1]).unwrap_err().to_string().contains("missing"));
    }

    #[test]
    fn a_header_that_lies_is_an_error() {
        let lie = |header: &str| Weights::safetensors(&safetensors(header, &[0; 8])).unwrap_err().to_string();
        lie(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,400]}}"#);
        lie(r#"{"a":{"dtype":"F32","shape":[9999999999,9999999999,9999999999],"data_offsets":[0,8]}}"#);
        lie(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#);
        let whole = r#"{"a":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}"#;
        let others = Weights::safetensors(&safetensors(whole, &[0; 8])).unwrap();
        assert!(others.is_empty() && others.values("a", &[1]).unwrap_err().to_string().contains("is I64"));
        let mut huge = vec![0xff; 7];
        huge.push(0x7f);
        assert!(Weights::safetensors(&huge.into()).is_err());
        assert!(Weights::safetensors(&Bytes::new()).is_err());
    }

    #[test]
    fn a_weight_that_is_not_finite_is_refused() {
        let header = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        let nan = [0, 0, 0, 0, 0, 0, 0xc0, 0x7f];
        let weights = Weights::safetensors(&safetensors(header, &nan)).unwrap();
        assert!(weights.values("a", &[2]).unwrap_err().to_string().contains("NaN at element 1"));
        assert!(weights.halves("a", &[2]).unwrap().is_none(), "these are floats");
        let header = r#"{"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}"#;
        for (bits, words) in [(0x7c00_u16, "inf"), (0xfc00, "-inf"), (0x7e01, "NaN")] {
            let data = [0x00, 0x3c, bits.to_le_bytes()[0], bits.to_le_bytes()[1]];
            let weights = Weights::safetensors(&safetensors(header, &data)).unwrap();
            let error = weights.halves("a", &[2]).unwrap_err().to_string();
            assert!(error.contains(&format!("{words} at element 1")), "{error}");
        }
        let largest = [0x00, 0x3c, 0xff, 0x7b];
        let weights = Weights::safetensors(&safetensors(header, &largest)).unwrap();
        assert_eq!(weights.halves("a", &[2]).unwrap().unwrap(), [[0x00, 0x3c], [0xff, 0x7b]]);
    }

    #[test]
    fn a_file_that_is_not_the_pinned_one_is_refused_with_both_sums() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.bin");
        std::fs::write(&path, b"abc").unwrap();
        let sum = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(map_pinned(&path, sum).unwrap().as_ref(), b"abc");
        let error = map_pinned(&path, &"0".repeat(64)).unwrap_err().to_string();
        assert!(error.contains(sum) && error.contains("x.bin"), "{error}");
        std::fs::write(&path, b"").unwrap();
        assert!(map_pinned(&path, sum).is_err());
    }
}
