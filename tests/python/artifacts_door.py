"""The store as a door to another S3, as boto3 and hand-made requests see it. Each function is one scenario; the argument names it.

UPSTREAM_URL is the other S3, UPSTREAM_KEY and UPSTREAM_SECRET a key there, as whom the tests look behind the door.
"""

import base64
import hashlib
import http.client
import json
import os
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
import zlib

import boto3
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

MIB = 1 << 20
DOOR = os.environ["AWS_ENDPOINT_URL"]


def client(key="test", secret="test", endpoint=None, **config):
    settings = Config(retries={"max_attempts": 1}, s3={"addressing_style": "path"}, **config)
    return boto3.client(
        "s3", aws_access_key_id=key, aws_secret_access_key=secret, endpoint_url=endpoint or DOOR, config=settings
    )


def behind():
    """The other S3, without the door."""
    return client(os.environ["UPSTREAM_KEY"], os.environ["UPSTREAM_SECRET"], os.environ["UPSTREAM_URL"])


def refused(call, code, status, **arguments):
    try:
        call(**arguments)
    except ClientError as error:
        assert error.response["Error"]["Code"] == code, error
        assert error.response["ResponseMetadata"]["HTTPStatusCode"] == status, error
        return error.response
    raise AssertionError(f"{code} was expected of {call.__name__}({arguments})")


def native(method, path, body=None, key="test:test"):
    """A call of the http door."""
    request = urllib.request.Request(os.environ["BACKLOT_ENDPOINT"] + path, method=method)
    request.add_header("authorization", "Basic " + base64.b64encode(key.encode()).decode())
    data = None
    if body is not None:
        request.add_header("content-type", "application/json")
        data = json.dumps(body).encode()
    with urllib.request.urlopen(request, data=data, timeout=60) as answer:
        return answer.read()


def key(role, account=None):
    made = json.loads(native("POST", "/v1/keys", {"role": role, **({"account": account} if account else {})}))
    return made["key_id"], made["secret"]


def fetch(url, method="GET", body=None, headers=None):
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=60)
    connection.request(method, f"{parts.path}?{parts.query}", body=body, headers=headers or {})
    answer = connection.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read()


ODD = ["a/b c/é+%.bin", "plus+and=equals", "a//b", "dots/../up/./here", "~tilde'(quotes)!*", "日本/語 ü", "q?a=b&c#d", "back\\slash", "%41%2F"]


