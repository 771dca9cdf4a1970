"""What browsers, players, policies and websites ask at the edges of S3. Each function is one scenario; the argument names it."""

import base64
import datetime
import http.client
import json
import os
import re
import sys
import time
import urllib.parse

import boto3
from artifacts import client, fetch, refused
from artifacts_access import client_of, key, nobody
from artifacts_events import drain, sqs_queue
from botocore.config import Config

ENDPOINT = os.environ["AWS_ENDPOINT_URL"]
HTTP = os.environ["BACKLOT_ENDPOINT"]
AUTH = {"authorization": "Basic " + base64.b64encode(b"test:test").decode()}
MIB = 1 << 20


def parts_of(kind, body):
    """The headers and bytes of each part of a multipart/byteranges body."""
    assert kind.startswith("multipart/byteranges; boundary="), kind
    mark = b"--" + kind.split("boundary=")[1].encode()
    assert body.startswith(mark + b"\r\n") and body.endswith(b"\r\n" + mark + b"--\r\n"), body[:200]
    found = []
    for part in body[: -len(mark) - 6].split(b"\r\n" + mark + b"\r\n"):
        head, _, given = part.removeprefix(mark + b"\r\n").partition(b"\r\n\r\n")
        lines = dict(line.lower().split(": ", 1) for line in head.decode().split("\r\n"))
        found.append((lines, given))
    return found


def ranges():
    s3 = client()
    s3.create_bucket(Bucket="wide")
    body = os.urandom(3 * MIB + 77)
    where = {"Bucket": "wide", "Key": "clip.mp4"}
    s3.put_object(**where, Body=body, ContentType="video/mp4", ACL="public-read")
    v4 = boto3.client("s3", config=Config(signature_version="s3v4", s3={"addressing_style": "path"}))
    doors = [
        (v4.generate_presigned_url("get_object", where), {}),
        (s3.generate_presigned_url("get_object", where), {}),
        (f"{ENDPOINT}/wide/clip.mp4", {}),
        (f"{os.environ['BACKLOT_TEST_PUBLIC']}/wide/clip.mp4", {}),
        (f"{HTTP}/v1/artifacts/wide/clip.mp4", AUTH),
    ]
    for url, headers in doors:
        get = lambda range, method="GET", **more: fetch(url, method, headers={**headers, "range": range, **more})
        status, told, given = get("bytes=0-9, 2000000-2999999,-5")
        assert status == 206 and int(told["content-length"]) == len(given), (url, status, told)
        found = parts_of(told["content-type"], given)
        assert [part for _, part in found] == [body[:10], body[2_000_000:3_000_000], body[-5:]], url
        assert [lines["content-range"] for lines, _ in found] == [
            f"bytes 0-9/{len(body)}", f"bytes 2000000-2999999/{len(body)}", f"bytes {len(body) - 5}-{len(body) - 1}/{len(body)}"
        ]
        assert all(lines["content-type"] == "video/mp4" for lines, _ in found), found[0][0]
        # Overlaps come once, what is not there is left out, one range that is left is one range.
        status, told, given = get("bytes=20-29,0-9,5-14")
        assert [part for _, part in parts_of(told["content-type"], given)] == [body[:15], body[20:30]]
        status, told, given = get(f"bytes=7-8,{len(body)}-")
        assert (status, given, told["content-range"]) == (206, body[7:9], f"bytes 7-8/{len(body)}"), told
        status, told, _ = get(f"bytes={len(body)}-,{len(body) + 1}-")
        assert status == 416, status
        # Too many, or none: as if nothing had been asked.
        for whole in ("bytes=" + ",".join(f"{n}-{n}" for n in range(100)), "bytes=x-y,1-2", "rows=1-2,3-4"):
            assert get(whole)[::2] == (200, body), whole
        etag = get("bytes=0-0")[1]["etag"]
        if "Signature" not in url and not url.startswith(ENDPOINT):
            assert get("bytes=0-1,4-5", **{"if-range": etag})[0] == 206
            assert get("bytes=0-1,4-5", **{"if-range": '"other"'})[0] == 200
        status, told, _ = get("bytes=0-1,4-5", "HEAD") if "Signature" not in url else (200, {"content-length": str(len(body))}, b"")
        assert (status, told["content-length"]) == (200, str(len(body))), (url, status, told)
    # What a signature covers cannot be taken off.
    refused(s3.get_object, "InvalidArgument", 400, **where, Range="bytes=0-1,4-5")
    # Parts: of an upload each with its own checksum, of a put all of it.
    for algorithm, kind in (("CRC32", "COMPOSITE"), ("CRC32", "FULL_OBJECT"), ("SHA256", "COMPOSITE"), (None, None)):
        asked = {"ChecksumAlgorithm": algorithm} if algorithm else {}
        this = {"Bucket": "wide", "Key": f"parts-{algorithm}-{kind}"}
        upload = s3.create_multipart_upload(**this, **asked, **({"ChecksumType": kind} if kind else {}))["UploadId"]
        pieces, listed = [os.urandom(5 * MIB), b"tail"], []
        for number, piece in enumerate(pieces, 1):
            put = s3.upload_part(**this, UploadId=upload, PartNumber=number, Body=piece, **asked)
            sums = {name: value for name, value in put.items() if name.startswith("Checksum") and algorithm and name.endswith(algorithm)}
            listed.append({"PartNumber": number, "ETag": put["ETag"], **sums})
        s3.complete_multipart_upload(**this, UploadId=upload, MultipartUpload={"Parts": listed})
        field = f"Checksum{algorithm or 'CRC64NVME'}"
        whole = s3.head_object(**this, ChecksumMode="ENABLED")
        assert "PartsCount" not in whole and whole[field], whole
        edges = [(0, 5 * MIB - 1), (5 * MIB, 5 * MIB + 3)]
        for number, (piece, (first, last)) in enumerate(zip(pieces, edges), 1):
            for read in (s3.get_object, s3.head_object):
                part = read(**this, PartNumber=number, ChecksumMode="ENABLED")
                assert part["PartsCount"] == 2 and part["ContentLength"] == len(piece), part
                assert part["ResponseMetadata"]["HTTPStatusCode"] == 206 and part["ETag"] == whole["ETag"], part
                assert part["ResponseMetadata"]["HTTPHeaders"]["content-range"] == f"bytes {first}-{last}/{5 * MIB + 4}", part
                if algorithm:
                    assert part[field] == listed[number - 1][field], (part, listed)
                assert "-" not in part[field] and part[field] != whole[field], part
                aligned = read(**this, Range=f"bytes={first}-{last}", ChecksumMode="ENABLED")
                assert aligned[field] == part[field], aligned
                assert field not in read(**this, Range=f"bytes={first}-{last - 1}", ChecksumMode="ENABLED")
            assert s3.get_object(**this, PartNumber=number, ChecksumMode="ENABLED")["Body"].read() == piece  # boto3 verifies
        refused(s3.get_object, "InvalidPart", 400, **this, PartNumber=3)
        refused(s3.get_object, "InvalidRequest", 400, **this, PartNumber=1, Range="bytes=0-1")
    one = s3.get_object(**where, PartNumber=1, ChecksumMode="ENABLED")
    assert one["Body"].read() == body and "PartsCount" not in one and one["ContentLength"] == len(body), one
    refused(s3.get_object, "InvalidPart", 400, **where, PartNumber=2)


