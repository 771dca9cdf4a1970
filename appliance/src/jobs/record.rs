//! What the journal keeps of a job: once the whole of it, then what each change has changed. Flows and schedules are whole
//! each time.
//!
//! A change seen under a queue's lock may record few bytes only (`queue::CHANGE_RECORDS_BYTES_MAX`), a specification may have
//! hundreds of thousands. Patches carry values, not operations: a later version reads them without deciding again what its
//! forerunner had decided. First byte: the version. Then JSON.

use std::sync::Arc;

use backlot_wire::{Attempt, JobError, JobSpec, Output};
use serde::{Deserialize, Serialize};

use super::model::{ATTEMPTS_KEPT_MAX, Head, Tracked};
use super::{flows, schedules};
use crate::control::{Kind, Record};

const VERSION: u8 = 1;

/// One record of [`Kind::Job`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "lowercase")]
pub(super) enum Entry {
    Whole {
        spec: Box<JobSpec>,
        head: Box<Head>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        attempts: Vec<Attempt>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        outputs: Vec<Output>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<JobError>,
    },
    Patch(Box<Patch>),
    Flow(Box<flows::record::Stored>),
    Schedule(Box<schedules::record::Stored>),
}

/// What differs from the revision before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Patch {
    pub head: Head,
    /// Attempts that are new or have changed, by their number.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    attempts: Vec<Attempt>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    outputs: Option<Vec<Output>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    partial: Option<Vec<Output>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<ErrorChange>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<Box<JobSpec>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ErrorChange {
    Set(JobError),
    Cleared,
}

impl Entry {
    pub(super) fn whole(tracked: &Tracked) -> Self {
        Self::Whole {
            spec: Box::new(JobSpec::clone(&tracked.spec)),
            head: Box::new(tracked.head.clone()),
            attempts: tracked.attempts.clone(),
            outputs: tracked.outputs.clone(),
            error: tracked.error.clone(),
        }
    }

    /// What turns `before` into `after`.
    pub(super) fn patch(before: &Tracked, after: &Tracked) -> Self {
        let same = |attempt: &Attempt| before.attempts.iter().rev().any(|known| known == attempt);
        Self::Patch(Box::new(Patch {
            head: after.head.clone(),
            attempts: after.attempts.iter().filter(|attempt| !same(attempt)).cloned().collect(),
            outputs: (before.outputs != after.outputs).then(|| after.outputs.clone()),
            partial: (before.partial != after.partial).then(|| after.partial.clone()),
            spec: (before.spec != after.spec).then(|| Box::new(JobSpec::clone(&after.spec))),
            error: (before.error != after.error)
                .then(|| after.error.clone().map_or(ErrorChange::Cleared, ErrorChange::Set)),
        }))
    }

    /// The record for the journal.
    pub(super) fn encode(&self) -> Record {
        let mut payload = vec![VERSION];
        // Plain data with string keys: writing it to memory has no way to fail.
        if let Err(error) = serde_json::to_writer(&mut payload, self) {
            unreachable!("a job is JSON: {error}");
        }
        Record { kind: Kind::Job, payload }
    }

    /// Reads a record's payload.
    ///
    /// # Errors
    /// A sentence, when it was written by a later version or is damaged.
    pub(super) fn decode(payload: &[u8]) -> Result<Self, String> {
        match payload.split_first() {
            Some((&VERSION, json)) => serde_json::from_slice(json).map_err(|error| format!("job record: {error}")),
            Some((version, _)) => Err(format!("job record of version {version}; this is version {VERSION}")),
            None => Err("empty job record".into()),
        }
    }
}

impl Patch {
    /// Applies the patch, if it is newer than what is known.
    pub(super) fn apply(self, tracked: &mut Tracked) {
        if self.head.revision <= tracked.head.revision {
            return;
        }
        tracked.head = self.head;
        for attempt in self.attempts {
            match tracked.attempts.iter().position(|known| known.number >= attempt.number) {
                Some(at) if tracked.attempts[at].number == attempt.number => tracked.attempts[at] = attempt,
                Some(at) => tracked.attempts.insert(at, attempt),
                None => tracked.attempts.push(attempt),
            }
        }
        let surplus = tracked.attempts.len().saturating_sub(ATTEMPTS_KEPT_MAX);
        tracked.attempts.drain(..surplus);
        if let Some(outputs) = self.outputs {
            tracked.outputs = outputs;
        }
        if let Some(partial) = self.partial {
            tracked.partial = partial;
        }
        if let Some(spec) = self.spec {
            tracked.spec = Arc::new(*spec);
        }
        match self.error {
            Some(ErrorChange::Set(error)) => tracked.error = Some(error),
            Some(ErrorChange::Cleared) => tracked.error = None,
            None => {}
        }
    }
}

/// Reads `payload` as a record of a job, a flow, a schedule, an agent and a setting, and makes of it what a replay does: for fuzzing.
pub fn fuzz_journal(payload: &[u8]) {
    super::agents::fuzz_record(payload);
    match Entry::decode(payload) {
        Ok(Entry::Whole { spec, head, attempts, outputs, error }) => {
            let _ = tracked(*spec, *head, attempts, outputs, error).job();
        }
        Ok(Entry::Patch(patch)) => {
            let mut job = tracked(JobSpec::new("x"), Head::default(), Vec::new(), Vec::new(), None);
            patch.clone().apply(&mut job);
            patch.apply(&mut job);
            let _ = job.job();
        }
        Ok(Entry::Schedule(schedule)) => schedules::fuzz_stored(*schedule),
        Ok(Entry::Flow(_)) | Err(_) => {}
    }
    let _ = super::settings::value_of::<super::limits::Setting>(payload);
    let _ = super::settings::value_of::<super::webhooks::Definition>(payload);
    let _ = super::settings::value_of::<super::bulk::Task>(payload);
}

/// Reads `body` as a job's specification. What is taken must be readable as a record, for ever after: for fuzzing.
pub fn fuzz_spec(body: &str) {
    let Ok(spec) = JobSpec::parse(body) else { return };
    let job = tracked(spec, Head::default(), Vec::new(), Vec::new(), None);
    let summary = super::store::Summary::of(&job).encode();
    assert!(summary.is_ok_and(|value| value.len() <= crate::catalogue::VALUE_BYTES_MAX), "the summary is too large");
    let record = Entry::whole(&job).encode();
    if let Err(problem) = Entry::decode(&record.payload) {
        unreachable!("{problem}");
    }
}

/// Builds a job from a whole record.
pub(super) fn tracked(
    spec: JobSpec,
    head: Head,
    attempts: Vec<Attempt>,
    outputs: Vec<Output>,
    error: Option<JobError>,
) -> Tracked {
    Tracked { spec: Arc::new(spec), head, attempts, outputs, partial: Vec::new(), error }
}
