"""The cold tier as boto3 sees it from both sides. Each function is one scenario; the argument names it.

The second argument is the endpoint of the other S3, where this script looks as an operator would; clients of the appliance know nothing of it.
"""

import datetime
import hashlib
import os
import random
import sys
import time
import urllib.error
import urllib.request

import boto3
from artifacts import client, refused
from botocore.config import Config
from botocore.exceptions import ClientError

UTC = datetime.timezone.utc
BUCKET = "dailies"
THERE = "old-renders"
PREFIX = "lot/"
MIB = 1 << 20
PAST = datetime.datetime(2020, 1, 1, tzinfo=UTC)


def other():
    return boto3.client(
        "s3", endpoint_url=sys.argv[2], aws_access_key_id="test", aws_secret_access_key="test",
        config=Config(s3={"addressing_style": "path"}))


def there():
    """Names and sizes of what the other S3 holds for us."""
    pages = other().get_paginator("list_objects_v2").paginate(Bucket=THERE)
    return {entry["Key"]: entry["Size"] for page in pages for entry in page.get("Contents", [])}


def eventually(what, probe, patience=90):
    deadline = time.monotonic() + patience
    while True:
        found = probe()
        if found:
            return found
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.1)


def noise(size, seed):
    return random.Random(seed).randbytes(size)


def move(s3, bucket=BUCKET, prefix="", storage_class="GLACIER_IR"):
    rule = {"ID": "old", "Status": "Enabled", "Filter": {"Prefix": prefix},
            "Transitions": [{"Date": PAST, "StorageClass": storage_class}]}
    s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [rule]})


def storage_class(s3, key, **arguments):
    return s3.head_object(Bucket=BUCKET, Key=key, **arguments).get("StorageClass", "STANDARD")


def wait_cold(s3, keys, storage="GLACIER_IR", **arguments):
    for key in keys:
        eventually(f"{key} is moved", lambda: storage_class(s3, key, **arguments) == storage)


def read(s3, key, **arguments):
    return s3.get_object(Bucket=BUCKET, Key=key, **arguments)["Body"].read()


def upload(s3, key, parts, **arguments):
    begun = s3.create_multipart_upload(Bucket=BUCKET, Key=key, **arguments)
    named = {"Bucket": BUCKET, "Key": key, "UploadId": begun["UploadId"]}
    done = []
    for number, part in enumerate(parts, 1):
        tag = s3.upload_part(**named, PartNumber=number, Body=part)["ETag"]
        done.append({"PartNumber": number, "ETag": tag})
    s3.complete_multipart_upload(**named, MultipartUpload={"Parts": done})
    return b"".join(parts)


def make():
    other().create_bucket(Bucket=THERE)


def prepare():
    make()
    s3 = client()
    s3.create_bucket(Bucket=BUCKET)
    return s3


def ranges(s3, key, body, seed, **arguments):
    """Ranges that begin and end anywhere, at the borders of chunks and parts above all."""
    chance, borders = random.Random(seed), [0, 65536, 512 * 1024, 5 * MIB, 5 * MIB + 65536, 10 * MIB, len(body)]
    for _ in range(12):
        first = min(max(0, chance.choice(borders) + chance.randint(-3, 3)), len(body) - 1)
        last = min(max(first, chance.choice(borders) + chance.randint(-3, 3)), len(body) + 9)
        got = s3.get_object(Bucket=BUCKET, Key=key, Range=f"bytes={first}-{last}", **arguments)
        assert got["Body"].read() == body[first:last + 1], (key, first, last)
        assert got["ContentRange"] == f"bytes {first}-{min(last, len(body) - 1)}/{len(body)}", got["ContentRange"]
    assert read(s3, key, Range="bytes=-7", **arguments) == body[-7:]


