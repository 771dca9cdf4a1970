//! Event notifications as S3 has them: a bucket's configuration, and the JSON of an event.
//!
//! A queue's ARN names a queue of this appliance; a topic's ARN names a webhook of this appliance by its last part. Functions and EventBridge
//! are refused.

use futures::StreamExt;
use futures::future::BoxFuture;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};
use serde_json::{Value, json};

use super::access::Asking;
use super::convert::error;
use super::stored::{self, Stored};
use super::{acl, deletes, multipart, objects, tagging};
use crate::artifacts::documents::DocumentKind;
use crate::artifacts::notify::Listener;
use crate::artifacts::{Artifacts, RuleDid, VersionName, Versioning, new_id};
use backlot_wire::Timestamp;

/// Most rules (S3).
const RULES_MAX: usize = 100;
/// Events of one batch that are handed over at once.
const TOLD_AT_ONCE: usize = 32;
/// What is told here.
const EVENTS: [&str; 16] = [
    "s3:ObjectCreated:*",
    "s3:ObjectCreated:Put",
    "s3:ObjectCreated:Post",
    "s3:ObjectCreated:Copy",
    "s3:ObjectCreated:CompleteMultipartUpload",
    "s3:ObjectRemoved:*",
    "s3:ObjectRemoved:Delete",
    "s3:ObjectRemoved:DeleteMarkerCreated",
    "s3:ObjectTagging:*",
    "s3:ObjectTagging:Put",
    "s3:ObjectTagging:Delete",
    "s3:ObjectAcl:Put",
    "s3:LifecycleExpiration:*",
    "s3:LifecycleExpiration:Delete",
    "s3:LifecycleExpiration:DeleteMarkerCreated",
    "s3:LifecycleTransition",
];

/// One rule of a configuration.
struct Rule<'a> {
    id: &'a str,
    listener: Option<Listener>,
    events: &'a [Event],
    filter: Option<&'a NotificationConfigurationFilter>,
}

impl Rule<'_> {
    /// Whether an event, by its name without `s3:`, of `key` is for this rule.
    fn wants(&self, event: &str, key: &str) -> bool {
        let named = self.events.iter().filter_map(|wanted| wanted.as_ref().strip_prefix("s3:"));
        let mut named =
            named.map(|wanted| wanted.strip_suffix('*').map_or(wanted == event, |kind| event.starts_with(kind)));
        named.any(|is| is)
            && self.parts().all(|(is_prefix, part)| if is_prefix { key.starts_with(part) } else { key.ends_with(part) })
    }

    /// The parts of the filter, and whether each is a prefix.
    fn parts(&self) -> impl Iterator<Item = (bool, &str)> {
        let rules = self.filter.and_then(|filter| filter.key.as_ref()).and_then(|key| key.filter_rules.as_ref());
        rules.into_iter().flatten().map(|rule| {
            let is_prefix = rule.name.as_ref().is_some_and(|name| name.as_str().eq_ignore_ascii_case("prefix"));
            (is_prefix, rule.value.as_deref().unwrap_or_default())
        })
    }
}

fn rules(configuration: &NotificationConfiguration) -> Vec<Rule<'_>> {
    let last = |arn: &str, service: &str| {
        let mut parts = arn.split(':');
        let is_ours = parts.next() == Some("arn") && parts.next().is_some() && parts.next() == Some(service);
        parts.nth(2).filter(|name| is_ours && !name.is_empty() && parts.next().is_none()).map(str::to_owned)
    };
    let queues = configuration.queue_configurations.iter().flatten().map(|queue| Rule {
        id: queue.id.as_deref().unwrap_or_default(),
        listener: last(&queue.queue_arn, "sqs").map(Listener::Queue),
        events: &queue.events,
        filter: queue.filter.as_ref(),
    });
    let topics = configuration.topic_configurations.iter().flatten().map(|topic| Rule {
        id: topic.id.as_deref().unwrap_or_default(),
        listener: last(&topic.topic_arn, "sns").map(Listener::Webhook),
        events: &topic.events,
        filter: topic.filter.as_ref(),
    });
    queues.chain(topics).collect()
}

