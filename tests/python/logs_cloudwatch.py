"""CloudWatch Logs as boto3 and the AWS CLI speak it. Each subject exits with 0 and says so, or shows what was wrong."""

import base64
import gzip
import json
import os
import sys
import time
import urllib.parse
import urllib.request

import boto3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

PATIENCE_S = 120
DAY_MS = 24 * 3600 * 1000


def client(**config):
    config = {"retries": {"max_attempts": 0, "mode": "standard"}, "connect_timeout": 5, **config}
    return boto3.client("logs", config=Config(**config))


def equal(found, expected, what=""):
    assert found == expected, f"{what}: found {found!r}, expected {expected!r}"


def refused(code, words, call, **arguments):
    try:
        answer = call(**arguments)
    except ClientError as error:
        equal(error.response["Error"]["Code"], code, str(error))
        assert words in error.response["Error"]["Message"], error
        return error
    raise AssertionError(f"{arguments} was taken: {answer}")


def until(what, look):
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited {PATIENCE_S} s for {what}")


def now_ms():
    return int(time.time() * 1000)


def put(logs, group, stream, messages, begin_ms=None):
    begin_ms = begin_ms or now_ms()
    events = [{"timestamp": begin_ms + at, "message": message} for at, message in enumerate(messages)]
    return logs.put_log_events(logGroupName=group, logStreamName=stream, logEvents=events)


def messages(answer):
    return [event["message"] for event in answer["events"]]


def all_filtered(logs, **arguments):
    pages = logs.get_paginator("filter_log_events").paginate(**arguments)
    return [event for page in pages for event in page["events"]]


def indexed(logs, group, count):
    """The messages of a group, once there are as many: a reader waits for what was sent before, but not for ever."""

    def all_there():
        found = messages({"events": all_filtered(logs, logGroupName=group)})
        return found if len(found) >= count else None

    return until(f"{count} events of {group}", all_there)


