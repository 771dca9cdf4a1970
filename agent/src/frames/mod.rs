//! Pictures and clips around the models: decode, tile, encode.
//!
//! Pictures are 8 bits a channel, red green blue, without gaps. Deeper ones are brought to 8 bits; clips with a
//! high dynamic range are refused, because that is no mere rounding. Decoders of still images are Rust; clips go
//! through `ffmpeg` in processes of their own.

pub mod clip;
pub mod ffmpeg;
pub mod image;
pub mod probe;
pub mod tiles;
pub mod work;

use crate::infer::Failure;

/// An 8-bit RGB picture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rgb {
    pub width: usize,
    pub height: usize,
    /// `width * height * 3` bytes.
    pub data: Vec<u8>,
}

impl Rgb {
    #[must_use]
    pub fn black(width: usize, height: usize) -> Self {
        Self { width, height, data: vec![0; width * height * 3] }
    }
}

/// A failure of the disk. A full one may be empty on the next try, and on another host it is another disk.
pub(crate) fn disk(what: &str, path: &std::path::Path, error: &std::io::Error) -> Failure {
    let name = path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned());
    Failure::transient(format!("{what} `{name}`: {error}"))
}
