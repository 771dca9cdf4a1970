//! Jobs in the catalogue: the current state of those that have not ended, and the history of those that have.
//!
//! Three kinds of keys in [`Table::Jobs`]: specification and state of a job, each in pieces of a few KiB (the catalogue keeps
//! no larger values), and one empty value for each job that has not ended, by which a start finds them.
//! [`Table::JobsByTime`] holds a summary for each job, by time of creation, on which lists are filtered.
//!
//! A piece begins with the revision of the state it belongs to: a reader that meets two revisions reads again.
//! Everything a job is stands here, so that no record of the journal is needed once the catalogue has it.

use std::collections::BTreeMap;
use std::sync::Arc;

use backlot_wire::{Attempt, JobError, JobSpec, JobStatus, Output, Timestamp};
use serde::{Deserialize, Serialize};

use super::model::{Head, Mark, Tracked, cut};
use super::record::{self, Entry};
use super::table::unique_key;
use super::{flows, schedules};
use crate::catalogue::{Batch, Catalogue, CatalogueError, Table, VALUE_BYTES_MAX};

const VERSION: u8 = 1;
/// Version, revision, number of pieces.
const PIECE_HEAD_BYTES: usize = 1 + 8 + 2;
/// The key counts as well, so that a page of the catalogue holds a piece.
const PIECE_BYTES_MAX: usize = VALUE_BYTES_MAX - PIECE_HEAD_BYTES - 512;
/// Most bytes of labels that a summary repeats, as JSON; a filter on labels reads the job itself where there are more. With
/// the other names at their longest, and each of their bytes escaped, a summary stays a value of the catalogue.
const SUMMARY_LABELS_BYTES_MAX: usize = 1_536;
/// Most bytes of an error, as JSON.
const SUMMARY_ERROR_BYTES_MAX: usize = 384;
/// Jobs loaded at once at the start.
const LOAD_PAGE: usize = 1_000;
const READS_MAX: usize = 50;

#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    #[error("job `{id}` in the catalogue: {problem}. `backlot rebuild` makes it again from the journal")]
    Damaged { id: String, problem: String },
}

#[derive(Serialize, Deserialize)]
struct StoredState {
    head: Head,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    attempts: Vec<Attempt>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    outputs: Vec<Output>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    partial: Vec<Output>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<JobError>,
}

/// What a list is filtered on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Summary {
    pub id: String,
    pub status: JobStatus,
    #[serde(rename = "type")]
    pub kind: String,
    pub queue: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// `None`: too many to repeat.
    pub labels: Option<BTreeMap<String, String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Summary {
    pub(super) fn of(tracked: &Tracked) -> Self {
        let spec = &tracked.spec;
        let labels_bytes = serde_json::to_vec(&spec.labels).map_or(usize::MAX, |json| json.len());
        Self {
            id: tracked.head.id.clone(),
            status: tracked.head.status,
            kind: spec.kind.clone(),
            queue: tracked.head.queue.clone(),
            user: spec.user_id.clone(),
            project: spec.project_id.clone(),
            labels: (labels_bytes <= SUMMARY_LABELS_BYTES_MAX).then(|| spec.labels.clone()),
            error: tracked.error.as_ref().map(|error| cut_json(&error.message, SUMMARY_ERROR_BYTES_MAX)),
        }
    }

    /// The value under [`time_key`].
    pub(super) fn encode(&self) -> Result<Vec<u8>, String> {
        let mut value = vec![VERSION];
        serde_json::to_writer(&mut value, self).map_err(|error| format!("job `{}`: {error}", self.id))?;
        Ok(value)
    }
}