def groups():
    logs = client()
    names = [f"/studio/{name}" for name in ("render", "edit", "sound")]
    for name in names:
        logs.create_log_group(logGroupName=name, tags={"owner": "anna"})
    refused("ResourceAlreadyExistsException", "already exists", logs.create_log_group, logGroupName=names[0])
    refused("InvalidParameterException", "logGroupName", logs.create_log_group, logGroupName="a b")
    refused("InvalidParameterException", "reserved", logs.create_log_group, logGroupName="/backlot/x")
    refused("InvalidParameterException", "keys of their own", logs.create_log_group, logGroupName="k", kmsKeyId="arn:x")
    own = {"logGroupNamePrefix": "/studio/"}
    listed = logs.describe_log_groups(**own)["logGroups"]
    equal([group["logGroupName"] for group in listed], sorted(names))
    arn = "arn:aws:logs:us-east-1:000000000000:log-group:/studio/edit"
    equal((listed[0]["arn"], listed[0]["logGroupArn"]), (arn + ":*", arn))
    assert abs(listed[0]["creationTime"] - now_ms()) < 60_000 and "retentionInDays" not in listed[0]
    pages = logs.get_paginator("describe_log_groups").paginate(**own, PaginationConfig={"PageSize": 1})
    equal([group["logGroupName"] for page in pages for group in page["logGroups"]], sorted(names))
    found = logs.describe_log_groups(logGroupNamePattern="DIT")["logGroups"]
    equal([group["logGroupName"] for group in found], ["/studio/edit"])

    logs.put_retention_policy(logGroupName="/studio/edit", retentionInDays=30)
    equal(logs.describe_log_groups(logGroupNamePrefix="/studio/edit")["logGroups"][0]["retentionInDays"], 30)
    refused(
        "InvalidParameterException", "retentionInDays", logs.put_retention_policy,
        logGroupName="/studio/edit", retentionInDays=31,
    )
    logs.delete_retention_policy(logGroupName="/studio/edit")
    assert "retentionInDays" not in logs.describe_log_groups(logGroupNamePrefix="/studio/edit")["logGroups"][0]
    refused(
        "ResourceNotFoundException", "log group does not exist", logs.put_retention_policy,
        logGroupName="none", retentionInDays=1,
    )

    logs.tag_resource(resourceArn=arn, tags={"film": "7", "owner": "ben"})
    equal(logs.list_tags_for_resource(resourceArn=arn)["tags"], {"film": "7", "owner": "ben"})
    logs.untag_resource(resourceArn=arn, tagKeys=["owner", "none"])
    logs.tag_log_group(logGroupName="/studio/edit", tags={"a": "b"})
    logs.untag_log_group(logGroupName="/studio/edit", tags=["film"])
    equal(logs.list_tags_log_group(logGroupName="/studio/edit")["tags"], {"a": "b"})
    refused("InvalidParameterException", "reserved", logs.tag_resource, resourceArn=arn, tags={"aws:x": "y"})
    refused(
        "TooManyTagsException", "50", logs.tag_resource, resourceArn=arn, tags={f"k{at}": "v" for at in range(50)}
    )

    for stream in ("b", "a", "c"):
        logs.create_log_stream(logGroupName="/studio/edit", logStreamName=stream)
    refused(
        "ResourceAlreadyExistsException", "log stream already", logs.create_log_stream,
        logGroupName="/studio/edit", logStreamName="a",
    )
    refused(
        "ResourceNotFoundException", "log group", logs.create_log_stream, logGroupName="none", logStreamName="a"
    )
    begin_ms = now_ms()
    for at, stream in enumerate(("c", "a")):
        put(logs, "/studio/edit", stream, ["one", "two"], begin_ms + at * 10)
    listed = logs.describe_log_streams(logGroupName="/studio/edit")["logStreams"]
    equal([stream["logStreamName"] for stream in listed], ["a", "b", "c"])
    a = listed[0]
    equal((a["firstEventTimestamp"], a["lastEventTimestamp"]), (begin_ms + 10, begin_ms + 11))
    assert a["lastIngestionTime"] >= begin_ms and a["arn"].endswith(":log-group:/studio/edit:log-stream:a")
    assert "firstEventTimestamp" not in listed[1]
    pages = logs.get_paginator("describe_log_streams").paginate(
        logGroupIdentifier=arn, orderBy="LastEventTime", descending=True, PaginationConfig={"PageSize": 2}
    )
    equal([stream["logStreamName"] for page in pages for stream in page["logStreams"]], ["a", "c", "b"])
    found = logs.describe_log_streams(logGroupName="/studio/edit", logStreamNamePrefix="b")["logStreams"]
    equal([stream["logStreamName"] for stream in found], ["b"])
    refused(
        "InvalidParameterException", "LastEventTime", logs.describe_log_streams,
        logGroupName="/studio/edit", logStreamNamePrefix="b", orderBy="LastEventTime",
    )

    # What is deleted is not read any more, by its old name neither.
    logs.delete_log_stream(logGroupName="/studio/edit", logStreamName="a")
    refused(
        "ResourceNotFoundException", "log stream", logs.get_log_events,
        logGroupName="/studio/edit", logStreamName="a",
    )
    logs.create_log_stream(logGroupName="/studio/edit", logStreamName="a")
    equal(messages(logs.get_log_events(logGroupName="/studio/edit", logStreamName="a")), [])
    equal(messages(logs.filter_log_events(logGroupName="/studio/edit")), ["one", "two"])
    logs.delete_log_group(logGroupName="/studio/edit")
    refused("ResourceNotFoundException", "log group", logs.filter_log_events, logGroupName="/studio/edit")
    refused("ResourceNotFoundException", "log group", logs.delete_log_group, logGroupName="/studio/edit")
    logs.create_log_group(logGroupName="/studio/edit")
    equal(messages(logs.filter_log_events(logGroupName="/studio/edit")), [])
    equal(logs.describe_log_streams(logGroupName="/studio/edit")["logStreams"], [])
    equal(logs.list_tags_for_resource(resourceArn=arn).get("tags"), {})
    refused("UnknownOperationException", "PutMetricFilter", logs.put_metric_filter,
            logGroupName="/studio/edit", filterName="f", filterPattern="", metricTransformations=[
                {"metricName": "m", "metricNamespace": "n", "metricValue": "1"}])


