//! What webhooks are told: events of jobs, as they stand in the outbox.
//!
//! An event is made where its record is applied to the catalogue, and stands there from the same write on, under the record's position in the
//! journal. So none is lost by a crash, none is made of a record that was not durable, and their order is the journal's.

use backlot_wire::{JobStatus, Timestamp};
use serde::{Deserialize, Serialize};

use super::super::model::Tracked;
use super::super::store::Before;
use crate::catalogue::{Batch, Table};

const VERSION: u8 = 1;

/// What happened to a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// New, or queued again after it had ended. It may be scheduled, or wait for others.
    Queued,
    /// An attempt began.
    Started,
    Succeeded,
    Failed,
    Cancelled,
    /// Its percent changed: every few seconds at most.
    Progress,
}

impl Event {
    pub(super) const DEFAULT: [Self; 5] = [Self::Queued, Self::Started, Self::Succeeded, Self::Failed, Self::Cancelled];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Started => "started",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Progress => "progress",
        }
    }
}

/// What a record says happened, if it is anything that is told.
pub(super) fn event_of(before: Option<&Before>, after: &Tracked) -> Option<Event> {
    let was_final = before.is_some_and(|before| before.mark.status.is_final());
    let live = after.live().map(|attempt| attempt.number);
    match after.head.status {
        JobStatus::Succeeded if !was_final => return Some(Event::Succeeded),
        JobStatus::Failed if !was_final => return Some(Event::Failed),
        JobStatus::Cancelled if !was_final => return Some(Event::Cancelled),
        JobStatus::Succeeded | JobStatus::Failed | JobStatus::Cancelled => return None,
        JobStatus::Scheduled | JobStatus::Waiting | JobStatus::Queued | JobStatus::Running => {}
    }
    if live.is_some() && before.and_then(|before| before.mark.live) != live {
        return Some(Event::Started);
    }
    if before.is_none() || was_final {
        return Some(Event::Queued);
    }
    (live.is_some() && before.is_some_and(|before| before.percent != after.head.percent)).then_some(Event::Progress)
}

/// An event in the outbox.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub job: String,
    pub event: Event,
    pub at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
}

impl Entry {
    pub(super) fn of(event: Event, after: &Tracked) -> Self {
        Self {
            job: after.head.id.clone(),
            event,
            at: after.head.updated_at,
            attempt: after.newest().map(|attempt| attempt.number),
        }
    }

    pub(super) fn put(&self, lsn: u64, batch: &mut Batch) -> Result<(), String> {
        let mut value = vec![VERSION];
        serde_json::to_writer(&mut value, self).map_err(|error| error.to_string())?;
        batch.put(Table::Outbox, key(lsn), value);
        Ok(())
    }

    pub(super) fn read(value: &[u8]) -> Result<Self, String> {
        match value.split_first() {
            Some((&VERSION, json)) => serde_json::from_slice(json).map_err(|error| error.to_string()),
            _ => Err("an event of another version".into()),
        }
    }
}

/// Key of the event of the record at `lsn`: they sort as the journal does.
pub(super) fn key(lsn: u64) -> [u8; 8] {
    lsn.to_be_bytes()
}

pub(super) fn lsn_of(key: &[u8]) -> Option<u64> {
    key.try_into().ok().map(u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use backlot_wire::JobSpec;

    use super::super::super::model::Mark;
    use super::*;
    use crate::clock::Now;

    const NOW: Now = Now { mono_ms: 0, wall_ms: 1_000 };

    fn before(tracked: &Tracked) -> Before {
        Before { mark: tracked.mark(), percent: tracked.head.percent }
    }

    #[test]
    fn a_jobs_life_is_told_step_by_step() {
        let mut job = Tracked::sent(NOW, "jobs", "m", "j".into(), JobSpec::new("x"), 0);
        assert_eq!(event_of(None, &job), Some(Event::Queued));
        let was = before(&job);
        job.received(NOW, None);
        assert_eq!(event_of(Some(&was), &job), Some(Event::Started));
        let was = before(&job);
        assert_eq!(event_of(Some(&was), &job), None);
        job.head.percent = Some(40.0);
        assert_eq!(event_of(Some(&was), &job), Some(Event::Progress));
        let was = before(&job);
        let _ = job.released(NOW);
        assert_eq!(event_of(Some(&was), &job), None, "it is in line again, and was not new");
        let was = before(&job);
        job.received(NOW, None);
        assert_eq!(event_of(Some(&was), &job), Some(Event::Started));
        let was = before(&job);
        job.deleted(NOW);
        assert_eq!(event_of(Some(&was), &job), Some(Event::Succeeded));
        let was = before(&job);
        assert_eq!(event_of(Some(&was), &job), None, "an end is told once");
        job.sent_again(NOW, "m2", 0);
        assert_eq!(event_of(Some(&was), &job), Some(Event::Queued));
        assert_eq!(was.mark, Mark { status: JobStatus::Succeeded, live: None });
    }

    #[test]
    fn an_entry_survives_the_catalogue() {
        let job = Tracked::sent(NOW, "jobs", "m", "j".into(), JobSpec::new("x"), 0);
        let (entry, mut batch) = (Entry::of(Event::Queued, &job), Batch::default());
        entry.put(77, &mut batch).unwrap();
        let (_, key, value) = &batch.changes[0];
        assert_eq!((lsn_of(key), Entry::read(value.as_deref().unwrap())), (Some(77), Ok(entry)));
        assert!(Entry::read(b"").is_err() && Entry::read(&[VERSION, b'{']).is_err());
    }
}
