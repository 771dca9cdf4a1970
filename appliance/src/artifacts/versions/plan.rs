//! What a put, a delete or an amendment makes of a key's versions. Pure: what is there was read under the key's lock.

use uuid::Uuid;

use super::{Marker, Version};
use crate::artifacts::model::{ObjectRow, Versioning};
use crate::artifacts::record::{Current, KeyChange, Null};
use crate::artifacts::state::Counted;
use crate::artifacts::tags::Tag;

/// What is there of a key.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Held {
    pub(in super::super) versioning: Versioning,
    pub(in super::super) current: Option<ObjectRow>,
    /// Whether `current` has its row among the versions too.
    pub(in super::super) is_kept: bool,
    /// The newest version where that is no object: a delete marker.
    pub(in super::super) newest: Option<Version>,
    /// The `null` version where it is not `current`; read only where versioning is suspended.
    pub(in super::super) null: Option<Version>,
}

/// A change, and what it means for counts and blobs.
#[derive(Debug)]
pub(in super::super) struct Plan {
    pub(in super::super) change: KeyChange,
    pub(in super::super) came: Vec<Counted>,
    pub(in super::super) went: Vec<Counted>,
    /// The version whose bytes and tags go.
    pub(in super::super) removed: Option<ObjectRow>,
}

impl Plan {
    fn new(bucket: &str, key: &str) -> Self {
        let change = KeyChange { bucket: bucket.to_owned(), key: key.to_owned(), ..KeyChange::default() };
        Self { change, came: Vec::new(), went: Vec::new(), removed: None }
    }

    fn remove(&mut self, row: ObjectRow) {
        if row.tags > 0 {
            self.change.tags.push((row.version, Vec::new()));
        }
        self.removed = Some(row);
    }
}

impl Held {
    /// The id of the next version: `fresh`, unless the newest is no older than that. Then the clock stands still or went back.
    pub(in super::super) fn next_id(&self, fresh: Uuid) -> Uuid {
        let newest = self.current.as_ref().map(|row| row.version).or(self.newest.as_ref().map(Version::id));
        match newest {
            Some(newest) if newest >= fresh => Uuid::from_u128(newest.as_u128().saturating_add(1)),
            _ => fresh,
        }
    }

    /// A new object over what is there. Its id is [`Held::next_id`].
    pub(in super::super) fn put(self, bucket: &str, key: &str, mut row: ObjectRow, tags: Vec<Tag>) -> Plan {
        let mut plan = Plan::new(bucket, key);
        row.named = self.versioning == Versioning::Enabled;
        if !tags.is_empty() {
            plan.change.tags.push((row.version, tags));
        }
        plan.came.push(Counted::current(&row));
        if self.versioning == Versioning::Suspended {
            plan.change.null = Null::Is(row.version);
        }
        plan.change.is_kept = self.versioning != Versioning::Never;
        plan.change.current = Current::Put(row);
        self.supersede(&mut plan);
        plan
    }

    /// A delete that names no version. `None` when there is nothing to delete and nothing to mark.
    pub(in super::super) fn mark(self, bucket: &str, key: &str, version: Uuid, modified_ms: u64) -> Option<Plan> {
        let mut plan = Plan::new(bucket, key);
        if self.versioning == Versioning::Never {
            self.current.as_ref()?;
        } else {
            let named = self.versioning == Versioning::Enabled;
            if !named {
                plan.change.null = Null::Is(version);
            }
            plan.change.versions.push(Version::Marker(Marker { version, named, modified_ms }));
            plan.came.push(Counted::Marker);
        }
        if self.current.is_some() {
            plan.change.current = Current::Gone;
        }
        self.supersede(&mut plan);
        Some(plan)
    }

    /// What becomes of what was current, and of the `null` version, when something newer comes.
    fn supersede(self, plan: &mut Plan) {
        let Self { versioning, current, is_kept, null, .. } = self;
        if let Some(row) = current {
            plan.went.push(Counted::current(&row));
            let goes = match versioning {
                Versioning::Never => true,
                Versioning::Enabled => false,
                Versioning::Suspended => !row.named,
            };
            if goes {
                if is_kept {
                    plan.change.gone.push(row.version);
                }
                plan.remove(row);
            } else {
                plan.came.push(Counted::noncurrent(&row));
                if !is_kept {
                    plan.change.null = Null::Is(row.version);
                    plan.change.versions.push(Version::Object(row));
                }
            }
        }
        match null {
            Some(Version::Object(row)) => {
                plan.went.push(Counted::noncurrent(&row));
                plan.change.gone.push(row.version);
                plan.remove(row);
            }
            Some(Version::Marker(marker)) => {
                plan.went.push(Counted::Marker);
                plan.change.gone.push(marker.version);
            }
            None => {}
        }
    }

    /// Deletes one version. `next` is the one that is older than it.
    pub(in super::super) fn remove(self, bucket: &str, key: &str, target: Version, next: Option<Version>) -> Plan {
        let mut plan = Plan::new(bucket, key);
        let is_current = self.current.as_ref().is_some_and(|row| row.version == target.id());
        let is_newest = is_current || self.newest.as_ref().is_some_and(|newest| newest.id() == target.id());
        if self.versioning != Versioning::Never && (self.is_kept || !is_current) {
            plan.change.gone.push(target.id());
            if !target.named() {
                plan.change.null = Null::Gone;
            }
        }
        match next {
            Some(Version::Object(row)) if is_newest => {
                plan.went.push(Counted::noncurrent(&row));
                plan.came.push(Counted::current(&row));
                plan.change.current = Current::Put(row);
            }
            _ if is_current => plan.change.current = Current::Gone,
            _ => {}
        }
        match target {
            Version::Marker(_) => plan.went.push(Counted::Marker),
            Version::Object(row) => {
                plan.went.push(if is_current { Counted::current(&row) } else { Counted::noncurrent(&row) });
                plan.remove(row);
            }
        }
        plan
    }

    /// Writes `now` in the place of `row`, which has the same id.
    pub(in super::super) fn amend(self, bucket: &str, key: &str, row: &ObjectRow, now: ObjectRow) -> Plan {
        let mut plan = Plan::new(bucket, key);
        if self.current.as_ref().is_some_and(|current| current.version == row.version) {
            plan.went.push(Counted::current(row));
            plan.came.push(Counted::current(&now));
            plan.change.is_kept = self.is_kept;
            plan.change.current = Current::Put(now);
        } else {
            plan.went.push(Counted::noncurrent(row));
            plan.came.push(Counted::noncurrent(&now));
            plan.change.versions.push(Version::Object(now));
        }
        plan
    }
}
