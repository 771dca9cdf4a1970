//! The wgpu executor: every operation of the IR as WGSL, on any GPU that speaks Vulkan.
//!
//! Values and weights lie on the GPU in f16 where the adapter has it (f32 where told), arithmetic is f32. One
//! arena holds all values of a shape, as the [`super::graph::Plan`] says; each kernel sees the parts that it reads and writes.
//! What a driver complains of comes back as an error, and a lost device as one that says so: whoever gets
//! [`super::executor::ExecError::Device`] drops the executor with its programs and makes a new one.
//!
//! Absent on purpose: textures, which would only hide where values lie; a pipeline for each shape, which would
//! compile for seconds whenever a picture has another size.

pub mod device;
pub(crate) mod kernels;
mod lower;
mod pack;
mod program;
mod ready;
mod store;
pub(crate) mod template;

use std::sync::Arc;

use parking_lot::Mutex;

use self::device::{Adapter, Gpu, Wanted};
use self::kernels::Pipelines;
use self::lower::Target;
use self::program::{Loaded, Shared};
use super::choice::Precision;
use super::executor::{ExecError, Executor, Program};
use super::graph::Graph;
use super::weights::Weights;

/// Multiplications of one submission: some 50 ms of a small GPU.
const PART_COST_MAX: u64 = 16 << 30;
/// The same for a driver that computes on a few cores.
const PART_COST_MAX_SOFTWARE: u64 = 256 << 20;

#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub adapter: Wanted,
    /// Which of several equal ones, in the order of their PCI addresses; counted round.
    pub gpu: usize,
    pub precision: Precision,
    /// Shapes whose values take more are refused.
    pub arena_bytes_max: usize,
}

/// Runs graphs on one adapter.
pub struct Wgpu {
    shared: Arc<Shared>,
}

impl Wgpu {
    /// Opens an adapter.
    ///
    /// # Errors
    /// [`ExecError::Device`] when there is none of that kind, or it lacks the wanted precision.
    pub fn new(options: Options) -> Result<Self, ExecError> {
        let gpu = Gpu::open(options.adapter, options.gpu)?;
        let f16 = match options.precision {
            Precision::F32 => false,
            Precision::Auto => gpu.has_f16,
            Precision::F16 if gpu.has_f16 => true,
            Precision::F16 => return Err(ExecError::Device(format!("{} has no f16", gpu.adapter.name))),
        };
        let is_software = !gpu.adapter.is_gpu();
        let target = Target {
            f16,
            subgroups: gpu.has_subgroups,
            workgroup_bytes: gpu.limits.max_compute_workgroup_storage_size as usize,
        };
        let part_cost_max = if is_software { PART_COST_MAX_SOFTWARE } else { PART_COST_MAX };
        let pipelines = Mutex::new(Pipelines::default());
        let arena_bytes_max = options.arena_bytes_max;
        Ok(Self { shared: Arc::new(Shared { gpu, pipelines, target, arena_bytes_max, part_cost_max }) })
    }

    #[must_use]
    pub fn adapter(&self) -> &Adapter {
        &self.shared.gpu.adapter
    }

    /// Values are kept in f16.
    #[must_use]
    pub fn is_f16(&self) -> bool {
        self.shared.target.f16
    }

    /// Pipelines that were compiled until now.
    #[must_use]
    pub fn pipelines(&self) -> usize {
        self.shared.pipelines.lock().len()
    }
}

impl Executor for Wgpu {
    fn name(&self) -> &'static str {
        "wgpu"
    }

    fn load(&self, graph: Graph, weights: &Weights) -> Result<Box<dyn Program>, ExecError> {
        Ok(Box::new(Loaded::load(Arc::clone(&self.shared), graph.fuse_sums(), weights)?))
    }
}
