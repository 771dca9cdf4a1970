//! What computes, as a command line says it: the same words for a worker and for a measurement.

use std::path::PathBuf;

use super::choice::{Precision, Wish};
use super::{Engine, EngineOptions, models};

/// How an engine is set up.
#[derive(Clone, Debug, clap::Args)]
pub struct Setup {
    #[arg(long, default_value_os_t = models::default_folder())]
    pub models: PathBuf,
    /// 0: all cores.
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
    #[arg(long, value_enum, default_value_t)]
    pub executor: Wish,
    #[arg(long, value_enum, default_value_t)]
    pub precision: Precision,
}

impl Setup {
    /// `gpu`: which of several, in the order of their addresses.
    #[must_use]
    pub fn engine(&self, gpu: usize) -> Engine {
        let Self { threads, executor, precision, .. } = *self;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = if threads == 0 { cores } else { threads };
        Engine::new(EngineOptions { models_dir: self.models.clone(), threads, executor, precision, gpu })
    }
}