def everything():
    """What a studio does, through the door onto whatever S3 is behind it."""
    s3, there = client(), behind()
    s3.create_bucket(Bucket="studio")
    assert "studio" in [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]
    for name in ODD:
        body = name.encode() * 100
        put = s3.put_object(Bucket="studio", Key=name, Body=body, ContentType="video/mp4", Metadata={"shot": "42"})
        assert put["ETag"] == f'"{hashlib.md5(body).hexdigest()}"', name
        for side in (s3, there):
            got = side.get_object(Bucket="studio", Key=name)
            assert got["Body"].read() == body and got["ContentType"] == "video/mp4", name
            assert got["Metadata"] == {"shot": "42"}, name
        head = s3.head_object(Bucket="studio", Key=name)
        assert head["ContentLength"] == len(body) and head["ETag"] == put["ETag"], name
    assert sorted(entry["Key"] for entry in s3.list_objects_v2(Bucket="studio")["Contents"]) == sorted(ODD)
    body = os.urandom(300_000)
    s3.put_object(Bucket="studio", Key="range", Body=body)
    part = s3.get_object(Bucket="studio", Key="range", Range="bytes=100-199")
    assert part["ResponseMetadata"]["HTTPStatusCode"] == 206 and part["Body"].read() == body[100:200]
    assert part["ContentRange"] == "bytes 100-199/300000"
    refused(s3.get_object, "InvalidRange", 416, Bucket="studio", Key="range", Range="bytes=300000-")
    etag = s3.head_object(Bucket="studio", Key="range")["ETag"]
    refused(s3.get_object, "304", 304, Bucket="studio", Key="range", IfNoneMatch=etag)
    refused(s3.get_object, "PreconditionFailed", 412, Bucket="studio", Key="range", IfMatch='"0"')
    refused(s3.get_object, "NoSuchKey", 404, Bucket="studio", Key="nothing")
    refused(s3.head_object, "404", 404, Bucket="studio", Key="nothing")
    s3.put_object(Bucket="studio", Key="empty", Body=b"")
    assert s3.get_object(Bucket="studio", Key="empty")["Body"].read() == b""
    s3.copy_object(Bucket="studio", Key="copied", CopySource={"Bucket": "studio", "Key": ODD[0]})
    assert there.get_object(Bucket="studio", Key="copied")["Body"].read() == ODD[0].encode() * 100

    body = os.urandom(21 * MIB)
    with tempfile.NamedTemporaryFile() as up, tempfile.NamedTemporaryFile() as down:
        up.write(body)
        up.flush()
        s3.upload_file(up.name, "studio", "transfer")
        s3.download_file("studio", "transfer", down.name)
        assert open(down.name, "rb").read() == body
    assert there.head_object(Bucket="studio", Key="transfer")["ETag"].endswith('-3"')
    upload = {"Bucket": "studio", "Key": "gone"}
    upload["UploadId"] = s3.create_multipart_upload(**upload)["UploadId"]
    s3.upload_part(**upload, PartNumber=1, Body=b"x")
    assert [part["Size"] for part in s3.list_parts(**upload)["Parts"]] == [1]
    s3.abort_multipart_upload(**upload)
    refused(s3.list_parts, "NoSuchUpload", 404, **upload)

    for version in ("s3v4", "s3"):
        signer = client(signature_version=version)
        where = {"Bucket": "studio", "Key": "pre signed/é"}
        put = signer.generate_presigned_url("put_object", Params=where, ExpiresIn=60)
        status, _, answer = fetch(put, "PUT", version.encode())
        assert status == 200, (version, answer)
        get = signer.generate_presigned_url("get_object", Params={**where, "ResponseContentType": "text/x"}, ExpiresIn=60)
        status, headers, answer = fetch(get)
        assert (status, answer) == (200, version.encode()), (version, status, answer)
        assert {name.lower(): value for name, value in headers.items()}["content-type"].startswith("text/x"), headers
        assert fetch(get, headers={"Range": "bytes=0-0"})[::2] == (206, b"s")
        assert fetch(get.replace("pre%20signed", "other"))[0] == 403, version
    many = ODD + ["range", "empty", "copied", "transfer", "pre signed/é"]
    answer = s3.delete_objects(Bucket="studio", Delete={"Objects": [{"Key": name} for name in many]})
    assert len(answer["Deleted"]) == len(many) and "Errors" not in answer, answer
    assert "Contents" not in there.list_objects_v2(Bucket="studio")


def trailers():
    """Checksums behind a body arrive at the other S3 and stay with the object: plain HTTP, so that chunks are signed by hand."""
    s3, there = client(), behind()
    for size in (0, 5, 65_536, 200_001):
        body = os.urandom(size)
        crc = base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()
        status, answer = chunked(body, f"trailer/{size}", trailer=f"x-amz-checksum-crc32:{crc}")
        assert status == 200, (size, answer)
        head = there.head_object(Bucket="studio", Key=f"trailer/{size}", ChecksumMode="ENABLED")
        assert head["ChecksumCRC32"] == crc and head["ContentLength"] == size, head
        assert "aws-chunked" not in head.get("ContentEncoding", ""), head
        assert s3.get_object(Bucket="studio", Key=f"trailer/{size}")["Body"].read() == body
    wrong = base64.b64encode(b"0000").decode()
    status, answer = chunked(b"hello", "trailer/wrong", trailer=f"x-amz-checksum-crc32:{wrong}")
    assert status == 400 and b"BadDigest" in answer, answer
    refused(there.head_object, "404", 404, Bucket="studio", Key="trailer/wrong")
    status, answer = chunked(b"hello", "trailer/none", trailer="x-amz-meta-a:b")
    assert status == 400 and b"InvalidRequest" in answer, answer
    # Signed chunks without a trailer.
    body = os.urandom(150_000)
    assert chunked(body, "chunks")[0] == 200
    assert there.get_object(Bucket="studio", Key="chunks")["Body"].read() == body
    for fault in ("chunk", "last", "short"):
        status, answer = chunked(body, f"chunks-{fault}", fault=fault)
        assert status in (400, 403), (fault, status, answer)
        refused(there.head_object, "404", 404, Bucket="studio", Key=f"chunks-{fault}")


