"""FIFO queues and message groups, as boto3 sees them in both protocols."""

import hashlib
import sys
import time

import sqs_clients
from sqs_both import arn, equal, redrive_policy, refused, until

FIFO = {"FifoQueue": "true", "ContentBasedDeduplication": "true"}


def bodies(messages):
    return [message["Body"] for message in messages]


def receive(sqs, url, **more):
    asked = {"QueueUrl": url, "MaxNumberOfMessages": 10, "MessageSystemAttributeNames": ["All"], **more}
    return sqs.receive_message(**asked).get("Messages", [])


def send(sqs, url, *messages):
    entries = [{"Id": str(n), "MessageGroupId": group, "MessageBody": body} for n, (group, body) in enumerate(messages)]
    answer = sqs.send_message_batch(QueueUrl=url, Entries=entries)
    equal(answer.get("Failed", []), [])
    return answer["Successful"]


def delete(sqs, url, messages):
    entries = [{"Id": str(n), "ReceiptHandle": message["ReceiptHandle"]} for n, message in enumerate(messages)]
    equal(len(sqs.delete_message_batch(QueueUrl=url, Entries=entries)["Successful"]), len(messages))


def order():
    for protocol in ("json", "query"):
        sqs = sqs_clients.client(protocol)
        name = f"{protocol}-line.fifo"
        url = sqs.create_queue(QueueName=name, Attributes=FIFO)["QueueUrl"]
        found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        defaults = {**FIFO, "DeduplicationScope": "queue", "FifoThroughputLimit": "perQueue"}
        equal({key: found[key] for key in defaults}, defaults)

        # Numbers rise; a receive gets as much of one group as there is, then of the next; the groups are locked then.
        sent = send(sqs, url, *[("ab"[n % 2], f"{n}") for n in range(6)])
        numbers = [entry["SequenceNumber"] for entry in sent]
        assert numbers == sorted(numbers) and {len(number) for number in numbers} == {20}, numbers
        got = receive(sqs, url, MaxNumberOfMessages=4)
        equal(bodies(got), ["0", "2", "4", "1"])
        attributes = got[3]["Attributes"]
        found = {key: attributes[key] for key in ("MessageGroupId", "MessageDeduplicationId", "SequenceNumber")}
        digest = hashlib.sha256(b"1").hexdigest()
        equal(found, {"MessageGroupId": "b", "MessageDeduplicationId": digest, "SequenceNumber": numbers[1]})
        equal(receive(sqs, url), [], "both groups are locked")
        delete(sqs, url, got[3:])
        equal(bodies(receive(sqs, url)), ["3", "5"])
        delete(sqs, url, got[:2])
        equal(receive(sqs, url), [], "4 is in flight")
        release = {"QueueUrl": url, "ReceiptHandle": got[2]["ReceiptHandle"]}
        sqs.change_message_visibility(**release, VisibilityTimeout=0)
        refused(sqs, "delete_message", release, "InvalidParameterValue", 400)
        equal(bodies(receive(sqs, url)), ["4"])

        # Sent twice is one message, also when the first was deleted; an id of its own makes another.
        [first] = send(sqs, url, ("c", "same"))
        [again] = send(sqs, url, ("d", "same"))
        equal((first["MessageId"], first["SequenceNumber"]), (again["MessageId"], again["SequenceNumber"]))
        got = receive(sqs, url)
        equal(bodies(got), ["same"])
        delete(sqs, url, got)
        send(sqs, url, ("c", "same"))
        equal(receive(sqs, url), [])
        named = {"QueueUrl": url, "MessageBody": "same", "MessageGroupId": "c", "MessageDeduplicationId": "another"}
        assert sqs.send_message(**named)["MessageId"] != first["MessageId"]
        delete(sqs, url, receive(sqs, url))

        # A receive with a name gets the same again, as long as nobody touched it.
        send(sqs, url, ("e", "e1"), ("e", "e2"))
        named = {"ReceiveRequestAttemptId": "attempt-1", "VisibilityTimeout": 60}
        once, twice = receive(sqs, url, **named), receive(sqs, url, **named)
        receipts = lambda messages: [(message["Body"], message["ReceiptHandle"]) for message in messages]
        equal((len(once), receipts(twice)), (2, receipts(once)))
        delete(sqs, url, once[1:])
        equal(receive(sqs, url, **named), [])

        # Within groups alone.
        scoped = {"DeduplicationScope": "messageGroup", "FifoThroughputLimit": "perMessageGroupId"}
        sqs.set_queue_attributes(QueueUrl=url, Attributes=scoped)
        sent = send(sqs, url, ("f", "scoped"), ("g", "scoped"), ("f", "scoped"))
        equal((sent[0]["MessageId"] == sent[2]["MessageId"], sent[0]["MessageId"] == sent[1]["MessageId"]), (True, False))

        body = {"QueueUrl": url, "MessageBody": "x", "MessageGroupId": "g"}
        for method, parameters, code in [
            ("send_message", {"QueueUrl": url, "MessageBody": "x"}, "MissingParameter"),
            ("send_message", {**body, "DelaySeconds": 1}, "InvalidParameterValue"),
            ("send_message", {**body, "MessageGroupId": "a b"}, "InvalidParameterValue"),
            ("send_message", {**body, "MessageDeduplicationId": "x" * 129}, "InvalidParameterValue"),
            ("receive_message", {"QueueUrl": url, "ReceiveRequestAttemptId": "x" * 129}, "InvalidParameterValue"),
            ("create_queue", {"QueueName": f"{protocol}-bare.fifo"}, "InvalidParameterValue"),
            ("create_queue", {"QueueName": f"{protocol}-bare", "Attributes": {"FifoQueue": "true"}}, "InvalidParameterValue"),
            ("create_queue", {"QueueName": f"{protocol}-bare", "Attributes": FIFO}, "InvalidAttributeName"),
        ]:
            refused(sqs, method, parameters, code, 400)
        sqs.set_queue_attributes(QueueUrl=url, Attributes={"ContentBasedDeduplication": "false"})
        refused(sqs, "send_message", body, "InvalidParameterValue", 400)
    print("order and deduplication are as they should be")


