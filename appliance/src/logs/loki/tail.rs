//! Loki's live tail: lines over a WebSocket as they arrive, first the newest that are there already.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{FromRequestParts, Request, State};
use axum::response::Response;
use backlot_windows::{Batch, Hit, Order, Position, Query};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio_util::sync::CancellationToken;

use super::answer::{Encoding, Refused, write_streams};
use super::api::{Api, MayRead, encoding};
use super::logql::{Expr, LogExpr, parse};
use super::params::Params;
use super::pipeline::Line;
use super::run::{Run, passing};
use super::streams::lines_query;
use crate::edge::ApiError;

/// Largest message that a reader may send: it has nothing to say.
const MESSAGE_BYTES_MAX: usize = 4096;
const PING_EVERY: Duration = Duration::from_secs(15);
/// A reader that takes nothing for so long has gone.
const SEND_WITHIN: Duration = Duration::from_secs(30);
/// Most lines of one message, and about how many bytes.
const LINES_MAX: usize = 1000;
const BYTES_MAX: usize = 4 << 20;

pub(super) async fn follow(viewer: MayRead, State(api): State<Api>, request: Request) -> Result<Response, Refused> {
    viewer?;
    let (mut parts, body) = request.into_parts();
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &api).await;
    let encoding = encoding(&parts.headers);
    let params = Params::of(parts.uri.query().unwrap_or_default())?;
    drop(body);
    let Expr::Logs(log) = parse(params.query())? else {
        return Err(Refused::bad("only log queries can be tailed, and this is one of series"));
    };
    let upgrade = upgrade.map_err(|error| Refused::bad(format!("a tail is a WebSocket: {}", error.body_text())))?;
    let turn = Arc::clone(&api.logs.tails)
        .try_acquire_owned()
        .map_err(|_| ApiError::unavailable("too_many_tails", "max concurrent tail requests limit exceeded", 10))?;
    let (limit, now_ns) = (params.limit()?, api.now_ns());
    let (start_ns, _) = params.range(now_ns)?;
    // Before the lines that are there are looked for, so that none is missed in between.
    let batches = api.logs.store.subscribe();
    let log = Arc::new(log);
    let there = Run::new(&api.logs).lines(Arc::clone(&log), (start_ns, i64::MAX), Order::Newest, limit).await?;
    let tail = Tail {
        query: lines_query(&log.stages),
        log,
        encoding,
        batches,
        expected: None,
        sent_before: there.iter().map(|line| line.seq).collect(),
        lost: None,
        stopping: api.stopping,
        _turn: turn,
    };
    let upgrade = upgrade.max_message_size(MESSAGE_BYTES_MAX).max_frame_size(MESSAGE_BYTES_MAX);
    Ok(upgrade.on_upgrade(move |socket| tail.run(socket, there)))
}

struct Tail {
    log: Arc<LogExpr>,
    /// What every line that passes answers to.
    query: Query,
    encoding: Encoding,
    batches: broadcast::Receiver<Arc<Batch>>,
    /// Ordinal of the next record if none is lost.
    expected: Option<u64>,
    /// Lines that were there already, and may come again as they arrive.
    sent_before: HashSet<u64>,
    /// How many records went by unseen, before any filter, and the moment of the last one seen.
    lost: Option<(u64, i64)>,
    stopping: CancellationToken,
    _turn: OwnedSemaphorePermit,
}

impl Tail {
    /// Until the reader leaves, is too slow for good, or the appliance stops.
    async fn run(mut self, mut socket: WebSocket, mut there: Vec<Line>) {
        there.reverse();
        for lines in there.chunks(LINES_MAX) {
            if !self.send(&mut socket, lines).await {
                return;
            }
        }
        let mut ping = tokio::time::interval(PING_EVERY);
        ping.tick().await; // the first is at once
        loop {
            tokio::select! {
                () = self.stopping.cancelled() => {
                    let _ = socket.send(Message::Close(None)).await;
                    return;
                }
                message = socket.recv() => match message {
                    Some(Ok(Message::Close(_))) | Some(Err(_)) | None => return,
                    Some(Ok(_)) => {} // pongs, mostly
                },
                _ = ping.tick() => {
                    if !sent(&mut socket, Message::Ping(Vec::new().into())).await {
                        return;
                    }
                }
                batch = self.batches.recv() => match batch {
                    Ok(batch) => {
                        if !self.follow(&mut socket, &batch).await {
                            return;
                        }
                    }
                    Err(RecvError::Lagged(_)) => {} // the next batch says how many records it were
                    Err(RecvError::Closed) => return,
                },
            }
        }
    }

    /// Sends what passes of a batch, and what was lost before it.
    async fn follow(&mut self, socket: &mut WebSocket, batch: &Batch) -> bool {
        if let Some(expected) = self.expected.filter(|expected| batch.first > *expected) {
            let time_ns = batch.documents.first().map_or(0, |document| document.time_ns);
            self.lost = Some((batch.first - expected, time_ns));
        }
        self.expected = Some(batch.first + batch.documents.len() as u64);
        let (mut lines, mut bytes) = (Vec::new(), 0);
        for document in &batch.documents {
            if !self.query.matches(document) || self.sent_before.contains(&document.seq) {
                continue;
            }
            let position = Position { time_ns: document.time_ns, seq: document.seq };
            let Some(line) = passing(&self.log, &Hit { position, source: document.source.clone() }) else { continue };
            bytes += line.bytes();
            lines.push(line);
            if lines.len() >= LINES_MAX || bytes >= BYTES_MAX {
                if !self.send(socket, &lines).await {
                    return false;
                }
                lines.clear();
                bytes = 0;
            }
        }
        (lines.is_empty() && self.lost.is_none()) || self.send(socket, &lines).await
    }

    async fn send(&mut self, socket: &mut WebSocket, lines: &[Line]) -> bool {
        let mut out = String::from(r#"{"streams":"#);
        write_streams(&mut out, lines, self.encoding);
        if let Some((lost, time_ns)) = self.lost.take() {
            // Which they were is not known: they are told as one entry that counts them.
            let dropped =
                serde_json::json!([{"labels": {"lost_records": lost.to_string()}, "timestamp": time_ns.to_string()}]);
            out.push_str(&format!(r#","dropped_entries":{dropped}"#));
        }
        if self.encoding == Encoding::Categorized {
            out.push_str(r#","encodingFlags":["categorize-labels"]"#);
        }
        out.push('}');
        sent(socket, Message::Text(out.into())).await
    }
}

async fn sent(socket: &mut WebSocket, message: Message) -> bool {
    matches!(tokio::time::timeout(SEND_WITHIN, socket.send(message)).await, Ok(Ok(())))
}
