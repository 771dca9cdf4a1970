"""Celery with its SQS transport: a worker of its own runs real tasks whose messages lie on the appliance's queue.

Run as a script it is the studio's back end: it starts the worker, sends tasks and looks at their results. Imported, by
that worker, it is the application.
"""

import os
import pathlib
import subprocess
import sys
import time
import urllib.parse

import boto3
from celery import Celery

QUEUE = "celery-shots"
PATIENCE_S = 180

door = urllib.parse.urlsplit(os.environ["AWS_ENDPOINT_URL"])
app = Celery("studio", broker=f"sqs://test:test@{door.netloc}//", backend=f"file://{os.environ['SQS_CELERY_RESULTS']}")
app.conf.update(
    task_default_queue=QUEUE,
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    worker_enable_remote_control=False,  # SQS has no fan-out for it
    broker_connection_retry_on_startup=True,
    broker_transport_options={
        "region": "us-east-1",
        "is_secure": False,
        "visibility_timeout": 60,
        "wait_time_seconds": 1,
        "polling_interval": 0.1,
    },
)


@app.task(name="studio.join")
def join(words, separator="-"):
    return separator.join(words)


@app.task(name="studio.fragile", bind=True, max_retries=2, default_retry_delay=0)
def fragile(self, marker):
    """Fails until it has been tried three times."""
    tries = pathlib.Path(marker)
    with tries.open("a", encoding="utf-8") as file:
        file.write("tried\n")
    count = len(tries.read_text(encoding="utf-8").splitlines())
    if count < 3:
        raise self.retry(exc=RuntimeError(f"try {count}"))
    return count


def main():
    folder = pathlib.Path(os.environ["SQS_CELERY_RESULTS"])
    command = [sys.executable, "-m", "celery", "-A", "sqs_celery", "worker", "--pool", "solo", "--loglevel", "info"]
    log = folder / "worker.log"
    with log.open("w", encoding="utf-8") as out:
        options = {"cwd": pathlib.Path(__file__).parent, "stdout": out, "stderr": subprocess.STDOUT}
        worker = subprocess.Popen([*command, "--without-gossip", "--without-mingle"], **options)
    try:
        results = [join.delay([str(n), "ä ☃"]) for n in range(5)]
        results.append(join.apply_async((["a", "b"],), {"separator": "+"}, countdown=1))
        answers = [result.get(timeout=PATIENCE_S) for result in results]
        assert answers == [f"{n}-ä ☃" for n in range(5)] + ["a+b"], answers
        assert fragile.delay(str(folder / "marker")).get(timeout=PATIENCE_S) == 3
        # What was done is deleted.
        sqs = boto3.client("sqs")
        url = sqs.get_queue_url(QueueName=QUEUE)["QueueUrl"]
        deadline = time.monotonic() + PATIENCE_S
        while True:
            counts = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
            left = [counts[f"ApproximateNumberOfMessages{state}"] for state in ("", "NotVisible", "Delayed")]
            if left == ["0", "0", "0"]:
                break
            assert time.monotonic() < deadline, left
            time.sleep(0.05)
    except BaseException:
        print(log.read_text(encoding="utf-8"))
        raise
    finally:
        worker.terminate()
        try:
            worker.wait(20)
        except subprocess.TimeoutExpired:
            worker.kill()
    print("celery ran its tasks")


if __name__ == "__main__":
    # The worker knows the tasks by this name, and so must the sender.
    import sqs_celery

    sqs_celery.main()
