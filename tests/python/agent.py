"""What the agent's tests do at the AWS door with boto3: put an input, look at an output, delete an object."""
import json
import sys

import boto3

command, *arguments = sys.argv[1:]
if command == "put":
    bucket, key, text = arguments
    s3 = boto3.client("s3")
    if bucket not in [b["Name"] for b in s3.list_buckets()["Buckets"]]:
        s3.create_bucket(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key=key, Body=text.encode())
elif command == "get":
    bucket, key = arguments[0].removeprefix("s3://").split("/", 1)
    found = boto3.client("s3").get_object(Bucket=bucket, Key=key)
    print(json.dumps({"text": found["Body"].read().decode(), "metadata": found["Metadata"], "type": found["ContentType"]}))
elif command == "keys":
    listing = boto3.client("s3").list_objects_v2(Bucket=arguments[0], Prefix=arguments[1])
    print(json.dumps([entry["Key"] for entry in listing.get("Contents", [])]))
elif command == "delete":
    boto3.client("s3").delete_object(Bucket=arguments[0], Key=arguments[1])
