//! Work on frames that no model does: colours, tone mapping, LUTs, resizing, grain, compositing, differences.
//!
//! A [`Recipe`] says how the bytes of a frame are read, what is done in which order, and how the result is written;
//! a [`Chain`] does it, frame after frame. There are two of the same meaning: one in Rust on the CPU's cores, which every host
//! has, and one in WGSL on a GPU. Between the steps a frame is f32, red, green, blue and alpha (not multiplied in), with
//! the values that the file had, 0 to 1: only tone mapping knows of light.
//!
//! Invariant: a chain never keeps anything from one frame for the next, so frames may be done in any order.

mod colour;
mod compose;
mod format;
mod gpu;
mod grain;
mod lut;
mod resize;

use std::sync::Arc;

pub use colour::{Curve, Display, ToneMap};
pub use compose::{Difference, Over};
pub use format::{Depth, Format, Layout, Matrix, Range, Sampling};
pub use grain::Grain;
pub use lut::{BYTES_MAX as LUT_BYTES_MAX, Lut, LutError};

use crate::infer::wgpu::device::Wanted;
use resize::Lanczos;

/// Most pixels of a frame at any step: 8192 × 4320.
pub const PIXELS_MAX: usize = 8_192 * 4_320;
/// Longest side.
pub const SIDE_MAX: usize = 16_384;
/// Most steps of a recipe.
pub const STEPS_MAX: usize = 32;

/// A frame between two steps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Frame {
    pub width: usize,
    pub height: usize,
    /// Red, green, blue, alpha of each pixel.
    pub data: Vec<[f32; 4]>,
}

/// What is done to a frame.
#[derive(Clone, Debug)]
pub enum Step {
    ToneMap(ToneMap),
    Lut(Arc<Lut>),
    /// To these sides, by a Lanczos filter of three lobes.
    Resize {
        width: usize,
        height: usize,
    },
    Grain(Grain),
    Over(Over),
    Difference(Difference),
}

/// From bytes to bytes.
#[derive(Clone, Debug)]
pub struct Recipe {
    pub from: Format,
    pub steps: Vec<Step>,
    /// Sides may be one longer than those of the last step, which repeats the last column or row: codecs want even ones.
    pub to: Format,
}

/// Why a recipe cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorkError {
    /// The recipe makes no sense, or too much of it.
    #[error("{0}")]
    Recipe(String),
    #[error("the GPU failed: {0}")]
    Device(String),
}

impl Recipe {
    /// Sides after each step.
    ///
    /// # Errors
    /// [`WorkError::Recipe`] for frames and numbers out of their bounds.
    pub fn check(&self) -> Result<Vec<(usize, usize)>, WorkError> {
        let wrong = |problem: String| Err(WorkError::Recipe(problem));
        if self.steps.len() > STEPS_MAX {
            return wrong(format!("{} operations are more than {STEPS_MAX}", self.steps.len()));
        }
        let mut size = (self.from.width, self.from.height);
        let mut sizes = Vec::with_capacity(self.steps.len());
        let within = |(width, height): (usize, usize)| {
            (1..=SIDE_MAX).contains(&width) && (1..=SIDE_MAX).contains(&height) && width * height <= PIXELS_MAX
        };
        if !within(size) {
            return wrong(format!("a frame of {} x {} pixels is not worked on", size.0, size.1));
        }
        for (at, step) in self.steps.iter().enumerate() {
            let problem = match step {
                Step::ToneMap(tone) => tone.problem(),
                Step::Lut(_) => None,
                Step::Resize { width, height } => {
                    size = (*width, *height);
                    (!within(size))
                        .then(|| format!("a size of {width} x {height} pixels is not 1 x 1 to {PIXELS_MAX} pixels"))
                }
                Step::Grain(grain) => grain.problem(),
                Step::Over(over) => over.problem(),
                Step::Difference(difference) => difference.problem(size),
            };
            if let Some(problem) = problem {
                return wrong(format!("operation {at}: {problem}"));
            }
            sizes.push(size);
        }
        let fits = |own: usize, wanted: usize| wanted == own || wanted == own + 1;
        if !fits(size.0, self.to.width) || !fits(size.1, self.to.height) {
            return wrong(format!(
                "{} x {} pixels do not become {} x {}",
                size.0, size.1, self.to.width, self.to.height
            ));
        }
        Ok(sizes)
    }
}

/// Where frames are worked on.
pub struct Bench {
    gpu: Option<gpu::Bench>,
}

impl Bench {
    /// On the CPU.
    #[must_use]
    pub fn cpu() -> Self {
        Self { gpu: None }
    }

    /// On that adapter, or on the CPU where there is none.
    ///
    /// # Errors
    /// [`WorkError::Device`] when there is one and it does not open.
    pub fn on(wanted: Wanted, which: usize) -> Result<Self, WorkError> {
        Ok(Self { gpu: gpu::Bench::open(wanted, which)? })
    }

    /// `wgpu` or `cpu`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        if self.gpu.is_some() { "wgpu" } else { "cpu" }
    }

    /// Makes everything that a recipe needs. One whose frames are larger than the GPU lets a shader see is done by the CPU.
    ///
    /// # Errors
    /// [`WorkError`]
    pub fn chain(&self, recipe: Recipe) -> Result<Chain, WorkError> {
        let sizes = recipe.check()?;
        if let Some(bench) = &self.gpu
            && bench.has_room(&recipe, &sizes)
        {
            return Ok(Chain::Gpu(Box::new(bench.chain(&recipe, &sizes)?)));
        }
        Ok(Chain::Cpu(recipe))
    }
}

/// A recipe, ready to be followed.
pub enum Chain {
    Cpu(Recipe),
    Gpu(Box<gpu::Chain>),
}

impl Chain {
    #[must_use]
    pub fn name(&self) -> &'static str {
        if matches!(self, Self::Gpu(_)) { "wgpu" } else { "cpu" }
    }

    /// Does frame `number` (which only grain looks at) of bytes `from`, as the recipe's formats say, into `to`.
    ///
    /// # Errors
    /// [`WorkError::Recipe`] when `from` is not as long as its format says; [`WorkError::Device`].
    pub fn run(&mut self, from: &[u8], number: u32, to: &mut Vec<u8>) -> Result<(), WorkError> {
        let format = match self {
            Self::Cpu(recipe) => recipe.from,
            Self::Gpu(chain) => chain.from,
        };
        if from.len() != format.bytes() {
            return Err(WorkError::Recipe(format!("{} bytes given for a frame of {}", from.len(), format.bytes())));
        }
        match self {
            Self::Gpu(chain) => chain.run(from, number, to),
            Self::Cpu(recipe) => {
                let mut frame = recipe.from.read(from);
                for step in &recipe.steps {
                    frame = step.apply(frame, number);
                }
                recipe.to.write(&frame, to);
                Ok(())
            }
        }
    }
}

impl Step {
    fn apply(&self, mut frame: Frame, number: u32) -> Frame {
        match self {
            Self::ToneMap(tone) => tone.apply(&mut frame),
            Self::Lut(lut) => lut.apply(&mut frame),
            Self::Resize { width, height } => return Lanczos::new(&frame, *width, *height).apply(&frame),
            Self::Grain(grain) => grain.apply(&mut frame, number),
            Self::Over(over) => over.apply(&mut frame),
            Self::Difference(difference) => difference.apply(&mut frame),
        }
        frame
    }
}