fn check(artifacts: &Artifacts, configuration: &NotificationConfiguration) -> S3Result<()> {
    let functions = configuration.lambda_function_configurations.as_ref().is_some_and(|all| !all.is_empty());
    if functions || configuration.event_bridge_configuration.is_some() {
        return Err(s3_error!(NotImplemented, "events go to queues and, as topics, to webhooks"));
    }
    let rules = rules(configuration);
    if rules.len() > RULES_MAX {
        return Err(s3_error!(InvalidArgument, "a configuration has at most {RULES_MAX} rules"));
    }
    for rule in &rules {
        if rule.events.is_empty() {
            return Err(s3_error!(MalformedXML, "a rule names an event at least"));
        }
        if let Some(event) = rule.events.iter().find(|event| !EVENTS.contains(&event.as_ref())) {
            return Err(s3_error!(InvalidArgument, "`{}` is no event that is told here", event.as_ref()));
        }
        let named = rule.filter.and_then(|filter| filter.key.as_ref()).and_then(|key| key.filter_rules.as_ref());
        let is_part = |rule: &FilterRule| {
            rule.name
                .as_ref()
                .is_some_and(|name| matches!(name.as_str().to_ascii_lowercase().as_str(), "prefix" | "suffix"))
        };
        if named.is_some_and(|named| !named.iter().all(is_part)) {
            return Err(s3_error!(InvalidArgument, "filter rule name must be either prefix or suffix"));
        }
        let prefixes = rule.parts().filter(|(is_prefix, _)| *is_prefix).count();
        if prefixes > 1 || rule.parts().count() - prefixes > 1 {
            return Err(s3_error!(
                InvalidArgument,
                "Cannot specify more than one prefix rule or suffix rule in a filter."
            ));
        }
        if !rule.listener.as_ref().is_some_and(|listener| artifacts.knows_listener(listener)) {
            return Err(s3_error!(
                InvalidArgument,
                "Unable to validate the following destination configurations: a queue of this appliance that is no job queue, or a topic that is the name of a webhook, is wanted"
            ));
        }
    }
    Ok(())
}

pub(super) async fn put(
    artifacts: &Artifacts,
    request: S3Request<PutBucketNotificationConfigurationInput>,
) -> S3Result<S3Response<PutBucketNotificationConfigurationOutput>> {
    let (bucket, mut configuration) = (request.input.bucket, request.input.notification_configuration);
    artifacts.bucket(&bucket).map_err(error)?;
    check(artifacts, &configuration)?;
    name_rules(artifacts, &mut configuration);
    let rules = rules(&configuration);
    if rules.is_empty() {
        stored::forget(artifacts, &bucket, DocumentKind::Notification).await?;
    } else {
        stored::keep(artifacts, &bucket, DocumentKind::Notification, &configuration).await?;
        if request.input.skip_destination_validation != Some(true) {
            let test = json!({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": bucket,
                "Time": Timestamp(artifacts.now().wall_ms).to_string()});
            for listener in rules.into_iter().filter_map(|rule| rule.listener) {
                artifacts.tell(&bucket, listener, test.to_string()).await;
            }
        }
    }
    Ok(S3Response::new(PutBucketNotificationConfigurationOutput::default()))
}

/// Gives those rules an id that have none.
fn name_rules(artifacts: &Artifacts, configuration: &mut NotificationConfiguration) {
    let queues = configuration.queue_configurations.iter_mut().flatten().map(|queue| &mut queue.id);
    let topics = configuration.topic_configurations.iter_mut().flatten().map(|topic| &mut topic.id);
    for id in queues.chain(topics).filter(|id| id.as_ref().is_none_or(String::is_empty)) {
        *id = Some(new_id(artifacts.now()).to_string());
    }
}

pub(super) async fn get(
    artifacts: &Artifacts,
    request: S3Request<GetBucketNotificationConfigurationInput>,
) -> S3Result<S3Response<GetBucketNotificationConfigurationOutput>> {
    let held = stored::held::<NotificationConfiguration>(artifacts, &request.input.bucket, DocumentKind::Notification)?;
    let held = held.unwrap_or_default();
    Ok(S3Response::new(GetBucketNotificationConfigurationOutput {
        queue_configurations: held.queue_configurations,
        topic_configurations: held.topic_configurations,
        ..Default::default()
    }))
}

