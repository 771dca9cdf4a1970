//! Webhooks: other programs are told what happens to jobs, signed, at least once, over restarts too.
//!
//! [`outbox`] keeps the events, [`line`] decides which is told next, [`deliver`] tells it. How far each webhook has been told is a setting that is
//! written about once a second: what was told since then is told again after a crash, under the same id.
//!
//! A webhook's query is judged on the job as it is when the event is told, and the job in the body is that job; what the event itself says
//! (what happened, when, in which attempt) is as it was.
//!
//! Invariants: events of one job are told in order; a secret and a URL are kept sealed, shown once at the most, and never logged.

mod deliver;
mod event;
mod line;
mod outbox;
mod sign;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use backlot_wire::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

pub use self::event::Event;
use self::outbox::Outbox;
use super::store::Applied;
use super::{Jobs, JobsError, search, settings};
use crate::catalogue::{Batch, Catalogue, CatalogueError};
use crate::control::Record;
use crate::outgoing::{Courier, Target};

/// Where webhooks stand among the settings, and how far each has been told.
pub(super) const PREFIX: &str = "webhook/";
pub(super) const AT_PREFIX: &str = "webhook-at/";
/// Most webhooks.
const WEBHOOKS_MAX: usize = 32;
const QUERY_BYTES_MAX: usize = 1_000;

/// Keeps secrets sealed while they lie on the disk.
pub trait Seal: Send + Sync + 'static {
    /// # Errors
    /// A sentence for the log.
    fn seal(&self, name: &str, secret: &[u8]) -> Result<String, String>;

    /// `None`: it was sealed for another name, or by another key.
    fn open(&self, name: &str, sealed: &str) -> Option<Vec<u8>>;
}

/// What a client asks for.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    pub url: String,
    /// Absent: all but progress. Empty: of no job; what buckets name it for, it is told.
    #[serde(default)]
    pub events: Option<BTreeSet<Event>>,
    /// Only of jobs that this finds, in the query language.
    #[serde(default)]
    pub query: String,
    /// `whsec_` and base64. Absent: the one that it had, or a new one, which the answer shows.
    #[serde(default)]
    pub secret: Option<String>,
}

/// A webhook as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Definition {
    /// [`Sealed`] as JSON, sealed.
    sealed: String,
    /// Scheme and host, to be shown.
    target: String,
    pub(super) events: Vec<Event>,
    query: String,
    created_at: Timestamp,
    updated_at: Timestamp,
}

/// What nobody is shown.
#[derive(Clone, Serialize, Deserialize)]
struct Sealed {
    url: String,
    /// As it is shown, once.
    secret: String,
}

/// A webhook as it is shown.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Shown {
    pub name: String,
    /// Scheme and host; the rest may be a secret.
    pub target: String,
    pub events: Vec<Event>,
    pub query: String,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// What became of its deliveries since the appliance started.
    pub deliveries: Deliveries,
}

/// What became of a webhook's deliveries in this run of the process.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Deliveries {
    pub delivered: u64,
    pub retried: u64,
    /// Given up for their age.
    pub dead: u64,
    /// Events that are on their way.
    pub waiting: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivered_at: Option<Timestamp>,
    /// What the last failed attempt said, until one goes through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// The webhooks.
#[derive(Default)]
pub(super) struct Webhooks {
    outbox: Outbox,
    defined: Mutex<BTreeMap<String, Definition>>,
    deliveries: Mutex<BTreeMap<String, Deliveries>>,
    pub(super) seal: OnceLock<Arc<dyn Seal>>,
    /// Who posts what others than jobs have to tell.
    courier: OnceLock<Courier>,
    /// A definition has changed.
    changed: Notify,
    /// There may be something to tell.
    news: Notify,
    /// One change of the definitions at a time, so that memory has them in the journal's order.
    setting: tokio::sync::Mutex<()>,
}

