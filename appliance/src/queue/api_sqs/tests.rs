//! Calls as the door hands them in, over a real journal; and garbage.

mod fifo;

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::clock::{Clock, SystemClock};
use crate::control::{Control, Follower};
use crate::identity::{Account, Principal};

async fn sqs(dir: &std::path::Path) -> Sqs {
    let (control, replay) = Control::open(dir, &crate::config::JournalConfig::default()).unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let queues = Queues::build(control, Arc::clone(&clock), 7, None);
    let follower: Arc<dyn Follower> = Arc::new(queues.clone());
    replay.run(&[follower], clock.now()).unwrap();
    queues.prepare().await.unwrap();
    Sqs::new(queues)
}

fn call_as(role: Role, operation: &str, protocol: Protocol, body: String) -> Call {
    Call {
        service: "sqs",
        operation: operation.to_owned(),
        protocol,
        path: "/".to_owned(),
        body: Bytes::from(body),
        principal: Principal { key_id: "AKTEST".to_owned(), role, account: Account::house() },
        request_id: "r-1".to_owned(),
        base_url: "http://localhost:4566".to_owned(),
        region: "eu-west-1".to_owned(),
        agent: None,
        alike: None,
    }
}

async fn json_call(sqs: &Sqs, operation: &str, body: Value) -> (u16, Option<String>, Value) {
    let response = sqs.call(call_as(Role::Admin, operation, Protocol::Json10, body.to_string())).await;
    let code = response.headers().get("x-amzn-query-error").map(|code| code.to_str().unwrap().to_owned());
    (response.status().as_u16(), code, serde_json::from_str(&text_of(response).await).unwrap())
}

async fn form_call(sqs: &Sqs, operation: &str, form: &str) -> (u16, String) {
    let response = sqs.call(call_as(Role::Admin, operation, Protocol::Query, form.to_owned())).await;
    (response.status().as_u16(), text_of(response).await)
}

async fn text_of(response: Response<Body>) -> String {
    let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    String::from_utf8(body.to_vec()).unwrap()
}

const ARN: &str = "arn:aws:sqs:eu-west-1:000000000000:shots";
const URL: &str = "http://localhost:4566/000000000000/shots";

#[tokio::test]
async fn a_message_goes_through_in_json() {
    let dir = tempfile::tempdir().unwrap();
    let sqs = sqs(dir.path()).await;
    let (_, _, made) = json_call(&sqs, "CreateQueue", json!({"QueueName": "shots"})).await;
    assert_eq!(made, json!({"QueueUrl": URL}));
    let (status, _, sent) = json_call(
        &sqs,
        "SendMessage",
        json!({"QueueUrl": URL, "MessageBody": "hello",
            "MessageAttributes": {"n": {"DataType": "Number", "StringValue": "7"}},
            "MessageSystemAttributes": {"AWSTraceHeader": {"DataType": "String", "StringValue": "Root=1"}}}),
    )
    .await;
    assert_eq!((status, &sent["MD5OfMessageBody"]), (200, &json!("5d41402abc4b2a76b9719d911017c592")));
    assert!(sent["MD5OfMessageAttributes"].is_string() && sent["MD5OfMessageSystemAttributes"].is_string());
    let asked = json!({"QueueUrl": URL, "AttributeNames": ["All"], "MessageAttributeNames": ["n"]});
    let (_, _, got) = json_call(&sqs, "ReceiveMessage", asked).await;
    let message = &got["Messages"][0];
    assert_eq!(message["MD5OfMessageAttributes"], sent["MD5OfMessageAttributes"]);
    assert_eq!(message["MessageAttributes"]["n"], json!({"DataType": "Number", "StringValue": "7"}));
    assert_eq!(message["Attributes"]["SenderId"], json!("AKTEST"));
    assert_eq!(message["Attributes"]["AWSTraceHeader"], json!("Root=1"));
    assert_eq!(message["Attributes"]["ApproximateReceiveCount"], json!("1"));
    let receipt = message["ReceiptHandle"].clone();
    let deleted = json_call(&sqs, "DeleteMessage", json!({"QueueUrl": URL, "ReceiptHandle": receipt})).await;
    assert_eq!(deleted, (200, None, json!({})));
    let (_, _, empty) = json_call(&sqs, "ReceiveMessage", json!({"QueueUrl": URL})).await;
    assert_eq!(empty, json!({}));
}