/// Who changes something, as an event says it.
struct Who {
    principal: String,
    address: Option<String>,
}

impl Who {
    fn of(extensions: &http::Extensions) -> Self {
        let asking = Asking::of(extensions).ok();
        let holder = asking.and_then(|asking| asking.caller.holder.as_ref());
        let address = asking.and_then(|asking| asking.address).map(|address| address.to_string());
        Self { principal: holder.map_or("Anonymous".to_owned(), |holder| format!("AWS:{}", holder.key_id)), address }
    }

    /// A rule of the bucket.
    fn rule() -> Self {
        Self { principal: "s3.amazonaws.com".to_owned(), address: Some("s3.amazonaws.com".to_owned()) }
    }
}

/// Who changes what: kept while the operation runs, told when it has succeeded.
struct Change {
    who: Who,
    bucket: String,
    stored: Option<Stored>,
}

impl Change {
    fn of(artifacts: &Artifacts, extensions: &http::Extensions, bucket: &str) -> Self {
        let stored = Stored::of(artifacts, bucket, DocumentKind::Notification).ok().flatten();
        Self { who: Who::of(extensions), bucket: bucket.to_owned(), stored }
    }

    /// Tells that `event` happened to `key`.
    async fn tell(&self, artifacts: &Artifacts, event: &str, key: &str, version: Option<&str>) {
        self.tell_with(artifacts, event, key, version, None).await;
    }

    /// The same, with more about it.
    async fn tell_with(
        &self,
        artifacts: &Artifacts,
        event: &str,
        key: &str,
        version: Option<&str>,
        more: Option<(&str, Value)>,
    ) {
        let Some(configuration) = self.stored.as_ref().and_then(|stored| stored.value().ok()) else { return };
        for rule in rules(configuration).into_iter().filter(|rule| rule.wants(event, key)) {
            let mut record = self.record(artifacts, event, key, version, rule.id);
            if let Some((name, value)) = &more {
                record[*name] = value.clone();
            }
            let body = json!({"Records": [record]}).to_string();
            if let Some(listener) = rule.listener {
                artifacts.tell(&self.bucket, listener, body).await;
            }
        }
    }

    fn record(&self, artifacts: &Artifacts, event: &str, key: &str, version: Option<&str>, rule: &str) -> Value {
        let now = artifacts.now();
        let bucket = artifacts.bucket(&self.bucket).ok();
        // As a form writes it, which is how S3 writes keys here.
        let written = utf8_percent_encode(key, KEPT).to_string().replace("%20", "+");
        let mut object = json!({"key": written, "sequencer": new_id(now).simple().to_string()});
        if let Some(version) = version {
            object["versionId"] = json!(version);
        }
        if !event.starts_with("ObjectRemoved:")
            && !event.starts_with("LifecycleExpiration:")
            && let Ok(row) = artifacts.find(&self.bucket, key, version.and_then(VersionName::parse))
        {
            object["size"] = json!(row.size);
            object["eTag"] = json!(row.etag.to_string());
        }
        json!({
            "eventVersion": "2.1",
            "eventSource": "aws:s3",
            "awsRegion": bucket.as_ref().map_or("us-east-1", |bucket| bucket.region.as_str()),
            "eventTime": Timestamp(now.wall_ms).to_string(),
            "eventName": event,
            "userIdentity": {"principalId": self.who.principal},
            "requestParameters": {"sourceIPAddress": self.who.address},
            "s3": {
                "s3SchemaVersion": "1.0",
                "configurationId": rule,
                "bucket": {
                    "name": self.bucket,
                    "ownerIdentity": {"principalId": bucket.map(|bucket| bucket.owner.canonical_id())},
                    "arn": format!("arn:aws:s3:::{}", self.bucket),
                },
                "object": object,
            },
        })
    }
}

