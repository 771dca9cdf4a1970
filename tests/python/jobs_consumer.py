"""A studio's worker as it is today: boto3, a queue, and nothing that knows of jobs.

usage: jobs_consumer.py work COUNT        take and delete COUNT messages
       jobs_consumer.py fail COUNT        take COUNT messages for a second each, and let the timeout end
       jobs_consumer.py beat SECONDS      take one for 6 seconds, extend it again and again for SECONDS, delete it
       jobs_consumer.py give-back         take one and make it visible again
       jobs_consumer.py send BODY [TRACE] send BODY to the queue, TRACE as the message attribute `traceparent`
       jobs_consumer.py forever           take and delete messages for ever, over restarts of the appliance
Prints one line of JSON for each message.
"""

import json
import sys
import time

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

sqs = boto3.client("sqs", config=Config(retries={"mode": "standard", "max_attempts": 5}, read_timeout=30))


def queue_url():
    return sqs.get_queue_url(QueueName="jobs")["QueueUrl"]


def receive(url, visibility_s, wait_s=20):
    answer = sqs.receive_message(
        QueueUrl=url,
        MaxNumberOfMessages=1,
        VisibilityTimeout=visibility_s,
        WaitTimeSeconds=wait_s,
        MessageAttributeNames=["All"],
        AttributeNames=["All"],
    )
    messages = answer.get("Messages", [])
    if not messages:
        return None
    message = messages[0]
    attributes = {name: value["StringValue"] for name, value in message.get("MessageAttributes", {}).items()}
    body = json.loads(message["Body"])
    print(json.dumps({"job_id": body["job_id"], "type": body["type"], "attributes": attributes}), flush=True)
    return message


def delete(url, message):
    sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])


def certain(url, visibility_s):
    """A message, however long it takes; the test's own patience ends the wait."""
    while True:
        message = receive(url, visibility_s)
        if message:
            return message


def main(action, *arguments):
    if action == "forever":
        while True:
            try:
                url = queue_url()
                message = receive(url, 30, wait_s=2)
                if message:
                    delete(url, message)
            except (BotoCoreError, ClientError) as error:
                print(f"again: {error}", file=sys.stderr, flush=True)
                time.sleep(0.1)
    url = queue_url()
    if action == "work":
        for _ in range(int(arguments[0])):
            delete(url, certain(url, 60))
    elif action == "fail":
        for _ in range(int(arguments[0])):
            certain(url, 1)
    elif action == "beat":
        message = certain(url, 6)
        until = time.monotonic() + float(arguments[0])
        while time.monotonic() < until:
            time.sleep(0.5)
            sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=6)
        delete(url, message)
    elif action == "give-back":
        message = certain(url, 60)
        sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=0)
    elif action == "send":
        try:
            attributes = {"traceparent": {"DataType": "String", "StringValue": trace} for trace in arguments[1:]}
            sqs.send_message(QueueUrl=url, MessageBody=arguments[0], MessageAttributes=attributes)
            print(json.dumps({"sent": True}))
        except ClientError as error:
            print(json.dumps({"sent": False, "code": error.response["Error"]["Code"], "message": str(error)}))
    else:
        sys.exit(__doc__)


main(*sys.argv[1:])
