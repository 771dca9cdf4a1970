"""Single calls of a plain SQS client on the queue `jobs`.

usage: jobs_plain.py receive                      take one message for ten minutes, if there is one at once
       jobs_plain.py send BODY [NAME=VALUE …]     send BODY with message attributes
Prints one line of JSON.
"""

import json
import sys

import boto3

sqs = boto3.client("sqs")
url = sqs.get_queue_url(QueueName="jobs")["QueueUrl"]

if sys.argv[1] == "receive":
    answer = sqs.receive_message(
        QueueUrl=url,
        MaxNumberOfMessages=1,
        VisibilityTimeout=600,
        WaitTimeSeconds=1,
        MessageAttributeNames=["All"],
    )
    received = {}
    for message in answer.get("Messages", []):
        attributes = {name: value["StringValue"] for name, value in message.get("MessageAttributes", {}).items()}
        received = {"body": message["Body"], "attributes": attributes}
    print(json.dumps(received))
elif sys.argv[1] == "send":
    pairs = [pair.split("=", 1) for pair in sys.argv[3:]]
    attributes = {name: {"DataType": "String", "StringValue": value} for name, value in pairs}
    sent = sqs.send_message(QueueUrl=url, MessageBody=sys.argv[2], MessageAttributes=attributes)
    print(json.dumps({"message_id": sent["MessageId"]}))
else:
    sys.exit(__doc__)
