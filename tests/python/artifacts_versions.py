"""Versions, tags, object lock and lifecycle as boto3 sees them. Each function is one scenario; the argument names it."""

import datetime
import hashlib
import itertools
import json
import os
import random
import sys
import threading
import time

from artifacts import client, refused
from botocore.exceptions import ClientError

UTC = datetime.timezone.utc


def bucket(s3, name, status=None, **arguments):
    s3.create_bucket(Bucket=name, **arguments)
    if status:
        s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": status})
    return name


def read(s3, **arguments):
    return s3.get_object(**arguments)["Body"].read()


def listed(s3, name, **arguments):
    """Versions and markers as (key, id, is latest, is marker), newest first within a key."""
    found = []
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=name, **arguments):
        for entry in page.get("Versions", []):
            found.append((entry["Key"], entry["VersionId"], entry["IsLatest"], False))
        for entry in page.get("DeleteMarkers", []):
            found.append((entry["Key"], entry["VersionId"], entry["IsLatest"], True))
    return found


def empty(s3, name):
    """As clients empty a bucket: page by page, each deleted before the next is asked for."""
    marker = {}
    while True:
        page = s3.list_object_versions(Bucket=name, MaxKeys=7, **marker)
        entries = page.get("Versions", []) + page.get("DeleteMarkers", [])
        objects = [{"Key": entry["Key"], "VersionId": entry["VersionId"]} for entry in entries]
        if objects:
            answer = s3.delete_objects(Bucket=name, Delete={"Objects": objects}, BypassGovernanceRetention=True)
            assert "Errors" not in answer, answer["Errors"]
        if not page["IsTruncated"]:
            break
        marker = {"KeyMarker": page["NextKeyMarker"]}
        if "NextVersionIdMarker" in page:
            marker["VersionIdMarker"] = page["NextVersionIdMarker"]
    s3.delete_bucket(Bucket=name)


