//! A bucket's lifecycle rules: read from XML, checked as S3 checks them, and given back as they were written.

use std::collections::BTreeSet;

use s3s::dto::*;
use s3s::{S3Error, S3Request, S3Response, S3Result, s3_error};

use super::convert::{error, timestamp};
use crate::artifacts::lifecycle::rules::{self, DAY_MS, Filter, Form, Noncurrent, Rule, Rules, When};
use crate::artifacts::tags;
use crate::artifacts::{Artifacts, new_id};

/// Most rules of a bucket (S3).
const RULES_MAX: usize = 1000;
/// Longest id of a rule, in letters (S3).
const ID_LETTERS_MAX: usize = 255;
/// Most versions that a rule keeps beside the current one (S3).
const KEPT_MAX: i32 = 100;

fn malformed() -> S3Error {
    s3_error!(MalformedXML, "The XML you provided was not well-formed or did not validate against our published schema")
}

fn days(number: Option<i32>, least: i32, action: &str) -> S3Result<u32> {
    let number = number.ok_or_else(malformed)?;
    match u32::try_from(number) {
        Ok(days) if number >= least => Ok(days),
        _ => Err(s3_error!(InvalidArgument, "'Days' for {action} action must be a positive integer")),
    }
}

fn when(given_days: Option<i32>, date: Option<Timestamp>, least: i32, action: &str) -> S3Result<Option<When>> {
    match (given_days, date) {
        (None, None) => Ok(None),
        (Some(_), None) => days(given_days, least, action).map(|days| Some(When::Days(days))),
        (None, Some(date)) => {
            let moment_ms = time::OffsetDateTime::from(date).unix_timestamp_nanos() / 1_000_000;
            match u64::try_from(moment_ms) {
                Ok(midnight) if midnight % DAY_MS == 0 => Ok(Some(When::Date(midnight))),
                _ => Err(s3_error!(InvalidArgument, "'Date' must be at midnight GMT")),
            }
        }
        (Some(_), Some(_)) => Err(malformed()),
    }
}

fn bytes(number: Option<i64>) -> S3Result<Option<u64>> {
    let convert = |number| u64::try_from(number).map_err(|_| s3_error!(InvalidArgument, "a size is not negative"));
    number.map(convert).transpose()
}

/// Most tags in one filter, as many as an object has.
fn read_tags(set: Vec<Tag>) -> S3Result<Vec<tags::Tag>> {
    let tag = |tag: Tag| tags::Tag { key: tag.key.unwrap_or_default(), value: tag.value.unwrap_or_default() };
    tags::checked(set.into_iter().map(tag).collect(), tags::TAGS_MAX).map_err(error)
}

fn filter(prefix: Option<String>, filter: Option<LifecycleRuleFilter>) -> S3Result<Filter> {
    let read = match (prefix, filter) {
        (Some(prefix), None) => Filter { form: Form::Prefix, prefix: Some(prefix), ..Filter::default() },
        (None, Some(LifecycleRuleFilter { and: Some(_), prefix, tag, .. })) if prefix.is_some() || tag.is_some() => {
            return Err(malformed());
        }
        (None, Some(LifecycleRuleFilter { and: Some(and), .. })) => Filter {
            form: Form::And,
            prefix: and.prefix,
            tags: read_tags(and.tags.unwrap_or_default())?,
            larger_than: bytes(and.object_size_greater_than)?,
            smaller_than: bytes(and.object_size_less_than)?,
        },
        // S3 takes one of these alone; here all that are given must hold.
        (None, Some(filter)) => Filter {
            form: Form::Filter,
            prefix: filter.prefix,
            tags: read_tags(filter.tag.into_iter().collect())?,
            larger_than: bytes(filter.object_size_greater_than)?,
            smaller_than: bytes(filter.object_size_less_than)?,
        },
        (None, None) | (Some(_), Some(_)) => return Err(malformed()),
    };
    if let (Some(larger), Some(smaller)) = (read.larger_than, read.smaller_than)
        && larger >= smaller
    {
        return Err(s3_error!(
            InvalidRequest,
            "'ObjectSizeLessThan' has to be a value greater than 'ObjectSizeGreaterThan'"
        ));
    }
    if read.prefix.as_ref().is_some_and(|prefix| prefix.len() > 1024) {
        return Err(s3_error!(InvalidRequest, "The maximum size of a prefix is 1024."));
    }
    Ok(read)
}

fn noncurrent(given_days: Option<i32>, keeps: Option<i32>, action: &str) -> S3Result<Noncurrent> {
    let keeps = match keeps {
        None => None,
        Some(number @ 1..=KEPT_MAX) => u32::try_from(number).ok(),
        Some(_) => return Err(s3_error!(InvalidArgument, "'NewerNoncurrentVersions' is 1 to {KEPT_MAX}")),
    };
    Ok(Noncurrent { days: days(given_days, 1, action)?, keeps })
}

