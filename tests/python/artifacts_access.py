"""Who may do what over S3: accounts, ACLs, policies, public access blocks, ownership, nobody at all. Each function is one scenario."""

import base64
import json
import os
import sys
import time
import urllib.request

import boto3
from artifacts import client, fetch, refused
from botocore import UNSIGNED
from botocore.config import Config

ENDPOINT = os.environ["AWS_ENDPOINT_URL"]
EVERYONE = "http://acs.amazonaws.com/groups/global/AllUsers"


def key(role="operator", account=None):
    """A new key, and what the appliance says of it."""
    body = {"role": role, "note": "a test"}
    if account:
        body["account"] = account
    request = urllib.request.Request(
        os.environ["BACKLOT_ENDPOINT"] + "/v1/keys", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    manager = urllib.request.HTTPPasswordMgrWithPriorAuth()
    manager.add_password(None, os.environ["BACKLOT_ENDPOINT"], "test", "test", is_authenticated=True)
    opener = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(manager))
    return json.load(opener.open(request))


def client_of(made):
    return boto3.client(
        "s3",
        aws_access_key_id=made["key_id"],
        aws_secret_access_key=made["secret"],
        config=Config(retries={"max_attempts": 1}, s3={"addressing_style": "path"}),
    )


def nobody():
    config = Config(signature_version=UNSIGNED, retries={"max_attempts": 1}, s3={"addressing_style": "path"})
    return boto3.client("s3", config=config)


def policy(bucket, *statements):
    whole = []
    for statement in statements:
        resources = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
        whole.append({"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": resources, **statement})
    return json.dumps({"Version": "2012-10-17", "Statement": whole})


def text(client, bucket, name, **more):
    return client.get_object(Bucket=bucket, Key=name, **more)["Body"].read()


def accounts():
    ada, bob = key(account="ada"), key(account="bob")
    a, b, house, anonymous = client_of(ada), client_of(bob), client(), nobody()
    a.create_bucket(Bucket="adas")
    a.put_object(Bucket="adas", Key="k", Body=b"private")
    owner = a.list_buckets()["Owner"]
    assert owner == {"DisplayName": "ada", "ID": ada["canonical_id"]}, owner
    assert [bucket["Name"] for bucket in a.list_buckets()["Buckets"]] == ["adas"]
    assert b.list_buckets()["Buckets"] == []
    refused(b.create_bucket, "BucketAlreadyExists", 409, Bucket="adas")
    for stranger in (b, anonymous):
        refused(stranger.get_object, "AccessDenied", 403, Bucket="adas", Key="k")
        refused(stranger.get_object, "AccessDenied", 403, Bucket="adas", Key="absent")
        refused(stranger.list_objects_v2, "AccessDenied", 403, Bucket="adas")
        refused(stranger.put_object, "AccessDenied", 403, Bucket="adas", Key="x", Body=b"")
        refused(stranger.delete_bucket, "AccessDenied", 403, Bucket="adas")
        refused(stranger.put_bucket_policy, "AccessDenied", 403, Bucket="adas", Policy="{}")
        refused(stranger.copy_object, "AccessDenied", 403, Bucket="studio", Key="x", CopySource="adas/k")
    # A copy's source is asked for on its own.
    b.create_bucket(Bucket="bobs")
    refused(b.copy_object, "AccessDenied", 403, Bucket="bobs", Key="x", CopySource="adas/k")
    upload = b.create_multipart_upload(Bucket="bobs", Key="x")["UploadId"]
    part = {"Bucket": "bobs", "Key": "x", "UploadId": upload, "PartNumber": 1, "CopySource": "adas/k"}
    refused(b.upload_part_copy, "AccessDenied", 403, **part)
    # And so is each key of a batch.
    batch = b.delete_objects(Bucket="adas", Delete={"Objects": [{"Key": "k"}]})
    assert [(error["Key"], error["Code"]) for error in batch["Errors"]] == [("k", "AccessDenied")], batch
    assert text(a, "adas", "k") == b"private"
    # The house's admin may everything; a house's operator is a stranger like others.
    assert text(house, "adas", "k") == b"private"
    operator = client_of(key())
    refused(operator.get_object, "AccessDenied", 403, Bucket="adas", Key="k")
    operator.list_objects_v2(Bucket="studio")
    # The http door says the same.
    basic = {"authorization": "Basic " + base64.b64encode(f"{bob['key_id']}:{bob['secret']}".encode()).decode()}
    assert fetch(os.environ["BACKLOT_ENDPOINT"] + "/v1/artifacts/adas/k", headers=basic)[0] == 403
    assert b'"adas"' not in fetch(os.environ["BACKLOT_ENDPOINT"] + "/v1/artifacts", headers=basic)[2]
    # A role bounds what an owner may.
    viewer = client_of(key("viewer", "ada"))
    assert text(viewer, "adas", "k") == b"private"
    refused(viewer.put_object, "AccessDenied", 403, Bucket="adas", Key="x", Body=b"")
    refused(a.head_object, "403", Bucket="adas", Key="k", ExpectedBucketOwner="000000000000")
    a.head_object(Bucket="adas", Key="k", ExpectedBucketOwner=ada["account_number"])


