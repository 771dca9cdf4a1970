//! The loops of the CPU executor: arithmetic over slices, nothing else.
//!
//! A crate of its own so that it can be optimised in every profile while the agent around it builds fast.
//! Pictures are channels-last (`[height][width][channels]`, f32) and without gaps. A convolution takes a batch of them; for
//! the rest a batch is the caller's loop.
//! The vector width is found at run time by `pulp` (AVX2 with FMA, NEON, or plain Rust), so there is no `unsafe`
//! here. Work is spread over the rayon pool that the caller has installed. Sizes that do not fit the slices are
//! the caller's mistake and panic; nothing here reads data from outside the process.

mod attention;
mod conv;
mod lanes;
mod math;
mod norm;
mod picture;
mod pointwise;
mod source;
mod winograd;

pub use attention::{Heads, attention};
pub use conv::{Conv, Pad, Pictures};
pub use norm::{Affine, group_norm, layer_norm};
pub use picture::{Size, concat_rows, pixel_shuffle, resize_bicubic, split_rows, upsample_nearest};
pub use pointwise::{add, add_channels, geglu, gelu, mul, prelu, quick_gelu, scale, silu};
pub use source::{Source, all_finite, widen_bf16, widen_f16, widen_f32};
