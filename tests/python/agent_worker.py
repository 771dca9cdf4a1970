"""A worker for the agent's tests: it does what the job's parameters tell it, good or bad.

`once` names a file: the misbehaviour happens only while it does not exist, and the file is made before it.
"""
import json
import os
import pathlib
import signal
import sys
import time


def say(**message):
    print(json.dumps(message), flush=True)


def work(job):
    wish = job["parameters"]
    if "started" in wish:
        pathlib.Path(wish["started"]).write_text(str(os.getpid()))
    say(phase="infer")
    left = pathlib.Path(job["output_dir"], "checkpoint")
    before = f" after {left.read_text()}" if left.exists() else ""
    if "checkpoint" in wish and not before:
        left.write_text(wish["checkpoint"])
        say(checkpoint="checkpoint")
        while not os.path.exists(wish["kept"]):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGKILL)
    print(f"WARNING: working on {job['id']}", file=sys.stderr, flush=True)
    once = wish.get("once")
    if once is None or not os.path.exists(once):
        if once:
            pathlib.Path(once).touch()
        if "fail" in wish:
            say(error=wish["fail"], permanent=bool(wish.get("permanent")))
            return
        if wish.get("crash"):
            os.kill(os.getpid(), signal.SIGKILL)
        if "output" in wish:
            say(output=wish["output"])
    for step in range(int(wish.get("steps", 1))):
        time.sleep(0.05)
        say(percent=100 * (step + 1) / wish.get("steps", 1))
        while "until" in wish and not os.path.exists(wish["until"]):
            time.sleep(0.02)
    pathlib.Path(job["output_dir"], "result.txt").write_text(f"result of {job['attempt']}{before}")
    say(output="result.txt", content_type="text/plain", model="tester", seed=7)
    say(done=True)


for line in sys.stdin:
    if job := json.loads(line).get("job"):
        work(job)
