//! Work on sound: what a file holds, its samples in and out, noise, and where somebody speaks.
//!
//! Samples travel as f64 with full scale at ±1, interleaved, through two `ffmpeg` processes that decode and encode and do
//! nothing else: rates are changed here ([`resample`]), so that nothing is ever off by a sample. Everything streams: a sound of a
//! day takes no more memory than one of a second.
//!
//! Absent on purpose: more than 32 channels, and rates beyond 8 to 192 kHz.

pub mod denoise;
pub mod encode;
pub mod pipe;
pub mod probe;
pub mod resample;
pub mod speech;

/// Samples further from zero than this are no sound: 48 dB over full scale.
pub(crate) const SAMPLE_MAX: f64 = 256.0;
