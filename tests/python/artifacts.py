"""S3 as boto3 and the AWS CLI see it. Each function is one scenario; the argument names it."""

import base64
import hashlib
import http.client
import os
import subprocess
import sys
import tempfile
import urllib.parse
import zlib

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

MIB = 1 << 20


def client(**config):
    return boto3.client("s3", config=Config(retries={"max_attempts": 1}, s3={"addressing_style": "path"}, **config))


def refused(call, code, status=None, **arguments):
    try:
        call(**arguments)
    except ClientError as error:
        assert error.response["Error"]["Code"] == code, error
        if status:
            assert error.response["ResponseMetadata"]["HTTPStatusCode"] == status, error
        return error
    raise AssertionError(f"{code} was expected of {call.__name__}({arguments})")


def fetch(url, method="GET", body=None, headers=None):
    """Plain HTTP, with no header that was not asked for."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=60)
    connection.request(method, f"{parts.path}?{parts.query}", body=body, headers=headers or {})
    answer = connection.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read()


def buckets():
    s3 = client()
    s3.create_bucket(Bucket="first-bucket")
    s3.create_bucket(Bucket="first-bucket")  # again, as us-east-1 allows
    refused(s3.create_bucket, "InvalidBucketName", 400, Bucket="UPPER_case")
    refused(s3.create_bucket, "InvalidBucketName", 400, Bucket="dash-.dot")
    s3.create_bucket(Bucket="elsewhere", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    refused(s3.create_bucket, "BucketAlreadyOwnedByYou", 409, Bucket="elsewhere")
    assert s3.get_bucket_acl(Bucket="elsewhere")["Grants"][0]["Permission"] == "FULL_CONTROL"
    s3.put_bucket_acl(Bucket="elsewhere", ACL="private")
    refused(s3.put_bucket_acl, "InvalidArgument", 400, Bucket="elsewhere", ACL="everybody")
    assert s3.get_bucket_location(Bucket="elsewhere")["LocationConstraint"] == "eu-central-1"
    assert s3.get_bucket_location(Bucket="first-bucket")["LocationConstraint"] is None
    assert {"first-bucket", "elsewhere"} <= {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}
    s3.head_bucket(Bucket="elsewhere")
    refused(s3.head_bucket, "404", Bucket="nothing-here")
    s3.put_object(Bucket="elsewhere", Key="k", Body=b"1")
    refused(s3.delete_bucket, "BucketNotEmpty", 409, Bucket="elsewhere")
    s3.delete_object(Bucket="elsewhere", Key="k")
    s3.delete_bucket(Bucket="elsewhere")
    refused(s3.list_objects_v2, "NoSuchBucket", 404, Bucket="elsewhere")


def objects():
    s3 = client()
    body = os.urandom(300_000)
    answer = s3.put_object(
        Bucket="studio",
        Key="a/b c/é+%.bin",
        Body=body,
        ContentType="video/mp4",
        ContentDisposition='attachment; filename="x.mp4"',
        ContentLanguage="de",
        CacheControl="max-age=60",
        ContentEncoding="br",
        Metadata={"shot": "42", "take": "three"},
    )
    etag = answer["ETag"]
    assert etag == f'"{hashlib.md5(body).hexdigest()}"'
    where = {"Bucket": "studio", "Key": "a/b c/é+%.bin"}
    got = s3.get_object(**where)
    assert got["Body"].read() == body
    head = s3.head_object(**where)
    for answer in (got, head):
        assert answer["ETag"] == etag and answer["ContentLength"] == len(body)
        assert answer["ContentType"] == "video/mp4" and answer["ContentLanguage"] == "de"
        assert answer["CacheControl"] == "max-age=60" and answer["ContentEncoding"] == "br"
        assert answer["Metadata"] == {"shot": "42", "take": "three"}, answer["Metadata"]
    part = s3.get_object(**where, Range="bytes=100-199")
    assert part["ResponseMetadata"]["HTTPStatusCode"] == 206
    assert part["ContentRange"] == f"bytes 100-199/{len(body)}" and part["Body"].read() == body[100:200]
    assert s3.get_object(**where, Range="bytes=-7")["Body"].read() == body[-7:]
    assert s3.get_object(**where, Range="bytes=299990-")["Body"].read() == body[299_990:]
    refused(s3.get_object, "InvalidRange", 416, **where, Range="bytes=300000-")
    empty = {"Bucket": "studio", "Key": "empty"}
    s3.put_object(**empty, Body=b"")
    assert s3.get_object(**empty)["Body"].read() == b""
    assert s3.get_object(**where, ResponseContentType="text/x")["ContentType"] == "text/x"
    refused(s3.get_object, "NoSuchKey", 404, Bucket="studio", Key="nothing")
    refused(s3.put_object, "KeyTooLongError", 400, Bucket="studio", Key="k" * 1025, Body=b"")
    refused(s3.put_object, "MetadataTooLarge", 400, Bucket="studio", Key="k", Body=b"", Metadata={"a": "v" * 2100})
    refused(s3.put_object, "InvalidArgument", 400, Bucket="studio", Key="k", Body=b"", ACL="everybody")
    refused(s3.put_object, "NotImplemented", 501, Bucket="studio", Key="k", Body=b"", ServerSideEncryption="aws:kms:dsse")
    attributes = s3.get_object_attributes(**where, ObjectAttributes=["ETag", "ObjectSize", "Checksum"])
    assert attributes["ObjectSize"] == len(body) and attributes["ETag"].strip('"') == etag.strip('"')
    s3.delete_object(**where)
    s3.delete_object(**where)
    refused(s3.head_object, "404", **where)


def conditions():
    s3 = client()
    where = {"Bucket": "studio", "Key": "conditional"}
    first = s3.put_object(**where, Body=b"one", IfNoneMatch="*")["ETag"]
    refused(s3.put_object, "PreconditionFailed", 412, **where, Body=b"two", IfNoneMatch="*")
    refused(s3.put_object, "PreconditionFailed", 412, **where, Body=b"two", IfMatch='"00000000000000000000000000000000"')
    refused(s3.put_object, "NoSuchKey", 404, Bucket="studio", Key="absent", Body=b"two", IfMatch=first)
    second = s3.put_object(**where, Body=b"two", IfMatch=first)["ETag"]
    refused(s3.get_object, "PreconditionFailed", 412, **where, IfMatch=first)
    refused(s3.get_object, "304", 304, **where, IfNoneMatch=second)
    assert s3.get_object(**where, IfNoneMatch=first)["Body"].read() == b"two"
    modified = s3.head_object(**where)["LastModified"]
    refused(s3.get_object, "304", 304, **where, IfModifiedSince=modified)
    assert s3.get_object(**where, IfUnmodifiedSince=modified)["Body"].read() == b"two"
    refused(s3.delete_object, "PreconditionFailed", 412, **where, IfMatch=first)
    s3.delete_object(**where, IfMatch=second)


def listing():
    s3 = client()
    s3.create_bucket(Bucket="lists")
    keys = sorted([f"a/{n:02}" for n in range(12)] + ["b", "c/d/e", "c/d/f", "c/g", "z é+", "\x01odd"], key=str.encode)
    for key in keys:
        s3.put_object(Bucket="lists", Key=key, Body=key.encode())

    def pages(operation, **arguments):
        found = list(s3.get_paginator(operation).paginate(Bucket="lists", **arguments))
        objects = [entry["Key"] for page in found for entry in page.get("Contents", page.get("Versions", []))]
        prefixes = [entry["Prefix"] for page in found for entry in page.get("CommonPrefixes", [])]
        return objects, prefixes

    for operation in ("list_objects", "list_objects_v2", "list_object_versions"):
        for size in (1, 5, 1000):
            page = {"PaginationConfig": {"PageSize": size}}
            assert pages(operation, **page) == (keys, []), (operation, size, pages(operation, **page))
            objects, prefixes = pages(operation, Delimiter="/", **page)
            assert objects == ["\x01odd", "b", "z é+"] and prefixes == ["a/", "c/"], (operation, size, objects, prefixes)
            assert pages(operation, Prefix="c/", Delimiter="/", **page) == (["c/g"], ["c/d/"]), (operation, size)
    assert s3.list_objects_v2(Bucket="lists", StartAfter="c/d/e", MaxKeys=1)["Contents"][0]["Key"] == "c/d/f"
    one = s3.list_objects_v2(Bucket="lists", Prefix="b", FetchOwner=True)["Contents"][0]
    assert one["Size"] == 1 and one["ETag"] == f'"{hashlib.md5(b"b").hexdigest()}"' and one["Owner"]["ID"]
    none = s3.list_objects_v2(Bucket="lists", MaxKeys=0)
    assert none["KeyCount"] == 0 and not none["IsTruncated"]
    refused(s3.list_objects_v2, "InvalidArgument", 400, Bucket="lists", ContinuationToken="%%%")
    # XML 1.0 cannot say this key, and a batch delete has no encoding.
    s3.delete_object(Bucket="lists", Key="\x01odd")
    answer = s3.delete_objects(Bucket="lists", Delete={"Objects": [{"Key": key} for key in keys[1:] + ["never"]]})
    assert len(answer["Deleted"]) == len(keys) and "Errors" not in answer
    assert "Contents" not in s3.list_objects_v2(Bucket="lists")
    s3.delete_bucket(Bucket="lists")


def checksums():
    s3 = client()
    body = os.urandom(100_000)
    crc32 = base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()
    for algorithm in ("CRC32", "SHA1", "SHA256"):
        key = f"sum/{algorithm}"
        put = s3.put_object(Bucket="studio", Key=key, Body=body, ChecksumAlgorithm=algorithm)
        head = s3.head_object(Bucket="studio", Key=key, ChecksumMode="ENABLED")
        assert put[f"Checksum{algorithm}"] == head[f"Checksum{algorithm}"], algorithm
        assert head["ChecksumType"] == "FULL_OBJECT"
        assert s3.get_object(Bucket="studio", Key=key, ChecksumMode="ENABLED")["Body"].read() == body
    assert s3.head_object(Bucket="studio", Key="sum/CRC32", ChecksumMode="ENABLED")["ChecksumCRC32"] == crc32
    wrong = base64.b64encode(b"0000").decode()
    refused(s3.put_object, "BadDigest", 400, Bucket="studio", Key="sum/x", Body=body, ChecksumCRC32=wrong)
    plain = client(request_checksum_calculation="when_required")
    md5 = base64.b64encode(hashlib.md5(body).digest()).decode()
    plain.put_object(Bucket="studio", Key="sum/md5", Body=body, ContentMD5=md5)
    bad = base64.b64encode(hashlib.md5(b"").digest()).decode()
    refused(plain.put_object, "BadDigest", 400, Bucket="studio", Key="sum/x", Body=body, ContentMD5=bad)
    refused(plain.put_object, "InvalidDigest", 400, Bucket="studio", Key="sum/x", Body=body, ContentMD5="zz")
    refused(s3.head_object, "404", Bucket="studio", Key="sum/x")


def copies():
    s3 = client()
    body = os.urandom(200_000)
    s3.put_object(Bucket="studio", Key="from é", Body=body, ContentType="image/png", Metadata={"a": "1"})
    source = {"Bucket": "studio", "Key": "from é"}
    s3.copy_object(Bucket="models", Key="to", CopySource=source)
    got = s3.get_object(Bucket="models", Key="to")
    assert got["Body"].read() == body and got["Metadata"] == {"a": "1"} and got["ContentType"] == "image/png"
    s3.copy_object(Bucket="studio", Key="from é", CopySource=source, MetadataDirective="REPLACE", Metadata={"b": "2"})
    got = s3.get_object(**source)
    assert got["Body"].read() == body and got["Metadata"] == {"b": "2"}
    refused(s3.copy_object, "InvalidRequest", 400, Bucket="studio", Key="from é", CopySource=source)
    refused(s3.copy_object, "NoSuchKey", 404, Bucket="studio", Key="x", CopySource="studio/nothing")
    refused(s3.copy_object, "PreconditionFailed", 412, Bucket="studio", Key="x", CopySource=source, CopySourceIfMatch='"0"')
    refused(s3.head_object, "404", Bucket="studio", Key="x")


def multipart():
    s3 = client()
    where = {"Bucket": "studio", "Key": "movie/parts"}
    parts = [os.urandom(5 * MIB), os.urandom(5 * MIB + 3), b"the end"]
    upload = s3.create_multipart_upload(**where, Metadata={"cut": "final"}, ContentType="video/webm")["UploadId"]
    this = {**where, "UploadId": upload}
    etags = [s3.upload_part(**this, PartNumber=n, Body=part)["ETag"] for n, part in enumerate(parts, 1)]
    listed = s3.list_parts(**this)["Parts"]
    assert [(part["PartNumber"], part["Size"], part["ETag"]) for part in listed] == [
        (n, len(part), etag) for n, (part, etag) in enumerate(zip(parts, etags), 1)
    ]
    assert upload in [found["UploadId"] for found in s3.list_multipart_uploads(Bucket="studio")["Uploads"]]
    refused(s3.head_object, "404", **where)
    complete = [{"PartNumber": n, "ETag": etag} for n, etag in enumerate(etags, 1)]
    refused(s3.complete_multipart_upload, "InvalidPartOrder", 400, **this, MultipartUpload={"Parts": complete[::-1]})
    other = [{"PartNumber": 1, "ETag": etags[1]}]
    refused(s3.complete_multipart_upload, "InvalidPart", 400, **this, MultipartUpload={"Parts": other})
    refused(s3.complete_multipart_upload, "EntityTooSmall", 400, **this, MultipartUpload={"Parts": complete[:0] + [complete[2], {"PartNumber": 4, "ETag": s3.upload_part(**this, PartNumber=4, Body=b"x")["ETag"]}]})
    done = s3.complete_multipart_upload(**this, MultipartUpload={"Parts": complete})
    whole = b"".join(parts)
    digest = hashlib.md5(b"".join(hashlib.md5(part).digest() for part in parts)).hexdigest()
    assert done["ETag"] == f'"{digest}-3"', done
    got = s3.get_object(**where)
    assert got["Body"].read() == whole and got["Metadata"] == {"cut": "final"} and got["ContentType"] == "video/webm"
    edge = 5 * MIB
    assert s3.get_object(**where, Range=f"bytes={edge - 2}-{edge + 1}")["Body"].read() == whole[edge - 2 : edge + 2]
    second = s3.get_object(**where, PartNumber=2)
    assert second["Body"].read() == parts[1] and second["PartsCount"] == 3
    assert s3.complete_multipart_upload(**this, MultipartUpload={"Parts": complete})["ETag"] == done["ETag"]

    copied = s3.create_multipart_upload(Bucket="models", Key="copy", ChecksumAlgorithm="SHA256")["UploadId"]
    there = {"Bucket": "models", "Key": "copy", "UploadId": copied}
    ranged = s3.upload_part_copy(**there, PartNumber=1, CopySource=where, CopySourceRange=f"bytes=0-{edge - 1}")
    last = s3.upload_part(**there, PartNumber=2, Body=b"tail", ChecksumAlgorithm="SHA256")
    listing = [
        {"PartNumber": 1, "ETag": ranged["CopyPartResult"]["ETag"], "ChecksumSHA256": ranged["CopyPartResult"]["ChecksumSHA256"]},
        {"PartNumber": 2, "ETag": last["ETag"], "ChecksumSHA256": last["ChecksumSHA256"]},
    ]
    done = s3.complete_multipart_upload(**there, MultipartUpload={"Parts": listing})
    sums = hashlib.sha256(hashlib.sha256(parts[0]).digest() + hashlib.sha256(b"tail").digest()).digest()
    assert done["ChecksumSHA256"] == base64.b64encode(sums).decode() + "-2", done
    assert s3.get_object(Bucket="models", Key="copy")["Body"].read() == parts[0] + b"tail"

    gone = s3.create_multipart_upload(Bucket="studio", Key="gone")["UploadId"]
    s3.upload_part(Bucket="studio", Key="gone", UploadId=gone, PartNumber=1, Body=b"x")
    s3.abort_multipart_upload(Bucket="studio", Key="gone", UploadId=gone)
    refused(s3.upload_part, "NoSuchUpload", 404, Bucket="studio", Key="gone", UploadId=gone, PartNumber=1, Body=b"x")
    refused(s3.list_parts, "NoSuchUpload", 404, Bucket="studio", Key="gone", UploadId="../../etc/passwd")


def transfer():
    """boto3's own transfers: parallel parts up, parallel ranges down."""
    s3 = client()
    body = os.urandom(21 * MIB)
    with tempfile.NamedTemporaryFile() as up, tempfile.NamedTemporaryFile() as down:
        up.write(body)
        up.flush()
        s3.upload_file(up.name, "studio", "transfer")
        s3.download_file("studio", "transfer", down.name)
        assert open(down.name, "rb").read() == body
    assert s3.head_object(Bucket="studio", Key="transfer")["ETag"].endswith('-3"')


