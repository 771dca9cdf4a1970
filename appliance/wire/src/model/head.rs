//! The head of a safetensors file: which tensors it has and where they lie, checked against the file's length.
//!
//! A head that lies is found out here, before anything of the file is stored or loaded: tensors cover what follows the head
//! without gaps and without overlap, and each has as many bytes as its shape says.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Longest head, in bytes; the format's own bound.
pub const HEAD_BYTES_MAX: u64 = 100_000_000;
/// Bytes before the head, which say how long it is.
pub const PREFIX_BYTES: u64 = 8;
const TENSORS_MAX: usize = 100_000;
const AXES_MAX: usize = 16;

/// Why a file is no safetensors file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct HeadError(String);

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Tensor {
    pub dtype: String,
    pub shape: Vec<u64>,
    /// Begin and end, counted from the end of the head.
    pub data_offsets: [u64; 2],
}

/// The tensors of a file by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    pub tensors: BTreeMap<String, Tensor>,
}

/// What a file that begins so is, if it is a pickled checkpoint: a program that whoever loads it runs.
#[must_use]
pub fn pickle(first: &[u8]) -> Option<&'static str> {
    match first {
        [b'P', b'K', 3, 4, ..] => Some("a zip archive, as PyTorch writes its pickled checkpoints"),
        [0x80, 2..=5, ..] => Some("a pickled Python object"),
        _ => None,
    }
}

/// Length of the head of a file of `file_bytes` that begins with `prefix`, in bytes.
///
/// # Errors
/// [`HeadError`] when it cannot be one.
pub fn head_bytes(prefix: [u8; 8], file_bytes: u64) -> Result<u64, HeadError> {
    let bytes = u64::from_le_bytes(prefix);
    let room = file_bytes.saturating_sub(PREFIX_BYTES);
    if bytes > HEAD_BYTES_MAX || bytes > room || bytes < 2 {
        return Err(HeadError(format!("its head would have {bytes} bytes, the file has {file_bytes}")));
    }
    Ok(bytes)
}

impl Header {
    /// Reads the head of a file that has `data_bytes` after it.
    ///
    /// # Errors
    /// [`HeadError`] names the tensor that is wrong.
    pub fn read(head: &[u8], data_bytes: u64) -> Result<Self, HeadError> {
        let mut fields: BTreeMap<String, serde_json::Value> =
            serde_json::from_slice(head).map_err(|error| HeadError(format!("its head is no JSON object: {error}")))?;
        fields.remove("__metadata__");
        if fields.len() > TENSORS_MAX {
            return Err(HeadError(format!("it has {} tensors, more than {TENSORS_MAX}", fields.len())));
        }
        let mut tensors = BTreeMap::new();
        for (name, value) in fields {
            let tensor: Tensor = serde_json::from_value(value)
                .map_err(|error| HeadError(format!("the tensor `{}` is not understood: {error}", short(&name))))?;
            tensor.check().map_err(|problem| HeadError(format!("the tensor `{}` {problem}", short(&name))))?;
            tensors.insert(name, tensor);
        }
        let mut places: Vec<([u64; 2], &str)> =
            tensors.iter().map(|(name, tensor)| (tensor.data_offsets, name.as_str())).collect();
        places.sort_unstable();
        let mut end = 0;
        for ([from, to], name) in places {
            if from != end {
                let name = short(name);
                return Err(HeadError(format!("the tensor `{name}` begins at {from}, the one before ends at {end}")));
            }
            end = to;
        }
        if end != data_bytes {
            return Err(HeadError(format!("its tensors have {end} bytes, the file has {data_bytes} after its head")));
        }
        Ok(Self { tensors })
    }
}

impl Tensor {
    fn check(&self) -> Result<(), String> {
        let [from, to] = self.data_offsets;
        let Some(bytes) = to.checked_sub(from) else { return Err("ends before it begins".to_owned()) };
        if self.shape.len() > AXES_MAX {
            return Err(format!("has {} axes", self.shape.len()));
        }
        let Some(bits) = bits_of(&self.dtype) else { return Ok(()) };
        let needed = self.shape.iter().try_fold(bits, |all, side| all.checked_mul(*side));
        if needed.map(|bits| bits.div_ceil(8)) != Some(bytes) {
            return Err(format!("of shape {:?} and type {} has {bytes} bytes", self.shape, self.dtype));
        }
        Ok(())
    }
}