def redrive():
    sqs = sqs_clients.client()
    dead = sqs.create_queue(QueueName="graves.fifo", Attributes=FIFO)["QueueUrl"]
    sqs.create_queue(QueueName="plain")
    policy = {"RedrivePolicy": redrive_policy("plain", 1), **FIFO}
    refused(sqs, "create_queue", {"QueueName": "line.fifo", "Attributes": policy}, "InvalidAttributeValue", 400)
    policy["RedrivePolicy"] = redrive_policy("graves.fifo", 1)
    url = sqs.create_queue(QueueName="line.fifo", Attributes=policy)["QueueUrl"]
    send(sqs, url, *[("ab"[n % 2], f"{n}") for n in range(10)])
    got = receive(sqs, url, VisibilityTimeout=1)
    equal(len(got), 10)
    count = lambda queue: int(
        sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["All"])["Attributes"]["ApproximateNumberOfMessages"])
    until("the messages to be dead letters", lambda: count(dead) == 10)
    got = receive(sqs, dead)
    equal(bodies(got), ["0", "2", "4", "6", "8", "1", "3", "5", "7", "9"], "in order within each group")
    equal(got[0]["Attributes"]["DeadLetterQueueSourceArn"], arn("line.fifo"))
    entries = [{"Id": m["Body"], "ReceiptHandle": m["ReceiptHandle"], "VisibilityTimeout": 0} for m in got]
    sqs.change_message_visibility_batch(QueueUrl=dead, Entries=entries)
    sqs.start_message_move_task(SourceArn=arn("graves.fifo"))
    until("the dead letters to be back", lambda: count(url) == 10)
    equal(bodies(receive(sqs, url)), ["0", "2", "4", "6", "8", "1", "3", "5", "7", "9"])
    print("dead letters keep their order")


def fair():
    sqs = sqs_clients.client()
    url = sqs.create_queue(QueueName="fair")["QueueUrl"]
    for _ in range(20):
        send(sqs, url, *[("noisy", "noise") for _ in range(10)])
    send(sqs, url, ("quiet", "hush"))
    got = receive(sqs, url, MaxNumberOfMessages=2)
    assert "hush" in bodies(got), "a message of a quiet group does not wait for 200 of another"
    [message] = [message for message in got if message["Body"] == "hush"]
    equal(message["Attributes"]["MessageGroupId"], "quiet")
    print("groups have fair shares")


def remember():
    sqs = sqs_clients.client()
    url = sqs.create_queue(QueueName="kept.fifo", Attributes=FIFO)["QueueUrl"]
    sent = send(sqs, url, *[("g", f"{n}") for n in range(5)])
    got = receive(sqs, url, MaxNumberOfMessages=2, VisibilityTimeout=43_200)
    delete(sqs, url, got[:1])
    print(sent[0]["MessageId"], sent[4]["SequenceNumber"], got[1]["ReceiptHandle"])


def remembered(message_id, last, receipt):
    began = time.monotonic()
    sqs = sqs_clients.client()
    url = sqs.get_queue_url(QueueName="kept.fifo")["QueueUrl"]
    [again] = send(sqs, url, ("g", "0"))
    equal(again["MessageId"], message_id, "deleted, and not sent again")
    equal(receive(sqs, url), [], "the group is locked")
    [new] = send(sqs, url, ("g", "5"))
    assert new["SequenceNumber"] > last, (new, last)
    sqs.delete_message(QueueUrl=url, ReceiptHandle=receipt)
    equal(bodies(receive(sqs, url)), ["2", "3", "4", "5"])
    assert time.monotonic() - began < 250, "the five minutes are nearly over: this test says nothing"
    print("a FIFO queue is what it was")


if __name__ == "__main__":
    subjects = [order, redrive, fair, remember, remembered]
    {subject.__name__: subject for subject in subjects}[sys.argv[1]](*sys.argv[2:])
