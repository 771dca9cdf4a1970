//! Room for logs and traces together: what goes first when they have more than their bytes.
//!
//! Each window goes when its own time is over, or when its class has more than its bytes; the windows see to that themselves. Where all together
//! have more than `signals.disk_bytes_max`, closed windows go in one order over all classes, logs and traces alike: the one first that has had the largest part of
//! its time. Where its class has a place for cold windows, it moves there before its time; it is dropped only when moving fails, or does not keep up. Debug lines of two days go after one day, when what is kept for a year is a month old and stays. Nothing that is open goes, and nothing
//! by record.

use std::time::Duration;

use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::routing::{get, post};
use axum::{Json, Router};
use backlot_windows::{Dropped, Kept};
use http::StatusCode;
use opentelemetry::KeyValue;
use serde::{Deserialize, Serialize};

use super::cold::{self, ColdWindows};
use super::{Store, rfc3339_ns};
use crate::edge::{ApiError, Operator, Viewer};
use crate::tasks::Stage;
use crate::telemetry;

const EVERY: Duration = Duration::from_secs(60);

/// A window, and whose it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Placed {
    pub signal: &'static str,
    pub kept: Kept,
}

/// The room and who shares it. Cheap to clone.
#[derive(Clone)]
pub struct Budget {
    stores: Vec<Store>,
    /// 0: no limit.
    disk_bytes_max: u64,
    cold: Option<ColdWindows>,
}

/// By which part all together may be over their bytes while windows are on their way to the other S3.
const OVER_PART: u64 = 8;

impl Budget {
    #[must_use]
    pub fn new(stores: Vec<Store>, disk_bytes_max: u64, cold: Option<ColdWindows>) -> Self {
        Self { stores, disk_bytes_max, cold }
    }

    /// Starts looking at it, and moving what is old. `stage` is that of the stores.
    pub fn start(&self, stage: &Stage) {
        if let Some(cold) = &self.cold {
            cold.start(stage, self.stores.clone());
        }
        let (budget, stop) = (self.clone(), stage.stopping());
        stage.spawn("room for logs and traces", async move {
            let mut every = tokio::time::interval(EVERY);
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    _ = every.tick() => {}
                }
                let budget = budget.clone();
                if let Err(error) = tokio::task::spawn_blocking(move || budget.hold()).await {
                    tracing::error!(%error, "could not look at the room for logs and traces");
                }
            }
        });
    }

    /// Drops what is too much. Blocks.
    fn hold(&self) {
        let now_ms = self.stores.first().map_or(0, |store| store.now().wall_ms);
        let placed = self.in_order(now_ms);
        let mut bytes: u64 = placed.iter().map(|placed| placed.kept.bytes).sum();
        let bytes_hard_max = self.disk_bytes_max.saturating_add(self.disk_bytes_max / OVER_PART);
        for Placed { signal, kept } in &placed {
            if self.disk_bytes_max == 0 || bytes <= self.disk_bytes_max || !kept.closed {
                break;
            }
            if kept.cold_bytes > 0 {
                continue; // takes next to nothing here
            }
            let Some(store) = self.store_of(signal) else { continue };
            if kept.may_move && bytes <= bytes_hard_max && !store.windows().moves_fail() {
                store.windows().move_early([kept.window.clone()]);
                bytes = bytes.saturating_sub(kept.bytes);
                self.cold.iter().for_each(ColdWindows::look_soon);
                continue;
            }
            if let Some(dropped) = store.windows().drop_window(&kept.window) {
                bytes = bytes.saturating_sub(dropped.bytes);
                tell(signal, std::slice::from_ref(&dropped));
            }
        }
        if self.disk_bytes_max > 0 && bytes > self.disk_bytes_max {
            tracing::warn!(
                bytes,
                self.disk_bytes_max,
                "the windows that are being written take more than all have together"
            );
        }
        self.measure();
    }

    fn store_of(&self, signal: &str) -> Option<&Store> {
        self.stores.iter().find(|store| store.kind().as_str() == signal)
    }

    /// All windows, those first that go first.
    fn in_order(&self, now_ms: u64) -> Vec<Placed> {
        let of = |store: &Store| {
            let signal = store.kind().as_str();
            store.windows().kept().into_iter().map(move |kept| Placed { signal, kept })
        };
        let mut placed: Vec<_> = self.stores.iter().flat_map(of).collect();
        order(&mut placed, now_ms);
        placed
    }

    fn measure(&self) {
        let gauge = telemetry::gauge(&backlot_wire::metrics::WINDOWS_BYTES);
        for store in &self.stores {
            let mut of_class = std::collections::BTreeMap::<String, u64>::new();
            for kept in store.windows().kept() {
                *of_class.entry(kept.class).or_default() += kept.bytes;
            }
            for (class, bytes) in of_class {
                let labels = [KeyValue::new("signal", store.kind().as_str()), KeyValue::new("class", class)];
                gauge.record(bytes as f64, &labels);
            }
        }
    }

    /// Routes of the http door.
    pub fn routes(&self) -> Router {
        Router::new()
            .route("/v1/retention", get(told))
            .route("/v1/retention/move", post(move_now))
            .with_state(self.clone())
    }
}

