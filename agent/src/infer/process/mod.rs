//! The job types that no model is needed for: `image.process`, `video.process` and `image.contact-sheet`.
//!
//! A list of operations becomes a [`Recipe`] for each input; pictures that operations name (LUTs, overlays, what is
//! compared with) are inputs too and are not worked on themselves.

mod clip;
mod parameters;
mod sheet;

use std::path::Path;
use std::sync::Arc;

use backlot_wire::cause;
use serde_json::Map;

use self::parameters::{Operation, operations};
use super::progress::Progress;
use super::{Context, DEVICE, Failure, Made, Report, Task};
use crate::frames::image::{self, Deep};
use crate::frames::work::{Format, Frame, LUT_BYTES_MAX, Layout, Lut, Recipe, Step, WorkError};
use crate::frames::{Rgb, disk};

/// Job types of this room.
pub(super) const KINDS: [&str; 3] = ["image.process", "video.process", "image.contact-sheet"];

pub(super) fn run(task: &Task, ctx: &mut Context<'_>) -> Result<Vec<Made>, Failure> {
    if task.kind == "image.contact-sheet" {
        return sheet::run(task, ctx);
    }
    let operations = operations(&task.parameters)?;
    let helpers: Vec<usize> = operations.iter().filter_map(Operation::input).collect();
    if let Some(missing) = helpers.iter().find(|input| **input >= task.inputs.len()) {
        let count = task.inputs.len();
        return Err(Failure::permanent(format!("an operation names input {missing}; the job has {count}, from 0")));
    }
    let own: Vec<&Path> = (0..task.inputs.len())
        .filter(|input| !helpers.contains(input))
        .map(|input| task.inputs[input].as_path())
        .collect();
    if own.is_empty() {
        return Err(Failure::permanent("every input is one that an operation names; none is left to work on"));
    }
    ctx.phase("load");
    let loaded = Loaded::new(&operations, task)?;
    ctx.phase("infer");
    let mut progress = Progress::new(own.len());
    let mut made = Vec::new();
    for (index, path) in own.iter().enumerate() {
        ctx.check_cancel()?;
        let last = index + 1 == own.len();
        let base = index as f32 * progress.share;
        made.push(if task.kind == "image.process" {
            let deep = image::decode_deep(path)?;
            let recipe = still(&loaded, &deep)?;
            if last {
                (ctx.report)(Report::Phase("post"));
            }
            let to = task.output_dir.join(progress.name(path, "processed", "png"));
            let made = write(&loaded, ctx, recipe, deep, to)?;
            progress.percent(base, 1.0, ctx.report);
            made
        } else {
            let to = task.output_dir.join(progress.name(path, "processed", "mp4"));
            clip::run(&loaded, path, to, ctx, last, &mut progress, base)?
        });
    }
    progress.percent(1.0, 0.0, ctx.report);
    Ok(made)
}

/// The operations with what they read.
struct Loaded {
    operations: Vec<Operation>,
    /// By operation.
    luts: Vec<Option<Arc<Lut>>>,
    pictures: Vec<Option<Arc<Frame>>>,
}

impl Loaded {
    fn new(operations: &[Operation], task: &Task) -> Result<Self, Failure> {
        let mut loaded = Self { operations: operations.to_vec(), luts: Vec::new(), pictures: Vec::new() };
        for (at, operation) in operations.iter().enumerate() {
            let path = operation.input().map(|input| task.inputs[input].as_path());
            let is_lut = matches!(operation, Operation::Lut { .. });
            let of_operation = |failure: Failure| {
                let message = format!("operation {at}: {}", failure.message);
                Failure { message, ..failure }
            };
            loaded.luts.push(path.filter(|_| is_lut).map(lut).transpose().map_err(of_operation)?.map(Arc::new));
            loaded
                .pictures
                .push(path.filter(|_| !is_lut).map(picture).transpose().map_err(of_operation)?.map(Arc::new));
        }
        Ok(loaded)
    }

