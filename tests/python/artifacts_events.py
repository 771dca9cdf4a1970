"""Event notifications of buckets: to queues and to webhooks, over a restart too. Each function is one scenario."""

import base64
import hashlib
import hmac
import http.server
import json
import os
import sys
import threading
import time
import urllib.parse
import urllib.request

import boto3
from artifacts import client, refused
from artifacts_access import client_of, key

QUEUE = "arn:aws:sqs:us-east-1:000000000000:"
TOPIC = "arn:aws:sns:us-east-1:000000000000:"


def sqs_queue(name):
    sqs = boto3.client("sqs")
    return sqs, sqs.create_queue(QueueName=name)["QueueUrl"]


def drain(sqs, url, want):
    """The bodies of `want` messages, in no order."""
    bodies, deadline = [], time.monotonic() + 60
    while len(bodies) < want:
        assert time.monotonic() < deadline, (want, bodies)
        for message in sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=1).get("Messages", []):
            bodies.append(json.loads(message["Body"]))
            sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    return bodies


def told(bodies):
    return sorted((body["Records"][0]["eventName"], body["Records"][0]["s3"]["object"]["key"]) for body in bodies)


def configure(s3, bucket, **configuration):
    s3.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration=configuration)


def queues():
    s3, (sqs, url) = client(), sqs_queue("happened")
    s3.create_bucket(Bucket="told")
    empty = s3.get_bucket_notification_configuration(Bucket="told")
    assert "QueueConfigurations" not in empty, empty
    rule = {
        "QueueArn": QUEUE + "happened",
        "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*", "s3:ObjectTagging:*", "s3:ObjectAcl:Put"],
        "Filter": {"Key": {"FilterRules": [{"Name": "prefix", "Value": "raw/"}, {"Name": "suffix", "Value": ".exr"}]}},
    }
    configure(s3, "told", QueueConfigurations=[rule])
    kept = s3.get_bucket_notification_configuration(Bucket="told")["QueueConfigurations"][0]
    assert kept.pop("Id") and kept["Events"] == rule["Events"] and kept["QueueArn"] == rule["QueueArn"], kept
    test = drain(sqs, url, 1)[0]
    assert (test["Event"], test["Bucket"]) == ("s3:TestEvent", "told"), test
    name = "raw/a b+é.exr"
    put = s3.put_object(Bucket="told", Key=name, Body=b"12345")
    record = drain(sqs, url, 1)[0]["Records"][0]
    assert record["eventSource"] == "aws:s3" and record["eventName"] == "ObjectCreated:Put", record
    assert urllib.parse.unquote_plus(record["s3"]["object"]["key"]) == name, record
    assert (record["s3"]["object"]["size"], record["s3"]["object"]["eTag"]) == (5, put["ETag"].strip('"')), record
    assert record["s3"]["bucket"]["name"] == "told" and record["userIdentity"]["principalId"] == "AWS:test", record
    # What the filter keeps out, and what fails, is not told; the rest is, each once.
    s3.put_object(Bucket="told", Key="raw/a.png", Body=b"")
    s3.put_object(Bucket="told", Key="other.exr", Body=b"")
    refused(s3.put_object, "PreconditionFailed", 412, Bucket="told", Key=name, Body=b"", IfNoneMatch="*")
    s3.copy_object(Bucket="told", Key="raw/copy.exr", CopySource={"Bucket": "told", "Key": name})
    upload = s3.create_multipart_upload(Bucket="told", Key="raw/parts.exr")["UploadId"]
    part = s3.upload_part(Bucket="told", Key="raw/parts.exr", UploadId=upload, PartNumber=1, Body=b"x")
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    s3.complete_multipart_upload(Bucket="told", Key="raw/parts.exr", UploadId=upload, MultipartUpload=parts)
    s3.put_object_tagging(Bucket="told", Key="raw/copy.exr", Tagging={"TagSet": [{"Key": "a", "Value": "b"}]})
    s3.delete_object_tagging(Bucket="told", Key="raw/copy.exr")
    s3.put_object_acl(Bucket="told", Key="raw/copy.exr", ACL="public-read")
    s3.delete_object(Bucket="told", Key="raw/copy.exr")
    s3.delete_objects(Bucket="told", Delete={"Quiet": True, "Objects": [{"Key": "raw/parts.exr"}, {"Key": "raw/a.png"}]})
    expected = [
        ("ObjectAcl:Put", "raw/copy.exr"),
        ("ObjectCreated:CompleteMultipartUpload", "raw/parts.exr"),
        ("ObjectCreated:Copy", "raw/copy.exr"),
        ("ObjectRemoved:Delete", "raw/copy.exr"),
        ("ObjectRemoved:Delete", "raw/parts.exr"),
        ("ObjectTagging:Delete", "raw/copy.exr"),
        ("ObjectTagging:Put", "raw/copy.exr"),
    ]
    assert told(drain(sqs, url, len(expected))) == expected
    # Versions: a marker, and which version it was.
    s3.put_bucket_versioning(Bucket="told", VersioningConfiguration={"Status": "Enabled"})
    version = s3.put_object(Bucket="told", Key="raw/v.exr", Body=b"1")["VersionId"]
    s3.delete_object(Bucket="told", Key="raw/v.exr")
    records = [body["Records"][0] for body in drain(sqs, url, 2)]
    by_name = {record["eventName"]: record["s3"]["object"] for record in records}
    assert by_name["ObjectCreated:Put"]["versionId"] == version, by_name
    assert by_name["ObjectRemoved:DeleteMarkerCreated"]["versionId"] != version, by_name
    # A queue that goes away costs events and no puts.
    sqs.delete_queue(QueueUrl=url)
    s3.put_object(Bucket="told", Key="raw/nobody.exr", Body=b"")
    configure(s3, "told")
    assert "QueueConfigurations" not in s3.get_bucket_notification_configuration(Bucket="told")
    # What is no configuration.
    sqs.create_queue(QueueName="jobs.fifo", Attributes={"FifoQueue": "true"})
    for bad in (
        {"QueueConfigurations": [{"QueueArn": QUEUE + "absent", "Events": ["s3:ObjectCreated:*"]}]},
        {"QueueConfigurations": [{"QueueArn": QUEUE + "jobs.fifo", "Events": ["s3:ObjectCreated:*"]}]},
        {"QueueConfigurations": [{"QueueArn": "nonsense", "Events": ["s3:ObjectCreated:*"]}]},
        {"QueueConfigurations": [{"QueueArn": QUEUE + "default", "Events": ["s3:ObjectRestore:Post"]}]},
        {"TopicConfigurations": [{"TopicArn": TOPIC + "absent", "Events": ["s3:ObjectCreated:*"]}]},
    ):
        refused(s3.put_bucket_notification_configuration, "InvalidArgument", 400, Bucket="told", NotificationConfiguration=bad)
    function = {"LambdaFunctionArn": "arn:aws:lambda:us-east-1:000000000000:function:f", "Events": ["s3:ObjectCreated:*"]}
    bad = {"LambdaFunctionConfigurations": [function]}
    refused(s3.put_bucket_notification_configuration, "NotImplemented", 501, Bucket="told", NotificationConfiguration=bad)
    # Whose bucket it is not, may not.
    stranger = client_of(key(account="ada"))
    refused(stranger.put_bucket_notification_configuration, "AccessDenied", 403, Bucket="told", NotificationConfiguration={})


