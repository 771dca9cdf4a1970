//! `StartLiveTail`: events as they arrive, in an update a second.
//!
//! An update has at most 500 events. When more arrive, or the reader is too slow, some are left out, the update says that it is
//! `sampled`, and they are counted.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use backlot_windows::{Batch, Position};
use bytes::Bytes;
use http::Response;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::api_events::streams;
use super::api_groups::arn;
use super::event::Event;
use super::fields::{filter_pattern, group_of, required};
use super::filter::Pattern;
use super::refused::Refused;
use super::source::{Selection, Target};
use super::{CloudWatch, fault, frames};
use crate::edge::aws::{AwsError, Call};

/// Sessions at once (AWS), groups of one session, events and bytes of one update.
pub(super) const SESSIONS_MAX: usize = 15;
const GROUPS_MAX: usize = 10;
const EVENTS_MAX: usize = 500;
const BYTES_MAX: usize = 8 << 20;
const EVERY: Duration = Duration::from_secs(1);
/// Longest session (AWS).
const SESSION: Duration = Duration::from_secs(3 * 3600);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StartLiveTail {
    log_group_identifiers: Option<Vec<String>>,
    log_stream_names: Option<Vec<String>>,
    log_stream_name_prefixes: Option<Vec<String>>,
    log_event_filter_pattern: Option<String>,
}

struct Session {
    batches: broadcast::Receiver<Arc<Batch>>,
    /// Ordinal of the next record if none is lost.
    expected: Option<u64>,
    selection: Selection,
    pattern: Pattern,
    region: String,
    ready: Vec<Value>,
    bytes: usize,
    left_out: usize,
    ticks: tokio::time::Interval,
    ends: Instant,
    stopping: CancellationToken,
    refused: Refused,
    _turn: OwnedSemaphorePermit,
}

impl CloudWatch {
    pub(super) async fn start_live_tail(&self, asked: StartLiveTail, call: &Call) -> Result<Response<Body>, AwsError> {
        let identifiers = required(asked.log_group_identifiers, "logGroupIdentifiers")?;
        if identifiers.is_empty() || identifiers.len() > GROUPS_MAX {
            return Err(fault::invalid(format!("A session is of 1 to {GROUPS_MAX} log groups.")));
        }
        let pattern = filter_pattern(asked.log_event_filter_pattern, "logEventFilterPattern")?;
        let read = Pattern::parse(&pattern).map_err(fault::invalid)?;
        let (names, prefixes) =
            (asked.log_stream_names.unwrap_or_default(), asked.log_stream_name_prefixes.unwrap_or_default());
        if identifiers.len() > 1 && !(names.is_empty() && prefixes.is_empty()) {
            return Err(fault::invalid("Streams can be named for one log group alone."));
        }
        let start = json!({
            "requestId": call.request_id, "sessionId": Uuid::new_v4().to_string(), "logGroupIdentifiers": identifiers,
            "logStreamNames": names, "logStreamNamePrefixes": prefixes, "logEventFilterPattern": pattern,
        });
        let streams = streams(Some(names), prefixes)?;
        let mut targets: Vec<Target> = Vec::new();
        for identifier in &identifiers {
            targets.push(self.source.target(&group_of(identifier)?).await?);
        }
        let turn = Arc::clone(&self.sessions)
            .try_acquire_owned()
            .map_err(|_| fault::limit(format!("There are {SESSIONS_MAX} live tail sessions already.")))?;
        let mut ticks = tokio::time::interval_at(Instant::now() + EVERY, EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let session = Session {
            batches: self.source.logs.store.subscribe(),
            expected: None,
            selection: self.source.following(&targets, streams),
            pattern: read,
            region: call.region.clone(),
            ready: Vec::new(),
            bytes: 0,
            left_out: 0,
            ticks,
            ends: Instant::now() + SESSION,
            stopping: self.stopping.clone(),
            refused: self.refused.clone(),
            _turn: turn,
        };
        // JSON's protocols begin with an answer that has no event in it.
        let first = [frames::event("initial-response", &json!({})), frames::event("sessionStart", &start)].concat();
        let updates = futures::stream::unfold(Some(session), async |session| {
            let mut session = session?;
            let (frame, goes_on) = session.next().await?;
            Some((Ok::<_, std::convert::Infallible>(frame), goes_on.then_some(session)))
        });
        let first = futures::stream::iter([Ok(Bytes::from(first))]);
        let body = Body::from_stream(futures::StreamExt::chain(first, updates));
        let response = Response::builder()
            .header("content-type", "application/vnd.amazon.eventstream")
            .header("x-amzn-requestid", &call.request_id)
            .body(body);
        response.map_err(|error| {
            tracing::error!(%error, "could not write an answer");
            fault::internal()
        })
    }
}

impl Session {
    /// The next frame, and whether there are more after it.
    async fn next(&mut self) -> Option<(Bytes, bool)> {
        loop {
            let batch = tokio::select! {
                () = self.stopping.cancelled() => {
                    let message = "The appliance is stopping; begin another session.";
                    return Some((frames::exception("SessionStreamingException", message), false));
                }
                () = tokio::time::sleep_until(self.ends) => {
                    let message = "The session has lasted for three hours; begin another one.";
                    return Some((frames::exception("SessionTimeoutException", message), false));
                }
                _ = self.ticks.tick() => return Some((self.update(), true)),
                batch = self.batches.recv() => batch,
            };
            match batch {
                Ok(batch) => self.take(&batch),
                Err(RecvError::Lagged(_)) => {} // the next batch says how many records it were
                Err(RecvError::Closed) => return None,
            }
        }
    }

    fn take(&mut self, batch: &Batch) {
        if let Some(expected) = self.expected {
            self.left_out += usize::try_from(batch.first.saturating_sub(expected)).unwrap_or(usize::MAX);
        }
        self.expected = Some(batch.first + batch.documents.len() as u64);
        for document in batch.documents.iter().filter(|document| self.selection.query.matches(document)) {
            let position = Position { time_ns: document.time_ns, seq: document.seq };
            let Some(event) = Event::read(position, &document.source) else { continue };
            if !self.selection.admits(&event) || !self.pattern.matches(&event.message, || event.fields()) {
                continue;
            }
            if self.ready.len() >= EVENTS_MAX || self.bytes > BYTES_MAX {
                self.left_out += 1;
                continue;
            }
            self.bytes += event.message.len();
            self.ready.push(json!({
                "logStreamName": event.stream, "logGroupIdentifier": arn(&event.group, &self.region),
                "message": event.message, "timestamp": event.time_ms(), "ingestionTime": event.ingested_ms(),
            }));
        }
    }

    fn update(&mut self) -> Bytes {
        let (events, left_out) = (std::mem::take(&mut self.ready), std::mem::take(&mut self.left_out));
        self.bytes = 0;
        self.refused.count("StartLiveTail", "sampled", left_out);
        let update = json!({"sessionMetadata": {"sampled": left_out > 0}, "sessionResults": events});
        frames::event("sessionUpdate", &update)
    }
}
