"""Sends one log record over gRPC, once, and prints how it was refused: one JSON line with the code and the details."""

import json
import os

import grpc
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import LogsServiceStub
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs

record = LogRecord(body=AnyValue(string_value="x" * 100_000))
request = ExportLogsServiceRequest(resource_logs=[ResourceLogs(scope_logs=[ScopeLogs(log_records=[record])])])
with grpc.insecure_channel(os.environ["BACKLOT_TEST_OTLP_GRPC"].removeprefix("http://")) as channel:
    try:
        LogsServiceStub(channel).Export(request)
        print(json.dumps({"code": "OK"}))
    except grpc.RpcError as error:
        print(json.dumps({"code": error.code().name, "details": error.details()}))