def tag_conditions():
    house, ada = client(), client_of(key(account="ada"))
    house.create_bucket(Bucket="tagged")
    ada.create_bucket(Bucket="adas")
    anybody = {"Principal": "*", "Resource": "arn:aws:s3:::tagged/*"}
    policy = [
        {**anybody, "Effect": "Allow", "Action": ["s3:PutObjectTagging", "s3:GetObject"]},
        {**anybody, "Effect": "Deny", "Action": "s3:PutObjectTagging", "Condition": {"StringEquals": {"s3:RequestObjectTag/state": "final"}}},
        {**anybody, "Effect": "Deny", "Action": "s3:PutObjectTagging",
         "Condition": {"ForAnyValue:StringNotEquals": {"s3:RequestObjectTagKeys": ["state", "shot"]}}},
        {**anybody, "Effect": "Deny", "Action": "s3:GetObject", "Condition": {"StringEquals": {"s3:ExistingObjectTag/state": "secret"}}},
    ]
    house.put_bucket_policy(Bucket="tagged", Policy=json.dumps({"Version": "2012-10-17", "Statement": policy}))
    house.put_object(Bucket="tagged", Key="k", Body=b"x")
    tag = lambda who, **tags: who.put_object_tagging(
        Bucket="tagged", Key="k", Tagging={"TagSet": [{"Key": name, "Value": value} for name, value in tags.items()]}
    )
    tag(ada, state="raw", shot="a b+c=d")
    assert len(house.get_object_tagging(Bucket="tagged", Key="k")["TagSet"]) == 2
    for who in (ada, house):  # a denial is for the owner too
        refused(lambda **_: tag(who, state="final"), "AccessDenied", 403)
        refused(lambda **_: tag(who, state="raw", other="x"), "AccessDenied", 403)
    assert ada.get_object(Bucket="tagged", Key="k")["Body"].read() == b"x"
    tag(house, state="secret")
    refused(ada.get_object, "AccessDenied", 403, Bucket="tagged", Key="k")
    refused(nobody().put_object_tagging, "AccessDenied", 403, Bucket="adas", Key="k", Tagging={"TagSet": []})
    # A list of more accounts than eight: whoever is named reads.
    made = {name: client_of(key(account=name)) for name in (f"artist{n}" for n in range(12))}
    ids = [who.create_bucket(Bucket=f"of-{name}") and who.get_bucket_acl(Bucket=f"of-{name}")["Owner"]["ID"] for name, who in made.items()]
    house.delete_bucket_policy(Bucket="tagged")
    house.put_object_acl(Bucket="tagged", Key="k", GrantRead=",".join(f'id="{id}"' for id in ids))
    house.put_bucket_acl(Bucket="tagged", GrantRead=",".join(f'id="{id}"' for id in ids))
    assert len(house.get_object_acl(Bucket="tagged", Key="k")["Grants"]) == len(house.get_bucket_acl(Bucket="tagged")["Grants"]) == 12
    assert made["artist11"].get_object(Bucket="tagged", Key="k")["Body"].read() == b"x"
    refused(ada.get_object, "AccessDenied", 403, Bucket="tagged", Key="k")