/// Sorts windows so that those come first that go first when there is no room; those that do not go come last.
pub fn order(placed: &mut [Placed], now_ms: u64) {
    let had = |kept: &Kept| now_ms.saturating_sub(kept.last_arrival_ms) as f64 / kept.retention_ms.max(1) as f64;
    placed.sort_by(|a, b| {
        let (a, b) = (&a.kept, &b.kept);
        b.closed.cmp(&a.closed).then(had(b).total_cmp(&had(a))).then(a.last_arrival_ms.cmp(&b.last_arrival_ms))
    });
}

/// Says which windows went, in the log and to the metrics.
pub(super) fn tell(signal: &'static str, dropped: &[Dropped]) {
    for Dropped { window, class, documents, bytes, reason } in dropped {
        let reason = reason.as_str();
        tracing::info!(signal, class, window, documents, bytes, reason, "dropped a window");
        let labels =
            [KeyValue::new("signal", signal), KeyValue::new("class", class.clone()), KeyValue::new("reason", reason)];
        telemetry::counter(&backlot_wire::metrics::WINDOWS_DROPPED).add(1, &labels);
        telemetry::counter(&backlot_wire::metrics::WINDOWS_DROPPED_RECORDS).add(*documents, &labels);
    }
}

/// What `GET /v1/retention` answers.
#[derive(Serialize)]
struct Told {
    disk_bytes: u64,
    /// Absent where there is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    disk_bytes_max: Option<u64>,
    /// Where old windows go; absent where they stay.
    #[serde(skip_serializing_if = "Option::is_none")]
    cold: Option<cold::Told>,
    /// In the other S3.
    cold_bytes: u64,
    /// Those first that go first when there is no room.
    windows: Vec<ToldWindow>,
}

#[derive(Serialize)]
struct ToldWindow {
    signal: &'static str,
    class: String,
    window: String,
    records: u64,
    disk_bytes: u64,
    /// It lies in the other S3, with so many bytes.
    cold: bool,
    cold_bytes: u64,
    /// Those that are written go when they are closed.
    closed: bool,
    /// Merged and packed, as what moves is.
    rests: bool,
    last_arrival: String,
    /// When its time is over.
    goes: String,
}

