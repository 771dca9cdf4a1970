//! Inference: turns a task's input files into output files with a model.
//!
//! The worker process calls [`run`] once for each job and keeps one [`Engine`] between jobs, so that a model
//! which is loaded stays loaded. Everything is synchronous and runs on the caller's thread plus the engine's
//! own pool: there is no async here and no network. What a file is called in the bucket, how it gets
//! there and how often a job is tried again is decided elsewhere.

pub mod audio;
pub mod choice;
pub mod cpu;
pub mod cuda;
pub mod executor;
mod generate;
pub mod graph;
pub mod models;
pub mod noise;
mod process;
mod progress;
pub mod sampler;
mod setup;
mod together;
mod upscale;
pub mod weights;
pub mod wgpu;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

pub use backlot_wire::FailureClass;
use backlot_wire::cause;
use serde_json::{Map, Value};

use self::choice::{Precision, Wish};
use self::executor::Executor;
pub use self::generate::plan;
pub use self::setup::Setup;
pub use self::together::{Member, Tell, Word, run_together};
use self::wgpu::device::Wanted;
use crate::clock::Clock;
use crate::frames::work::Bench;

/// The cause of a failure that a GPU or its driver is to blame for.
const DEVICE: &str = "device";

/// Job types that [`run`] takes.
pub const KINDS: [&str; 9] = [
    "image.upscale",
    "video.upscale",
    generate::PICTURES,
    generate::CLIP,
    "image.process",
    "video.process",
    "image.contact-sheet",
    "audio.denoise",
    "audio.speech-segments",
];

/// Whether a job type is of no use without the files of a model.
#[must_use]
pub fn needs_model(kind: &str) -> bool {
    !process::KINDS.contains(&kind) && kind != audio::DENOISE
}

/// Bytes that the values between a network's layers may take. Larger pictures are cut into tiles.
const ARENA_BYTES_MAX: usize = 512 << 20;
/// The same on an NVIDIA GPU, which has memory of its own: fewer tiles have fewer overlaps.
const CUDA_ARENA_BYTES_MAX: usize = 8 << 30;

/// What is to be done: a job without its way here.
#[derive(Clone, Debug)]
pub struct Task {
    /// One of [`KINDS`].
    pub kind: String,
    pub parameters: Map<String, Value>,
    /// The job's inputs as files on this host, in the job's order. They are only read.
    pub inputs: Vec<PathBuf>,
    /// An existing folder that belongs to this attempt alone. Outputs and scratch files go here; after a failure
    /// it may hold partial files, and the caller removes it.
    pub output_dir: PathBuf,
}

/// What happens while a task runs. Reported on the caller's thread, at most some hundred times a task.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// `load`, `infer` or `post`, each once and in this order.
    Phase(&'static str),
    /// 0 to 100, never falling.
    Percent(f32),
    /// A picture in the task's `output_dir` of what is coming.
    Preview(PathBuf),
    /// A file in the task's `output_dir` from which another attempt can go on, when it finds it there by the same name.
    Checkpoint(PathBuf),
    /// How long a GPU has computed for this task so far, in seconds; of what it computed for several at once, this one's share.
    GpuSeconds(f64),
}

/// What a task may use, and whom it tells.
pub struct Context<'a> {
    pub engine: &'a mut Engine,
    /// Set by anybody to end the task; looked at between tiles, layers and frames, so that it takes effect well
    /// within a second.
    pub cancel: &'a AtomicBool,
    pub report: &'a mut (dyn FnMut(Report) + Send),
}

impl Context<'_> {
    pub(crate) fn phase(&mut self, phase: &'static str) {
        (self.report)(Report::Phase(phase));
    }

    pub(crate) fn check_cancel(&self) -> Result<(), Failure> {
        if self.cancel.load(Ordering::Relaxed) { Err(Failure::cancelled()) } else { Ok(()) }
    }
}

/// A file that a task made, in its `output_dir`.
#[derive(Clone, Debug, PartialEq)]
pub struct Made {
    pub path: PathBuf,
    pub content_type: &'static str,
    pub width: u32,
    pub height: u32,
    /// For example `realesr-animevideov3`.
    pub model: String,
    pub scale: u32,
    /// More that is worth keeping beside the artifact: frames, frames per second, tiles, executor.
    pub extra: Map<String, Value>,
}

/// Why a task ended without its result.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Permanent: this input would fail again on every host.
    pub class: FailureClass,
    /// One line for the person who submitted the job.
    pub message: String,
    /// Numbers that explain it.
    pub details: Map<String, Value>,
    /// The cancel flag was seen. It is no failure of the job, and `class` means nothing.
    pub cancelled: bool,
}

