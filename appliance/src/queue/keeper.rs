//! What runs by itself: timers, retention, gauges.
//!
//! Each is idempotent and needs no signal to be right: the keeper looks at all timers whenever it wakes, and it wakes at
//! the next of them, or earlier when somebody set an earlier one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use backlot_journal::Class as RecordClass;
use backlot_wire::metrics;
use opentelemetry::KeyValue;
use tokio_util::sync::CancellationToken;

use super::admin::dlq_of;
use super::engine::Tally;
use super::{Shared, State};
use crate::telemetry;

/// Changes of one journal group: bounds how long the lock is held and how much room is asked for.
const CHANGES_MAX: usize = 128;
/// Places that one step of the retention sweep looks at, per queue.
const SWEEP_PLACES: u32 = 16_384;
/// Longest sleep, and the pause between two retention sweeps.
const SWEEP_EVERY_MS: u64 = 15_000;
/// How often the gauges are set.
const GAUGE_EVERY: Duration = Duration::from_secs(5);
/// Most queues that have metrics of their own, first by name.
const GAUGED_MAX: usize = 1_000;

pub(super) async fn run(shared: Arc<Shared>, stopping: CancellationToken) {
    let mut sweep_at_ms = 0;
    while !stopping.is_cancelled() {
        shared.publish();
        let now_ms = shared.clock.now().mono_ms;
        let sweeping = now_ms >= sweep_at_ms;
        let wakes_ms = {
            let mut state = shared.state.lock();
            let due_ms = state.engine.next_due_ms().unwrap_or(u64::MAX);
            let publish_ms = if state.engine.has_pending() { now_ms + super::PUBLISH_MS } else { u64::MAX };
            state.keeper_wakes_ms = due_ms.min(publish_ms).min(sweep_at_ms.max(now_ms));
            if due_ms <= now_ms || sweeping { now_ms } else { state.keeper_wakes_ms }
        };
        if wakes_ms <= now_ms {
            match step(&shared, sweeping).await {
                Ok(true) => sweep_at_ms = now_ms + SWEEP_EVERY_MS,
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(%error, "write the queues' timers; trying again");
                    pause(&shared, &stopping, Duration::from_secs(1)).await;
                }
            }
            tokio::task::yield_now().await;
            continue;
        }
        pause(&shared, &stopping, Duration::from_millis(wakes_ms - now_ms)).await;
    }
}

async fn pause(shared: &Shared, stopping: &CancellationToken, at_most: Duration) {
    tokio::select! {
        () = stopping.cancelled() => {}
        () = shared.keeper.notified() => {}
        () = tokio::time::sleep(at_most) => {}
    }
}

/// Ends what is due, and goes on with the sweep. True when the sweep is through.
async fn step(shared: &Shared, sweeping: bool) -> Result<bool, crate::control::ControlError> {
    let changes_max = shared.changes_max(CHANGES_MAX + 1);
    let permit = shared.control.reserve(shared.room(changes_max), RecordClass::Shrinking).await?;
    let (swept, commit) = shared.decide(permit, |state: &mut State, ctx| {
        let more = state.engine.tick(ctx, changes_max - 1);
        !more && sweeping && state.engine.sweep(ctx, SWEEP_PLACES, changes_max - 1)
    });
    if let Some(commit) = commit {
        commit.acknowledged().await?;
    }
    Ok(swept)
}

pub(super) async fn gauge(shared: Arc<Shared>, stopping: CancellationToken) {
    let messages = telemetry::gauge(&metrics::QUEUE_MESSAGES);
    let oldest = telemetry::gauge(&metrics::QUEUE_OLDEST);
    let is_dlq = telemetry::gauge(&metrics::QUEUE_IS_DLQ);
    let operations = telemetry::counter(&metrics::QUEUE_OPERATIONS);
    let mut counted: HashMap<String, Tally> = HashMap::new();
    loop {
        let found = measure(&shared);
        let of = |name: &str| KeyValue::new("queue", name.to_owned());
        for (name, measured) in &found {
            for (state, count) in measured.counts {
                messages.record(count as f64, &[of(name), KeyValue::new("state", state)]);
            }
            oldest.record(measured.oldest_age_s, &[of(name)]);
            is_dlq.record(f64::from(u8::from(measured.is_dlq)), &[of(name)]);
            let before = counted.get(name).copied().unwrap_or_default();
            for (operation, now, before) in steps(&measured.tally, &before) {
                // A queue that was deleted and made again counts from zero.
                let added = now.checked_sub(before).unwrap_or(now);
                if added > 0 {
                    operations.add(added, &[of(name), KeyValue::new("operation", operation)]);
                }
            }
        }
        for name in counted.keys().filter(|name| !found.contains_key(*name)) {
            for state in ["ready", "in_flight", "delayed"] {
                messages.record(0.0, &[of(name), KeyValue::new("state", state)]);
            }
            oldest.record(0.0, &[of(name)]);
            is_dlq.record(0.0, &[of(name)]);
        }
        counted = found.into_iter().map(|(name, measured)| (name, measured.tally)).collect();
        tokio::select! {
            () = stopping.cancelled() => return,
            () = tokio::time::sleep(GAUGE_EVERY) => {}
        }
    }
}

struct Measured {
    counts: [(&'static str, usize); 3],
    oldest_age_s: f64,
    is_dlq: bool,
    tally: Tally,
}

fn measure(shared: &Shared) -> HashMap<String, Measured> {
    let state = shared.state.lock();
    let now = shared.clock.now();
    let targets: std::collections::HashSet<String> =
        state.engine.queues().filter_map(|(queue, ..)| dlq_of(queue).map(str::to_owned)).collect();
    let measured = state.engine.queues().take(GAUGED_MAX).map(|(queue, counts, tally)| {
        let delayed = counts.delayed + counts.pending;
        let measured = Measured {
            counts: [("ready", counts.ready), ("in_flight", counts.in_flight), ("delayed", delayed)],
            oldest_age_s: state.engine.oldest_age_ms(now, queue.id) as f64 / 1000.0,
            is_dlq: targets.contains(queue.name.as_str()),
            tally,
        };
        (queue.name.to_string(), measured)
    });
    measured.collect()
}

fn steps(now: &Tally, before: &Tally) -> [(&'static str, u64, u64); 6] {
    [
        ("sent", now.sent, before.sent),
        ("received", now.received, before.received),
        ("deleted", now.deleted, before.deleted),
        ("deleted_stale", now.deleted_stale, before.deleted_stale),
        ("redriven", now.redriven, before.redriven),
        ("expired", now.expired, before.expired),
    ]
}
