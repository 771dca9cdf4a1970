//! Keeps the lease of one job while it is worked on, and listens for what is to become of it.
//!
//! Two loops: one extends the message's visibility at a third of it, the other posts events as they come and a heartbeat
//! each second, whose answer carries cancel, supersede, drain and new limits. They do not wait for each other: an http
//! door that hangs must not cost the lease. A queue that is away is asked again; the work goes on meanwhile,
//! and only the newest attempt's result counts.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tracing::{Instrument, info, warn};

use crate::door::DoorError;
use crate::events::Reporter;
use crate::queue::{Queue, QueueError};
use crate::service::Drain;
use crate::worker::process::{Orders, Stop};

/// Longest time between two questions for orders: cancel reaches a worker within two seconds.
const HEARTBEAT: Duration = Duration::from_millis(900);
/// Shortest time between two posts.
const POST_PAUSE: Duration = Duration::from_millis(100);
// The second half of the two seconds is the host's, and the appliance's answer's.
const _: () = assert!(HEARTBEAT.as_millis() + POST_PAUSE.as_millis() <= 1_000);

/// A lease that is being kept. Dropped, it is left alone and ends by itself.
pub struct Lease {
    pub orders: watch::Receiver<Orders>,
    keeper: AbortHandle,
}

impl Lease {
    #[must_use]
    pub fn keep(
        queue: Arc<Queue>,
        receipt: String,
        visibility_s: u32,
        reporter: Arc<Reporter>,
        drain: watch::Receiver<Drain>,
        drain_asked: Arc<watch::Sender<bool>>,
    ) -> Self {
        let (orders, receiver) = watch::channel(Orders::default());
        let keeper = tokio::spawn(
            async move {
                tokio::join!(
                    extend(&queue, &receipt, visibility_s, reporter.is_heard(), &orders),
                    listen(&reporter, &orders, &drain_asked),
                    obey(drain, &orders),
                );
            }
            .in_current_span(),
        );
        Self { orders: receiver, keeper: keeper.abort_handle() }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

fn stop(orders: &watch::Sender<Orders>, stop: Stop) {
    orders.send_if_modified(|orders| {
        let first = orders.stop.is_none();
        if first {
            orders.stop = Some(stop);
        }
        first
    });
}

async fn extend(queue: &Queue, receipt: &str, visibility_s: u32, heard: bool, orders: &watch::Sender<Orders>) {
    let third = Duration::from_secs(u64::from(visibility_s)) / 3;
    let mut pause = third;
    loop {
        tokio::time::sleep(pause).await;
        match queue.extend(receipt).await {
            Ok(()) => pause = third,
            Err(QueueError::Gone(reason)) => {
                // The appliance says by its directives whether this attempt still counts; a plain SQS says it only here.
                if heard {
                    info!(reason, "the lease cannot be extended");
                    pause = third;
                } else {
                    warn!(reason, "the lease is lost");
                    stop(orders, Stop::LeaseLost);
                    return;
                }
            }
            Err(QueueError::Away(reason)) => {
                warn!(reason, "heartbeat: the queue is away");
                pause = (third / 4).clamp(Duration::from_millis(500), Duration::from_secs(5));
            }
        }
    }
}

async fn listen(reporter: &Reporter, orders: &watch::Sender<Orders>, drain_asked: &watch::Sender<bool>) {
    if !reporter.is_heard() {
        return;
    }
    let mut away = false;
    loop {
        let _ = tokio::time::timeout(HEARTBEAT, reporter.something_to_say()).await;
        match reporter.post().await {
            Ok(directive) => {
                if std::mem::take(&mut away) {
                    info!("the appliance is back");
                }
                if directive.cancel {
                    stop(orders, Stop::Cancelled);
                } else if directive.superseded {
                    stop(orders, Stop::Superseded);
                }
                if directive.drain {
                    drain_asked.send_replace(true);
                }
                orders.send_if_modified(|orders| {
                    let new = directive.limits.is_some() && orders.limits != directive.limits;
                    if new {
                        orders.limits.clone_from(&directive.limits);
                    }
                    new
                });
            }
            Err(error) => {
                // A refusal is told of by the reporter.
                let is_away = matches!(error, DoorError::Away(_));
                if is_away && !std::mem::replace(&mut away, true) {
                    warn!(%error, "the appliance does not take events; they are kept");
                }
                tokio::time::sleep(HEARTBEAT).await;
            }
        }
        tokio::time::sleep(POST_PAUSE).await;
    }
}

async fn obey(mut drain: watch::Receiver<Drain>, orders: &watch::Sender<Orders>) {
    if drain.wait_for(|drain| *drain == Drain::GiveBack).await.is_ok() {
        stop(orders, Stop::Drained);
    }
}
