//! What happened to objects, told to others: who takes it, and how it is handed over.
//!
//! A change that was answered has been handed over before: the receiver's own journal record precedes the answer. A
//! change whose answer never came may be told or not. Handing over never fails a change: what nobody takes is counted.
//!
//! What a lifecycle rule does is told like what a caller does. Absent on purpose: events of the pictures that are made of objects, and of what a
//! rule tidies up without an object going (uploads, delete markers with nothing behind them): S3 tells nobody of those either.

use std::sync::Arc;

use futures::future::BoxFuture;
use opentelemetry::KeyValue;

use super::{Artifacts, DocumentKind, VersionName};
use crate::telemetry;
use backlot_wire::metrics::ARTIFACT_EVENTS;

/// Who is told.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Listener {
    /// A queue of this appliance.
    Queue(String),
    /// A webhook by its name.
    Webhook(String),
}

/// What a lifecycle rule has done to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleDid {
    /// An object or a version went for good.
    Delete,
    /// What was current is behind this delete marker.
    Mark,
    /// A version was moved to this storage class.
    Move(String),
}

/// Tells what a rule did to a key, with the version that was meant or made, where the bucket keeps them.
pub type TellRule = fn(Artifacts, String, String, Option<VersionName>, RuleDid) -> BoxFuture<'static, ()>;

/// Hands events over.
pub trait Post: Send + Sync + 'static {
    /// Whether there is such a listener, and it takes events.
    fn knows(&self, listener: &Listener) -> bool;

    /// Hands `body` over durably.
    ///
    /// # Errors
    /// A sentence for the log; nothing was handed over.
    fn post(&self, listener: Listener, body: String) -> BoxFuture<'static, Result<(), String>>;
}

impl Artifacts {
    /// Tells events to whom buckets name from now on. Called once, before the doors open.
    pub fn notify_with(&self, post: Arc<dyn Post>) {
        let _ = self.0.post.set(post);
    }

    /// How what rules do is put into words. Called once, before the lifecycle starts.
    pub fn tell_rules_with(&self, tell: TellRule) {
        let _ = self.0.tell_rule.set(tell);
    }

    /// Tells what a rule has done, if anybody listens to the bucket.
    pub(super) async fn rule_did(&self, bucket: &str, key: &str, version: Option<VersionName>, did: RuleDid) {
        let listens = self.document(bucket, DocumentKind::Notification).is_ok_and(|document| document.is_some());
        if let Some(tell) = self.0.tell_rule.get().filter(|_| listens) {
            tell(self.clone(), bucket.to_owned(), key.to_owned(), version, did).await;
        }
    }

    pub(super) fn knows_listener(&self, listener: &Listener) -> bool {
        self.0.post.get().is_some_and(|post| post.knows(listener))
    }

    /// Hands an event over, or counts that it was not.
    pub(super) async fn tell(&self, bucket: &str, listener: Listener, body: String) {
        let told = match self.0.post.get() {
            Some(post) => post.post(listener.clone(), body).await,
            None => Err("nobody hands events over".to_owned()),
        };
        let outcome = if told.is_ok() { "told" } else { "dropped" };
        let labels = [KeyValue::new("bucket", bucket.to_owned()), KeyValue::new("outcome", outcome)];
        telemetry::counter(&ARTIFACT_EVENTS).add(1, &labels);
        if let Err(problem) = told {
            tracing::warn!(bucket, ?listener, problem, "an event of a bucket was not told");
        }
    }
}
