//! Log groups, their streams, retention and tags: what lasts of CloudWatch Logs beside the events.
//!
//! All of it is in memory and in the control journal, written there first; nothing of it is in the catalogue, so that
//! `backlot rebuild` does not touch it. What is known of a stream's events (first, last) is not kept: it is
//! looked up among the events when it is asked for, and followed from then on.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use backlot_journal::{Class, Lsn};
use parking_lot::Mutex;
use uuid::Uuid;

use super::rows::{GroupRow, Row, StreamRow};
use crate::clock::{Clock, Now};
use crate::control::{Commit, Control, ControlError, Follower, Kind, Permit};

/// Most log groups.
const GROUPS_MAX: usize = 5_000;
/// Most streams of all groups together: each costs about 400 bytes of memory.
const STREAMS_MAX: usize = 100_000;
/// Most tags of a group (AWS).
const TAGS_MAX: usize = 50;
/// Keys and values of a group's tags together.
const TAGS_BYTES_MAX: usize = 4 << 10;
/// Room for one row: its names and tags are bounded.
const ROW_BYTES_MAX: usize = 12 << 10;

#[derive(Debug, thiserror::Error)]
pub(super) enum GroupError {
    #[error("The specified log group does not exist.")]
    NoSuchGroup,
    #[error("The specified log stream does not exist.")]
    NoSuchStream,
    #[error("The specified log group already exists")]
    GroupExists,
    #[error("The specified log stream already exists")]
    StreamExists,
    #[error("Resource limit exceeded: {0}")]
    Limit(String),
    #[error("{0}")]
    TooManyTags(String),
    #[error(transparent)]
    Store(#[from] ControlError),
}

/// What is known of the events of a stream, in milliseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) first_ms: i64,
    pub(super) last_ms: i64,
    pub(super) ingested_ms: i64,
}

