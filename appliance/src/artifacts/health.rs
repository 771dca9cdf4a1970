//! What is known to be wrong: objects whose bytes are damaged, and a disk that takes no writes.
//!
//! Whoever finds damage, a reader or the scrubber, writes it down here; it is told by a metric until the object is put again, deleted, or read whole.
//! Writes that fail are counted by reason. Nothing here decides anything.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use backlot_wire::Timestamp;
use backlot_wire::metrics::{ARTIFACT_DAMAGED, ARTIFACT_WRITE_FAILURES};
use opentelemetry::KeyValue;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::model::ObjectRow;
use crate::clock::Clock;
use crate::telemetry::{counter, gauge};

/// Most objects that are remembered; further ones are counted.
const DAMAGES_MAX: usize = 10_000;
/// Reasons for which a write fails, as the metric has them.
const REASONS: [&str; 3] = ["full", "read_only", "other"];

/// A version of an object, as people name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Named {
    pub bucket: String,
    pub key: String,
    /// As S3 names it; `null` where the bucket keeps none.
    pub version: String,
    /// Of this very put: another one under the same name is another.
    pub id: Uuid,
}

impl Named {
    pub(super) fn of(bucket: &str, key: &str, row: &ObjectRow) -> Self {
        Self { bucket: bucket.to_owned(), key: key.to_owned(), version: row.name().to_string(), id: row.version }
    }
}

/// What is wrong with one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    #[serde(flatten)]
    pub object: Named,
    pub problem: String,
    pub found_at: Timestamp,
}

#[derive(Default)]
struct Known {
    damages: BTreeMap<Named, Damage>,
    /// Those over the limit.
    more: u64,
    /// Something has changed since it was last asked for.
    is_news: bool,
}

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Health {
    known: Arc<Mutex<Known>>,
    clock: Arc<dyn Clock>,
}

impl Health {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { known: Arc::default(), clock }
    }

    /// Writes damage down, and into the log where it is new.
    pub(super) fn damaged(&self, object: Named, problem: String) {
        let found_at = self.clock.now().timestamp();
        let count = {
            let mut known = self.known.lock();
            if known.damages.contains_key(&object) {
                return;
            }
            let Named { bucket, key, version, .. } = &object;
            tracing::error!(bucket, key, version, problem, "an object is damaged");
            known.is_news = true;
            if known.damages.len() >= DAMAGES_MAX {
                known.more += 1;
            } else {
                known.damages.insert(object.clone(), Damage { object, problem, found_at });
            }
            known.count()
        };
        tell(count);
    }

    /// The object is well, or gone.
    pub(super) fn mended(&self, object: &Named) {
        let count = {
            let mut known = self.known.lock();
            if known.damages.remove(object).is_none() {
                return;
            }
            tracing::info!(bucket = object.bucket, key = object.key, "an object that was damaged is mended or gone");
            known.is_news = true;
            known.count()
        };
        tell(count);
    }

    pub(super) fn is_damaged(&self, object: &Named) -> bool {
        self.known.lock().damages.contains_key(object)
    }

    /// Everything that is known to be damaged, and how many more there were.
    pub(super) fn damages(&self) -> (Vec<Damage>, u64) {
        let known = self.known.lock();
        (known.damages.values().cloned().collect(), known.more)
    }

    /// Whether that has changed since this was last asked.
    pub(super) fn take_news(&self) -> bool {
        std::mem::take(&mut self.known.lock().is_news)
    }

    /// Takes what an earlier run knew.
    pub(super) fn load(&self, damages: Vec<Damage>) {
        let count = {
            let mut known = self.known.lock();
            known.damages.extend(damages.into_iter().map(|damage| (damage.object.clone(), damage)));
            known.count()
        };
        tell(count);
    }

    /// What could not be kept is forgotten: everything is about to be read again.
    pub(super) fn forget_more(&self) {
        self.known.lock().more = 0;
    }

    /// Makes the metrics known before anything is wrong.
    pub(super) fn begin(&self) {
        for reason in REASONS {
            counter(&ARTIFACT_WRITE_FAILURES).add(0, &[KeyValue::new("reason", reason)]);
        }
        tell(self.known.lock().count());
    }
}

impl Known {
    fn count(&self) -> u64 {
        self.damages.len() as u64 + self.more
    }
}

fn tell(count: u64) {
    #[allow(clippy::cast_precision_loss, reason = "a gauge is a float")]
    gauge(&ARTIFACT_DAMAGED).record(count as f64, &[]);
}

/// Counts a write that the disk did not take.
pub(super) fn write_failed(error: &io::Error) {
    let reason = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => REASONS[0],
        io::ErrorKind::ReadOnlyFilesystem => REASONS[1],
        _ => REASONS[2],
    };
    counter(&ARTIFACT_WRITE_FAILURES).add(1, &[KeyValue::new("reason", reason)]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    #[test]
    fn damage_is_known_until_it_is_mended_and_once() {
        let health = || Health::new(Arc::new(SystemClock::new()));
        let object = |key: &str| Named::of("b", key, &ObjectRow::sample());
        let (first, later) = (health(), health());
        first.damaged(object("k"), "bit 7".into());
        first.damaged(object("k"), "again".into());
        assert!(first.take_news() && !first.take_news());
        let (known, more) = first.damages();
        assert_eq!((known.len(), known[0].problem.as_str(), more), (1, "bit 7", 0));
        later.load(known);
        later.mended(&object("other"));
        assert_eq!(later.damages().0.len(), 1);
        later.mended(&object("k"));
        assert!(later.damages().0.is_empty() && later.take_news());
    }
}