def bounds():
    logs = client(parameter_validation=False)
    logs.create_log_group(logGroupName="g")
    logs.create_log_stream(logGroupName="g", logStreamName="s")

    def send(events):
        return logs.put_log_events(logGroupName="g", logStreamName="s", logEvents=events)

    now = now_ms()
    refused("InvalidParameterException", "less than or equal to 10000", send,
            events=[{"timestamp": now, "message": "x"}] * 10_001)
    refused("InvalidParameterException", "chronological order", send,
            events=[{"timestamp": now, "message": "x"}, {"timestamp": now - 1, "message": "y"}])
    refused("InvalidParameterException", "24 hours", send,
            events=[{"timestamp": now - DAY_MS - 1, "message": "x"}, {"timestamp": now, "message": "y"}])
    refused("InvalidParameterException", "Upload too large: 1048577 bytes", send,
            events=[{"timestamp": now, "message": "x" * (1_048_576 - 25)}])
    refused("InvalidParameterException", "greater than or equal to 1", send, events=[])
    refused("InvalidParameterException", "greater than or equal to 1", send, events=[{"timestamp": now, "message": ""}])
    refused("InvalidParameterException", "null", send, events=[{"message": "x"}])
    refused("ResourceNotFoundException", "log stream", logs.put_log_events, logGroupName="g", logStreamName="none",
            logEvents=[{"timestamp": now, "message": "x"}])
    refused("ResourceNotFoundException", "log group", logs.put_log_events, logGroupName="none", logStreamName="s",
            logEvents=[{"timestamp": now, "message": "x"}])
    refused("SerializationException", "cannot be read", send,
            events=[{"timestamp": "x", "message": "y"}])

    answer = send([{"timestamp": now - 15 * DAY_MS, "message": "old"}, {"timestamp": now - 15 * DAY_MS, "message": "old"}])
    equal(answer["rejectedLogEventsInfo"], {"tooOldLogEventEndIndex": 2})
    answer = send([{"timestamp": now, "message": "good"}, {"timestamp": now + 3 * 3600 * 1000, "message": "new"}])
    equal(answer["rejectedLogEventsInfo"], {"tooNewLogEventStartIndex": 1})
    assert answer["nextSequenceToken"]
    logs.put_retention_policy(logGroupName="g", retentionInDays=1)
    answer = send([{"timestamp": now - 2 * DAY_MS, "message": "expired"}])
    equal(answer["rejectedLogEventsInfo"], {"expiredLogEventEndIndex": 1})
    longest = "y" * (1_048_576 - 26)
    answer = logs.put_log_events(
        logGroupName="g", logStreamName="s", sequenceToken="whatever",
        logEvents=[{"timestamp": now, "message": longest}],
    )
    assert "rejectedLogEventsInfo" not in answer
    # Ten thousand at once, in their order.
    send([{"timestamp": now, "message": f"line {at}"} for at in range(10_000)])
    found = indexed(logs, "g", 10_002)
    equal([message[:4] for message in found[:2]], ["good", longest[:4]], "the first ones")
    assert found[1] == longest and found[2:] == [f"line {at}" for at in range(10_000)], "the many"

    # Retention hides what was taken before it was set.
    logs.create_log_group(logGroupName="kept")
    logs.create_log_stream(logGroupName="kept", logStreamName="s")
    put(logs, "kept", "s", ["three days old"], now - 3 * DAY_MS)
    put(logs, "kept", "s", ["fresh"], now)
    equal(messages(logs.filter_log_events(logGroupName="kept")), ["three days old", "fresh"])
    logs.put_retention_policy(logGroupName="kept", retentionInDays=1)
    equal(messages(logs.filter_log_events(logGroupName="kept")), ["fresh"])
    equal(messages(logs.get_log_events(logGroupName="kept", logStreamName="s", startFromHead=True)), ["fresh"])

    # The CloudWatch agent packs what it sends.
    body = gzip.compress(json.dumps({
        "logGroupName": "kept", "logStreamName": "s", "logEvents": [{"timestamp": now, "message": "packed"}],
    }).encode())
    headers = {
        "Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "Logs_20140328.PutLogEvents",
        "Content-Encoding": "gzip",
    }
    request = AWSRequest("POST", os.environ["AWS_ENDPOINT_URL"] + "/", data=body, headers=headers)
    SigV4Auth(Credentials("test", "test"), "logs", "us-east-1").add_auth(request)
    urllib.request.urlopen(urllib.request.Request(request.url, body, dict(request.headers), method="POST")).read()
    equal(messages(logs.filter_log_events(logGroupName="kept")), ["fresh", "packed"])


