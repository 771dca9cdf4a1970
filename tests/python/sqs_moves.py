"""Move tasks, flow and addresses of queues, as an operator and a studio's code meet them."""

import sys
import threading
import time

import sqs_clients
from sqs_both import SERVICE, arn, equal, redrive_policy, refused, until


def ready(sqs, url):
    names = ["ApproximateNumberOfMessages"]
    return int(sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"][names[0]])


def dead_letters(sqs, source, dead, count):
    """Queues `source` and `dead`, and `count` messages that went from the first to the second."""
    dead_url = sqs.create_queue(QueueName=dead)["QueueUrl"]
    url = sqs.create_queue(QueueName=source, Attributes={"RedrivePolicy": redrive_policy(dead, 1)})["QueueUrl"]
    for n in range(0, count, 10):
        entries = [{"Id": str(n), "MessageBody": f"{source} {n}"} for n in range(n, min(n + 10, count))]
        sqs.send_message_batch(QueueUrl=url, Entries=entries)
    fail(sqs, url, count)
    return url, dead_url


def fail(sqs, url, count):
    while count > 0:
        got = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=5)["Messages"]
        entries = [{"Id": str(n), "ReceiptHandle": m["ReceiptHandle"], "VisibilityTimeout": 0} for n, m in enumerate(got)]
        sqs.change_message_visibility_batch(QueueUrl=url, Entries=entries)
        count -= len(got)


def newest(sqs, dead):
    return sqs.list_message_move_tasks(SourceArn=arn(dead))["Results"][0]


def ended(sqs, dead):
    return until(f"the task of {dead} to end", lambda: (lambda t: t["Status"] != "RUNNING" and t)(newest(sqs, dead)))


def moves():
    sqs = sqs_clients.client()
    # Each message goes back to the queue it came from.
    first, dead = dead_letters(sqs, "first", "graves", 25)
    second, _ = dead_letters(sqs, "second", "graves", 3)
    sqs.start_message_move_task(SourceArn=arn("graves"))
    task = ended(sqs, "graves")
    moved = {name: task[f"ApproximateNumberOfMessages{name}"] for name in ("Moved", "ToMove")}
    equal((task["Status"], moved), ("COMPLETED", {"Moved": 28, "ToMove": 28}))
    assert "TaskHandle" not in task and "DestinationArn" not in task, task
    equal((ready(sqs, first), ready(sqs, second), ready(sqs, dead)), (25, 3, 0))

    # To another queue, slowly; one task of a queue at a time; cancelled in between.
    fail(sqs, first, 25)
    other = sqs.create_queue(QueueName="other")["QueueUrl"]
    start = {"SourceArn": arn("graves"), "DestinationArn": arn("other"), "MaxNumberOfMessagesPerSecond": 2}
    began = time.monotonic()
    handle = sqs.start_message_move_task(**start)["TaskHandle"]
    refused(sqs, "start_message_move_task", start, "InvalidParameterValue", 400)
    task = newest(sqs, "graves")
    equal((task["Status"], task["TaskHandle"], task["DestinationArn"]), ("RUNNING", handle, arn("other")))
    until("some to be moved", lambda: ready(sqs, other) >= 4)
    assert time.monotonic() - began > 1.2, "four messages at two a second, the first at once"
    moved = sqs.cancel_message_move_task(TaskHandle=handle)["ApproximateNumberOfMessagesMoved"]
    assert 4 <= moved < 25, moved
    task = newest(sqs, "graves")
    equal((task["Status"], task["ApproximateNumberOfMessagesMoved"]), ("CANCELLED", moved))
    equal((ready(sqs, other), ready(sqs, dead)), (moved, 25 - moved))
    listed = sqs.list_message_move_tasks(SourceArn=arn("graves"), MaxResults=10)["Results"]
    equal([task["Status"] for task in listed], ["CANCELLED", "COMPLETED"], "the newest first")

    # What came from nowhere has nowhere to go back to, and says so; with a destination it goes.
    stray = sqs.create_queue(QueueName="stray")["QueueUrl"]
    sqs.create_queue(QueueName="straying", Attributes={"RedrivePolicy": redrive_policy("stray", 1)})
    sqs.send_message(QueueUrl=stray, MessageBody="sent here")
    until("it to be there", lambda: ready(sqs, stray) == 1)
    sqs.start_message_move_task(SourceArn=arn("stray"))
    task = ended(sqs, "stray")
    equal((task["Status"], task["FailureReason"]), ("FAILED", "CouldNotDetermineMessageSource"))
    before = ready(sqs, other)
    sqs.start_message_move_task(SourceArn=arn("stray"), DestinationArn=arn("other"))
    equal(ended(sqs, "stray")["Status"], "COMPLETED")
    equal((ready(sqs, stray), ready(sqs, other)), (0, before + 1))

    # A destination that goes away ends its task.
    left = ready(sqs, dead)
    sqs.start_message_move_task(**start)
    sqs.delete_queue(QueueUrl=other)
    task = ended(sqs, "graves")
    equal((task["Status"], task["FailureReason"]), ("FAILED", SERVICE + "NonExistentQueue"))
    assert ready(sqs, dead) + task["ApproximateNumberOfMessagesMoved"] == left
    print("messages moved as they should")