async fn told(_: Viewer, State(budget): State<Budget>) -> Result<Json<Told>, ApiError> {
    let disk_bytes_max = (budget.disk_bytes_max > 0).then_some(budget.disk_bytes_max);
    let now_ms = budget.stores.first().map_or(0, |store| store.now().wall_ms);
    let cold = budget.cold.as_ref().map(ColdWindows::told);
    let placed = tokio::task::spawn_blocking(move || budget.in_order(now_ms)).await;
    let placed = placed.map_err(|error| ApiError::internal(&error))?;
    let moment = |ms: u64| rfc3339_ns(i64::try_from(ms.saturating_mul(1_000_000)).unwrap_or(i64::MAX));
    let window = |Placed { signal, kept }: Placed| ToldWindow {
        signal,
        class: kept.class,
        window: kept.window,
        records: kept.documents,
        disk_bytes: kept.bytes,
        cold: kept.cold_bytes > 0,
        cold_bytes: kept.cold_bytes,
        closed: kept.closed,
        rests: kept.rests,
        last_arrival: moment(kept.last_arrival_ms),
        goes: moment(kept.last_arrival_ms.saturating_add(kept.retention_ms)),
    };
    let disk_bytes = placed.iter().map(|placed| placed.kept.bytes).sum();
    let cold_bytes = placed.iter().map(|placed| placed.kept.cold_bytes).sum();
    Ok(Json(Told { disk_bytes, disk_bytes_max, cold, cold_bytes, windows: placed.into_iter().map(window).collect() }))
}

/// Which windows are to move before their time.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    /// All classes where it is left out.
    class: Option<String>,
}

/// What `POST /v1/retention/move` answers.
#[derive(Serialize)]
struct Ordered {
    /// Windows that are on their way to the other S3 now, or when they rest.
    windows: usize,
}

async fn move_now(
    _: Operator,
    State(budget): State<Budget>,
    asked: Result<Json<Asked>, JsonRejection>,
) -> Result<(StatusCode, Json<Ordered>), ApiError> {
    let Json(Asked { class }) = asked.map_err(|rejection| ApiError::bad_request(rejection.body_text()))?;
    let Some(cold) = budget.cold.clone() else {
        return Err(ApiError::bad_request("there is no place for cold windows; set `cold_windows.bucket`"));
    };
    let ordered = tokio::task::spawn_blocking(move || {
        let mut windows = 0;
        for store in &budget.stores {
            let kept = store.windows().kept().into_iter();
            let meant = kept.filter(|kept| kept.may_move && class.as_ref().is_none_or(|class| kept.class == *class));
            let names: Vec<_> = meant.map(|kept| kept.window).collect();
            windows += names.len();
            store.windows().move_early(names);
        }
        windows
    });
    let windows = ordered.await.map_err(|error| ApiError::internal(&error))?;
    cold.look_soon();
    Ok((StatusCode::ACCEPTED, Json(Ordered { windows })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_had_the_largest_part_of_its_time_goes_first_and_what_is_open_never() {
        let window = |signal, class: &str, age_h: u64, retention_h: u64, closed| Placed {
            signal,
            kept: Kept {
                window: format!("{class}-{age_h}"),
                class: class.into(),
                documents: 1,
                bytes: 1,
                closed,
                rests: closed,
                last_arrival_ms: 1_000_000 - age_h,
                retention_ms: retention_h,
                cold_bytes: 0,
                may_move: false,
            },
        };
        let mut placed = vec![
            window("logs", "audit", 700, 8760, true),
            window("logs", "default", 100, 336, true),
            window("spans", "default", 84, 168, true),
            window("logs", "debug", 24, 48, true),
            window("logs", "debug", 40, 48, false),
            window("logs", "debug", 30, 48, true),
        ];
        order(&mut placed, 1_000_000);
        let names: Vec<_> = placed.iter().map(|placed| (placed.signal, placed.kept.window.as_str())).collect();
        let expected = [
            ("logs", "debug-30"),
            ("spans", "default-84"),
            ("logs", "debug-24"),
            ("logs", "default-100"),
            ("logs", "audit-700"),
            ("logs", "debug-40"),
        ];
        assert_eq!(names, expected);
    }
}
