//! One visit to a bucket: every rule is looked at once, what is due is done.
//!
//! Rows are read page by page and judged as they were read. What is done says which version it means, so that a put meanwhile is
//! safe. A visit that is cut short has done part of the work, and the next does the rest.

use futures::StreamExt;
use uuid::Uuid;

use super::rules::{Rule, Rules, When};
use crate::artifacts::blobs::blocking;
use crate::artifacts::conditions::WriteConditions;
use crate::artifacts::engine::{Delete, Deleted};
use crate::artifacts::error::ArtifactError;
use crate::artifacts::listing::Query;
use crate::artifacts::model::ObjectRow;
use crate::artifacts::multipart::UploadName;
use crate::artifacts::tags::Tag;
use crate::artifacts::versions::listing::{Listed, VersionQuery};
use crate::artifacts::versions::{Version, VersionName};
use crate::artifacts::{Artifacts, RuleDid, Versioning};

/// Rows looked at before what is due among them is done.
const PAGE: usize = 1000;
/// Deletes that are under way at once, so that they share groups and leave the disk to others.
const AT_ONCE: usize = 16;

/// What a visit has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Visited {
    pub(in super::super) expired: usize,
    pub(in super::super) versions: usize,
    pub(in super::super) markers: usize,
    pub(in super::super) uploads: usize,
    /// Handed over to be moved.
    pub(in super::super) to_move: usize,
}

impl std::ops::AddAssign for Visited {
    fn add_assign(&mut self, other: Self) {
        self.expired += other.expired;
        self.versions += other.versions;
        self.markers += other.markers;
        self.uploads += other.uploads;
        self.to_move += other.to_move;
    }
}

/// Something that is due.
enum Due {
    /// The current object goes, or is hidden behind a delete marker.
    Expire(String, Uuid),
    /// A version goes that is not current, or a marker behind which is nothing.
    Remove(String, VersionName, Uuid),
    Move(String, Box<ObjectRow>, String),
}

impl Artifacts {
    /// Carries out the rules of one bucket.
    pub(in super::super) async fn visit(&self, bucket: &str) -> Result<Visited, ArtifactError> {
        let mut visited = Visited::default();
        let Some(rules) = self.rules(bucket)? else { return Ok(visited) };
        let now_ms = self.now().wall_ms;
        visited += self.visit_current(bucket, &rules, now_ms).await?;
        if self.versioning(bucket)? != Versioning::Never {
            visited += self.visit_versions(bucket, &rules, now_ms).await?;
        }
        visited.uploads = self.visit_uploads(bucket, &rules, now_ms).await?;
        Ok(visited)
    }

    async fn visit_current(&self, bucket: &str, rules: &Rules, now_ms: u64) -> Result<Visited, ArtifactError> {
        let mut visited = Visited::default();
        for prefix in rules.prefixes(|rule| rule.expiration.is_some() || !rule.transitions.is_empty()) {
            let mut after = None;
            loop {
                let query = Query { prefix: prefix.clone(), delimiter: None, after: after.take(), max: PAGE };
                let page = self.list(bucket, query).await?;
                let due = self.judge_page(rules.clone(), page.entries, now_ms).await?;
                visited += self.carry_out_due(bucket, due).await;
                match page.next {
                    Some(next) => after = Some(next),
                    None => break,
                }
            }
        }
        Ok(visited)
    }

    /// Which of a page of current objects are due. Reads their tags where a rule asks for them.
    async fn judge_page(
        &self,
        rules: Rules,
        entries: Vec<(String, ObjectRow)>,
        now_ms: u64,
    ) -> Result<Vec<Due>, ArtifactError> {
        let artifacts = self.clone();
        let judged = blocking(move || {
            let mut due = Vec::new();
            for (key, row) in entries {
                let tags = || artifacts.tags_of_row(&row);
                if rules.expiry(&key, row.size, row.modified_ms, tags).is_some_and(|(due_ms, _)| due_ms <= now_ms) {
                    due.push(Due::Expire(key, row.version));
                } else if row.cold_class().is_none()
                    && let Some(class) = artifacts.transition_due(&rules, &key, &row, now_ms)
                {
                    due.push(Due::Move(key, Box::new(row), class));
                }
            }
            Ok(due)
        });
        judged.await.map_err(ArtifactError::io("visit a bucket"))
    }