def redirects():
    house, site = client(), {"host": "moved.s3-website.localhost"}
    house.create_bucket(Bucket="moved")
    house.put_bucket_website(Bucket="moved", WebsiteConfiguration={"IndexDocument": {"Suffix": "index.html"}})
    put = lambda name, to, **more: house.put_object(Bucket="moved", Key=name, Body=b"", WebsiteRedirectLocation=to, **{"ACL": "public-read", **more})
    put("old", "/new?a=b")
    put("away/index.html", "https://studio.example/")
    put("closed", "/new", ACL="private")
    for read in (house.get_object, house.head_object):
        assert read(Bucket="moved", Key="old")["WebsiteRedirectLocation"] == "/new?a=b"
    page = lambda path, method="GET": fetch(ENDPOINT + path, method, headers=site)
    for path, to in (("/old", "/new?a=b"), ("/away/", "https://studio.example/")):
        status, headers, _ = page(path)
        assert (status, headers["location"]) == (301, to), (status, headers)
    assert page("/old", "HEAD")[0] == 301 and page("/closed")[0] == 403
    # The other doors give the object and say where it leads.
    status, headers, _ = fetch(f"{ENDPOINT}/moved/old")
    assert (status, headers["x-amz-website-redirect-location"]) == (200, "/new?a=b"), headers
    for bad in ("new", "javascript:alert(1)", "ftp://x"):
        refused(put, "InvalidRedirectLocation", 400, name="bad", to=bad)
    # A copy has its own or none; an upload has what it was begun with.
    house.copy_object(Bucket="moved", Key="copy", CopySource="moved/old")
    assert "WebsiteRedirectLocation" not in house.head_object(Bucket="moved", Key="copy")
    house.copy_object(Bucket="moved", Key="copy", CopySource="moved/copy", WebsiteRedirectLocation="/x")
    assert house.head_object(Bucket="moved", Key="copy")["WebsiteRedirectLocation"] == "/x"
    this = {"Bucket": "moved", "Key": "parts"}
    upload = house.create_multipart_upload(**this, WebsiteRedirectLocation="/y")["UploadId"]
    part = house.upload_part(**this, UploadId=upload, PartNumber=1, Body=b"x")
    house.complete_multipart_upload(**this, UploadId=upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]})
    assert house.head_object(**this)["WebsiteRedirectLocation"] == "/y"