/// The beginning of `text` that has at most `bytes_max` bytes as JSON.
fn cut_json(text: &str, bytes_max: usize) -> String {
    let mut end = bytes_max;
    loop {
        let cut = cut(text, end);
        match serde_json::to_vec(&cut) {
            Ok(json) if json.len() > bytes_max => end = end * 3 / 4,
            _ => return cut,
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
#[repr(u8)]
pub(super) enum Part {
    Spec = b's',
    State = b't',
    /// The whole of a flow, whose id may be a job's as well.
    Flow = b'f',
    /// The whole of a schedule.
    Schedule = b'c',
}

const PIECES: u8 = 1;
const UNFINISHED: u8 = 2;
/// The newest job of each key that is held for a period.
const KEY: u8 = 3;
/// Those by the end of their period, so that they go.
const KEY_UNTIL: u8 = 4;
/// How many keys whose period is over go with each that comes.
const KEYS_SWEPT: usize = 8;

fn pieces_prefix(id: &str, part: Part) -> Vec<u8> {
    // Ids hold no zero byte, so that no id's pieces stand among another's.
    [&[PIECES], id.as_bytes(), &[0, part as u8]].concat()
}

fn piece_key(id: &str, part: Part, index: u16) -> Vec<u8> {
    [pieces_prefix(id, part), index.to_be_bytes().to_vec()].concat()
}

fn unfinished_key(id: &str) -> Vec<u8> {
    [&[UNFINISHED], id.as_bytes()].concat()
}

/// Key of a job in the list: time of creation, then id.
pub(super) fn time_key(created_at: Timestamp, id: &str) -> Vec<u8> {
    [&created_at.unix_ms().to_be_bytes(), id.as_bytes()].concat()
}

/// Reads values through what a batch is about to change.
struct View<'a> {
    catalogue: &'a Catalogue,
    pending: Option<&'a Batch>,
}

impl View<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, CatalogueError> {
        let changes = self.pending.map_or(&[][..], |batch| batch.changes.as_slice());
        match changes.iter().rev().find(|(table, known, _)| *table == Table::Jobs && known == key) {
            Some((_, _, value)) => Ok(value.clone()),
            None => self.catalogue.get(Table::Jobs, key),
        }
    }

    /// The pieces of one part put together, with their revision.
    fn part(&self, id: &str, part: Part) -> Result<Option<(u64, Vec<u8>)>, StoreError> {
        let damaged = |problem: &str| StoreError::Damaged { id: id.to_owned(), problem: problem.to_owned() };
        'again: for _ in 0..READS_MAX {
            let Some(first) = self.get(&piece_key(id, part, 0))? else { return Ok(None) };
            let (revision, pieces, bytes) =
                split_piece(&first).ok_or_else(|| damaged("its first piece is unreadable"))?;
            let mut whole = bytes.to_vec();
            for index in 1..pieces {
                let piece = self.get(&piece_key(id, part, index))?;
                match piece.as_deref().and_then(split_piece) {
                    Some((same, _, bytes)) if same == revision => whole.extend_from_slice(bytes),
                    // The committer has written between two of our reads.
                    _ => continue 'again,
                }
            }
            return Ok(Some((revision, whole)));
        }
        Err(damaged("its pieces do not belong together"))
    }

    fn revision(&self, id: &str, part: Part) -> Result<Option<u64>, StoreError> {
        let first = self.get(&piece_key(id, part, 0))?;
        Ok(first.as_deref().and_then(split_piece).map(|(revision, _, _)| revision))
    }

    fn state(&self, id: &str) -> Result<Option<StoredState>, StoreError> {
        let Some((_, bytes)) = self.part(id, Part::State)? else { return Ok(None) };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| StoreError::Damaged { id: id.to_owned(), problem: error.to_string() })
    }

    fn spec(&self, id: &str) -> Result<JobSpec, StoreError> {
        let damaged = |problem: String| StoreError::Damaged { id: id.to_owned(), problem };
        let (_, bytes) = self.part(id, Part::Spec)?.ok_or_else(|| damaged("it has no specification".into()))?;
        serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))
    }

    fn job(&self, id: &str) -> Result<Option<Tracked>, StoreError> {
        let Some(StoredState { head, attempts, outputs, partial, error }) = self.state(id)? else { return Ok(None) };
        Ok(Some(Tracked { spec: Arc::new(self.spec(id)?), head, attempts, outputs, partial, error }))
    }
}

fn split_piece(piece: &[u8]) -> Option<(u64, u16, &[u8])> {
    let (head, bytes) = piece.split_at_checked(PIECE_HEAD_BYTES)?;
    let revision = u64::from_be_bytes(head[1..9].try_into().ok()?);
    let pieces = u16::from_be_bytes(head[9..11].try_into().ok()?);
    (head[0] == VERSION && pieces > 0).then_some((revision, pieces, bytes))
}

/// Job `id`, as far as the catalogue has it.
pub(super) fn read(catalogue: &Catalogue, id: &str) -> Result<Option<Tracked>, StoreError> {
    View { catalogue, pending: None }.job(id)
}

/// Revision of job `id` in the catalogue.
pub(super) fn revision(catalogue: &Catalogue, id: &str) -> Result<Option<u64>, StoreError> {
    View { catalogue, pending: None }.revision(id, Part::State)
}

/// Revision of a part when `batch` will have been applied.
pub(super) fn revision_after(
    catalogue: &Catalogue,
    batch: &Batch,
    id: &str,
    part: Part,
) -> Result<Option<u64>, StoreError> {
    View { catalogue, pending: Some(batch) }.revision(id, part)
}

/// The bytes of one part.
pub(super) fn read_part(catalogue: &Catalogue, id: &str, part: Part) -> Result<Option<Vec<u8>>, StoreError> {
    Ok(View { catalogue, pending: None }.part(id, part)?.map(|(_, bytes)| bytes))
}

