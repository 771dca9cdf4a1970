//! What is told while a worker computes, and what goes up: previews, partial results, checkpoints. One that fails fails nothing else.

use std::path::Path;
use std::sync::Arc;

use backlot_wire::{EventKind, JobSpec, Output};
use parking_lot::Mutex;
use serde_json::Map;
use tokio::sync::mpsc;
use tracing::warn;

use super::{Attempt, End, Phase};
use crate::events::Reporter;
use crate::worker::protocol::{Announced, Said};

/// Progress smaller than this, in percent, is not reported.
pub(super) const PERCENT_STEP: f32 = 0.5;
/// Most partial results on their way up.
const PARTIALS_MAX: usize = 64;
/// Most phases, previews, partial results, checkpoints and counts of GPU seconds of one attempt that are passed on.
const WORDS_MAX: usize = 1_000;

/// Previews, partial results and names of checkpoints on their way up.
pub(super) type Shown = (mpsc::Receiver<Announced>, mpsc::Receiver<Announced>, mpsc::Receiver<String>);

/// Passes on what the worker says of the job.
pub(super) fn ear(reporter: &Arc<Reporter>, phase: &Arc<Mutex<Phase>>) -> (Box<dyn FnMut(Said) + Send>, Shown) {
    let (previews, waiting) = mpsc::channel(1);
    let (partials, made) = mpsc::channel(PARTIALS_MAX);
    let (checkpoints, kept) = mpsc::channel(1);
    let (reporter, phase) = (Arc::clone(reporter), Arc::clone(phase));
    let mut percent = -PERCENT_STEP;
    let mut words = 0;
    let heard = move |said: Said| match said {
        Said::Phase(name) if words < WORDS_MAX => {
            words += 1;
            phase.lock().next(&name);
        }
        Said::Percent(now) if (now - percent).abs() >= PERCENT_STEP || (now >= 100.0 && percent < 100.0) => {
            percent = now;
            reporter.report(EventKind::Percent { percent });
        }
        // One on its way up is enough: the next preview is a better one.
        Said::Preview(name) if words < WORDS_MAX => {
            let announced = Announced { name, content_type: None, width: None, height: None, extra: Map::new() };
            words += usize::from(previews.try_send(announced).is_ok());
        }
        // The result has it too: what is too much now is shown then.
        Said::Partial(announced) if words < WORDS_MAX => words += usize::from(partials.try_send(announced).is_ok()),
        // Of those that come while one goes up, the next one will do.
        Said::Checkpoint(name) if words < WORDS_MAX => words += usize::from(checkpoints.try_send(name).is_ok()),
        Said::GpuSeconds(gpu_s) if words < WORDS_MAX => {
            words += 1;
            reporter.report(EventKind::Usage { gpu_s, cost_usd: 0.0 });
        }
        _ => {}
    };
    (Box::new(heard), (waiting, made, kept))
}

impl Attempt {
    /// Uploads previews, partial results and checkpoints as they come. Never ends; one that fails fails nothing else.
    pub(super) async fn show(
        &self,
        spec: &JobSpec,
        (mut previews, mut partials, mut checkpoints): Shown,
        folder: &Path,
        reporter: &Reporter,
    ) {
        let show_previews = async {
            while let Some(announced) = previews.recv().await {
                if let Some(output) = self.store_early(spec, &announced, folder, "preview/").await {
                    reporter.report(EventKind::Preview { uri: output.uri });
                }
            }
        };
        let show_partials = async {
            while let Some(announced) = partials.recv().await {
                if let Some(output) = self.store_early(spec, &announced, folder, "partial/").await {
                    reporter.report(EventKind::Partial { outputs: vec![output] });
                }
            }
        };
        let keep_checkpoints = async {
            while let Some(name) = checkpoints.recv().await {
                self.keep_checkpoint(spec, &name, folder).await;
            }
        };
        tokio::join!(show_previews, show_partials, keep_checkpoints);
        std::future::pending::<()>().await;
    }

    async fn store_early(&self, spec: &JobSpec, announced: &Announced, folder: &Path, sub: &str) -> Option<Output> {
        match self.store_one(spec, announced, folder, sub).await {
            Ok(output) => return Some(output),
            Err(End::Failed { message, .. }) => {
                warn!(message, name = announced.name, "what was to be shown is not stored")
            }
            Err(_) => {}
        }
        None
    }
}