def versioning():
    s3 = client()
    name = bucket(s3, "kept")
    assert "Status" not in s3.get_bucket_versioning(Bucket=name)
    assert "VersionId" not in s3.put_object(Bucket=name, Key="k", Body=b"before")
    assert "VersionId" not in s3.head_object(Bucket=name, Key="k")
    s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    refused(s3.put_bucket_versioning, "IllegalVersioningConfigurationException", 400, Bucket=name, VersioningConfiguration={"Status": "On"})
    assert s3.get_bucket_versioning(Bucket=name)["Status"] == "Enabled"
    assert s3.head_object(Bucket=name, Key="k")["VersionId"] == "null"
    first = s3.put_object(Bucket=name, Key="k", Body=b"first")["VersionId"]
    second = s3.put_object(Bucket=name, Key="k", Body=b"second")["VersionId"]
    assert read(s3, Bucket=name, Key="k") == b"second"
    assert read(s3, Bucket=name, Key="k", VersionId=first) == b"first"
    assert read(s3, Bucket=name, Key="k", VersionId="null") == b"before"
    assert s3.head_object(Bucket=name, Key="k", VersionId=first)["VersionId"] == first
    attributes = s3.get_object_attributes(Bucket=name, Key="k", VersionId=first, ObjectAttributes=["ObjectSize", "ETag"])
    assert (attributes["VersionId"], attributes["ObjectSize"]) == (first, 5)
    assert attributes["ETag"] == hashlib.md5(b"first").hexdigest(), "without quotes"
    refused(s3.get_object, "InvalidArgument", 400, Bucket=name, Key="k", VersionId="../../x")
    refused(s3.get_object, "NoSuchVersion", 404, Bucket=name, Key="k", VersionId="0" * 32)
    refused(s3.get_object, "NoSuchVersion", 404, Bucket=name, Key="other", VersionId=first)

    gone = s3.delete_object(Bucket=name, Key="k")
    assert gone["DeleteMarker"] is True
    marker = gone["VersionId"]
    error = refused(s3.get_object, "NoSuchKey", 404, Bucket=name, Key="k")
    headers = error.response["ResponseMetadata"]["HTTPHeaders"]
    assert (headers["x-amz-delete-marker"], headers["x-amz-version-id"]) == ("true", marker), headers
    error = refused(s3.get_object, "MethodNotAllowed", 405, Bucket=name, Key="k", VersionId=marker)
    assert error.response["ResponseMetadata"]["HTTPHeaders"]["x-amz-delete-marker"] == "true"
    assert s3.list_objects_v2(Bucket=name)["KeyCount"] == 0
    expected = [("k", second, False, False), ("k", first, False, False), ("k", "null", False, False), ("k", marker, True, True)]
    assert listed(s3, name) == expected, listed(s3, name)
    refused(s3.delete_bucket, "BucketNotEmpty", 409, Bucket=name)

    # The marker goes, and what it hid is back; then the newest goes, and the one before it is current.
    answer = s3.delete_object(Bucket=name, Key="k", VersionId=marker)
    assert (answer["DeleteMarker"], answer["VersionId"]) == (True, marker)
    assert read(s3, Bucket=name, Key="k") == b"second"
    answer = s3.delete_object(Bucket=name, Key="k", VersionId=second)
    assert answer["VersionId"] == second and "DeleteMarker" not in answer
    assert s3.head_object(Bucket=name, Key="k")["VersionId"] == first

    s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Suspended"})
    assert "VersionId" not in s3.put_object(Bucket=name, Key="k", Body=b"over null")
    assert [entry[1] for entry in listed(s3, name)] == ["null", first]
    gone = s3.delete_object(Bucket=name, Key="k")
    assert (gone["VersionId"], gone["DeleteMarker"]) == ("null", True)
    assert sorted(listed(s3, name)) == sorted([("k", first, False, False), ("k", "null", True, True)])
    copied = s3.copy_object(Bucket=name, Key="k", CopySource={"Bucket": name, "Key": "k", "VersionId": first})
    assert copied["CopySourceVersionId"] == first
    assert read(s3, Bucket=name, Key="k") == b"first", "an older version was brought back"
    empty(s3, name)


def batches():
    s3 = client()
    name = bucket(s3, "batches", "Enabled")
    ids = [s3.put_object(Bucket=name, Key="k", Body=b"x")["VersionId"] for _ in range(3)]
    answer = s3.delete_objects(Bucket=name, Delete={"Objects": [{"Key": "k"}, {"Key": "never"}]})
    markers = {entry["Key"]: entry for entry in answer["Deleted"]}
    assert all(entry["DeleteMarker"] and entry["DeleteMarkerVersionId"] for entry in markers.values()), answer
    objects = [{"Key": "k", "VersionId": version} for version in ids + [markers["k"]["DeleteMarkerVersionId"]]]
    objects.append({"Key": "k", "VersionId": "no id"})
    for _ in range(2):  # the second time nothing is there, and that is no error
        answer = s3.delete_objects(Bucket=name, Delete={"Objects": objects})
        assert len(answer["Deleted"]) == 4 and len(answer["Errors"]) == 1, answer
        assert answer["Errors"][0]["Code"] == "InvalidArgument"
    assert [entry[0] for entry in listed(s3, name)] == ["never"]
    empty(s3, name)


