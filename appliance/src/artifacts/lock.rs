//! Object lock: what keeps a version from being deleted, and who may change that.
//!
//! A retention holds until its date, a legal hold until it is lifted. `GOVERNANCE` yields to those who say that they
//! bypass it and may; `COMPLIANCE` yields to nobody and is only ever made longer. A lock belongs to one version: a delete
//! that names none makes a delete marker, which no lock prevents.

use serde::{Deserialize, Serialize};

use super::Artifacts;
use super::error::ArtifactError;
use super::model::{ObjectRow, Versioning};
use super::versions::VersionName;

/// Longest default retention (S3).
const DEFAULT_DAYS_MAX: u32 = 36_500;
const DEFAULT_YEARS_MAX: u32 = 100;
const DAY_MS: u64 = 24 * 3600 * 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    #[serde(rename = "g")]
    Governance,
    #[serde(rename = "c")]
    Compliance,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    #[serde(rename = "m")]
    pub mode: Mode,
    #[serde(rename = "u")]
    pub until_ms: u64,
}

/// What holds a version. Either may be absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// `None` when nobody has ever said.
    #[serde(rename = "h", default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<bool>,
}

/// How long a bucket retains what is put without a retention of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Period {
    #[serde(rename = "d")]
    Days(u32),
    #[serde(rename = "y")]
    Years(u32),
}

/// The retention that a bucket gives to what is put without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefaultRetention {
    #[serde(rename = "m")]
    pub mode: Mode,
    #[serde(rename = "p")]
    pub period: Period,
}

impl DefaultRetention {
    #[must_use]
    pub fn is_within_bounds(self) -> bool {
        match self.period {
            Period::Days(days) => (1..=DEFAULT_DAYS_MAX).contains(&days),
            Period::Years(years) => (1..=DEFAULT_YEARS_MAX).contains(&years),
        }
    }

    fn from(self, now_ms: u64) -> Retention {
        let days = match self.period {
            Period::Days(days) => u64::from(days),
            Period::Years(years) => u64::from(years) * 365,
        };
        Retention { mode: self.mode, until_ms: now_ms.saturating_add(days * DAY_MS) }
    }
}

impl Lock {
    /// Nothing when there is nothing to keep.
    #[must_use]
    pub fn boxed(self) -> Option<Box<Self>> {
        (self != Self::default()).then(|| Box::new(self))
    }

    /// # Errors
    /// [`ArtifactError::Locked`] when the version may not be deleted now.
    pub fn allows_delete(&self, now_ms: u64, bypass: bool) -> Result<(), ArtifactError> {
        if self.hold == Some(true) {
            return Err(ArtifactError::Locked("it is under a legal hold"));
        }
        match self.retention.filter(|retention| retention.until_ms > now_ms) {
            Some(Retention { mode: Mode::Compliance, .. }) => {
                Err(ArtifactError::Locked("its retention in COMPLIANCE mode has not ended"))
            }
            Some(Retention { mode: Mode::Governance, .. }) if !bypass => {
                Err(ArtifactError::Locked("its retention in GOVERNANCE mode has not ended, and was not bypassed"))
            }
            _ => Ok(()),
        }
    }

    /// Puts `wanted` in the place of what retains the version; `None` takes it away.
    ///
    /// # Errors
    /// [`ArtifactError::Locked`] when that would weaken what has not ended.
    pub fn retain(&mut self, wanted: Option<Retention>, now_ms: u64, bypass: bool) -> Result<(), ArtifactError> {
        if let Some(held) = self.retention.filter(|held| held.until_ms > now_ms) {
            let is_longer = wanted.is_some_and(|wanted| wanted.mode == held.mode && wanted.until_ms >= held.until_ms);
            let may = bypass && held.mode == Mode::Governance;
            if !is_longer && !may {
                return Err(ArtifactError::Locked("its retention may only be made longer"));
            }
        }
        self.retention = wanted;
        Ok(())
    }
}

impl Artifacts {
    /// What an object that is put now is locked with, where `asked` is what its client asked for.
    ///
    /// # Errors
    /// [`ArtifactError::InvalidRequest`] when the bucket has no object lock.
    pub(super) fn locked(&self, bucket: &str, asked: Lock, now_ms: u64) -> Result<Lock, ArtifactError> {
        let state = self.0.state.lock();
        let row = &state.bucket(bucket)?.row;
        if !row.lock && asked != Lock::default() {
            return Err(without_lock());
        }
        let retention = asked.retention.or(row.default_retention.map(|default| default.from(now_ms)));
        Ok(Lock { retention, ..asked })
    }

    /// Begins or suspends to keep versions.
    ///
    /// # Errors
    /// [`ArtifactError::InvalidBucketState`] when a bucket with object lock is to stop.
    pub async fn set_versioning(&self, bucket: &str, is_enabled: bool) -> Result<(), ArtifactError> {
        let change = |row: &mut super::model::BucketRow| {
            if row.lock && !is_enabled {
                let why = "versioning cannot be suspended in a bucket with object lock";
                return Err(ArtifactError::InvalidBucketState(why));
            }
            row.versioning = if is_enabled { Versioning::Enabled } else { Versioning::Suspended };
            Ok(())
        };
        self.set_bucket(bucket, change).await
    }

