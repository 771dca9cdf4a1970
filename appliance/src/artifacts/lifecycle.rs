//! Lifecycle: what a bucket's rules make of its objects as they get older.
//!
//! Rules are a document of the bucket. They are carried out by [`run`], which visits every bucket that has some once an hour and
//! whenever rules are put: it deletes what is due and needs no record of having been there. A rule's days end at a midnight
//! (UTC), as S3 has it. What is locked stays until its lock ends, whatever a rule says.
//!
//! Moving objects to another storage class is for whoever offers a [`Transition`]; without one, rules that ask for it are refused
//! when they are put, and none can be waiting.

pub(super) mod rules;
mod run;
mod visit;

use std::sync::Arc;

use futures::future::BoxFuture;

pub(super) use run::run;
#[cfg(test)]
pub(super) use visit::Visited;

use self::rules::Rules;
use super::error::ArtifactError;
use super::model::{ObjectRow, decode, encode};
use super::tags::Tag;
use super::{Artifacts, DocumentKind, Stored};

/// Where objects can be moved to: [`super::cold`].
pub trait Transition: Send + Sync + 'static {
    /// Whether rules may name this storage class.
    fn takes(&self, storage_class: &str) -> bool;

    /// Takes a version whose time has come; true where it is to be moved and was not known yet. Called again at each visit: what
    /// has been moved already is left alone.
    fn carry(
        &self,
        bucket: String,
        key: String,
        row: ObjectRow,
        storage_class: String,
    ) -> BoxFuture<'static, Result<bool, ArtifactError>>;
}

impl Artifacts {
    /// Where rules may move objects to from here on. Called once, while the parts are wired together.
    pub fn offer_transition(&self, transition: Arc<dyn Transition>) {
        if self.0.lifecycle.transition.set(transition).is_err() {
            tracing::error!("objects can be moved to one place only; the second is not used");
        }
    }

    /// Whether objects can be moved anywhere.
    pub(super) fn has_transition(&self) -> bool {
        self.0.lifecycle.transition.get().is_some()
    }

    /// Whether rules may name a storage class.
    pub(super) fn takes_class(&self, storage_class: &str) -> bool {
        self.0.lifecycle.transition.get().is_some_and(|transition| transition.takes(storage_class))
    }

    /// The rules of a bucket, if it has some.
    ///
    /// # Errors
    /// [`ArtifactError::NoSuchBucket`].
    pub(super) fn rules(&self, bucket: &str) -> Result<Option<Rules>, ArtifactError> {
        let Some(document) = self.document(bucket, DocumentKind::Lifecycle)? else { return Ok(None) };
        document.read(decode::<Rules>).cloned().map(Some)
    }

    /// Puts rules over those of a bucket; `None` takes them away. They were checked when they were read.
    ///
    /// # Errors
    /// [`ArtifactError::NoSuchBucket`]; [`ArtifactError::InvalidRequest`] when they are too long together.
    pub(super) async fn set_rules(&self, bucket: &str, rules: Option<&Rules>) -> Result<(), ArtifactError> {
        let bytes = rules.map(encode).transpose().map_err(ArtifactError::fault("write lifecycle rules"))?;
        self.set_document(bucket, DocumentKind::Lifecycle, bytes).await?;
        self.0.lifecycle.nudge.notify_one();
        Ok(())
    }

    /// When the current object `row` expires, and the id of the rule that says so.
    #[must_use]
    pub(super) fn expiration(&self, bucket: &str, key: &str, row: &ObjectRow) -> Option<(u64, String)> {
        self.expiry(bucket, key, (row.size, row.modified_ms), || match row.tags {
            0 => Vec::new(),
            _ => self.tags(row.version).unwrap_or_default(),
        })
    }

    /// The same of what was just put.
    #[must_use]
    pub(super) fn expiration_of_stored(&self, bucket: &str, key: &str, stored: &Stored) -> Option<(u64, String)> {
        self.expiry(bucket, key, (stored.size, stored.modified_ms), || stored.tags.clone())
    }

    /// When an upload is aborted, and the id of the rule that says so.
    #[must_use]
    pub(super) fn abortion(&self, bucket: &str, key: &str, initiated_ms: u64) -> Option<(u64, String)> {
        let document = self.document(bucket, DocumentKind::Lifecycle).ok()??;
        let (due_ms, id) = document.read(decode::<Rules>).ok()?.abort(key, initiated_ms)?;
        Some((due_ms, id.to_owned()))
    }

    fn expiry(
        &self,
        bucket: &str,
        key: &str,
        (size, modified_ms): (u64, u64),
        tags: impl FnOnce() -> Vec<Tag>,
    ) -> Option<(u64, String)> {
        let document = self.document(bucket, DocumentKind::Lifecycle).ok()??;
        let rules = document.read(decode::<Rules>).ok()?;
        let (due_ms, id) = rules.expiry(key, size, modified_ms, tags)?;
        Some((due_ms, id.to_owned()))
    }
}

/// What the lifecycle keeps in memory.
#[derive(Default)]
pub(super) struct Lifecycle {
    transition: std::sync::OnceLock<Arc<dyn Transition>>,
    /// Rules were put.
    nudge: tokio::sync::Notify,
}

impl Lifecycle {
    /// Visits the buckets again: there is room for more of what is due.
    pub(super) fn look_again(&self) {
        self.nudge.notify_one();
    }
}