def early_refusals():
    """A quota that a body would exceed is told before the body is sent; conditions on what is not there."""
    house = client()
    house.create_bucket(Bucket="small")
    body = json.dumps({"bytes": 1000}).encode()
    assert fetch(HTTP + "/v1/buckets/small/quota", "PUT", body, {**AUTH, "content-type": "application/json"})[0] == 200
    house.put_object(Bucket="small", Key="k", Body=b"x" * 900)
    v4 = boto3.client("s3", config=Config(signature_version="s3v4", s3={"addressing_style": "path"}))
    for name, length, status in (("k", 1001, 403), ("other", 101, 403)):
        url = urllib.parse.urlsplit(v4.generate_presigned_url("put_object", {"Bucket": "small", "Key": name}))
        connection = http.client.HTTPConnection(url.netloc, timeout=30)
        connection.putrequest("PUT", f"{url.path}?{url.query}")
        connection.putheader("content-length", str(length))
        connection.endheaders()
        answer = connection.getresponse()  # no byte of the body was sent
        assert answer.status == status and b"QuotaExceeded" in answer.read()
    house.put_object(Bucket="small", Key="k", Body=b"y" * 1000)
    refused(house.copy_object, "QuotaExceeded", 403, Bucket="small", Key="copy", CopySource="small/k")
    refused(house.delete_object, "NoSuchKey", 404, Bucket="small", Key="absent", IfMatch="*")
    refused(house.put_object, "NoSuchKey", 404, Bucket="small", Key="absent", Body=b"", IfMatch="*")
    house.put_bucket_versioning(Bucket="small", VersioningConfiguration={"Status": "Enabled"})
    house.delete_object(Bucket="small", Key="k")
    refused(house.delete_object, "PreconditionFailed", 412, Bucket="small", Key="k", IfMatch="*")
    refused(house.put_object, "NoSuchKey", 404, Bucket="small", Key="k", Body=b"", IfMatch="*")