    /// The class that a current object is to be moved to: that of the latest rule that is due.
    fn transition_due(&self, rules: &Rules, key: &str, row: &ObjectRow, now_ms: u64) -> Option<String> {
        let due =
            rules.enabled().flat_map(|rule| rule.transitions.iter().map(move |(when, class)| (rule, *when, class)));
        let since_ms = row.here_since(row.modified_ms);
        // A date moves a version once: what came back after it stays.
        let is_done = |when: When| matches!(when, When::Date(date) if row.back_ms().is_some_and(|back| back >= date));
        let due = due.filter(|(_, when, _)| !is_done(*when));
        let due = due.map(|(rule, when, class)| (rule, when.due_ms(since_ms), class));
        due.filter(|(rule, due_ms, _)| *due_ms <= now_ms && rule.filter.takes(key, row.size, || self.tags_of_row(row)))
            .max_by_key(|(_, due_ms, _)| *due_ms)
            .map(|(_, _, class)| class.clone())
    }

    fn tags_of_row(&self, row: &ObjectRow) -> Vec<Tag> {
        // What cannot be read has no tags that a rule could ask for, and stays.
        if row.tags == 0 { Vec::new() } else { self.tags(row.version).unwrap_or_default() }
    }

    async fn visit_versions(&self, bucket: &str, rules: &Rules, now_ms: u64) -> Result<Visited, ArtifactError> {
        let mut visited = Visited::default();
        let concerns = |rule: &Rule| {
            rule.noncurrent.is_some() || rule.expiration.is_some() || !rule.noncurrent_transitions.is_empty()
        };
        for prefix in rules.prefixes(concerns) {
            let mut history = History::default();
            let mut after = None;
            loop {
                let query = VersionQuery { prefix: prefix.clone(), delimiter: None, after: after.take(), max: PAGE };
                let page = self.list_versions(bucket, query).await?;
                let mut due = Vec::new();
                for listed in page.entries {
                    due.extend(history.next(self, rules, listed, now_ms));
                }
                if page.next.is_none() {
                    due.extend(history.end(rules, now_ms));
                }
                visited += self.carry_out_due(bucket, due).await;
                match page.next {
                    Some(next) => after = Some(next),
                    None => break,
                }
            }
        }
        Ok(visited)
    }

    async fn visit_uploads(&self, bucket: &str, rules: &Rules, now_ms: u64) -> Result<usize, ArtifactError> {
        let mut aborted = 0;
        for prefix in rules.prefixes(|rule| rule.abort_days.is_some()) {
            let mut after: Option<(String, Uuid)> = None;
            loop {
                let from = after.as_ref().map(|(key, id)| (key.as_str(), Some(*id)));
                let page = self.uploads(bucket, &prefix, from, PAGE)?;
                let is_last = page.len() < PAGE;
                for (key, id, row) in page {
                    let is_due = rules.abort(&key, row.initiated_ms).is_some_and(|(due_ms, _)| due_ms <= now_ms);
                    after = Some((key.clone(), id));
                    if is_due {
                        match self.abort(&UploadName { bucket: bucket.to_owned(), key, id }).await {
                            Ok(()) => aborted += 1,
                            Err(ArtifactError::NoSuchUpload) => {} // it has ended since
                            Err(error) => return Err(error),
                        }
                    }
                }
                if is_last {
                    break;
                }
            }
        }
        Ok(aborted)
    }