def paging():
    s3 = client()
    name = bucket(s3, "pages")
    chance = random.Random(4)
    for number in range(8):
        s3.put_object(Bucket=name, Key=f"old/{number}", Body=b"")
    s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    keys = ["a", "a b/é", "a b/+", "b/1", "b/2", "c", "old/3"]
    for _ in range(40):
        key = chance.choice(keys)
        if chance.random() < 0.2:
            s3.delete_object(Bucket=name, Key=key)
        else:
            s3.put_object(Bucket=name, Key=key, Body=b"x")
    whole = s3.list_object_versions(Bucket=name)
    total = len(whole["Versions"]) + len(whole.get("DeleteMarkers", []))
    everything = sorted(listed(s3, name))
    assert len(everything) == total
    for size in (1, 2, 3, 7):
        assert sorted(listed(s3, name, PaginationConfig={"PageSize": size})) == everything, size
        got = [page for page in s3.get_paginator("list_object_versions").paginate(
            Bucket=name, Delimiter="/", PaginationConfig={"PageSize": size})]
        prefixes = [entry["Prefix"] for page in got for entry in page.get("CommonPrefixes", [])]
        assert prefixes == ["a b/", "b/", "old/"], prefixes
        assert sorted(listed(s3, name, Prefix="b/", PaginationConfig={"PageSize": size})) == sorted(
            entry for entry in everything if entry[0].startswith("b/"))
    # A key's newest version alone is the latest.
    for key in {entry[0] for entry in everything}:
        assert sum(entry[2] for entry in everything if entry[0] == key) == 1, key
    after = s3.list_object_versions(Bucket=name, KeyMarker="b/2")
    assert all(entry["Key"] > "b/2" for entry in after["Versions"])
    refused(s3.list_object_versions, "InvalidArgument", 400, Bucket=name, VersionIdMarker="null")
    empty(s3, name)


def conditions():
    s3 = client()
    name = bucket(s3, "conditional", "Enabled")
    first = s3.put_object(Bucket=name, Key="k", Body=b"1", IfNoneMatch="*")
    refused(s3.put_object, "PreconditionFailed", 412, Bucket=name, Key="k", Body=b"2", IfNoneMatch="*")
    second = s3.put_object(Bucket=name, Key="k", Body=b"2", IfMatch=first["ETag"])
    refused(s3.put_object, "PreconditionFailed", 412, Bucket=name, Key="k", Body=b"3", IfMatch=first["ETag"])
    refused(s3.delete_object, "PreconditionFailed", 412, Bucket=name, Key="k", IfMatch=first["ETag"])
    refused(s3.delete_object, "PreconditionFailed", 412, Bucket=name, Key="k", IfMatchSize=7)
    refused(s3.delete_object, "PreconditionFailed", 412, Bucket=name, Key="k", VersionId=first["VersionId"], IfMatch=second["ETag"])
    s3.delete_object(Bucket=name, Key="k", IfMatch=second["ETag"], IfMatchSize=1)
    # Behind a marker there is nothing to match, and nothing in the way.
    refused(s3.put_object, "NoSuchKey", 404, Bucket=name, Key="k", Body=b"3", IfMatch="*")
    s3.put_object(Bucket=name, Key="k", Body=b"3", IfNoneMatch="*")
    assert len(listed(s3, name)) == 4
    empty(s3, name)


def multipart():
    s3 = client()
    name = bucket(s3, "parts", "Enabled")
    ids = []
    for number in range(2):
        upload = s3.create_multipart_upload(Bucket=name, Key="k", Tagging="round=%d" % number)["UploadId"]
        part = s3.upload_part(Bucket=name, Key="k", UploadId=upload, PartNumber=1, Body=b"%d" % number)
        done = s3.complete_multipart_upload(
            Bucket=name, Key="k", UploadId=upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]})
        ids.append(done["VersionId"])
    for number, version in enumerate(ids):
        assert read(s3, Bucket=name, Key="k", VersionId=version) == b"%d" % number
        tags = s3.get_object_tagging(Bucket=name, Key="k", VersionId=version)["TagSet"]
        assert tags == [{"Key": "round", "Value": str(number)}]
    upload = s3.create_multipart_upload(Bucket=name, Key="copy")["UploadId"]
    source = {"Bucket": name, "Key": "k", "VersionId": ids[0]}
    part = s3.upload_part_copy(Bucket=name, Key="copy", UploadId=upload, PartNumber=1, CopySource=source)
    assert part["CopySourceVersionId"] == ids[0]
    s3.abort_multipart_upload(Bucket=name, Key="copy", UploadId=upload)
    empty(s3, name)