def sign(secret, text):
    import hmac

    return hmac.new(secret, text.encode(), hashlib.sha256)


def chunked(body, name, trailer=None, fault=None):
    """A put in signed chunks of 64 KiB, made by hand so that it can be wrong."""
    kind = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" + ("-TRAILER" if trailer else "")
    request = AWSRequest("PUT", f"{DOOR}/studio/{name}")
    request.headers["x-amz-decoded-content-length"] = str(len(body))
    request.headers["content-encoding"] = "aws-chunked"
    if trailer:
        request.headers["x-amz-trailer"] = trailer.split(":")[0]
    signer = S3SigV4Auth(Credentials("test", "test"), "s3", "us-east-1")
    signer.payload = lambda _: kind
    signer._should_sha256_sign_payload = lambda _: True
    request.headers["X-Amz-Content-SHA256"] = kind
    signer.add_auth(request)
    authorization = request.headers["Authorization"]
    previous = authorization.rsplit("Signature=", 1)[1]
    date = request.context["timestamp"]
    scope = f"{date[:8]}/us-east-1/s3/aws4_request"
    secret = b"AWS4test"
    for part in scope.split("/"):
        secret = sign(secret, part).digest()
    sent, empty = b"", hashlib.sha256(b"").hexdigest()
    pieces = [body[at : at + 65_536] for at in range(0, len(body), 65_536)] + [b""]
    for number, piece in enumerate(pieces):
        digest = hashlib.sha256(piece).hexdigest()
        previous = sign(secret, f"AWS4-HMAC-SHA256-PAYLOAD\n{date}\n{scope}\n{previous}\n{empty}\n{digest}").hexdigest()
        shown = previous
        if (fault == "chunk" and number == 1) or (fault == "last" and not piece):
            shown = "0" * 64
        if fault == "short" and number == len(pieces) - 2:
            piece, digest = piece[:-1], None
        sent += f"{len(piece):x};chunk-signature={shown}\r\n".encode() + piece
        sent += b"\r\n" if piece or not trailer else b""
    if trailer:
        digest = hashlib.sha256(trailer.encode() + b"\n").hexdigest()
        last = sign(secret, f"AWS4-HMAC-SHA256-TRAILER\n{date}\n{scope}\n{previous}\n{digest}").hexdigest()
        sent += f"{trailer}\r\nx-amz-trailer-signature:{last}\r\n\r\n".encode()
    headers = {name: str(value) for name, value in request.headers.items()}
    return fetch(request.url, "PUT", sent, headers)[::2]


def reached():
    """How many requests the other Backlot has answered, without the door's own question."""
    url = os.environ["UPSTREAM_HTTP"] + "/metrics"
    lines = urllib.request.urlopen(url, timeout=60).read().decode().splitlines()
    ours = [line for line in lines if line.startswith("backlot_door_requests_total") and 'door="aws"' in line]
    return sum(float(line.rsplit(" ", 1)[1]) for line in ours if 'operation="ListBuckets"' not in line)


