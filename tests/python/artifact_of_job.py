"""The artifact at BUCKET KEY says in its metadata that JOB made it, with which model, at which scale, in which trace."""

import sys

import boto3

bucket, key, job = sys.argv[1:]
head = boto3.client("s3").head_object(Bucket=bucket, Key=key)
metadata = head["Metadata"]
assert metadata["backlot-job"] == job, metadata
for name in ("backlot-attempt", "backlot-type", "backlot-model", "backlot-scale", "backlot-traceparent"):
    assert metadata.get(name), (name, metadata)
assert head["ContentLength"] > 0