    /// Lets a bucket's objects be locked from here on, and says what those get that are put without a retention.
    ///
    /// # Errors
    /// [`ArtifactError::InvalidBucketState`] when the bucket keeps no versions.
    pub async fn set_lock(&self, bucket: &str, default: Option<DefaultRetention>) -> Result<(), ArtifactError> {
        let change = |row: &mut super::model::BucketRow| {
            if row.versioning != Versioning::Enabled {
                return Err(ArtifactError::InvalidBucketState("object lock needs versioning to be enabled"));
            }
            row.lock = true;
            row.default_retention = default;
            Ok(())
        };
        self.set_bucket(bucket, change).await
    }

    /// A bucket's default retention; `None` outside means that it has no object lock.
    ///
    /// # Errors
    /// [`ArtifactError::NoSuchBucket`].
    pub fn bucket_lock(&self, bucket: &str) -> Result<Option<Option<DefaultRetention>>, ArtifactError> {
        let state = self.0.state.lock();
        let row = &state.bucket(bucket)?.row;
        Ok(row.lock.then_some(row.default_retention))
    }

    /// What holds a version.
    ///
    /// # Errors
    /// As [`Artifacts::find`]; [`ArtifactError::InvalidRequest`] when the bucket has no object lock.
    pub fn lock_of(&self, bucket: &str, key: &str, which: Option<VersionName>) -> Result<Lock, ArtifactError> {
        self.bucket_lock(bucket)?.ok_or_else(without_lock)?;
        Ok(self.find(bucket, key, which)?.lock.map(|lock| *lock).unwrap_or_default())
    }

    /// Changes what holds a version.
    ///
    /// # Errors
    /// As [`Artifacts::lock_of`]; what `change` refuses with.
    pub async fn set_lock_of(
        &self,
        bucket: &str,
        key: &str,
        which: Option<VersionName>,
        change: impl FnOnce(&mut Lock, u64) -> Result<(), ArtifactError>,
    ) -> Result<(), ArtifactError> {
        self.bucket_lock(bucket)?.ok_or_else(without_lock)?;
        let now_ms = self.now().wall_ms;
        let change = |row: &mut ObjectRow| {
            let mut lock = row.lock.take().map(|lock| *lock).unwrap_or_default();
            change(&mut lock, now_ms)?;
            row.lock = lock.boxed();
            Ok(())
        };
        self.amend(bucket, key, which, None, change).await.map(drop)
    }
}

fn without_lock() -> ArtifactError {
    ArtifactError::InvalidRequest("Bucket is missing Object Lock Configuration".into())
}

#[cfg(test)]
impl Lock {
    /// The one that takes the most room.
    pub(super) fn longest() -> Self {
        Self { retention: Some(Retention { mode: Mode::Compliance, until_ms: u64::MAX }), hold: Some(true) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(mode: Mode, until_ms: u64) -> Lock {
        Lock { retention: Some(Retention { mode, until_ms }), hold: None }
    }

    #[test]
    fn a_retention_holds_until_its_date_and_a_legal_hold_until_it_is_lifted() {
        for (lock, now, bypass, goes) in [
            (Lock::default(), 5, false, true),
            (lock(Mode::Governance, 10), 9, false, false),
            (lock(Mode::Governance, 10), 9, true, true),
            (lock(Mode::Governance, 10), 10, false, true),
            (lock(Mode::Compliance, 10), 9, true, false),
            (lock(Mode::Compliance, 10), 10, false, true),
            (Lock { hold: Some(true), ..lock(Mode::Governance, 1) }, 9, true, false),
            (Lock { hold: Some(false), retention: None }, 9, false, true),
        ] {
            assert_eq!(lock.allows_delete(now, bypass).is_ok(), goes, "{lock:?} at {now}, bypass {bypass}");
        }
    }

    #[test]
    fn a_retention_is_made_longer_by_anybody_and_weaker_by_who_may_bypass_governance() {
        let (short, long) = (10, 20);
        let changed = |from: Lock, wanted: Option<(Mode, u64)>, bypass| {
            let wanted = wanted.map(|(mode, until_ms)| Retention { mode, until_ms });
            let mut lock = from;
            let done = lock.retain(wanted, 5, bypass).is_ok();
            assert_eq!(lock.retention == wanted, done);
            done
        };
        use Mode::{Compliance, Governance};
        assert!(changed(Lock::default(), Some((Compliance, short)), false));
        assert!(changed(lock(Governance, short), Some((Governance, long)), false));
        assert!(!changed(lock(Governance, long), Some((Governance, short)), false));
        assert!(changed(lock(Governance, long), Some((Governance, short)), true));
        assert!(!changed(lock(Governance, short), Some((Compliance, short)), false));
        assert!(changed(lock(Governance, short), Some((Compliance, short)), true));
        assert!(!changed(lock(Governance, short), None, false));
        assert!(changed(lock(Governance, short), None, true));
        assert!(changed(lock(Compliance, short), Some((Compliance, long)), false));
        assert!(!changed(lock(Compliance, short), Some((Governance, long)), true));
        assert!(!changed(lock(Compliance, short), None, true));
        assert!(changed(lock(Compliance, 5), None, false), "it has ended");
    }
}
