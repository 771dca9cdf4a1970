//! Drops pictures and facts whose artifact has gone or has been put over.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio_util::sync::CancellationToken;

use super::{BUCKET, OF};
use crate::artifacts::Artifacts;
use crate::artifacts::engine::Delete;
use crate::artifacts::error::ArtifactError;
use crate::artifacts::listing::Query;
use crate::artifacts::model::ObjectRow;

const SWEEP_EVERY: Duration = Duration::from_secs(3600);
/// Pause between two pages, so that a sweep leaves the disk to others.
const PAGE_PAUSE: Duration = Duration::from_millis(50);
const PAGE: usize = 500;

pub(super) async fn run(artifacts: Artifacts, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            swept = sweep(&artifacts) => match swept {
                Ok(0) => {}
                Ok(dropped) => tracing::info!(dropped, "dropped previews whose artifacts have gone"),
                Err(error) => tracing::warn!(%error, "the sweep of previews ended early; the next one goes on"),
            },
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(SWEEP_EVERY) => {}
        }
    }
}

/// Looks at everything that is kept once; gives how much of it was dropped.
pub(in crate::artifacts) async fn sweep(artifacts: &Artifacts) -> Result<usize, ArtifactError> {
    let (mut after, mut dropped) = (None, 0);
    loop {
        let query = Query { after, max: PAGE, ..Query::default() };
        let page = match artifacts.list(BUCKET, query).await {
            Err(ArtifactError::NoSuchBucket(_)) => return Ok(dropped),
            other => other?,
        };
        for (name, row) in page.entries {
            if !is_of_use(artifacts, &name, &row) {
                artifacts.delete(BUCKET, &name, &Delete::default()).await?;
                dropped += 1;
            }
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(dropped),
        }
        tokio::time::sleep(PAGE_PAUSE).await;
    }
}

/// Whether the artifact that `name` shows is still the one under its key.
fn is_of_use(artifacts: &Artifacts, name: &str, row: &ObjectRow) -> bool {
    let shown = || {
        let (bucket, rest) = name.split_once('/')?;
        let (version, _) = rest.split_once('/')?;
        let (_, of) = row.description.metadata.iter().find(|(name, _)| name == OF)?;
        let key = String::from_utf8(URL_SAFE_NO_PAD.decode(of).ok()?).ok()?;
        let current = artifacts.head(bucket, &key).ok()?;
        Some(current.version.simple().to_string() == version)
    };
    shown().unwrap_or(false)
}
