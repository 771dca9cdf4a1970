//! Specifications that change after they were admitted: a retry that requires more, a retry by hand with other parameters,
//! inputs that another job has made.
//!
//! The message keeps the body that was sent; while a job is *amended*, its specification is delivered in its place.
//! What was ordered is remembered by its digest, so that the same submit is still known as the same.

use std::sync::Arc;

use backlot_wire::spec::VRAM_GB_MAX;
use backlot_wire::{CauseRetry, JobSpec};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::model::Tracked;

/// What a retry by hand may change.
const CHANGEABLE: &[&str] = &["parameters", "requirements", "limits", "retry", "labels", "output", "priority"];

impl Tracked {
    /// Puts `spec` in the place of what the job was.
    pub(super) fn amend(&mut self, spec: JobSpec) {
        if *self.spec == spec {
            return;
        }
        if self.head.amended.is_none() {
            self.head.amended = Some(order_digest(&self.spec));
        }
        self.spec = Arc::new(spec);
    }

    /// The next attempt requires the memory that `rule` asks for.
    pub(super) fn require_more(&mut self, rule: &CauseRetry) {
        let before_gb = self.spec.requirements.vram_gb;
        let multiplied_gb = rule.vram_factor.zip(before_gb).map(|(factor, gb)| (factor * gb * 100.0).ceil() / 100.0);
        let wanted_gb = [before_gb, multiplied_gb, rule.vram_gb].into_iter().flatten().fold(0.0, f64::max);
        if wanted_gb > before_gb.unwrap_or(0.0) {
            let mut spec = JobSpec::clone(&self.spec);
            spec.requirements.vram_gb = Some(wanted_gb.min(VRAM_GB_MAX));
            self.amend(spec);
        }
    }
}

/// `spec` with `changes` laid over it: objects are merged, `null` takes a field away, all else is replaced.
///
/// # Errors
/// A sentence that names what may not be changed, or what is out of bounds then.
pub(super) fn changed(spec: &JobSpec, changes: &Map<String, Value>) -> Result<JobSpec, String> {
    if let Some(other) = changes.keys().find(|name| !CHANGEABLE.contains(&name.as_str())) {
        return Err(format!("`{other}` cannot be changed; {} can", CHANGEABLE.join(", ")));
    }
    let mut whole = serde_json::to_value(spec).map_err(|error| error.to_string())?;
    merge(&mut whole, &Value::Object(changes.clone()));
    let spec: JobSpec = serde_json::from_value(whole).map_err(|error| error.to_string())?;
    spec.check().map_err(|error| error.to_string())?;
    Ok(spec)
}

fn merge(target: &mut Value, changes: &Value) {
    let Value::Object(changes) = changes else {
        *target = changes.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (name, change) in changes {
        if change.is_null() {
            target.remove(name);
        } else {
            merge(target.entry(name.as_str()).or_insert(Value::Null), change);
        }
    }
}

/// Whether a client asks for what `known` is. What the appliance fills in or has changed since does not count.
pub(super) fn same_order(asked: &JobSpec, known: &Tracked) -> bool {
    if let Some(digest) = &known.head.amended {
        return *digest == order_digest(asked);
    }
    let bare = |spec: &JobSpec| JobSpec {
        traceparent: None,
        created_at: asked.created_at.and(spec.created_at),
        run_at: asked.run_at.and(spec.run_at),
        ..spec.clone()
    };
    bare(asked) == bare(&known.spec)
}

fn order_digest(spec: &JobSpec) -> String {
    let run_at = spec.run_at.filter(|_| spec.delay_s.is_none());
    let bare = JobSpec { traceparent: None, created_at: None, run_at, ..spec.clone() };
    // Plain data with string keys: it is JSON.
    let json = serde_json::to_vec(&bare).unwrap_or_default();
    hex::encode(&Sha256::digest(&json)[..16])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::clock::Now;

    const NOW: Now = Now { mono_ms: 5, wall_ms: 1_763_812_800_000 };

    fn tracked(spec: &str) -> Tracked {
        let mut spec = JobSpec::parse(spec).unwrap();
        spec.created_at = Some(NOW.timestamp());
        Tracked::sent(NOW, "jobs", "m", "j".into(), spec, 0)
    }

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap()
    }

    #[test]
    fn more_memory_is_multiplied_or_set_and_never_less() {
        let mut job = tracked(r#"{"type":"x","requirements":{"vram_gb":16}}"#);
        job.require_more(&CauseRetry { vram_factor: Some(1.5), ..CauseRetry::default() });
        assert_eq!(job.spec.requirements.vram_gb, Some(24.0));
        job.require_more(&CauseRetry { vram_gb: Some(20.0), ..CauseRetry::default() });
        assert_eq!(job.spec.requirements.vram_gb, Some(24.0));
        job.require_more(&CauseRetry { vram_factor: Some(16.0), vram_gb: Some(5_000.0), ..CauseRetry::default() });
        assert_eq!(job.spec.requirements.vram_gb, Some(VRAM_GB_MAX));
        let mut bare = tracked(r#"{"type":"x"}"#);
        bare.require_more(&CauseRetry::default());
        assert!(bare.head.amended.is_none());
        bare.require_more(&CauseRetry { vram_gb: Some(40.0), ..CauseRetry::default() });
        assert_eq!(bare.spec.requirements.vram_gb, Some(40.0));
    }

    #[test]
    fn the_same_order_is_known_after_the_job_was_amended() {
        let ordered = r#"{"type":"x","requirements":{"vram_gb":16}}"#;
        let (asked, other) = (JobSpec::parse(ordered).unwrap(), JobSpec::parse(r#"{"type":"x"}"#).unwrap());
        let mut job = tracked(ordered);
        for _ in 0..2 {
            assert!(same_order(&asked, &job) && !same_order(&other, &job));
            job.require_more(&CauseRetry { vram_factor: Some(2.0), ..CauseRetry::default() });
        }
    }

    #[test]
    fn changes_merge_and_what_may_not_change_is_named() {
        let spec = JobSpec::parse(r#"{"type":"x","parameters":{"scale":4,"seed":7},"requirements":{"vram_gb":16}}"#);
        let spec = spec.unwrap();
        let after = changed(&spec, &map(json!({"parameters": {"scale": 2, "seed": null}, "priority": 9}))).unwrap();
        assert_eq!(serde_json::to_value(&after.parameters).unwrap(), json!({"scale": 2}));
        assert_eq!((after.priority, after.requirements), (9, spec.requirements.clone()));
        assert!(changed(&spec, &map(json!({"type": "y"}))).unwrap_err().contains("`type`"));
        assert!(changed(&spec, &map(json!({"requirements": {"vram_gb": -1}}))).unwrap_err().contains("vram_gb"));
        assert!(changed(&spec, &map(json!({"retry": {"failures": "many"}}))).is_err());
    }
}
