//! Events of buckets on their way to queues and webhooks: where artifacts, queue and jobs meet.
//!
//! An event for a queue is a message there before the change is answered. One for a webhook waits in a queue of its own,
//! [`OUTBOX`], which keeps it over restarts, counts its attempts and lets it go after four days; a worker posts from there, signed as the
//! webhook's other events are, at least once. The outbox has an end: past it events are dropped and counted, and no change waits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::{BoxFuture, join_all};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::artifacts::{Listener, Post};
use crate::jobs::Jobs;
use crate::queue::{Delivery, QueueError, Queues, ReceiveRequest, SendRequest};
use crate::tasks::Stage;

/// The queue that holds what webhooks are still to be told.
pub const OUTBOX: &str = "backlot-bucket-events";
/// Most events that wait.
const WAITING_MAX: u64 = 100_000;
/// Time within which an attempt has ended, and the least until the next.
const VISIBILITY_S: u32 = 60;
/// Longest time between two attempts.
const PAUSE_S_MAX: u32 = 900;
/// Events posted at once.
const BATCH: usize = 10;

/// Hands events of buckets over. Cheap to clone.
#[derive(Clone)]
pub struct BucketEvents {
    queues: Queues,
    jobs: Jobs,
    /// Whether the outbox was seen to exist.
    is_open: Arc<AtomicBool>,
}

/// What waits in the outbox.
#[derive(Serialize, Deserialize)]
struct Waiting {
    webhook: String,
    event: String,
}

impl BucketEvents {
    #[must_use]
    pub fn new(queues: Queues, jobs: Jobs) -> Self {
        Self { queues, jobs, is_open: Arc::default() }
    }

    /// Starts the worker that tells webhooks.
    pub fn start(&self, stage: &Stage) {
        stage.spawn("bucket events", self.clone().run(stage.stopping()));
    }

    async fn send(&self, queue: &str, body: String) -> Result<(), String> {
        let request = SendRequest {
            body,
            delay_s: None,
            attributes: Vec::new(),
            trace_header: None,
            sender_id: "s3.amazonaws.com".into(),
            group_id: None,
            deduplication_id: None,
        };
        self.queues.send(queue, request).await.map(drop).map_err(|error| error.to_string())
    }

    async fn open(&self) -> Result<(), String> {
        if !self.is_open.load(Ordering::Relaxed) {
            let attributes = BTreeMap::from([("VisibilityTimeout".to_owned(), VISIBILITY_S.to_string())]);
            match self.queues.create(OUTBOX, &attributes).await {
                // Somebody changed its attributes: it is there.
                Ok(()) | Err(QueueError::Differs { .. }) => self.is_open.store(true, Ordering::Relaxed),
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(())
    }

    async fn put_out(&self, webhook: String, event: String) -> Result<(), String> {
        self.open().await?;
        if self.queues.waiting(OUTBOX) >= WAITING_MAX {
            return Err(format!("{WAITING_MAX} events wait for webhooks, which is the most"));
        }
        let body = serde_json::to_string(&Waiting { webhook, event }).map_err(|error| error.to_string())?;
        self.send(OUTBOX, body).await.inspect_err(|_| self.is_open.store(false, Ordering::Relaxed))
    }

    async fn run(self, stop: CancellationToken) {
        loop {
            let request = ReceiveRequest {
                messages_max: BATCH,
                visibility_s: Some(VISIBILITY_S),
                wait_s: Some(20),
                agent: None,
                alike: None,
                attempt_id: None,
            };
            let received = tokio::select! {
                () = stop.cancelled() => return,
                received = self.queues.receive(OUTBOX, request) => received.unwrap_or_default(),
            };
            if received.is_empty() {
                // No queue yet, or nothing in it.
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(std::time::Duration::from_millis(500)) => {}
                }
                continue;
            }
            tokio::select! {
                // What is cut off here is visible again in a minute.
                () = stop.cancelled() => return,
                _ = join_all(received.into_iter().map(|delivery| self.tell(delivery))) => {}
            }
        }
    }

    async fn tell(&self, delivery: Delivery) {
        let told = match serde_json::from_str::<Waiting>(&delivery.body) {
            Ok(Waiting { webhook, event }) if self.jobs.webhook(&webhook).is_ok() => {
                self.jobs.post_to_webhook(&webhook, &delivery.message_id, event.into_bytes()).await
            }
            // The webhook was taken away, or somebody sent something here.
            _ => Ok(()),
        };
        let kept = match told {
            Ok(()) => self.queues.delete(OUTBOX, &[delivery.receipt]).await.map(drop),
            Err(problem) => {
                let pause_s = 2_u32.saturating_pow(delivery.receive_count.min(16)).min(PAUSE_S_MAX);
                tracing::debug!(problem, pause_s, "a webhook was not told an event of a bucket; it is tried again");
                self.queues.change_visibility(OUTBOX, &[(delivery.receipt, pause_s)]).await.map(drop)
            }
        };
        if let Err(error) = kept {
            tracing::warn!(%error, "an event of a bucket will be told again");
        }
    }
}

impl Post for BucketEvents {
    fn knows(&self, listener: &Listener) -> bool {
        match listener {
            // S3 knows no queues in order, and jobs are made by those who want them.
            Listener::Queue(name) => {
                !name.ends_with(".fifo") && self.queues.is_job_queue(name).is_ok_and(|is_job_queue| !is_job_queue)
            }
            Listener::Webhook(name) => self.jobs.webhook(name).is_ok(),
        }
    }

    fn post(&self, listener: Listener, body: String) -> BoxFuture<'static, Result<(), String>> {
        let events = self.clone();
        Box::pin(async move {
            match listener {
                Listener::Queue(name) => events.send(&name, body).await,
                Listener::Webhook(name) => events.put_out(name, body).await,
            }
        })
    }
}