#[tokio::test]
async fn a_message_goes_through_in_xml_with_every_character() {
    let dir = tempfile::tempdir().unwrap();
    let sqs = sqs(dir.path()).await;
    form_call(&sqs, "CreateQueue", "QueueName=shots&Attribute.1.Name=VisibilityTimeout&Attribute.1.Value=60").await;
    let (status, sent) =
        form_call(&sqs, "SendMessage", &format!("QueueUrl={URL}&MessageBody=%3Ca%3E%0D%0A%26%E2%98%83")).await;
    assert_eq!(status, 200);
    let md5 = md5_of("<a>\r\n&☃");
    assert!(sent.contains(&format!("<MD5OfMessageBody>{md5}</MD5OfMessageBody>")), "{sent}");
    let mut call = call_as(Role::Admin, "ReceiveMessage", Protocol::Query, "AttributeName.1=All".to_owned());
    call.path = "/000000000000/shots".to_owned();
    let got = sqs.call(call).await;
    let got = text_of(got).await;
    assert!(got.contains("<Body>&lt;a&gt;&#13;\n&amp;☃</Body>"), "{got}");
    assert!(got.contains("<Attribute><Name>ApproximateReceiveCount</Name><Value>1</Value></Attribute>"), "{got}");
    let (_, attributes) = form_call(&sqs, "GetQueueAttributes", &format!("QueueUrl={URL}&AttributeName.1=All")).await;
    assert!(attributes.contains("<Name>QueueArn</Name><Value>arn:aws:sqs:eu-west-1:000000000000:shots</Value>"));
    assert!(attributes.contains("<Name>ApproximateNumberOfMessagesNotVisible</Name><Value>1</Value>"));
    let (status, error) = form_call(&sqs, "GetQueueUrl", "QueueName=none").await;
    assert_eq!(status, 400);
    assert!(error.contains("<Code>AWS.SimpleQueueService.NonExistentQueue</Code>"), "{error}");
}

#[tokio::test]
async fn a_batch_answers_each_entry_for_itself() {
    let dir = tempfile::tempdir().unwrap();
    let sqs = sqs(dir.path()).await;
    json_call(&sqs, "CreateQueue", json!({"QueueName": "shots"})).await;
    let entries = json!([
        {"Id": "good", "MessageBody": "one"},
        {"Id": "empty", "MessageBody": ""},
        {"Id": "late", "MessageBody": "x", "DelaySeconds": 901},
        {"Id": "control", "MessageBody": "\u{1}"},
    ]);
    let (status, _, answer) = json_call(&sqs, "SendMessageBatch", json!({"QueueUrl": URL, "Entries": entries})).await;
    assert_eq!(status, 200);
    assert_eq!(answer["Successful"].as_array().unwrap().len(), 1);
    let mut codes: Vec<_> =
        answer["Failed"].as_array().unwrap().iter().map(|entry| entry["Code"].as_str().unwrap()).collect();
    codes.sort_unstable();
    assert_eq!(codes, ["InvalidMessageContents", "InvalidParameterValue", "MissingParameter"]);
}