/// Tells what a lifecycle rule has done.
pub(super) fn tell_rule(
    artifacts: Artifacts,
    bucket: String,
    key: String,
    version: Option<VersionName>,
    did: RuleDid,
) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let stored = Stored::of(&artifacts, &bucket, DocumentKind::Notification).ok().flatten();
        let change = Change { who: Who::rule(), bucket, stored };
        let version = version.map(|version| version.to_string());
        let (event, more) = match did {
            RuleDid::Delete => ("LifecycleExpiration:Delete", None),
            RuleDid::Mark => ("LifecycleExpiration:DeleteMarkerCreated", None),
            RuleDid::Move(class) => {
                let moved = json!({"transitionEventData": {"destinationStorageClass": class}});
                ("LifecycleTransition", Some(("lifecycleEventData", moved)))
            }
        };
        change.tell_with(&artifacts, event, &key, version.as_deref(), more).await;
    })
}

/// What stays as it is in the key of an event.
const KEPT: &percent_encoding::AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'*').remove(b'/');

pub(super) async fn put_object(
    artifacts: &Artifacts,
    request: S3Request<PutObjectInput>,
) -> S3Result<S3Response<PutObjectOutput>> {
    let event = if request.method == http::Method::POST { "ObjectCreated:Post" } else { "ObjectCreated:Put" };
    let (change, key) = (Change::of(artifacts, &request.extensions, &request.input.bucket), request.input.key.clone());
    let response = objects::put(artifacts, request).await?;
    change.tell(artifacts, event, &key, response.output.version_id.as_deref()).await;
    Ok(response)
}

pub(super) async fn copy_object(
    artifacts: &Artifacts,
    request: S3Request<CopyObjectInput>,
) -> S3Result<S3Response<CopyObjectOutput>> {
    let (change, key) = (Change::of(artifacts, &request.extensions, &request.input.bucket), request.input.key.clone());
    let response = objects::copy(artifacts, request).await?;
    change.tell(artifacts, "ObjectCreated:Copy", &key, response.output.version_id.as_deref()).await;
    Ok(response)
}

pub(super) async fn complete(
    artifacts: &Artifacts,
    request: S3Request<CompleteMultipartUploadInput>,
) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
    let (change, key) = (Change::of(artifacts, &request.extensions, &request.input.bucket), request.input.key.clone());
    let response = multipart::complete(artifacts, request).await?;
    let version = response.output.version_id.as_deref();
    change.tell(artifacts, "ObjectCreated:CompleteMultipartUpload", &key, version).await;
    Ok(response)
}

pub(super) async fn delete_object(
    artifacts: &Artifacts,
    request: S3Request<DeleteObjectInput>,
) -> S3Result<S3Response<DeleteObjectOutput>> {
    let input = &request.input;
    let (change, key) = (Change::of(artifacts, &request.extensions, &input.bucket), input.key.clone());
    let event = removed(artifacts, &input.bucket, input.version_id.as_deref());
    let response = deletes::delete(artifacts, request).await?;
    change.tell(artifacts, event, &key, response.output.version_id.as_deref()).await;
    Ok(response)
}

/// What deleting does: without a version, a bucket that keeps versions gets a marker.
fn removed(artifacts: &Artifacts, bucket: &str, version: Option<&str>) -> &'static str {
    let keeps = artifacts.bucket(bucket).is_ok_and(|bucket| bucket.versioning != Versioning::Never);
    if keeps && version.is_none() { "ObjectRemoved:DeleteMarkerCreated" } else { "ObjectRemoved:Delete" }
}

pub(super) async fn delete_objects(
    artifacts: &Artifacts,
    request: S3Request<DeleteObjectsInput>,
) -> S3Result<S3Response<DeleteObjectsOutput>> {
    let change = Change::of(artifacts, &request.extensions, &request.input.bucket);
    // A quiet batch names only what failed.
    let named: Vec<_> = match &change.stored {
        Some(_) => {
            let objects = request.input.delete.objects.iter();
            objects.map(|object| (object.key.clone(), object.version_id.clone())).collect()
        }
        None => Vec::new(),
    };
    let response = deletes::delete_many(artifacts, request).await?;
    let failed = response.output.errors.as_deref().unwrap_or_default();
    let is_done = |(key, version): &(String, Option<String>)| {
        !failed.iter().any(|error| error.key.as_ref() == Some(key) && error.version_id == *version)
    };
    let (change, bucket) = (&change, change.bucket.as_str());
    let tell = |(key, version): (String, Option<String>)| async move {
        change.tell(artifacts, removed(artifacts, bucket, version.as_deref()), &key, version.as_deref()).await;
    };
    let done = named.into_iter().filter(is_done);
    futures::stream::iter(done).map(tell).buffer_unordered(TOLD_AT_ONCE).collect::<()>().await;
    Ok(response)
}