class Receiver(http.server.BaseHTTPRequestHandler):
    told, failures = [], 1

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if Receiver.failures:
            Receiver.failures -= 1
            self.send_response(503)
        else:
            Receiver.told.append((dict(self.headers), body))
            self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def webhooks():
    """A webhook is told what waited while it was away, signed, tried again after a failure."""
    receiver = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    body = {"url": f"http://127.0.0.1:{receiver.server_port}/hook", "events": []}
    request = urllib.request.Request(
        os.environ["BACKLOT_ENDPOINT"] + "/v1/webhooks/buckets", json.dumps(body).encode(), method="PUT",
        headers={"content-type": "application/json", "authorization": "Basic " + base64.b64encode(b"test:test").decode()},
    )
    secret = base64.b64decode(json.load(urllib.request.urlopen(request))["secret"].removeprefix("whsec_"))
    s3 = client()
    s3.create_bucket(Bucket="hooked")
    configure(s3, "hooked", TopicConfigurations=[{"TopicArn": TOPIC + "buckets", "Events": ["s3:ObjectCreated:Put"]}])
    for n in range(3):
        s3.put_object(Bucket="hooked", Key=f"k{n}", Body=b"x")
    wanted, deadline = {"s3:TestEvent", "k0", "k1", "k2"}, time.monotonic() + 90
    while wanted:
        assert time.monotonic() < deadline, (wanted, Receiver.told)
        for headers, body in list(Receiver.told):
            event = json.loads(body)
            wanted.discard(event.get("Event") or event["Records"][0]["s3"]["object"]["key"])
            signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
            right = "v1," + base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()
            assert headers["webhook-signature"] == right, headers
        time.sleep(0.1)
    assert Receiver.failures == 0, "the first attempt failed"


def before():
    """Puts that are told to a webhook that does not answer yet: the argument is its port."""
    body = {"url": f"http://127.0.0.1:{sys.argv[2]}/hook", "events": []}
    request = urllib.request.Request(
        os.environ["BACKLOT_ENDPOINT"] + "/v1/webhooks/later", json.dumps(body).encode(), method="PUT",
        headers={"content-type": "application/json", "authorization": "Basic " + base64.b64encode(b"test:test").decode()},
    )
    urllib.request.urlopen(request)
    s3 = client()
    s3.create_bucket(Bucket="later")
    configure(s3, "later", TopicConfigurations=[{"TopicArn": TOPIC + "later", "Events": ["s3:ObjectCreated:*"]}])
    s3.put_object(Bucket="later", Key="before-the-kill", Body=b"x")


def after():
    """What waited is told after the restart."""
    Receiver.failures = 0
    receiver = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Receiver)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    deadline = time.monotonic() + 110
    while not any(b"before-the-kill" in body for _, body in list(Receiver.told)):
        assert time.monotonic() < deadline, Receiver.told
        time.sleep(0.1)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