/// Bits of one number; `None` for a type that is not known here.
fn bits_of(dtype: &str) -> Option<u64> {
    Some(match dtype {
        "F64" | "I64" | "U64" | "C64" => 64,
        "F32" | "I32" | "U32" => 32,
        "F16" | "BF16" | "I16" | "U16" => 16,
        "I8" | "U8" | "BOOL" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" => 8,
        _ => return None,
    })
}

fn short(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(80).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = r#"{"__metadata__":{"format":"pt"},"b":{"dtype":"F16","shape":[2,1],"data_offsets":[4,8]},
        "a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"c":{"dtype":"F4","shape":[9],"data_offsets":[8,9]}}"#;

    #[test]
    fn a_head_tells_its_tensors() {
        let header = Header::read(GOOD.as_bytes(), 9).unwrap();
        assert_eq!(header.tensors.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(header.tensors["b"].shape, [2, 1]);
    }

    #[test]
    fn a_head_that_lies_names_what_is_wrong() {
        for (from, to, words) in [
            ("[4,8]", "[5,9]", "`b` begins at 5"),
            ("[4,8]", "[0,4]", "begins at 0"),
            ("[4,8]", "[8,4]", "ends before"),
            ("[2,1]", "[2,2]", "`b` of shape [2, 2]"),
            ("[2,1]", "[9999999999999,9999999999999]", "`b` of shape"),
            ("[8,9]", "[8,90]", "90 bytes, the file has 9"),
            ("\"F16\"", "7", "`b` is not understood"),
        ] {
            let error = Header::read(GOOD.replacen(from, to, 1).as_bytes(), 9).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        assert!(Header::read(b"[]", 0).is_err());
        assert!(head_bytes(u64::MAX.to_le_bytes(), 100).is_err());
        assert!(head_bytes(93_u64.to_le_bytes(), 100).is_err());
        assert_eq!(head_bytes(92_u64.to_le_bytes(), 100), Ok(92));
    }

    #[test]
    fn a_pickle_is_known_whatever_it_is_called() {
        assert!(pickle(b"PK\x03\x04rest").is_some() && pickle(b"\x80\x02}q").is_some());
        assert!(pickle(b"\x10\0\0\0\0\0\0\0{}").is_none() && pickle(b"").is_none());
    }

    proptest! {
        #[test]
        fn no_head_panics(head in prop::collection::vec(any::<u8>(), 0..200), bytes in any::<u64>()) {
            let _ = Header::read(&head, bytes);
        }

        /// Beside a slow, obvious reference: every byte after the head belongs to exactly one tensor.
        #[test]
        fn what_is_taken_covers_each_byte_once(places in prop::collection::vec((0_u64..12, 0_u64..6), 0..5), bytes in 0_u64..14) {
            let tensors: serde_json::Map<_, _> = places.iter().enumerate().map(|(i, (from, len))| {
                let tensor = serde_json::json!({"dtype": "U8", "shape": [len], "data_offsets": [from, from + len]});
                (format!("t{i}"), tensor)
            }).collect();
            let read = Header::read(&serde_json::to_vec(&tensors).unwrap(), bytes);
            let mut owners = vec![0; 64];
            for (from, len) in &places {
                (*from..from + len).for_each(|at| owners[at as usize] += 1);
            }
            let covers = (0..64).all(|at| owners[at] == usize::from((at as u64) < bytes));
            // Tensors without bytes may lie between two others.
            let empty_inside = places.iter().any(|(from, len)| *len == 0 && !is_border(&places, *from, bytes));
            prop_assert_eq!(read.is_ok(), covers && !empty_inside, "{:?}", read);
        }
    }

    fn is_border(places: &[(u64, u64)], at: u64, bytes: u64) -> bool {
        at == 0 || at == bytes || places.iter().any(|(from, len)| *len > 0 && (*from == at || from + len == at))
    }
}