def refusals():
    """What the door refuses never gets behind it."""
    s3 = client()
    s3.put_object(Bucket="studio", Key="k", Body=b"secret")
    viewer, agent, operator, ada = key("viewer"), key("agent"), key("operator"), key("operator", "ada")
    before = reached()
    where = {"Bucket": "studio", "Key": "k"}
    refused(client("test", "wrong").get_object, "SignatureDoesNotMatch", 403, **where)
    refused(client("nobody", "test").get_object, "InvalidAccessKeyId", 403, **where)
    refused(client(*ada).get_object, "AccessDenied", 403, **where)
    reader = client(*viewer)
    refused(reader.put_object, "AccessDenied", 403, **where, Body=b"x")
    refused(reader.delete_object, "AccessDenied", 403, **where)
    refused(reader.create_multipart_upload, "AccessDenied", 403, **where)
    refused(reader.delete_objects, "AccessDenied", 403, Bucket="studio", Delete={"Objects": [{"Key": "k"}]})
    refused(reader.put_object_tagging, "AccessDenied", 403, **where, Tagging={"TagSet": []})
    worker = client(*agent)
    refused(worker.create_bucket, "AccessDenied", 403, Bucket="of-an-agent")
    refused(worker.delete_bucket, "AccessDenied", 403, Bucket="studio")
    refused(worker.put_bucket_policy, "AccessDenied", 403, Bucket="studio", Policy="{}")
    refused(worker.delete_object, "AccessDenied", 403, **where, BypassGovernanceRetention=True)
    refused(s3.create_session, "AccessDenied", 403, Bucket="studio")
    assert fetch(f"{DOOR}/studio/k")[0] == 403, "anonymous"
    assert fetch(f"{DOOR}/studio/k", "PUT", b"x")[0] == 403
    # A header that was added on the way to a signed URL would make a copy of it, with the operator's right.
    put = s3.generate_presigned_url("put_object", Params={"Bucket": "studio", "Key": "mine"}, ExpiresIn=60)
    for version in ("s3v4", "s3"):
        signer = client(signature_version=version)
        put = signer.generate_presigned_url("put_object", Params={"Bucket": "studio", "Key": "mine"}, ExpiresIn=60)
        status, _, answer = fetch(put, "PUT", b"", {"x-amz-copy-source": "/studio/k"})
        assert status == 403, (version, answer)
        status, _, answer = fetch(put + "&retention", "PUT", b"x")
        assert status == 403, (version, answer)
        get = signer.generate_presigned_url("get_object", Params=where, ExpiresIn=-5)
        assert fetch(get)[0] in (400, 403), version
    form = b'--b\r\nContent-Disposition: form-data; name="key"\r\n\r\nk\r\n--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\nx\r\n--b--\r\n'
    status, _, answer = fetch(f"{DOOR}/studio", "POST", form, {"content-type": "multipart/form-data; boundary=b"})
    assert status == 501, answer
    assert reached() == before, "something got behind the door"
    # Other bytes than were signed begin to go, and are never whole there.
    request = AWSRequest("PUT", f"{DOOR}/studio/other", data=b"what was signed")
    S3SigV4Auth(Credentials("test", "test"), "s3", "us-east-1").add_auth(request)
    headers = {name: str(value) for name, value in request.headers.items()}
    status, _, answer = fetch(request.url, "PUT", b"what was sent!!", headers)
    assert status == 400 and b"XAmzContentSHA256Mismatch" in answer, answer
    refused(behind().head_object, "404", 404, Bucket="studio", Key="other")
    # What each may.
    assert reader.get_object(**where)["Body"].read() == b"secret"
    assert reader.list_objects_v2(Bucket="studio")["KeyCount"] >= 1
    worker.put_object(Bucket="studio", Key="of-an-agent", Body=b"x")
    worker.delete_objects(Bucket="studio", Delete={"Objects": [{"Key": "of-an-agent"}]})
    client(*operator).create_bucket(Bucket="of-an-operator")
    client(*operator).put_bucket_tagging(Bucket="of-an-operator", Tagging={"TagSet": [{"Key": "a", "Value": "b"}]})