def acls():
    ada = key(account="ada")
    house, a, anonymous = client(), client_of(ada), nobody()
    house.create_bucket(Bucket="lists")
    me = house.list_buckets()["Owner"]["ID"]
    for name, acl in (("private", None), ("read", "public-read"), ("signed", "authenticated-read")):
        house.put_object(Bucket="lists", Key=name, Body=name.encode(), **({"ACL": acl} if acl else {}))
    refused(anonymous.get_object, "AccessDenied", 403, Bucket="lists", Key="private")
    assert text(anonymous, "lists", "read") == b"read"
    refused(anonymous.get_object, "AccessDenied", 403, Bucket="lists", Key="signed")
    assert text(a, "lists", "signed") == b"signed"
    grants = house.get_object_acl(Bucket="lists", Key="read")["Grants"]
    assert [(grant["Grantee"].get("URI") or grant["Grantee"]["ID"], grant["Permission"]) for grant in grants] == [
        (me, "FULL_CONTROL"),
        (EVERYONE, "READ"),
    ], grants
    # Taken back, and given to one account.
    modified = house.head_object(Bucket="lists", Key="read")["LastModified"]
    house.put_object_acl(Bucket="lists", Key="read", ACL="private")
    refused(anonymous.get_object, "AccessDenied", 403, Bucket="lists", Key="read")
    house.put_object_acl(Bucket="lists", Key="read", GrantRead=f'id="{ada["canonical_id"]}"', GrantFullControl=f"id={me}")
    assert text(a, "lists", "read") == b"read"
    refused(a.put_object_acl, "AccessDenied", 403, Bucket="lists", Key="read", ACL="public-read")
    assert house.head_object(Bucket="lists", Key="read")["LastModified"] == modified
    full = house.get_object_acl(Bucket="lists", Key="read")
    rewritten = {"Owner": full["Owner"], "Grants": full["Grants"]}
    house.put_object_acl(Bucket="lists", Key="private", AccessControlPolicy=rewritten)
    assert text(a, "lists", "private") == b"private"
    # Copies and uploads in parts have lists of their own.
    house.copy_object(Bucket="lists", Key="copy", CopySource="lists/read")
    refused(a.get_object, "AccessDenied", 403, Bucket="lists", Key="copy")
    house.copy_object(Bucket="lists", Key="copy", CopySource="lists/read", ACL="public-read")
    assert text(anonymous, "lists", "copy") == b"read"
    upload = house.create_multipart_upload(Bucket="lists", Key="parts", ACL="public-read")["UploadId"]
    part = house.upload_part(Bucket="lists", Key="parts", UploadId=upload, PartNumber=1, Body=b"part")
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    house.complete_multipart_upload(Bucket="lists", Key="parts", UploadId=upload, MultipartUpload=parts)
    assert text(anonymous, "lists", "parts") == b"part"
    # A bucket's list: whoever may write it may not read what others wrote.
    house.put_bucket_acl(Bucket="lists", ACL="public-read-write")
    anonymous.put_object(Bucket="lists", Key="anybody", Body=b"!")
    a.put_object(Bucket="lists", Key="adas", Body=b"mine")
    assert text(a, "lists", "adas") == b"mine", "who put it has full control of it"
    refused(a.get_object, "AccessDenied", 403, Bucket="lists", Key="anybody")
    assert text(house, "lists", "adas") == b"mine", "and so has the bucket's owner"
    names = {entry["Key"] for entry in anonymous.list_objects_v2(Bucket="lists")["Contents"]}
    assert {"anybody", "adas"} <= names
    refused(anonymous.get_object, "NoSuchKey", 404, Bucket="lists", Key="absent")
    # What is no list.
    for arguments in (
        {"GrantRead": "id=nobody"},
        {"GrantRead": 'uri="http://example.com/"'},
        {"GrantRead": "whoever"},
        {"ACL": "public-read", "GrantRead": f"id={me}"},
    ):
        error = refused_somehow(house.put_object_acl, Bucket="lists", Key="read", **arguments)
        assert error in ("InvalidArgument", "InvalidRequest"), (error, arguments)
    refused(
        house.put_object_acl, "UnresolvableGrantByEmailAddress", 400, Bucket="lists", Key="read", GrantRead="emailAddress=a@b"
    )