/// Id of the newest job that was given `key` for a period.
pub(super) fn of_key(catalogue: &Catalogue, key: &str) -> Result<Option<String>, StoreError> {
    let value = catalogue.get(Table::Jobs, &held_key(key))?;
    Ok(value.and_then(|value| String::from_utf8(value.get(8..)?.to_vec()).ok()))
}

fn held_key(key: &str) -> Vec<u8> {
    [&[KEY], key.as_bytes()].concat()
}

/// Notes that a new job has a key for a period, and forgets some whose period was over when the job was made.
fn hold_key(tracked: &Tracked, catalogue: &Catalogue, batch: &mut Batch) -> Result<(), CatalogueError> {
    let period_s = tracked.spec.unique.as_ref().and_then(|unique| unique.period_s);
    let Some((key, period_s)) = unique_key(&tracked.head.queue, &tracked.spec).zip(period_s) else { return Ok(()) };
    let made_ms = tracked.head.created_at.unix_ms();
    for (over, _) in catalogue.range(Table::Jobs, &[KEY_UNTIL], &[], KEYS_SWEPT)? {
        let Some((until, held)) = over[1..].split_first_chunk::<8>() else { continue };
        if u64::from_be_bytes(*until) >= made_ms {
            break;
        }
        // A newer job may have it by now.
        let held = [&[KEY], held].concat();
        let known = View { catalogue, pending: Some(batch) }.get(&held)?;
        if known.is_some_and(|value| value.starts_with(until)) {
            batch.delete(Table::Jobs, held);
        }
        batch.delete(Table::Jobs, over);
    }
    let until = made_ms.saturating_add(period_s.saturating_mul(1_000)).to_be_bytes();
    batch.put(Table::Jobs, held_key(&key), [&until, tracked.head.id.as_bytes()].concat());
    batch.put(Table::Jobs, [&[KEY_UNTIL], &until[..], key.as_bytes()].concat(), Vec::new());
    Ok(())
}

/// Calls `visit` with each job that has not ended.
pub(super) fn unfinished(catalogue: &Catalogue, visit: &mut dyn FnMut(Tracked)) -> Result<(), StoreError> {
    let mut from = Vec::new();
    loop {
        let page = catalogue.range(Table::Jobs, &[UNFINISHED], &from, LOAD_PAGE)?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        from = [last.as_slice(), &[0]].concat();
        for (key, _) in &page {
            let id = String::from_utf8_lossy(key.get(1..).unwrap_or_default());
            if let Some(tracked) = read(catalogue, &id)? {
                visit(tracked);
            }
        }
    }
}

/// One page of summaries, newest first: those before `before` (empty: from the newest), with their keys.
pub(super) fn summaries_back(
    catalogue: &Catalogue,
    before: &[u8],
    limit: usize,
) -> Result<Vec<(Vec<u8>, Summary)>, StoreError> {
    let page = catalogue.range_back(Table::JobsByTime, &[], before, limit)?;
    let summary = |(key, value): (Vec<u8>, Vec<u8>)| {
        let damaged = |problem: String| StoreError::Damaged {
            id: String::from_utf8_lossy(key.get(8..).unwrap_or_default()).into_owned(),
            problem,
        };
        match value.split_first() {
            Some((&VERSION, json)) => match serde_json::from_slice(json) {
                Ok(summary) => Ok((key, summary)),
                Err(error) => Err(damaged(error.to_string())),
            },
            _ => Err(damaged("its summary is of another version".into())),
        }
    };
    page.into_iter().map(summary).collect()
}

/// What a record has brought about.
pub(super) struct Applied {
    /// `None`: the job is new.
    pub before: Option<Before>,
    pub after: Tracked,
}

/// What is compared of a job before a record and after it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Before {
    pub mark: Mark,
    pub percent: Option<f32>,
}

impl Before {
    fn of(head: &Head, attempts: &[Attempt]) -> Self {
        let live = attempts.last().filter(|attempt| attempt.outcome.is_none()).map(|attempt| attempt.number);
        Self { mark: Mark { status: head.status, live }, percent: head.percent }
    }
}