def tags():
    s3 = client()
    name = bucket(s3, "tagged", "Enabled")
    one = [{"Key": "shot", "Value": "42"}]
    first = s3.put_object(Bucket=name, Key="k", Body=b"1", Tagging="shot=42")["VersionId"]
    second = s3.put_object(Bucket=name, Key="k", Body=b"2")["VersionId"]
    assert s3.get_object_tagging(Bucket=name, Key="k", VersionId=first)["TagSet"] == one
    assert s3.get_object_tagging(Bucket=name, Key="k")["TagSet"] == []
    assert s3.head_object(Bucket=name, Key="k", VersionId=first)["ResponseMetadata"]["HTTPHeaders"]["x-amz-tagging-count"] == "1"
    assert s3.get_object(Bucket=name, Key="k", VersionId=first)["TagCount"] == 1
    assert "x-amz-tagging-count" not in s3.head_object(Bucket=name, Key="k")["ResponseMetadata"]["HTTPHeaders"]
    two = [{"Key": "a", "Value": "é ü"}, {"Key": "b", "Value": ""}]
    answer = s3.put_object_tagging(Bucket=name, Key="k", Tagging={"TagSet": two[::-1]})
    assert answer["VersionId"] == second
    assert s3.get_object_tagging(Bucket=name, Key="k")["TagSet"] == two
    # A copy takes the tags along, or others.
    source = {"Bucket": name, "Key": "k", "VersionId": first}
    s3.copy_object(Bucket=name, Key="copy", CopySource=source)
    assert s3.get_object_tagging(Bucket=name, Key="copy")["TagSet"] == one
    s3.copy_object(Bucket=name, Key="copy", CopySource=source, TaggingDirective="REPLACE", Tagging="x=y")
    assert s3.get_object_tagging(Bucket=name, Key="copy")["TagSet"] == [{"Key": "x", "Value": "y"}]
    s3.delete_object_tagging(Bucket=name, Key="k", VersionId=first)
    assert s3.get_object_tagging(Bucket=name, Key="k", VersionId=first)["TagSet"] == []
    assert s3.get_object_tagging(Bucket=name, Key="k")["TagSet"] == two
    many = [{"Key": str(number), "Value": ""} for number in range(11)]
    for bad in (many, [{"Key": "k" * 129, "Value": ""}], [{"Key": "k", "Value": "v" * 257}], one * 2, [{"Key": "aws:x", "Value": ""}]):
        refused(s3.put_object_tagging, "InvalidTag", 400, Bucket=name, Key="k", Tagging={"TagSet": bad})
    refused(s3.put_object, "InvalidTag", 400, Bucket=name, Key="k", Body=b"", Tagging="a=1&a=2")
    refused(s3.get_object_tagging, "NoSuchKey", 404, Bucket=name, Key="none")
    refused(s3.put_object_tagging, "NoSuchKey", 404, Bucket=name, Key="none", Tagging={"TagSet": one})

    refused(s3.get_bucket_tagging, "NoSuchTagSet", 404, Bucket=name)
    s3.put_bucket_tagging(Bucket=name, Tagging={"TagSet": one})
    assert s3.get_bucket_tagging(Bucket=name)["TagSet"] == one
    s3.delete_bucket_tagging(Bucket=name)
    refused(s3.get_bucket_tagging, "NoSuchTagSet", 404, Bucket=name)
    refused(s3.put_object, "InvalidStorageClass", 400, Bucket=name, Key="k", Body=b"", StorageClass="GLACIER")
    empty(s3, name)


