"""Every operation and every documented error of SQS, in both protocols.

What is expected stands in tables. `operations` ends by asking botocore's model whether an operation was left out, and
`errors` whether a documented error was.
"""

import json
import sys
import time

from botocore.exceptions import ClientError

import sqs_clients

PATIENCE_S = 120
ACCOUNT = "000000000000"
# Documented errors that nothing here answers: no key service is asked, the door's own limits and signatures answer for
# the rest, and receipts have one format. docs/sqs.md says so.
NEVER = {"KmsAccessDenied", "KmsDisabled", "KmsInvalidKeyUsage", "KmsInvalidState", "KmsNotFound", "KmsOptInRequired"}
NEVER |= {"KmsThrottled", "RequestThrottled", "InvalidSecurity", "InvalidIdFormat"}


def equal(found, expected, what=""):
    assert found == expected, f"{what}: found {found!r}, expected {expected!r}"


def until(what, look):
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"waited {PATIENCE_S} s for {what}")


def arn(name):
    return f"arn:aws:sqs:us-east-1:{ACCOUNT}:{name}"


def redrive_policy(to, count):
    return json.dumps({"deadLetterTargetArn": arn(to), "maxReceiveCount": count})


class Recorded:
    """A client that remembers which operations were called."""

    def __init__(self, client):
        self.client, self.called = client, set()
        self.names = {method: name for method, name in client.meta.method_to_api_mapping.items()}

    def __getattr__(self, method):
        self.called.add(self.names[method])
        call = getattr(self.client, method)

        def bare(**parameters):
            answer = call(**parameters)
            answer.pop("ResponseMetadata", None)
            return answer

        return bare


