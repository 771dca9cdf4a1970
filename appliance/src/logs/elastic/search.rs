//! A search: what a request asks for, and its answer.

use std::sync::Arc;

use backlot_windows::{Hit, Order, Position};
use serde_json::{Map, Value as Json, json};

use super::Refused;
use super::aggregations::{self, Aggregation, Collected, counted};
use super::lucene::lucene;
use super::question::{Question, object};
use super::sorted::{self, By, SortKey};
use super::sources::{Picked, Wanted, hit};
use crate::clock::Now;
use crate::logs::Logs;
use crate::logs::pages::{Cost, Pages};
use crate::logs::schema::read as document_of;

/// Most hits that a search goes through, as in Elasticsearch.
const WINDOW_MAX: usize = 10_000;
const SIZE_DEFAULT: usize = 10;
/// Most bytes of the hits of one answer.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Up to here hits are counted when nobody says how far.
pub(super) const TOTAL_DEFAULT: u64 = 10_000;
/// Records of one millisecond among which a `search_after` is looked for.
const SAME_MS_MAX: usize = 10_000;
const MS_NS: i64 = 1_000_000;

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Request {
    pub(super) question: Question,
    pub(super) size: usize,
    pub(super) from: usize,
    pub(super) order: Order,
    /// The hits are answered with what they are sorted by.
    pub(super) sorts: usize,
    /// Milliseconds and, if it was given, the number of a record.
    pub(super) after: Option<(i64, Option<u64>)>,
    /// The same as it was given.
    pub(super) after_values: Option<Vec<Json>>,
    /// What the hits are sorted by, where that is not time alone.
    pub(super) keys: Vec<SortKey>,
    pub(super) picked: Picked,
    pub(super) wanted: Vec<Wanted>,
    pub(super) aggregations: Arc<Vec<Aggregation>>,
    /// Up to how many hits are counted; `None`: not at all.
    pub(super) total_max: Option<u64>,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            question: Question::everything(),
            size: SIZE_DEFAULT,
            from: 0,
            order: Order::Newest,
            sorts: 0,
            after: None,
            after_values: None,
            keys: Vec::new(),
            picked: Picked::default(),
            wanted: Vec::new(),
            aggregations: Arc::default(),
            total_max: Some(TOTAL_DEFAULT),
        }
    }
}

impl Request {
    /// Reads the body of a search.
    pub(super) fn read(body: &Json, now: Now) -> Result<Self, Refused> {
        let body = object(body, "search")?;
        // Of these only the looks of the answer depend.
        const LOOKS: [&str; 7] =
            ["highlight", "timeout", "version", "explain", "seq_no_primary_term", "track_scores", "stats"];
        let mut request = Self::default();
        for (name, value) in body {
            match name.as_str() {
                "query" => request.question = Question::read(value, now)?,
                "size" => request.size = count(name, value)?,
                "from" => request.from = count(name, value)?,
                "sort" => request.sort(value)?,
                "search_after" => {
                    let wrong = || Refused::parsing("[search_after] is the [sort] of an earlier hit");
                    request.after_values = Some(value.as_array().ok_or_else(wrong)?.clone());
                }
                "_source" => request.picked = Picked::read(value)?,
                "fields" | "docvalue_fields" => request.wanted.extend(Wanted::read(value)?),
                "aggs" | "aggregations" => request.aggregations = Arc::new(aggregations::read(value, now)?),
                "track_total_hits" => request.total_max = total_max(value)?,
                "script_fields" if value.as_object().is_some_and(Map::is_empty) => {}
                "stored_fields" if matches!(value.as_str(), Some("*")) || *value == json!(["*"]) => {}
                name if LOOKS.contains(&name) => {}
                name => {
                    return Err(Refused::parsing(format!(
                        "unknown key [{}] for a search",
                        backlot_windows::clip(name, 80)
                    )));
                }
            }
        }
        if request.from.saturating_add(request.size) > WINDOW_MAX {
            return Err(Refused::illegal(format!(
                "Result window is too large, from + size must be less than or equal to: [{WINDOW_MAX}] but was [{}]. Use search_after.",
                request.from.saturating_add(request.size)
            )));
        }
        request.check_after()?;
        Ok(request)
    }

