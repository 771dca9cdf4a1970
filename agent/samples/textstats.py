"""A studio's own worker in 30 lines: counts words and upper-cases each input. Only the standard library.

One JSON object a line: {"job": ...} comes in on standard input; phases, percentages and outputs go out on standard
output. What is written to standard error becomes log records of the job. Nothing else may be printed.
"""
import json
import pathlib
import sys


def say(**message):
    print(json.dumps(message), flush=True)


def work(job):
    say(phase="infer")
    for number, item in enumerate(job["inputs"], 1):
        text = pathlib.Path(item["path"]).read_text(encoding="utf-8")
        name = f"{pathlib.Path(item['path']).stem}-upper.txt"
        pathlib.Path(job["output_dir"], name).write_text(text.upper(), encoding="utf-8")
        print(f"{item['uri']} has {len(text.split())} words", file=sys.stderr, flush=True)
        say(percent=100 * number / len(job["inputs"]))
        say(output=name, content_type="text/plain", words=len(text.split()))


for line in sys.stdin:
    if job := json.loads(line).get("job"):
        try:
            work(job)
            say(done=True)
        except UnicodeDecodeError as problem:  # the same input would fail again
            say(error=f"an input is not UTF-8: {problem}", permanent=True)
        except OSError as problem:
            say(error=str(problem))
