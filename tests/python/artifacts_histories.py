"""Recorded histories: many clients at once, what each began and heard and when, and whether one order explains it all.

A register holds if every read gives a value that was put before the read ended and that no other put had replaced before
the read began. A listing holds if it has everything that was put before it began and not deleted before it ended."""

import random
import sys
import threading
import time

from artifacts import client
from botocore.exceptions import ClientError

CLIENTS, SECONDS = 12, 6


class History:
    def __init__(self):
        self.guard, self.events, self.problems = threading.Lock(), [], []

    def record(self, kind, began, **facts):
        with self.guard:
            self.events.append({"kind": kind, "began": began, "ended": time.monotonic(), **facts})

    def run(self, work):
        end = time.monotonic() + SECONDS

        def guarded(number):
            try:
                s3, chance = client(), random.Random(number)
                while time.monotonic() < end and not self.problems:
                    work(s3, chance, number)
            except Exception as problem:
                self.problems.append(problem)

        threads = [threading.Thread(target=guarded, args=(number,)) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not self.problems, self.problems
        assert len(self.events) > CLIENTS * 5, f"only {len(self.events)} events"

    def of(self, kind):
        return [event for event in self.events if event["kind"] == kind]


def check_register(history):
    """Puts and deletes of one key, each with a value of its own (a delete's is None), and reads."""
    writes = history.of("write")
    by_value = {event["value"]: event for event in writes if event["value"] is not None}
    gone = [event for event in writes if event["value"] is None]
    for read in history.of("read"):
        value = read["value"]
        sources = [by_value[value]] if value is not None else gone + [{"began": 0, "ended": 0}]

        def explains(source):
            # It began before the read ended, and nothing else lies wholly between it and the read.
            between = (
                other for other in writes
                if other is not source and other["began"] > source["ended"] and other["ended"] < read["began"])
            return source["began"] < read["ended"] and next(between, None) is None

        assert any(explains(source) for source in sources), f"{value!r} was read too early or too late: {read}"
    print(len(writes), "writes and", len(history.of("read")), "reads")


def register(status):
    s3 = client()
    name = f"register-{status.lower()}"
    s3.create_bucket(Bucket=name)
    if status != "Never":
        s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": status})
    history = History()

    def work(s3, chance, number):
        began, dice = time.monotonic(), chance.random()
        if dice < 0.35:
            value = f"{number} {began}"
            # Some fit into a pack, some do not.
            s3.put_object(Bucket=name, Key="k", Body=value.ljust(chance.choice((40, 200_000))).encode())
            history.record("write", began, value=value)
        elif dice < 0.45:
            s3.delete_object(Bucket=name, Key="k")
            history.record("write", began, value=None)
        else:
            try:
                value = s3.get_object(Bucket=name, Key="k")["Body"].read().decode().rstrip()
            except ClientError as error:
                assert error.response["Error"]["Code"] == "NoSuchKey", error
                value = None
            history.record("read", began, value=value)

    history.run(work)
    check_register(history)


def never():
    register("Never")


def enabled():
    register("Enabled")


def suspended():
    register("Suspended")


def check_listing(history, kind):
    puts, deletes = history.of("put"), history.of("delete")
    put, gone = {event["key"]: event for event in puts}, {event["key"]: event for event in deletes}
    for listing in history.of(kind):
        for key, event in put.items():
            deleted = gone.get(key)
            if event["ended"] < listing["began"] and (deleted is None or deleted["began"] > listing["ended"]):
                assert key in listing["keys"], f"{key} was put before a listing that has it not"
            if event["began"] > listing["ended"] or (deleted and deleted["ended"] < listing["began"]):
                assert key not in listing["keys"], f"{key} is in a listing that it was not there for"
        assert listing["keys"] <= set(put), "a key that nobody has put"
    print(len(puts), "puts,", len(deletes), "deletes and", len(history.of(kind)), kind)


def listing():
    """A listing that begins when a put or a delete has been answered shows it, also over pages."""
    s3 = client()
    s3.create_bucket(Bucket="listing")
    s3.put_bucket_versioning(Bucket="listing", VersioningConfiguration={"Status": "Enabled"})
    history = History()
    mine = threading.local()

    def keys_of(s3, operation, field, size):
        pages = s3.get_paginator(operation).paginate(Bucket="listing", PaginationConfig={"PageSize": size})
        return {entry["Key"] for page in pages for entry in page.get(field, [])}

    def work(s3, chance, number):
        if not hasattr(mine, "keys"):
            mine.keys, mine.count = [], 0
        began, dice = time.monotonic(), chance.random()
        if dice < 0.5:
            key = f"{chance.choice('abc')}/{number}-{mine.count}"
            mine.count += 1
            version = s3.put_object(Bucket="listing", Key=key, Body=b"x")["VersionId"]
            mine.keys.append((key, version))
            history.record("put", began, key=key)
        elif dice < 0.7 and mine.keys:
            # For good, so that the key is gone from the listing of versions as well.
            key, version = mine.keys.pop(chance.randrange(len(mine.keys)))
            s3.delete_object(Bucket="listing", Key=key, VersionId=version)
            history.record("delete", began, key=key)
        elif dice < 0.85:
            keys = keys_of(s3, "list_objects_v2", "Contents", chance.choice((20, 1000)))
            history.record("objects", began, keys=keys)
        else:
            keys = keys_of(s3, "list_object_versions", "Versions", chance.choice((20, 1000)))
            history.record("versions", began, keys=keys)

    history.run(work)
    check_listing(history, "objects")
    check_listing(history, "versions")


def faults():
    """The checks find what they are for."""
    def event(kind, began, ended, **facts):
        return {"kind": kind, "began": began, "ended": ended, **facts}

    def found(check, events, *arguments):
        history = History()
        history.events = events
        try:
            check(history, *arguments)
        except AssertionError:
            return True
        return False

    write, later = event("write", 1, 2, value="a"), event("write", 3, 4, value="b")
    assert not found(check_register, [write, later, event("read", 5, 6, value="b")])
    assert not found(check_register, [write, later, event("read", 3, 6, value="a")])
    assert found(check_register, [write, later, event("read", 5, 6, value="a")]), "a stale read"
    assert found(check_register, [write, event("read", 0, 0.5, value="a")]), "a read of what was not put yet"
    assert found(check_register, [write, event("read", 3, 4, value=None)]), "a lost put"
    put, gone = event("put", 1, 2, key="k"), event("delete", 3, 4, key="k")
    assert not found(check_listing, [put, gone, event("objects", 3, 5, keys=set())], "objects")
    assert found(check_listing, [put, event("objects", 3, 5, keys=set())], "objects"), "a key that is missing"
    assert found(check_listing, [put, gone, event("objects", 5, 6, keys={"k"})], "objects"), "a key that came back"


if __name__ == "__main__":
    globals()[sys.argv[1]]()
