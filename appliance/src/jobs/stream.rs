//! News of jobs as server-sent events.
//!
//! Event `job` carries the job as JSON. A client that cannot follow is sent `lagged` and should load what it shows anew.
//! The number of streams is bounded, and they end when the doors close.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use futures::Stream;
use futures::stream::unfold;
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};
use tokio_util::sync::CancellationToken;

use super::herald::News;

/// So often a silent stream says that it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Where streams begin.
#[derive(Clone)]
pub(super) struct Streams {
    news: broadcast::Sender<News>,
    places: Arc<Semaphore>,
}

/// One listener.
pub(super) struct Listener {
    news: broadcast::Receiver<News>,
    /// Only news of this job.
    only: Option<String>,
    stopping: CancellationToken,
    _place: OwnedSemaphorePermit,
}

impl Streams {
    pub(super) fn new(news: broadcast::Sender<News>, streams_max: usize) -> Self {
        Self { news, places: Arc::new(Semaphore::new(streams_max)) }
    }

    /// Begins to listen. `None`: there are too many already.
    pub(super) fn listen(&self, only: Option<String>, stopping: CancellationToken) -> Option<Listener> {
        let place = self.places.clone().try_acquire_owned().ok()?;
        Some(Listener { news: self.news.subscribe(), only, stopping, _place: place })
    }
}

impl Listener {
    /// The stream of events, `first` (a job as JSON) ahead of the news.
    pub(super) fn stream(self, first: Option<String>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
        let first = first.map(|json| Event::default().event("job").data(json));
        let events = unfold((self, first), |(mut listener, first)| async move {
            let event = match first {
                Some(event) => event,
                None => listener.next().await?,
            };
            Some((Ok(event), (listener, None)))
        });
        Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            let news = tokio::select! {
                () = self.stopping.cancelled() => return None,
                news = self.news.recv() => news,
            };
            match news {
                Ok(news) if self.only.as_ref().is_none_or(|id| *id == news.job_id) => {
                    return Some(Event::default().event("job").data(&*news.json));
                }
                Ok(_) => {}
                Err(RecvError::Lagged(missed)) => {
                    let text = json!({"missed": missed, "hint": "load what you show anew"}).to_string();
                    return Some(Event::default().event("lagged").data(text));
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }
}
