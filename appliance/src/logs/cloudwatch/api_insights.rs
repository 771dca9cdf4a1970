//! The calls of Insights: queries and the names of fields.

use std::collections::BTreeMap;

use backlot_windows::{Order, Query as Asking};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::api_events::flatten;
use super::fields::{bounded, group_of, one_group, required, shown};
use super::insights::{QUERY_CHARS_MAX, Query, ROWS_MAX};
use super::queries::{Job, Told};
use super::source::{Asked, Streams, Target, may_hold};
use super::{CloudWatch, fault};
use crate::edge::aws::AwsError;

/// Most groups of one query (AWS).
const GROUPS_MAX: usize = 50;
/// Most queries of one listing (AWS).
const LIST_MAX: usize = 1_000;
/// Moments from here on are milliseconds, though they should be seconds: the year 5138.
const SECONDS_MAX: i64 = 100_000_000_000;
/// Events that the names of fields are counted in.
const SAMPLE: usize = 1_000;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StartQuery {
    query_language: Option<String>,
    log_group_name: Option<String>,
    log_group_names: Option<Vec<String>>,
    log_group_identifiers: Option<Vec<String>>,
    start_time: Option<i64>,
    end_time: Option<i64>,
    query_string: Option<String>,
    limit: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct QueryFields {
    query_id: Option<String>,
    next_token: Option<String>,
    max_items: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DescribeQueries {
    log_group_name: Option<String>,
    status: Option<String>,
    max_results: Option<i64>,
    next_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct GetLogGroupFields {
    log_group_name: Option<String>,
    log_group_identifier: Option<String>,
}

fn malformed(message: impl Into<String>) -> AwsError {
    AwsError::client("MalformedQueryException", message)
}

fn no_such_query(id: &str) -> AwsError {
    fault::not_found(format!("The specified query does not exist: {}", shown(id)))
}

impl CloudWatch {
    pub(super) async fn start_query(&self, asked: StartQuery) -> Result<Value, AwsError> {
        if let Some(language) = asked.query_language.as_deref().filter(|language| *language != "CWLI") {
            return Err(fault::invalid(format!("The query language {} is not served here.", shown(language))));
        }
        let text = required(asked.query_string, "queryString")?;
        if text.chars().count() > QUERY_CHARS_MAX {
            return Err(malformed(format!("A query has at most {QUERY_CHARS_MAX} characters.")));
        }
        let query = Query::parse(&text).map_err(|error| malformed(error.to_string()))?;
        let (start, end) = (required(asked.start_time, "startTime")?, required(asked.end_time, "endTime")?);
        if end < start {
            return Err(fault::invalid("End time should not be less than start time."));
        }
        let ms = |moment: i64| if moment < SECONDS_MAX { moment.saturating_mul(1_000) } else { moment };
        let from_ns = ms(start).saturating_mul(1_000_000);
        // The whole of the last second, or millisecond.
        let last_ns = if end < SECONDS_MAX { 999_999_999 } else { 999_999 };
        let to_ns = ms(end).saturating_mul(1_000_000).saturating_add(last_ns);
        let limit = bounded(asked.limit, "limit", 100_000, ROWS_MAX)?.min(ROWS_MAX);
        let groups = groups_of(asked.log_group_name, asked.log_group_names, asked.log_group_identifiers)?;
        let mut targets: Vec<Target> = Vec::new();
        for group in &groups {
            targets.push(self.source.target(group).await?);
        }
        let mut selection = self.source.selection(&targets, Streams::All);
        let narrowed = query.required().into_iter().map(may_hold);
        selection.query = Asking::And(std::iter::once(selection.query.clone()).chain(narrowed).collect());
        let job = Job { text, query, groups, selection, from_ns, to_ns, limit };
        match self.queries.start(job) {
            Some(id) => Ok(json!({"queryId": id})),
            None => Err(fault::limit("Account maximum query concurrency limit of [30] reached.")),
        }
    }

    pub(super) fn get_query_results(&self, asked: QueryFields) -> Result<Value, AwsError> {
        let id = required(asked.query_id, "queryId")?;
        let told = self.queries.told(&id).ok_or_else(|| no_such_query(&id))?;
        let begin = match asked.next_token.as_deref() {
            None => 0,
            Some(token) => token.parse().map_err(|_| fault::invalid("The specified nextToken is invalid."))?,
        };
        let most = bounded(asked.max_items.filter(|items| *items > 0), "maxItems", ROWS_MAX, ROWS_MAX)?;
        let page = told.rows.iter().skip(begin).take(most);
        let cells = |row: &Vec<(String, String)>| -> Value {
            row.iter().map(|(field, value)| json!({"field": field, "value": value})).collect()
        };
        let mut answer = json!({
            "queryLanguage": "CWLI",
            "results": page.map(cells).collect::<Vec<_>>(),
            "statistics": {
                "recordsMatched": told.statistics.matched, "recordsScanned": told.statistics.scanned,
                "bytesScanned": told.statistics.bytes, "logGroupsScanned": told.groups.len(),
                "estimatedRecordsSkipped": 0, "estimatedBytesSkipped": 0,
            },
            "status": told.status.name(),
        });
        if told.rows.len() > begin.saturating_add(most) {
            answer["nextToken"] = (begin + most).to_string().into();
        }
        Ok(answer)
    }

    pub(super) fn stop_query(&self, asked: QueryFields) -> Result<Value, AwsError> {
        let id = required(asked.query_id, "queryId")?;
        match self.queries.stop(&id) {
            None => Err(no_such_query(&id)),
            Some(status) if status.is_under_way() => Ok(json!({"success": true})),
            Some(status) => {
                Err(fault::invalid(format!("Query is already ended with status {}", status.name().to_uppercase())))
            }
        }
    }

    pub(super) fn describe_queries(&self, asked: DescribeQueries) -> Result<Value, AwsError> {
        let most = bounded(asked.max_results, "maxResults", LIST_MAX, LIST_MAX)?;
        let wanted = |told: &Told| {
            asked.log_group_name.as_ref().is_none_or(|name| told.groups.contains(name))
                && asked.status.as_deref().is_none_or(|status| told.status.name() == status)
        };
        let all = self.queries.all().into_iter().filter(wanted);
        // The page before ended with the query whose id is the token.
        let mut rest: Vec<Told> = match &asked.next_token {
            None => all.collect(),
            Some(token) => all.skip_while(|told| told.id != *token).skip(1).collect(),
        };
        let more = rest.len() > most;
        rest.truncate(most);
        let mut answer = json!({"queries": rest.iter().map(|told| json!({
            "queryLanguage": "CWLI", "queryId": told.id, "queryString": told.text, "status": told.status.name(),
            "createTime": told.created_ms, "logGroupName": told.groups.first(), "queryDuration": told.took_ms,
            "bytesScanned": told.statistics.bytes,
        })).collect::<Vec<_>>()});
        if let Some(last) = rest.last().filter(|_| more) {
            answer["nextToken"] = last.id.clone().into();
        }
        Ok(answer)
    }

    /// Counted in the newest events of the group.
    pub(super) async fn get_log_group_fields(&self, asked: GetLogGroupFields) -> Result<Value, AwsError> {
        let group = one_group(asked.log_group_name, asked.log_group_identifier)?;
        let target = self.source.target(&group).await?;
        let selection = self.source.selection(&[target], Streams::All);
        let asked = Asked { limit: SAMPLE, ..Asked::all(i64::MIN, i64::MAX, Order::Newest) };
        let events = self.source.page(&selection, asked).await?.events;
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for name in ["@timestamp", "@message", "@logStream", "@log", "@ingestionTime"] {
            counts.insert(name.to_owned(), events.len());
        }
        for event in &events {
            let mut names = Map::new();
            flatten("", &event.fields(), &mut names);
            for (name, _) in names {
                *counts.entry(name).or_default() += 1;
            }
        }
        counts.retain(|_, count| *count > 0);
        let share =
            |(name, count): (&String, &usize)| json!({"name": name, "percent": count * 100 / events.len().max(1)});
        Ok(json!({"logGroupFields": counts.iter().map(share).collect::<Vec<_>>()}))
    }
}

/// The groups of a query, named in one of three ways.
fn groups_of(
    name: Option<String>,
    names: Option<Vec<String>>,
    identifiers: Option<Vec<String>>,
) -> Result<Vec<String>, AwsError> {
    let given = [name.map(|name| vec![name]), names, identifiers];
    let mut given = given.into_iter().flatten().filter(|names| !names.is_empty());
    let named = match (given.next(), given.next()) {
        (Some(named), None) => named,
        (None, _) => return Err(fault::missing("logGroupName")),
        (Some(_), Some(_)) => {
            let message = "Exactly one of logGroupName, logGroupNames and logGroupIdentifiers is to be given.";
            return Err(fault::invalid(message));
        }
    };
    if named.len() > GROUPS_MAX {
        return Err(fault::invalid(format!("A query can be of at most {GROUPS_MAX} log groups.")));
    }
    let mut groups = named.iter().map(|name| group_of(name)).collect::<Result<Vec<_>, _>>()?;
    groups.sort_unstable();
    groups.dedup();
    Ok(groups)
}