def refused_somehow(call, **arguments):
    try:
        call(**arguments)
    except call.__self__.exceptions.ClientError as error:
        assert 400 <= error.response["ResponseMetadata"]["HTTPStatusCode"] < 500
        return error.response["Error"]["Code"]
    raise AssertionError(f"{arguments} was taken")


def policies():
    ada, bob = key(account="ada"), key(account="bob")
    house, a, b, anonymous = client(), client_of(ada), client_of(bob), nobody()
    house.create_bucket(Bucket="ruled")
    for name in ("open/a", "users/ada/x", "shut/a"):
        house.put_object(Bucket="ruled", Key=name, Body=name.encode())
    put = lambda *statements: house.put_bucket_policy(Bucket="ruled", Policy=policy("ruled", *statements))
    refused(house.get_bucket_policy, "NoSuchBucketPolicy", 404, Bucket="ruled")
    put({"Resource": "arn:aws:s3:::ruled/open/*"})
    assert text(anonymous, "ruled", "open/a") == b"open/a"
    refused(anonymous.get_object, "AccessDenied", 403, Bucket="ruled", Key="shut/a")
    refused(anonymous.list_objects_v2, "AccessDenied", 403, Bucket="ruled")
    assert house.get_bucket_policy_status(Bucket="ruled")["PolicyStatus"]["IsPublic"] is True
    # To one account, to one key; denied to one prefix, to the owner too.
    only_ada = {"AWS": f"arn:aws:iam::{ada['account_number']}:root"}
    one_key = {"AWS": f"arn:aws:iam::{bob['account_number']}:user/{bob['key_id']}"}
    put(
        {"Principal": only_ada, "Action": ["s3:GetObject", "s3:PutObject", "s3:ListBucket"]},
        {"Principal": one_key, "Resource": "arn:aws:s3:::ruled/open/*"},
        {"Effect": "Deny", "Resource": "arn:aws:s3:::ruled/shut/*", "Action": "s3:*"},
    )
    assert house.get_bucket_policy_status(Bucket="ruled")["PolicyStatus"]["IsPublic"] is False
    a.put_object(Bucket="ruled", Key="users/ada/new", Body=b"new")
    assert text(a, "ruled", "users/ada/new") == b"new"
    assert text(b, "ruled", "open/a") == b"open/a"
    refused(b.get_object, "AccessDenied", 403, Bucket="ruled", Key="users/ada/x")
    for somebody in (a, b, house):
        refused(somebody.get_object, "AccessDenied", 403, Bucket="ruled", Key="shut/a")
    batch = house.delete_objects(Bucket="ruled", Delete={"Objects": [{"Key": "shut/a"}, {"Key": "users/ada/new"}]})
    assert [error["Key"] for error in batch["Errors"]] == ["shut/a"] and len(batch["Deleted"]) == 1, batch
    # Conditions.
    put({"Action": "s3:ListBucket", "Condition": {"StringLike": {"s3:prefix": "open/*"}}})
    assert anonymous.list_objects_v2(Bucket="ruled", Prefix="open/")["KeyCount"] == 1
    refused(anonymous.list_objects_v2, "AccessDenied", 403, Bucket="ruled", Prefix="shut/")
    put({"Condition": {"IpAddress": {"aws:SourceIp": "127.0.0.0/8"}}})
    assert text(anonymous, "ruled", "open/a") == b"open/a"
    put({"Condition": {"NotIpAddress": {"aws:SourceIp": "127.0.0.0/8"}}})
    refused(anonymous.get_object, "AccessDenied", 403, Bucket="ruled", Key="open/a")
    put({"Effect": "Deny", "Action": "s3:PutObject", "Condition": {"StringLike": {"s3:x-amz-acl": "public*"}}})
    house.put_object(Bucket="ruled", Key="open/b", Body=b"")
    refused(house.put_object, "AccessDenied", 403, Bucket="ruled", Key="open/b", Body=b"", ACL="public-read")
    put({"Effect": "Deny", "Action": "s3:GetObject", "Condition": {"Bool": {"aws:SecureTransport": "false"}}})
    refused(house.get_object, "AccessDenied", 403, Bucket="ruled", Key="open/a")
    # An owner who has shut himself out can still mend it.
    put({"Effect": "Deny", "Action": "s3:*"})
    refused(house.list_objects_v2, "AccessDenied", 403, Bucket="ruled")
    assert "Deny" in house.get_bucket_policy(Bucket="ruled")["Policy"]
    house.delete_bucket_policy(Bucket="ruled")
    assert text(house, "ruled", "shut/a") == b"shut/a"
    # What is no policy.
    for bad in (
        "{",
        "[]",
        '{"Statement": []}',
        policy("ruled", {"Effect": "Perhaps"}),
        policy("another"),
        policy("ruled", {"Action": "s3:Fly"}),
        policy("ruled", {"Condition": {"StringEquals": {"aws:PrincipalOrgID": "o"}}}),
        policy("ruled", {"Condition": {"StringAlmost": {"s3:prefix": "o"}}}),
        policy("ruled", {"Principal": {"AWS": "arn:aws:iam::*:root"}}),
        policy("ruled", {"Sid": "x" * 21_000}),
        "[" * 10_000,
    ):
        refused(house.put_bucket_policy, "MalformedPolicy", 400, Bucket="ruled", Policy=bad)


