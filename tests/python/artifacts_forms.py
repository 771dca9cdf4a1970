"""POST-object forms: both signatures, none, policies that are kept and broken, and forms that nobody would send."""

import base64
import concurrent.futures
import datetime
import hashlib
import hmac
import http.client
import json
import os
import sys
import urllib.parse
import uuid

import boto3
from artifacts import client, refused
from artifacts_access import nobody
from botocore.config import Config

ENDPOINT = urllib.parse.urlparse(os.environ["AWS_ENDPOINT_URL"]).netloc


def form(fields, file=b"", path="/forms", filename="shot.png", boundary=None):
    """One form as a browser sends it: status, headers, body."""
    boundary = boundary or uuid.uuid4().hex
    body = b""
    for name, value in fields.items():
        body += f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + str(value).encode() + b"\r\n"
    body += f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{filename}"\r\n'.encode()
    body += b"Content-Type: application/octet-stream\r\n\r\n" + file + f"\r\n--{boundary}--\r\n".encode()
    return post(body, f"multipart/form-data; boundary={boundary}", path)


def post(body, kind, path="/forms"):
    connection = http.client.HTTPConnection(ENDPOINT, timeout=60)
    try:
        connection.request("POST", path, body=body, headers={"content-type": kind})
    except (BrokenPipeError, ConnectionResetError):
        pass  # refused before all of it was sent; the answer is there to be read
    answer = connection.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read()


def second(conditions, minutes=10, **fields):
    """Fields of a form signed with SigV2."""
    ends = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(minutes=minutes)
    policy = {"expiration": ends.strftime("%Y-%m-%dT%H:%M:%SZ"), "conditions": [{"bucket": "forms"}, *conditions]}
    text = base64.b64encode(json.dumps(policy).encode())
    signature = base64.b64encode(hmac.new(b"test", text, hashlib.sha1).digest()).decode()
    return {"AWSAccessKeyId": "test", "signature": signature, "policy": text.decode(), **fields}


def fourth(signed, **fields):
    """Fields of a form signed with SigV4 at some time, and good for two weeks from then on."""
    date = signed.strftime("%Y%m%dT%H%M%SZ")
    fields |= {"x-amz-algorithm": "AWS4-HMAC-SHA256", "x-amz-credential": f"test/{date[:8]}/eu-west-1/s3/aws4_request", "x-amz-date": date}
    ends = (signed + datetime.timedelta(days=14)).strftime("%Y-%m-%dT%H:%M:%SZ")
    policy = {"expiration": ends, "conditions": [{name: value} for name, value in fields.items()]}
    text, key = base64.b64encode(json.dumps(policy).encode()), b"AWS4test"
    for part in (date[:8].encode(), b"eu-west-1", b"s3", b"aws4_request", text):
        key = hmac.new(key, part, hashlib.sha256).digest()
    return {**fields, "policy": text.decode(), "x-amz-signature": key.hex()}


def large(megabytes):
    """One form that is larger than the memory that the appliance should take for it."""
    megabytes = int(megabytes)
    client().create_bucket(Bucket="forms")
    fields, piece = second([["starts-with", "$key", ""]], key="large"), os.urandom(1 << 20)
    head = b"".join(f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode() for name, value in fields.items())
    head += b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n'
    tail = b"\r\n--b--\r\n"
    connection = http.client.HTTPConnection(ENDPOINT, timeout=120)
    length = len(head) + megabytes * len(piece) + len(tail)
    headers = {"content-type": "multipart/form-data; boundary=b", "content-length": str(length)}
    connection.request("POST", "/forms", body=iter([head, *[piece] * megabytes, tail]), headers=headers)
    assert connection.getresponse().status == 204
    assert client().head_object(Bucket="forms", Key="large")["ContentLength"] == megabytes << 20