#[tokio::test]
async fn errors_have_the_codes_that_sdks_know() {
    let dir = tempfile::tempdir().unwrap();
    let sqs = sqs(dir.path()).await;
    json_call(&sqs, "CreateQueue", json!({"QueueName": "shots"})).await;
    let entry = |id: &str| json!({"Id": id, "MessageBody": "x"});
    let eleven: Vec<_> = (0..11).map(|n| entry(&n.to_string())).collect();
    let half = "x".repeat(600_000);
    let receipt = super::super::model::Receipt {
        queue: super::super::model::QueueId(999),
        message: super::super::model::MessageId::from_random([1; 16]),
        receives: 1,
    };
    for (operation, body, code) in [
        (
            "SendMessage",
            json!({"QueueUrl": "http://h/000000000000/none", "MessageBody": "x"}),
            "AWS.SimpleQueueService.NonExistentQueue",
        ),
        ("SendMessage", json!({"MessageBody": "x"}), "MissingParameter"),
        ("SendMessage", json!({"QueueUrl": URL}), "MissingParameter"),
        ("SendMessage", json!({"QueueUrl": URL, "MessageBody": "\u{1}"}), "InvalidMessageContents"),
        ("SendMessage", json!({"QueueUrl": URL, "MessageBody": "x".repeat(1_048_577)}), "InvalidParameterValue"),
        ("SendMessage", json!({"QueueUrl": URL, "MessageBody": "x", "MessageGroupId": "a b"}), "InvalidParameterValue"),
        (
            "SendMessage",
            json!({"QueueUrl": URL, "MessageBody": "x", "MessageDeduplicationId": "d"}),
            "InvalidParameterValue",
        ),
        ("ReceiveMessage", json!({"QueueUrl": URL, "ReceiveRequestAttemptId": "a"}), "InvalidParameterValue"),
        ("SendMessage", json!({"QueueUrl": URL, "MessageBody": 7}), "MalformedInput"),
        ("SendMessageBatch", json!({"QueueUrl": URL, "Entries": []}), "AWS.SimpleQueueService.EmptyBatchRequest"),
        (
            "SendMessageBatch",
            json!({"QueueUrl": URL, "Entries": eleven}),
            "AWS.SimpleQueueService.TooManyEntriesInBatchRequest",
        ),
        (
            "SendMessageBatch",
            json!({"QueueUrl": URL, "Entries": [entry("a"), entry("a")]}),
            "AWS.SimpleQueueService.BatchEntryIdsNotDistinct",
        ),
        (
            "SendMessageBatch",
            json!({"QueueUrl": URL, "Entries": [entry("a b")]}),
            "AWS.SimpleQueueService.InvalidBatchEntryId",
        ),
        (
            "SendMessageBatch",
            json!({"QueueUrl": URL, "Entries": [{"Id": "a", "MessageBody": half}, {"Id": "b", "MessageBody": half}]}),
            "AWS.SimpleQueueService.BatchRequestTooLong",
        ),
        ("ReceiveMessage", json!({"QueueUrl": URL, "MaxNumberOfMessages": 11}), "InvalidParameterValue"),
        ("ReceiveMessage", json!({"QueueUrl": URL, "WaitTimeSeconds": 21}), "InvalidParameterValue"),
        ("ReceiveMessage", json!({"QueueUrl": URL, "VisibilityTimeout": -1}), "InvalidParameterValue"),
        ("ReceiveMessage", json!({"QueueUrl": URL, "AttributeNames": ["Colour"]}), "InvalidAttributeName"),
        ("DeleteMessage", json!({"QueueUrl": URL, "ReceiptHandle": "nonsense"}), "ReceiptHandleIsInvalid"),
        ("DeleteMessage", json!({"QueueUrl": URL, "ReceiptHandle": receipt.encode()}), "ReceiptHandleIsInvalid"),
        ("CreateQueue", json!({"QueueName": "a b"}), "InvalidParameterValue"),
        ("CreateQueue", json!({"QueueName": "a.fifo"}), "InvalidParameterValue"),
        ("CreateQueue", json!({"QueueName": "f", "Attributes": {"FifoQueue": "true"}}), "InvalidParameterValue"),
        ("CreateQueue", json!({"QueueName": "f", "Attributes": {"Colour": "red"}}), "InvalidAttributeName"),
        ("CreateQueue", json!({"QueueName": "f", "tags": {"a\n": "b"}}), "InvalidParameterValue"),
        ("CreateQueue", json!({"QueueName": "shots", "Attributes": {"DelaySeconds": "7"}}), "QueueAlreadyExists"),
        (
            "SetQueueAttributes",
            json!({"QueueUrl": URL, "Attributes": {"RedrivePolicy": "{\"deadLetterTargetArn\":\"arn:aws:sqs:r:000000000000:none\",\"maxReceiveCount\":1}"}}),
            "InvalidParameterValue",
        ),
        ("TagQueue", json!({"QueueUrl": URL}), "MissingParameter"),
        ("UntagQueue", json!({"QueueUrl": URL, "TagKeys": []}), "MissingParameter"),
        (
            "AddPermission",
            json!({"QueueUrl": URL, "Label": "a", "AWSAccountIds": ["1"], "Actions": ["*"]}),
            "InvalidParameterValue",
        ),
        ("RemovePermission", json!({"QueueUrl": URL, "Label": "none"}), "InvalidParameterValue"),
        ("StartMessageMoveTask", json!({}), "MissingParameter"),
        ("StartMessageMoveTask", json!({"SourceArn": ARN}), "InvalidParameterValue"),
        (
            "StartMessageMoveTask",
            json!({"SourceArn": ARN, "MaxNumberOfMessagesPerSecond": 501}),
            "InvalidParameterValue",
        ),
        ("ListMessageMoveTasks", json!({"SourceArn": ARN, "MaxResults": 11}), "InvalidParameterValue"),
        ("CancelMessageMoveTask", json!({"TaskHandle": "foo"}), "InvalidParameterValue"),
        ("MakeCoffee", json!({}), "InvalidAction"),
    ] {
        let (status, found, answer) = json_call(&sqs, operation, body).await;
        assert_eq!((status, found.as_deref()), (400, Some(&*format!("{code};Sender"))), "{operation}: {answer}");
        assert!(answer["__type"].as_str().unwrap().starts_with("com.amazonaws.sqs#"), "{answer}");
    }
}

