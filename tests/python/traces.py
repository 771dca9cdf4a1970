"""The OpenTelemetry Python SDK makes two traces of a studio's day: a frame that fails, and its second attempt, which links to it.

Prints one JSON line: the ids of the traces and of some spans.
"""

import json
import os
import sys

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, SpanKind, Status, StatusCode

transport, marker = sys.argv[1], sys.argv[2]

if transport == "http":
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    def exporter():
        return OTLPSpanExporter(endpoint=f"{os.environ['BACKLOT_AGENT_OTLP']}/v1/traces", compression=Compression.Gzip)
else:
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    def exporter():
        return OTLPSpanExporter(endpoint=os.environ["BACKLOT_TEST_OTLP_GRPC"], insecure=True)


def tracers(service, host):
    resource = Resource.create({"service.name": f"{service}-{marker}", "host.name": host, "service.version": "1.2.3"})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(exporter()))
    return provider


desk, farm = tracers("desk", "web-1"), tracers("farm", "gpu-7")
ask, work = desk.get_tracer("desk.submit"), farm.get_tracer("farm.render")

SECOND = 1_000_000_000
BEGIN = 1_763_812_800 * SECOND + 123_456_000

submit = ask.start_span("submit shot", kind=SpanKind.PRODUCER, start_time=BEGIN, attributes={"shot": 42, "scene": "night"})
submitted = trace.set_span_in_context(submit)
submit.end(BEGIN + SECOND)

first = work.start_span(
    "render", context=submitted, kind=SpanKind.CONSUMER, start_time=BEGIN + 3 * SECOND,
    attributes={"job.id": f"job-{marker}", "gpu.index": 3, "http.url": "/render/42?take=1", "tiled": True},
)
inside = trace.set_span_in_context(first)
load = work.start_span("load", context=inside, start_time=BEGIN + 3 * SECOND)
load.end(BEGIN + 5 * SECOND)
infer = work.start_span("infer", context=inside, start_time=BEGIN + 5 * SECOND, attributes={"model": "upscale-4x"})
infer.record_exception(MemoryError("CUDA out of memory: 12 GiB wanted"), timestamp=BEGIN + 9 * SECOND)
infer.set_status(Status(StatusCode.ERROR, "out of memory"))
infer.end(BEGIN + 10 * SECOND)
first.end(BEGIN + 11 * SECOND)

again = work.start_span(
    "render", kind=SpanKind.CONSUMER, start_time=BEGIN + 20 * SECOND, attributes={"job.id": f"job-{marker}"},
    links=[Link(first.get_span_context(), {"reason": "retry"})],
)
again.end(BEGIN + 21 * SECOND)

for provider in (desk, farm):
    assert provider.force_flush(), "the export was not answered with success"
    provider.shutdown()


def ids(span):
    context = span.get_span_context()
    return {"trace": format(context.trace_id, "032x"), "span": format(context.span_id, "016x")}


print(json.dumps({"submit": ids(submit), "first": ids(first), "load": ids(load), "infer": ids(infer), "again": ids(again)}))