pub(super) async fn put_tags(
    artifacts: &Artifacts,
    request: S3Request<PutObjectTaggingInput>,
) -> S3Result<S3Response<PutObjectTaggingOutput>> {
    let (change, key) = (Change::of(artifacts, &request.extensions, &request.input.bucket), request.input.key.clone());
    let response = tagging::put(artifacts, request).await?;
    change.tell(artifacts, "ObjectTagging:Put", &key, response.output.version_id.as_deref()).await;
    Ok(response)
}

pub(super) async fn delete_tags(
    artifacts: &Artifacts,
    request: S3Request<DeleteObjectTaggingInput>,
) -> S3Result<S3Response<DeleteObjectTaggingOutput>> {
    let (change, key) = (Change::of(artifacts, &request.extensions, &request.input.bucket), request.input.key.clone());
    let response = tagging::delete(artifacts, request).await?;
    change.tell(artifacts, "ObjectTagging:Delete", &key, response.output.version_id.as_deref()).await;
    Ok(response)
}

pub(super) async fn put_acl(
    artifacts: &Artifacts,
    request: S3Request<PutObjectAclInput>,
) -> S3Result<S3Response<PutObjectAclOutput>> {
    let input = &request.input;
    let (change, key) = (Change::of(artifacts, &request.extensions, &input.bucket), input.key.clone());
    let version = input.version_id.clone();
    let response = acl::put_object(artifacts, request).await?;
    change.tell(artifacts, "ObjectAcl:Put", &key, version.as_deref()).await;
    Ok(response)
}

/// For fuzzing.
pub(super) fn fuzz(configuration: &NotificationConfiguration, text: &str) {
    for rule in rules(configuration) {
        let _ = rule.wants(text, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_wants_its_events_of_keys_that_its_filter_lets_through() {
        let part = |name: &str, value: &str| FilterRule {
            name: Some(FilterRuleName::from(name.to_owned())),
            value: Some(value.to_owned()),
        };
        let key = S3KeyFilter { filter_rules: Some(vec![part("Prefix", "raw/"), part("suffix", ".exr")]) };
        let events =
            vec![Event::from("s3:ObjectCreated:*".to_owned()), Event::from("s3:ObjectRemoved:Delete".to_owned())];
        let queue = |arn: &str| QueueConfiguration {
            events: events.clone(),
            filter: Some(NotificationConfigurationFilter { key: Some(key.clone()) }),
            id: Some("one".into()),
            queue_arn: arn.to_owned(),
        };
        let configuration = |arn: &str| NotificationConfiguration {
            queue_configurations: Some(vec![queue(arn)]),
            ..NotificationConfiguration::default()
        };
        let good = configuration("arn:aws:sqs:us-east-1:000000000000:shots");
        let rule = &rules(&good)[0];
        assert_eq!(rule.listener, Some(Listener::Queue("shots".into())));
        assert!(rule.wants("ObjectCreated:Put", "raw/a.exr") && rule.wants("ObjectRemoved:Delete", "raw/a.exr"));
        assert!(!rule.wants("ObjectRemoved:DeleteMarkerCreated", "raw/a.exr"));
        assert!(!rule.wants("ObjectCreated:Put", "a.exr") && !rule.wants("ObjectCreated:Put", "raw/a.png"));
        for bad in ["arn:aws:sns:us-east-1:000000000000:shots", "shots", "arn:aws:sqs:r:0:a:b", "arn:aws:sqs:r:0:"] {
            assert_eq!(rules(&configuration(bad))[0].listener, None, "{bad}");
        }
    }
}