    /// Does what is due; what has changed or is locked stays for another visit.
    async fn carry_out_due(&self, bucket: &str, due: Vec<Due>) -> Visited {
        let one = |due: Due| async move {
            let mut visited = Visited::default();
            let done = match due {
                Due::Expire(key, version) => {
                    let conditions = WriteConditions { if_version: Some(version), ..WriteConditions::default() };
                    let delete = Delete { conditions, ..Delete::default() };
                    visited.expired = 1;
                    let done = self.delete(bucket, &key, &delete).await;
                    match &done {
                        Ok(Deleted { marker: Some(marker), .. }) => {
                            self.rule_did(bucket, &key, Some(*marker), RuleDid::Mark).await;
                        }
                        Ok(deleted) if deleted.existed => self.rule_did(bucket, &key, None, RuleDid::Delete).await,
                        _ => {}
                    }
                    done.map(drop)
                }
                Due::Remove(key, name, version) => {
                    // A name alone may be another's by now: `null` is given again and again.
                    let conditions = WriteConditions::default();
                    let delete = Delete { version: Some(name), conditions, only: Some(version), bypass: false };
                    let done = self.delete(bucket, &key, &delete).await;
                    match &done {
                        Ok(deleted) if deleted.marker.is_some() => visited.markers = 1,
                        Ok(deleted) => {
                            visited.versions = 1;
                            if deleted.existed {
                                self.rule_did(bucket, &key, Some(name), RuleDid::Delete).await;
                            }
                        }
                        Err(_) => {}
                    }
                    done.map(drop)
                }
                Due::Move(key, row, class) => {
                    let Some(transition) = self.0.lifecycle.transition.get() else { return visited };
                    let carried = transition.carry(bucket.to_owned(), key, *row, class).await;
                    visited.to_move = usize::from(matches!(carried, Ok(true)));
                    carried.map(drop)
                }
            };
            match done {
                Ok(()) => visited,
                Err(
                    ArtifactError::PreconditionFailed(_) | ArtifactError::NoSuchKey { .. } | ArtifactError::Locked(_),
                ) => Visited::default(),
                Err(error) => {
                    tracing::warn!(bucket, %error, "could not carry out a lifecycle rule; the next visit tries again");
                    Visited::default()
                }
            }
        };
        let mut all = Visited::default();
        let mut running = futures::stream::iter(due).map(one).buffer_unordered(AT_ONCE);
        while let Some(visited) = running.next().await {
            all += visited;
        }
        all
    }
}

/// What is known of the key whose versions are being visited, newest first.
#[derive(Default)]
struct History {
    key: String,
    /// When the version before this one, which is newer, came.
    newer_ms: u64,
    /// How many that are not current were seen.
    noncurrent: u32,
    /// The newest version where that is a delete marker and nothing else was seen yet.
    marker: Option<(VersionName, Uuid, u64)>,
}

impl History {
    /// Looks at the next version; what is due of it, or of the key before.
    fn next(&mut self, artifacts: &Artifacts, rules: &Rules, listed: Listed, now_ms: u64) -> Vec<Due> {
        let Listed { key, version, is_latest } = listed;
        let mut due = Vec::new();
        if key != self.key {
            due.extend(self.end(rules, now_ms));
            *self = Self { key: key.clone(), ..Self::default() };
        }
        if is_latest {
            if let Version::Marker(marker) = &version {
                self.marker = Some((version.name(), marker.version, marker.modified_ms));
            }
        } else {
            self.marker = None;
            let (since_ms, newer) = (self.newer_ms, self.noncurrent);
            self.noncurrent = newer.saturating_add(1);
            let size = version.object().map_or(0, |row| row.size);
            let takes = |rule: &Rule| {
                rule.filter
                    .takes(&key, size, || version.object().map(|row| artifacts.tags_of_row(row)).unwrap_or_default())
            };
            let is_due = |rule: &Rule| rule.noncurrent.is_some_and(|rule| rule.is_due(since_ms, newer, now_ms));
            let here_ms = version.object().map_or(since_ms, |row| row.here_since(since_ms));
            let moves = |rule: &Rule| {
                let due = rule.noncurrent_transitions.iter().filter(|(due, _)| due.is_due(here_ms, newer, now_ms));
                due.max_by_key(|(due, _)| due.days).map(|(_, class)| class.clone())
            };
            if rules.enabled().any(|rule| is_due(rule) && takes(rule)) {
                due.push(Due::Remove(key, version.name(), version.id()));
            } else if let Some(row) = version.object().filter(|row| row.cold_class().is_none())
                && let Some(class) = rules.enabled().filter(|rule| takes(rule)).find_map(moves)
            {
                due.push(Due::Move(key, Box::new(row.clone()), class));
            }
        }
        self.newer_ms = version.modified_ms();
        due
    }

    /// No more versions of the key come.
    fn end(&mut self, rules: &Rules, now_ms: u64) -> Option<Due> {
        let (name, version, modified_ms) = self.marker.take()?;
        let goes = rules.enabled().any(|rule| rule.takes_marker(&self.key, modified_ms, now_ms));
        goes.then(|| Due::Remove(self.key.clone(), name, version))
    }
}