def pages():
    """The http door and the command line."""
    s3 = client()
    for name in ("films/a b é.mp4", "films/page.html", "films/two/c.txt"):
        s3.put_object(Bucket="studio", Key=name, Body=name.encode(), ContentType={"4": "video/mp4", "l": "text/html"}.get(name[-1], "text/plain"))
    buckets = json.loads(native("GET", "/v1/artifacts"))["buckets"]
    studio = next(bucket for bucket in buckets if bucket["name"] == "studio")
    assert studio["objects"] is None and studio["created"], studio
    page = json.loads(native("GET", "/v1/artifacts/studio?prefix=films/&delimiter=/&limit=2"))
    assert [entry["key"] for entry in page["objects"]] == ["films/a b é.mp4", "films/page.html"], page
    assert page["objects"][0]["size"] == len("films/a b é.mp4".encode()) and page["cursor"], page
    rest = json.loads(native("GET", "/v1/artifacts/studio?prefix=films/&delimiter=/&limit=2&cursor=" + urllib.parse.quote(page["cursor"], "")))
    assert rest["prefixes"] == ["films/two/"] and rest["cursor"] is None, rest
    base = os.environ["BACKLOT_ENDPOINT"] + "/v1/artifacts/studio/films/"
    basic = {"authorization": "Basic dGVzdDp0ZXN0"}
    status, headers, body = fetch(base + "page.html", headers=basic)
    headers = {name.lower(): value for name, value in headers.items()}
    assert (status, body) == (200, b"films/page.html")
    assert headers["content-type"] == "application/octet-stream" and "sandbox" in headers["content-security-policy"], headers
    etag = headers["etag"]
    assert fetch(base + "page.html", headers={**basic, "if-none-match": etag})[0] == 304
    assert fetch(base + "page.html", headers={**basic, "range": "bytes=0-3"})[::2] == (206, b"film")
    assert fetch(base + "page.html", headers={**basic, "range": "bytes=0-3", "if-range": '"0"'})[0] == 200
    assert fetch(base + "page.html", headers={**basic, "range": "bytes=0-3", "if-range": etag})[0] == 206
    assert fetch(base + "page.html", headers={**basic, "range": "bytes=99-"})[0] == 416
    assert fetch(base + "none", headers=basic)[0] == 404
    assert fetch(base + "page.html", "HEAD", headers=basic)[1]["content-length"] == "15"
    # A browser asks before it puts to a signed URL; its method is another than the one that was signed for.
    rules = [{"AllowedMethods": ["PUT"], "AllowedOrigins": ["https://a.example"], "AllowedHeaders": ["*"]}]
    s3.put_bucket_cors(Bucket="studio", CORSConfiguration={"CORSRules": rules})
    url = s3.generate_presigned_url("put_object", Params={"Bucket": "studio", "Key": "from a browser"})
    asked = {"origin": "https://a.example", "access-control-request-method": "PUT"}
    status, headers, _ = fetch(url, "OPTIONS", headers=asked)
    assert status == 200 and headers["access-control-allow-origin"] == "https://a.example", (status, headers)
    assert fetch(url, "OPTIONS", headers={**asked, "origin": "https://b.example"})[0] == 403
    assert fetch(url, "OPTIONS")[0] == 400
    status, headers, _ = fetch(url, "PUT", b"x", {"origin": "https://a.example"})
    assert status == 200 and headers["access-control-allow-origin"] == "https://a.example", (status, headers)
    for path in ("/v1/scrub", "/v1/encryption", "/v1/buckets/studio/quota"):
        status, _, answer = fetch(os.environ["BACKLOT_ENDPOINT"] + path, headers=basic)
        assert status == 501 and b"not_with_this_engine" in answer, (path, status, answer)


def hosts():
    """Virtual-host style at the door, whatever the other S3 is asked in."""
    import socket

    plain = socket.getaddrinfo
    socket.getaddrinfo = lambda host, *rest, **more: plain("127.0.0.1" if host == "named.localhost" else host, *rest, **more)
    client().create_bucket(Bucket="named")
    port = DOOR.rsplit(":", 1)[1]
    for version in ("s3v4", "s3"):
        settings = Config(signature_version=version, retries={"max_attempts": 1}, s3={"addressing_style": "virtual"})
        virtual = boto3.client("s3", endpoint_url=f"http://localhost:{port}", config=settings)
        if version == "s3v4":
            virtual.put_object(Bucket="named", Key="a b/é", Body=b"virtual")
            assert virtual.list_objects_v2(Bucket="named")["KeyCount"] == 1
        url = virtual.generate_presigned_url("get_object", {"Bucket": "named", "Key": "a b/é"})
        assert "named.localhost" in url and fetch(url)[2] == b"virtual", url
    assert behind().get_object(Bucket="named", Key="a b/é")["Body"].read() == b"virtual"
    status, _, answer = fetch(f"{DOOR}/", headers={"host": f"named.s3-website.localhost:{port}"})
    assert status == 501 and b"websites" in answer, answer