def story():
    """Everything that is known of an object is as before when its bytes are elsewhere."""
    s3 = prepare()
    customer = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": b"k" * 32}
    bodies = {"clip.mov": noise(3 * MIB + 17, 1), "sealed.exr": noise(2 * MIB + 5, 2), "secret.exr": noise(MIB + 1, 3)}
    s3.put_object(Bucket=BUCKET, Key="clip.mov", Body=bodies["clip.mov"], ContentType="video/quicktime",
                  Metadata={"shot": "12"}, Tagging="keep=yes", ChecksumAlgorithm="SHA256")
    s3.put_object(Bucket=BUCKET, Key="sealed.exr", Body=bodies["sealed.exr"], ServerSideEncryption="AES256")
    s3.put_object(Bucket=BUCKET, Key="secret.exr", Body=bodies["secret.exr"], **customer)
    s3.put_object(Bucket=BUCKET, Key="small.txt", Body=b"stays")
    parts = [noise(5 * MIB, 4), noise(5 * MIB, 5), noise(12345, 6)]
    bodies["film.mov"] = upload(s3, "film.mov", parts)
    bodies["film.sealed"] = upload(s3, "film.sealed", parts, ServerSideEncryption="AES256")
    keys = sorted(bodies)
    asked = {key: customer if key == "secret.exr" else {} for key in keys}

    def told():
        def head(key):
            answer = s3.head_object(Bucket=BUCKET, Key=key, ChecksumMode="ENABLED", **asked[key])
            for gone in ("ResponseMetadata", "StorageClass"):
                answer.pop(gone, None)
            return answer
        return {key: head(key) for key in keys}

    before = told()
    move(s3)
    for key in keys:
        wait_cold(s3, [key], **asked[key])
    assert told() == before
    assert storage_class(s3, "small.txt") == "STANDARD" and read(s3, "small.txt") == b"stays"
    listed = {entry["Key"]: entry["StorageClass"] for entry in s3.list_objects_v2(Bucket=BUCKET)["Contents"]}
    assert listed == {**{key: "GLACIER_IR" for key in keys}, "small.txt": "STANDARD"}, listed

    # What is there: a blob for each run, a manifest for each object of parts, nothing that can be read where it is sealed.
    held = there()
    assert len(held) == 3 + 4 + 4 and all(name.startswith(PREFIX) for name in held), held
    stored = {name: other().get_object(Bucket=THERE, Key=name)["Body"].read() for name in held}
    assert any(bodies["clip.mov"] in blob for blob in stored.values())
    for key in ("sealed.exr", "secret.exr"):
        assert not any(bodies[key][:4096] in blob for blob in stored.values()), key
    classes = {other().head_object(Bucket=THERE, Key=name).get("StorageClass") for name in held}
    assert classes == ({None} if "plain" in sys.argv else {"GLACIER_IR"}), classes

    for seed, key in enumerate(keys):
        got = s3.get_object(Bucket=BUCKET, Key=key, ChecksumMode="ENABLED", **asked[key])
        assert got["Body"].read() == bodies[key] and got["StorageClass"] == "GLACIER_IR", key
        ranges(s3, key, bodies[key], seed, **asked[key])
    assert read(s3, "film.mov", PartNumber=2) == parts[1]
    assert read(s3, "film.sealed", PartNumber=3) == parts[2]
    refused(s3.get_object, "InvalidRange", 416, Bucket=BUCKET, Key="clip.mov", Range="bytes=99999999-")
    refused(s3.get_object, "InvalidRequest", 400, Bucket=BUCKET, Key="secret.exr")
    attributes = s3.get_object_attributes(
        Bucket=BUCKET, Key="film.mov", ObjectAttributes=["StorageClass", "ObjectParts", "ObjectSize", "Checksum"])
    assert attributes["StorageClass"] == "GLACIER_IR" and attributes["ObjectParts"]["TotalPartsCount"] == 3, attributes
    assert s3.get_object_tagging(Bucket=BUCKET, Key="clip.mov")["TagSet"] == [{"Key": "keep", "Value": "yes"}]

    # Copies of it are here; an upload takes ranges of it.
    s3.copy_object(Bucket=BUCKET, Key="copy.mov", CopySource={"Bucket": BUCKET, "Key": "clip.mov"})
    s3.delete_bucket_lifecycle(Bucket=BUCKET)
    assert read(s3, "copy.mov") == bodies["clip.mov"]
    begun = s3.create_multipart_upload(Bucket=BUCKET, Key="cut.mov")
    named = {"Bucket": BUCKET, "Key": "cut.mov", "UploadId": begun["UploadId"]}
    copied = s3.upload_part_copy(**named, PartNumber=1, CopySource={"Bucket": BUCKET, "Key": "film.mov"},
                                 CopySourceRange=f"bytes=1000-{6 * MIB}")
    done = [{"PartNumber": 1, "ETag": copied["CopyPartResult"]["ETag"]}]
    s3.complete_multipart_upload(**named, MultipartUpload={"Parts": done})
    assert read(s3, "cut.mov") == bodies["film.mov"][1000:6 * MIB + 1]
    # New tags on it, and a copy of it over itself that brings it back.
    s3.put_object_tagging(Bucket=BUCKET, Key="film.mov", Tagging={"TagSet": [{"Key": "a", "Value": "b"}]})
    assert storage_class(s3, "film.mov") == "GLACIER_IR" and read(s3, "film.mov") == bodies["film.mov"]
    s3.copy_object(Bucket=BUCKET, Key="clip.mov", CopySource={"Bucket": BUCKET, "Key": "clip.mov"}, StorageClass="STANDARD")
    assert storage_class(s3, "clip.mov") == "STANDARD" and read(s3, "clip.mov") == bodies["clip.mov"]
    eventually("its blob there is gone", lambda: len(there()) == 10)

    # What is deleted or put over goes there too.
    s3.put_object(Bucket=BUCKET, Key="sealed.exr", Body=b"new")
    for key in keys:
        s3.delete_object(Bucket=BUCKET, Key=key)
    eventually("nothing is left there", lambda: not there())


