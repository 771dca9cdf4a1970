"""Encryption at rest as boto3 sees it: SSE-S3, SSE-KMS by name, SSE-C, defaults of buckets, and copies between all of them."""

import base64
import hashlib
import io
import os
import sys

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

MIB = 1 << 20
KEYS = [bytes(range(32)), bytes(range(1, 33))]


def client():
    return boto3.client("s3", config=Config(retries={"max_attempts": 1}, s3={"addressing_style": "path"}))


def refused(call, code, status, **arguments):
    try:
        call(**arguments)
    except ClientError as error:
        told = (error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"])
        assert told == (code, status), error
        return
    raise AssertionError(f"{code} was expected of {call.__name__}")


def customer(number, prefix="SSECustomer"):
    key = KEYS[number]
    return {
        f"{prefix}Algorithm": "AES256",
        f"{prefix}Key": base64.b64encode(key).decode(),
        f"{prefix}KeyMD5": base64.b64encode(hashlib.md5(key).digest()).decode(),
    }


# How something is put, how it is read, and what is told of it.
WAYS = {
    "plain": ({}, {}, None),
    "s3": ({"ServerSideEncryption": "AES256"}, {}, "AES256"),
    "kms": ({"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "arn:aws:kms:us-east-1:1:key/k"}, {}, "aws:kms"),
    "customer": (customer(0), customer(0), None),
    "other": (customer(1), customer(1), None),
}


def told(answer, way):
    put, _, algorithm = WAYS[way]
    assert answer.get("ServerSideEncryption") == algorithm, answer
    assert answer.get("SSEKMSKeyId") == put.get("SSEKMSKeyId"), answer
    assert answer.get("SSECustomerKeyMD5") == put.get("SSECustomerKeyMD5"), answer


def same(s3, bucket, key, way, data):
    """Whole, by ranges around chunks of 64 KiB, and by HEAD."""
    read = WAYS[way][1]
    answer = s3.get_object(Bucket=bucket, Key=key, **read)
    assert answer["Body"].read() == data
    told(answer, way)
    told(s3.head_object(Bucket=bucket, Key=key, **read), way)
    size = len(data)
    for first, last in [(0, 0), (65535, 65536), (65536, 131072), (size // 2, size - 1), (1, size)]:
        if first < size:
            part = s3.get_object(Bucket=bucket, Key=key, Range=f"bytes={first}-{last}", **read)
            assert part["Body"].read() == data[first : last + 1], (key, first, last)


def objects():
    s3 = client()
    s3.create_bucket(Bucket="sealed")
    for way, (put, read, _) in WAYS.items():
        for size in [0, 1, 1000, 65536, 65537, 3 * MIB + 5]:
            data, key = os.urandom(size), f"{way}-{size}"
            answer = s3.put_object(Bucket="sealed", Key=key, Body=data, Metadata={"a": "b"}, **put)
            told(answer, way)
            shows_md5 = answer["ETag"].strip('"') == hashlib.md5(data).hexdigest()
            assert shows_md5 == (way in ("plain", "s3")), way
            same(s3, "sealed", key, way, data)
            listed = s3.list_objects_v2(Bucket="sealed", Prefix=key)["Contents"][0]
            assert (listed["Size"], listed["ETag"]) == (size, answer["ETag"])
            attributes = s3.get_object_attributes(
                Bucket="sealed", Key=key, ObjectAttributes=["ObjectSize", "Checksum"], **read
            )
            assert attributes["ObjectSize"] == size
    for wrong, code in [({}, "InvalidRequest"), (customer(1), "InvalidRequest")]:
        for call in [s3.get_object, s3.get_object_attributes]:
            more = {} if call == s3.get_object else {"ObjectAttributes": ["ETag"]}
            refused(call, code, 400, Bucket="sealed", Key="customer-1000", **wrong, **more)
        refused(s3.head_object, "400", 400, Bucket="sealed", Key="customer-1000", **wrong)
    for way in ["plain", "s3", "kms"]:
        refused(s3.get_object, "InvalidRequest", 400, Bucket="sealed", Key=f"{way}-1000", **customer(0))
    bad = {**customer(0), "SSECustomerKeyMD5": "AAAAAAAAAAAAAAAAAAAAAA=="}
    refused(s3.put_object, "InvalidArgument", 400, Bucket="sealed", Key="x", Body=b"x", **bad)
    both = {**customer(0), "ServerSideEncryption": "AES256"}
    refused(s3.put_object, "InvalidArgument", 400, Bucket="sealed", Key="x", Body=b"x", **both)
    refused(s3.put_object, "InvalidArgument", 400, Bucket="sealed", Key="x", Body=b"x", SSEKMSKeyId="k")
    refused(s3.put_object, "NotImplemented", 501, Bucket="sealed", Key="x", ServerSideEncryption="aws:kms:dsse")
    refused(s3.head_object, "404", 404, Bucket="sealed", Key="x")


def copies():
    s3 = client()
    s3.create_bucket(Bucket="copies")
    data = os.urandom(6 * MIB + 3)
    for source, (put, _, _) in WAYS.items():
        s3.put_object(Bucket="copies", Key=source, Body=data, **put)
        opened = {f"CopySource{name}": value for name, value in WAYS[source][1].items()}
        where = {"Bucket": "copies", "Key": source}
        for target, (sealed, _, _) in WAYS.items():
            name = f"{source}-to-{target}"
            answer = s3.copy_object(Bucket="copies", Key=name, CopySource=where, **opened, **sealed)
            told(answer, target)
            same(s3, "copies", name, target, data)
            if opened:
                refused(s3.copy_object, "InvalidRequest", 400, Bucket="copies", Key="x", CopySource=where, **sealed)
            upload = s3.create_multipart_upload(Bucket="copies", Key=name, **sealed)
            told(upload, target)
            at = {"Bucket": "copies", "Key": name, "UploadId": upload["UploadId"]}
            keys = WAYS[target][1]
            one = s3.upload_part_copy(PartNumber=1, CopySource=where, **at, **opened, **keys)
            told(one, target)
            two = s3.upload_part(PartNumber=2, Body=b"tail", **at, **keys)
            told(two, target)
            parts = [
                {"PartNumber": 1, "ETag": one["CopyPartResult"]["ETag"]},
                {"PartNumber": 2, "ETag": two["ETag"]},
            ]
            if keys:
                refused(s3.upload_part, "InvalidRequest", 400, PartNumber=2, Body=b"x", **at)
                other = customer(0 if target == "other" else 1)
                refused(s3.upload_part, "InvalidRequest", 400, PartNumber=2, Body=b"x", **at, **other)
                refused(s3.complete_multipart_upload, "InvalidRequest", 400, MultipartUpload={"Parts": parts}, **at)
            s3.complete_multipart_upload(MultipartUpload={"Parts": parts}, **at, **keys)
            same(s3, "copies", name, target, data + b"tail")
    # An object is encrypted in place, without another change.
    s3.copy_object(Bucket="copies", Key="plain", CopySource="copies/plain", ServerSideEncryption="AES256")
    same(s3, "copies", "plain", "s3", data)


def transfer():
    """boto3's own multipart, with part numbers and a part that is put again."""
    s3 = client()
    s3.create_bucket(Bucket="transfer")
    data = os.urandom(40 * MIB + 11)
    for way, (put, read, _) in WAYS.items():
        s3.upload_fileobj(io.BytesIO(data), "transfer", way, ExtraArgs=dict(put))
        same(s3, "transfer", way, way, data)
        out = io.BytesIO()
        s3.download_fileobj("transfer", way, out, ExtraArgs=dict(read) or None)
        assert out.getvalue() == data
        first = s3.get_object(Bucket="transfer", Key=way, PartNumber=2, **read)
        assert first["Body"].read() == data[8 * MIB : 16 * MIB]


def defaults():
    s3 = client()
    s3.create_bucket(Bucket="defaults")
    at = {"Bucket": "defaults"}
    missing = "ServerSideEncryptionConfigurationNotFoundError"
    refused(s3.get_bucket_encryption, missing, 404, **at)
    refused(s3.get_bucket_encryption, "NoSuchBucket", 404, Bucket="nowhere")

    def rule(**default):
        return {"Rules": [{"ApplyServerSideEncryptionByDefault": default, "BucketKeyEnabled": "KMSMasterKeyID" in default}]}

    key = WAYS["kms"][0]["SSEKMSKeyId"]
    for way, wanted in [("s3", {"SSEAlgorithm": "AES256"}), ("kms", {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": key})]:
        s3.put_bucket_encryption(**at, ServerSideEncryptionConfiguration=rule(**wanted))
        kept = s3.get_bucket_encryption(**at)["ServerSideEncryptionConfiguration"]["Rules"][0]
        assert kept["ApplyServerSideEncryptionByDefault"] == wanted
        told(s3.put_object(**at, Key=way, Body=b"quiet on set"), way)
        same(s3, "defaults", way, way, b"quiet on set")
        # A request that says something wins.
        told(s3.put_object(**at, Key="c", Body=b"x", **customer(0)), "customer")
        told(s3.copy_object(**at, Key="copy", CopySource=f"defaults/{way}"), way)
        upload = s3.create_multipart_upload(**at, Key="parts")
        told(upload, way)
        s3.abort_multipart_upload(**at, Key="parts", UploadId=upload["UploadId"])
    bad = {"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "rot13"}}]}
    refused(s3.put_bucket_encryption, "InvalidArgument", 400, **at, ServerSideEncryptionConfiguration=bad)
    s3.delete_bucket_encryption(**at)
    s3.delete_bucket_encryption(**at)
    refused(s3.get_bucket_encryption, missing, 404, **at)
    told(s3.put_object(**at, Key="plain", Body=b"x"), "plain")
    same(s3, "defaults", "kms", "kms", b"quiet on set")


def put_known():
    """Objects of every way that the server can open alone, small, large and of parts, for tests that restart it."""
    s3 = client()
    s3.create_bucket(Bucket="known")
    for way in ["plain", "s3", "kms"]:
        for size in [10, 300_000]:
            s3.put_object(Bucket="known", Key=f"{way}-{size}", Body=bytes([7]) * size, **WAYS[way][0])
        s3.upload_fileobj(io.BytesIO(bytes([9]) * 9 * MIB), "known", f"{way}-parts", ExtraArgs=dict(WAYS[way][0]))


def get_known():
    s3 = client()
    for way in ["plain", "s3", "kms"]:
        for size in [10, 300_000]:
            same(s3, "known", f"{way}-{size}", way, bytes([7]) * size)
        same(s3, "known", f"{way}-parts", way, bytes([9]) * 9 * MIB)


globals()[sys.argv[1]](*sys.argv[2:])