fn class(artifacts: &Artifacts, class: Option<TransitionStorageClass>) -> S3Result<String> {
    let class = class.ok_or_else(malformed)?.as_str().to_owned();
    if artifacts.takes_class(&class) {
        return Ok(class);
    }
    let why = match artifacts.has_transition() {
        true => "the cold tier is read at once, as STANDARD_IA, ONEZONE_IA, INTELLIGENT_TIERING and GLACIER_IR are",
        false => "this appliance has no cold tier to move them to; its setting is `cold.bucket`",
    };
    Err(s3_error!(InvalidStorageClass, "objects cannot be moved to `{class}`: {why}"))
}

fn expiration(expiration: LifecycleExpiration, filter: &Filter) -> S3Result<rules::Expiration> {
    let when = when(expiration.days, expiration.date, 1, "Expiration")?;
    match (when, expiration.expired_object_delete_marker) {
        (Some(when), None) => Ok(rules::Expiration::At(when)),
        (None, Some(goes)) if filter.tags.is_empty() => Ok(rules::Expiration::Markers(goes)),
        (None, Some(_)) => Err(s3_error!(InvalidRequest, "ExpiredObjectDeleteMarker cannot be specified with Tags.")),
        _ => Err(malformed()),
    }
}

fn read_rule(artifacts: &Artifacts, rule: LifecycleRule) -> S3Result<Rule> {
    let is_enabled = match rule.status.as_str() {
        ExpirationStatus::ENABLED => true,
        ExpirationStatus::DISABLED => false,
        _ => return Err(malformed()),
    };
    let id = rule.id.filter(|id| !id.is_empty()).unwrap_or_else(|| new_id(artifacts.now()).simple().to_string());
    if id.chars().count() > ID_LETTERS_MAX {
        return Err(s3_error!(InvalidArgument, "ID length should not exceed allowed limit of {ID_LETTERS_MAX}"));
    }
    let filter = filter(rule.prefix, rule.filter)?;
    let expiration = rule.expiration.map(|given| expiration(given, &filter)).transpose()?;
    let abort_days = match rule.abort_incomplete_multipart_upload {
        None => None,
        Some(_) if !filter.tags.is_empty() || filter.larger_than.is_some() || filter.smaller_than.is_some() => {
            return Err(s3_error!(
                InvalidRequest,
                "AbortIncompleteMultipartUpload cannot be specified with Tags or object sizes."
            ));
        }
        Some(abort) => Some(days(abort.days_after_initiation, 1, "AbortIncompleteMultipartUpload")?),
    };
    let given = rule.noncurrent_version_expiration;
    let action = "NoncurrentVersionExpiration";
    let noncurrent_rule =
        given.map(|given| noncurrent(given.noncurrent_days, given.newer_noncurrent_versions, action)).transpose()?;
    let mut transitions = Vec::new();
    for given in rule.transitions.unwrap_or_default() {
        let when = when(given.days, given.date, 0, "Transition")?.ok_or_else(malformed)?;
        transitions.push((when, class(artifacts, given.storage_class)?));
    }
    let mut noncurrent_transitions = Vec::new();
    for given in rule.noncurrent_version_transitions.unwrap_or_default() {
        let due = noncurrent(given.noncurrent_days, given.newer_noncurrent_versions, "NoncurrentVersionTransition")?;
        noncurrent_transitions.push((due, class(artifacts, given.storage_class)?));
    }
    let read = Rule {
        id,
        is_enabled,
        filter,
        expiration,
        noncurrent: noncurrent_rule,
        abort_days,
        transitions,
        noncurrent_transitions,
    };
    let is_empty = read.expiration.is_none() && read.noncurrent.is_none() && read.abort_days.is_none();
    if is_empty && read.transitions.is_empty() && read.noncurrent_transitions.is_empty() {
        return Err(s3_error!(InvalidRequest, "At least one action needs to be specified in a rule"));
    }
    Ok(read)
}

fn read(artifacts: &Artifacts, given: LifecycleRules) -> S3Result<Rules> {
    if given.is_empty() || given.len() > RULES_MAX {
        return Err(malformed());
    }
    let rules = given.into_iter().map(|rule| read_rule(artifacts, rule)).collect::<S3Result<Vec<_>>>()?;
    let ids: BTreeSet<&str> = rules.iter().map(|rule| rule.id.as_str()).collect();
    if ids.len() < rules.len() {
        return Err(s3_error!(InvalidArgument, "Rule ID must be unique. Found same ID for more than one rule"));
    }
    Ok(Rules(rules))
}

fn number(number: u32) -> Option<i32> {
    i32::try_from(number).ok()
}