def versions():
    """Old versions are read from there, locks hold, and each goes with its delete."""
    s3 = prepare()
    s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    first = s3.put_object(Bucket=BUCKET, Key="k", Body=noise(200_000, 1))["VersionId"]
    move(s3, storage_class="STANDARD_IA")
    wait_cold(s3, ["k"], storage="STANDARD_IA")
    s3.delete_bucket_lifecycle(Bucket=BUCKET)
    second = s3.put_object(Bucket=BUCKET, Key="k", Body=noise(210_000, 2))["VersionId"]
    s3.delete_object(Bucket=BUCKET, Key="k")
    assert read(s3, "k", VersionId=first) == noise(200_000, 1)
    assert read(s3, "k", VersionId=second) == noise(210_000, 2)
    entries = s3.list_object_versions(Bucket=BUCKET)["Versions"]
    assert {entry["VersionId"]: entry["StorageClass"] for entry in entries} == {first: "STANDARD_IA", second: "STANDARD"}
    assert len(there()) == 1
    s3.delete_object(Bucket=BUCKET, Key="k", VersionId=second)
    s3.delete_object(Bucket=BUCKET, Key="k", VersionId=first)
    eventually("nothing is left there", lambda: not there())

    s3.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
    until = datetime.datetime.now(UTC) + datetime.timedelta(days=2)
    put = s3.put_object(Bucket="locked", Key="k", Body=noise(100_000, 3), ObjectLockMode="COMPLIANCE",
                        ObjectLockRetainUntilDate=until)
    move(s3, "locked")
    eventually("what is locked moves", lambda: s3.head_object(Bucket="locked", Key="k").get("StorageClass"))
    refused(s3.delete_object, "AccessDenied", 403, Bucket="locked", Key="k", VersionId=put["VersionId"])
    assert s3.get_object(Bucket="locked", Key="k")["Body"].read() == noise(100_000, 3)


def refusals():
    s3 = client()
    s3.create_bucket(Bucket="rules")

    def wrong(storage, says):
        rule = {"ID": "r", "Status": "Enabled", "Filter": {"Prefix": ""},
                "Transitions": [{"Days": 1, "StorageClass": storage}]}
        try:
            s3.put_bucket_lifecycle_configuration(Bucket="rules", LifecycleConfiguration={"Rules": [rule]})
        except ClientError as error:
            told = error.response["Error"]
            assert told["Code"] == "InvalidStorageClass" and says in told["Message"], told
        else:
            raise AssertionError(f"{storage} was taken")

    wrong("GLACIER", sys.argv[3])
    wrong("DEEP_ARCHIVE", sys.argv[3])
    if sys.argv[3] == "cold.bucket":
        wrong("STANDARD_IA", sys.argv[3])


def fill():
    """Some objects for tests that do things to the appliance meanwhile."""
    s3 = prepare()
    for number in range(3):
        s3.put_object(Bucket=BUCKET, Key=f"clip-{number}", Body=noise(300_000 + number, number))
    upload(s3, "film", [noise(5 * MIB, 10), noise(5 * MIB, 11), noise(99, 12)])


def bodies():
    found = {f"clip-{number}": noise(300_000 + number, number) for number in range(3)}
    found["film"] = noise(5 * MIB, 10) + noise(5 * MIB, 11) + noise(99, 12)
    return found


def begin():
    move(client())


def moved():
    wait_cold(client(), bodies())


def first_is_there():
    eventually("a blob of the film has arrived", lambda: any(size > 5 * MIB for size in there().values()))
    assert storage_class(client(), "film") == "STANDARD"


def check():
    """Everything reads as it was put, and nothing lies there that nobody refers to."""
    s3 = client()
    for key, body in bodies().items():
        assert read(s3, key) == body, key
    eventually("nothing is there twice", lambda: len(there()) == 3 + 4)