def lock():
    s3 = client()
    plain = bucket(s3, "unlocked")
    s3.put_object(Bucket=plain, Key="k", Body=b"1")
    soon = datetime.datetime.now(UTC) + datetime.timedelta(hours=1)
    later = soon + datetime.timedelta(days=400)
    refused(s3.put_object, "InvalidRequest", 400, Bucket=plain, Key="k", Body=b"", ObjectLockLegalHoldStatus="ON")
    refused(s3.get_object_retention, "InvalidRequest", 400, Bucket=plain, Key="k")
    refused(s3.get_object_lock_configuration, "ObjectLockConfigurationNotFoundError", 404, Bucket=plain)
    default = {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}}}
    refused(s3.put_object_lock_configuration, "InvalidBucketState", 409, Bucket=plain, ObjectLockConfiguration=default)

    name = bucket(s3, "locked", ObjectLockEnabledForBucket=True)
    assert s3.get_bucket_versioning(Bucket=name)["Status"] == "Enabled"
    refused(s3.put_bucket_versioning, "InvalidBucketState", 409, Bucket=name, VersioningConfiguration={"Status": "Suspended"})
    assert s3.get_object_lock_configuration(Bucket=name)["ObjectLockConfiguration"] == {"ObjectLockEnabled": "Enabled"}
    free = s3.put_object(Bucket=name, Key="k", Body=b"free")["VersionId"]
    refused(s3.get_object_retention, "NoSuchObjectLockConfiguration", 404, Bucket=name, Key="k")
    s3.put_object_lock_configuration(Bucket=name, ObjectLockConfiguration=default)
    assert s3.get_object_lock_configuration(Bucket=name)["ObjectLockConfiguration"] == default
    for bad in ({"Mode": "GOVERNANCE", "Days": 0}, {"Mode": "GOVERNANCE", "Years": 101}):
        refused(s3.put_object_lock_configuration, "InvalidRetentionPeriod", 400, Bucket=name,
                ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": bad}})

    kept = s3.put_object(Bucket=name, Key="k", Body=b"kept")["VersionId"]
    head = s3.head_object(Bucket=name, Key="k")
    assert head["ObjectLockMode"] == "GOVERNANCE"
    assert datetime.timedelta(hours=23) < head["ObjectLockRetainUntilDate"] - datetime.datetime.now(UTC) < datetime.timedelta(hours=25)
    refused(s3.delete_object, "AccessDenied", 403, Bucket=name, Key="k", VersionId=kept)
    s3.delete_object(Bucket=name, Key="k", VersionId=free)
    marker = s3.delete_object(Bucket=name, Key="k")["VersionId"]
    s3.delete_object(Bucket=name, Key="k", VersionId=marker)
    shorter = {"Mode": "GOVERNANCE", "RetainUntilDate": soon}
    refused(s3.put_object_retention, "AccessDenied", 403, Bucket=name, Key="k", Retention=shorter)
    s3.put_object_retention(Bucket=name, Key="k", Retention={"Mode": "GOVERNANCE", "RetainUntilDate": later})
    s3.put_object_retention(Bucket=name, Key="k", Retention=shorter, BypassGovernanceRetention=True)
    past = {"Mode": "GOVERNANCE", "RetainUntilDate": datetime.datetime(2020, 1, 1, tzinfo=UTC)}
    refused(s3.put_object_retention, "InvalidArgument", 400, Bucket=name, Key="k", Retention=past)
    s3.put_object_legal_hold(Bucket=name, Key="k", LegalHold={"Status": "ON"})
    assert s3.get_object_legal_hold(Bucket=name, Key="k")["LegalHold"] == {"Status": "ON"}
    refused(s3.delete_object, "AccessDenied", 403, Bucket=name, Key="k", VersionId=kept, BypassGovernanceRetention=True)
    answer = s3.delete_objects(Bucket=name, Delete={"Objects": [{"Key": "k", "VersionId": kept}]}, BypassGovernanceRetention=True)
    assert answer["Errors"][0]["Code"] == "AccessDenied"
    s3.put_object_legal_hold(Bucket=name, Key="k", LegalHold={"Status": "OFF"})
    s3.delete_object(Bucket=name, Key="k", VersionId=kept, BypassGovernanceRetention=True)

    strict = s3.put_object(Bucket=name, Key="s", Body=b"1", ObjectLockMode="COMPLIANCE",
                           ObjectLockRetainUntilDate=datetime.datetime.now(UTC) + datetime.timedelta(seconds=10))["VersionId"]
    refused(s3.delete_object, "AccessDenied", 403, Bucket=name, Key="s", VersionId=strict, BypassGovernanceRetention=True)
    deadline = time.monotonic() + 120
    while True:
        try:
            s3.delete_object(Bucket=name, Key="s", VersionId=strict)
            break
        except ClientError:
            assert time.monotonic() < deadline, "the retention has not ended"
            time.sleep(0.2)
    empty(s3, name)


def lifecycle():
    s3 = client()
    name = bucket(s3, "aging")
    refused(s3.get_bucket_lifecycle_configuration, "NoSuchLifecycleConfiguration", 404, Bucket=name)
    s3.delete_bucket_lifecycle(Bucket=name)
    rules = [
        {"ID": "days", "Prefix": "tmp/", "Status": "Enabled", "Expiration": {"Days": 3}},
        {"ID": "old", "Filter": {"Prefix": "past/"}, "Status": "Enabled",
         "Expiration": {"Date": datetime.datetime(2020, 1, 1, tzinfo=UTC)}},
        {"ID": "and", "Status": "Disabled", "Expiration": {"Days": 1},
         "Filter": {"And": {"Prefix": "x", "Tags": [{"Key": "a", "Value": "b"}], "ObjectSizeGreaterThan": 5}}},
        {"ID": "size", "Status": "Enabled", "Filter": {"ObjectSizeLessThan": 7},
         "NoncurrentVersionExpiration": {"NoncurrentDays": 2, "NewerNoncurrentVersions": 3}},
        {"ID": "rest", "Status": "Enabled", "Filter": {}, "Expiration": {"ExpiredObjectDeleteMarker": True},
         "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7}},
    ]
    s3.put_object(Bucket=name, Key="past/gone", Body=b"1")
    s3.put_object(Bucket=name, Key="future/stays", Body=b"1")
    s3.put_bucket_lifecycle_configuration(Bucket=name, LifecycleConfiguration={"Rules": rules})
    assert s3.get_bucket_lifecycle_configuration(Bucket=name)["Rules"] == rules
    put = s3.put_object(Bucket=name, Key="tmp/x", Body=b"1")
    for answer in (put, s3.head_object(Bucket=name, Key="tmp/x"), s3.get_object(Bucket=name, Key="tmp/x")):
        assert 'rule-id="days"' in answer["Expiration"] and "00:00:00 GMT" in answer["Expiration"], answer["Expiration"]
    assert "Expiration" not in s3.head_object(Bucket=name, Key="future/stays")
    upload = s3.create_multipart_upload(Bucket=name, Key="any")
    assert upload["AbortRuleId"] == "rest" and upload["AbortDate"] > datetime.datetime.now(UTC), upload
    parts = s3.list_parts(Bucket=name, Key="any", UploadId=upload["UploadId"])
    assert (parts["AbortRuleId"], parts["AbortDate"]) == ("rest", upload["AbortDate"])
    s3.abort_multipart_upload(Bucket=name, Key="any", UploadId=upload["UploadId"])
    deadline = time.monotonic() + 120
    while s3.list_objects_v2(Bucket=name, Prefix="past/")["KeyCount"]:
        assert time.monotonic() < deadline, "what is past its date has not expired"
        time.sleep(0.1)
    assert s3.list_objects_v2(Bucket=name)["KeyCount"] == 2

    def wrong(code, **rule):
        rules = [{"ID": "r", "Status": "Enabled", "Filter": {"Prefix": ""}, **rule}]
        refused(s3.put_bucket_lifecycle_configuration, code, 400, Bucket=name, LifecycleConfiguration={"Rules": rules})

    wrong("InvalidRequest")
    wrong("InvalidArgument", Expiration={"Days": 0})
    wrong("InvalidArgument", ID="x" * 256, Expiration={"Days": 1})
    wrong("InvalidArgument", Expiration={"Date": datetime.datetime(2030, 1, 1, 5, tzinfo=UTC)})
    wrong("MalformedXML", Status="enabled", Expiration={"Days": 1})
    wrong("MalformedXML", Prefix="too", Expiration={"Days": 1})
    wrong("MalformedXML", Expiration={"Days": 1, "ExpiredObjectDeleteMarker": True})
    wrong("InvalidRequest", Filter={"Tag": {"Key": "a", "Value": ""}}, AbortIncompleteMultipartUpload={"DaysAfterInitiation": 1})
    wrong("InvalidArgument", NoncurrentVersionExpiration={"NoncurrentDays": 1, "NewerNoncurrentVersions": 101})
    wrong("InvalidStorageClass", Transitions=[{"Days": 1, "StorageClass": "GLACIER"}])
    twice = [{"ID": "r", "Status": "Enabled", "Prefix": "", "Expiration": {"Days": 1}}] * 2
    refused(s3.put_bucket_lifecycle_configuration, "InvalidArgument", 400, Bucket=name, LifecycleConfiguration={"Rules": twice})
    assert s3.get_bucket_lifecycle_configuration(Bucket=name)["Rules"] == rules, "what was refused has changed nothing"
    s3.delete_bucket_lifecycle(Bucket=name)
    assert "Expiration" not in s3.head_object(Bucket=name, Key="tmp/x")


def race():
    """Many clients put and delete versions of few keys; afterwards exactly what was acknowledged is there."""
    name = bucket(client(), "race", "Enabled")
    acknowledged, removed, problems = {}, set(), []
    guard = threading.Lock()

    def work(number):
        s3, chance = client(), random.Random(number)
        try:
            for turn in range(25):
                key, body = chance.choice("ab"), b"%d %d" % (number, turn)
                version = s3.put_object(Bucket=name, Key=key, Body=body)["VersionId"]
                assert read(s3, Bucket=name, Key=key, VersionId=version) == body
                with guard:
                    assert version not in acknowledged, "an id was given twice"
                    acknowledged[version] = (key, body)
                if turn % 3 == 0:
                    s3.delete_object(Bucket=name, Key=key, VersionId=version)
                    with guard:
                        removed.add(version)
        except Exception as problem:
            problems.append(problem)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems, problems
    s3 = client()
    left = {version: (key, latest) for key, version, latest, _ in listed(s3, name, PaginationConfig={"PageSize": 9})}
    assert set(left) == set(acknowledged) - removed
    for key in "ab":
        latest = [version for version, (found, is_latest) in left.items() if found == key and is_latest]
        assert len(latest) == 1, latest
        assert read(s3, Bucket=name, Key=key) == acknowledged[latest[0]][1]
    empty(s3, name)


def write_forever(state):
    """Changes versions of few keys until the appliance goes away; writes down what was asked and what was answered."""
    s3, chance = client(connect_timeout=10, read_timeout=60), random.Random(state)
    name = "crash-" + os.path.basename(state)
    bucket(s3, name, ObjectLockEnabledForBucket=True)
    versions, held = [], set()
    with open(state, "w", encoding="utf-8") as told:

        def tell(**facts):
            told.write(json.dumps(facts) + "\n")
            told.flush()

        def change(call, what, version=None, **arguments):
            tell(asked=what, key=arguments["Key"], version=version)
            if version:
                arguments["VersionId"] = version
            return call(Bucket=name, **arguments)

        try:
            for number in itertools.count():
                dice, key = chance.random(), chance.choice("abc")
                if dice < 0.5 or len(versions) < 3:
                    body = b"%06d" % number * chance.choice((10, 20_000))
                    version = change(s3.put_object, "put", Key=key, Body=body, Tagging=f"n={number}")["VersionId"]
                    versions.append((key, version))
                    tell(put=version, key=key, body=body.decode(), tag=str(number))
                elif dice < 0.6:
                    version = change(s3.delete_object, "mark", Key=key)["VersionId"]
                    tell(mark=version, key=key)
                elif dice < 0.75:
                    key, version = chance.choice(versions)
                    change(s3.put_object_tagging, "tag", version, Key=key, Tagging={"TagSet": [{"Key": "n", "Value": f"t{number}"}]})
                    tell(tag=version, value=f"t{number}")
                elif dice < 0.85:
                    key, version = chance.choice(versions)
                    status = "OFF" if version in held else "ON"
                    change(s3.put_object_legal_hold, "hold", version, Key=key, LegalHold={"Status": status})
                    held ^= {version}
                    tell(hold=version, status=status)
                else:
                    free = [entry for entry in versions if entry[1] not in held]
                    if free:
                        key, version = chance.choice(free)
                        change(s3.delete_object, "delete", version, Key=key)
                        versions.remove((key, version))
                        tell(delete=version)
        except Exception as error:  # pylint: disable=broad-except
            print("ended by", type(error).__name__)


def check_written(state):
    """All that was answered is there with its bytes, tags and hold; only what was under way may be there or not."""
    s3, name = client(), "crash-" + os.path.basename(state)
    model, order, asked = {}, {}, None
    for line in open(state, encoding="utf-8"):
        fact = json.loads(line)
        if "asked" in fact:
            asked = fact
            continue
        asked = None
        if "put" in fact:
            model[fact["put"]] = {"key": fact["key"], "body": fact["body"], "tag": fact["tag"], "hold": "OFF"}
            order.setdefault(fact["key"], []).append(fact["put"])
        elif "mark" in fact:
            model[fact["mark"]] = {"key": fact["key"], "body": None}
            order.setdefault(fact["key"], []).append(fact["mark"])
        elif "tag" in fact:
            model[fact["tag"]]["tag"] = fact["value"]
        elif "hold" in fact:
            model[fact["hold"]]["hold"] = fact["status"]
        elif "delete" in fact:
            del model[fact["delete"]]
    assert len(model) > 5, "too little was written before the crash"
    unsure = asked and asked["version"]
    found = {version: (key, latest, marker) for key, version, latest, marker in listed(s3, name)}
    extra = set(found) - set(model)
    assert len(extra) <= (1 if asked and asked["asked"] in ("put", "mark") else 0), (extra, asked)
    missing = set(model) - set(found)
    assert missing <= ({unsure} if asked and asked["asked"] == "delete" else set()), (missing, asked)
    for version in set(model) & set(found):
        was, (key, latest, marker) = model[version], found[version]
        assert key == was["key"] and marker == (was["body"] is None)
        newest = [other for other in order[key] if other in found][-1]
        assert latest == (version == newest and not any(found[other][0] == key for other in extra)), (version, newest)
        if marker:
            continue
        assert read(s3, Bucket=name, Key=key, VersionId=version) == was["body"].encode()
        if version != unsure:
            where = {"Bucket": name, "Key": key, "VersionId": version}
            assert s3.get_object_tagging(**where)["TagSet"] == [{"Key": "n", "Value": was["tag"]}]
            assert s3.head_object(**where).get("ObjectLockLegalHoldStatus", "OFF") == was["hold"]
    print(len(model), "versions were answered,", len(found), "are there")


def everything(file):
    """Writes down all buckets, versions, markers, tags, locks and rules, to be compared."""
    s3, told = client(), []
    for name in sorted(entry["Name"] for entry in s3.list_buckets()["Buckets"]):
        told.append([name, s3.get_bucket_versioning(Bucket=name).get("Status")])
        for key, version, latest, marker in listed(s3, name):
            told.append([key, version, latest, marker])
            if not marker:
                where = {"Bucket": name, "Key": key, "VersionId": version}
                head = s3.head_object(**where)
                told.append([head["ETag"], str(head["LastModified"]), head.get("ObjectLockLegalHoldStatus")])
                told.append(s3.get_object_tagging(**where)["TagSet"])
    with open(file, "w", encoding="utf-8") as out:
        json.dump(told, out, indent=1)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
