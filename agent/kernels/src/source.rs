//! Where weights come from: memory, or a file whose numbers become floats when a loop wants them.
//!
//! What a convolution's loops read is up to eight times as large as the halves that a file has. So small weights are
//! packed once, and large ones for each run, a part at a time, into scratch that all share: that costs a few percent of
//! the run, is less to fetch from memory than the packed form would be, and leaves the file's pages the only copy.

use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use pulp::Arch;

/// Packed weights up to this size are kept.
pub(crate) const KEPT_BYTES_MAX: usize = 2 << 20;

/// Numbers that are converted together.
const CHUNK: usize = 512;

/// A tensor of weights in the order of its file.
pub trait Source: Send + Sync {
    /// Writes those from number `first` on into `to`. The caller asks for none beyond the end.
    fn read(&self, first: usize, to: &mut [f32]);
}

impl Source for Vec<f32> {
    fn read(&self, first: usize, to: &mut [f32]) {
        to.copy_from_slice(&self[first..first + to.len()]);
    }
}

/// IEEE halves, little-endian, as floats.
pub fn widen_f16(from: &[[u8; 2]], to: &mut [f32]) {
    let mut bits = [0_u16; CHUNK]; // a file's bytes lie where they lie; the conversion wants them aligned
    for (from, to) in from.chunks(CHUNK).zip(to.chunks_mut(CHUNK)) {
        let bits = &mut bits[..from.len()];
        for (bits, from) in bits.iter_mut().zip(from) {
            *bits = u16::from_le_bytes(*from);
        }
        let halves: &[f16] = bits.reinterpret_cast();
        halves.convert_to_f32_slice(to);
    }
}

/// Brain floats, little-endian, as floats.
pub fn widen_bf16(from: &[[u8; 2]], to: &mut [f32]) {
    Arch::new().dispatch(|| {
        for (to, from) in to.iter_mut().zip(from) {
            *to = f32::from_bits(u32::from(u16::from_le_bytes(*from)) << 16);
        }
    });
}

/// Floats, little-endian.
pub fn widen_f32(from: &[[u8; 4]], to: &mut [f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = f32::from_le_bytes(*from);
    }
}

/// Whether no value is NaN or infinite.
#[must_use]
pub fn all_finite(values: &[f32]) -> bool {
    // Without a way out of the loop, so that it goes by vectors.
    let bits = values.iter().fold(0, |worst, value| (value.to_bits() & 0x7fff_ffff).max(worst));
    bits < f32::INFINITY.to_bits()
}

/// A convolution's weights: packed for its loops, or where they come from.
pub(crate) enum Weights {
    Packed(Vec<f32>),
    Source(Box<dyn Source>),
}

impl Weights {
    /// Packs `len` floats by `pack` where they are few.
    pub(crate) fn new(source: Box<dyn Source>, len: usize, pack: impl FnOnce(&dyn Source, &mut [f32])) -> Self {
        if len * size_of::<f32>() > KEPT_BYTES_MAX {
            return Self::Source(source);
        }
        let mut packed = vec![0.0; len];
        pack(source.as_ref(), &mut packed);
        Self::Packed(packed)
    }

    /// Floats that are held.
    pub(crate) fn held(&self) -> usize {
        match self {
            Self::Packed(packed) => packed.len(),
            Self::Source(_) => 0,
        }
    }
}