def rules_tell():
    """What a lifecycle rule does is told to the queue that the bucket names."""
    s3, (sqs, url) = client(), sqs_queue("ruled")
    listen = {"QueueConfigurations": [{"QueueArn": "arn:aws:sqs:us-east-1:000000000000:ruled",
                                       "Events": ["s3:LifecycleExpiration:*", "s3:LifecycleTransition"]}]}
    yesterday = datetime.datetime.now(datetime.timezone.utc).replace(hour=0, minute=0, second=0, microsecond=0)
    rule = {"Rules": [{"ID": "all", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Date": yesterday}}]}
    for bucket in ("rules-plain", "rules-kept"):
        s3.create_bucket(Bucket=bucket)
    s3.put_bucket_versioning(Bucket="rules-kept", VersioningConfiguration={"Status": "Enabled"})
    for bucket in ("rules-plain", "rules-kept"):
        s3.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration=listen, SkipDestinationValidation=True)
        s3.put_object(Bucket=bucket, Key="a b.exr", Body=b"x")
        s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration=rule)
    records = [body["Records"][0] for body in drain(sqs, url, 2)]
    by_bucket = {record["s3"]["bucket"]["name"]: record for record in records}
    plain, kept = by_bucket["rules-plain"], by_bucket["rules-kept"]
    assert plain["eventName"] == "LifecycleExpiration:Delete" and "versionId" not in plain["s3"]["object"], plain
    assert plain["userIdentity"]["principalId"] == "s3.amazonaws.com" and plain["s3"]["object"]["key"] == "a+b.exr", plain
    assert kept["eventName"] == "LifecycleExpiration:DeleteMarkerCreated", kept
    marker = s3.list_object_versions(Bucket="rules-kept")["DeleteMarkers"][0]
    assert marker["VersionId"] == kept["s3"]["object"]["versionId"], (marker, kept)


FIELD = re.compile(r'\[[^]]*\]|"[^"]*"|\S+')


def lines_of(bucket, prefix):
    """All lines delivered so far, as lists of their fields."""
    s3, lines = client(), []
    for entry in s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", []):
        text = s3.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read().decode()
        assert re.fullmatch(re.escape(prefix) + r"(\S+/)?\d{4}(-\d\d){5}-[0-9A-F]{16}", entry["Key"]), entry["Key"]
        assert text.endswith("\n")
        lines += [FIELD.findall(line) for line in text.splitlines()]
    return lines


def wait_for_lines(bucket, prefix, want):
    deadline = time.monotonic() + 60
    while True:
        lines = lines_of(bucket, prefix)
        if want <= {(line[6], line[7], line[9], line[10]) for line in lines}:
            return lines
        assert time.monotonic() < deadline, (want, lines)
        time.sleep(0.2)


def access_log():
    house, ada = client(), client_of(key(account="ada"))
    house.create_bucket(Bucket="watched")
    house.create_bucket(Bucket="lines")
    ada.create_bucket(Bucket="adas")
    status = lambda target, **more: {"LoggingEnabled": {"TargetBucket": target, "TargetPrefix": "plain/", **more}}
    refused(house.put_bucket_logging, "InvalidTargetBucketForLogging", 400, Bucket="watched", BucketLoggingStatus=status("adas"))
    house.put_bucket_logging(Bucket="watched", BucketLoggingStatus=status("lines"))
    # A bucket that is its own target: what is delivered makes no lines.
    house.put_bucket_logging(Bucket="lines", BucketLoggingStatus=status("lines", TargetPrefix="own/", TargetObjectKeyFormat={"PartitionedPrefix": {"PartitionDateSource": "EventTime"}}))
    body = os.urandom(70_000)
    house.put_object(Bucket="watched", Key='a "b".bin', Body=body, ACL="public-read")
    house.get_object(Bucket="watched", Key='a "b".bin', Range="bytes=10-19")["Body"].read()
    refused(house.get_object, "NoSuchKey", 404, Bucket="watched", Key="absent")
    refused(nobody().put_object, "AccessDenied", 403, Bucket="watched", Key="x", Body=b"")
    url = house.generate_presigned_url("get_object", {"Bucket": "watched", "Key": 'a "b".bin'})
    assert fetch(url, headers={"user-agent": 'say "x"', "referer": "https://studio.example/"})[0] == 200
    assert fetch(f"{os.environ['BACKLOT_TEST_PUBLIC']}/watched/a%20%22b%22.bin")[0] == 200
    name = "a%20%22b%22.bin"
    lines = wait_for_lines("lines", "plain/", {
        ("REST.PUT.OBJECT", name, "200", "-"), ("REST.GET.OBJECT", name, "206", "-"), ("REST.GET.OBJECT", name, "200", "-"),
        ("REST.GET.OBJECT", "absent", "404", "NoSuchKey"), ("REST.PUT.OBJECT", "x", "403", "AccessDenied"),
    })
    assert all(len(line) == 26 and line[1] == "watched" for line in lines), lines
    by = lambda *wanted: [line for line in lines if (line[6], line[7], line[9]) == wanted]
    put, part = by("REST.PUT.OBJECT", name, "200")[0], by("REST.GET.OBJECT", name, "206")[0]
    owner = house.get_bucket_acl(Bucket="watched")["Owner"]["ID"]
    assert put[0] == owner and put[12] == str(len(body)) and put[4].startswith("arn:aws:iam::"), put
    assert (part[11], part[12], part[19], part[21]) == ("10", str(len(body)), "SigV4", "AuthHeader"), part
    datetime.datetime.strptime(part[2], "[%d/%b/%Y:%H:%M:%S %z]")
    shown = [line for line in by("REST.GET.OBJECT", name, "200") if line[21] == "QueryString"][0]
    assert shown[16] == '"say %22x%22"' and shown[15] == '"https://studio.example/"', shown
    assert "Signature=-" in shown[8] and urllib.parse.parse_qs(urllib.parse.urlsplit(url).query)["Signature"][0] not in shown[8]
    assert by("REST.PUT.OBJECT", "x", "403")[0][4] == "-"
    # Reading the log makes lines of its own, in folders by source and day, and no more than requests were made.
    house.get_bucket_location(Bucket="lines")
    today = datetime.datetime.now(datetime.timezone.utc)
    deadline = time.monotonic() + 60
    while not any(line[6] == "REST.GET.LOCATION" for line in lines_of("lines", "own/")):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    first = house.list_objects_v2(Bucket="lines", Prefix="own/")["Contents"][0]["Key"]
    assert re.match(rf"own/\d{{12}}/[a-z0-9-]+/lines/{today:%Y}/\d\d/\d\d/", first), first
    puts = [line for line in lines_of("lines", "own/") if line[6] == "REST.PUT.OBJECT"]
    assert puts == [], puts


def read_once():
    s3 = client()
    for bucket in ("watched", "lines"):
        s3.create_bucket(Bucket=bucket)
    enabled = {"LoggingEnabled": {"TargetBucket": "lines", "TargetPrefix": "plain/"}}
    s3.put_bucket_logging(Bucket="watched", BucketLoggingStatus=enabled)
    s3.put_object(Bucket="watched", Key="k", Body=b"x")
    assert lines_of("lines", "plain/") == []


def was_delivered():
    assert [line[6] for line in lines_of("lines", "plain/")].count("REST.PUT.OBJECT") == 1


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