impl Seen {
    pub(super) fn join(self, other: Self) -> Self {
        Self {
            first_ms: self.first_ms.min(other.first_ms),
            last_ms: self.last_ms.max(other.last_ms),
            ingested_ms: self.ingested_ms.max(other.ingested_ms),
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Stream {
    pub(super) row: StreamRow,
    pub(super) seen: Option<Seen>,
    /// The events from before this start were looked at too.
    pub(super) looked_up: bool,
}

struct Kept<T> {
    lsn: Lsn,
    is: T,
}

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct Groups {
    control: Control,
    clock: Arc<dyn Clock>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Id by name.
    names: BTreeMap<String, String>,
    groups: HashMap<String, Kept<GroupRow>>,
    /// By the id of their group. A stream may stand in the journal before its group, which was written again since.
    streams: HashMap<String, BTreeMap<String, Kept<Stream>>>,
    streams_count: usize,
}

impl Groups {
    /// Hand the handle to the replay as a [`Follower`].
    #[must_use]
    pub fn build(control: Control, clock: Arc<dyn Clock>) -> Self {
        Self { control, clock, state: Arc::default() }
    }

    pub(super) async fn create_group(
        &self,
        name: &str,
        tags: BTreeMap<String, String>,
        class: Option<String>,
    ) -> Result<(), GroupError> {
        let created_ms = self.clock.now().wall_ms;
        self.change(Class::Growing, |state| {
            if state.names.contains_key(name) {
                return Err(GroupError::GroupExists);
            }
            if state.groups.len() >= GROUPS_MAX {
                return Err(GroupError::Limit(format!("there are {GROUPS_MAX} log groups")));
            }
            check_tags(&tags)?;
            let (id, name) = (new_id(), name.to_owned());
            Ok(Row::Group(GroupRow { id, name, created_ms, retention_days: None, tags, class }))
        })
        .await
    }

    pub(super) async fn delete_group(&self, name: &str) -> Result<(), GroupError> {
        self.change(Class::Shrinking, |state| Ok(Row::GroupGone { id: state.group(name)?.id.clone() })).await
    }

    pub(super) async fn set_retention(&self, name: &str, retention_days: Option<u32>) -> Result<(), GroupError> {
        self.change(Class::Growing, |state| Ok(Row::Group(GroupRow { retention_days, ..state.group(name)?.clone() })))
            .await
    }

    pub(super) async fn tag(&self, name: &str, more: &BTreeMap<String, String>) -> Result<(), GroupError> {
        self.change(Class::Growing, |state| {
            let mut row = state.group(name)?.clone();
            row.tags.extend(more.iter().map(|(key, value)| (key.clone(), value.clone())));
            check_tags(&row.tags)?;
            Ok(Row::Group(row))
        })
        .await
    }

    pub(super) async fn untag(&self, name: &str, keys: &[String]) -> Result<(), GroupError> {
        self.change(Class::Growing, |state| {
            let mut row = state.group(name)?.clone();
            row.tags.retain(|key, _| !keys.contains(key));
            Ok(Row::Group(row))
        })
        .await
    }

    pub(super) async fn create_stream(&self, group: &str, name: &str) -> Result<(), GroupError> {
        let created_ms = self.clock.now().wall_ms;
        self.change(Class::Growing, |state| {
            let group = state.group(group)?.id.clone();
            if state.streams.get(&group).is_some_and(|streams| streams.contains_key(name)) {
                return Err(GroupError::StreamExists);
            }
            if state.streams_count >= STREAMS_MAX {
                return Err(GroupError::Limit(format!("there are {STREAMS_MAX} log streams")));
            }
            Ok(Row::Stream(StreamRow { id: new_id(), group, name: name.to_owned(), created_ms }))
        })
        .await
    }

    pub(super) async fn delete_stream(&self, group: &str, name: &str) -> Result<(), GroupError> {
        self.change(Class::Shrinking, |state| {
            let stream = state.stream(group, name)?;
            Ok(Row::StreamGone { group: stream.row.group.clone(), name: name.to_owned() })
        })
        .await
    }

    pub(super) fn group(&self, name: &str) -> Result<GroupRow, GroupError> {
        self.state.lock().group(name).cloned()
    }

    /// Groups whose names come after `after` and pass `test`, by name.
    pub(super) fn groups(&self, after: &str, limit: usize, test: impl Fn(&str) -> bool) -> Vec<GroupRow> {
        let state = self.state.lock();
        let names = state.names.iter().filter(|(name, _)| name.as_str() > after && test(name));
        names.filter_map(|(_, id)| state.groups.get(id)).map(|kept| kept.is.clone()).take(limit).collect()
    }

    pub(super) fn stream(&self, group: &str, name: &str) -> Result<Stream, GroupError> {
        self.state.lock().stream(group, name).cloned()
    }

    /// The streams of a group that pass `test`, by name.
    pub(super) fn streams(&self, group: &str, test: impl Fn(&Stream) -> bool) -> Result<Vec<Stream>, GroupError> {
        let state = self.state.lock();
        let id = &state.group(group)?.id;
        let all = state.streams.get(id).into_iter().flat_map(BTreeMap::values);
        Ok(all.map(|kept| &kept.is).filter(|stream| test(stream)).cloned().collect())
    }

    /// Whether a stream of that id is there, and its group: events of one that was deleted are not read any more.
    pub(super) fn has(&self, group_id: &str, stream: &str, stream_id: &str) -> bool {
        let state = self.state.lock();
        let kept = state.streams.get(group_id).and_then(|streams| streams.get(stream));
        state.groups.contains_key(group_id) && kept.is_some_and(|kept| kept.is.row.id == stream_id)
    }

    /// Takes note of events of a stream; `looked_up` says that they were found among all there are.
    pub(super) fn saw(&self, row: &StreamRow, seen: Option<Seen>, looked_up: bool) {
        let mut state = self.state.lock();
        let kept = state.streams.get_mut(&row.group).and_then(|streams| streams.get_mut(&row.name));
        let Some(stream) = kept.map(|kept| &mut kept.is).filter(|stream| stream.row.id == row.id) else { return };
        stream.looked_up |= looked_up;
        stream.seen = match (stream.seen, seen) {
            (Some(before), Some(now)) => Some(before.join(now)),
            (before, now) => before.or(now),
        };
    }

    /// Decides under the lock, writes, and waits until it is durable.
    async fn change(
        &self,
        class: Class,
        decide: impl FnOnce(&State) -> Result<Row, GroupError>,
    ) -> Result<(), GroupError> {
        let permit = self.control.reserve(ROW_BYTES_MAX, class).await?;
        let commit = {
            let mut state = self.state.lock();
            let row = decide(&state)?;
            let record = row.encode();
            if record.payload.len() > ROW_BYTES_MAX {
                return Err(GroupError::Limit(format!("a name with its tags is over {ROW_BYTES_MAX} bytes")));
            }
            let commit = permit.submit(&[record]);
            state.apply(row, commit.lsns.first().copied().unwrap_or_default());
            commit
        };
        Ok(commit.acknowledged().await?)
    }
}

impl Follower for Groups {
    fn kinds(&self) -> &'static [Kind] {
        &[Kind::LogGroup]
    }

    fn replay(&self, _: Kind, lsn: Lsn, payload: &[u8]) -> Result<(), String> {
        self.state.lock().apply(Row::decode(payload)?, lsn);
        Ok(())
    }

    fn replayed(&self, _: Now) {
        self.state.lock().drop_orphans();
    }

    fn relocate(&self, _: Kind, lsn: Lsn, payload: &[u8], permit: Permit) -> Option<Commit> {
        let row = Row::decode(payload).ok()?;
        let mut state = self.state.lock();
        let at = match &row {
            Row::Group(row) => state.groups.get_mut(&row.id).map(|kept| &mut kept.lsn),
            Row::Stream(row) => {
                let streams = state.streams.get_mut(&row.group);
                streams.and_then(|streams| streams.get_mut(&row.name)).map(|kept| &mut kept.lsn)
            }
            // What it takes away stood before it, and is gone from the journal already.
            Row::GroupGone { .. } | Row::StreamGone { .. } => None,
        };
        let live = at.filter(|at| **at == lsn)?;
        let commit = permit.submit(&[row.encode()]);
        *live = commit.lsns.first().copied().unwrap_or(lsn);
        Some(commit)
    }

    fn live_bytes(&self) -> u64 {
        let state = self.state.lock();
        let groups = state.groups.values().map(|kept| kept.is.name.len() + tags_bytes(&kept.is.tags) + 150);
        let streams = state.streams.values().flat_map(BTreeMap::values).map(|kept| kept.is.row.name.len() + 150);
        groups.chain(streams).map(|bytes| bytes as u64).sum()
    }
}

impl State {
    fn group(&self, name: &str) -> Result<&GroupRow, GroupError> {
        let kept = self.names.get(name).and_then(|id| self.groups.get(id));
        kept.map(|kept| &kept.is).ok_or(GroupError::NoSuchGroup)
    }

    fn stream(&self, group: &str, name: &str) -> Result<&Stream, GroupError> {
        let id = &self.group(group)?.id;
        let kept = self.streams.get(id).and_then(|streams| streams.get(name));
        kept.map(|kept| &kept.is).ok_or(GroupError::NoSuchStream)
    }

    fn apply(&mut self, row: Row, lsn: Lsn) {
        match row {
            Row::Group(row) => {
                self.names.insert(row.name.clone(), row.id.clone());
                self.groups.insert(row.id.clone(), Kept { lsn, is: row });
            }
            Row::GroupGone { id } => {
                if let Some(gone) = self.groups.remove(&id)
                    && self.names.get(&gone.is.name) == Some(&id)
                {
                    self.names.remove(&gone.is.name);
                }
                self.streams_count -= self.streams.remove(&id).map_or(0, |streams| streams.len());
            }
            Row::Stream(row) => {
                let streams = self.streams.entry(row.group.clone()).or_default();
                let name = row.name.clone();
                let stream = Stream { row, seen: None, looked_up: false };
                self.streams_count += usize::from(streams.insert(name, Kept { lsn, is: stream }).is_none());
            }
            Row::StreamGone { group, name } => {
                let gone = self.streams.get_mut(&group).and_then(|streams| streams.remove(&name));
                self.streams_count -= usize::from(gone.is_some());
            }
        }
    }

    /// Streams whose group is not there: it was deleted, and the record of that has gone with its segment.
    fn drop_orphans(&mut self) {
        let groups = &self.groups;
        self.streams.retain(|id, _| groups.contains_key(id));
        self.streams_count = self.streams.values().map(BTreeMap::len).sum();
    }
}

/// One word of the index, which no other group or stream has ever had.
fn new_id() -> String {
    Uuid::new_v4().simple().to_string()
}

fn tags_bytes(tags: &BTreeMap<String, String>) -> usize {
    tags.iter().map(|(key, value)| key.len() + value.len()).sum()
}

fn check_tags(tags: &BTreeMap<String, String>) -> Result<(), GroupError> {
    if tags.len() > TAGS_MAX {
        return Err(GroupError::TooManyTags(format!("A log group can have at most {TAGS_MAX} tags.")));
    }
    if tags_bytes(tags) > TAGS_BYTES_MAX {
        let message = format!("The tags of a log group can have at most {TAGS_BYTES_MAX} bytes together.");
        return Err(GroupError::TooManyTags(message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use backlot_journal::Options;

    use super::*;
    use crate::clock::SystemClock;
    use crate::control::Compaction;

    const SEGMENT_BYTES: u64 = 128 << 10;

    /// A journal of small segments, none of which stays for long.
    fn open(dir: &Path) -> (Groups, Control) {
        let mut options = Options::new(dir.join("journal"));
        options.segment_bytes = SEGMENT_BYTES;
        options.reserve_bytes = 0;
        let compaction = Compaction { slack_bytes: 0, every: Duration::from_millis(5) };
        let (control, replay) = Control::open_with(dir, options, compaction).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let groups = Groups::build(control.clone(), Arc::clone(&clock));
        replay.run(&[Arc::new(groups.clone())], clock.now()).unwrap();
        (groups, control)
    }

    fn all(groups: &Groups) -> Vec<(GroupRow, Vec<StreamRow>)> {
        let of = |row: GroupRow| {
            let streams = groups.streams(&row.name, |_| true).unwrap();
            (row, streams.into_iter().map(|stream| stream.row).collect())
        };
        groups.groups("", usize::MAX, |_| true).into_iter().map(of).collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn groups_and_streams_outlive_the_segments_that_they_were_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let (groups, control) = open(dir.path());
        let stages = crate::tasks::Stages::new(&[("stores", Duration::from_secs(20))]);
        control.start(&stages.stage("stores"));
        for name in ["still", "busy", "gone"] {
            groups.create_group(name, BTreeMap::new(), None).await.unwrap();
            for stream in ["a", "b"] {
                groups.create_stream(name, stream).await.unwrap();
            }
        }
        groups.delete_stream("still", "b").await.unwrap();
        groups.delete_group("gone").await.unwrap();
        let tags = (0..15).map(|at| (format!("tag-{at}"), "x".repeat(250))).collect();
        groups.tag("busy", &tags).await.unwrap();
        for days in 0..300 {
            groups.set_retention("busy", Some(days)).await.unwrap();
        }
        assert!(control.journal().stats().written_bytes > 8 * SEGMENT_BYTES);
        for _ in 0..2_000 {
            if control.journal().stats().disk_bytes <= 4 * SEGMENT_BYTES {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(control.journal().stats().disk_bytes <= 4 * SEGMENT_BYTES, "the first segments are gone");
        let before = all(&groups);
        assert_eq!(
            before.iter().map(|(row, streams)| (row.name.as_str(), streams.len())).collect::<Vec<_>>(),
            [("busy", 2), ("still", 1)]
        );
        stages.stop().await;
        control.close();
        drop((groups, control));

        let (groups, control) = open(dir.path());
        assert_eq!(all(&groups), before);
        assert_eq!(groups.state.lock().streams_count, 3);
        control.close();
    }
}
