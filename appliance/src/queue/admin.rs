//! Queues themselves: made, described, changed, emptied, deleted.
//!
//! A queue's settings are changed by reading them, making new ones, and putting those in their place where nobody else was
//! faster: how much room their record needs is known before the lock is taken, and no change is lost.

use std::collections::BTreeMap;
use std::sync::Arc;

use backlot_journal::Class as RecordClass;

use super::engine::{Counts, Queue};
use super::model::{ACCOUNT, QueueError, QueueName, QueueOverview};
use super::policy::{Permission, Policy};
use super::record::DEFINITION_BYTES_MAX;
use super::redrive::Redrive;
use super::settings::{self, Flow, JOB_QUEUE, SETTABLE, Settings};
use super::tags::Tags;
use super::{Queues, acknowledged, store_error};

/// Messages that an overseen queue loses in one journal group.
const PURGE_CHANGES_MAX: usize = 64;

/// The queues that exist from the start.
const JOBS: &str = "jobs";
const JOBS_DLQ: &str = "jobs-dlq";

impl Queues {
    /// Makes the queues that exist from the start, `jobs` and `jobs-dlq`, where they do not. After the replay, before the doors.
    ///
    /// # Errors
    /// [`QueueError::Store`].
    pub async fn prepare(&self) -> Result<(), QueueError> {
        let text = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        if self.shared.find(JOBS_DLQ).is_err() {
            self.create(JOBS_DLQ, &text(&[("MessageRetentionPeriod", "1209600")])).await?;
        }
        if self.shared.find(JOBS).is_err() {
            let redrive = serde_json::json!({
                "deadLetterTargetArn": settings::arn("us-east-1", JOBS_DLQ), "maxReceiveCount": 10,
            });
            let attributes = text(&[
                ("MessageRetentionPeriod", "1209600"),
                ("RedrivePolicy", &redrive.to_string()),
                ("VisibilityTimeout", "300"),
                (JOB_QUEUE, "true"),
            ]);
            self.create(JOBS, &attributes).await?;
        }
        Ok(())
    }

    /// Makes the queue `name`; one that exists with the same attributes is answered like a new one.
    ///
    /// # Errors
    /// As [`Queues::create_tagged`].
    pub async fn create(&self, name: &str, attributes: &BTreeMap<String, String>) -> Result<(), QueueError> {
        self.create_tagged(name, attributes, &BTreeMap::new()).await
    }

    /// Makes the queue `name` with `tags`; one that exists with the same attributes is answered like a new one and keeps its tags.
    ///
    /// # Errors
    /// [`QueueError::InvalidAttribute`], [`QueueError::InvalidParameter`], [`QueueError::Differs`],
    /// [`QueueError::DeletedRecently`], [`QueueError::Full`], [`QueueError::Store`].
    pub async fn create_tagged(
        &self,
        name: &str,
        attributes: &BTreeMap<String, String>,
        tags: &BTreeMap<String, String>,
    ) -> Result<(), QueueError> {
        let parsed = parse_name(name)?;
        let mut settings = Settings::default().with(&parsed, attributes, true)?;
        settings.tags = Tags::default().with(tags)?;
        warn_of_encryption(name, attributes);
        let permit = self.shared.control.reserve(room_for(&settings), RecordClass::Growing);
        let permit = permit.await.map_err(store_error(name))?;
        let (made, commit) = self.shared.decide(permit, |state, ctx| {
            // Attributes that were not given may differ from those of a queue that exists: so does SQS.
            match state.engine.queue(name) {
                Some(queue) => {
                    let asked = (*queue.settings).clone().with(&parsed, attributes, true)?;
                    let differs = attributes.keys().find(|name| asked.get(name) != queue.settings.get(name));
                    match differs {
                        Some(attribute) => {
                            Err(QueueError::Differs { name: name.to_owned(), attribute: attribute.clone() })
                        }
                        None => Ok(()),
                    }
                }
                None if state.recent.deleted.has(ctx.now, &parsed) => Err(QueueError::DeletedRecently(name.to_owned())),
                None => state.engine.create(ctx, &parsed, settings).map(|_| ()),
            }
        });
        acknowledged(name, commit).await?;
        made
    }