def events():
    logs = client()
    logs.create_log_group(logGroupName="/studio/render")
    for stream in ("gpu-1", "gpu-2", "gpu-10"):
        logs.create_log_stream(logGroupName="/studio/render", logStreamName=stream)
    begin = now_ms() - 60_000
    one = [f"one {at}" for at in range(25)]
    put(logs, "/studio/render", "gpu-1", one, begin)
    put(logs, "/studio/render", "gpu-2", [f"two {at}" for at in range(25)], begin)
    # A line stays as it was sent, though the store takes it apart.
    odd = ['{ "level": "error", "msg": "out of memory",\t"b": 1.50, "a": {"c": [1, 2]} }', "  spaces  ", "ünï\n\ttwo lines",
           '{"message": "x", "timestamp": 1}', "[1, 2]", '{"broken": ']
    put(logs, "/studio/render", "gpu-10", odd, begin)
    own = {"logGroupName": "/studio/render", "logStreamName": "gpu-10"}
    equal(messages(logs.get_log_events(**own, startFromHead=True)), odd)
    event = logs.get_log_events(**own)["events"][0]
    equal(event["timestamp"], begin)
    assert abs(event["ingestionTime"] - now_ms()) < 60_000, event

    own = {"logGroupName": "/studio/render", "logStreamName": "gpu-1"}
    # Forward to the end, where the token stays the same.
    found, token = [], None
    while True:
        page = logs.get_log_events(**own, startFromHead=True, limit=10, **({"nextToken": token} if token else {}))
        found += messages(page)
        if page["nextForwardToken"] == token:
            break
        token = page["nextForwardToken"]
    equal(found, one)
    equal(messages(logs.get_log_events(**own, nextToken=token)), [])
    put(logs, "/studio/render", "gpu-1", ["later"], begin + 1000)
    equal(messages(logs.get_log_events(**own, nextToken=token, startFromHead=True)), ["later"])
    # And from the end backward.
    found, token = [], None
    while True:
        page = logs.get_log_events(**own, limit=10, **({"nextToken": token} if token else {}))
        found = messages(page) + found
        if page["nextBackwardToken"] == token:
            break
        token = page["nextBackwardToken"]
    equal(found, one + ["later"])
    found = logs.get_log_events(**own, startTime=begin + 3, endTime=begin + 5, startFromHead=True)
    equal(messages(found), ["one 3", "one 4"], "the end is not included")
    found = logs.filter_log_events(logGroupName="/studio/render", startTime=begin + 3, endTime=begin + 4,
                                   logStreamNames=["gpu-1", "gpu-2"])
    equal(sorted(messages(found)), ["one 3", "one 4", "two 3", "two 4"], "the end is included")
    refused("InvalidParameterException", "nextToken", logs.get_log_events, **own, nextToken="f/1/s")
    refused("ResourceNotFoundException", "log stream", logs.get_log_events,
            logGroupName="/studio/render", logStreamName="none")
    refused("ResourceNotFoundException", "log stream", logs.filter_log_events,
            logGroupName="/studio/render", logStreamNames=["none"])
    refused("InvalidParameterException", "exclusive", logs.filter_log_events,
            logGroupName="/studio/render", logStreamNames=["gpu-1"], logStreamNamePrefix="gpu")

    found = all_filtered(logs, logGroupName="/studio/render", PaginationConfig={"PageSize": 7}, interleaved=True)
    equal(len(found), 25 + 25 + 6 + 1)
    equal([event["timestamp"] for event in found], sorted(event["timestamp"] for event in found))
    equal(len({event["eventId"] for event in found}), len(found), "ids")
    equal({event["logStreamName"] for event in found}, {"gpu-1", "gpu-2", "gpu-10"})
    prefixed = all_filtered(logs, logGroupName="/studio/render", logStreamNamePrefix="gpu-1")
    equal({event["logStreamName"] for event in prefixed}, {"gpu-1", "gpu-10"})
    newest = logs.filter_log_events(logGroupName="/studio/render", limit=1, startFromHead=False)
    equal(messages(newest), ["later"])


def patterns():
    logs = client()
    logs.create_log_group(logGroupName="app")
    logs.create_log_stream(logGroupName="app", logStreamName="s")
    lines = [
        "[ERROR 400] BAD REQUEST",
        "[WARN] slow disk",
        json.dumps({"level": "error", "msg": "out of memory", "gpu": {"index": 3}, "tags": ["a", "b"]}),
        json.dumps({"level": "info", "msg": "loaded", "took_s": 2.5}),
        '127.0.0.1 - anna [10/Oct/2026:13:55:36] "GET /shot.png" 404 1534',
        "plain text about memory",
    ]
    put(logs, "app", "s", lines)
    for pattern, expected in [
        ("", [0, 1, 2, 3, 4, 5]),
        ("memory", [2, 5]),
        ("memory -plain", [2]),
        ('"level"', [2, 3]),
        ("?ERROR ?WARN", [0, 1]),
        ('"BAD REQUEST"', [0]),
        ("%[WE][A-Z]+%", [0, 1, 4]),
        ('{ $.level = "error" }', [2]),
        ("{ $.gpu.index >= 3 }", [2]),
        ("{ $.took_s > 2 || $.tags[1] = b }", [2, 3]),
        ("{ $.took_s NOT EXISTS && $.level EXISTS }", [2]),
        ("[ip, id, user, time, request, status = 4*, size > 1000]", [4]),
        ("[..., size > 9000]", []),
        ("nothing of the kind", []),
    ]:
        found = all_filtered(logs, logGroupName="app", filterPattern=pattern)
        equal(messages({"events": found}), [lines[at] for at in expected], pattern)
    for pattern in ["{ $.a", '"open', "%(%", "[a b]"]:
        refused("InvalidParameterException", "Invalid filter pattern", logs.filter_log_events,
                logGroupName="app", filterPattern=pattern)