def operations():
    for protocol in ("json", "query"):
        sqs = Recorded(sqs_clients.client(protocol))
        name, dead = f"{protocol}-shots", f"{protocol}-dead"

        # Made, found, listed, described.
        tags = {"studio": "north", "Größe": "3 = a+b"}
        dead_url = sqs.create_queue(QueueName=dead, tags=tags)["QueueUrl"]
        attributes = {"VisibilityTimeout": "45", "RedrivePolicy": redrive_policy(dead, 1)}
        url = sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
        assert url.endswith(f"/{ACCOUNT}/{name}"), url
        equal(sqs.create_queue(QueueName=name, Attributes={"VisibilityTimeout": "45"}), {"QueueUrl": url})
        equal(sqs.get_queue_url(QueueName=name, QueueOwnerAWSAccountId=ACCOUNT), {"QueueUrl": url})
        equal(sqs.list_queues(QueueNamePrefix=f"{protocol}-"), {"QueueUrls": [dead_url, url]})
        page = sqs.list_queues(QueueNamePrefix=f"{protocol}-", MaxResults=1)
        equal(page["QueueUrls"], [dead_url])
        page = sqs.list_queues(QueueNamePrefix=f"{protocol}-", MaxResults=1, NextToken=page["NextToken"])
        equal(page, {"QueueUrls": [url]}, "the last page has no token")
        equal(sqs.list_queues(QueueNamePrefix="nobody-").get("QueueUrls", []), [])

        # Attributes: what is set comes back as it was set.
        policy = json.dumps({"Version": "2012-10-17", "Statement": [
            {"Sid": "own", "Effect": "Allow", "Principal": "*", "Action": "sqs:*", "Resource": arn(name)}]})
        for attribute, value in [
            ("DelaySeconds", "1"),
            ("DelaySeconds", "0"),
            ("MaximumMessageSize", "2048"),
            ("MessageRetentionPeriod", "120"),
            ("ReceiveMessageWaitTimeSeconds", "1"),
            ("ReceiveMessageWaitTimeSeconds", "0"),
            ("VisibilityTimeout", "60"),
            ("Policy", policy),
            ("KmsMasterKeyId", "alias/studio"),
            ("KmsDataKeyReusePeriodSeconds", "6000"),
            ("SqsManagedSseEnabled", "true"),
            ("RedriveAllowPolicy", json.dumps({"redrivePermission": "denyAll"}, separators=(",", ":"))),
            ("backlot.Flow", "open"),
        ]:
            equal(sqs.set_queue_attributes(QueueUrl=url, Attributes={attribute: value}), {})
            found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=[attribute])
            equal(found, {"Attributes": {attribute: value}}, f"{protocol} {attribute}")
        found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        assert "KmsMasterKeyId" not in found, "one kind of encryption at a time"
        equal(json.loads(found["RedrivePolicy"]), {"deadLetterTargetArn": arn(dead), "maxReceiveCount": 1})
        equal({found[f"ApproximateNumberOfMessages{state}"] for state in ("", "NotVisible", "Delayed")}, {"0"})
        assert int(found["CreatedTimestamp"]) <= int(found["LastModifiedTimestamp"])
        for taken_away in ("Policy", "RedriveAllowPolicy"):
            sqs.set_queue_attributes(QueueUrl=url, Attributes={taken_away: ""})
            equal(sqs.get_queue_attributes(QueueUrl=url, AttributeNames=[taken_away]).get("Attributes", {}), {})

        # Tags.
        equal(sqs.list_queue_tags(QueueUrl=dead_url), {"Tags": tags})
        equal(sqs.list_queue_tags(QueueUrl=url).get("Tags", {}), {})
        equal(sqs.tag_queue(QueueUrl=url, Tags={"a": "1", "b": ""}), {})
        sqs.tag_queue(QueueUrl=url, Tags={"a": "2"})
        equal(sqs.list_queue_tags(QueueUrl=url), {"Tags": {"a": "2", "b": ""}})
        equal(sqs.untag_queue(QueueUrl=url, TagKeys=["a", "none"]), {})
        equal(sqs.list_queue_tags(QueueUrl=url), {"Tags": {"b": ""}})

        # Permissions, which are the policy.
        accounts = ["111111111111", "222222222222"]
        equal(sqs.add_permission(QueueUrl=url, Label="send", AWSAccountIds=accounts, Actions=["SendMessage"]), {})
        sqs.add_permission(QueueUrl=url, Label="look", AWSAccountIds=accounts[:1], Actions=["GetQueueUrl", "*"])
        found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["Policy"])["Attributes"]["Policy"]
        roots = [f"arn:aws:iam::{account}:root" for account in accounts]
        equal(json.loads(found), {"Version": "2008-10-17", "Id": f"{arn(name)}/SQSDefaultPolicy", "Statement": [
            {"Sid": "send", "Effect": "Allow", "Principal": {"AWS": roots}, "Action": "SQS:SendMessage",
             "Resource": arn(name)},
            {"Sid": "look", "Effect": "Allow", "Principal": {"AWS": roots[0]}, "Action": ["SQS:GetQueueUrl", "SQS:*"],
             "Resource": arn(name)}]})
        equal(sqs.remove_permission(QueueUrl=url, Label="send"), {})
        sqs.remove_permission(QueueUrl=url, Label="look")
        equal(sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["Policy"]).get("Attributes", {}), {})

        # Messages, one by one and ten at a time. What a message carries comes back as far as it is asked for.
        carried = {
            "Hello": {"DataType": "String", "StringValue": "there ☃"},
            "Help.Me": {"DataType": "Number.int", "StringValue": "7"},
            "raw": {"DataType": "Binary.png", "BinaryValue": bytes(range(256))},
        }
        trace = {"AWSTraceHeader": {"DataType": "String", "StringValue": "Root=1-5759e988-bd862e3fe1be46a994272793"}}
        body = "take <7> & ☃\r\n\t" + "x" * 1000
        message = {"MessageBody": body, "MessageAttributes": carried, "MessageSystemAttributes": trace}
        sent = sqs.send_message(QueueUrl=url, **message)
        for asked, names in [
            ([], []),
            (["All"], ["Hello", "Help.Me", "raw"]),
            ([".*"], ["Hello", "Help.Me", "raw"]),
            (["Hel.*"], ["Hello", "Help.Me"]),
            (["raw", "none"], ["raw"]),
            (["AWS."], []),
        ]:
            [got] = sqs.receive_message(QueueUrl=url, MessageAttributeNames=asked, WaitTimeSeconds=5)["Messages"]
            equal((got["MessageId"], got["Body"]), (sent["MessageId"], body), protocol)
            equal(got.get("MessageAttributes", {}), {name: carried[name] for name in names}, asked)
            equal("MD5OfMessageAttributes" in got, bool(names))
            if len(names) == 3:
                equal(got["MD5OfMessageAttributes"], sent["MD5OfMessageAttributes"])
            release = {"ReceiptHandle": got["ReceiptHandle"], "VisibilityTimeout": 0}
            # The queue dead-letters after one receive; while its attributes are looked at, it has none.
            sqs.set_queue_attributes(QueueUrl=url, Attributes={"RedrivePolicy": ""})
            equal(sqs.change_message_visibility(QueueUrl=url, **release), {})
        every = {"SenderId": "test", "AWSTraceHeader": trace["AWSTraceHeader"]["StringValue"]}
        for older, newer, names in [
            (["All"], [], None),
            ([], ["All"], None),
            (["SenderId"], ["AWSTraceHeader"], {"SenderId", "AWSTraceHeader"}),
            ([], ["ApproximateReceiveCount", "SentTimestamp"], {"ApproximateReceiveCount", "SentTimestamp"}),
            (["DeadLetterQueueSourceArn", "MessageGroupId", "SequenceNumber", "MessageDeduplicationId"], [], set()),
            ([], [], set()),
        ]:
            asked = {"AttributeNames": older, "MessageSystemAttributeNames": newer, "WaitTimeSeconds": 5}
            [got] = sqs.receive_message(QueueUrl=url, **asked)["Messages"]
            found = got.get("Attributes", {})
            if names is None:
                names = set(every) | {"SentTimestamp", "ApproximateReceiveCount", "ApproximateFirstReceiveTimestamp"}
            equal(set(found), names, asked)
            for attribute in set(found) & set(every):
                equal(found[attribute], every[attribute])
            release = {"ReceiptHandle": got["ReceiptHandle"], "VisibilityTimeout": 0}
            sqs.change_message_visibility(QueueUrl=url, **release)
        [got] = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=5)["Messages"]
        equal(sqs.delete_message(QueueUrl=url, ReceiptHandle=got["ReceiptHandle"]), {})
        equal(sqs.delete_message(QueueUrl=url, ReceiptHandle=got["ReceiptHandle"]), {}, "once more")

        entries = [{"Id": str(n), "MessageBody": f"body {n}", "DelaySeconds": 0} for n in range(8)]
        entries[3]["MessageBody"] = "\x00" if protocol == "json" else "\x01"
        entries[4]["MessageAttributes"] = {"AWS.no": {"DataType": "String", "StringValue": "x"}}
        sent = sqs.send_message_batch(QueueUrl=url, Entries=entries)
        equal([entry["Id"] for entry in sent["Successful"]], ["0", "1", "2", "5", "6", "7"])
        equal({(entry["Id"], entry["Code"], entry["SenderFault"]) for entry in sent["Failed"]},
              {("3", "InvalidMessageContents", True), ("4", "InvalidParameterValue", True)})
        got = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=5)["Messages"]
        equal([message["Body"] for message in got], [f"body {n}" for n in (0, 1, 2, 5, 6, 7)])
        entries = [{"Id": str(n), "ReceiptHandle": m["ReceiptHandle"], "VisibilityTimeout": 90} for n, m in enumerate(got)]
        entries[5]["VisibilityTimeout"] = 43_201
        changed = sqs.change_message_visibility_batch(QueueUrl=url, Entries=entries)
        equal((len(changed["Successful"]), changed["Failed"][0]["Code"]), (5, "InvalidParameterValue"))
        entries = [{"Id": str(n), "ReceiptHandle": message["ReceiptHandle"]} for n, message in enumerate(got)]
        entries[0]["ReceiptHandle"] = "nonsense"
        deleted = sqs.delete_message_batch(QueueUrl=url, Entries=entries)
        equal((len(deleted["Successful"]), deleted["Failed"][0]["Code"]), (5, "ReceiptHandleIsInvalid"))

        # Dead letters, and their way back.
        equal(sqs.purge_queue(QueueUrl=url), {})
        sqs.set_queue_attributes(QueueUrl=url, Attributes={"RedrivePolicy": redrive_policy(dead, 1)})
        equal(sqs.list_dead_letter_source_queues(QueueUrl=dead_url, MaxResults=5), {"queueUrls": [url]})
        sqs.send_message(QueueUrl=url, MessageBody="poison")
        [got] = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=5)["Messages"]
        sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=got["ReceiptHandle"], VisibilityTimeout=0)
        asked = {"AttributeNames": ["DeadLetterQueueSourceArn"], "WaitTimeSeconds": 5, "VisibilityTimeout": 0}
        [got] = sqs.receive_message(QueueUrl=dead_url, **asked)["Messages"]
        equal(got["Attributes"], {"DeadLetterQueueSourceArn": arn(name)})
        ready = lambda: sqs.get_queue_attributes(QueueUrl=dead_url, AttributeNames=["All"])["Attributes"]
        until("the dead letter to be ready", lambda: ready()["ApproximateNumberOfMessages"] == "1")
        handle = sqs.start_message_move_task(SourceArn=arn(dead), MaxNumberOfMessagesPerSecond=10)["TaskHandle"]
        tasks = lambda: sqs.list_message_move_tasks(SourceArn=arn(dead), MaxResults=10)["Results"]
        [task] = until("the dead letter to be back", lambda: [t for t in tasks() if t["Status"] == "COMPLETED"])
        started = task.pop("StartedTimestamp")
        assert abs(started / 1000 - time.time()) < 3600, started
        equal(task, {"Status": "COMPLETED", "SourceArn": arn(dead), "MaxNumberOfMessagesPerSecond": 10,
                     "ApproximateNumberOfMessagesMoved": 1, "ApproximateNumberOfMessagesToMove": 1})
        asked = {"AttributeNames": ["ApproximateReceiveCount", "DeadLetterQueueSourceArn"], "WaitTimeSeconds": 5}
        [got] = sqs.receive_message(QueueUrl=url, **asked)["Messages"]
        equal((got["Body"], got["Attributes"]), ("poison", {"ApproximateReceiveCount": "1"}))
        refused(sqs, "cancel_message_move_task", {"TaskHandle": handle}, "InvalidParameterValue", 400)

        fifo(sqs, protocol)

        equal(sqs.delete_queue(QueueUrl=url), {})
        refused(sqs, "get_queue_url", {"QueueName": name}, "AWS.SimpleQueueService.NonExistentQueue", 400)
        left_out = set(sqs_clients.model()["operations"]) - sqs.called
        equal(left_out, set(), f"operations that were not called in {protocol}")
    print("every operation is as it should be in both protocols")


