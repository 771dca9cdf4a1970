"""ComfyUI's HTTP API as a worker: inputs go up, a workflow is queued, and what it saves comes back. Only the standard library.

In the workflow `{{name}}` stands for the job's parameter `name`, and `{{input0}}` for the name of its first input as ComfyUI has it.
"""
import json
import os
import pathlib
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid

BASE = os.environ.get("COMFYUI", "http://127.0.0.1:8188").rstrip("/")
cancelled = set()


def say(**message):
    print(json.dumps(message), flush=True)


def ask(path, body=None, kind="application/json"):
    request = urllib.request.Request(BASE + path, data=body, headers={"Content-Type": kind} if body is not None else {})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read()


def upload(path):
    mark = uuid.uuid4().hex
    name = f"{mark}-{path.name}"
    head = f'--{mark}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'.encode()
    body = head + path.read_bytes() + f"\r\n--{mark}--\r\n".encode()
    said = json.loads(ask("/upload/image", body, f"multipart/form-data; boundary={mark}"))
    return f"{said['subfolder']}/{said['name']}" if said.get("subfolder") else said["name"]


def fill(value, known):
    if isinstance(value, dict):
        return {key: fill(inner, known) for key, inner in value.items()}
    if isinstance(value, list):
        return [fill(inner, known) for inner in value]
    if isinstance(value, str) and value.startswith("{{") and value.endswith("}}"):
        return known[value[2:-2].strip()]
    return value


def work(job):
    wanted = dict(job["parameters"])
    workflow = wanted.pop("workflow", None) or json.loads(pathlib.Path("workflow.json").read_text())
    workflow = json.loads(workflow) if isinstance(workflow, str) else workflow
    known = wanted | {f"input{number}": upload(pathlib.Path(one["path"])) for number, one in enumerate(job["inputs"])}
    body = json.dumps({"prompt": fill(workflow, known), "client_id": job["attempt"]}).encode()
    say(phase="infer")
    number = json.loads(ask("/prompt", body))["prompt_id"]
    while not (entry := json.loads(ask(f"/history/{number}")).get(number)):
        if job["id"] in cancelled:
            ask("/queue", json.dumps({"delete": [number]}).encode())
            ask("/interrupt", b"{}")
            return say(error="cancelled")
        time.sleep(0.2)
    status = entry.get("status", {})
    if status.get("status_str") == "error":
        told = dict(status.get("messages", [])).get("execution_error", {})
        return say(error=told.get("exception_message") or "ComfyUI failed", details={"node": str(told.get("node_id"))})
    lists = [kind for node in entry["outputs"].values() for kind in node.values() if isinstance(kind, list)]
    files = [one for kind in lists for one in kind if isinstance(one, dict) and "filename" in one]
    for place, one in enumerate(files):
        if one.get("type") != "output":
            continue  # a preview of its own page
        where = urllib.parse.urlencode({key: one.get(key, "") for key in ("filename", "subfolder", "type")})
        name = f"{place}-{pathlib.PurePosixPath(one['filename']).name}"
        pathlib.Path(job["output_dir"], name).write_bytes(ask(f"/view?{where}"))
        say(percent=100 * (place + 1) / len(files))
        say(output=name, prompt_id=number)
    say(done=True)


def run(job):
    try:
        work(job)
    except urllib.error.HTTPError as problem:  # 400: the workflow itself is wrong
        said = problem.read(2000).decode(errors="replace")
        say(error=f"ComfyUI answers {problem.code}: {said}", permanent=problem.code == 400)
    except (KeyError, ValueError, FileNotFoundError) as problem:
        say(error=f"the workflow or a parameter of it is missing or wrong: {problem!r}", permanent=True)
    except OSError as problem:
        say(error=f"ComfyUI at {BASE}: {problem}")


for line in sys.stdin:
    request = json.loads(line)
    if job := request.get("job"):
        threading.Thread(target=run, args=(job,), daemon=True).start()
    elif "cancel" in request:
        cancelled.add(request["cancel"])