def away():
    """The other S3 does not answer: a clear error, soon, and everything else goes on."""
    s3 = client()
    begun = time.monotonic()
    try:
        s3.get_object(Bucket=BUCKET, Key="clip-0")
        raise AssertionError("it was read")
    except ClientError as error:
        assert error.response["Error"]["Code"] == "ServiceUnavailable", error.response
        assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 503
        assert error.response["ResponseMetadata"]["HTTPHeaders"]["retry-after"]
    assert time.monotonic() - begun < 100
    assert s3.head_object(Bucket=BUCKET, Key="clip-0")["ContentLength"] == 300_000
    assert len(s3.list_objects_v2(Bucket=BUCKET)["Contents"]) == 4
    s3.put_object(Bucket=BUCKET, Key="here", Body=noise(200_000, 7))
    assert read(s3, "here") == noise(200_000, 7)
    s3.delete_object(Bucket=BUCKET, Key="here")
    s3.delete_object(Bucket=BUCKET, Key="clip-2")


def back():
    s3 = client()
    assert read(s3, "clip-0") == bodies()["clip-0"] and read(s3, "film") == bodies()["film"]
    eventually("what was deleted meanwhile is gone there", lambda: len(there()) == 2 + 4, 150)


def mute():
    """The other S3 takes connections and says nothing: an answer comes nevertheless."""
    begun = time.monotonic()
    url = f"{os.environ['BACKLOT_ENDPOINT']}/v1/artifacts/{BUCKET}/clip-0"
    try:
        urllib.request.urlopen(urllib.request.Request(url, headers={"authorization": "Basic dGVzdDp0ZXN0"}), timeout=90)
        raise AssertionError("it was read")
    except urllib.error.HTTPError as error:
        assert error.code == 503 and b"cold_tier_away" in error.read()
    assert time.monotonic() - begun < 60


def long():
    s3 = prepare()
    s3.put_object(Bucket=BUCKET, Key="long", Body=noise(40 * MIB + 3, 20))
    move(s3)
    wait_cold(s3, ["long"])


def read_slowly():
    """Reads slowly over connections that break; deletes what it reads."""
    s3, whole, got = client(), noise(40 * MIB + 3, 20), 0
    body = s3.get_object(Bucket=BUCKET, Key="long")["Body"]
    for chunk in body.iter_chunks(256 * 1024):
        assert chunk == whole[got:got + len(chunk)], got
        if got < MIB <= got + len(chunk):
            s3.delete_object(Bucket=BUCKET, Key="long")
        got += len(chunk)
        time.sleep(0.02)
    assert got == len(whole)
    eventually("it is gone there with its last reader", lambda: not there(), 150)


def damage():
    """Flips a byte of one blob there, cuts another, loses a third: none is given as whole."""
    s3 = client()
    names = {}
    for name in there():
        blob = other().get_object(Bucket=THERE, Key=name)["Body"].read()
        for key, body in bodies().items():
            if key != "film" and body in blob:
                names[key] = (name, blob)
    meta = lambda name: other().head_object(Bucket=THERE, Key=name)["Metadata"]
    name, blob = names["clip-0"]
    wrong = bytearray(blob)
    wrong[100_000] ^= 1
    other().put_object(Bucket=THERE, Key=name, Body=bytes(wrong), Metadata=meta(name))
    name, blob = names["clip-1"]
    other().put_object(Bucket=THERE, Key=name, Body=blob[:-1], Metadata=meta(name))
    other().delete_object(Bucket=THERE, Key=names["clip-2"][0])
    for key in ("clip-0", "clip-1", "clip-2"):
        try:
            got = read(s3, key)
        except Exception as error:  # in the head of the answer, or in its body
            print(key, type(error).__name__)
        else:
            raise AssertionError(f"{key}: {len(got)} bytes were given as whole")
    assert read(s3, "film") == bodies()["film"]


def mend():
    """The way back: the right bytes there again."""
    s3 = client()
    s3.put_object(Bucket=BUCKET, Key="clip-1", Body=bodies()["clip-1"])
    s3.delete_object(Bucket=BUCKET, Key="clip-2")
    s3.put_object(Bucket=BUCKET, Key="clip-0", Body=bodies()["clip-0"])


def all_here():
    s3 = client()
    for key, body in bodies().items():
        assert storage_class(s3, key) == "STANDARD", key
        assert read(s3, key) == body, key
    eventually("nothing is left there", lambda: not there())


def http_door():
    url = f"{os.environ['BACKLOT_ENDPOINT']}/v1/artifacts/{BUCKET}/clip-0"
    request = urllib.request.Request(url, headers={"authorization": "Basic dGVzdDp0ZXN0", "range": "bytes=5-9"})
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 206 and answer.read() == bodies()["clip-0"][5:10]
    with urllib.request.urlopen(urllib.request.Request(url, headers={"authorization": "Basic dGVzdDp0ZXN0"})) as answer:
        assert hashlib.sha256(answer.read()).digest() == hashlib.sha256(bodies()["clip-0"]).digest()


if __name__ == "__main__":
    globals()[sys.argv[1]]()