/// What a record changes in the catalogue. `None`: nothing.
pub(super) fn project(payload: &[u8], catalogue: &Catalogue, batch: &mut Batch) -> Result<Option<Applied>, String> {
    let view = View { catalogue, pending: Some(batch) };
    let (before, after, with_spec) = match Entry::decode(payload)? {
        Entry::Whole { spec, head, attempts, outputs, error } => {
            let before = view.state(&head.id).map_err(|error| error.to_string())?;
            if before.as_ref().is_some_and(|state| state.head.revision >= head.revision) {
                return Ok(None);
            }
            let before = before.map(|state| Before::of(&state.head, &state.attempts));
            let tracked = record::tracked(*spec, *head, attempts, outputs, error);
            hold_key(&tracked, catalogue, batch).map_err(|error| error.to_string())?;
            (before, tracked, true)
        }
        Entry::Patch(patch) => {
            let id = patch.head.id.clone();
            let known = view.job(&id).map_err(|error| error.to_string())?;
            let Some(mut tracked) = known else {
                // An error here would stop every start from now on, and would not bring the job back.
                tracing::error!(job = id, "a change of a job that the catalogue does not have is left out");
                return Ok(None);
            };
            if tracked.head.revision >= patch.head.revision {
                return Ok(None);
            }
            let before = Before::of(&tracked.head, &tracked.attempts);
            let with_spec = patch.spec.is_some();
            patch.apply(&mut tracked);
            (Some(before), tracked, with_spec)
        }
        Entry::Flow(flow) => return flows::record::project(&flow, catalogue, batch).map(|()| None),
        Entry::Schedule(schedule) => {
            return schedules::record::project(&schedule, catalogue, batch).map(|()| None);
        }
    };
    let json = |error: serde_json::Error| format!("job `{}`: {error}", after.head.id);
    let state = StoredState {
        head: after.head.clone(),
        attempts: after.attempts.clone(),
        outputs: after.outputs.clone(),
        partial: after.partial.clone(),
        error: after.error.clone(),
    };
    let id = &after.head.id;
    let state_bytes = serde_json::to_vec(&state).map_err(json)?;
    put_part(catalogue, batch, id, Part::State, after.head.revision, &state_bytes, before.is_some())?;
    if with_spec {
        let spec_bytes = serde_json::to_vec(&*after.spec).map_err(json)?;
        put_part(catalogue, batch, id, Part::Spec, after.head.revision, &spec_bytes, before.is_some())?;
    }
    if after.is_final() {
        batch.delete(Table::Jobs, unfinished_key(id));
    } else {
        batch.put(Table::Jobs, unfinished_key(id), Vec::new());
    }
    batch.put(Table::JobsByTime, time_key(after.head.created_at, id), Summary::of(&after).encode()?);
    Ok(Some(Applied { before, after }))
}

/// Takes all pieces of a part away.
pub(super) fn delete_part(catalogue: &Catalogue, batch: &mut Batch, id: &str, part: Part) -> Result<(), String> {
    let view = View { catalogue, pending: Some(batch) };
    let first = view.get(&piece_key(id, part, 0)).map_err(|error| error.to_string())?;
    let pieces = first.as_deref().and_then(split_piece).map_or(0, |(_, pieces, _)| pieces);
    (0..pieces).for_each(|index| batch.delete(Table::Jobs, piece_key(id, part, index)));
    Ok(())
}

pub(super) fn put_part(
    catalogue: &Catalogue,
    batch: &mut Batch,
    id: &str,
    part: Part,
    revision: u64,
    bytes: &[u8],
    replaces: bool,
) -> Result<(), String> {
    let pieces = bytes.len().div_ceil(PIECE_BYTES_MAX).max(1);
    let count = u16::try_from(pieces).map_err(|_| format!("job `{id}` is too large: {} bytes", bytes.len()))?;
    if replaces {
        let view = View { catalogue, pending: Some(batch) };
        let first = view.get(&piece_key(id, part, 0)).map_err(|error| error.to_string())?;
        let before = first.as_deref().and_then(split_piece).map_or(0, |(_, pieces, _)| pieces);
        for index in count..before {
            batch.delete(Table::Jobs, piece_key(id, part, index));
        }
    }
    for index in 0..count {
        let from = usize::from(index) * PIECE_BYTES_MAX;
        let piece = &bytes[from..bytes.len().min(from + PIECE_BYTES_MAX)];
        let value = [&[VERSION], &revision.to_be_bytes()[..], &count.to_be_bytes()[..], piece].concat();
        batch.put(Table::Jobs, piece_key(id, part, index), value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_summary_fits_into_the_catalogue_however_it_is_escaped() {
        for character in ["\u{1}", "\"", "é", "x"] {
            let long = |bytes: usize| character.repeat(bytes / character.len());
            let mut spec = JobSpec::new("t".repeat(128));
            (spec.user_id, spec.project_id) = (Some("\"".repeat(256)), Some("\\".repeat(256)));
            let message = long(4_096);
            let head = Head { id: "i".repeat(128), queue: "q".repeat(80), ..Head::default() };
            for labels in 0..64 {
                spec.labels.insert(format!("label-{labels}"), long(256));
                spec.check().unwrap();
                let error = Some(JobError { message: message.clone(), permanent: true, cause: None });
                let job = record::tracked(spec.clone(), head.clone(), Vec::new(), Vec::new(), error);
                let bytes = Summary::of(&job).encode().unwrap().len();
                assert!(bytes <= VALUE_BYTES_MAX, "{bytes} with {labels} labels of {character:?}");
            }
        }
    }
}