impl Failure {
    /// The same input would fail again: bad input, bad parameter, model missing.
    pub fn permanent(message: impl Into<String>) -> Self {
        Self { class: FailureClass::Permanent, message: message.into(), details: Map::new(), cancelled: false }
    }

    /// Another try may work: disk full, memory taken by others, a program that was killed.
    pub fn transient(message: impl Into<String>) -> Self {
        Self { class: FailureClass::Transient, ..Self::permanent(message) }
    }

    pub(crate) fn cancelled() -> Self {
        Self { cancelled: true, ..Self::transient("cancelled") }
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }
}

/// How an [`Engine`] is set up.
#[derive(Clone, Debug, Default)]
pub struct EngineOptions {
    /// Folder with the model files of `models.toml`.
    pub models_dir: PathBuf,
    /// Threads that compute, at least one.
    pub threads: usize,
    pub executor: Wish,
    pub precision: Precision,
    /// Which of several equal GPUs.
    pub gpu: usize,
}

/// The executors and the models they have loaded. Lives as long as the worker process.
pub struct Engine {
    options: EngineOptions,
    executor: Option<Box<dyn Executor>>,
    bench: Option<Bench>,
    /// The network of the last job: most jobs in a row want the same.
    loaded: Option<upscale::Loaded>,
    /// The same device with another limit for what lies between layers: a diffusion model cuts nothing into tiles.
    generator: Option<Box<dyn Executor>>,
    /// The diffusion model of the last job that generated.
    generate: Option<generate::Loaded>,
    /// That of the last one that made a clip of a picture. There is one of the two at most.
    animate: Option<generate::Animator>,
    /// Where the models of this task lie, and those of the last one that generated.
    models_dir: Option<PathBuf>,
    generate_dir: Option<PathBuf>,
    /// The network that hears speech, on the CPU.
    speech: Option<audio::Loaded>,
    is_spent: bool,
    /// By which what is computed is measured.
    clock: Clock,
}

impl Engine {
    /// Looks at nothing yet: a model that is missing or damaged is the failure of the first task that asks for it.
    #[must_use]
    pub fn new(options: EngineOptions) -> Self {
        Self {
            options,
            executor: None,
            bench: None,
            loaded: None,
            generator: None,
            generate: None,
            animate: None,
            models_dir: None,
            generate_dir: None,
            speech: None,
            is_spent: false,
            clock: Clock::new(),
        }
    }

    #[must_use]
    pub fn models_dir(&self) -> &Path {
        self.models_dir.as_ref().unwrap_or(&self.options.models_dir)
    }

    /// Says where the models of the next task, of type `kind`, lie; `None`: in the folder of the options.
    pub fn use_models(&mut self, kind: &str, folder: Option<PathBuf>) {
        // Diffusion models are known by their names, which mean something else in another folder. The others are pinned.
        if kind.ends_with(".generate") && self.generate_dir != folder {
            (self.generate, self.animate) = (None, None);
            self.generate_dir.clone_from(&folder);
        }
        self.models_dir = folder;
    }

    /// The executor, opened when it is first asked for.
    fn executor(&mut self) -> Result<&dyn Executor, Failure> {
        let made = match self.executor.take() {
            Some(made) => made,
            None => self.open(ARENA_BYTES_MAX)?,
        };
        Ok(&**self.executor.insert(made))
    }

    /// The executor for diffusion, whose values may take half of the host's memory, and the model on it.
    fn generator(&mut self) -> Result<(&dyn Executor, &mut Option<generate::Loaded>), Failure> {
        let made = self.open_generator()?;
        Ok((&**self.generator.insert(made), &mut self.generate))
    }

    /// The same executor, and the model that makes clips of pictures.
    fn animator(&mut self) -> Result<(&dyn Executor, &mut Option<generate::Animator>), Failure> {
        let made = self.open_generator()?;
        Ok((&**self.generator.insert(made), &mut self.animate))
    }

    fn open_generator(&mut self) -> Result<Box<dyn Executor>, Failure> {
        self.generator.take().map_or_else(|| self.open(generator_bytes_max()), Ok)
    }

    fn open(&self, arena_bytes_max: usize) -> Result<Box<dyn Executor>, Failure> {
        let EngineOptions { threads, executor: wish, precision, gpu, .. } = self.options;
        Ok(choice::open(choice::Options { wish, precision, gpu, threads, arena_bytes_max })?)
    }

