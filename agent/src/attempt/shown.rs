//! What goes up while a worker computes: previews, partial results, checkpoints. One that fails fails nothing else.

use std::path::Path;

use backlot_wire::{EventKind, JobSpec, Output};
use tokio::sync::mpsc;
use tracing::warn;

use super::{Attempt, End};
use crate::events::Reporter;
use crate::worker::protocol::Announced;

/// Previews, partial results and names of checkpoints on their way up.
pub(super) type Shown = (mpsc::Receiver<Announced>, mpsc::Receiver<Announced>, mpsc::Receiver<String>);

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