def presigned():
    for version in ("s3v4", "s3"):
        s3 = client(signature_version=version)
        body = os.urandom(1000)
        url = s3.generate_presigned_url("put_object", Params={"Bucket": "studio", "Key": "pre signed/é"}, ExpiresIn=60)
        assert ("X-Amz-Signature" in url) == (version == "s3v4"), url
        status, _, answer = fetch(url, "PUT", body)
        assert status == 200, (version, answer)
        get = s3.generate_presigned_url("get_object", Params={"Bucket": "studio", "Key": "pre signed/é"}, ExpiresIn=60)
        assert fetch(get)[2] == body
        assert fetch(get, headers={"Range": "bytes=0-9"})[::2] == (206, body[:10])
        changed = get.replace("pre%20signed", "other%20signed")
        assert changed != get and fetch(changed)[0] == 403
        late = s3.generate_presigned_url("get_object", Params={"Bucket": "studio", "Key": "k"}, ExpiresIn=8 * 24 * 3600)
        status, _, answer = fetch(late)
        assert status == 400 and b"AuthorizationQueryParametersError" in answer, (version, status, answer)
        past = s3.generate_presigned_url("get_object", Params={"Bucket": "studio", "Key": "k"}, ExpiresIn=-5)
        assert fetch(past)[0] == (400 if version == "s3v4" else 403), version
    header = client(signature_version="s3")
    refused(header.put_object, "InvalidRequest", 400, Bucket="studio", Key="k", Body=b"x")
    # Without a choice, boto3 presigns with SigV2 in us-east-1.
    url = boto3.client("s3").generate_presigned_url("get_object", Params={"Bucket": "studio", "Key": "pre signed/é"})
    assert fetch(url)[0] == 200, url