    /// Where frames are worked on, opened when it is first asked for: the GPU that wgpu sees, whatever runs the models,
    /// or the CPU.
    fn bench(&mut self) -> Result<&Bench, Failure> {
        let made = match self.bench.take() {
            Some(made) => made,
            None => match self.options.executor {
                Wish::Cpu => Bench::cpu(),
                Wish::WgpuSoftware => Bench::on(Wanted::Software, self.options.gpu)?,
                Wish::Auto | Wish::Cuda | Wish::Wgpu => Bench::on(Wanted::Gpu, self.options.gpu)?,
            },
        };
        Ok(&*self.bench.insert(made))
    }

    /// What the executor is called, once there is one.
    pub(crate) fn executor_name(&self) -> &'static str {
        self.executor.as_ref().map_or("none", |executor| executor.name())
    }

    /// Bytes that the values between a network's layers may take; what the device has not free is refused beside that.
    fn arena_bytes_max(&self) -> usize {
        if self.executor_name() == "cuda" { CUDA_ARENA_BYTES_MAX } else { ARENA_BYTES_MAX }
    }

    fn is_cuda(&self) -> bool {
        self.executor.iter().chain(&self.generator).any(|executor| executor.name() == "cuda")
    }

    /// An engine whose models run on `executor`, whatever the options say, for as long as that does not fail.
    #[must_use]
    pub fn with_executor(options: EngineOptions, executor: Box<dyn Executor>) -> Self {
        Self { generator: Some(executor), ..Self::new(options) }
    }

    /// Whether this process is of no more use: a CUDA error that stays until the process ends, or memory that ran out. What
    /// another process finds is not in pieces.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        self.is_spent
    }

    /// Takes note of a failure that says something of the device.
    fn has_failed(&mut self, failure: &Failure) {
        match failure.details.get(cause::KEY).and_then(Value::as_str) {
            Some(DEVICE) => self.forget_device(),
            Some(cause::OUT_OF_MEMORY) => self.is_spent = true,
            _ => {}
        }
    }

    /// Drops a device that has failed with everything on it. The next job opens it anew; on CUDA another process has to.
    fn forget_device(&mut self) {
        self.is_spent = self.is_cuda();
        (self.loaded, self.generate, self.animate) = (None, None, None);
        (self.executor, self.generator) = (None, None);
        self.bench = None;
    }
}

/// Bytes that the values of a diffusion model may take.
fn generator_bytes_max() -> usize {
    let half = crate::host::memory_bytes().map_or(0, |(_, all)| usize::try_from(all / 2).unwrap_or(usize::MAX));
    half.max(ARENA_BYTES_MAX)
}

/// An upscaler with the network loaded that `image.upscale` would use, for [`crate::bench`].
///
/// # Errors
/// As [`run`].
pub(crate) fn upscaler<'a>(
    engine: &'a mut Engine,
    model: &str,
    scale: u32,
) -> Result<crate::frames::tiles::Upscaler<'a>, Failure> {
    upscale::upscaler(engine, model, scale)
}

/// Runs one task to its end and says what it made.
///
/// Blocks for as long as the work takes. It reports the phases `load`, `infer` and `post` and percentages through
/// `ctx.report`. `image.upscale` takes images (PNG, JPEG, WebP) and makes one PNG for each;
/// `video.upscale` takes clips and makes one MP4 (H.264, sound copied) for each. Parameters of both: `scale` (2, 3
/// or 4; 2 by default) and `model` (`realesr-animevideov3` by default). `image.generate` takes a prompt and up to two
/// images and makes PNGs, `video.generate` one MP4; their parameters and those of the work on sound are in `docs/inference.md`. A parameter that is unknown or out of its range is a
/// permanent failure that names it, before any model is loaded.
///
/// # Errors
/// [`Failure`]: permanent for bad input, bad parameters and missing models; transient for what another try may
/// mend (disk full, out of memory, an `ffmpeg` that was killed). `cancelled` is set when the flag was seen. It never
/// panics on bad input, and no child process outlives it.
pub fn run(task: &Task, ctx: &mut Context<'_>) -> Result<Vec<Made>, Failure> {
    ctx.check_cancel()?;
    let generates = generate::KINDS.contains(&task.kind.as_str());
    if task.inputs.is_empty() && !generates {
        return Err(Failure::permanent(format!("`{}` needs an input", task.kind)));
    }
    let made = match task.kind.as_str() {
        "image.upscale" | "video.upscale" => upscale::run(task, ctx),
        _ if generates => return generate::run_one(task, ctx),
        kind if process::KINDS.contains(&kind) => process::run(task, ctx),
        kind if audio::KINDS.contains(&kind) => audio::run(task, ctx),
        other => Err(Failure::permanent(format!("type `{other}` is not run by this agent"))),
    };
    made.inspect_err(|failure| ctx.engine.has_failed(failure))
}