def fifo(sqs, protocol):
    """What FIFO queues have beside: marks of order on the way in and out, attributes, dead letters that keep their group."""
    line, dead = f"{protocol}-line.fifo", f"{protocol}-dead.fifo"
    sqs.create_queue(QueueName=dead, Attributes={"FifoQueue": "true"})
    attributes = {"FifoQueue": "true", "ContentBasedDeduplication": "true", "RedrivePolicy": redrive_policy(dead, 1)}
    url = sqs.create_queue(QueueName=line, Attributes=attributes)["QueueUrl"]
    found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    expected = {"FifoQueue": "true", "ContentBasedDeduplication": "true", "DeduplicationScope": "queue",
                "FifoThroughputLimit": "perQueue"}
    equal({name: found[name] for name in expected}, expected)
    faster = {"DeduplicationScope": "messageGroup", "FifoThroughputLimit": "perMessageGroupId"}
    sqs.set_queue_attributes(QueueUrl=url, Attributes=faster)
    equal(sqs.get_queue_attributes(QueueUrl=url, AttributeNames=list(faster)), {"Attributes": faster})
    first = sqs.send_message(QueueUrl=url, MessageBody="1", MessageGroupId="g", MessageDeduplicationId="one")
    again = sqs.send_message(QueueUrl=url, MessageBody="1", MessageGroupId="g", MessageDeduplicationId="one")
    equal([again[name] for name in ("MessageId", "SequenceNumber")], [first[name] for name in ("MessageId", "SequenceNumber")])
    entries = [{"Id": str(n), "MessageBody": str(n), "MessageGroupId": "g"} for n in (2, 3)]
    numbers = [entry["SequenceNumber"] for entry in sqs.send_message_batch(QueueUrl=url, Entries=entries)["Successful"]]
    assert [first["SequenceNumber"], *numbers] == sorted([first["SequenceNumber"], *numbers]), numbers
    names = ["MessageGroupId", "MessageDeduplicationId", "SequenceNumber"]
    asked = {"MessageSystemAttributeNames": names, "ReceiveRequestAttemptId": "once", "WaitTimeSeconds": 5}
    [got] = sqs.receive_message(QueueUrl=url, **asked)["Messages"]
    expected = {"MessageGroupId": "g", "MessageDeduplicationId": "one", "SequenceNumber": first["SequenceNumber"]}
    equal((got["Body"], got["Attributes"]), ("1", expected))
    [same] = sqs.receive_message(QueueUrl=url, **asked)["Messages"]
    equal(same["ReceiptHandle"], got["ReceiptHandle"], "one attempt, one receive")
    assert "Messages" not in sqs.receive_message(QueueUrl=url), "the group is locked"
    sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=got["ReceiptHandle"], VisibilityTimeout=0)
    refused(sqs, "start_message_move_task", {"SourceArn": arn(dead), "DestinationArn": arn(f"{protocol}-dead")},
            "InvalidParameterValue", 400)
    sqs.start_message_move_task(SourceArn=arn(dead))
    look = lambda: sqs.list_message_move_tasks(SourceArn=arn(dead))["Results"][0]
    task = until("the task to end", lambda: (lambda task: task["Status"] != "RUNNING" and task)(look()))
    equal((task["Status"], task["ApproximateNumberOfMessagesMoved"]), ("COMPLETED", 1))
    bodies = []
    while len(bodies) < 3:
        got = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=5, AttributeNames=["All"])["Messages"]
        bodies += [message["Body"] for message in got]
        equal({message["Attributes"]["MessageGroupId"] for message in got}, {"g"})
        entries = [{"Id": str(n), "ReceiptHandle": message["ReceiptHandle"]} for n, message in enumerate(got)]
        sqs.delete_message_batch(QueueUrl=url, Entries=entries)
    equal(sorted(bodies), ["1", "2", "3"])
    equal(bodies.index("2") < bodies.index("3"), True, "order within the group")


