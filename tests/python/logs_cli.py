"""CloudWatch Logs as the second version of the AWS CLI speaks it: Debian's `awscli`, not the one beside boto3, which has no
`logs tail`. Each subject exits with 0 and says so, or shows what was wrong."""

import contextlib
import datetime
import json
import os
import subprocess
import sys
import time

from logs_cloudwatch import client, equal, indexed, now_ms, put, until

# Versions before 2.13 do not know AWS_ENDPOINT_URL.
AWS = [os.environ.get("BACKLOT_AWS_CLI", "/usr/bin/aws"), "--endpoint-url", os.environ["AWS_ENDPOINT_URL"], "logs"]


def environment():
    # The virtual environment of the tests has another `aws`, and its libraries are not those of this one.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return {**kept, "AWS_PAGER": "", "AWS_DISABLE_HOST_PREFIX_INJECTION": "true", "PYTHONUNBUFFERED": "1"}


def aws(*words):
    """What `aws logs …` answers."""
    done = subprocess.run([*AWS, *words], env=environment(), capture_output=True, text=True, timeout=120)
    equal(done.returncode, 0, f"aws logs {' '.join(words)}: {done.stdout}{done.stderr}")
    return done.stdout


def aws_json(*words):
    return json.loads(aws(*words, "--output", "json"))


@contextlib.contextmanager
def followed(*words):
    """`aws logs tail … --follow`, and a function that gives the lines it has said so far."""
    tail = subprocess.Popen(
        [*AWS, "tail", *words, "--follow", "--color", "off"], env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )
    os.set_blocking(tail.stdout.fileno(), False)
    said = b""

    def lines():
        nonlocal said
        said += tail.stdout.read() or b""
        assert tail.poll() is None, said.decode()
        return said.decode().split("\n")[:-1]

    try:
        yield lines
    finally:
        tail.terminate()
        tail.wait()