    /// Lays `attributes` over those of the queue.
    ///
    /// # Errors
    /// [`QueueError::InvalidAttribute`], [`QueueError::NoSuchQueue`], [`QueueError::Store`].
    pub async fn set_attributes(&self, name: &str, attributes: &BTreeMap<String, String>) -> Result<(), QueueError> {
        warn_of_encryption(name, attributes);
        self.revise(name, |queue| (*queue.settings).clone().with(&queue.name, attributes, false)).await
    }

    /// Lets messages in and out of the queue, or stops one of them.
    ///
    /// # Errors
    /// [`QueueError::NoSuchQueue`], [`QueueError::Store`].
    pub(super) async fn set_flow(&self, name: &str, flow: Flow) -> Result<(), QueueError> {
        self.revise(name, |queue| Ok(Settings { flow, ..(*queue.settings).clone() })).await
    }

    /// Lays `tags` over those of the queue.
    ///
    /// # Errors
    /// [`QueueError::InvalidParameter`], [`QueueError::NoSuchQueue`], [`QueueError::Store`].
    pub async fn tag(&self, name: &str, tags: &BTreeMap<String, String>) -> Result<(), QueueError> {
        self.revise(name, |queue| {
            let tags = queue.settings.tags.clone().with(tags)?;
            Ok(Settings { tags, ..(*queue.settings).clone() })
        })
        .await
    }

    /// Takes the tags called `keys` away, as far as they are there.
    ///
    /// # Errors
    /// [`QueueError::NoSuchQueue`], [`QueueError::Store`].
    pub async fn untag(&self, name: &str, keys: &[String]) -> Result<(), QueueError> {
        self.revise(name, |queue| {
            let tags = queue.settings.tags.clone().without(keys);
            Ok(Settings { tags, ..(*queue.settings).clone() })
        })
        .await
    }

    /// # Errors
    /// [`QueueError::NoSuchQueue`].
    pub fn tags(&self, name: &str) -> Result<BTreeMap<String, String>, QueueError> {
        self.shared.find(name).map(|queue| queue.settings.tags.all().clone())
    }

    /// Adds a permission to the queue's policy. `arn` is the queue's own.
    ///
    /// # Errors
    /// [`QueueError::InvalidParameter`], [`QueueError::Full`], [`QueueError::NoSuchQueue`], [`QueueError::Store`].
    pub(super) async fn grant(&self, name: &str, arn: &str, permission: &Permission) -> Result<(), QueueError> {
        self.revise(name, |queue| {
            let policy = Policy::grant(queue.settings.policy.as_ref(), arn, permission)?;
            Ok(Settings { policy: Some(policy), ..(*queue.settings).clone() })
        })
        .await
    }

    /// Takes a permission out of the queue's policy.
    ///
    /// # Errors
    /// [`QueueError::InvalidParameter`] where there is no such label, [`QueueError::NoSuchQueue`], [`QueueError::Store`].
    pub(super) async fn revoke(&self, name: &str, label: &str) -> Result<(), QueueError> {
        self.revise(name, |queue| {
            let policy = Policy::revoke(queue.settings.policy.as_ref(), label)?;
            Ok(Settings { policy, ..(*queue.settings).clone() })
        })
        .await
    }

    /// Puts what `revise` makes of the queue's settings in their place.
    async fn revise(
        &self,
        name: &str,
        revise: impl Fn(&Queue) -> Result<Settings, QueueError>,
    ) -> Result<(), QueueError> {
        loop {
            let found = self.shared.find(name)?;
            let settings = revise(&found)?;
            let permit = self.shared.control.reserve(room_for(&settings), RecordClass::Shrinking);
            let permit = permit.await.map_err(store_error(name))?;
            let (set, commit) = self.shared.decide(permit, |state, ctx| {
                let queue = state.engine.queue(name).cloned();
                let queue = queue.ok_or_else(|| QueueError::NoSuchQueue(name.to_owned()))?;
                if !Arc::ptr_eq(&queue.settings, &found.settings) {
                    return Ok(false); // somebody was faster
                }
                let flows = settings.flow != queue.settings.flow;
                state.engine.set(ctx, &queue, settings)?;
                if flows {
                    state.waiting.wake_all(queue.id); // who finds nothing keeps the place in the line
                }
                Ok(true)
            });
            acknowledged(name, commit).await?;
            if set? {
                return Ok(());
            }
        }
    }