def refused(sqs, method, parameters, code, status):
    try:
        answer = getattr(sqs, method)(**parameters)
    except ClientError as error:
        found = error.response
        what = f"{method} {str(parameters)[:200]}: {found['Error']['Message']}"
        equal((found["Error"]["Code"], found["ResponseMetadata"]["HTTPStatusCode"]), (code, status), what)
        equal(found["Error"]["Type"], "Sender", what)
        return found["Error"]
    raise AssertionError(f"{method} {str(parameters)[:200]} was answered {answer}")


# The codes, as Query says them and as JSON's `x-amzn-query-error` does, with the status of each.
SERVICE = "AWS.SimpleQueueService."
CODES = {
    "BatchEntryIdsNotDistinct": (SERVICE + "BatchEntryIdsNotDistinct", 400),
    "BatchRequestTooLong": (SERVICE + "BatchRequestTooLong", 400),
    "EmptyBatchRequest": (SERVICE + "EmptyBatchRequest", 400),
    "InvalidAddress": ("InvalidAddress", 404),
    "InvalidAttributeName": ("InvalidAttributeName", 400),
    "InvalidAttributeValue": ("InvalidAttributeValue", 400),
    "InvalidBatchEntryId": (SERVICE + "InvalidBatchEntryId", 400),
    "InvalidMessageContents": ("InvalidMessageContents", 400),
    "MessageNotInflight": (SERVICE + "MessageNotInflight", 400),
    "OverLimit": ("OverLimit", 403),
    "PurgeQueueInProgress": (SERVICE + "PurgeQueueInProgress", 403),
    "QueueDeletedRecently": (SERVICE + "QueueDeletedRecently", 400),
    "QueueDoesNotExist": (SERVICE + "NonExistentQueue", 400),
    "QueueNameExists": ("QueueAlreadyExists", 400),
    "ReceiptHandleIsInvalid": ("ReceiptHandleIsInvalid", 400),
    "ResourceNotFoundException": ("ResourceNotFoundException", 404),
    "TooManyEntriesInBatchRequest": (SERVICE + "TooManyEntriesInBatchRequest", 400),
    "UnsupportedOperation": (SERVICE + "UnsupportedOperation", 400),
    # Not in the model, and answered all the same.
    "InvalidParameterValue": ("InvalidParameterValue", 400),
    "MissingParameter": ("MissingParameter", 400),
}