#[tokio::test]
async fn a_viewer_looks_and_an_agent_takes_messages() {
    let dir = tempfile::tempdir().unwrap();
    let sqs = sqs(dir.path()).await;
    json_call(&sqs, "CreateQueue", json!({"QueueName": "shots"})).await;
    let status = async |role, operation: &str| {
        let tags = json!({"a": "b"});
        let body = json!({"QueueUrl": URL, "QueueName": "shots", "MessageBody": "x", "Tags": tags}).to_string();
        sqs.call(call_as(role, operation, Protocol::Json10, body)).await.status().as_u16()
    };
    assert_eq!(status(Role::Viewer, "GetQueueUrl").await, 200);
    assert_eq!(status(Role::Viewer, "ListQueueTags").await, 200);
    assert_eq!(status(Role::Viewer, "ReceiveMessage").await, 403);
    for operation in ["TagQueue", "PurgeQueue", "DeleteQueue"] {
        assert_eq!(status(Role::Viewer, operation).await, 403);
        assert_eq!(status(Role::Agent, operation).await, 403);
    }
    assert_eq!(status(Role::Agent, "ReceiveMessage").await, 200);
    assert_eq!(status(Role::Agent, "SendMessage").await, 403);
    assert_eq!(status(Role::Operator, "SendMessage").await, 200);
}

#[tokio::test]
async fn listings_go_on_where_they_ended() {
    let dir = tempfile::tempdir().unwrap();
    let sqs = sqs(dir.path()).await;
    for n in 0..7 {
        json_call(&sqs, "CreateQueue", json!({"QueueName": format!("q{n}")})).await;
    }
    let (mut token, mut seen) = (Value::Null, Vec::new());
    loop {
        let asked = json!({"QueueNamePrefix": "q", "MaxResults": 3, "NextToken": token});
        let (_, _, page) = json_call(&sqs, "ListQueues", asked).await;
        seen.extend(page["QueueUrls"].as_array().unwrap().clone());
        token = page["NextToken"].clone();
        if token.is_null() {
            break;
        }
    }
    assert_eq!(seen.len(), 7);
    assert_eq!(seen[6], json!("http://localhost:4566/000000000000/q6"));
    let asked = json!({"QueueUrl": "http://h/000000000000/jobs-dlq"});
    let (_, _, sources) = json_call(&sqs, "ListDeadLetterSourceQueues", asked).await;
    assert_eq!(sources, json!({"queueUrls": ["http://localhost:4566/000000000000/jobs"]}));
}

