//! Which executor computes: CUDA, then wgpu on a real GPU, then the CPU, unless the configuration says which.
//!
//! [`choose`] says it from what a probe has found, with the reason; [`open`] opens it. A software Vulkan driver is never
//! chosen by itself: it computes on the same cores as the CPU executor, and slower. Who names an executor gets that one or
//! an error: a job that silently ran elsewhere would be a lie about its speed.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::cpu::Cpu;
use super::cuda::{self, Cuda};
use super::executor::{ExecError, Executor};
use super::wgpu::device::{Adapter, Wanted};
use super::wgpu::{self, Wgpu};

/// What the configuration says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Wish {
    #[default]
    Auto,
    Cuda,
    /// On a real GPU.
    Wgpu,
    /// On a software Vulkan driver, for tests.
    WgpuSoftware,
    Cpu,
}

/// How values and weights are kept on a GPU. The CPU executor keeps them in f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// f16 where the GPU has it.
    #[default]
    Auto,
    F32,
    F16,
}

/// The executor for the built-in types.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Choice {
    /// `none` where the one that is asked for cannot be had.
    pub executor: &'static str,
    pub why: String,
}

/// Chooses among what was found: `adapters` as wgpu lists them, `has_cuda` when there is a GPU with its libraries.
#[must_use]
pub fn choose(wish: Wish, has_cuda: bool, adapters: &[Adapter]) -> Choice {
    let gpu = adapters.iter().find(|adapter| adapter.is_gpu());
    let software = adapters.iter().find(|adapter| !adapter.is_gpu());
    let no_cuda = "there is no NVIDIA GPU from Turing on with its driver and cuBLASLt";
    let choice = |executor, why| Choice { executor, why };
    match (wish, gpu, software) {
        (Wish::Auto, ..) if has_cuda => {
            choice("cuda", "there is an NVIDIA GPU with its driver and cuBLASLt".to_owned())
        }
        (Wish::Cuda, ..) if has_cuda => choice("cuda", "the configuration asks for it".to_owned()),
        (Wish::Cuda, ..) => choice("none", no_cuda.to_owned()),
        (Wish::Auto | Wish::Wgpu, Some(gpu), _) => {
            let reason = if wish == Wish::Auto { no_cuda } else { "the configuration asks for wgpu" };
            choice("wgpu", format!("{} ({}, {}); {reason}", gpu.name, gpu.kind, gpu.driver))
        }
        (Wish::Auto, None, software) => {
            let found = match software {
                Some(driver) => format!("the only Vulkan adapter, {}, computes on the CPU", driver.name),
                None => "there is no Vulkan adapter".to_owned(),
            };
            choice("cpu", format!("{no_cuda}; {found}"))
        }
        (Wish::Cpu, ..) => choice("cpu", "the configuration asks for it".to_owned()),
        (Wish::Wgpu, None, _) => choice("none", "no Vulkan adapter of this host is a GPU".to_owned()),
        (Wish::WgpuSoftware, _, Some(driver)) => {
            choice("wgpu", format!("{}, a software driver that the configuration asks for", driver.name))
        }
        (Wish::WgpuSoftware, _, None) => choice("none", "there is no software Vulkan driver".to_owned()),
    }
}

/// How executors are opened.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub wish: Wish,
    pub precision: Precision,
    /// Which of several equal GPUs, in the order of their PCI addresses.
    pub gpu: usize,
    /// Threads of the CPU executor.
    pub threads: usize,
    pub arena_bytes_max: usize,
}

/// Opens the executor that [`choose`] would name.
///
/// # Errors
/// [`ExecError::Device`] when the one that is asked for cannot be had.
pub fn open(options: Options) -> Result<Box<dyn Executor>, ExecError> {
    let Options { wish, precision, gpu, threads, arena_bytes_max } = options;
    let on = |adapter| Wgpu::new(wgpu::Options { adapter, gpu, precision, arena_bytes_max });
    let cpu = || -> Result<Box<dyn Executor>, ExecError> {
        let made = Cpu::new(threads, arena_bytes_max);
        Ok(Box::new(made.map_err(|error| ExecError::Device(format!("start threads: {error}")))?))
    };
    let cuda = || {
        // The agent shows a worker its one GPU alone.
        let kept = if precision == Precision::F32 { cuda::Precision::Single } else { cuda::Precision::Half };
        Cuda::open(0, kept)
    };
    match wish {
        Wish::Cpu => cpu(),
        Wish::Cuda => Ok(Box::new(cuda()?)),
        Wish::Wgpu => Ok(Box::new(on(Wanted::Gpu)?)),
        Wish::WgpuSoftware => Ok(Box::new(on(Wanted::Software)?)),
        Wish::Auto => {
            match cuda() {
                Ok(made) => return Ok(Box::new(made)),
                Err(error) => tracing::info!(%error, "CUDA cannot be had"),
            }
            match on(Wanted::Gpu) {
                Ok(made) => Ok(Box::new(made)),
                Err(error) => {
                    tracing::info!(%error, "no GPU can be opened; the CPU computes");
                    cpu()
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter(name: &str, kind: &str) -> Adapter {
        Adapter { name: name.to_owned(), kind: kind.to_owned(), driver: "driver".to_owned() }
    }

    #[test]
    fn a_gpu_is_chosen_by_itself_and_a_software_driver_only_when_it_is_asked_for() {
        let (gpu, software) = (adapter("Radeon", "DiscreteGpu"), adapter("llvmpipe", "Cpu"));
        for (wish, adapters, executor, words) in [
            (Wish::Auto, vec![software.clone(), gpu.clone()], "wgpu", "Radeon (DiscreteGpu"),
            (Wish::Auto, vec![software.clone()], "cpu", "llvmpipe, computes on the CPU"),
            (Wish::Auto, vec![], "cpu", "no Vulkan adapter"),
            (Wish::Cpu, vec![gpu.clone()], "cpu", "asks for it"),
            (Wish::Wgpu, vec![software.clone()], "none", "is a GPU"),
            (Wish::WgpuSoftware, vec![gpu.clone(), software], "wgpu", "llvmpipe, a software driver"),
            (Wish::WgpuSoftware, vec![gpu], "none", "no software Vulkan driver"),
            (Wish::Cuda, vec![], "none", "no NVIDIA GPU"),
        ] {
            let choice = choose(wish, false, &adapters);
            assert!(choice.executor == executor && choice.why.contains(words), "{wish:?}: {choice:?}");
        }
        for wish in [Wish::Auto, Wish::Cuda] {
            let all = [adapter("Radeon", "DiscreteGpu")];
            assert_eq!(choose(wish, true, &all).executor, "cuda");
        }
        assert_eq!(choose(Wish::Cpu, true, &[]).executor, "cpu");
    }

    #[test]
    fn an_executor_that_is_asked_for_is_opened_or_refused_but_never_replaced() {
        let options =
            Options { wish: Wish::Cuda, precision: Precision::Auto, gpu: 0, threads: 1, arena_bytes_max: 1 << 20 };
        match open(options) {
            Ok(made) => assert_eq!(made.name(), "cuda"),
            Err(error) => assert!(matches!(error, ExecError::Device(_)), "{error}"),
        }
        assert_eq!(open(Options { wish: Wish::Cpu, ..options }).unwrap().name(), "cpu");
        if let Ok(made) = open(Options { wish: Wish::Wgpu, ..options }) {
            assert_eq!(made.name(), "wgpu");
        }
    }
}
