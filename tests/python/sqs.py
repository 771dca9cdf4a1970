"""SQS as boto3 and plain signed forms speak it. Each subject exits with 0 and says so, or shows what was wrong.

It is not called queue.py, because that would hide the standard library's module from every script here.
"""

import hashlib
import json
import struct
import sys
import threading
import time
import urllib.parse
import urllib.request
import xml.etree.ElementTree as ElementTree

import boto3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError, ClientError
import os

PATIENCE_S = 120


def client(**config):
    config = {"retries": {"max_attempts": 0, "mode": "standard"}, "connect_timeout": 5, **config}
    return boto3.client("sqs", config=Config(**config))


def until(what, look):
    """Polls `look` until it gives something, within a deadline."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"waited {PATIENCE_S} s for {what}")


def equal(found, expected, what=""):
    assert found == expected, f"{what}: found {found!r}, expected {expected!r}"


def md5(text):
    return hashlib.md5(text.encode()).hexdigest()


def md5_of_attributes(attributes):
    def part(data):
        return struct.pack(">I", len(data)) + data

    layout = b""
    for name in sorted(attributes):
        attribute = attributes[name]
        layout += part(name.encode()) + part(attribute["DataType"].encode())
        if "BinaryValue" in attribute:
            layout += b"\x02" + part(attribute["BinaryValue"])
        else:
            layout += b"\x01" + part(attribute["StringValue"].encode())
    return hashlib.md5(layout).hexdigest()


def operations():
    sqs = client()
    attributes = {"VisibilityTimeout": "60", "DelaySeconds": "0"}
    url = sqs.create_queue(QueueName="takes", Attributes=attributes)["QueueUrl"]
    assert url.endswith("/000000000000/takes"), url
    equal(sqs.create_queue(QueueName="takes", Attributes={"VisibilityTimeout": "60"})["QueueUrl"], url)
    equal(sqs.get_queue_url(QueueName="takes")["QueueUrl"], url)
    equal(sqs.list_queues(QueueNamePrefix="tak")["QueueUrls"], [url])
    assert "QueueUrls" not in sqs.list_queues(QueueNamePrefix="nothing")
    for n in range(5):
        sqs.create_queue(QueueName=f"page-{n}")
    pages = list(sqs.get_paginator("list_queues").paginate(QueueNamePrefix="page-", PaginationConfig={"PageSize": 2}))
    equal([len(page["QueueUrls"]) for page in pages], [2, 2, 1], "pages")

    sqs.set_queue_attributes(QueueUrl=url, Attributes={"MessageRetentionPeriod": "120"})
    found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    equal(found["MessageRetentionPeriod"], "120")
    equal(found["VisibilityTimeout"], "60")
    equal(found["QueueArn"], "arn:aws:sqs:us-east-1:000000000000:takes")
    only = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["DelaySeconds"])["Attributes"]
    equal(only, {"DelaySeconds": "0"})
    jobs = sqs.get_queue_url(QueueName="jobs")["QueueUrl"]
    found = sqs.get_queue_attributes(QueueUrl=jobs, AttributeNames=["All"])["Attributes"]
    equal((found["VisibilityTimeout"], found["backlot.JobQueue"]), ("300", "true"))
    equal(json.loads(found["RedrivePolicy"])["maxReceiveCount"], 10)

    # Everything a message carries comes back, and the sums are right.
    body = "Einstellung 7 ☃\r\n<a&b>\t" + "x" * 200_000
    carried = {
        "n": {"DataType": "Number.int", "StringValue": "7"},
        "shot.take": {"DataType": "String", "StringValue": "ä ☃"},
        "raw": {"DataType": "Binary", "BinaryValue": bytes(range(256))},
    }
    trace = {"AWSTraceHeader": {"DataType": "String", "StringValue": "Root=1-5759e988-bd862e3fe1be46a994272793"}}
    sent = sqs.send_message(QueueUrl=url, MessageBody=body, MessageAttributes=carried, MessageSystemAttributes=trace)
    equal(sent["MD5OfMessageBody"], md5(body))
    equal(sent["MD5OfMessageAttributes"], md5_of_attributes(carried))
    equal(sent["MD5OfMessageSystemAttributes"], md5_of_attributes(trace))
    asked = {"AttributeNames": ["All"], "MessageAttributeNames": ["shot.*", "raw"]}
    [got] = sqs.receive_message(QueueUrl=url, **asked)["Messages"]
    equal((got["MessageId"], got["Body"], got["MD5OfBody"]), (sent["MessageId"], body, md5(body)))
    expected = {name: carried[name] for name in ("shot.take", "raw")}
    equal(got["MessageAttributes"], expected)
    equal(got["MD5OfMessageAttributes"], md5_of_attributes(expected))
    equal(got["Attributes"]["AWSTraceHeader"], trace["AWSTraceHeader"]["StringValue"])
    equal(got["Attributes"]["SenderId"], "test")
    assert int(got["Attributes"]["SentTimestamp"]) <= int(got["Attributes"]["ApproximateFirstReceiveTimestamp"])
    assert "Messages" not in sqs.receive_message(QueueUrl=url)

    # Visibility 0 brings it back; the old receipt then deletes nothing, the new one does.
    sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=got["ReceiptHandle"], VisibilityTimeout=0)
    asked = {"MessageSystemAttributeNames": ["ApproximateReceiveCount"], "WaitTimeSeconds": 5}
    [again] = sqs.receive_message(QueueUrl=url, **asked)["Messages"]
    equal(again["Attributes"], {"ApproximateReceiveCount": "2"})
    assert "MessageAttributes" not in again
    sqs.delete_message(QueueUrl=url, ReceiptHandle=got["ReceiptHandle"])
    counted = lambda name: sqs.get_queue_attributes(QueueUrl=url, AttributeNames=[name])["Attributes"][name]
    equal(counted("ApproximateNumberOfMessagesNotVisible"), "1", "an old receipt deletes nothing")
    sqs.delete_message(QueueUrl=url, ReceiptHandle=again["ReceiptHandle"])
    equal(counted("ApproximateNumberOfMessagesNotVisible"), "0")

    # Batches.
    entries = [{"Id": f"e{n}", "MessageBody": f"body {n}"} for n in range(10)]
    sent = sqs.send_message_batch(QueueUrl=url, Entries=entries)
    equal((len(sent["Successful"]), "Failed" in sent), (10, False))
    equal({entry["Id"]: entry["MD5OfMessageBody"] for entry in sent["Successful"]}["e3"], md5("body 3"))
    got = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10)["Messages"]
    equal([message["Body"] for message in got], [f"body {n}" for n in range(10)], "order of arrival")
    entries = [{"Id": str(n), "ReceiptHandle": m["ReceiptHandle"], "VisibilityTimeout": 90} for n, m in enumerate(got)]
    equal(len(sqs.change_message_visibility_batch(QueueUrl=url, Entries=entries)["Successful"]), 10)
    entries = [{"Id": str(n), "ReceiptHandle": message["ReceiptHandle"]} for n, message in enumerate(got)]
    entries[0]["ReceiptHandle"] = "nonsense"
    deleted = sqs.delete_message_batch(QueueUrl=url, Entries=entries)
    equal((len(deleted["Successful"]), deleted["Failed"][0]["Code"]), (9, "ReceiptHandleIsInvalid"))

    # A delayed message is hidden until its delay ends.
    sqs.send_message(QueueUrl=url, MessageBody="late", DelaySeconds=2)
    assert "Messages" not in sqs.receive_message(QueueUrl=url)
    equal(counted("ApproximateNumberOfMessagesDelayed"), "1")
    began = time.monotonic()
    [late] = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=20)["Messages"]
    equal(late["Body"], "late")
    assert 1 < time.monotonic() - began < 15, "the delay's end wakes the long poll"

    sqs.purge_queue(QueueUrl=url)
    equal(counted("ApproximateNumberOfMessagesNotVisible"), "0")
    sqs.delete_queue(QueueUrl=url)
    try:
        sqs.get_queue_url(QueueName="takes")
        raise AssertionError("the queue is still there")
    except sqs.exceptions.QueueDoesNotExist:
        pass
    print("all operations are as they should be")


def bodies():
    """What a queue takes and what it does not, as the exceptions that boto3 makes of it."""
    sqs = client()
    url = sqs.create_queue(QueueName="full")["QueueUrl"]
    other = sqs.create_queue(QueueName="other")["QueueUrl"]
    sqs.send_message(QueueUrl=other, MessageBody="x")
    [message] = sqs.receive_message(QueueUrl=other)["Messages"]
    foreign = message["ReceiptHandle"]
    try:
        sqs.delete_message(QueueUrl=url, ReceiptHandle=foreign)
        raise AssertionError("another queue's receipt was taken")
    except sqs.exceptions.ReceiptHandleIsInvalid:
        pass
    # A message that came back is not in flight, though its receipt is the newest.
    sqs.change_message_visibility(QueueUrl=other, ReceiptHandle=foreign, VisibilityTimeout=0)
    try:
        sqs.change_message_visibility(QueueUrl=other, ReceiptHandle=foreign, VisibilityTimeout=5)
        raise AssertionError("a ready message was hidden")
    except sqs.exceptions.MessageNotInflight:
        pass
    # A job queue takes jobs and nothing else.
    jobs = sqs.get_queue_url(QueueName="jobs")["QueueUrl"]
    try:
        sqs.send_message(QueueUrl=jobs, MessageBody="not a job")
        raise AssertionError("a job queue took what is no job")
    except sqs.exceptions.InvalidMessageContents:
        pass
    # A whole mebibyte is taken, of characters too that a request spells with twice or three times the bytes.
    whole = "☃" * ((1 << 20) // 3)
    for send in (
        lambda: sqs.send_message(QueueUrl=url, MessageBody=whole),
        lambda: signed_form({"Action": "SendMessage", "MessageBody": whole}, "/000000000000/full"),
    ):
        send()
        [message] = sqs.receive_message(QueueUrl=url)["Messages"]
        equal((len(message["Body"]), message["MD5OfBody"]), (len(whole), md5(whole)))
    print("bodies are taken as they should be")


def signed_form(parameters, path="/", method="POST"):
    """One call of the Query protocol: status, and the answer as a tree without namespaces."""
    endpoint = os.environ["AWS_ENDPOINT_URL"].rstrip("/")
    form = urllib.parse.urlencode({"Version": "2012-11-05", **parameters}, quote_via=urllib.parse.quote)
    headers = {"Content-Type": "application/x-www-form-urlencoded"} if method == "POST" else {}
    url = endpoint + path + ("" if method == "POST" else "?" + form)
    request = AWSRequest(method=method, url=url, data=form if method == "POST" else None, headers=headers)
    SigV4Auth(Credentials("test", "test"), "sqs", "us-east-1").add_auth(request)
    prepared = request.prepare()
    body = form.encode() if method == "POST" else None
    call = urllib.request.Request(prepared.url, data=body, headers=dict(prepared.headers), method=method)
    try:
        with urllib.request.urlopen(call, timeout=30) as answer:
            status, text = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read()
    tree = ElementTree.fromstring(text)
    for node in tree.iter():
        node.tag = node.tag.rsplit("}", 1)[-1]
    return status, tree


def query():
    def call(action, path="/", method="POST", **parameters):
        named = {name.replace("__", "."): value for name, value in parameters.items()}
        status, tree = signed_form({"Action": action, **named}, path, method)
        equal((status, tree.tag), (200, f"{action}Response"), ElementTree.tostring(tree))
        assert tree.findtext("ResponseMetadata/RequestId"), "no request id"
        return tree.find(f"{action}Result")

    made = call("CreateQueue", QueueName="forms", Attribute__1__Name="VisibilityTimeout", Attribute__1__Value="45")
    url = made.findtext("QueueUrl")
    path = "/000000000000/forms"
    equal(call("GetQueueUrl", method="GET", QueueName="forms").findtext("QueueUrl"), url)
    equal([node.text for node in call("ListQueues", QueueNamePrefix="for").findall("QueueUrl")], [url])
    call("SetQueueAttributes", path, Attribute__1__Name="DelaySeconds", Attribute__1__Value="0")
    found = call("GetQueueAttributes", path, AttributeName__1="All")
    found = {node.findtext("Name"): node.findtext("Value") for node in found.findall("Attribute")}
    equal((found["VisibilityTimeout"], found["QueueArn"]), ("45", "arn:aws:sqs:us-east-1:000000000000:forms"))

    body = "a form & its <answer>\r\n☃"
    sent = call(
        "SendMessage",
        path,
        MessageBody=body,
        MessageAttribute__1__Name="n",
        MessageAttribute__1__Value__DataType="Number",
        MessageAttribute__1__Value__StringValue="7",
    )
    attributes = {"n": {"DataType": "Number", "StringValue": "7"}}
    equal(sent.findtext("MD5OfMessageBody"), md5(body))
    equal(sent.findtext("MD5OfMessageAttributes"), md5_of_attributes(attributes))
    asked = {"QueueUrl": url, "AttributeName__1": "All", "MessageAttributeName__1": "All"}
    [message] = call("ReceiveMessage", MaxNumberOfMessages="10", WaitTimeSeconds="5", **asked).findall("Message")
    equal((message.findtext("Body"), message.findtext("MD5OfBody")), (body, md5(body)))
    equal(message.findtext("MessageAttribute/Name"), "n")
    equal(message.findtext("MessageAttribute/Value/StringValue"), "7")
    system = {node.findtext("Name"): node.findtext("Value") for node in message.findall("Attribute")}
    equal(system["ApproximateReceiveCount"], "1")
    receipt = message.findtext("ReceiptHandle")
    call("ChangeMessageVisibility", path, ReceiptHandle=receipt, VisibilityTimeout="60")
    call("DeleteMessage", path, ReceiptHandle=receipt)

    entries = {}
    for n in range(1, 11):
        entries[f"SendMessageBatchRequestEntry.{n}.Id"] = f"e{n}"
        entries[f"SendMessageBatchRequestEntry.{n}.MessageBody"] = f"body {n}" if n != 4 else "\x01"
    sent = call("SendMessageBatch", path, **entries)
    equal(len(sent.findall("SendMessageBatchResultEntry")), 9)
    [failed] = sent.findall("BatchResultErrorEntry")
    equal([failed.findtext(name) for name in ("Id", "Code", "SenderFault")], ["e4", "InvalidMessageContents", "true"])
    got = call("ReceiveMessage", path, MaxNumberOfMessages="10").findall("Message")
    equal([message.findtext("Body") for message in got], [f"body {n}" for n in range(1, 11) if n != 4])
    hides, deletes = {}, {}
    for n, message in enumerate(got, start=1):
        hides[f"ChangeMessageVisibilityBatchRequestEntry.{n}.Id"] = f"h{n}"
        hides[f"ChangeMessageVisibilityBatchRequestEntry.{n}.ReceiptHandle"] = message.findtext("ReceiptHandle")
        hides[f"ChangeMessageVisibilityBatchRequestEntry.{n}.VisibilityTimeout"] = "30"
        deletes[f"DeleteMessageBatchRequestEntry.{n}.Id"] = f"d{n}"
        deletes[f"DeleteMessageBatchRequestEntry.{n}.ReceiptHandle"] = message.findtext("ReceiptHandle")
    done = call("ChangeMessageVisibilityBatch", path, **hides)
    equal(len(done.findall("ChangeMessageVisibilityBatchResultEntry")), 9)
    equal(len(call("DeleteMessageBatch", path, **deletes).findall("DeleteMessageBatchResultEntry")), 9)
    call("PurgeQueue", path)
    call("DeleteQueue", path)

    def refused(action, code, path="/", **parameters):
        status, tree = signed_form({"Action": action, **parameters}, path)
        equal((status, tree.tag, tree.findtext("Error/Code")), (400, "ErrorResponse", code), action)
        equal(tree.findtext("Error/Type"), "Sender")

    refused("GetQueueUrl", "AWS.SimpleQueueService.NonExistentQueue", QueueName="forms")
    refused("SendMessage", "AWS.SimpleQueueService.NonExistentQueue", path, MessageBody="x")
    refused("TagQueue", "MissingParameter", path)
    refused("CreateQueue", "MissingParameter")
    refused("MakeCoffee", "InvalidAction")
    print("the query protocol is as it should be")


def polling():
    sqs = client(max_pool_connections=64, read_timeout=40)
    url = sqs.create_queue(QueueName="quiet")["QueueUrl"]
    began = time.monotonic()
    assert "Messages" not in sqs.receive_message(QueueUrl=url, WaitTimeSeconds=1)
    assert time.monotonic() - began >= 0.9, "a long poll waits"

    results, lock = [], threading.Lock()

    def wait():
        got = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=20).get("Messages", [])
        with lock:
            results.append((time.monotonic(), [message["Body"] for message in got]))

    waiters = [threading.Thread(target=wait) for _ in range(30)]
    for waiter in waiters:
        waiter.start()
    time.sleep(1)  # they are on their way; one that is late finds its message without waiting
    for first in range(0, 30, 10):
        entries = [{"Id": str(n), "MessageBody": str(n)} for n in range(first, first + 10)]
        sqs.send_message_batch(QueueUrl=url, Entries=entries)
    sent_at = time.monotonic()
    for waiter in waiters:
        waiter.join(PATIENCE_S)
    equal(sorted(int(body) for _, bodies in results for body in bodies), list(range(30)), "each message once")
    assert max(moment for moment, _ in results) - sent_at < 10, "they woke long before their 20 s were over"
    print("long polls are as they should be")


def redrive():
    sqs = client()
    dead = sqs.create_queue(QueueName="poison-dlq")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": "2"})
    attributes = {"RedrivePolicy": policy, "VisibilityTimeout": "1"}
    url = sqs.create_queue(QueueName="poison", Attributes=attributes)["QueueUrl"]
    equal(sqs.list_dead_letter_source_queues(QueueUrl=dead)["queueUrls"], [url])
    sqs.send_message(QueueUrl=url, MessageBody="poison")
    for count in ("1", "2"):
        asked = {"WaitTimeSeconds": 10, "AttributeNames": ["ApproximateReceiveCount"]}
        [message] = sqs.receive_message(QueueUrl=url, **asked)["Messages"]
        equal(message["Attributes"]["ApproximateReceiveCount"], count)
    asked = {"WaitTimeSeconds": 20, "AttributeNames": ["All"], "VisibilityTimeout": 0}
    [message] = sqs.receive_message(QueueUrl=dead, **asked)["Messages"]
    equal(message["Body"], "poison")
    equal(message["Attributes"]["DeadLetterQueueSourceArn"], "arn:aws:sqs:us-east-1:000000000000:poison")
    equal(message["Attributes"]["ApproximateReceiveCount"], "3")
    assert "Messages" not in sqs.receive_message(QueueUrl=url)
    count = "ApproximateNumberOfMessages"
    look = lambda: sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=[count])["Attributes"][count] == "1"
    until("the message to be ready on the dead-letter queue", look)


# What the churning client knows: bodies whose send, and whose delete, was acknowledged; and those of calls cut off.
def load(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def save(path, state):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(state, file)


def prepare(path):
    client().create_queue(QueueName="churn", Attributes={"VisibilityTimeout": "2"})
    save(path, {"next": 0, "sent": [], "deleted": [], "unsure": []})


def churn(path):
    sqs = client()  # a kill ends the connection; a machine that is slow must not
    state = load(path)
    unsure = set()
    try:
        url = sqs.get_queue_url(QueueName="churn")["QueueUrl"]
        while True:
            bodies = [str(state["next"] + n) for n in range(10)]
            state["next"] += 10
            unsure = set(bodies)
            sqs.send_message_batch(QueueUrl=url, Entries=[{"Id": body, "MessageBody": body} for body in bodies])
            state["sent"] += bodies
            unsure = set()
            if state["next"] % 50 == 0:
                print("working", flush=True)
            got = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=6).get("Messages", [])
            for message in got:
                if message["Body"] in state["deleted"]:
                    raise AssertionError(f"{message['Body']} came back after its delete was acknowledged")
            if got:
                unsure = {message["Body"] for message in got}
                entries = [{"Id": str(n), "ReceiptHandle": m["ReceiptHandle"]} for n, m in enumerate(got)]
                sqs.delete_message_batch(QueueUrl=url, Entries=entries)
                state["deleted"] += sorted(unsure)
                unsure = set()
    except (BotoCoreError, ClientError) as error:
        print(f"the appliance went away: {error}", flush=True)
    state["unsure"] += sorted(unsure)
    save(path, state)


def account(path):
    sqs = client()
    state = load(path)
    url = sqs.get_queue_url(QueueName="churn")["QueueUrl"]
    left = {}
    names = [f"ApproximateNumberOfMessages{state}" for state in ("", "NotVisible", "Delayed")]
    look = lambda: sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    while any(int(count) for count in look().values()):
        got = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=3).get("Messages", [])
        for message in got:
            assert message["Body"] not in left, f"{message['Body']} is there twice"
            left[message["Body"]] = message
        if got:
            entries = [{"Id": str(n), "ReceiptHandle": m["ReceiptHandle"]} for n, m in enumerate(got)]
            sqs.delete_message_batch(QueueUrl=url, Entries=entries)
    unsure, deleted = set(state["unsure"]), set(state["deleted"])
    expected = set(state["sent"]) - deleted - unsure
    assert len(state["sent"]) > 100 and len(deleted) > 20, "hardly anything was done"
    equal(sorted(expected - left.keys()), [], "acknowledged and lost")
    equal(sorted((left.keys() & deleted) - unsure), [], "deleted and back")
    equal(sorted(left.keys() - set(state["sent"]) - unsure), [], "from nowhere")
    print(f"nothing was lost and nothing came back: {len(state['sent'])} sent, {len(deleted)} deleted, {len(left)} left")


if __name__ == "__main__":
    subjects = [operations, bodies, query, polling, redrive, prepare, churn, account]
    {subject.__name__: subject for subject in subjects}[sys.argv[1]](*sys.argv[2:])