    /// By time and then by the order of arrival, which the windows are in, or by fields of the records.
    pub(super) fn sort(&mut self, sort: &Json) -> Result<(), Refused> {
        let keys = SortKey::read_all(sort)?;
        (self.keys, self.sorts) = (Vec::new(), 0);
        let arrives = |keys: &[SortKey]| keys.iter().all(|key| key.by == By::Arrival);
        match keys.split_first() {
            Some((time, others)) if time.by == By::Time && arrives(others) => {
                self.order = if time.descending { Order::Newest } else { Order::Oldest };
                self.sorts = keys.len().min(2);
            }
            // What is equal in time is in the order of arrival, in the same direction.
            Some((_, others)) if keys[0].by == By::Arrival && others.is_empty() => {}
            Some(_) => self.keys = keys,
            None => {}
        }
        Ok(())
    }

    fn check_after(&mut self) -> Result<(), Refused> {
        let Some(values) = &self.after_values else { return Ok(()) };
        if self.from > 0 || (self.sorts == 0 && self.keys.is_empty()) {
            return Err(Refused::illegal("`search_after` needs a `sort`, and `from` must be set to 0"));
        }
        self.after = if self.keys.is_empty() { Some(after(values)?) } else { None };
        Ok(())
    }
}

pub(super) fn count(name: &str, value: &Json) -> Result<usize, Refused> {
    let number = value.as_u64().or_else(|| value.as_str()?.parse().ok());
    number
        .and_then(|number| usize::try_from(number).ok())
        .ok_or_else(|| Refused::illegal(format!("[{name}] parameter must be a number and not negative")))
}

pub(super) fn total_max(value: &Json) -> Result<Option<u64>, Refused> {
    match value {
        Json::Bool(true) => Ok(Some(u64::MAX)),
        Json::Bool(false) => Ok(None),
        Json::String(text) => match text.as_str() {
            "true" => Ok(Some(u64::MAX)),
            "false" => Ok(None),
            text => {
                text.parse().map(Some).map_err(|_| Refused::illegal("[track_total_hits] is true, false or a number"))
            }
        },
        value => {
            value.as_u64().map(Some).ok_or_else(|| Refused::illegal("[track_total_hits] is true, false or a number"))
        }
    }
}

/// What the hit before was sorted by.
fn after(values: &[Json]) -> Result<(i64, Option<u64>), Refused> {
    let wrong = || Refused::parsing("[search_after] is the [sort] of an earlier hit");
    if !matches!(values.len(), 1 | 2) {
        return Err(wrong());
    }
    let whole = |value: &Json| value.as_i64().or_else(|| value.as_str()?.parse().ok());
    let ms = whole(&values[0]).ok_or_else(wrong)?;
    let number =
        values.get(1).map(|value| whole(value).and_then(|number| u64::try_from(number).ok()).ok_or_else(wrong));
    Ok((ms, number.transpose()?))
}

/// A hit in the order of time as it is answered.
fn told_in_time(one: &Hit, request: &Request) -> Result<Json, Refused> {
    let sort = match request.sorts {
        0 => None,
        1 => Some(json!([one.position.time_ns.div_euclid(MS_NS)])),
        _ => Some(json!([one.position.time_ns.div_euclid(MS_NS), one.position.seq])),
    };
    hit(one, &request.picked, &request.wanted, sort)
}

fn shards() -> Json {
    json!({"total": 1, "successful": 1, "skipped": 0, "failed": 0})
}

/// Runs a search.
pub(super) async fn run(logs: &Logs, request: Request) -> Result<Json, Refused> {
    begin(logs, request).await.map(|(answer, _)| answer)
}