def cli():
    """The AWS CLI: cp, sync, ls, rm."""
    aws = os.path.join(os.path.dirname(sys.executable), "aws")

    def run(*arguments, expected=0):
        done = subprocess.run([aws, "s3", *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == expected, (arguments, done.stdout, done.stderr)
        return done.stdout

    with tempfile.TemporaryDirectory() as folder:
        tree = {"a.txt": b"a", "deep/er/b.bin": os.urandom(9 * MIB), "deep/c d.txt": b"c"}
        for name, body in tree.items():
            path = os.path.join(folder, "up", name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            open(path, "wb").write(body)
        run("mb", "s3://cli-bucket")
        run("sync", "--quiet", os.path.join(folder, "up"), "s3://cli-bucket/tree")
        assert run("sync", os.path.join(folder, "up"), "s3://cli-bucket/tree") == "", "nothing is left to do"
        run("sync", "--quiet", "s3://cli-bucket/tree", os.path.join(folder, "down"))
        for name, body in tree.items():
            assert open(os.path.join(folder, "down", name), "rb").read() == body, name
        assert "PRE deep/" in run("ls", "s3://cli-bucket/tree/")
        run("cp", "--quiet", "s3://cli-bucket/tree/a.txt", "s3://cli-bucket/copy.txt")
        assert run("cp", "s3://cli-bucket/copy.txt", "-") == "a"
        run("rm", "--quiet", "--recursive", "s3://cli-bucket/")
        run("rb", "s3://cli-bucket")


def write_forever(state):
    """Puts numbered objects of all sizes until the appliance goes away; writes down what was answered."""
    s3 = client(connect_timeout=10, read_timeout=60)
    number = 0
    with open(state, "w", encoding="utf-8") as answered:
        try:
            while True:
                size = (100, 60_000, 70_000, 3 * MIB)[number % 4]
                body = number.to_bytes(4, "big") * (size // 4)
                s3.put_object(Bucket="studio", Key=f"crash/{number:06}", Body=body)
                answered.write(f"+ {number}\n")
                if number % 5 == 4:
                    # Asked for is not answered: the crash may come between, with the object gone or not.
                    answered.write(f"? {number - 2}\n")
                    answered.flush()
                    s3.delete_object(Bucket="studio", Key=f"crash/{number - 2:06}")
                    answered.write(f"- {number - 2}\n")
                answered.flush()
                number += 1
        except Exception as error:  # pylint: disable=broad-except
            print("ended by", type(error).__name__)


def check_written(state):
    """Everything that was answered is there, whole, and what is listed can be read."""
    s3 = client()
    told = {"+": set(), "?": set(), "-": set()}
    for line in open(state, encoding="utf-8"):
        sign, number = line.split()
        told[sign].add(int(number))
    put, asked, gone = told["+"], told["?"], told["-"]
    assert put, "nothing was written before the crash"
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket="studio", Prefix="crash/")
    listed = {int(entry["Key"][6:]) for page in pages for entry in page.get("Contents", [])}
    missing = put - asked - listed
    assert not missing, f"acknowledged and missing: {missing}"
    assert not gone & listed, f"deleted and back: {gone & listed}"
    # The one that was under way may be there or not, but whole.
    assert len(listed - put) <= 1, listed - put
    for number in listed:
        size = (100, 60_000, 70_000, 3 * MIB)[number % 4]
        body = s3.get_object(Bucket="studio", Key=f"crash/{number:06}")["Body"].read()
        assert body == number.to_bytes(4, "big") * (size // 4), number
    print(f"{len(put)} answered, {len(listed)} listed")


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
    print("ok", sys.argv[1])