def errors():
    for protocol in ("json", "query"):
        errors_of(protocol)
    print("every error is as it should be in both protocols")


def errors_of(protocol):
    sqs = sqs_clients.client(protocol, parameter_validation=False)
    name = lambda suffix: f"{protocol}-{suffix}"
    make = lambda suffix, **attributes: sqs.create_queue(QueueName=name(suffix), Attributes=attributes)["QueueUrl"]
    url, gone, closed = make("faulty"), make("gone"), make("closed")
    make("denying", RedriveAllowPolicy='{"redrivePermission":"denyAll"}')
    make("dead")
    by_queue = {"redrivePermission": "byQueue", "sourceQueueArns": [arn(name("friend"))]}
    make("choosy", RedriveAllowPolicy=json.dumps(by_queue))
    make("friend", RedrivePolicy=redrive_policy(name("choosy"), 3))
    line = make("queue.fifo", FifoQueue="true")
    make("source", RedrivePolicy=redrive_policy(name("dead"), 3))
    sqs.delete_queue(QueueUrl=gone)
    sqs.set_queue_attributes(QueueUrl=closed, Attributes={"backlot.Flow": "draining"})
    sqs.purge_queue(QueueUrl=closed)
    sqs.send_message(QueueUrl=url, MessageBody="x")
    [got] = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=5, VisibilityTimeout=600)["Messages"]
    receipt = got["ReceiptHandle"]
    sqs.send_message(QueueUrl=url, MessageBody="y")
    [got] = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=5, VisibilityTimeout=600)["Messages"]
    back = {"QueueUrl": url, "ReceiptHandle": got["ReceiptHandle"]}
    sqs.change_message_visibility(**back, VisibilityTimeout=0)
    sqs.add_permission(QueueUrl=url, Label="there", AWSAccountIds=["111111111111"], Actions=["*"])
    for n in range(19):
        sqs.add_permission(QueueUrl=url, Label=f"p{n}", AWSAccountIds=["111111111111"], Actions=["SendMessage"])

    elsewhere = f"http://{name('never')}.queue.localhost/"
    none = f"http://localhost/{ACCOUNT}/{name('never')}"
    body = {"QueueUrl": url, "MessageBody": "x"}
    entry = lambda entry_id, **more: {"Id": entry_id, "MessageBody": "x", **more}
    one = lambda **more: {"QueueUrl": url, "Entries": [{"Id": "a", "ReceiptHandle": receipt, **more}]}
    attribute = lambda **value: {**body, "MessageAttributes": {"n": value}}
    permission = {"QueueUrl": url, "Label": "new", "AWSAccountIds": ["111111111111"], "Actions": ["*"]}
    set_one = lambda attribute, value: {"QueueUrl": url, "Attributes": {attribute: value}}
    half = "x" * 600_000
    table = [
        # A queue that is not there, for every operation that names one.
        *[("QueueDoesNotExist", method, {"QueueUrl": none, **more}) for method, more in [
            ("add_permission", {**permission, "QueueUrl": none}),
            ("change_message_visibility", {"ReceiptHandle": receipt, "VisibilityTimeout": 1}),
            ("change_message_visibility_batch", {"Entries": one(VisibilityTimeout=1)["Entries"]}),
            ("delete_message", {"ReceiptHandle": receipt}),
            ("delete_message_batch", {"Entries": one()["Entries"]}),
            ("delete_queue", {}),
            ("get_queue_attributes", {"AttributeNames": ["All"]}),
            ("list_dead_letter_source_queues", {}),
            ("list_queue_tags", {}),
            ("purge_queue", {}),
            ("receive_message", {}),
            ("remove_permission", {"Label": "a"}),
            ("send_message", {"MessageBody": "x"}),
            ("send_message_batch", {"Entries": [entry("a")]}),
            ("set_queue_attributes", {"Attributes": {"DelaySeconds": "1"}}),
            ("tag_queue", {"Tags": {"a": "b"}}),
            ("untag_queue", {"TagKeys": ["a"]}),
        ]],
        ("QueueDoesNotExist", "get_queue_url", {"QueueName": name("never")}),
        ("QueueDoesNotExist", "send_message", {"QueueUrl": elsewhere, "MessageBody": "x"}),
        ("QueueDoesNotExist", "send_message", {"QueueUrl": gone, "MessageBody": "x"}),
        ("ResourceNotFoundException", "start_message_move_task", {"SourceArn": arn(name("never"))}),
        ("ResourceNotFoundException", "start_message_move_task", {"SourceArn": "nonsense"}),
        ("ResourceNotFoundException", "start_message_move_task",
         {"SourceArn": arn(name("dead")), "DestinationArn": arn(name("never"))}),
        ("ResourceNotFoundException", "list_message_move_tasks", {"SourceArn": arn(name("never"))}),
        # Addresses.
        ("InvalidAddress", "send_message", {"QueueUrl": "http://localhost/", "MessageBody": "x"}),
        ("InvalidAddress", "receive_message", {"QueueUrl": "http://localhost/somewhere/else"}),
        # What is missing.
        ("MissingParameter", "create_queue", {}),
        ("MissingParameter", "get_queue_url", {}),
        ("MissingParameter", "send_message", {"QueueUrl": url}),
        ("MissingParameter", "send_message", {"QueueUrl": url, "MessageBody": ""}),
        ("MissingParameter", "send_message", attribute(StringValue="x")),
        ("MissingParameter", "delete_message", {"QueueUrl": url}),
        ("MissingParameter", "change_message_visibility", {"QueueUrl": url, "ReceiptHandle": receipt}),
        ("MissingParameter", "set_queue_attributes", {"QueueUrl": url}),
        ("MissingParameter", "tag_queue", {"QueueUrl": url}),
        ("MissingParameter", "untag_queue", {"QueueUrl": url}),
        ("MissingParameter", "add_permission", {**permission, "Actions": []}),
        ("MissingParameter", "remove_permission", {"QueueUrl": url}),
        ("MissingParameter", "start_message_move_task", {}),
        ("MissingParameter", "list_message_move_tasks", {}),
        ("MissingParameter", "cancel_message_move_task", {}),
        # Queues and their attributes.
        ("QueueNameExists", "create_queue", {"QueueName": name("faulty"), "Attributes": {"DelaySeconds": "7"}}),
        ("QueueDeletedRecently", "create_queue", {"QueueName": name("gone")}),
        ("PurgeQueueInProgress", "purge_queue", {"QueueUrl": closed}),
        *[("InvalidParameterValue", "create_queue", {"QueueName": bad}) for bad in ("a b", "x" * 81, "ä", "a/b")],
        ("InvalidParameterValue", "create_queue", {"QueueName": name("t"), "tags": {"aws:a": "b"}}),
        ("InvalidParameterValue", "list_queues", {"MaxResults": 0}),
        ("InvalidParameterValue", "list_queues", {"MaxResults": 1001}),
        ("InvalidParameterValue", "list_queues", {"MaxResults": 5, "NextToken": "nonsense"}),
        ("InvalidParameterValue", "get_queue_url", {"QueueName": name("faulty"), "QueueOwnerAWSAccountId": "me"}),
        ("InvalidAttributeName", "set_queue_attributes", set_one("Colour", "red")),
        ("InvalidAttributeName", "set_queue_attributes", set_one("QueueArn", "x")),
        ("InvalidAttributeName", "get_queue_attributes", {"QueueUrl": url, "AttributeNames": ["Colour"]}),
        ("InvalidAttributeName", "receive_message", {"QueueUrl": url, "MessageSystemAttributeNames": ["Colour"]}),
        ("InvalidAttributeName", "set_queue_attributes",
         {"QueueUrl": url, "Attributes": {"SqsManagedSseEnabled": "true", "KmsMasterKeyId": "k"}}),
        *[("InvalidAttributeValue", "set_queue_attributes", set_one(attribute, value)) for attribute, value in [
            ("DelaySeconds", "901"), ("DelaySeconds", "-1"), ("DelaySeconds", "soon"), ("MaximumMessageSize", "1023"),
            ("MaximumMessageSize", "1048577"), ("MessageRetentionPeriod", "59"), ("MessageRetentionPeriod", "1209601"),
            ("ReceiveMessageWaitTimeSeconds", "21"), ("VisibilityTimeout", "43201"), ("Policy", "nonsense"),
            ("Policy", '{"Statement":[]}'), ("RedrivePolicy", "{"), ("RedrivePolicy", redrive_policy(name("dead"), 0)),
            ("RedrivePolicy", redrive_policy(name("faulty"), 3)), ("RedriveAllowPolicy", "{}"),
            ("SqsManagedSseEnabled", "perhaps"), ("KmsDataKeyReusePeriodSeconds", "59"), ("backlot.Flow", "up"),
            ("backlot.JobQueue", "true"),
        ]],
        *[("InvalidParameterValue", "set_queue_attributes", set_one("RedrivePolicy", redrive_policy(name(to), 3)))
          for to in ("never", "denying", "choosy")],
        *[("InvalidParameterValue", "tag_queue", {"QueueUrl": url, "Tags": tags}) for tags in [
            {"": "a"}, {"k" * 129: "a"}, {"k": "v" * 257}, {"k<": "a"}, {f"k{n}": "" for n in range(51)}]],
        # FIFO queues.
        *[("InvalidParameterValue", "create_queue", {"QueueName": bad, "Attributes": attributes})
          for bad, attributes in [("line", {"FifoQueue": "true"}), ("line.fifo", {}), (".fifo", {"FifoQueue": "true"})]],
        ("InvalidAttributeName", "create_queue", {"QueueName": "line", "Attributes": {"ContentBasedDeduplication": "true"}}),
        *[("InvalidAttributeName", "create_queue", {"QueueName": "line", "Attributes": {attribute: value}})
          for attribute, value in [("DeduplicationScope", "queue"), ("FifoThroughputLimit", "perQueue")]],
        ("InvalidAttributeValue", "set_queue_attributes", {"QueueUrl": line, "Attributes": {"FifoQueue": "false"}}),
        ("InvalidAttributeValue", "set_queue_attributes",
         {"QueueUrl": line, "Attributes": {"FifoThroughputLimit": "perMessageGroupId"}}),
        ("InvalidAttributeValue", "set_queue_attributes",
         {"QueueUrl": line, "Attributes": {"RedrivePolicy": redrive_policy(name("dead"), 3)}}),
        ("MissingParameter", "send_message", {"QueueUrl": line, "MessageBody": "x", "MessageDeduplicationId": "d"}),
        ("InvalidParameterValue", "send_message", {"QueueUrl": line, "MessageBody": "x", "MessageGroupId": "g"}),
        ("InvalidParameterValue", "send_message",
         {"QueueUrl": line, "MessageBody": "x", "MessageGroupId": "g", "MessageDeduplicationId": "d", "DelaySeconds": 1}),
        ("InvalidParameterValue", "send_message",
         {"QueueUrl": line, "MessageBody": "x", "MessageGroupId": "a b", "MessageDeduplicationId": "d"}),
        ("InvalidParameterValue", "send_message",
         {"QueueUrl": line, "MessageBody": "x", "MessageGroupId": "g", "MessageDeduplicationId": "d" * 129}),
        ("InvalidParameterValue", "send_message", {**body, "MessageDeduplicationId": "d"}),
        ("InvalidParameterValue", "receive_message", {"QueueUrl": url, "ReceiveRequestAttemptId": "a"}),
        # Permissions.
        ("OverLimit", "add_permission", permission),
        ("InvalidParameterValue", "add_permission", {**permission, "Label": "there"}),
        ("InvalidParameterValue", "add_permission", {**permission, "Label": "a b"}),
        ("InvalidParameterValue", "add_permission", {**permission, "Actions": ["CreateQueue"]}),
        ("InvalidParameterValue", "add_permission", {**permission, "AWSAccountIds": ["me"]}),
        ("InvalidParameterValue", "remove_permission", {"QueueUrl": url, "Label": "none"}),
        # Messages.
        ("UnsupportedOperation", "send_message", {"QueueUrl": closed, "MessageBody": "x"}),
        ("InvalidMessageContents", "send_message", {**body, "MessageBody": "\x01"}),
        ("InvalidParameterValue", "send_message", {**body, "MessageBody": "x" * 1_048_577}),
        ("InvalidParameterValue", "send_message", {**body, "DelaySeconds": 901}),
        ("InvalidParameterValue", "send_message", {**body, "DelaySeconds": -1}),
        *[("InvalidParameterValue", "send_message", attribute(**value)) for value in [
            {"DataType": "String"}, {"DataType": "String", "StringValue": ""}, {"DataType": "Colour", "StringValue": "r"},
            {"DataType": "Number", "StringValue": "x"}, {"DataType": "Binary", "StringValue": "x"},
        ]],
        ("InvalidParameterValue", "send_message", {**body, "MessageAttributes":
         {f"n{n}": {"DataType": "String", "StringValue": "x"} for n in range(11)}}),
        ("InvalidParameterValue", "send_message", {**body, "MessageSystemAttributes":
         {"Colour": {"DataType": "String", "StringValue": "x"}}}),
        *[("InvalidParameterValue", "receive_message", {"QueueUrl": url, **asked}) for asked in [
            {"MaxNumberOfMessages": 0}, {"MaxNumberOfMessages": 11}, {"WaitTimeSeconds": -1}, {"WaitTimeSeconds": 21},
            {"VisibilityTimeout": -1}, {"VisibilityTimeout": 43_201},
        ]],
        ("ReceiptHandleIsInvalid", "delete_message", {"QueueUrl": url, "ReceiptHandle": "nonsense"}),
        ("ReceiptHandleIsInvalid", "change_message_visibility",
         {"QueueUrl": url, "ReceiptHandle": "nonsense", "VisibilityTimeout": 1}),
        ("ReceiptHandleIsInvalid", "delete_message", {"QueueUrl": closed, "ReceiptHandle": receipt}),
        ("InvalidParameterValue", "change_message_visibility",
         {"QueueUrl": url, "ReceiptHandle": receipt, "VisibilityTimeout": 43_201}),
        ("MessageNotInflight", "change_message_visibility", {**back, "VisibilityTimeout": 5}),
        # Batches, in each of the three operations.
        *[(code, method, {"QueueUrl": url, "Entries": entries(more)})
          for method, more in [("send_message_batch", {"MessageBody": "x"}),
                               ("delete_message_batch", {"ReceiptHandle": receipt}),
                               ("change_message_visibility_batch", {"ReceiptHandle": receipt, "VisibilityTimeout": 1})]
          for code, entries in [
              ("EmptyBatchRequest", lambda more: []),
              ("TooManyEntriesInBatchRequest", lambda more: [{"Id": str(n), **more} for n in range(11)]),
              ("BatchEntryIdsNotDistinct", lambda more: [{"Id": "a", **more}, {"Id": "a", **more}]),
              ("InvalidBatchEntryId", lambda more: [{"Id": "a b", **more}]),
              ("InvalidBatchEntryId", lambda more: [{"Id": "x" * 81, **more}]),
          ]],
        ("BatchRequestTooLong", "send_message_batch",
         {"QueueUrl": url, "Entries": [entry("a", MessageBody=half), entry("b", MessageBody=half)]}),
        # Move tasks.
        ("InvalidParameterValue", "start_message_move_task", {"SourceArn": arn(name("faulty"))}),
        ("InvalidParameterValue", "start_message_move_task",
         {"SourceArn": arn(name("dead")), "DestinationArn": arn(name("dead"))}),
        *[("InvalidParameterValue", "start_message_move_task",
           {"SourceArn": arn(name("dead")), "MaxNumberOfMessagesPerSecond": rate}) for rate in (0, 501)],
        *[("InvalidParameterValue", "list_message_move_tasks",
           {"SourceArn": arn(name("dead")), "MaxResults": count}) for count in (0, 11)],
        ("InvalidParameterValue", "cancel_message_move_task", {"TaskHandle": "foo"}),
    ]
    seen = set()
    for error, method, parameters in table:
        refused(sqs, method, parameters, *CODES[error])
        seen.add(error)
    documented = {error["shape"] for operation in sqs_clients.model()["operations"].values()
                  for error in operation.get("errors", [])}
    equal(documented - seen, NEVER, f"documented errors that were not seen in {protocol}")


if __name__ == "__main__":
    {subject.__name__: subject for subject in [operations, errors]}[sys.argv[1]](*sys.argv[2:])