impl Webhooks {
    /// Takes the webhooks of earlier runs.
    pub(super) fn load(&self, catalogue: &Catalogue) -> Result<(), CatalogueError> {
        self.defined.lock().extend(settings::load::<Definition>(catalogue, PREFIX)?);
        Ok(())
    }

    /// A job's record is applied to the catalogue.
    pub(super) fn applied(
        &self,
        lsn: u64,
        applied: &Applied,
        catalogue: &Catalogue,
        batch: &mut Batch,
    ) -> Result<(), String> {
        if self.outbox.applied(lsn, applied, catalogue, batch)? {
            self.news.notify_waiters();
        }
        Ok(())
    }

    /// A setting's record is applied to the catalogue.
    pub(super) fn set(&self, payload: &[u8], catalogue: &Catalogue, batch: &mut Batch) -> Result<(), String> {
        let (key, _) = settings::key_of(payload)?;
        if key.starts_with(PREFIX) || key.starts_with(AT_PREFIX) {
            self.outbox.set(&key, payload, catalogue, batch)?;
        }
        Ok(())
    }
}

impl Jobs {
    /// Defines the webhook `name`, or changes it. The second value is its secret where it was made here: it is not shown again.
    ///
    /// # Errors
    /// [`JobsError::Invalid`] and [`JobsError::Query`] say what is wrong; [`JobsError::Full`]: there are too many.
    pub async fn set_webhook(&self, name: &str, wanted: Wanted) -> Result<(Shown, Option<String>), JobsError> {
        let webhooks = &self.book.webhooks;
        let _one = webhooks.setting.lock().await;
        if !backlot_wire::job::is_name(name) {
            return Err(JobsError::Invalid("a webhook's name is 1 to 128 letters, digits, `.`, `_`, `-`".into()));
        }
        let target = Target::parse(&wanted.url).map_err(JobsError::Invalid)?;
        if wanted.query.len() > QUERY_BYTES_MAX {
            return Err(JobsError::Invalid(format!("`query` is longer than {QUERY_BYTES_MAX} bytes")));
        }
        let now = self.book.clock.now();
        search::parse(&wanted.query, now).map_err(|error| JobsError::Query {
            text: wanted.query.clone(),
            at: error.at,
            problem: error.to_string(),
        })?;
        let events: Vec<Event> =
            wanted.events.map_or_else(|| Event::DEFAULT.to_vec(), |events| events.into_iter().collect());
        let known = webhooks.defined.lock().get(name).cloned();
        if known.is_none() && webhooks.defined.lock().len() >= WEBHOOKS_MAX {
            return Err(JobsError::Full(format!("there are {WEBHOOKS_MAX} webhooks, which is the most")));
        }
        let mut made = None;
        let secret = match (wanted.secret, known.as_ref().and_then(|known| self.unsealed(name, known))) {
            (Some(secret), _) => secret,
            (None, Some(before)) => before.secret,
            (None, None) => made.insert(sign::new_secret().map_err(JobsError::Store)?).clone(),
        };
        sign::secret_bytes(&secret).map_err(JobsError::Invalid)?;
        let definition = Definition {
            sealed: self.sealed(name, &Sealed { url: wanted.url, secret })?,
            target: target.shown(),
            events,
            query: wanted.query,
            created_at: known.as_ref().map_or(now.timestamp(), |known| known.created_at),
            updated_at: now.timestamp(),
        };
        let mut records = Vec::new();
        if known.is_none() {
            // It is told what happens from now on.
            let from = self.book.control.journal().durable().0;
            records.push(settings::record(&format!("{AT_PREFIX}{name}"), Some(&from)).map_err(JobsError::Invalid)?);
        }
        records.push(settings::record(&format!("{PREFIX}{name}"), Some(&definition)).map_err(JobsError::Invalid)?);
        self.write_settings(records).await?;
        webhooks.defined.lock().insert(name.to_owned(), definition);
        webhooks.changed.notify_one();
        Ok((self.webhook(name)?, made))
    }

