//! FIFO queues in both protocols.

use super::*;

const LINE: &str = "http://localhost:4566/000000000000/line.fifo";

async fn make(sqs: &Sqs) {
    let attributes = json!({"FifoQueue": "true", "ContentBasedDeduplication": "true"});
    let (status, _, made) =
        json_call(sqs, "CreateQueue", json!({"QueueName": "line.fifo", "Attributes": attributes})).await;
    assert_eq!((status, made), (200, json!({"QueueUrl": LINE})));
}

#[tokio::test]
async fn order_marks_and_numbers_are_told_in_json() {
    let dir = tempfile::tempdir().unwrap();
    let sqs = sqs(dir.path()).await;
    make(&sqs).await;
    let entry = |id: &str, group: &str| json!({"Id": id, "MessageBody": id, "MessageGroupId": group});
    let entries = json!([entry("a", "g"), entry("b", "g"), entry("c", "h"), {"Id": "d", "MessageBody": "x"}]);
    let (_, _, sent) = json_call(&sqs, "SendMessageBatch", json!({"QueueUrl": LINE, "Entries": entries})).await;
    let numbers: Vec<_> =
        sent["Successful"].as_array().unwrap().iter().map(|entry| entry["SequenceNumber"].as_str().unwrap()).collect();
    assert!(numbers.len() == 3 && numbers.is_sorted() && numbers.iter().all(|number| number.len() == 20));
    assert_eq!((&sent["Failed"][0]["Id"], &sent["Failed"][0]["Code"]), (&json!("d"), &json!("MissingParameter")));
    let asked = json!({
        "QueueUrl": LINE, "MaxNumberOfMessages": 10, "MessageSystemAttributeNames": ["All"], "ReceiveRequestAttemptId": "one",
    });
    let (_, _, got) = json_call(&sqs, "ReceiveMessage", asked.clone()).await;
    let messages = got["Messages"].as_array().unwrap();
    let told: Vec<_> = messages.iter().map(|m| (&m["Body"], &m["Attributes"]["MessageGroupId"])).collect();
    assert_eq!(told, [(&json!("a"), &json!("g")), (&json!("b"), &json!("g")), (&json!("c"), &json!("h"))]);
    assert_eq!(messages[0]["Attributes"]["SequenceNumber"], json!(numbers[0]));
    let sha256_of_a = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb";
    assert_eq!(messages[0]["Attributes"]["MessageDeduplicationId"], json!(sha256_of_a));
    let (_, _, again) = json_call(&sqs, "ReceiveMessage", asked).await;
    assert_eq!(again["Messages"][2]["ReceiptHandle"], messages[2]["ReceiptHandle"]);
    let names = json!({"QueueUrl": LINE, "AttributeNames": ["FifoQueue", "DeduplicationScope", "FifoThroughputLimit"]});
    let (_, _, attributes) = json_call(&sqs, "GetQueueAttributes", names).await;
    let expected = json!({"FifoQueue": "true", "DeduplicationScope": "queue", "FifoThroughputLimit": "perQueue"});
    assert_eq!(attributes["Attributes"], expected);
}

#[tokio::test]
async fn order_marks_and_numbers_are_told_in_a_form() {
    let dir = tempfile::tempdir().unwrap();
    let sqs = sqs(dir.path()).await;
    make(&sqs).await;
    let send = format!("QueueUrl={LINE}&MessageBody=x&MessageGroupId=g&MessageDeduplicationId=d");
    let (status, first) = form_call(&sqs, "SendMessage", &send).await;
    assert!(status == 200 && first.contains("<SequenceNumber>1"), "{first}");
    let (_, second) = form_call(&sqs, "SendMessage", &send).await;
    let number = |xml: &str| xml.split("<SequenceNumber>").nth(1).unwrap()[..20].to_owned();
    assert_eq!(number(&first), number(&second), "sent twice is one message");
    let receive = format!("QueueUrl={LINE}&AttributeName.1=All&MaxNumberOfMessages=10&ReceiveRequestAttemptId=one");
    let (_, got) = form_call(&sqs, "ReceiveMessage", &receive).await;
    assert_eq!(got.matches("<Message>").count(), 1, "{got}");
    for pair in ["<Name>MessageDeduplicationId</Name><Value>d</Value>", "<Name>MessageGroupId</Name><Value>g</Value>"] {
        assert!(got.contains(pair), "{pair} in {got}");
    }
    assert!(got.contains(&format!("<Name>SequenceNumber</Name><Value>{}</Value>", number(&first))), "{got}");
    let (status, refused) = form_call(&sqs, "SendMessage", &format!("{send}&DelaySeconds=5")).await;
    assert!(status == 400 && refused.contains("InvalidParameterValue"), "{refused}");
}