def halfway():
    """Leaves a slow task running, for a restart in the middle of it."""
    sqs = sqs_clients.client()
    url, dead = dead_letters(sqs, "slow", "slow-dead", 20)
    handle = sqs.start_message_move_task(SourceArn=arn("slow-dead"), MaxNumberOfMessagesPerSecond=2)["TaskHandle"]
    until("some to be back", lambda: ready(sqs, url) >= 3)
    equal(newest(sqs, "slow-dead")["TaskHandle"], handle)
    print("halfway")


def rest():
    """After that restart: the task goes on, and each message is there once."""
    sqs = sqs_clients.client()
    task = ended(sqs, "slow-dead")
    found = [task[name] for name in ("Status", "ApproximateNumberOfMessagesMoved", "ApproximateNumberOfMessagesToMove")]
    equal(found, ["COMPLETED", 20, 20])
    url = sqs.get_queue_url(QueueName="slow")["QueueUrl"]
    bodies = set()
    while len(bodies) < 20:
        got = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=5)["Messages"]
        fresh = {message["Body"] for message in got}
        assert not fresh & bodies, fresh & bodies
        bodies |= fresh
    equal(bodies, {f"slow {n}" for n in range(20)})
    equal(ready(sqs, url), 0)
    print("the rest was moved")


def flow():
    sqs = sqs_clients.client(read_timeout=40)
    url = sqs.create_queue(QueueName="flowing")["QueueUrl"]
    name = "backlot.Flow"
    now = lambda: sqs.get_queue_attributes(QueueUrl=url, AttributeNames=[name])["Attributes"][name]
    turn = lambda flow: sqs.set_queue_attributes(QueueUrl=url, Attributes={name: flow})
    equal(now(), "open")
    sqs.send_message(QueueUrl=url, MessageBody="held")
    [held] = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=5)["Messages"]

    turn("paused")
    equal(now(), "paused")
    sqs.send_message(QueueUrl=url, MessageBody="waits")
    until("it to be ready", lambda: ready(sqs, url) == 1)
    assert "Messages" not in sqs.receive_message(QueueUrl=url, WaitTimeSeconds=1), "a paused queue gives nothing out"
    sqs.delete_message(QueueUrl=url, ReceiptHandle=held["ReceiptHandle"])
    received = []
    poll = lambda: received.extend(sqs.receive_message(QueueUrl=url, WaitTimeSeconds=20).get("Messages", []))
    waiter = threading.Thread(target=poll)
    waiter.start()
    time.sleep(0.3)  # it is on its way; one that is late finds the message without waiting
    began = time.monotonic()
    turn("open")
    waiter.join(30)
    equal([message["Body"] for message in received], ["waits"])
    assert time.monotonic() - began < 10, "a resumed queue wakes who waits for it"

    sqs.send_message(QueueUrl=url, MessageBody="last")
    turn("draining")
    refused(sqs, "send_message", {"QueueUrl": url, "MessageBody": "late"}, SERVICE + "UnsupportedOperation", 400)
    failed = sqs.send_message_batch(QueueUrl=url, Entries=[{"Id": "a", "MessageBody": "late"}])["Failed"]
    equal([entry["Code"] for entry in failed], [SERVICE + "UnsupportedOperation"])
    [last] = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=5)["Messages"]
    equal(last["Body"], "last")
    turn("open")
    sqs.send_message(QueueUrl=url, MessageBody="again")
    print("queues flow as they are told")


