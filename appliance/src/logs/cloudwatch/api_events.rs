//! `GetLogEvents`, `FilterLogEvents`, `GetLogRecord`: events, page by page.
//!
//! A token is a place between events, so that it stays good while others arrive; one that arrives later with an earlier time is
//! found by asking again from the beginning.

use std::collections::HashSet;
use std::sync::Arc;

use backlot_windows::{Order, Position, Query, Search};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::event::{Event, id_of};
use super::fields::{
    MESSAGE_BYTES, bounded, filter_pattern, one_group, position, required, stream_name, time_ms, token,
};
use super::filter::Pattern;
use super::groups::GroupError;
use super::source::{Asked, Page, Streams, Target, Test, may_hold};
use super::{CloudWatch, fault};
use crate::edge::aws::AwsError;

/// Most events of one answer (AWS).
const EVENTS_MAX: usize = 10_000;
/// Most streams that a call may name (AWS).
const STREAMS_MAX: usize = 100;
/// Most records that one call looks at, and how long; it then answers with what it has, and with a token.
const LOOKED_MAX: usize = 50_000;
const LOOKED_MS_MAX: u64 = 5_000;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct GetLogEvents {
    log_group_name: Option<String>,
    log_group_identifier: Option<String>,
    log_stream_name: Option<String>,
    start_time: Option<i64>,
    end_time: Option<i64>,
    next_token: Option<String>,
    limit: Option<i64>,
    start_from_head: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FilterLogEvents {
    log_group_name: Option<String>,
    log_group_identifier: Option<String>,
    log_stream_names: Option<Vec<String>>,
    log_stream_name_prefix: Option<String>,
    start_time: Option<i64>,
    end_time: Option<i64>,
    filter_pattern: Option<String>,
    next_token: Option<String>,
    limit: Option<i64>,
    start_from_head: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct GetLogRecord {
    log_record_pointer: Option<String>,
}

/// Nanoseconds of a moment in milliseconds.
fn ns(ms: i64) -> i64 {
    ms.saturating_mul(1_000_000)
}

impl CloudWatch {
    pub(super) async fn get_log_events(&self, asked: GetLogEvents) -> Result<Value, AwsError> {
        let group = one_group(asked.log_group_name, asked.log_group_identifier)?;
        let stream = stream_name(asked.log_stream_name, "logStreamName")?;
        let limit = bounded(asked.limit, "limit", EVENTS_MAX, EVENTS_MAX)?;
        let from_ns = time_ms(asked.start_time, "startTime")?.map_or(i64::MIN, ns);
        // The end is not included.
        let to_ns = time_ms(asked.end_time, "endTime")?.map_or(i64::MAX, |ms| ns(ms).saturating_sub(1));
        let target = self.source.target(&group).await?;
        self.check_stream(&target, &stream).await?;
        let (order, after) = match asked.next_token.as_deref().map(direction).transpose()? {
            Some((order, at)) => (order, Some(at)),
            None if asked.start_from_head == Some(true) => (Order::Oldest, None),
            None => (Order::Newest, None),
        };
        let selection = self.source.selection(&[target], Streams::Named(HashSet::from([stream])));
        let mut events: Vec<Event> = Vec::new();
        let (mut at, mut bytes) = (after, 0);
        while events.len() < limit && bytes < MESSAGE_BYTES {
            let asked = Asked {
                after: at,
                limit: (limit - events.len()).min(super::source::PAGE_EVENTS),
                bytes_max: MESSAGE_BYTES - bytes,
                ..Asked::all(from_ns, to_ns, order)
            };
            let page = self.source.page(&selection, asked).await?;
            bytes += page.bytes;
            at = page.last.or(at);
            events.extend(page.events);
            if !page.more {
                break;
            }
        }
        if order == Order::Newest {
            events.reverse();
        }
        // Where there is nothing, both tokens point to where was looked.
        let here = after.unwrap_or(Position { time_ns: from_ns.saturating_sub(1).max(-1), seq: u64::MAX });
        let first = events.first().map_or(here, |event| event.position);
        let last = events.last().map_or(here, |event| event.position);
        Ok(json!({
            "events": events.iter().map(|event| json!({
                "timestamp": event.time_ms(), "message": event.message, "ingestionTime": event.ingested_ms(),
            })).collect::<Vec<_>>(),
            "nextForwardToken": format!("f/{}/s", token(last)),
            "nextBackwardToken": format!("b/{}/s", token(first)),
        }))
    }

    async fn check_stream(&self, target: &Target, stream: &str) -> Result<(), AwsError> {
        match target {
            Target::Kept(row) => self.groups.stream(&row.name, stream).map(drop).map_err(fault::of_groups),
            Target::Others { .. } if self.source.hosts(target).await?.contains(stream) => Ok(()),
            Target::Others { .. } => Err(fault::of_groups(GroupError::NoSuchStream)),
        }
    }

    pub(super) async fn filter_log_events(&self, asked: FilterLogEvents) -> Result<Value, AwsError> {
        let group = one_group(asked.log_group_name, asked.log_group_identifier)?;
        let limit = bounded(asked.limit, "limit", EVENTS_MAX, EVENTS_MAX)?;
        let pattern = filter_pattern(asked.filter_pattern, "filterPattern")?;
        let pattern = Pattern::parse(&pattern).map_err(fault::invalid)?;
        let from_ns = time_ms(asked.start_time, "startTime")?.map_or(i64::MIN, ns);
        // The whole of the last millisecond.
        let to_ns = time_ms(asked.end_time, "endTime")?.map_or(i64::MAX, |ms| ns(ms).saturating_add(999_999));
        let streams = streams(asked.log_stream_names, asked.log_stream_name_prefix.into_iter().collect())?;
        let target = self.source.target(&group).await?;
        if let Streams::Named(names) = &streams {
            for name in names {
                self.check_stream(&target, name).await?;
            }
        }
        let order = if asked.start_from_head == Some(false) { Order::Newest } else { Order::Oldest };
        let mut after = asked.next_token.as_deref().map(position).transpose()?;
        let mut selection = self.source.selection(&[target], streams);
        let narrowed = pattern.required().into_iter().map(may_hold);
        selection.query = Query::And(std::iter::once(selection.query.clone()).chain(narrowed).collect());
        let test = test(pattern);
        let (mut events, mut bytes, mut looked) = (Vec::new(), 0, 0);
        let ends_ms = self.source.logs.store.now().mono_ms.saturating_add(LOOKED_MS_MAX);
        let next = 'pages: loop {
            let asked = Asked { after, test: test.clone(), ..Asked::all(from_ns, to_ns, order) };
            let Page { events: found, looked: read, last, more, .. } = self.source.page(&selection, asked).await?;
            looked += read;
            let count = found.len();
            for (at, event) in found.into_iter().enumerate() {
                bytes += event.message.len();
                let here = event.position;
                events.push(event);
                if events.len() == limit || bytes >= MESSAGE_BYTES {
                    let is_last = !more && at + 1 == count;
                    break 'pages (!is_last).then_some(here);
                }
            }
            after = last.or(after);
            if !more {
                break None;
            }
            if looked >= LOOKED_MAX || self.source.logs.store.now().mono_ms >= ends_ms {
                break after;
            }
        };
        let mut answer = json!({
            "events": events.iter().map(|event| json!({
                "logStreamName": event.stream, "timestamp": event.time_ms(), "message": event.message,
                "ingestionTime": event.ingested_ms(), "eventId": id_of(event.position),
            })).collect::<Vec<_>>(),
            "searchedLogStreams": [], // as Amazon does since 2019
        });
        if let Some(next) = next {
            answer["nextToken"] = token(next).into();
        }
        Ok(answer)
    }

    pub(super) async fn get_log_record(&self, asked: GetLogRecord) -> Result<Value, AwsError> {
        let pointer = required(asked.log_record_pointer, "logRecordPointer")?;
        let unknown = || fault::invalid("The specified logRecordPointer is invalid.");
        let at = position(&pointer).map_err(|_| unknown())?;
        let search = Search {
            query: Query::All,
            from_ns: at.time_ns,
            to_ns: at.time_ns,
            order: Order::Oldest,
            limit: 1,
            after: at.seq.checked_sub(1).map(|seq| Position { seq, ..at }),
            bytes_max: MESSAGE_BYTES,
        };
        let found = self.source.logs.search(search).await.map_err(fault::of_search)?;
        let event = found.hits.first().filter(|hit| hit.position == at).and_then(Event::of).ok_or_else(unknown)?;
        let target = self.source.target(&event.group).await?;
        if !self.source.selection(&[target], Streams::All).admits(&event) {
            return Err(unknown());
        }
        let mut record = Map::new();
        flatten("", &event.fields(), &mut record);
        for (name, value) in [
            ("@timestamp", event.time_ms().to_string()),
            ("@ingestionTime", event.ingested_ms().to_string()),
            ("@message", event.message.clone()),
            ("@logStream", event.stream.clone()),
            ("@log", format!("000000000000:{}", event.group)),
            ("@ptr", token(event.position)),
        ] {
            record.insert(name.to_owned(), value.into());
        }
        Ok(json!({"logRecord": record}))
    }
}

/// A test of the events, unless all pass.
pub(super) fn test(pattern: Pattern) -> Option<Test> {
    (!pattern.is_all())
        .then(|| Arc::new(move |event: &Event| pattern.matches(&event.message, || event.fields())) as Test)
}

/// Streams by their names or by how they begin, but not both.
pub(super) fn streams(names: Option<Vec<String>>, prefixes: Vec<String>) -> Result<Streams, AwsError> {
    let names = names.unwrap_or_default();
    if names.len().max(prefixes.len()) > STREAMS_MAX {
        let constraint = format!("Member must have length less than or equal to {STREAMS_MAX}");
        return Err(fault::constraint("[]", "logStreamNames", &constraint));
    }
    match (names.is_empty(), prefixes.is_empty()) {
        (true, true) => Ok(Streams::All),
        (true, false) => Ok(Streams::Beginning(prefixes)),
        (false, true) => {
            let names = names.into_iter().map(|name| stream_name(Some(name), "logStreamNames"));
            Ok(Streams::Named(names.collect::<Result<_, _>>()?))
        }
        (false, false) => Err(fault::invalid("logStreamNames and logStreamNamePrefix are mutually exclusive.")),
    }
}

/// Whither a token of [`CloudWatch::get_log_events`] leads, and from where.
fn direction(token: &str) -> Result<(Order, Position), AwsError> {
    let order = match token.get(..2) {
        Some("f/") => Order::Oldest,
        Some("b/") => Order::Newest,
        _ => return Err(fault::invalid("The specified nextToken is invalid.")),
    };
    let at = token[2..].strip_suffix("/s").unwrap_or_default();
    Ok((order, position(at)?))
}

/// The values of an object as texts, under dotted names.
pub(super) fn flatten(prefix: &str, value: &Value, into: &mut Map<String, Value>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                let name = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                flatten(&name, value, into);
            }
        }
        Value::Array(values) => {
            for (at, value) in values.iter().enumerate() {
                flatten(&format!("{prefix}.{at}"), value, into);
            }
        }
        Value::String(text) => drop(into.insert(prefix.to_owned(), text.clone().into())),
        other => drop(into.insert(prefix.to_owned(), other.to_string().into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_a_stream_lead_forward_and_backward() {
        let at = Position { time_ns: 5, seq: 6 };
        assert_eq!(direction(&format!("f/{}/s", token(at))).unwrap(), (Order::Oldest, at));
        assert_eq!(direction(&format!("b/{}/s", token(at))).unwrap(), (Order::Newest, at));
        for wrong in ["", "f/", "x/1/s", "f/zz/s", "ä"] {
            assert!(direction(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn values_are_told_under_dotted_names() {
        let mut record = Map::new();
        flatten("", &json!({"a": {"b": [1, "x"]}, "c": true, "d": null}), &mut record);
        assert_eq!(Value::Object(record), json!({"a.b.0": "1", "a.b.1": "x", "c": "true", "d": "null"}));
    }
}