/// The hits after those that ended at `place`, as many as a page has or there is room for, and where they end. Without hits there are no more.
pub(super) async fn go_on(
    logs: &Logs,
    request: &Request,
    place: Option<Position>,
    total: u64,
) -> Result<(Json, Option<Position>), Refused> {
    let (mut cost, mut hits, mut bytes) = (Cost::new(logs), Vec::new(), 0);
    if let Some(place) = place {
        let Question { query, range } = request.question.clone();
        let mut pages = Pages::new(query, range, request.order, request.size).after(place);
        while hits.len() < request.size && bytes < ANSWER_BYTES_MAX {
            let Some(page) = pages.next(logs, &mut cost).await? else { break };
            bytes += page.iter().map(|hit| hit.source.len()).sum::<usize>();
            hits.extend(page);
        }
        hits.truncate(request.size);
    }
    let told = hits.iter().map(|one| told_in_time(one, request)).collect::<Result<Vec<_>, _>>()?;
    let answer = json!({
        "took": cost.took_ms(logs), "timed_out": false, "_shards": shards(),
        "hits": {"max_score": null, "hits": told, "total": {"value": total, "relation": "eq"}},
    });
    Ok((answer, hits.last().map(|hit| hit.position).or(place)))
}

/// Runs a search; tells beside the answer where its last hit stands, if they are in the order of time.
pub(super) async fn begin(logs: &Logs, request: Request) -> Result<(Json, Option<Position>), Refused> {
    let mut cost = Cost::new(logs);
    let mut told = Vec::new();
    let mut place = None;
    let max_total = if request.keys.is_empty() || request.size == 0 {
        let (hits, total) = hits(logs, &request, &mut cost).await?;
        place = hits.last().map(|hit| hit.position);
        for one in &hits {
            told.push(told_in_time(one, &request)?);
        }
        total
    } else {
        let (hits, total) = sorted::hits(logs, &request, &mut cost).await?;
        for (one, sort) in hits {
            told.push(hit(&one, &request.picked, &request.wanted, Some(sort))?);
        }
        Some(total)
    };
    let mut total = max_total;
    let mut aggregated = None;
    if !request.aggregations.is_empty() {
        let (collected, matched) = match counted(logs, &request.question, &request.aggregations).await? {
            Some(counted) => counted,
            None => collect(logs, &request, &mut cost).await?,
        };
        aggregated = Some(collected.answer(&request.aggregations)?);
        total = Some(matched);
    }
    if request.total_max.is_some() && total.is_none() {
        let Question { query, range } = request.question.clone();
        total = Some(logs.store.tally(query, range, Vec::new()).await?.matched);
    }
    let mut answer = json!({
        "took": cost.took_ms(logs), "timed_out": false, "_shards": shards(),
        "hits": {"max_score": null, "hits": told},
    });
    if let (Some(max), Some(total)) = (request.total_max, total) {
        let relation = if total > max { "gte" } else { "eq" };
        answer["hits"]["total"] = json!({"value": total.min(max), "relation": relation});
    }
    if let Some(aggregated) = aggregated {
        answer["aggregations"] = aggregated;
    }
    Ok((answer, place))
}

/// The hits of a search, and how many there are in all where that is known already.
async fn hits(logs: &Logs, request: &Request, cost: &mut Cost) -> Result<(Vec<Hit>, Option<u64>), Refused> {
    let wanted = request.from + request.size;
    if request.size == 0 {
        return Ok((Vec::new(), None));
    }
    let Question { query, mut range } = request.question.clone();
    let mut after = None;
    match request.after {
        Some((ms, None)) => match request.order {
            Order::Newest => range.1 = range.1.min(ms.saturating_mul(MS_NS).saturating_sub(1)),
            Order::Oldest => range.0 = range.0.max(ms.saturating_add(1).saturating_mul(MS_NS)),
        },
        Some((ms, Some(number))) => after = Some(place_of(logs, request, ms, number, cost).await?),
        None => {}
    }
    let mut pages = Pages::new(query, range, request.order, wanted);
    if let Some(after) = after {
        pages = pages.after(after);
    }
    let (mut hits, mut bytes) = (Vec::new(), 0);
    while hits.len() < wanted {
        match pages.next(logs, cost).await? {
            Some(page) => {
                bytes += page.iter().map(|hit| hit.source.len()).sum::<usize>();
                if bytes > ANSWER_BYTES_MAX {
                    return Err(Refused::illegal(format!(
                        "the hits have more than {ANSWER_BYTES_MAX} bytes: ask for fewer, and go on with search_after"
                    )));
                }
                hits.extend(page);
            }
            None => {
                let total = request.after.is_none().then_some(hits.len() as u64);
                return Ok((hits.split_off(request.from.min(hits.len())), total));
            }
        }
    }
    hits.truncate(wanted);
    Ok((hits.split_off(request.from), None))
}