def tail():
    """As `aws logs tail --follow` of the CLI's second version does: FilterLogEvents from the newest moment that was seen,
    leaving out what was shown already."""
    logs = client()
    logs.create_log_group(logGroupName="app")
    logs.create_log_stream(logGroupName="app", logStreamName="s")
    put(logs, "app", "s", ["too early"], now_ms() - 3_600_000)
    shown, newest, ids = [], now_ms() - 600_000, set()
    sent = []

    def follow():
        nonlocal newest, ids
        arguments = {"logGroupName": "app", "interleaved": True, "startTime": newest, "filterPattern": "-noise"}
        while True:
            page = logs.filter_log_events(**arguments)
            for event in page["events"]:
                if event["timestamp"] == newest and event["eventId"] in ids:
                    continue
                if event["timestamp"] > newest:
                    newest, ids = event["timestamp"], set()
                ids.add(event["eventId"])
                shown.append(event["message"])
            if "nextToken" not in page:
                return
            arguments["nextToken"] = page["nextToken"]

    for number in range(20):
        # Always the same moment: it is the ids that tell them apart.
        begin = newest if number else now_ms()
        put(logs, "app", "s", [f"line {number}", f"noise {number}"], begin)
        sent.append(f"line {number}")
        follow()
        equal(shown, sent, "shown at once")
    follow()
    equal(shown, sent)


def http_json(path):
    key = base64.b64encode(b"test:test").decode()
    request = urllib.request.Request(os.environ["BACKLOT_ENDPOINT"] + path, headers={"Authorization": f"Basic {key}"})
    return json.load(urllib.request.urlopen(request))


def others():
    logs = client()
    logs.create_log_group(logGroupName="/studio/render")
    logs.create_log_stream(logGroupName="/studio/render", logStreamName="gpu-7")
    put(logs, "/studio/render", "gpu-7", ['{"level": "error", "msg": "lost a frame", "frame": 12}'])
    # By the native search: parsed, under OpenTelemetry's names, and found by the words of the group.
    for query in ("level:error frame:12", 'aws.log.group.names:"/studio/render" lost', 'service:"/studio/render"'):
        found = http_json("/v1/logs?" + urllib.parse.urlencode({"query": query}))["records"]
        equal([record["body"] for record in found], ["lost a frame"], query)
    equal(found[0]["resource"]["aws.log.stream.names"], ["gpu-7"])

    key = base64.b64encode(b"test:test").decode()
    lines = '{"level":"warn","msg":"slow disk","took_s":3}\nplain\n'
    for host in ("gpu-1", "gpu-2"):
        urllib.request.urlopen(urllib.request.Request(
            os.environ["BACKLOT_ENDPOINT"] + f"/v1/logs?service.name=model+server&host.name={host}",
            lines.encode(), {"Authorization": f"Basic {key}"},
        )).read()
    group = "/backlot/model_server"
    named = [found["logGroupName"] for found in logs.describe_log_groups(logGroupNamePrefix="/backlot/m")["logGroups"]]
    equal(named, [group])
    streams = logs.describe_log_streams(logGroupName=group)["logStreams"]
    equal([stream["logStreamName"] for stream in streams], ["gpu-1", "gpu-2"])
    assert streams[0]["lastEventTimestamp"] >= streams[0]["firstEventTimestamp"] > 0
    equal(sorted(messages(logs.filter_log_events(logGroupName=group))), ["plain", "plain", "slow disk", "slow disk"])
    equal(messages(logs.filter_log_events(logGroupName=group, filterPattern='{ $.level = "warn" && $.took_s = 3 }')),
          ["slow disk", "slow disk"])
    equal(sorted(messages(logs.get_log_events(logGroupName=group, logStreamName="gpu-2"))), ["plain", "slow disk"])
    refused("ResourceNotFoundException", "log group", logs.filter_log_events, logGroupName="/backlot/none")
    refused("ResourceNotFoundException", "log group", logs.put_log_events, logGroupName=group, logStreamName="gpu-1",
            logEvents=[{"timestamp": now_ms(), "message": "x"}])


