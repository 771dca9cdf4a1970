//! The calls about log groups, streams, retention and tags.

use std::collections::BTreeMap;

use backlot_windows::{Order, Query};
use serde::Deserialize;
use serde_json::{Value, json};

use super::event::{OTHERS, STREAM_ID, group_of_service};
use super::fields::{bounded, group_name, group_of, one_group, required, shown, stream_name, tags};
use super::groups::{Seen, Stream};
use super::put::sequence_token;
use super::rows::GroupRow;
use super::source::Target;
use super::{CloudWatch, fault};
use crate::edge::aws::AwsError;

/// Most groups or streams of one answer (AWS).
const LIST_MAX: usize = 50;
/// The retentions that AWS knows, in days.
const RETENTIONS: [u32; 22] =
    [1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653];
/// Most streams whose events one call looks up to sort them; the rest has what arrived since the start.
const LOOK_UPS_MAX: usize = 2_000;
const CLASSES: [&str; 4] = ["STANDARD", "INFREQUENT_ACCESS", "DELIVERY", "ESSENTIALS"];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct GroupFields {
    log_group_name: Option<String>,
    tags: Option<TagFields>,
    log_group_class: Option<String>,
    kms_key_id: Option<String>,
    deletion_protection_enabled: Option<bool>,
    retention_in_days: Option<i64>,
}

