//! Recipes on a GPU: each step as a kernel, all of a frame's in one submission.
//!
//! A frame lies in one of two buffers; steps that change pixels in their places stay in theirs. The kernels repeat
//! what the rooms beside this one say in Rust, and a test holds them against each other.

use std::sync::Arc;

use parking_lot::Mutex;
use wgpu::{BindGroup, Buffer, BufferUsages, ComputePipeline};

use super::format::{Format, Layout, numbers};
use super::resize::Taps;
use super::{Curve, Display, Frame, Recipe, Step, WorkError};
use crate::infer::wgpu::device::{Gpu, GpuError, Wanted};
use crate::infer::wgpu::kernels::{Kernel, Pipelines, Source};
use crate::infer::wgpu::template::Definitions;

macro_rules! sources {
    ($($name:ident = $file:literal;)*) => {
        $(const $name: Source = Source { name: $file, text: include_str!(concat!("shaders/", $file, ".wgsl")) };)*
    };
}

sources! {
    UNPACK = "unpack";
    PACK = "pack";
    TONE = "tone";
    LUT = "lut";
    LANCZOS = "lanczos";
    GRAIN = "grain";
    OVER = "over";
    DIFFERENCE = "difference";
}

/// Bytes of a pixel between two steps.
const PIXEL_BYTES: usize = 16;
/// Bytes of a kernel's numbers.
const NUMBERS_BYTES: usize = 256;
const LANES: usize = 256;

struct Shared {
    gpu: Gpu,
    pipelines: Mutex<Pipelines>,
}

/// An opened GPU.
pub(super) struct Bench {
    shared: Arc<Shared>,
}

/// A recipe with its buffers.
pub struct Chain {
    shared: Arc<Shared>,
    pub(super) from: Format,
    bytes: usize,
    raw: Buffer,
    made: Buffer,
    staging: Buffer,
    numbers: Buffer,
    /// Where the frame's number stands.
    numbered: Vec<u64>,
    passes: Vec<Pass>,
}

struct Pass {
    pipeline: ComputePipeline,
    bindings: BindGroup,
    groups: [u32; 2],
}

impl From<GpuError> for WorkError {
    fn from(error: GpuError) -> Self {
        Self::Device(error.to_string())
    }
}

impl Bench {
    pub(super) fn open(wanted: Wanted, which: usize) -> Result<Option<Self>, WorkError> {
        match Gpu::open(wanted, which) {
            Ok(gpu) => Ok(Some(Self { shared: Arc::new(Shared { gpu, pipelines: Mutex::default() }) })),
            Err(GpuError::None(_)) => Ok(None),
            Err(other) => Err(other.into()),
        }
    }

    /// Whether a shader can see the largest frame of the recipe, and every picture and table.
    pub(super) fn has_room(&self, recipe: &Recipe, sizes: &[(usize, usize)]) -> bool {
        let pixels = |step: &Step| match step {
            Step::Over(over) => over.picture.data.len(),
            Step::Difference(difference) => difference.picture.data.len(),
            Step::Lut(lut) => lut.table.len(),
            _ => 0,
        };
        let largest = largest(recipe, sizes).max(recipe.steps.iter().map(pixels).max().unwrap_or(0));
        (largest * PIXEL_BYTES) as u64 <= self.shared.gpu.binding_bytes_max()
    }

