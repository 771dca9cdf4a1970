"""The other S3 of cold windows, as an operator of it sees it: `uploads BUCKET PREFIX` prints the uploads in parts that are under way."""

import json
import sys

from artifacts import client


def uploads(bucket, prefix):
    s3 = client()
    told = []
    for upload in s3.list_multipart_uploads(Bucket=bucket, Prefix=prefix).get("Uploads", []):
        named = {"Bucket": bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
        try:
            parts = s3.list_parts(**named).get("Parts", [])
        except s3.exceptions.NoSuchUpload:
            continue  # it ended in between
        told.append({"key": upload["Key"], "parts": len(parts)})
    print(json.dumps(told))


if __name__ == "__main__":
    {"uploads": uploads}[sys.argv[1]](*sys.argv[2:])