def main():
    s3, anonymous = client(), nobody()
    s3.create_bucket(Bucket="forms")
    read = lambda name: s3.get_object(Bucket="forms", Key=name)["Body"].read()
    signer = boto3.client("s3", config=Config(signature_version="s3v4"))
    # SigV4, as boto3 makes it, with a list, tags, metadata, and the three ways of an answer.
    tags = "<Tagging><TagSet><Tag><Key>team</Key><Value>vfx</Value></Tag></TagSet></Tagging>"
    extra = {"acl": "public-read", "x-amz-meta-shot": "42", "success_action_status": "201", "tagging": tags}
    made = signer.generate_presigned_post(
        "forms", "four/${x}", Fields=extra, Conditions=[{name: value} for name, value in extra.items()]
    )
    status, headers, body = form(made["fields"], b"four")
    assert status == 201 and b"<PostResponse" in body and b"<Key>four/${x}</Key>" in body, (status, body)
    head = s3.head_object(Bucket="forms", Key="four/${x}")
    assert head["Metadata"] == {"shot": "42"}, head
    assert anonymous.get_object(Bucket="forms", Key="four/${x}")["Body"].read() == b"four"
    assert s3.get_object_tagging(Bucket="forms", Key="four/${x}")["TagSet"] == [{"Key": "team", "Value": "vfx"}]
    back = {"success_action_redirect": "http://studio.example/done?a=b"}
    made = signer.generate_presigned_post("forms", "back", Fields=back, Conditions=[back])
    status, headers, _ = form(made["fields"], b"back")
    assert status == 303 and headers["location"].startswith("http://studio.example/done?a=b&bucket=forms&key=back&etag="), headers
    # SigV2, and nobody's form where anybody may write.
    starts = [["starts-with", "$key", "two/"], ["content-length-range", 0, 100]]
    assert form(second(starts, key="two/a"), b"two")[0] == 204
    assert read("two/a") == b"two"
    assert form({"key": "nobody"}, b"x")[0] == 403
    s3.put_bucket_acl(Bucket="forms", ACL="public-read-write")
    assert form({"key": "nobody"}, b"x")[0] == 204
    s3.put_bucket_acl(Bucket="forms", ACL="private")
    # A policy of the bucket sees a form's fields as headers.
    deny = {"Effect": "Deny", "Principal": "*", "Action": "s3:PutObject", "Resource": "arn:aws:s3:::forms/*",
            "Condition": {"StringLike": {"s3:x-amz-acl": "public*"}}}
    s3.put_bucket_policy(Bucket="forms", Policy=json.dumps({"Version": "2012-10-17", "Statement": deny}))
    open_list = [["starts-with", "$key", ""], {"acl": "public-read"}]
    assert form(second(open_list, key="two/b", acl="public-read"), b"x")[0] == 403
    assert form(second([["starts-with", "$key", ""]], key="two/b"), b"x")[0] == 204
    s3.delete_bucket_policy(Bucket="forms")
    # Broken promises: each is refused, and nothing is written.
    before = {entry["Key"] for entry in s3.list_objects_v2(Bucket="forms")["Contents"]}
    for what, outcome, statuses in (
        ("another key", form(second(starts, key="other"), b"x"), (400, 403)),
        ("a field that the policy does not name", form(second(starts, key="two/c", acl="public-read"), b"x"), (403,)),
        ("too long", form(second(starts, key="two/c"), b"x" * 101), (400,)),
        ("too late", form(second(starts, minutes=-1, key="two/c"), b"x"), (403,)),
        ("another signature", form({**second(starts, key="two/c"), "signature": "AAAA"}, b"x"), (403,)),
        ("another policy", form({**second(starts, key="two/c"), "policy": second([["starts-with", "$key", ""]])["policy"]}, b"x"), (403,)),
        ("no such key", form({**second(starts, key="two/c"), "AWSAccessKeyId": "nobody"}, b"x"), (403,)),
        ("no policy", form({"key": "two/c", "AWSAccessKeyId": "test", "signature": "AAAA"}, b"x"), (400, 403)),
        ("a policy that is none", form({**second([], key="two/c"), "policy": "%%%"}, b"x"), (400, 403)),
        ("no key", form(second(starts), b"x"), (400,)),
        ("a long key", form(second([["starts-with", "$key", ""]], key="k" * 1025), b"x"), (400,)),
        ("a bucket that is not there", form(second(starts, key="two/c"), b"x", path="/nowhere"), (403, 404, 400)),
        ("a long field", form(second([["starts-with", "$key", ""]], key="two/c", **{"x-ignore-a": "y" * 30_000}), b"x"), (400,)),
        ("many fields", form(second([], key="two/c", **{f"x-ignore-{n}": "y" for n in range(200)}), b"x"), (400,)),
        ("no end", post(b"--b\r\nContent-Disposition: form-data; name=\"key\"\r\n\r\nx", "multipart/form-data; boundary=b"), (400, 403)),
        ("no boundary", post(b"x", "multipart/form-data"), (400, 403, 501)),
        ("garbage", post(os.urandom(5000), "multipart/form-data; boundary=b"), (400, 403)),
    ):
        assert outcome[0] in statuses and b"<Code>" in outcome[2], (what, outcome)
    # Keys are names, whatever they look like.
    for name in ("../../etc/passwd", "a/../b", "é" * 512, "two/%00"):
        assert form(second([["starts-with", "$key", ""]], key=name), b"odd")[0] == 204, name
        assert read(name) == b"odd"
        s3.delete_object(Bucket="forms", Key=name)
    assert {entry["Key"] for entry in s3.list_objects_v2(Bucket="forms")["Contents"]} == before
    # Bytes that could each begin the boundary, wherever the pieces of the body end.
    returns = b"\r" * (4 << 20)
    assert form(second([["starts-with", "$key", ""]], key="returns"), returns)[0] == 204
    assert read("returns") == returns
    s3.delete_object(Bucket="forms", Key="returns")
    # The file's own name, wherever a field asks for it, and none of the folders it lay in; the policy sees what comes of it.
    filled = second([["starts-with", "$key", "two/shot"], ["starts-with", "$x-amz-meta-of", ""]], key="two/${filename}", **{"x-amz-meta-of": "of ${filename}"})
    assert form(filled, b"named", filename="C:\\takes\\shot 1.png")[0] == 204 and read("two/shot 1.png") == b"named"
    assert s3.head_object(Bucket="forms", Key="two/shot 1.png")["Metadata"] == {"of": "of shot 1.png"}
    assert form(filled, b"named", filename="other.png")[0] == 403
    # A form that was signed a while ago is as good as its policy says; a checksum is checked; an answer says what was stored.
    old = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(hours=30)
    status, headers, _ = form(fourth(old, key="two/old"), b"old")
    assert status == 204 and headers["etag"] == f'"{hashlib.md5(b"old").hexdigest()}"' and headers["location"].endswith("/forms/two/old"), headers
    assert form(fourth(old - datetime.timedelta(days=7), key="two/older"), b"old")[0] == 403
    sum_of = lambda text: base64.b64encode(hashlib.sha256(text).digest()).decode()
    other = {"x-amz-expected-bucket-owner": "111111111111"}
    assert form(second([["starts-with", "$key", ""], other], key="two/other", **other), b"x")[0] == 403
    checked = second([["starts-with", "$key", ""]], key="two/sum", **{"x-amz-checksum-sha256": sum_of(b"sum")})
    assert form(checked, b"sum")[0] == 204 and form(checked, b"mus")[0] == 400
    assert s3.head_object(Bucket="forms", Key="two/sum", ChecksumMode="ENABLED")["ChecksumSHA256"] == sum_of(b"sum")
    # A form that breaks off stores nothing, however much of it came.
    fields = second([["starts-with", "$key", ""]], key="two/broken")
    body = b"".join(f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode() for name, value in fields.items())
    body += b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + b"x" * 200_000
    assert post(body, "multipart/form-data; boundary=b")[0] == 400
    refused(s3.head_object, "404", 404, Bucket="forms", Key="two/broken")
    for name in ("two/shot 1.png", "two/old", "two/sum"):
        s3.delete_object(Bucket="forms", Key=name)
    # Many large forms at once: all are stored.
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        big = os.urandom(8 << 20)
        many = [pool.submit(form, second([["starts-with", "$key", ""]], key=f"many/{n}"), big) for n in range(24)]
        statuses = [future.result()[0] for future in many]
    assert set(statuses) == {204}, statuses
    stored = [entry for entry in s3.list_objects_v2(Bucket="forms", Prefix="many/")["Contents"] if entry["Size"] == len(big)]
    assert len(stored) == statuses.count(204), (len(stored), statuses)
    refused(s3.get_object, "NoSuchKey", 404, Bucket="forms", Key="two/c")


if __name__ == "__main__":
    globals()[sys.argv[1] if len(sys.argv) > 1 else "main"](*sys.argv[2:])