#[tokio::test]
async fn a_queue_is_emptied_and_its_name_given_again_after_a_minute() {
    let dir = tempfile::tempdir().unwrap();
    let sqs = sqs(dir.path()).await;
    json_call(&sqs, "CreateQueue", json!({"QueueName": "shots"})).await;
    let purge = async || json_call(&sqs, "PurgeQueue", json!({"QueueUrl": URL})).await;
    assert_eq!(purge().await.0, 200);
    let (status, code, _) = purge().await;
    assert_eq!((status, code.as_deref()), (403, Some("AWS.SimpleQueueService.PurgeQueueInProgress;Sender")));
    json_call(&sqs, "DeleteQueue", json!({"QueueUrl": URL})).await;
    let (status, code, _) = json_call(&sqs, "CreateQueue", json!({"QueueName": "shots"})).await;
    assert_eq!((status, code.as_deref()), (400, Some("AWS.SimpleQueueService.QueueDeletedRecently;Sender")));
}

#[tokio::test]
async fn what_is_not_there_is_answered_with_its_own_status() {
    let dir = tempfile::tempdir().unwrap();
    let sqs = sqs(dir.path()).await;
    let none = "arn:aws:sqs:eu-west-1:000000000000:none";
    let handle = TaskHandle { task_id: "t".into(), source_arn: none.into() }.encode();
    for (operation, body, code) in [
        ("SendMessage", json!({"QueueUrl": "http://h/", "MessageBody": "x"}), "InvalidAddress"),
        ("StartMessageMoveTask", json!({"SourceArn": none}), "ResourceNotFoundException"),
        ("StartMessageMoveTask", json!({"SourceArn": "x"}), "ResourceNotFoundException"),
        ("ListMessageMoveTasks", json!({"SourceArn": none}), "ResourceNotFoundException"),
        ("CancelMessageMoveTask", json!({"TaskHandle": handle}), "ResourceNotFoundException"),
    ] {
        let (status, found, answer) = json_call(&sqs, operation, body).await;
        assert_eq!((status, found.as_deref()), (404, Some(&*format!("{code};Sender"))), "{operation}: {answer}");
    }
}

proptest! {
    #[test]
    fn garbage_is_answered_and_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        fuzz_parse(&bytes);
    }

    #[test]
    fn broken_requests_are_answered_and_never_panic(cut in 0usize..400, at in 0usize..400, byte in any::<u8>()) {
        let json = json!({"QueueUrl": URL, "Entries": [{"Id": "a", "MessageBody": "x", "DelaySeconds": 1,
            "MessageAttributes": {"n": {"DataType": "Binary", "BinaryValue": "AAE="}}, "ReceiptHandle": "r", "VisibilityTimeout": 3}],
            "AttributeNames": ["All"], "Attributes": {"RedrivePolicy": "{}"}}).to_string();
        let form = "QueueUrl=u&SendMessageBatchRequestEntry.1.Id=a&SendMessageBatchRequestEntry.1.MessageBody=%C3%A4\
            &SendMessageBatchRequestEntry.1.MessageAttribute.1.Value.BinaryValue=AAE%3D&Attribute.1.Name=x&WaitTimeSeconds=1";
        for text in [json.as_str(), form] {
            let mut bytes = text.as_bytes()[..text.len().min(cut)].to_vec();
            fuzz_parse(&bytes);
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
                fuzz_parse(&bytes);
            }
        }
    }
}