fn write_when(when: When) -> (Option<i32>, Option<Timestamp>) {
    match when {
        When::Days(days) => (number(days), None),
        When::Date(midnight) => (None, Some(timestamp(midnight))),
    }
}

fn write_filter(filter: Filter) -> (Option<String>, Option<LifecycleRuleFilter>) {
    let Filter { form, prefix, tags, larger_than, smaller_than } = filter;
    let size = |bytes: Option<u64>| bytes.map(super::convert::size);
    let mut tags = tags.into_iter().map(|tag| Tag { key: Some(tag.key), value: Some(tag.value) });
    match form {
        Form::Prefix => (prefix, None),
        Form::Filter => {
            let filter = LifecycleRuleFilter {
                and: None,
                prefix,
                tag: tags.next(),
                object_size_greater_than: size(larger_than),
                object_size_less_than: size(smaller_than),
            };
            (None, Some(filter))
        }
        Form::And => {
            let tags: Vec<_> = tags.collect();
            let and = LifecycleRuleAndOperator {
                prefix,
                tags: (!tags.is_empty()).then_some(tags),
                object_size_greater_than: size(larger_than),
                object_size_less_than: size(smaller_than),
            };
            (None, Some(LifecycleRuleFilter { and: Some(and), ..Default::default() }))
        }
    }
}

fn write_rule(rule: Rule) -> LifecycleRule {
    let (prefix, filter) = write_filter(rule.filter);
    let expiration = rule.expiration.map(|expiration| match expiration {
        rules::Expiration::Markers(goes) => {
            LifecycleExpiration { expired_object_delete_marker: Some(goes), ..Default::default() }
        }
        rules::Expiration::At(when) => {
            let (days, date) = write_when(when);
            LifecycleExpiration { days, date, ..Default::default() }
        }
    });
    let transition = |(when, class): (When, String)| {
        let (days, date) = write_when(when);
        Transition { days, date, storage_class: Some(TransitionStorageClass::from(class)) }
    };
    let noncurrent_transition = |(due, class): (Noncurrent, String)| NoncurrentVersionTransition {
        newer_noncurrent_versions: due.keeps.and_then(number),
        noncurrent_days: number(due.days),
        storage_class: Some(TransitionStorageClass::from(class)),
    };
    let status = if rule.is_enabled { ExpirationStatus::ENABLED } else { ExpirationStatus::DISABLED };
    let transitions: Vec<_> = rule.transitions.into_iter().map(transition).collect();
    let noncurrent_transitions: Vec<_> = rule.noncurrent_transitions.into_iter().map(noncurrent_transition).collect();
    LifecycleRule {
        abort_incomplete_multipart_upload: rule
            .abort_days
            .map(|days| AbortIncompleteMultipartUpload { days_after_initiation: number(days) }),
        expiration,
        filter,
        id: Some(rule.id),
        noncurrent_version_expiration: rule.noncurrent.map(|due| NoncurrentVersionExpiration {
            newer_noncurrent_versions: due.keeps.and_then(number),
            noncurrent_days: number(due.days),
        }),
        noncurrent_version_transitions: (!noncurrent_transitions.is_empty()).then_some(noncurrent_transitions),
        prefix,
        status: ExpirationStatus::from_static(status),
        transitions: (!transitions.is_empty()).then_some(transitions),
    }
}

pub(super) async fn get(
    artifacts: &Artifacts,
    request: S3Request<GetBucketLifecycleConfigurationInput>,
) -> S3Result<S3Response<GetBucketLifecycleConfigurationOutput>> {
    let Some(Rules(rules)) = artifacts.rules(&request.input.bucket).map_err(error)? else {
        return Err(s3_error!(NoSuchLifecycleConfiguration, "The lifecycle configuration does not exist"));
    };
    let rules = Some(rules.into_iter().map(write_rule).collect());
    Ok(S3Response::new(GetBucketLifecycleConfigurationOutput { rules, ..Default::default() }))
}

pub(super) async fn put(
    artifacts: &Artifacts,
    request: S3Request<PutBucketLifecycleConfigurationInput>,
) -> S3Result<S3Response<PutBucketLifecycleConfigurationOutput>> {
    let input = request.input;
    artifacts.bucket(&input.bucket).map_err(error)?;
    let rules = read(artifacts, input.lifecycle_configuration.ok_or_else(malformed)?.rules)?;
    artifacts.set_rules(&input.bucket, Some(&rules)).await.map_err(error)?;
    Ok(S3Response::new(PutBucketLifecycleConfigurationOutput::default()))
}

pub(super) async fn delete(
    artifacts: &Artifacts,
    request: S3Request<DeleteBucketLifecycleInput>,
) -> S3Result<S3Response<DeleteBucketLifecycleOutput>> {
    artifacts.set_rules(&request.input.bucket, None).await.map_err(error)?;
    Ok(S3Response::new(DeleteBucketLifecycleOutput::default()))
}