def lasting(step):
    logs = client()
    own = {"logGroupName": "/studio/render", "logStreamName": "gpu-7"}
    if step == "make":
        logs.create_log_group(logGroupName="/studio/render", tags={"film": "7"})
        logs.put_retention_policy(logGroupName="/studio/render", retentionInDays=14)
        logs.create_log_stream(**own)
        put(logs, "/studio/render", "gpu-7", ["of a stream that was deleted"])
        logs.delete_log_stream(**own)
        logs.create_log_stream(**own)
        logs.create_log_group(logGroupName="gone")
        logs.delete_log_group(logGroupName="gone")
        for at in range(20):
            put(logs, "/studio/render", "gpu-7", [f"line {at}"])
    named = logs.describe_log_groups(logGroupNamePrefix="/studio/")["logGroups"]
    equal([(group["logGroupName"], group["retentionInDays"]) for group in named], [("/studio/render", 14)])
    equal(logs.list_tags_log_group(logGroupName="/studio/render")["tags"], {"film": "7"})
    equal(messages(logs.get_log_events(**own, startFromHead=True)), [f"line {at}" for at in range(20)])
    stream = logs.describe_log_streams(logGroupName="/studio/render")["logStreams"][0]
    assert stream["lastEventTimestamp"] >= stream["firstEventTimestamp"] > 0, stream
    refused("ResourceNotFoundException", "log group", logs.filter_log_events, logGroupName="gone")


def ask(logs, query, groups=("app",), **arguments):
    """Starts a query and waits for its rows, as scripts do."""
    span = {"startTime": int(time.time()) - 3600, "endTime": int(time.time()) + 60}
    started = logs.start_query(logGroupNames=list(groups), queryString=query, **{**span, **arguments})

    def ended():
        told = logs.get_query_results(queryId=started["queryId"])
        return told if told["status"] not in ("Scheduled", "Running") else None

    told = until("the query's end", ended)
    equal(told["status"], "Complete", query)
    rows = [{cell["field"]: cell["value"] for cell in row} for row in told["results"]]
    return rows, told