/// Tags to set, or the keys of those to take away.
#[derive(Deserialize)]
#[serde(untagged)]
enum TagFields {
    Pairs(BTreeMap<String, String>),
    Keys(Vec<String>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StreamFields {
    log_group_name: Option<String>,
    log_stream_name: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ResourceFields {
    resource_arn: Option<String>,
    tags: Option<BTreeMap<String, String>>,
    tag_keys: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DescribeLogGroups {
    log_group_name_prefix: Option<String>,
    log_group_name_pattern: Option<String>,
    log_group_identifiers: Option<Vec<String>>,
    next_token: Option<String>,
    limit: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DescribeLogStreams {
    log_group_name: Option<String>,
    log_group_identifier: Option<String>,
    log_stream_name_prefix: Option<String>,
    order_by: Option<String>,
    descending: Option<bool>,
    next_token: Option<String>,
    limit: Option<i64>,
}

impl CloudWatch {
    pub(super) async fn create_log_group(&self, asked: GroupFields) -> Result<Value, AwsError> {
        let name = group_name(asked.log_group_name, "logGroupName")?;
        if name.starts_with("aws/") || name.starts_with(OTHERS) {
            return Err(fault::invalid(format!("Log group names that begin with aws/ or {OTHERS} are reserved.")));
        }
        if asked.kms_key_id.is_some() || asked.deletion_protection_enabled == Some(true) {
            return Err(fault::invalid("Log groups have no keys of their own and no deletion protection here."));
        }
        let class = asked.log_group_class;
        if let Some(class) = class.as_deref().filter(|class| !CLASSES.contains(class)) {
            let constraint = format!("Member must satisfy enum value set: {CLASSES:?}");
            return Err(fault::constraint(class, "logGroupClass", &constraint));
        }
        let tags = match asked.tags {
            Some(TagFields::Pairs(pairs)) => tags(Some(pairs), "tags")?,
            Some(TagFields::Keys(_)) => return Err(fault::malformed("tags are keys with values")),
            None => BTreeMap::new(),
        };
        self.groups.create_group(&name, tags, class).await.map_err(fault::of_groups)?;
        Ok(Value::Null)
    }

    pub(super) async fn delete_log_group(&self, asked: GroupFields) -> Result<Value, AwsError> {
        let name = group_name(asked.log_group_name, "logGroupName")?;
        self.groups.delete_group(&name).await.map_err(fault::of_groups)?;
        Ok(Value::Null)
    }

    pub(super) async fn create_log_stream(&self, asked: StreamFields) -> Result<Value, AwsError> {
        let group = group_name(asked.log_group_name, "logGroupName")?;
        let stream = stream_name(asked.log_stream_name, "logStreamName")?;
        self.groups.create_stream(&group, &stream).await.map_err(fault::of_groups)?;
        Ok(Value::Null)
    }

    pub(super) async fn delete_log_stream(&self, asked: StreamFields) -> Result<Value, AwsError> {
        let group = group_name(asked.log_group_name, "logGroupName")?;
        let stream = stream_name(asked.log_stream_name, "logStreamName")?;
        self.groups.delete_stream(&group, &stream).await.map_err(fault::of_groups)?;
        Ok(Value::Null)
    }

    pub(super) async fn put_retention(&self, asked: GroupFields) -> Result<Value, AwsError> {
        let name = group_name(asked.log_group_name, "logGroupName")?;
        let days = required(asked.retention_in_days, "retentionInDays")?;
        let known = u32::try_from(days).ok().filter(|days| RETENTIONS.contains(days));
        let known = known.ok_or_else(|| {
            let constraint = format!("Member must satisfy enum value set: {RETENTIONS:?}");
            fault::constraint(&days.to_string(), "retentionInDays", &constraint)
        })?;
        self.groups.set_retention(&name, Some(known)).await.map_err(fault::of_groups)?;
        Ok(Value::Null)
    }

    pub(super) async fn delete_retention(&self, asked: GroupFields) -> Result<Value, AwsError> {
        let name = group_name(asked.log_group_name, "logGroupName")?;
        self.groups.set_retention(&name, None).await.map_err(fault::of_groups)?;
        Ok(Value::Null)
    }

    pub(super) async fn tag_log_group(&self, asked: GroupFields) -> Result<Value, AwsError> {
        let name = group_name(asked.log_group_name, "logGroupName")?;
        match required(asked.tags, "tags")? {
            TagFields::Pairs(pairs) => self.tag(&name, Some(pairs)).await,
            TagFields::Keys(_) => Err(fault::malformed("tags are keys with values")),
        }
    }

    pub(super) async fn untag_log_group(&self, asked: GroupFields) -> Result<Value, AwsError> {
        let name = group_name(asked.log_group_name, "logGroupName")?;
        match required(asked.tags, "tags")? {
            TagFields::Keys(keys) => self.untag(&name, &keys).await,
            TagFields::Pairs(_) => Err(fault::malformed("tags is a list of keys")),
        }
    }

    pub(super) fn list_tags_log_group(&self, asked: GroupFields) -> Result<Value, AwsError> {
        self.tags_of(&group_name(asked.log_group_name, "logGroupName")?)
    }

    pub(super) async fn tag_resource(&self, asked: ResourceFields) -> Result<Value, AwsError> {
        let name = group_of(&required(asked.resource_arn, "resourceArn")?)?;
        self.tag(&name, asked.tags).await
    }

    pub(super) async fn untag_resource(&self, asked: ResourceFields) -> Result<Value, AwsError> {
        let name = group_of(&required(asked.resource_arn, "resourceArn")?)?;
        self.untag(&name, &required(asked.tag_keys, "tagKeys")?).await
    }

    pub(super) fn list_tags_for_resource(&self, asked: ResourceFields) -> Result<Value, AwsError> {
        self.tags_of(&group_of(&required(asked.resource_arn, "resourceArn")?)?)
    }

    async fn tag(&self, name: &str, pairs: Option<BTreeMap<String, String>>) -> Result<Value, AwsError> {
        let more = tags(Some(required(pairs, "tags")?), "tags")?;
        self.groups.tag(name, &more).await.map_err(fault::of_groups)?;
        Ok(Value::Null)
    }

    async fn untag(&self, name: &str, keys: &[String]) -> Result<Value, AwsError> {
        self.groups.untag(name, keys).await.map_err(fault::of_groups)?;
        Ok(Value::Null)
    }

    fn tags_of(&self, name: &str) -> Result<Value, AwsError> {
        let row = self.groups.group(name).map_err(fault::of_groups)?;
        Ok(json!({"tags": row.tags}))
    }

    pub(super) async fn describe_log_groups(&self, asked: DescribeLogGroups, region: &str) -> Result<Value, AwsError> {
        let limit = bounded(asked.limit, "limit", LIST_MAX, LIST_MAX)?;
        let prefix = asked.log_group_name_prefix.unwrap_or_default();
        let pattern = asked.log_group_name_pattern.unwrap_or_default().to_lowercase();
        if !prefix.is_empty() && !pattern.is_empty() {
            return Err(fault::invalid("LogGroup name prefix and LogGroup name pattern are mutually exclusive."));
        }
        let named = asked.log_group_identifiers.unwrap_or_default();
        let named = named.iter().map(|name| group_of(name)).collect::<Result<Vec<_>, _>>()?;
        let after = asked.next_token.unwrap_or_default();
        let test = |name: &str| {
            name.starts_with(&prefix)
                && (pattern.is_empty() || name.to_lowercase().contains(&pattern))
                && (named.is_empty() || named.iter().any(|of| of == name))
        };
        let kept = self.groups.groups(&after, limit + 1, test);
        let mut rows: BTreeMap<String, Value> =
            kept.iter().map(|row| (row.name.clone(), group_answer(row, region))).collect();
        // Nobody has made these; so nobody knows when.
        for service in self.source.services(5_000).await?.iter() {
            let name = group_of_service(service);
            if name > after && test(&name) {
                let row = json!({"logGroupName": name, "arn": format!("{}:*", arn(&name, region)),
                    "logGroupArn": arn(&name, region), "creationTime": 0, "metricFilterCount": 0,
                    "logGroupClass": "STANDARD"});
                rows.entry(name).or_insert(row);
            }
        }
        let more = rows.len() > limit;
        let next = rows.keys().take(limit).next_back().filter(|_| more).cloned();
        let mut told = Vec::with_capacity(rows.len().min(limit));
        for (name, mut row) in rows.into_iter().take(limit) {
            // It may have been deleted meanwhile.
            row["storedBytes"] = self.source.stored_bytes(&name).await.unwrap_or(0).into();
            told.push(row);
        }
        let mut answer = json!({"logGroups": told});
        if let Some(next) = next {
            answer["nextToken"] = next.into();
        }
        Ok(answer)
    }

    pub(super) async fn describe_log_streams(
        &self,
        asked: DescribeLogStreams,
        region: &str,
    ) -> Result<Value, AwsError> {
        let name = one_group(asked.log_group_name, asked.log_group_identifier)?;
        let limit = bounded(asked.limit, "limit", LIST_MAX, LIST_MAX)?;
        let prefix = asked.log_stream_name_prefix.unwrap_or_default();
        let by_time = match asked.order_by.as_deref() {
            None | Some("LogStreamName") => false,
            Some("LastEventTime") if prefix.is_empty() => true,
            Some("LastEventTime") => {
                return Err(fault::invalid("Cannot order by LastEventTime with a logStreamNamePrefix."));
            }
            Some(other) => {
                let constraint = "Member must satisfy enum value set: [LogStreamName, LastEventTime]";
                return Err(fault::constraint(other, "orderBy", constraint));
            }
        };
        let target = self.source.target(&name).await?;
        let mut streams = self.streams_of(&target, &prefix).await?;
        if by_time {
            let unknown = streams.iter_mut().filter(|stream| !stream.looked_up).take(LOOK_UPS_MAX);
            for stream in unknown {
                self.look_up(&target, stream).await?;
            }
            streams.sort_by(|a, b| (last_ms(a), &a.row.name).cmp(&(last_ms(b), &b.row.name)));
        }
        if asked.descending == Some(true) {
            streams.reverse();
        }
        let begin = match asked.next_token {
            None => 0,
            Some(token) => {
                let at = streams.iter().position(|stream| stream.row.name == token);
                at.ok_or_else(|| fault::invalid(format!("The specified nextToken is invalid: {}", shown(&token))))? + 1
            }
        };
        let page = streams.get_mut(begin..).unwrap_or_default();
        let next = page.get(limit - 1).filter(|_| page.len() > limit).map(|stream| stream.row.name.clone());
        let mut answers = Vec::new();
        for stream in page.iter_mut().take(limit) {
            self.look_up(&target, stream).await?;
            answers.push(stream_answer(stream, &name, region));
        }
        let mut answer = json!({"logStreams": answers});
        if let Some(next) = next {
            answer["nextToken"] = next.into();
        }
        Ok(answer)
    }

    async fn streams_of(&self, target: &Target, prefix: &str) -> Result<Vec<Stream>, AwsError> {
        if let Target::Kept(row) = target {
            let admits = |stream: &Stream| stream.row.name.starts_with(prefix);
            return self.groups.streams(&row.name, admits).map_err(fault::of_groups);
        }
        let names = self.source.hosts(target).await?;
        let stream = |name: String| Stream {
            row: super::rows::StreamRow { id: String::new(), group: String::new(), name, created_ms: 0 },
            seen: None,
            looked_up: false,
        };
        Ok(names.into_iter().filter(|name| name.starts_with(prefix)).map(stream).collect())
    }

    /// Finds the first and the last event of a stream, unless they are known.
    async fn look_up(&self, target: &Target, stream: &mut Stream) -> Result<(), AwsError> {
        if stream.looked_up {
            return Ok(());
        }
        let query = match target {
            Target::Kept(_) => Query::text(STREAM_ID, &stream.row.id),
            // A host's name may have become another one on its way to a stream's name; so it is looked for as it is shown.
            Target::Others { .. } if stream.row.name == "-" => {
                let without = Query::Not(Box::new(Query::Exists { name: "host".to_owned() }));
                Query::And(vec![target.query(), without])
            }
            Target::Others { .. } => Query::And(vec![target.query(), Query::keyword("host", &stream.row.name)]),
        };
        let last = self.source.first(query.clone(), Order::Newest, i64::MIN).await?;
        if let Some(last) = last {
            let first = self.source.first(query, Order::Oldest, i64::MIN).await?;
            let first_ms = first.map_or(last.time_ms(), |first| first.time_ms());
            let found = Seen { first_ms, last_ms: last.time_ms(), ingested_ms: last.ingested_ms() };
            stream.seen = Some(stream.seen.map_or(found, |seen| seen.join(found)));
        }
        stream.looked_up = true;
        if matches!(target, Target::Kept(_)) {
            self.groups.saw(&stream.row, stream.seen, true);
        }
        Ok(())
    }
}

fn last_ms(stream: &Stream) -> i64 {
    stream.seen.map_or(0, |seen| seen.last_ms)
}

pub(super) fn arn(name: &str, region: &str) -> String {
    format!("arn:aws:logs:{region}:000000000000:log-group:{name}")
}

fn group_answer(row: &GroupRow, region: &str) -> Value {
    let arn = arn(&row.name, region);
    let mut answer = json!({
        "logGroupName": row.name, "creationTime": row.created_ms, "metricFilterCount": 0,
        "arn": format!("{arn}:*"), "logGroupArn": arn,
        "logGroupClass": row.class.as_deref().unwrap_or("STANDARD"),
    });
    if let Some(days) = row.retention_days {
        answer["retentionInDays"] = days.into();
    }
    answer
}

fn stream_answer(stream: &Stream, group: &str, region: &str) -> Value {
    let Stream { row, seen, .. } = stream;
    let mut answer = json!({
        "logStreamName": row.name, "creationTime": row.created_ms,
        "arn": format!("{}:log-stream:{}", arn(group, region), row.name),
        "storedBytes": 0, // of streams, Amazon says the same
        "uploadSequenceToken": sequence_token(row.created_ms),
    });
    if let Some(seen) = seen {
        answer["firstEventTimestamp"] = seen.first_ms.into();
        answer["lastEventTimestamp"] = seen.last_ms.into();
        answer["lastIngestionTime"] = seen.ingested_ms.into();
    }
    answer
}
