//! The CUDA executor: halves (or floats) on an NVIDIA GPU from Turing on, channels-last, one arena.
//!
//! A graph becomes commands ([`lower`]) for a [`Device`](device::Device): kernels of ours, compiled ahead of time to PTX; matrix
//! products, which are cuBLASLt's; convolutions, which are cuDNN's where that library is present and ours elsewhere. The
//! second run of a shape records them as one CUDA graph, and every later run is one launch. Sums are floats
//! throughout. GELU is not left to cuBLASLt's epilogue: that one is the approximation by tanh, and the graph's is not.
//!
//! Absent on purpose: the CUDA toolkit. Nothing of it is needed to build or to start; what the driver lacks is found
//! out before it is called. bfloat16: a graph whose values overflow a half runs in floats.

mod blaslt;
pub mod device;
mod dnn;
pub mod driver;
mod faults;
mod lower;
mod pack;
mod program;
pub mod ptx;

use std::sync::Arc;

use super::executor::{ExecError, Executor, Program};
use super::graph::{Element, Graph};
use super::weights::Weights;
use device::{Device, DeviceError, Fault};

/// What values and weights are kept as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    #[default]
    Half,
    Single,
}

impl Precision {
    fn bytes(self) -> usize {
        self.element().bytes()
    }

    fn element(self) -> Element {
        match self {
            Self::Half => Element::F16,
            Self::Single => Element::F32,
        }
    }
}

/// Runs graphs on one GPU.
pub struct Cuda {
    device: Arc<dyn Device>,
    precision: Precision,
}

impl Cuda {
    /// On the GPU with this number, as CUDA counts those that the process sees.
    ///
    /// # Errors
    /// [`ExecError::Device`]: which library, GPU or driver version is missing, in words.
    pub fn open(ordinal: usize, precision: Precision) -> Result<Self, ExecError> {
        let driver = driver::Driver::open(ordinal).map_err(|error| ExecError::Device(error.to_string()))?;
        Ok(Self::on(Arc::new(driver), precision))
    }

    /// On a device that somebody else has opened.
    #[must_use]
    pub fn on(device: Arc<dyn Device>, precision: Precision) -> Self {
        Self { device, precision }
    }

    #[must_use]
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }
}

impl Executor for Cuda {
    fn name(&self) -> &'static str {
        "cuda"
    }

    fn load(&self, graph: Graph, weights: &Weights) -> Result<Box<dyn Program>, ExecError> {
        let graph = graph.fuse_sums();
        let precision = if graph.needs_f32() { Precision::Single } else { self.precision };
        Ok(Box::new(program::Loaded::new(&self.device, precision, graph, weights)?))
    }
}

/// A device's error as the executor's. `what` is what was being done.
fn fault(what: &str, error: &DeviceError, needed_bytes: usize) -> ExecError {
    match error.kind {
        Fault::Request => ExecError::Compute { node: what.to_owned(), problem: error.to_string() },
        Fault::Memory => ExecError::DeviceMemory { needed_bytes, free: None, problem: error.to_string() },
        Fault::Lost => ExecError::Device(format!("{what}: {error}")),
    }
}
