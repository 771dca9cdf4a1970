//! Scrolls: a search that goes on page by page under a name, for clients that read everything.
//!
//! What is kept of one is the question and where its last page ended: no records, and no snapshot of them. It goes up to the newest moment
//! that there was when it began, so it ends; a record that arrives meanwhile with an earlier moment may be in it. Whoever knows the name, which is
//! not to be guessed, may go on. A scroll that nobody asks for is forgotten when its time is over, and all are when the appliance starts.

use std::collections::HashMap;
use std::sync::Arc;

use backlot_windows::Position;
use http::StatusCode;
use parking_lot::Mutex;
use serde_json::Value as Json;

use super::Refused;
use super::search::{Request, begin, go_on};
use crate::logs::Logs;
use crate::logs::moments::Interval;

/// Most scrolls at once, as in Elasticsearch, and most bytes of their requests.
const SCROLLS_MAX: usize = 500;
const BYTES_MAX: usize = 8 << 20;
/// Longest time that one is kept between two of its pages.
const KEPT_MS_MAX: u64 = 86_400_000;

/// Those that are under way. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Scrolls(Arc<Mutex<HashMap<String, Scroll>>>);

#[derive(Clone)]
struct Scroll {
    request: Arc<Request>,
    /// Of the body that asked for it.
    bytes: usize,
    total: u64,
    /// Where the last page ended; `None`: there was nothing.
    place: Option<Position>,
    ends_mono_ms: u64,
}

/// How long a scroll is kept until it is asked for again: `1m`.
pub(super) fn kept_ms(text: &str) -> Result<u64, Refused> {
    let ms = match Interval::fixed(text) {
        Some(Interval::Fixed { length_ns, .. }) => u64::try_from(length_ns / 1_000_000).ok(),
        _ => None,
    };
    let shown = backlot_windows::clip(text, 40);
    let ms = ms.ok_or_else(|| {
        Refused::illegal(format!("failed to parse setting [scroll] with value [{shown}] as a time value"))
    })?;
    if ms > KEPT_MS_MAX {
        let problem = format!("Keep alive for request ({shown}) is too large. It must be less than [1d].");
        return Err(Refused::illegal(problem));
    }
    Ok(ms)
}

fn missing(id: &str) -> Refused {
    let reason = format!("No search context found for id [{}]", backlot_windows::clip(id, 80));
    Refused { status: StatusCode::NOT_FOUND, ..Refused::new("search_context_missing_exception", reason) }
}

impl Scrolls {
    /// Answers the first page of a search whose body had so many bytes.
    pub(super) async fn open(
        &self,
        logs: &Logs,
        mut request: Request,
        kept_ms: u64,
        bytes: usize,
    ) -> Result<Json, Refused> {
        check(&request)?;
        self.room_for(logs, bytes)?;
        // All are counted, once.
        request.total_max = Some(u64::MAX);
        if let Some((_, newest_ns)) = logs.store.extent_now(request.question.range.0, request.question.range.1).await {
            request.question.range.1 = request.question.range.1.min(newest_ns);
        }
        let (mut answer, place) = begin(logs, request.clone()).await?;
        let total = answer["hits"]["total"]["value"].as_u64().unwrap_or_default();
        let id = hex::encode(rand::random::<[u8; 16]>());
        answer["_scroll_id"] = Json::from(id.as_str());
        let ends_mono_ms = logs.store.now().mono_ms.saturating_add(kept_ms);
        self.room_for(logs, bytes)?;
        let scroll = Scroll { request: Arc::new(request), bytes, total, place, ends_mono_ms };
        self.0.lock().insert(id, scroll);
        Ok(answer)
    }

