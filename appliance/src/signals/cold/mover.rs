//! The task that moves windows whose time has come, one at a time, and deletes there what no window has any more.
//!
//! It keeps nothing in memory that a restart could lose: what is due, and what is loose, stands in the windows' folders.

use std::time::Duration;

use backlot_windows::{CacheStats, Cancel, ColdFault, FarError, MovedWindow};
use backlot_wire::metrics::{
    WINDOWS_COLD_BYTES, WINDOWS_COLD_CACHE, WINDOWS_COLD_CACHE_BYTES, WINDOWS_COLD_LOOSE, WINDOWS_COLD_MOVED,
    WINDOWS_COLD_MOVED_BYTES,
};
use opentelemetry::KeyValue;
use tokio_util::sync::CancellationToken;

use super::{ColdWindows, Store};
use crate::telemetry::{counter, gauge};

/// Time to the next look where nobody asks for one.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Pause after something went wrong: the first, and the longest.
const RETRY_PAUSE: Duration = Duration::from_secs(2);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(120);

pub(super) async fn run(cold: ColdWindows, stores: Vec<Store>, stop: CancellationToken) {
    let (mut pause, mut before) = (RETRY_PAUSE, CacheStats::default());
    loop {
        let mut is_well = true;
        for store in &stores {
            is_well &= round(&cold, store, &stop).await;
            if stop.is_cancelled() {
                return;
            }
        }
        before = measure(&cold, &stores, before);
        tokio::select! {
            () = stop.cancelled() => return,
            () = cold.0.wake.notified(), if is_well => {}
            () = tokio::time::sleep(if is_well { LOOK_EVERY } else { pause }) => {}
        }
        pause = if is_well { RETRY_PAUSE } else { (pause * 2).min(RETRY_PAUSE_MAX) };
    }
}

/// Moves all windows of a store that are due, and deletes what is loose; whether all went well.
///
/// What an earlier end has left goes first: moves may take hours, and parts of an upload that nobody ends cost money there. A store that
/// lets nothing be deleted is moved to all the same.
async fn round(cold: &ColdWindows, store: &Store, stop: &CancellationToken) -> bool {
    let signal = store.kind().as_str();
    let was_clean = clean(cold, store, stop).await;
    while !stop.is_cancelled() {
        let now_ms = store.now().wall_ms;
        let windows = store.windows().clone();
        let moved = blocking(stop, move |cancel| windows.move_next(now_ms, rand::random(), cancel)).await;
        match moved {
            Ok(Some(moved)) => tell(cold, signal, &moved),
            Ok(None) => break,
            Err(_) if stop.is_cancelled() => break,
            Err(error) => {
                fail(cold, signal, &error);
                return false;
            }
        }
    }
    was_clean && clean(cold, store, stop).await && filter(cold, store, stop).await
}

/// Deletes what is loose; whether all went well.
async fn clean(cold: &ColdWindows, store: &Store, stop: &CancellationToken) -> bool {
    let signal = store.kind().as_str();
    let windows = store.windows().clone();
    let cleaned = blocking(stop, move |cancel| windows.clean_cold(cancel).map_err(ColdFault::Far)).await;
    match cleaned {
        Ok(left) => {
            cold.0.progress.lock().to_delete = left;
            #[allow(clippy::cast_precision_loss, reason = "a gauge is a float")]
            gauge(&WINDOWS_COLD_LOOSE).record(left as f64, &[KeyValue::new("signal", signal)]);
            true
        }
        Err(_) if stop.is_cancelled() => true,
        Err(error) => {
            tracing::warn!(signal, %error, "could not delete what was a window in the other S3; tried again later");
            cold.0.progress.lock().problem = Some(error.to_string());
            false
        }
    }
}

/// Makes filters of windows there that have none; whether all went well.
async fn filter(cold: &ColdWindows, store: &Store, stop: &CancellationToken) -> bool {
    let signal = store.kind().as_str();
    while !stop.is_cancelled() {
        let windows = store.windows().clone();
        match blocking(stop, move |cancel| windows.filter_cold(cancel)).await {
            Ok(true) => tracing::info!(signal, "made the filter of a cold window anew"),
            Ok(false) => break,
            Err(_) if stop.is_cancelled() => break,
            Err(error) => {
                tracing::warn!(signal, %error, "could not make the filter of a cold window; it is searched without one");
                cold.0.progress.lock().problem = Some(error.to_string());
                return false;
            }
        }
    }
    true
}

fn tell(cold: &ColdWindows, signal: &'static str, moved: &MovedWindow) {
    let MovedWindow { window, class, documents, bytes } = moved;
    tracing::info!(signal, class, window, documents, bytes, "moved a window to the other S3");
    let signal = KeyValue::new("signal", signal);
    counter(&WINDOWS_COLD_MOVED).add(1, &[signal.clone(), KeyValue::new("outcome", "moved")]);
    counter(&WINDOWS_COLD_MOVED_BYTES).add(*bytes, &[signal]);
    let mut progress = cold.0.progress.lock();
    progress.moved += 1;
    progress.moved_bytes += bytes;
    progress.problem = None;
}

fn fail(cold: &ColdWindows, signal: &'static str, error: &ColdFault) {
    tracing::warn!(signal, %error, "could not move a window to the other S3; it stays here, and is tried again later");
    let outcome = if matches!(error, ColdFault::Far(FarError::Away(_))) { "away" } else { "failed" };
    counter(&WINDOWS_COLD_MOVED).add(1, &[KeyValue::new("signal", signal), KeyValue::new("outcome", outcome)]);
    let mut progress = cold.0.progress.lock();
    progress.failed += 1;
    progress.problem = Some(error.to_string());
}

/// Sets the gauges; gives the cache's numbers, to be told from at the next time.
fn measure(cold: &ColdWindows, stores: &[Store], before: CacheStats) -> CacheStats {
    let stats = cold.0.cache.stats();
    counter(&WINDOWS_COLD_CACHE).add(stats.hits - before.hits, &[KeyValue::new("outcome", "hit")]);
    counter(&WINDOWS_COLD_CACHE).add(stats.misses - before.misses, &[KeyValue::new("outcome", "miss")]);
    #[allow(clippy::cast_precision_loss, reason = "a gauge is a float")]
    gauge(&WINDOWS_COLD_CACHE_BYTES).record(stats.bytes as f64, &[]);
    for store in stores {
        let mut of_class = std::collections::BTreeMap::<String, u64>::new();
        for kept in store.windows().kept() {
            *of_class.entry(kept.class).or_default() += kept.cold_bytes;
        }
        for (class, bytes) in of_class {
            let labels = [KeyValue::new("signal", store.kind().as_str()), KeyValue::new("class", class)];
            #[allow(clippy::cast_precision_loss, reason = "a gauge is a float")]
            gauge(&WINDOWS_COLD_BYTES).record(bytes as f64, &labels);
        }
    }
    stats
}

/// Does work on a thread that may block, and tells it when the appliance stops; waits for its end all the same.
async fn blocking<T: Send + 'static>(
    stop: &CancellationToken,
    work: impl FnOnce(&Cancel) -> Result<T, ColdFault> + Send + 'static,
) -> Result<T, ColdFault> {
    let cancel = Cancel::default();
    let flag = cancel.clone();
    let mut done = tokio::task::spawn_blocking(move || work(&flag));
    let done = tokio::select! {
        done = &mut done => done,
        () = stop.cancelled() => {
            cancel.cancel();
            done.await
        }
    };
    done.unwrap_or_else(|error| Err(ColdFault::Far(FarError::Away(error.to_string()))))
}