def addresses():
    sqs = sqs_clients.client()
    url = sqs.create_queue(QueueName="addressed")["QueueUrl"]
    host = url.split("/")[2]
    for form in [
        url,
        url + "/",
        f"http://{host}/123456789012/addressed",
        "https://sqs.eu-west-1.amazonaws.com/123456789012/addressed",
        "http://backlot.studio.example/000000000000/addressed",
        f"http://{host}/queue/addressed",
        f"http://addressed.queue.{host}/",
    ]:
        for protocol in ("json", "query"):
            client = sqs_clients.client(protocol)
            sent = client.send_message(QueueUrl=form, MessageBody=form)
            [got] = client.receive_message(QueueUrl=form, WaitTimeSeconds=5)["Messages"]
            equal((got["MessageId"], got["Body"]), (sent["MessageId"], form), form)
            client.delete_message(QueueUrl=form, ReceiptHandle=got["ReceiptHandle"])
    equal(sqs.get_queue_url(QueueName="addressed", QueueOwnerAWSAccountId="123456789012")["QueueUrl"], url)
    # A client that knows the appliance by another name is given URLs of that name.
    other = url.replace("127.0.0.1", "localhost")
    named = sqs_clients.client_at(f"http://localhost:{host.split(':')[1]}")
    equal(named.get_queue_url(QueueName="addressed")["QueueUrl"], other)
    equal(named.list_queues(QueueNamePrefix="addressed")["QueueUrls"], [other])
    print("queues are found by every form of their address")


def paging():
    sqs = sqs_clients.client()
    dead = sqs.create_queue(QueueName="pages-dead")["QueueUrl"]
    attributes = {"RedrivePolicy": redrive_policy("pages-dead", 3)}
    made = [sqs.create_queue(QueueName=f"pages-{n:02}", Attributes=attributes)["QueueUrl"] for n in range(7)]
    for method, key, asked in [
        ("list_queues", "QueueUrls", {"QueueNamePrefix": "pages-0"}),
        ("list_dead_letter_source_queues", "queueUrls", {"QueueUrl": dead}),
    ]:
        pages = sqs.get_paginator(method).paginate(**asked, PaginationConfig={"PageSize": 3})
        found = [page.get(key, []) for page in pages]
        equal(([len(page) for page in found], sum(found, [])), ([3, 3, 1], made), method)
        whole = getattr(sqs, method)(**asked)
        equal((whole[key], "NextToken" in whole), (made, False), "without MaxResults there is one page")
    print("listings go on where they ended")


def lose():
    """A plain consumer of the job queue that takes one job and lets go of it."""
    sqs = sqs_clients.client()
    url = sqs.get_queue_url(QueueName="jobs")["QueueUrl"]
    [got] = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=20)["Messages"]
    sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=got["ReceiptHandle"], VisibilityTimeout=1)
    print("lost")


def finish():
    sqs = sqs_clients.client()
    url = sqs.get_queue_url(QueueName="jobs")["QueueUrl"]
    [got] = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=20)["Messages"]
    sqs.delete_message(QueueUrl=url, ReceiptHandle=got["ReceiptHandle"])
    print("finished")


if __name__ == "__main__":
    subjects = [moves, halfway, rest, flow, addresses, paging, lose, finish]
    {subject.__name__: subject for subject in subjects}[sys.argv[1]](*sys.argv[2:])