    /// The attributes of a queue that have a value, as SQS names and writes them.
    ///
    /// # Errors
    /// [`QueueError::NoSuchQueue`].
    pub fn attributes(&self, name: &str, region: &str) -> Result<BTreeMap<&'static str, String>, QueueError> {
        let state = self.shared.state.lock();
        let queue = state.engine.queue(name).ok_or_else(|| QueueError::NoSuchQueue(name.to_owned()))?;
        let counts = state.engine.counts(queue.id);
        let computed = [
            ("ApproximateNumberOfMessages", counts.ready.to_string()),
            ("ApproximateNumberOfMessagesNotVisible", counts.in_flight.to_string()),
            ("ApproximateNumberOfMessagesDelayed", (counts.delayed + counts.pending).to_string()),
            ("CreatedTimestamp", queue.created_at_s.to_string()),
            ("LastModifiedTimestamp", queue.modified_at_s.to_string()),
            ("QueueArn", settings::arn(region, name)),
        ];
        let set = SETTABLE.iter().filter_map(|name| Some((*name, queue.settings.get(name)?)));
        Ok(computed.into_iter().chain(set).collect())
    }

    /// Up to `limit` names after `after` that begin with `prefix`, in order.
    #[must_use]
    pub fn names(&self, prefix: &str, after: &str, limit: usize) -> Vec<String> {
        let names = self.shared.state.lock().engine.names(prefix, after, limit);
        names.iter().map(ToString::to_string).collect()
    }

    /// Whether a queue called `name` exists.
    #[must_use]
    pub fn exists(&self, name: &str) -> bool {
        self.shared.find(name).is_ok()
    }

    /// Whether the overseer owns the messages of `name`.
    ///
    /// # Errors
    /// [`QueueError::NoSuchQueue`].
    pub fn is_job_queue(&self, name: &str) -> Result<bool, QueueError> {
        self.shared.find(name).map(|queue| queue.settings.job_queue)
    }

    /// Messages on a queue, whatever their state; none where there is no such queue.
    #[must_use]
    pub fn waiting(&self, name: &str) -> u64 {
        let Ok(queue) = self.shared.find(name) else { return 0 };
        let counts = self.shared.state.lock().engine.counts(queue.id);
        (counts.ready + counts.in_flight + counts.delayed + counts.pending) as u64
    }

    /// Takes every message off the queue that is on it when the call is made, once a minute.
    ///
    /// # Errors
    /// [`QueueError::NoSuchQueue`], [`QueueError::PurgeInProgress`], [`QueueError::Store`].
    pub async fn purge(&self, name: &str) -> Result<(), QueueError> {
        let queue = {
            let mut state = self.shared.state.lock();
            let found = state.engine.queue(name).cloned();
            let queue = found.ok_or_else(|| QueueError::NoSuchQueue(name.to_owned()))?;
            let now = self.shared.clock.now();
            if state.recent.purged.has(now, &queue.id) {
                return Err(QueueError::PurgeInProgress(name.to_owned()));
            }
            state.recent.purged.mark(now, queue.id);
            queue
        };
        let permit = self.shared.control.reserve(self.shared.room(1), RecordClass::Shrinking);
        let permit = permit.await.map_err(store_error(name))?;
        let (emptied, commit) = self.shared.decide(permit, |state, ctx| state.engine.purge(ctx, queue.id));
        acknowledged(name, commit).await?;
        match emptied {
            Some(emptied) => drop(emptied), // a million messages take a moment to drop, and the lock is free again
            None => self.purge_overseen(&queue).await?,
        }
        Ok(())
    }

    /// Deletes the queue with all that is on it.
    ///
    /// # Errors
    /// [`QueueError::NoSuchQueue`], [`QueueError::Store`].
    pub async fn delete_queue(&self, name: &str) -> Result<(), QueueError> {
        let queue = {
            let mut state = self.shared.state.lock();
            let found = state.engine.queue(name).cloned();
            let queue = found.ok_or_else(|| QueueError::NoSuchQueue(name.to_owned()))?;
            if queue.settings.job_queue {
                state.engine.close(queue.id);
            }
            queue
        };
        if queue.settings.job_queue {
            self.purge_overseen(&queue).await?;
        }
        let permit = self.shared.control.reserve(self.shared.room(1), RecordClass::Shrinking);
        let permit = permit.await.map_err(store_error(name))?;
        let (emptied, commit) = self.shared.decide(permit, |state, ctx| {
            state.waiting.wake_all(queue.id);
            state.recent.deleted.mark(ctx.now, queue.name.clone());
            state.engine.undefine(ctx, queue.id)
        });
        drop(emptied);
        acknowledged(name, commit).await
    }

    /// Piece by piece, because the overseer writes records for every message.
    async fn purge_overseen(&self, queue: &Queue) -> Result<(), QueueError> {
        let before = self.shared.state.lock().engine.next_arrival(queue.id);
        let (mut walk, mut more) = (0, true);
        let changes_max = self.shared.changes_max(PURGE_CHANGES_MAX);
        while more {
            let room = self.shared.room(changes_max);
            let permit = self.shared.control.reserve(room, RecordClass::Shrinking);
            let permit = permit.await.map_err(store_error(queue.name.as_str()))?;
            let (left, commit) = self
                .shared
                .decide(permit, |state, ctx| state.engine.purge_some(ctx, queue.id, &mut walk, before, changes_max));
            acknowledged(queue.name.as_str(), commit).await?;
            more = left;
        }
        Ok(())
    }

    /// Every queue with its counts, by name. `base_url` is what URLs begin with.
    #[must_use]
    pub fn overview(&self, base_url: &str) -> Vec<QueueOverview> {
        let state = self.shared.state.lock();
        let now = self.shared.clock.now();
        let queues: Vec<(&Queue, Counts)> = state.engine.queues().map(|(queue, counts, _)| (queue, counts)).collect();
        let targets: std::collections::HashSet<&str> = queues.iter().filter_map(|(queue, _)| dlq_of(queue)).collect();
        let overview = |(queue, counts): &(&Queue, Counts)| QueueOverview {
            name: queue.name.to_string(),
            url: url(base_url, queue.name.as_str()),
            ready: counts.ready as u64,
            in_flight: counts.in_flight as u64,
            delayed: (counts.delayed + counts.pending) as u64,
            oldest_age_s: state.engine.oldest_age_ms(now, queue.id) as f64 / 1000.0,
            is_job_queue: queue.settings.job_queue,
            flow: queue.settings.flow.as_str(),
            dlq: dlq_of(queue).map(str::to_owned),
            is_dlq: targets.contains(queue.name.as_str()),
        };
        queues.iter().map(overview).collect()
    }
}