def stamp(ms):
    moment = datetime.datetime.fromtimestamp(ms / 1000, datetime.timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%S")


def make(logs):
    for stream in ("gpu-7", "gpu-8"):
        aws("create-log-stream", "--log-group-name", "/studio/render", "--log-stream-name", stream)


def tail():
    logs = client()
    aws("create-log-group", "--log-group-name", "/studio/render")
    make(logs)
    begin = now_ms()
    put(logs, "/studio/render", "gpu-7", ["long ago"], begin - 3 * 3_600_000)
    put(logs, "/studio/render", "gpu-7", ["twenty minutes ago"], begin - 20 * 60_000)
    put(logs, "/studio/render", "gpu-8", ["just now"], begin)
    indexed(logs, "/studio/render", 3)

    # Without --follow it answers what is there, ten minutes back unless it is told.
    shown = aws("tail", "/studio/render", "--color", "off").splitlines()
    equal([line.split(" ", 2)[1:] for line in shown], [["gpu-8", "just now"]])
    assert shown[0].startswith(stamp(begin)), shown
    shown = aws("tail", "/studio/render", "--since", "1h", "--format", "short", "--color", "off").splitlines()
    equal(shown, [f"{stamp(begin - 20 * 60_000)} twenty minutes ago", f"{stamp(begin)} just now"])
    shown = aws("tail", "/studio/render", "--since", "1d", "--log-stream-names", "gpu-7", "--format", "short")
    equal([line.split(" ", 1)[1] for line in shown.splitlines()], ["long ago", "twenty minutes ago"])
    shown = aws("tail", "/studio/render", "--since", "1d", "--log-stream-name-prefix", "gpu-8", "--format", "short")
    equal([line.split(" ", 1)[1] for line in shown.splitlines()], ["just now"])

    sent = []
    with followed("/studio/render", "--since", "1h", "--format", "short") as lines:
        until("the first lines", lambda: len(lines()) >= 2)
        for number in range(12):
            put(logs, "/studio/render", f"gpu-{7 + number % 2}", [f"line {number}", f"its second {number}"])
            sent += [f"line {number}", f"its second {number}"]
            time.sleep(0.3)  # so that it asks in between; what is tested is that it shows all, each once
        until("the last line", lambda: any(line.endswith("its second 11") for line in lines()))
        shown = [line.split(" ", 1)[1] for line in lines()]
    equal(shown, ["twenty minutes ago", "just now", *sent])


def tail_json():
    """Lines of JSON are laid out, and filter patterns are asked of the appliance."""
    logs = client()
    aws("create-log-group", "--log-group-name", "/studio/render")
    make(logs)
    with followed("/studio/render", "--format", "json", "--filter-pattern", '{ $.level = "error" && $.gpu > 2 }') as lines:
        for number in range(8):
            level = "error" if number % 2 else "info"
            put(logs, "/studio/render", "gpu-7", [json.dumps({"level": level, "gpu": number, "msg": f"frame {number}"})])
        until("the last one", lambda: any('"frame 7"' in line for line in lines()))
        text = "\n".join(lines())
    # The head of each: its moment and stream; then the object, over several lines.
    objects, rest = [], text
    while "{" in rest:
        found, end = json.JSONDecoder().raw_decode(rest[rest.index("{"):])
        objects.append(found)
        rest = rest[rest.index("{") + end:]
    equal([found["msg"] for found in objects], ["frame 3", "frame 5", "frame 7"], text)
    assert text.count("gpu-7") == 3, text

    shown = aws("tail", "/studio/render", "--filter-pattern", "%frame [67]%", "--format", "short").splitlines()
    equal([json.loads(line.split(" ", 1)[1])["gpu"] for line in shown], [6, 7])
    done = subprocess.run([*AWS, "tail", "/studio/none"], env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode != 0 and "ResourceNotFoundException" in done.stderr, done


def calls():
    """The calls that scripts make, page after page as the CLI asks for them."""
    logs = client()
    aws("create-log-group", "--log-group-name", "/studio/render", "--tags", "owner=anna")
    make(logs)
    aws("put-retention-policy", "--log-group-name", "/studio/render", "--retention-in-days", "7")
    group = aws_json("describe-log-groups", "--log-group-name-prefix", "/studio/")["logGroups"][0]
    equal((group["logGroupName"], group["retentionInDays"]), ("/studio/render", 7))
    begin = now_ms() - 60_000
    events = [{"timestamp": begin + at, "message": f"shot {at % 7} took {at} ms"} for at in range(300)]
    answer = aws_json("put-log-events", "--log-group-name", "/studio/render", "--log-stream-name", "gpu-7",
                      "--log-events", json.dumps(events))
    assert "rejectedLogEventsInfo" not in answer, answer
    indexed(logs, "/studio/render", 300)
    # An estimate by the newest hundred, as CloudWatch counts: 26 bytes for each event beside its message.
    stored = aws_json("describe-log-groups", "--log-group-name-prefix", "/studio/")["logGroups"][0]["storedBytes"]
    exact = sum(len(event["message"]) + 26 for event in events)
    assert abs(stored / exact - 1) < 0.1, (stored, exact)
    wanted = [event["message"] for event in events if "shot 3 " in event["message"]]
    found = aws_json("filter-log-events", "--log-group-name", "/studio/render", "--filter-pattern", '"shot 3"')
    equal([event["message"] for event in found["events"]], wanted)
    found = aws_json("filter-log-events", "--log-group-name", "/studio/render", "--page-size", "50", "--max-items", "120")
    equal(len(found["events"]), 120)
    assert found["NextToken"]
    found = aws_json("get-log-events", "--log-group-name", "/studio/render", "--log-stream-name", "gpu-7", "--limit", "5")
    equal([event["message"] for event in found["events"]], [event["message"] for event in events[-5:]])

    started = aws_json("start-query", "--log-group-name", "/studio/render", "--start-time", str(begin // 1000 - 60),
                       "--end-time", str(now_ms() // 1000 + 60), "--query-string",
                       'parse @message "shot * took * ms" as shot, took | stats max(took) as most, count(*) as n by shot | sort shot')

    def results():
        told = aws_json("get-query-results", "--query-id", started["queryId"])
        return told if told["status"] == "Complete" else None

    rows = [{cell["field"]: cell["value"] for cell in row} for row in until("the query's end", results)["results"]]
    took = {shot: [at for at in range(300) if at % 7 == shot] for shot in range(7)}
    equal(rows, [{"shot": str(shot), "most": str(max(of)), "n": str(len(of))} for shot, of in took.items()])
    equal(aws_json("list-tags-log-group", "--log-group-name", "/studio/render")["tags"], {"owner": "anna"})
    aws("delete-log-group", "--log-group-name", "/studio/render")
    equal(aws_json("describe-log-groups", "--log-group-name-prefix", "/studio/")["logGroups"], [])


SUBJECTS = {"tail": tail, "tail_json": tail_json, "calls": calls}

if __name__ == "__main__":
    SUBJECTS[sys.argv[1]](*sys.argv[2:])
    print(f"{sys.argv[1]} is as it should be")