def insights():
    logs = client()
    begin = now_ms() - 600_000
    for group in ("app", "web"):
        logs.create_log_group(logGroupName=group)
        logs.create_log_stream(logGroupName=group, logStreamName="s1")
    lines = [
        json.dumps({"level": "error" if at % 10 == 0 else "info", "took_ms": at, "user": {"name": f"u{at % 3}"},
                    "msg": f"frame {at} made"})
        for at in range(1500)
    ]
    put(logs, "app", "s1", lines, begin)
    put(logs, "web", "s1", [f"GET /shot/{at} {200 if at % 4 else 404} {at * 10}ms" for at in range(100)], begin)

    indexed(logs, "app", 1500)
    indexed(logs, "web", 100)
    rows, told = ask(logs, "fields @timestamp, @message | sort @timestamp desc | limit 20")
    equal([row["@message"] for row in rows], lines[::-1][:20])
    assert set(rows[0]) == {"@timestamp", "@message", "@ptr"}, rows[0]
    record = logs.get_log_record(logRecordPointer=rows[0]["@ptr"])["logRecord"]
    equal((record["@message"], record["user.name"], record["took_ms"]), (lines[-1], "u2", "1499"))
    refused("InvalidParameterException", "logRecordPointer", logs.get_log_record, logRecordPointer="x")

    rows, told = ask(logs, """
        fields @timestamp, took_ms, user.name as who   # the slow ones
        | filter level = "error" and took_ms >= 1000
        | filter @message like /frame 1\\d+0 made/
        | sort took_ms asc
        | display who, took_ms
    """)
    expected = [{"who": f"u{at % 3}", "took_ms": str(at)} for at in range(1000, 1500, 10)]
    equal([{name: row[name] for name in ("who", "took_ms")} for row in rows], expected)
    equal((told["statistics"]["recordsScanned"], told["statistics"]["recordsMatched"]), (1500.0, 50.0))
    assert told["statistics"]["bytesScanned"] > 10_000

    rows, _ = ask(logs, "stats count(*) as n, avg(took_ms) as mean, pct(took_ms, 95) as p95, max(took_ms) by level | sort n")
    equal([(row["level"], row["n"], row["max(took_ms)"]) for row in rows], [("error", "150", "1490"), ("info", "1350", "1499")])
    equal(rows[0]["mean"], "745")
    rows, _ = ask(logs, "stats count(*) by bin(1s) as t | sort t asc")
    counts = {}
    for at in range(1500):
        counts[(begin + at) // 1000] = counts.get((begin + at) // 1000, 0) + 1
    equal([int(row["count(*)"]) for row in rows], [counts[second] for second in sorted(counts)])
    rows, _ = ask(logs, "stats count_distinct(user.name) as users, earliest(msg) as first, latest(msg) as last")
    equal((rows[0]["users"], rows[0]["first"], rows[0]["last"]), ("3", "frame 0 made", "frame 1499 made"))

    rows, told = ask(logs, """
        parse @message "GET * * *ms" as path, status, took
        | filter status = 404 and path like "/shot/9"
        | stats sum(took) as total, count(*) as n by @log, @logStream
    """, groups=("web", "app"))
    found = [at for at in range(100) if at % 4 == 0 and str(at).startswith("9")]
    equal(rows, [{"@log": "000000000000:web", "@logStream": "s1", "n": str(len(found)), "total": str(sum(found) * 10)}])
    equal(told["statistics"]["logGroupsScanned"], 2.0)
    rows, _ = ask(logs, r"parse @message /GET (?<path>\S+) (?<status>\d+)/ | fields path, status | dedup status | limit 5",
                  groups=("web",))
    equal([(row["path"], row["status"]) for row in rows], [("/shot/99", "200"), ("/shot/96", "404")])
    rows, _ = ask(logs, "filter @message like 'frame 77 made' | fields msg", limit=1)
    equal([row["msg"] for row in rows], ["frame 77 made"])
    rows, _ = ask(logs, "fields @message", startTime=begin // 1000 - 100, endTime=begin // 1000 - 50)
    equal(rows, [])

    for query, words in [("fields @message | nonsense", "character 19"), ("filter level =", "character"),
                         ("fields a | anomaly", "not served")]:
        refused("MalformedQueryException", words, logs.start_query, logGroupName="app", queryString=query,
                startTime=1, endTime=2)
    refused("InvalidParameterException", "End time", logs.start_query, logGroupName="app", queryString="fields a",
            startTime=2, endTime=1)
    refused("ResourceNotFoundException", "log group", logs.start_query, logGroupName="none", queryString="fields a",
            startTime=1, endTime=2)
    refused("ResourceNotFoundException", "query", logs.get_query_results, queryId="none")
    refused("ResourceNotFoundException", "query", logs.stop_query, queryId="none")
    refused("InvalidParameterException", "already ended", logs.stop_query,
            queryId=logs.describe_queries(status="Complete")["queries"][0]["queryId"])
    named = logs.describe_queries(logGroupName="web")["queries"]
    equal({query["status"] for query in named}, {"Complete"})
    assert len(named) == 2 and named[0]["createTime"] >= named[1]["createTime"], named
    fields = {field["name"]: field["percent"] for field in logs.get_log_group_fields(logGroupName="app")["logGroupFields"]}
    equal((fields["user.name"], fields["@message"]), (100, 100))


def live():
    """boto3 puts `stream-` in front of the host, which no local name server knows; so that is switched off, as the manual of
    the appliance says. `aws logs start-live-tail` is told the same by its environment."""
    import subprocess

    logs = client()
    tails = client(inject_host_prefix=False, read_timeout=30)
    for name in ("app", "web"):
        logs.create_log_group(logGroupName=name)
        for stream in ("s1", "s2"):
            logs.create_log_stream(logGroupName=name, logStreamName=stream)
    arns = {group["logGroupName"]: group["logGroupArn"] for group in logs.describe_log_groups()["logGroups"]}

    answer = tails.start_live_tail(logGroupIdentifiers=[arns["app"], arns["web"]], logEventFilterPattern="-noise")
    events = iter(answer["responseStream"])
    start = next(events)["sessionStart"]
    equal((start["logGroupIdentifiers"], start["logEventFilterPattern"]), ([arns["app"], arns["web"]], "-noise"))
    put(logs, "app", "s1", ["one", "noise"])
    put(logs, "web", "s2", ["two"])
    seen = []
    while len(seen) < 2:
        update = next(events)["sessionUpdate"]
        equal(update["sessionMetadata"]["sampled"], False)
        seen += update["sessionResults"]
    equal([(event["message"], event["logStreamName"], event["logGroupIdentifier"]) for event in seen],
          [("one", "s1", arns["app"]), ("two", "s2", arns["web"])])
    assert abs(seen[0]["ingestionTime"] - now_ms()) < 60_000
    # More than five hundred in a second: some are left out, and it is said.
    put(logs, "app", "s1", [f"many {at}" for at in range(3000)])
    sampled = until("a sampled update", lambda: [
        update for update in [next(events)["sessionUpdate"]] if update["sessionMetadata"]["sampled"]
    ])[0]
    assert len(sampled["sessionResults"]) <= 500
    answer["responseStream"].close()

    answer = tails.start_live_tail(logGroupIdentifiers=["app"], logStreamNamePrefixes=["s2", "later"])
    events = iter(answer["responseStream"])
    next(events)
    logs.create_log_stream(logGroupName="app", logStreamName="later-1")
    put(logs, "app", "s1", ["not this"])
    put(logs, "app", "s2", ["this"])
    put(logs, "app", "later-1", ["and this"])
    seen = []
    while len(seen) < 2:
        seen += [event["message"] for event in next(events)["sessionUpdate"]["sessionResults"]]
    equal(seen, ["this", "and this"])
    answer["responseStream"].close()

    refused("ResourceNotFoundException", "log group", tails.start_live_tail, logGroupIdentifiers=["none"])
    refused("InvalidParameterException", "filter pattern", tails.start_live_tail,
            logGroupIdentifiers=["app"], logEventFilterPattern="{ $.a")
    refused("InvalidParameterException", "one log group alone", tails.start_live_tail,
            logGroupIdentifiers=["app", "web"], logStreamNames=["s1"])
    # Fifteen sessions, and no more; those that end make room.
    open_ones = [tails.start_live_tail(logGroupIdentifiers=["app"])["responseStream"] for _ in range(13)]

    def full():
        while True:
            try:
                open_ones.append(tails.start_live_tail(logGroupIdentifiers=["app"])["responseStream"])
            except ClientError as error:
                return error.response["Error"]["Code"]

    equal(full(), "LimitExceededException")
    for stream in open_ones:
        stream.close()

    def begins():
        try:
            return tails.start_live_tail(logGroupIdentifiers=["app"])["responseStream"]
        except ClientError:
            return None

    until("room for a session", begins).close()

    # The command line, as a process.
    tail = subprocess.Popen(
        [os.path.join(os.path.dirname(sys.executable), "aws"), "logs", "start-live-tail",
         "--log-group-identifiers", arns["app"], "--log-event-filter-pattern", "shot"],
        env={**os.environ, "AWS_DISABLE_HOST_PREFIX_INJECTION": "true"}, stdout=subprocess.PIPE,
    )
    try:
        os.set_blocking(tail.stdout.fileno(), False)
        said = b""

        def heard():
            nonlocal said
            put(logs, "app", "s1", ["shot 7 is done", "other"])
            time.sleep(0.2)
            said += tail.stdout.read() or b""
            return b"shot 7 is done" in said

        until("the command line's line", heard)
        assert b"other" not in said, said
    finally:
        tail.terminate()
        tail.wait()


def kept():
    """The retention of a group hides; a class of the configuration frees its disk."""
    logs = client()
    for group in ("/studio/short", "/studio/other"):
        logs.create_log_group(logGroupName=group)
        logs.create_log_stream(logGroupName=group, logStreamName="s")
        put(logs, group, "s", ["five hours ago"], now_ms() - 5 * 3_600_000)
        put(logs, group, "s", ["now", "and now"])
        indexed(logs, group, 3)
    logs.put_retention_policy(logGroupName="/studio/short", retentionInDays=1)
    equal(logs.describe_log_groups(logGroupNamePrefix="/studio/short")["logGroups"][0]["retentionInDays"], 1)
    equal(len(indexed(logs, "/studio/short", 3)), 3)


SUBJECTS = {
    "kept": kept,
    "groups": groups,
    "bounds": bounds,
    "events": events,
    "patterns": patterns,
    "tail": tail,
    "others": others,
    "lasting": lasting,
    "insights": insights,
    "live": live,
}

if __name__ == "__main__":
    SUBJECTS[sys.argv[1]](*sys.argv[2:])
    print(f"{sys.argv[1]} is as it should be")