    /// The steps for a frame of this size.
    fn steps(&self, (width, height): (usize, usize)) -> Result<Vec<Step>, Failure> {
        let mut size = (width, height);
        let mut steps = Vec::with_capacity(self.operations.len());
        for (at, operation) in self.operations.iter().enumerate() {
            let step = operation.step(size, self.luts[at].as_ref(), self.pictures[at].as_ref());
            let step = step.map_err(|problem| Failure::permanent(format!("operation {at}: {problem}")))?;
            if let Step::Resize { width, height } = step {
                size = (width, height);
            }
            steps.push(step);
        }
        Ok(steps)
    }

    /// Whether colours still mean what the file's profile says.
    fn keeps_colours(&self) -> bool {
        !self
            .operations
            .iter()
            .any(|o| matches!(o, Operation::ToneMap { .. } | Operation::Lut { .. } | Operation::Difference { .. }))
    }
}

fn lut(path: &Path) -> Result<Lut, Failure> {
    let bytes = std::fs::metadata(path).map_err(|error| disk("read", path, &error))?.len();
    if bytes > LUT_BYTES_MAX {
        return Err(Failure::permanent(format!("the LUT has {bytes} bytes, more than {LUT_BYTES_MAX}")));
    }
    let data = std::fs::read(path).map_err(|error| disk("read", path, &error))?;
    Lut::read(&data).map_err(|error| Failure::permanent(format!("the LUT is not read: {error}")))
}

fn picture(path: &Path) -> Result<Frame, Failure> {
    let deep = image::decode_deep(path)?;
    let data = deep.rgba.chunks_exact(4).map(|pixel| std::array::from_fn(|c| f32::from(pixel[c]) / 65_535.0));
    Ok(Frame { width: deep.width, height: deep.height, data: data.collect() })
}

fn still(loaded: &Loaded, deep: &Deep) -> Result<Recipe, Failure> {
    let from = Format { width: deep.width, height: deep.height, layout: Layout::Rgba16 };
    let steps = loaded.steps((deep.width, deep.height))?;
    let (width, height) = steps.iter().fold((deep.width, deep.height), |size, step| match step {
        Step::Resize { width, height } => (*width, *height),
        _ => size,
    });
    Ok(Recipe { from, steps, to: Format::rgba8(width, height) })
}

/// Follows the recipe for one picture and writes it as PNG, with alpha where something is not opaque.
fn write(
    loaded: &Loaded,
    ctx: &mut Context<'_>,
    recipe: Recipe,
    deep: Deep,
    path: std::path::PathBuf,
) -> Result<Made, Failure> {
    let (width, height) = (recipe.to.width, recipe.to.height);
    let bytes: Vec<u8> = deep.rgba.iter().flat_map(|value| value.to_le_bytes()).collect();
    let mut chain = ctx.engine.bench()?.chain(recipe)?;
    let mut rgba = Vec::new();
    chain.run(&bytes, 0, &mut rgba)?;
    let colour = rgba.chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect();
    let alpha: Vec<u8> = rgba.chunks_exact(4).map(|pixel| pixel[3]).collect();
    let is_opaque = alpha.iter().all(|alpha| *alpha == 255);
    let profile = deep.profile.filter(|_| loaded.keeps_colours());
    write_png(&path, (width, height), colour, (!is_opaque).then_some(alpha.as_slice()), profile)?;
    Ok(made(path, "image/png", (width, height), chain.name()))
}

fn write_png(
    path: &Path,
    (width, height): (usize, usize),
    data: Vec<u8>,
    alpha: Option<&[u8]>,
    profile: Option<Vec<u8>>,
) -> Result<(), Failure> {
    image::encode(path, &Rgb { width, height, data }, alpha, profile)
}

fn made(path: std::path::PathBuf, content_type: &'static str, size: (usize, usize), executor: &str) -> Made {
    let side = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let extra = Map::from_iter([("executor".to_owned(), executor.into())]);
    Made { path, content_type, width: side(size.0), height: side(size.1), model: String::new(), scale: 1, extra }
}

impl From<WorkError> for Failure {
    fn from(error: WorkError) -> Self {
        let message = error.to_string();
        match error {
            WorkError::Recipe(_) => Self::permanent(message),
            WorkError::Device(_) => Self::transient(message).with(cause::KEY, DEVICE),
        }
    }
}