    pub(super) fn chain(&self, recipe: &Recipe, sizes: &[(usize, usize)]) -> Result<Chain, WorkError> {
        let gpu = &self.shared.gpu;
        let frame_bytes = (largest(recipe, sizes) * PIXEL_BYTES) as u64;
        let storage = BufferUsages::STORAGE | BufferUsages::COPY_DST;
        let bytes = |format: &Format| format.bytes().next_multiple_of(4) as u64;
        let raw = gpu.buffer("frame in bytes", bytes(&recipe.from), storage)?;
        let made = gpu.buffer("result in bytes", bytes(&recipe.to), storage | BufferUsages::COPY_SRC)?;
        let frames = [gpu.buffer("frame", frame_bytes, storage)?, gpu.buffer("frame", frame_bytes, storage)?];
        let mut builder = Builder { shared: &self.shared, steps: Vec::new() };
        let (mut at, mut size) = (0, (recipe.from.width, recipe.from.height));
        let other = |at: usize| 1 - at;
        let definitions = of_layout(&recipe.from);
        builder.push(
            UNPACK,
            definitions,
            vec![(&frames[at], false), (&raw, true)],
            of_format(&recipe.from),
            size.0 * size.1,
        );
        for (step, after) in recipe.steps.iter().zip(sizes) {
            let count = size.0 * size.1;
            let plain = Definitions::default;
            match step {
                Step::ToneMap(tone) => {
                    let [peak, most, knee] = tone.bend();
                    let definitions =
                        plain().flag("hlg", tone.curve == Curve::Hlg).flag("srgb", tone.display == Display::Srgb);
                    let numbers =
                        [&[number(count)][..], &[peak, most, knee, tone.white_nits].map(f32::to_bits)].concat();
                    builder.push(TONE, definitions, vec![(&frames[at], false)], numbers, count);
                }
                Step::Lut(lut) => {
                    let table: Vec<[f32; 4]> = lut.table.iter().map(|[r, g, b]| [*r, *g, *b, 0.0]).collect();
                    let table = builder.table(&table)?;
                    let domain = [lut.low, lut.high].concat();
                    let numbers =
                        [number(count), number(lut.side)].into_iter().chain(domain.into_iter().map(f32::to_bits));
                    builder.push_owned(LUT, plain(), &frames[at], vec![table], numbers.collect(), count);
                }
                Step::Resize { width, height } => {
                    for (across, from, to, taps) in [
                        (true, size, (*width, size.1), Taps::new(size.0, *width)),
                        (false, (*width, size.1), (*width, *height), Taps::new(size.1, *height)),
                    ] {
                        let count = to.0 * to.1;
                        let numbers = [count, to.0, from.0, taps.count].map(number).to_vec();
                        let first = builder.words(&taps.first)?;
                        let weights = builder.words(&taps.weights.iter().map(|w| w.to_bits()).collect::<Vec<_>>())?;
                        let definitions = plain().flag("across", across);
                        let (to, from) = (&frames[other(at)], &frames[at]);
                        builder.push_with(LANCZOS, definitions, (to, Some(from)), vec![first, weights], numbers, count);
                        at = other(at);
                    }
                }
                Step::Grain(grain) => {
                    let mut numbers = vec![0, number(count), number(size.0), grain.seed];
                    numbers.extend([grain.strength, grain.size].map(f32::to_bits));
                    let definitions = plain().flag("grey", grain.is_grey);
                    builder.push(GRAIN, definitions, vec![(&frames[at], false)], numbers, count);
                }
                Step::Over(over) => {
                    let picture = builder.table(&over.picture.data)?;
                    let Frame { width, height, .. } = *over.picture;
                    let mut numbers = [count, size.0, width, height].map(number).to_vec();
                    numbers.extend([over.left.cast_unsigned(), over.top.cast_unsigned(), over.opacity.to_bits()]);
                    builder.push_owned(OVER, plain(), &frames[at], vec![picture], numbers, count);
                }
                Step::Difference(difference) => {
                    let picture = builder.table(&difference.picture.data)?;
                    let numbers = vec![number(count), difference.gain.to_bits()];
                    builder.push_owned(DIFFERENCE, plain(), &frames[at], vec![picture], numbers, count);
                }
            }
            size = *after;
        }
        let mut numbers = of_format(&recipe.to);
        numbers.extend([size.0, size.1, recipe.to.samples()].map(number));
        let words = recipe.to.bytes().div_ceil(4);
        builder.push(PACK, of_layout(&recipe.to), vec![(&made, false), (&frames[at], false)], numbers, words);
        let (numbers, numbered, passes) = builder.finish()?;
        let staging = gpu.buffer("staging", bytes(&recipe.to), BufferUsages::MAP_READ | BufferUsages::COPY_DST)?;
        let shared = Arc::clone(&self.shared);
        Ok(Chain { shared, from: recipe.from, bytes: recipe.to.bytes(), raw, made, staging, numbers, numbered, passes })
    }
}

impl Chain {
    pub(super) fn run(&mut self, from: &[u8], number: u32, to: &mut Vec<u8>) -> Result<(), WorkError> {
        let gpu = &self.shared.gpu;
        let whole = from.len() / 4 * 4;
        gpu.write(&self.raw, 0, &from[..whole])?;
        if whole < from.len() {
            let mut last = [0; 4];
            last[..from.len() - whole].copy_from_slice(&from[whole..]);
            gpu.write(&self.raw, whole as u64, &last)?;
        }
        for at in &self.numbered {
            gpu.write(&self.numbers, *at, &number.to_le_bytes())?;
        }
        gpu.submit("frame", |encoder| {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            for step in &self.passes {
                pass.set_pipeline(&step.pipeline);
                pass.set_bind_group(0, &step.bindings, &[]);
                pass.dispatch_workgroups(step.groups[0], step.groups[1], 1);
            }
        })?;
        let part = [(0, self.bytes.next_multiple_of(4) as u64)];
        let length = self.bytes;
        gpu.read(&self.made, &part, &self.staging, |bytes| {
            to.clear();
            to.extend_from_slice(&bytes[..length]);
        })?;
        Ok(())
    }
}

fn largest(recipe: &Recipe, sizes: &[(usize, usize)]) -> usize {
    let first = (recipe.from.width, recipe.from.height);
    // A resize has the new width and the old height in between.
    let between = std::iter::once(&first).chain(sizes).zip(sizes).map(|(before, after)| after.0 * before.1);
    let all = std::iter::once(&first).chain(sizes).map(|(width, height)| width * height);
    all.chain(between).max().unwrap_or(0)
}

