//! The task that visits buckets: at the start, once an hour, and soon after rules are put.

use std::time::Duration;

use backlot_wire::metrics::ARTIFACT_LIFECYCLE;
use opentelemetry::KeyValue;
use tokio_util::sync::CancellationToken;

use super::visit::Visited;
use crate::artifacts::Artifacts;
use crate::telemetry::counter;

/// Pause between two rounds of visits. A rule's days end at midnight, so that what is due is late by no more than this.
const VISIT_EVERY: Duration = Duration::from_secs(3600);
/// After rules were put, so that one that was put by mistake can be taken back.
const SETTLE: Duration = Duration::from_secs(5);

pub(in super::super) async fn run(artifacts: Artifacts, stop: CancellationToken) {
    loop {
        for bucket in artifacts.buckets() {
            let visited = tokio::select! {
                () = stop.cancelled() => return,
                visited = artifacts.visit(&bucket.name) => visited,
            };
            match visited {
                Ok(visited) if visited != Visited::default() => {
                    count(visited);
                    let Visited { expired, versions, markers, uploads, to_move } = visited;
                    let bucket = bucket.name;
                    tracing::info!(bucket, expired, versions, markers, uploads, to_move, "carried out lifecycle rules");
                }
                Ok(_) => {}
                Err(super::ArtifactError::NoSuchBucket(_)) => {} // deleted since
                Err(error) => tracing::warn!(bucket = bucket.name, %error, "a visit ended early; the next goes on"),
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = async {
                artifacts.0.lifecycle.nudge.notified().await;
                tokio::time::sleep(SETTLE).await;
            } => {}
            () = tokio::time::sleep(VISIT_EVERY) => {}
        }
    }
}

fn count(visited: Visited) {
    let actions = counter(&ARTIFACT_LIFECYCLE);
    for (action, done) in [
        ("expired", visited.expired),
        ("version", visited.versions),
        ("marker", visited.markers),
        ("upload", visited.uploads),
    ] {
        if done > 0 {
            actions.add(done as u64, &[KeyValue::new("action", action)]);
        }
    }
}