/// The URL of a queue, as SQS writes it.
#[must_use]
pub(super) fn url(base_url: &str, name: &str) -> String {
    format!("{}/{ACCOUNT}/{name}", base_url.trim_end_matches('/'))
}

pub(super) fn dlq_of(queue: &Queue) -> Option<&str> {
    queue.settings.redrive.as_ref().map(Redrive::target)
}

/// Room for the record of a queue with `settings`: beside them it has a name and a few numbers.
fn room_for(settings: &Settings) -> usize {
    let json = serde_json::to_vec(settings).map_or(0, |json| json.len()); // plain data: cannot fail
    DEFINITION_BYTES_MAX + json
}

/// Who asks for encryption is told in the log that there is none.
fn warn_of_encryption(name: &str, attributes: &BTreeMap<String, String>) {
    let asked = |name: &str| attributes.get(name).is_some_and(|value| !value.is_empty() && value != "false");
    if asked("SqsManagedSseEnabled") || asked("KmsMasterKeyId") {
        tracing::warn!(queue = name, "encryption was asked for; the setting is kept, and messages are not encrypted");
    }
}

fn parse_name(name: &str) -> Result<QueueName, QueueError> {
    let invalid = |problem: &str| QueueError::InvalidParameter { name: "QueueName", problem: problem.to_owned() };
    match QueueName::parse(name) {
        Some(name) => Ok(name),
        None => Err(invalid("Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length.")),
    }
}