def mapped():
    """Buckets that are called otherwise there: `acme-studio` for `studio`."""
    s3, there = client(), behind()
    there.create_bucket(Bucket="payroll")
    for name in ("studio", "models"):
        s3.create_bucket(Bucket=name)
        there.head_bucket(Bucket=f"acme-{name}")
    assert sorted(bucket["Name"] for bucket in s3.list_buckets()["Buckets"]) == ["models", "studio"]
    names = [bucket["name"] for bucket in json.loads(native("GET", "/v1/artifacts"))["buckets"]]
    assert sorted(names) == ["models", "studio"], names
    refused(s3.list_objects_v2, "NoSuchBucket", 404, Bucket="payroll")
    s3.put_object(Bucket="studio", Key="acme-studio", Body=b"x")
    listed = s3.list_objects_v2(Bucket="studio")
    assert (listed["Name"], listed["Contents"][0]["Key"]) == ("studio", "acme-studio"), listed
    assert s3.list_multipart_uploads(Bucket="studio")["Bucket"] == "studio"
    s3.copy_object(Bucket="models", Key="copy", CopySource={"Bucket": "studio", "Key": "acme-studio"})
    assert there.get_object(Bucket="acme-models", Key="copy")["Body"].read() == b"x"
    refused(s3.copy_object, "NoSuchBucket", 404, Bucket="studio", Key="copy", CopySource="payroll/k")


def logged():
    """Who it was stands in log search, and no signature does."""
    import time

    s3 = client()
    s3.put_object(Bucket="studio", Key="seen-here", Body=b"x")
    refused(client(*key("viewer")).delete_object, "AccessDenied", 403, Bucket="studio", Key="seen-here")
    fetch(s3.generate_presigned_url("get_object", {"Bucket": "studio", "Key": "seen-here"}))
    wanted, deadline = {("PutObject", "200"), ("DeleteObject", "403"), ("GetObject", "200")}, time.monotonic() + 60
    while wanted:
        text = native("GET", '/v1/logs?query=%22seen-here%22&limit=100')
        assert b"Signature" not in text
        for record in json.loads(text).get("records", []):
            found = record.get("attributes", {})
            if found.get("requester", "-") != "-":
                wanted.discard((found.get("operation"), str(found.get("status"))))
        assert time.monotonic() < deadline, (wanted, text[:2000])
        time.sleep(0.2)


def cli():
    """The AWS CLI through the door."""
    aws = os.path.join(os.path.dirname(sys.executable), "aws")

    def run(*arguments):
        done = subprocess.run([aws, "s3", *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done.stdout

    with tempfile.TemporaryDirectory() as folder:
        tree = {"a.txt": b"a", "deep/er/b.bin": os.urandom(9 * MIB), "deep/c d.txt": b"c"}
        for name, body in tree.items():
            path = os.path.join(folder, "up", name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            open(path, "wb").write(body)
        run("mb", "s3://cli-bucket")
        run("sync", "--quiet", os.path.join(folder, "up"), "s3://cli-bucket/tree")
        run("sync", "--quiet", "s3://cli-bucket/tree", os.path.join(folder, "down"))
        for name, body in tree.items():
            assert open(os.path.join(folder, "down", name), "rb").read() == body, name
        assert "PRE deep/" in run("ls", "s3://cli-bucket/tree/")
        assert run("cp", "s3://cli-bucket/tree/a.txt", "-") == "a"
        run("rm", "--quiet", "--recursive", "s3://cli-bucket/")
        run("rb", "s3://cli-bucket")


def away():
    """The other S3 does not answer."""
    s3 = client()
    answer = refused(s3.get_object, "ServiceUnavailable", 503, Bucket="studio", Key="k")
    assert "cannot be reached" in answer["Error"]["Message"], answer
    assert answer["ResponseMetadata"]["HTTPHeaders"]["retry-after"] == "5", answer
    refused(s3.put_object, "ServiceUnavailable", 503, Bucket="studio", Key="k", Body=b"x")
    try:
        native("GET", "/v1/artifacts/studio")
        raise AssertionError("an answer out of nothing")
    except urllib.error.HTTPError as error:
        assert error.code == 503 and b"upstream_away" in error.read()


def put():
    client().put_object(Bucket="studio", Key="k", Body=b"one")


def get():
    assert client().get_object(Bucket="studio", Key="k")["Body"].read() == b"one"


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
    print("ok", sys.argv[1])