    /// # Errors
    /// [`JobsError::NoSuchWebhook`].
    pub fn webhook(&self, name: &str) -> Result<Shown, JobsError> {
        let definition = self.book.webhooks.defined.lock().get(name).cloned();
        let definition = definition.ok_or_else(|| JobsError::NoSuchWebhook(name.to_owned()))?;
        let deliveries = self.book.webhooks.deliveries.lock().get(name).cloned().unwrap_or_default();
        let Definition { target, events, query, created_at, updated_at, .. } = definition;
        Ok(Shown { name: name.to_owned(), target, events, query, created_at, updated_at, deliveries })
    }

    /// All webhooks, by name.
    #[must_use]
    pub fn webhooks(&self) -> Vec<Shown> {
        let names: Vec<String> = self.book.webhooks.defined.lock().keys().cloned().collect();
        names.iter().filter_map(|name| self.webhook(name).ok()).collect()
    }

    /// Events that wait to be told, and those that were not because there were too many.
    #[must_use]
    pub fn webhooks_waiting(&self) -> (usize, u64) {
        self.book.webhooks.outbox.counts()
    }

    /// Takes a webhook away; what it was not told yet is not told.
    ///
    /// # Errors
    /// [`JobsError::NoSuchWebhook`].
    pub async fn delete_webhook(&self, name: &str) -> Result<(), JobsError> {
        let webhooks = &self.book.webhooks;
        let _one = webhooks.setting.lock().await;
        if !webhooks.defined.lock().contains_key(name) {
            return Err(JobsError::NoSuchWebhook(name.to_owned()));
        }
        let gone =
            |prefix: &str| settings::record(&format!("{prefix}{name}"), None::<&u64>).map_err(JobsError::Invalid);
        self.write_settings(vec![gone(AT_PREFIX)?, gone(PREFIX)?]).await?;
        webhooks.defined.lock().remove(name);
        webhooks.deliveries.lock().remove(name);
        webhooks.changed.notify_one();
        Ok(())
    }

    /// Seals the secrets again: the key that seals has changed. One that does not open stays as it is.
    ///
    /// # Errors
    /// [`JobsError::Store`]; a change was not made durable.
    pub async fn reseal_webhooks(&self) -> Result<(), JobsError> {
        let webhooks = &self.book.webhooks;
        let _one = webhooks.setting.lock().await;
        let all = webhooks.defined.lock().clone();
        for (name, definition) in all {
            let Some(opened) = self.unsealed(&name, &definition) else {
                tracing::warn!(webhook = name, "the secret of a webhook does not open; set it again");
                continue;
            };
            let definition = Definition { sealed: self.sealed(&name, &opened)?, ..definition };
            let record = settings::record(&format!("{PREFIX}{name}"), Some(&definition)).map_err(JobsError::Invalid)?;
            self.write_settings(vec![record]).await?;
            webhooks.defined.lock().insert(name, definition);
        }
        Ok(())
    }

    async fn write_settings(&self, records: Vec<Record>) -> Result<(), JobsError> {
        let bytes = records.iter().map(|record| record.payload.len() + 32).sum();
        let permit = self.book.control.reserve(bytes, backlot_journal::Class::Growing).await?;
        Ok(permit.submit(&records).acknowledged().await?)
    }

    fn sealed(&self, name: &str, sealed: &Sealed) -> Result<String, JobsError> {
        let seal = self.book.webhooks.seal.get().ok_or_else(|| JobsError::Store("nothing seals secrets".into()))?;
        let json = serde_json::to_vec(sealed).map_err(|error| JobsError::Store(error.to_string()))?;
        seal.seal(&format!("{PREFIX}{name}"), &json).map_err(JobsError::Store)
    }

    /// `None`: the master key is another one now; the webhook must be set again.
    fn unsealed(&self, name: &str, definition: &Definition) -> Option<Sealed> {
        let json = self.book.webhooks.seal.get()?.open(&format!("{PREFIX}{name}"), &definition.sealed)?;
        serde_json::from_slice(&json).ok()
    }
}
