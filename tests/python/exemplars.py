"""Measures within spans, so that the SDK attaches exemplars, and sends the metrics: `exemplars.py http|grpc MARKER`.

Prints one JSON line: the trace of the slow measurement and of the counted one.
"""

import json
import os
import sys

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider

transport, marker = sys.argv[1], sys.argv[2]
if transport == "http":
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

    exporter = OTLPMetricExporter(endpoint=f"{os.environ['BACKLOT_AGENT_OTLP']}/v1/metrics")
else:
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter

    exporter = OTLPMetricExporter(endpoint=os.environ["BACKLOT_TEST_OTLP_GRPC"], insecure=True)

resource = Resource.create({"service.name": f"studio-{marker}", "service.instance.id": "py"})
reader = PeriodicExportingMetricReader(exporter, export_interval_millis=3_600_000)
meters = MeterProvider(resource=resource, metric_readers=[reader])
meter = meters.get_meter("backlot-tests")
latency = meter.create_histogram("render.latency", unit="s", explicit_bucket_boundaries_advisory=[0.5, 1.0, 2.0])
frames = meter.create_counter("render.frames", unit="{frame}")
tracer = TracerProvider(resource=resource).get_tracer("backlot-tests")

latency.record(0.1)  # not in a span
with tracer.start_as_current_span("slow") as slow:
    latency.record(1.5)
with tracer.start_as_current_span("counted") as counted:
    frames.add(3)
for _ in range(2):
    assert meters.force_flush(), "an export failed"
meters.shutdown()


def trace_id(span):
    return format(span.get_span_context().trace_id, "032x")


print(json.dumps({"slow": trace_id(slow), "counted": trace_id(counted)}))
