//! The live tail: server-sent events, with what a slow reader has lost told to it.
//!
//! `record` carries one record, `dropped` the number of records that went by unseen (before the filter).

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use backlot_windows::{Batch, Position, Query};
use futures::Stream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio_util::sync::CancellationToken;

use super::Logs;
use super::schema::answer;
use crate::edge::ApiError;

struct Tail {
    batches: broadcast::Receiver<Arc<Batch>>,
    query: Query,
    ready: VecDeque<Event>,
    /// Ordinal of the next record if none is lost.
    expected: Option<u64>,
    stopping: CancellationToken,
    _turn: OwnedSemaphorePermit,
}

/// # Errors
/// 503 when too many follow already.
pub(super) fn sse(
    logs: &Logs,
    query: Query,
    stopping: CancellationToken,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>> + use<>>, ApiError> {
    let turn = Arc::clone(&logs.tails)
        .try_acquire_owned()
        .map_err(|_| ApiError::unavailable("too_many_tails", "too many readers follow the log already", 10))?;
    let ready = VecDeque::from([Event::default().comment("following")]);
    let tail = Tail { batches: logs.store.subscribe(), query, ready, expected: None, stopping, _turn: turn };
    let events = futures::stream::unfold(tail, async |mut tail| {
        let event = tail.next().await?;
        Some((Ok(event), tail))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))))
}

impl Tail {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let batch = tokio::select! {
                () = self.stopping.cancelled() => return None,
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
        if let Some(expected) = self.expected
            && batch.first > expected
        {
            let data = serde_json::json!({"count": batch.first - expected}).to_string();
            self.ready.push_back(Event::default().event("dropped").data(data));
        }
        self.expected = Some(batch.first + batch.documents.len() as u64);
        for document in batch.documents.iter().filter(|document| self.query.matches(document)) {
            // JSON has no line breaks of its own, so it is one line of data.
            let position = Position { time_ns: document.time_ns, seq: document.seq };
            let Some(data) = answer(position, &document.source) else { continue };
            self.ready.push_back(Event::default().event("record").data(data));
        }
    }
}