def blocks():
    house, anonymous = client(), nobody()
    house.create_bucket(Bucket="blocked")
    house.put_object(Bucket="blocked", Key="k", Body=b"k", ACL="public-read")
    assert text(anonymous, "blocked", "k") == b"k"
    refused(house.get_public_access_block, "NoSuchPublicAccessBlockConfiguration", 404, Bucket="blocked")

    def block(**switches):
        names = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
        wanted = {name: switches.get(name, False) for name in names}
        house.put_public_access_block(Bucket="blocked", PublicAccessBlockConfiguration=wanted)
        assert house.get_public_access_block(Bucket="blocked")["PublicAccessBlockConfiguration"] == wanted

    block(IgnorePublicAcls=True)
    refused(anonymous.get_object, "AccessDenied", 403, Bucket="blocked", Key="k")
    block(BlockPublicAcls=True)
    assert text(anonymous, "blocked", "k") == b"k"
    refused(house.put_object, "AccessDenied", 403, Bucket="blocked", Key="x", Body=b"", ACL="public-read")
    refused(house.put_object_acl, "AccessDenied", 403, Bucket="blocked", Key="k", ACL="public-read")
    refused(house.put_bucket_acl, "AccessDenied", 403, Bucket="blocked", ACL="public-read")
    house.put_object_acl(Bucket="blocked", Key="k", ACL="private")
    block(BlockPublicPolicy=True)
    refused(house.put_bucket_policy, "AccessDenied", 403, Bucket="blocked", Policy=policy("blocked", {}))
    block()
    house.put_bucket_policy(Bucket="blocked", Policy=policy("blocked", {}))
    assert text(anonymous, "blocked", "k") == b"k"
    block(RestrictPublicBuckets=True)
    refused(anonymous.get_object, "AccessDenied", 403, Bucket="blocked", Key="k")
    assert text(house, "blocked", "k") == b"k"
    house.delete_public_access_block(Bucket="blocked")
    assert text(anonymous, "blocked", "k") == b"k"
    house.delete_bucket_policy(Bucket="blocked")
    # Ownership that turns lists off.
    refused(house.get_bucket_ownership_controls, "OwnershipControlsNotFoundError", 404, Bucket="blocked")
    house.put_object_acl(Bucket="blocked", Key="k", ACL="public-read")
    rules = {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
    house.put_bucket_ownership_controls(Bucket="blocked", OwnershipControls=rules)
    assert house.get_bucket_ownership_controls(Bucket="blocked")["OwnershipControls"] == rules
    refused(anonymous.get_object, "AccessDenied", 403, Bucket="blocked", Key="k")
    refused(house.put_object_acl, "AccessControlListNotSupported", 400, Bucket="blocked", Key="k", ACL="private")
    refused(house.put_object, "AccessControlListNotSupported", 400, Bucket="blocked", Key="k", Body=b"", ACL="public-read")
    house.put_object(Bucket="blocked", Key="k", Body=b"k", ACL="bucket-owner-full-control")
    house.delete_bucket_ownership_controls(Bucket="blocked")
    refused(house.put_bucket_request_payment, "NotImplemented", 501, Bucket="blocked", RequestPaymentConfiguration={"Payer": "Requester"})
    assert house.get_bucket_request_payment(Bucket="blocked")["Payer"] == "BucketOwner"
    assert "Status" not in house.get_bucket_accelerate_configuration(Bucket="blocked")


def cors():
    house = client()
    house.create_bucket(Bucket="pages")
    house.put_object(Bucket="pages", Key="k", Body=b"k", ACL="public-read")
    refused(house.get_bucket_cors, "NoSuchCORSConfiguration", 404, Bucket="pages")
    url = f"{ENDPOINT}/pages/k"
    ask = {"origin": "https://a.studio.example", "access-control-request-method": "GET"}
    assert fetch(url, "OPTIONS", headers=ask)[0] == 403
    rules = [
        {
            "AllowedMethods": ["GET", "PUT"],
            "AllowedOrigins": ["https://*.studio.example"],
            "AllowedHeaders": ["x-amz-*", "range"],
            "ExposeHeaders": ["ETag"],
            "MaxAgeSeconds": 60,
        },
        {"AllowedMethods": ["HEAD"], "AllowedOrigins": ["*"]},
    ]
    house.put_bucket_cors(Bucket="pages", CORSConfiguration={"CORSRules": rules})
    assert house.get_bucket_cors(Bucket="pages")["CORSRules"] == rules
    status, headers, _ = fetch(url, "OPTIONS", headers={**ask, "access-control-request-headers": "X-Amz-Date, range"})
    lower = {name.lower(): value for name, value in headers.items()}
    assert status == 200 and lower["access-control-allow-origin"] == "https://a.studio.example", headers
    assert lower["access-control-allow-methods"] == "GET, PUT" and lower["access-control-max-age"] == "60"
    assert lower["access-control-allow-headers"] == "x-amz-date, range"
    assert fetch(url, "OPTIONS", headers={**ask, "access-control-request-headers": "authorization"})[0] == 403
    assert fetch(url, "OPTIONS", headers={**ask, "origin": "https://evil.example"})[0] == 403
    assert fetch(url, "OPTIONS", headers={"origin": "x"})[0] == 400
    assert fetch(url, "OPTIONS")[0] == 400
    # Answers themselves, errors too.
    for path, status in (("k", 200), ("absent", 403)):
        answer = fetch(f"{ENDPOINT}/pages/{path}", headers={"origin": "https://a.studio.example"})
        assert answer[0] == status and answer[1].get("access-control-allow-origin") == "https://a.studio.example", answer
        assert answer[1]["access-control-expose-headers"] == "ETag"
    assert "access-control-allow-origin" not in fetch(url, headers={"origin": "https://evil.example"})[1]
    assert fetch(url, "HEAD", headers={"origin": "https://evil.example"})[1]["access-control-allow-origin"] == "*"
    for bad in ({"AllowedMethods": ["TRACE"], "AllowedOrigins": ["*"]}, {"AllowedMethods": ["GET"], "AllowedOrigins": ["*.*"]}):
        refused(house.put_bucket_cors, "InvalidRequest", 400, Bucket="pages", CORSConfiguration={"CORSRules": [bad]})
    house.delete_bucket_cors(Bucket="pages")
    assert fetch(url, "OPTIONS", headers=ask)[0] == 403


def hosts():
    """Virtual-host style and websites, told apart by the host's name."""
    house = client()
    port = ENDPOINT.rsplit(":", 1)[1]
    house.create_bucket(Bucket="named")
    house.put_object(Bucket="named", Key="a b/c", Body=b"k", ACL="public-read")
    here = {"host": f"named.localhost:{port}"}
    assert fetch(f"{ENDPOINT}/a%20b/c", headers=here)[2] == b"k"
    assert fetch(f"{ENDPOINT}/a%20b/c", headers={"host": f"other.localhost:{port}"})[0] == 404
    virtual = boto3.client(
        "s3", endpoint_url=f"http://localhost:{port}", config=Config(retries={"max_attempts": 1}, s3={"addressing_style": "virtual"})
    )
    resolve_here("named.localhost")
    virtual.put_object(Bucket="named", Key="signed", Body=b"virtual")
    assert text(virtual, "named", "signed") == b"virtual"
    for version in ("s3", "s3v4"):
        config = Config(signature_version=version, s3={"addressing_style": "virtual"})
        presigner = boto3.client("s3", endpoint_url=f"http://localhost:{port}", config=config)
        url = presigner.generate_presigned_url("get_object", {"Bucket": "named", "Key": "signed"})
        assert "named.localhost" in url
        assert fetch(url)[2] == b"virtual", url
    # A website.
    site = {"host": f"named.s3-website.localhost:{port}"}
    assert b"NoSuchWebsiteConfiguration" in fetch(f"{ENDPOINT}/", headers=site)[2]
    refused(house.get_bucket_website, "NoSuchWebsiteConfiguration", 404, Bucket="named")
    website = {
        "IndexDocument": {"Suffix": "index.html"},
        "ErrorDocument": {"Key": "error.html"},
        "RoutingRules": [
            {"Condition": {"KeyPrefixEquals": "old/"}, "Redirect": {"ReplaceKeyPrefixWith": "new/", "HttpRedirectCode": "302"}}
        ],
    }
    house.put_bucket_website(Bucket="named", WebsiteConfiguration=website)
    kept = house.get_bucket_website(Bucket="named")
    assert kept["IndexDocument"] == website["IndexDocument"] and kept["RoutingRules"] == website["RoutingRules"], kept
    for name in ("index.html", "sub/index.html", "error.html"):
        house.put_object(Bucket="named", Key=name, Body=name.encode(), ContentType="text/html", ACL="public-read")
    house.put_object(Bucket="named", Key="secret.html", Body=b"secret")
    page = lambda path: fetch(ENDPOINT + path, headers=site)
    status, headers, body = page("/")
    assert (status, body) == (200, b"index.html") and headers["content-type"] == "text/html", (status, headers)
    assert page("/sub/")[2] == b"sub/index.html"
    status, headers, _ = page("/sub")
    assert status == 302 and headers["location"] == "/sub/", headers
    status, headers, _ = page("/old/a%20b")
    assert status == 302 and headers["location"].endswith("/new/a%20b"), headers
    assert page("/secret.html")[0] == 403 and page("/secret.html")[2] == b"error.html"
    assert fetch(f"{ENDPOINT}/", "POST", headers=site)[0] == 405
    house.delete_bucket_website(Bucket="named")
    bad = {"IndexDocument": {"Suffix": "a/b"}}
    refused(house.put_bucket_website, "InvalidArgument", 400, Bucket="named", WebsiteConfiguration=bad)


def resolve_here(*names):
    """Names below localhost are this machine, whatever its resolver says."""
    import socket

    plain = socket.getaddrinfo
    socket.getaddrinfo = lambda host, *rest, **more: plain("127.0.0.1" if host in names else host, *rest, **more)


def public():
    """The public door: objects that everybody may read, as the origin of a CDN."""
    house, door = client(), os.environ["BACKLOT_TEST_PUBLIC"]
    house.create_bucket(Bucket="cdn")
    house.put_object(Bucket="cdn", Key="a/b.txt", Body=b"0123456789", ACL="public-read", CacheControl="max-age=60")
    house.put_object(Bucket="cdn", Key="private", Body=b"private")
    rules = [{"AllowedMethods": ["GET"], "AllowedOrigins": ["*"]}]
    house.put_bucket_cors(Bucket="cdn", CORSConfiguration={"CORSRules": rules})
    status, headers, body = fetch(f"{door}/cdn/a/b.txt?utm=1", headers={"origin": "https://x"})
    assert (status, body) == (200, b"0123456789"), (status, body)
    assert headers["cache-control"] == "max-age=60" and headers["access-control-allow-origin"] == "*", headers
    etag = headers["etag"]
    assert etag.startswith('"')
    assert fetch(f"{door}/cdn/a/b.txt", headers={"if-none-match": etag})[0] == 304
    status, headers, body = fetch(f"{door}/cdn/a/b.txt", headers={"range": "bytes=2-4", "if-range": etag})
    assert (status, body, headers["content-range"]) == (206, b"234", "bytes 2-4/10"), headers
    assert fetch(f"{door}/cdn/a/b.txt", headers={"range": "bytes=2-4", "if-range": '"other"'})[0] == 200
    assert fetch(f"{door}/cdn/a/b.txt", "HEAD")[1]["content-length"] == "10"
    for path in ("private", "absent", ""):
        assert fetch(f"{door}/cdn/{path}")[0] == 403, path
    # A right signature opens nothing here, and nothing is written.
    signed = boto3.client("s3", config=Config(signature_version="s3v4", s3={"addressing_style": "path"}))
    url = signed.generate_presigned_url("get_object", {"Bucket": "cdn", "Key": "private"})
    assert fetch(url.replace(ENDPOINT, door))[0] == 403
    for method in ("PUT", "POST", "DELETE"):
        assert fetch(f"{door}/cdn/a/b.txt", method)[0] == 405
    assert fetch(f"{door}/")[0] == 403 and fetch(f"{door}/cdn?list-type=2")[0] == 403


def logging():
    house = client()
    house.create_bucket(Bucket="watched")
    assert "LoggingEnabled" not in house.get_bucket_logging(Bucket="watched")
    enabled = {"LoggingEnabled": {"TargetBucket": "studio", "TargetPrefix": "log/"}}
    house.put_bucket_logging(Bucket="watched", BucketLoggingStatus=enabled)
    assert house.get_bucket_logging(Bucket="watched")["LoggingEnabled"] == enabled["LoggingEnabled"]
    absent = {"LoggingEnabled": {"TargetBucket": "nowhere", "TargetPrefix": ""}}
    refused(house.put_bucket_logging, "InvalidTargetBucketForLogging", 400, Bucket="watched", BucketLoggingStatus=absent)
    house.put_object(Bucket="watched", Key="seen", Body=b"x")
    refused(nobody().get_object, "AccessDenied", 403, Bucket="watched", Key="seen")
    auth = {"authorization": "Basic " + base64.b64encode(b"test:test").decode()}
    deadline = time.monotonic() + 60
    wanted = {("PutObject", "200"), ("GetObject", "403")}
    while wanted:
        _, _, body = fetch(os.environ["BACKLOT_ENDPOINT"] + "/v1/logs?query=watched&limit=100", headers=auth)
        for record in json.loads(body).get("records", []):
            found = record.get("attributes", {})
            wanted.discard((found.get("operation"), str(found.get("status"))))
        assert time.monotonic() < deadline, (wanted, body[:2000])
        time.sleep(0.2)
    house.put_bucket_logging(Bucket="watched", BucketLoggingStatus={})
    assert "LoggingEnabled" not in house.get_bucket_logging(Bucket="watched")


def quotas():
    house, url = client(), os.environ["BACKLOT_ENDPOINT"] + "/v1/buckets/full/quota"
    auth = {"authorization": "Basic " + base64.b64encode(b"test:test").decode(), "content-type": "application/json"}
    house.create_bucket(Bucket="full")
    status, _, body = fetch(url, "PUT", json.dumps({"bytes": 10}).encode(), auth)
    assert status == 200 and json.loads(body)["quota"] == {"bytes": 10, "objects": None}, body
    house.put_object(Bucket="full", Key="a", Body=b"123456")
    refused(house.put_object, "QuotaExceeded", 403, Bucket="full", Key="b", Body=b"12345")
    refused(house.copy_object, "QuotaExceeded", 403, Bucket="full", Key="b", CopySource="full/a")
    upload = house.create_multipart_upload(Bucket="full", Key="b")["UploadId"]
    part = house.upload_part(Bucket="full", Key="b", UploadId=upload, PartNumber=1, Body=b"12345")
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    whole = {"Bucket": "full", "Key": "b", "UploadId": upload, "MultipartUpload": parts}
    refused(house.complete_multipart_upload, "QuotaExceeded", 403, **whole)
    house.put_object(Bucket="full", Key="a", Body=b"1234567890")  # over itself it fits
    house.delete_object(Bucket="full", Key="a")
    house.complete_multipart_upload(**whole)
    held = json.loads(fetch(url, headers=auth)[2])
    assert (held["bytes"], held["objects"]) == (5, 1), held
    ada = key(account="ada")
    basic = {**auth, "authorization": "Basic " + base64.b64encode(f"{ada['key_id']}:{ada['secret']}".encode()).decode()}
    assert fetch(url, "PUT", b"{}", basic)[0] == 403 and fetch(url, headers=basic)[0] == 403
    assert fetch(url, "PUT", b'{"bytes": -1}', auth)[0] == 400
    assert fetch(url, "DELETE", headers=auth)[0] == 204
    house.put_object(Bucket="full", Key="big", Body=b"x" * 1000)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
