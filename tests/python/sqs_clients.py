"""SQS clients of both protocols from one botocore: today's JSON, and the Query protocol that it spoke before.

botocore's model of SQS says JSON. For the other protocol it is given a copy of that model which says `query`, with the
names that lists and maps have in forms and XML; everything else, signatures included, is botocore's own.
"""

import atexit
import copy
import json
import os
import shutil
import tempfile

import botocore.loaders
import botocore.session
from botocore.config import Config

VERSION = "2012-11-05"
# What an item of a list is called where it is not called as its shape is.
ITEMS = {
    "AWSAccountIdList": "AWSAccountId",
    "ActionNameList": "ActionName",
    "AttributeNameList": "AttributeName",
    "QueueUrlList": "QueueUrl",
    "StringList": "StringListValue",
    "BinaryList": "BinaryListValue",
}
MAPS = {
    "Attributes": "Attribute",
    "MessageAttributes": "MessageAttribute",
    "MessageSystemAttributes": "MessageSystemAttribute",
    "tags": "Tag",
    "Tags": "Tag",
}


def model():
    return botocore.loaders.create_loader().load_service_model("sqs", "service-2", VERSION)


def query_model():
    queried = copy.deepcopy(model())
    metadata = queried["metadata"]
    for name in ("awsQueryCompatible", "jsonVersion", "targetPrefix", "protocols"):
        metadata.pop(name, None)
    metadata.update(protocol="query", xmlNamespace=f"http://queue.amazonaws.com/doc/{VERSION}/")
    for name, operation in queried["operations"].items():
        if "output" in operation:
            operation["output"]["resultWrapper"] = f"{name}Result"
    for name, shape in queried["shapes"].items():
        if shape["type"] == "list":
            shape["flattened"] = True
            shape["member"]["locationName"] = ITEMS.get(name, shape["member"]["shape"])
        if shape["type"] == "map":
            shape["flattened"] = True
            shape["key"]["locationName"] = "Key" if name == "TagMap" else "Name"
            shape["value"]["locationName"] = "Value"
        for member, reference in shape.get("members", {}).items():
            if queried["shapes"][reference["shape"]]["type"] == "map":
                reference["locationName"] = MAPS[member]
    return queried


def client(protocol="json", **config):
    """A client that tries once: what is answered is looked at."""
    session = botocore.session.Session()
    if protocol == "query":
        folder = tempfile.mkdtemp(prefix="sqs-query-model-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.makedirs(os.path.join(folder, "sqs", VERSION))
        with open(os.path.join(folder, "sqs", VERSION, "service-2.json"), "w", encoding="utf-8") as file:
            json.dump(query_model(), file)
        session.set_config_variable("data_path", folder)
    config = {"retries": {"max_attempts": 0, "mode": "standard"}, "connect_timeout": 5, **config}
    made = session.create_client("sqs", config=Config(**config))
    assert made.meta.service_model.metadata["protocol"] == protocol, made.meta.service_model.metadata
    return made


def client_at(url):
    """A JSON client of an appliance that is known by another address."""
    session = botocore.session.Session()
    return session.create_client("sqs", endpoint_url=url, config=Config(retries={"max_attempts": 0}, connect_timeout=5))