fn number(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn of_layout(format: &Format) -> Definitions {
    let yuv = matches!(format.layout, Layout::Yuv { .. });
    Definitions::default().flag("yuv", yuv).flag("wide", format.width_bytes() == 2)
}

/// The numbers with which the kernels of both ends begin.
fn of_format(format: &Format) -> Vec<u32> {
    let (across, down) = format.chroma_size();
    let (shifts, reals) = match format.layout {
        Layout::Yuv { matrix, range, sampling, depth } => {
            let n = numbers(matrix, range, depth);
            (sampling.shifts(), [n.red, n.blue, n.black, n.luma, n.middle, n.chroma, n.most])
        }
        Layout::Rgba8 => ((0, 0), [0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 255.0]),
        Layout::Rgba16 => ((0, 0), [0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 65_535.0]),
    };
    let mut made = [format.width, format.height, across, down, shifts.0, shifts.1].map(number).to_vec();
    made.extend(reals.map(f32::to_bits));
    made
}

/// A pass before its numbers have their place.
struct Wish {
    kernel: Kernel,
    buffers: Vec<Buffer>,
    numbers: Vec<u32>,
    count: usize,
}

struct Builder<'a> {
    shared: &'a Shared,
    steps: Vec<Wish>,
}

impl Builder<'_> {
    /// A kernel over `count` units. Buffers with whether they are only read.
    fn push(
        &mut self,
        source: Source,
        definitions: Definitions,
        buffers: Vec<(&Buffer, bool)>,
        numbers: Vec<u32>,
        count: usize,
    ) {
        let bindings = buffers.iter().map(|(_, read_only)| *read_only).collect();
        let kernel = Kernel { source, definitions, bindings };
        let buffers = buffers.into_iter().map(|(buffer, _)| buffer.clone()).collect();
        self.steps.push(Wish { kernel, buffers, numbers, count });
    }

    /// One that changes `frame` with the help of tables.
    fn push_owned(
        &mut self,
        source: Source,
        definitions: Definitions,
        frame: &Buffer,
        tables: Vec<Buffer>,
        numbers: Vec<u32>,
        count: usize,
    ) {
        self.push_with(source, definitions, (frame, None), tables, numbers, count);
    }

    fn push_with(
        &mut self,
        source: Source,
        definitions: Definitions,
        (to, from): (&Buffer, Option<&Buffer>),
        tables: Vec<Buffer>,
        numbers: Vec<u32>,
        count: usize,
    ) {
        let frames = std::iter::once((to, false)).chain(from.map(|from| (from, false)));
        let buffers = frames.chain(tables.iter().map(|table| (table, true))).collect();
        self.push(source, definitions, buffers, numbers, count);
    }

    fn table(&self, pixels: &[[f32; 4]]) -> Result<Buffer, WorkError> {
        self.words(&pixels.iter().flatten().map(|value| value.to_bits()).collect::<Vec<_>>())
    }

    fn words(&self, words: &[u32]) -> Result<Buffer, WorkError> {
        let data: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_DST;
        let buffer = self.shared.gpu.buffer("table", data.len() as u64, usage)?;
        self.shared.gpu.write(&buffer, 0, &data)?;
        Ok(buffer)
    }

    /// The numbers of all kernels, where a frame's number stands among them, and the passes.
    fn finish(self) -> Result<(Buffer, Vec<u64>, Vec<Pass>), WorkError> {
        let gpu = &self.shared.gpu;
        let (mut data, mut numbered) = (Vec::new(), Vec::new());
        for step in &self.steps {
            let start = data.len();
            if step.kernel.source == GRAIN {
                numbered.push(start as u64);
            }
            data.extend(step.numbers.iter().flat_map(|number| number.to_le_bytes()));
            data.resize(start + NUMBERS_BYTES, 0);
        }
        let usage = BufferUsages::UNIFORM | BufferUsages::COPY_DST;
        let numbers = gpu.buffer("numbers", data.len() as u64, usage)?;
        gpu.write(&numbers, 0, &data)?;
        let mut passes = Vec::with_capacity(self.steps.len());
        let mut pipelines = self.shared.pipelines.lock();
        for (at, step) in self.steps.iter().enumerate() {
            let made = pipelines.get(gpu, &step.kernel)?;
            let first = wgpu::BufferBinding {
                buffer: &numbers,
                offset: (at * NUMBERS_BYTES) as u64,
                size: wgpu::BufferSize::new(NUMBERS_BYTES as u64),
            };
            let entries: Vec<wgpu::BindGroupEntry<'_>> = std::iter::once(first)
                .chain(step.buffers.iter().map(|buffer| buffer.as_entire_buffer_binding()))
                .zip(0..)
                .map(|(part, binding)| wgpu::BindGroupEntry { binding, resource: wgpu::BindingResource::Buffer(part) })
                .collect();
            let bindings = gpu.guarded(0, || {
                let label = Some(step.kernel.source.name);
                gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
                    label,
                    layout: &made.layout,
                    entries: &entries,
                })
            })?;
            let groups = gpu.grid(step.count.div_ceil(LANES));
            passes.push(Pass { pipeline: made.pipeline.clone(), bindings, groups });
        }
        Ok((numbers, numbered, passes))
    }
}