    /// Answers the next page; without hits when there are no more.
    pub(super) async fn next(&self, logs: &Logs, id: &str, kept_ms: Option<u64>) -> Result<Json, Refused> {
        self.forget_old(logs);
        let Scroll { request, total, place, .. } = self.0.lock().get(id).cloned().ok_or_else(|| missing(id))?;
        let (mut answer, went_to) = go_on(logs, &request, place, total).await?;
        let now_ms = logs.store.now().mono_ms;
        // It may have been cleared meanwhile.
        if let Some(scroll) = self.0.lock().get_mut(id) {
            scroll.place = went_to;
            if let Some(kept_ms) = kept_ms {
                scroll.ends_mono_ms = now_ms.saturating_add(kept_ms);
            }
        }
        answer["_scroll_id"] = Json::from(id);
        Ok(answer)
    }

    /// Forgets these, or all; how many there were.
    pub(super) fn clear(&self, logs: &Logs, ids: &[&str]) -> usize {
        self.forget_old(logs);
        let mut scrolls = self.0.lock();
        let before = scrolls.len();
        scrolls.retain(|id, _| !ids.iter().any(|cleared| *cleared == "_all" || cleared == id));
        before - scrolls.len()
    }

    fn forget_old(&self, logs: &Logs) {
        let now_ms = logs.store.now().mono_ms;
        self.0.lock().retain(|_, scroll| now_ms < scroll.ends_mono_ms);
    }

    fn room_for(&self, logs: &Logs, bytes: usize) -> Result<(), Refused> {
        self.forget_old(logs);
        let scrolls = self.0.lock();
        if scrolls.len() < SCROLLS_MAX
            && scrolls.values().map(|scroll| scroll.bytes).sum::<usize>() + bytes <= BYTES_MAX
        {
            return Ok(());
        }
        let reason = format!(
            "Trying to create too many scroll contexts. Must be less than or equal to: [{SCROLLS_MAX}], and their requests no more than [{BYTES_MAX}] bytes. Clear those that are done."
        );
        let status = StatusCode::TOO_MANY_REQUESTS;
        Err(Refused { status, ..Refused::new("too_many_scroll_contexts_exception", reason) })
    }
}

/// What cannot be scrolled.
fn check(request: &Request) -> Result<(), Refused> {
    let problem = if request.from > 0 {
        "using [from] is not allowed in a scroll context"
    } else if request.size == 0 {
        "[size] cannot be [0] in a scroll context"
    } else if request.after_values.is_some() {
        "`search_after` cannot be used in a scroll context"
    } else if request.total_max.is_none() {
        "disabling [track_total_hits] is not allowed in a scroll context"
    } else if !request.keys.is_empty() {
        "a scroll is sorted by [_doc] or by [@timestamp] here, and by nothing else"
    } else {
        return Ok(());
    };
    Err(Refused::new("action_request_validation_exception", format!("Validation Failed: 1: {problem};")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::clock::Now;

    #[test]
    fn the_time_of_a_scroll_is_a_length_of_at_most_a_day() {
        assert_eq!(["500ms", "1m", "1d"].map(|text| kept_ms(text).unwrap()), [500, 60_000, 86_400_000]);
        for wrong in ["", "1", "m", "2d", "1y", "99999999999999999999s", "-1m"] {
            assert_eq!(kept_ms(wrong).unwrap_err().kind, "illegal_argument_exception", "{wrong}");
        }
    }

    #[test]
    fn what_a_scroll_cannot_do_is_refused_by_name() {
        let read = |body: Json| check(&Request::read(&body, Now::default()).unwrap());
        assert_eq!(read(json!({"size": 100, "sort": ["_doc"]})), Ok(()));
        assert_eq!(read(json!({"size": 100, "sort": [{"@timestamp": "asc"}]})), Ok(()));
        for (body, named) in [
            (json!({"from": 1}), "[from]"),
            (json!({"size": 0}), "[size]"),
            (json!({"sort": ["@timestamp"], "search_after": [7]}), "search_after"),
            (json!({"track_total_hits": false}), "track_total_hits"),
            (json!({"sort": [{"level": "asc"}]}), "sorted"),
        ] {
            assert!(read(body.clone()).unwrap_err().reason.contains(named), "{body}");
        }
    }
}