/// The full moment of a record of which the millisecond is known.
async fn place_of(logs: &Logs, request: &Request, ms: i64, seq: u64, cost: &mut Cost) -> Result<Position, Refused> {
    let first_ns = ms.saturating_mul(MS_NS);
    let range = (first_ns, first_ns.saturating_add(MS_NS - 1));
    let mut pages = Pages::new(request.question.query.clone(), range, Order::Oldest, SAME_MS_MAX);
    while let Some(page) = pages.next(logs, cost).await? {
        if let Some(hit) = page.iter().find(|hit| hit.position.seq == seq) {
            return Ok(hit.position);
        }
    }
    // It is gone, or was not among what is asked for now: its millisecond is where it stood.
    Ok(Position { time_ns: if request.order == Order::Newest { range.0 } else { range.1 }, seq })
}

/// Reads every record that answers.
async fn collect(logs: &Logs, request: &Request, cost: &mut Cost) -> Result<(Collected, u64), Refused> {
    let Question { query, range } = request.question.clone();
    let mut pages = Pages::new(query, range, Order::Newest, usize::MAX);
    let (mut collected, mut matched) = (Collected::default(), 0);
    while let Some(page) = pages.next(logs, cost).await? {
        matched += page.len() as u64;
        let aggregations = Arc::clone(&request.aggregations);
        let work = tokio::task::spawn_blocking(move || {
            for hit in &page {
                let mut document = document_of(&hit.source);
                document.time_ns = hit.position.time_ns;
                collected.take(&aggregations, &document)?;
            }
            Ok::<_, Refused>(collected)
        });
        collected = work.await.map_err(|error| crate::edge::ApiError::internal(&error))??;
    }
    Ok((collected, matched))
}

/// The search of `?q=` and the other parameters of an address, over what the body says.
pub(super) fn with_parameters(
    mut request: Request,
    parameters: &[(String, String)],
    now: Now,
) -> Result<Request, Refused> {
    for (name, value) in parameters {
        let value = Json::from(value.as_str());
        match name.as_str() {
            "q" => {
                let query = lucene(value.as_str().unwrap_or_default(), now)?;
                request.question = request.question.and(query);
            }
            "size" => request.size = count(name, &value)?,
            "from" => request.from = count(name, &value)?,
            "_source" => {
                request.picked = Picked::read(&match value.as_str() {
                    Some("true") => Json::Bool(true),
                    Some("false") => Json::Bool(false),
                    _ => value.clone(),
                })?
            }
            "track_total_hits" => request.total_max = total_max(&value)?,
            "sort" => {
                let keys = value.as_str().unwrap_or_default().split(',').map(|key| match key.split_once(':') {
                    Some((name, direction)) => json!({name: direction}),
                    None => Json::from(key),
                });
                request.sort(&keys.collect())?;
            }
            _ => {}
        }
    }
    if request.from.saturating_add(request.size) > WINDOW_MAX {
        return Err(Refused::illegal(format!(
            "Result window is too large, from + size must be less than or equal to: [{WINDOW_MAX}]"
        )));
    }
    request.check_after()?;
    Ok(request)
}
