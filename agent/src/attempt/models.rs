//! The models of an attempt: fetched before it takes a slot, so that no worker waits for the network.

use std::sync::Arc;

use backlot_wire::{EventKind, JobSpec};

use super::shown::PERCENT_STEP;
use super::{Attempt, Phase};
use crate::events::Reporter;
use crate::library::Provided;
use crate::store::StoreError;
use crate::worker::BUILTIN;
use crate::worker::manifest::Program;
use crate::worker::protocol::Announced;

/// With each output: the versions of the store's models that made it.
const VERSIONS: &str = "model_versions";

impl Attempt {
    /// Sees to the models that a job of a built-in type names. While one is fetched, the attempt is in its phase `load`.
    pub(super) async fn models(
        &self,
        spec: &JobSpec,
        program: &Program,
        reporter: &Arc<Reporter>,
        phase: &mut Phase,
    ) -> Result<Provided, StoreError> {
        if program.name != BUILTIN {
            return Ok(Provided::named(program.models.clone()));
        }
        let mut percent = -PERCENT_STEP;
        let mut told = |bytes: u64, all: u64| {
            phase.next("load");
            #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "a percentage")]
            let now = (100.0 * bytes as f64 / all.max(1) as f64).min(100.0) as f32;
            if (now - percent).abs() >= PERCENT_STEP {
                percent = now;
                reporter.report(EventKind::Percent { percent });
            }
        };
        self.agent.library.provide(&spec.kind, &spec.parameters, &mut told).await
    }
}

/// Says with each output which versions made it.
pub(super) fn of_versions(mut announced: Vec<Announced>, names: &[String]) -> Vec<Announced> {
    let versions: Vec<&str> = names.iter().map(String::as_str).filter(|name| name.contains('@')).collect();
    if !versions.is_empty() {
        announced.iter_mut().for_each(|output| drop(output.extra.insert(VERSIONS.to_owned(), versions.clone().into())));
    }
    announced
}
