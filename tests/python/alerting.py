"""Alerts, from the side of AWS.

`alerting.py topic ENDPOINT` makes an SNS topic with a queue behind it and prints both; `alerting.py message ENDPOINT QUEUE_URL` waits for
one message, deletes it and prints it as JSON. `alerting.py dead` puts a message into a dead-letter queue of the appliance, and
`alerting.py purge` empties it.
"""

import json
import sys
import time

import boto3

command = sys.argv[1]
if command in ("dead", "purge"):
    sqs = boto3.client("sqs")
    dlq = sqs.create_queue(QueueName="films-dlq")["QueueUrl"]
    if command == "purge":
        sqs.purge_queue(QueueUrl=dlq)
        sys.exit(0)
    arn = sqs.get_queue_attributes(QueueUrl=dlq, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    redrive = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 1})
    films = sqs.create_queue(QueueName="films", Attributes={"RedrivePolicy": redrive, "VisibilityTimeout": "0"})["QueueUrl"]
    sqs.send_message(QueueUrl=films, MessageBody="a film that nobody can make")
    assert len(sqs.receive_message(QueueUrl=films, WaitTimeSeconds=5)["Messages"]) == 1
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert "Messages" not in sqs.receive_message(QueueUrl=films)
        attributes = sqs.get_queue_attributes(QueueUrl=dlq, AttributeNames=["ApproximateNumberOfMessages"])["Attributes"]
        if attributes["ApproximateNumberOfMessages"] == "1":
            sys.exit(0)
    sys.exit("the message did not reach the dead-letter queue")

endpoint = sys.argv[2]
client = dict(endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test")
sns, sqs = boto3.client("sns", **client), boto3.client("sqs", **client)

if command == "topic":
    topic = sns.create_topic(Name="alerts")["TopicArn"]
    queue = sqs.create_queue(QueueName="alerts")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
    print(json.dumps({"topic": topic, "queue": queue}))
else:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        received = sqs.receive_message(QueueUrl=sys.argv[3], WaitTimeSeconds=1).get("Messages", [])
        for message in received:
            sqs.delete_message(QueueUrl=sys.argv[3], ReceiptHandle=message["ReceiptHandle"])
            print(message["Body"])
            sys.exit(0)
    sys.exit("no message came")
