"""Requests that are signed and wrong: chunk signatures, lengths, entity bombs, odd keys."""

import base64
import datetime
import hashlib
import hmac
import http.client
import os
import urllib.parse
import zlib

import boto3
from botocore.config import Config

ENDPOINT = urllib.parse.urlparse(os.environ["AWS_ENDPOINT_URL"]).netloc


def sign(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def call(method, path, body, payload_hash, extra=None, query="", when=None):
    """One SigV4 request made by hand, so that its parts can be wrong."""
    now = when or datetime.datetime.now(datetime.timezone.utc)
    stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    headers = {"host": ENDPOINT, "x-amz-content-sha256": payload_hash, "x-amz-date": stamp, **(extra or {})}
    names = ";".join(sorted(headers))
    canonical = "\n".join(
        [method, path, query, "".join(f"{name}:{headers[name]}\n" for name in sorted(headers)), names, payload_hash]
    )
    scope = f"{day}/us-east-1/s3/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = b"AWS4test"
    for part in (day, "us-east-1", "s3", "aws4_request"):
        key = sign(key, part)
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    headers["authorization"] = f"AWS4-HMAC-SHA256 Credential=test/{scope}, SignedHeaders={names}, Signature={signature}"
    connection = http.client.HTTPConnection(ENDPOINT, timeout=60)
    try:
        connection.request(method, path + ("?" + query if query else ""), body=body, headers=headers)
    except (BrokenPipeError, ConnectionResetError):
        pass  # refused before all of it was sent; the answer is there to be read
    answer = connection.getresponse()
    return answer.status, answer.read().decode(errors="replace")


def expect(outcome, status, code):
    assert outcome[0] == status and f"<Code>{code}</Code>" in outcome[1], outcome


def main():
    s3 = boto3.client("s3", config=Config(retries={"max_attempts": 1}, s3={"addressing_style": "path"}))
    # The hand-made signature is right when nothing is wrong.
    good = hashlib.sha256(b"x").hexdigest()
    assert call("PUT", "/studio/k", b"x", good)[0] == 200
    # Other bytes than were signed.
    expect(call("PUT", "/studio/k2", b"y", good), 400, "XAmzContentSHA256Mismatch")
    big = os.urandom(500_000)
    expect(call("PUT", "/studio/k2", big, good), 400, "XAmzContentSHA256Mismatch")
    # A replay from an hour ago.
    hour = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(hours=1)
    expect(call("PUT", "/studio/k2", b"x", good, when=hour), 403, "RequestTimeTooSkewed")
    # Chunks whose signature is not the one that follows from the request's.
    chunked = b"1;chunk-signature=" + b"0" * 64 + b"\r\nx\r\n0;chunk-signature=" + b"0" * 64 + b"\r\n\r\n"
    streaming = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
    decoded = {"x-amz-decoded-content-length": "1"}
    expect(call("PUT", "/studio/k2", chunked, streaming, decoded), 403, "SignatureDoesNotMatch")
    # Chunks that are no chunks, and lengths that are not so.
    for body in (b"zz\r\nx\r\n", b"\xff" * 3000, b"5\r\nx\r\n0\r\n\r\n", b"1\r\nx\r\n"):
        trailer = {"x-amz-decoded-content-length": "1", "x-amz-trailer": "x-amz-checksum-crc32"}
        status, answer = call("PUT", "/studio/k2", body, "STREAMING-UNSIGNED-PAYLOAD-TRAILER", trailer)
        assert 400 <= status < 500 and "<Code>" in answer, (body[:20], status, answer)
    # A signed chunk that would have to be held whole; one that is not signed may be as long as it likes.
    large = b"1000001;chunk-signature=" + b"0" * 64 + b"\r\n" + b"x" * 70_000
    expect(call("PUT", "/studio/k2", large, streaming, {"x-amz-decoded-content-length": "16777217"}), 400, "InvalidRequest")
    data = b"y" * (17 << 20)
    crc = base64.b64encode(zlib.crc32(data).to_bytes(4, "big"))
    single = b"%x\r\n" % len(data) + data + b"\r\n0\r\nx-amz-checksum-crc32:" + crc + b"\r\n\r\n"
    announced = trailer | {"x-amz-decoded-content-length": str(len(data))}
    status, answer = call("PUT", "/studio/single", single, "STREAMING-UNSIGNED-PAYLOAD-TRAILER", announced)
    assert status == 200, (status, answer)
    assert s3.get_object(Bucket="studio", Key="single")["Body"].read() == data
    s3.delete_object(Bucket="studio", Key="single")
    # A trailer that says another checksum than the bytes have.
    wrong = b"1\r\nx\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n"
    expect(call("PUT", "/studio/k2", wrong, "STREAMING-UNSIGNED-PAYLOAD-TRAILER", trailer), 400, "BadDigest")
    # An entity bomb, XML that is none, and XML that is too long.
    bomb = '<?xml version="1.0"?><!DOCTYPE d [<!ENTITY a "aaaaaaaaaa">' + "".join(
        f'<!ENTITY {chr(98 + n)} "{("&" + chr(97 + n) + ";") * 10}">' for n in range(9)
    )
    bomb += "]><Delete><Object><Key>&j;</Key></Object></Delete>"
    for body in (bomb.encode(), b"<Delete><Object>", b"\x00\x01", b"<a>" * 100_000):
        digest = hashlib.sha256(body).hexdigest()
        status, answer = call("POST", "/studio", body, digest, query="delete=")
        assert 400 <= status < 500 and "<Code>" in answer, (body[:20], status, answer)
    # XML that is another than was signed is the caller's fault, and deletes nothing.
    delete = b"<Delete><Object><Key>k</Key></Object></Delete>"
    expect(call("POST", "/studio", delete, good, query="delete="), 400, "XAmzContentSHA256Mismatch")
    assert s3.get_object(Bucket="studio", Key="k")["Body"].read() == b"x"
    long = b" " * (5 << 20)
    status, answer = call("POST", "/studio", long, hashlib.sha256(long).hexdigest(), query="delete=")
    assert 400 <= status < 500, (status, answer)
    # An operation that is not served, in S3's words.
    expect(call("GET", "/studio", None, hashlib.sha256(b"").hexdigest(), query="replication="), 501, "NotImplemented")
    # Keys that look like paths are keys.
    s3.delete_object(Bucket="studio", Key="k")
    for key in ("../../../../tmp/evil", "/../x", "a\0b", "\uffffé"):
        s3.put_object(Bucket="studio", Key=key, Body=key.encode())
        assert s3.get_object(Bucket="studio", Key=key)["Body"].read() == key.encode()
    assert not os.path.exists("/tmp/evil")


if __name__ == "__main__":
    main()
    print("ok")
