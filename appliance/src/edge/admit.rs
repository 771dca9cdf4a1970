//! Load shedding and the concurrency limit in one: a permit that lives as long as the answer's body does.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use opentelemetry::KeyValue;
use opentelemetry::metrics::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// One request in flight. Dropped with the answer's body.
pub(super) struct InFlight {
    _permit: OwnedSemaphorePermit,
    number: Arc<AtomicI64>,
    gauge: Gauge<f64>,
    door: &'static str,
}

/// Counts the requests in flight, and refuses those over the limit at once instead of letting them wait.
#[derive(Clone)]
pub(super) struct Admission {
    permits: Arc<Semaphore>,
    number: Arc<AtomicI64>,
    gauge: Gauge<f64>,
}

impl Admission {
    /// `permits` is shared by all doors; the number in flight is counted for each door by itself.
    pub(super) fn new(permits: Arc<Semaphore>, gauge: Gauge<f64>) -> Self {
        Self { permits, number: Arc::default(), gauge }
    }

    pub(super) fn enter(&self, door: &'static str) -> Option<InFlight> {
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok()?;
        let now = self.number.fetch_add(1, Ordering::Relaxed) + 1;
        self.gauge.record(now as f64, &[KeyValue::new("door", door)]);
        Some(InFlight { _permit: permit, number: Arc::clone(&self.number), gauge: self.gauge.clone(), door })
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let now = self.number.fetch_sub(1, Ordering::Relaxed) - 1;
        self.gauge.record(now as f64, &[KeyValue::new("door", self.door)]);
    }
}
