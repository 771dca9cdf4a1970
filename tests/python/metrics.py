"""Sends metrics with the OpenTelemetry SDK: `metrics.py http|grpc cumulative|delta`.

The endpoint comes from the environment that the harness sets. Every export must be answered with success.
"""

import os
import sys

from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider, ObservableCounter
from opentelemetry.sdk.metrics.export import AggregationTemporality, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

protocol, temporality = sys.argv[1:3]
preferred = {}
if temporality == "delta":
    preferred = {kind: AggregationTemporality.DELTA for kind in (Counter, Histogram, ObservableCounter)}

if protocol == "grpc":
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter

    endpoint = os.environ["BACKLOT_TEST_OTLP_GRPC"]
    exporter = OTLPMetricExporter(endpoint=endpoint, insecure=True, preferred_temporality=preferred)
else:
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

    exporter = OTLPMetricExporter(
        endpoint=os.environ["BACKLOT_AGENT_OTLP"] + "/v1/metrics",
        compression=Compression.Gzip,
        preferred_temporality=preferred,
    )

resource = Resource.create({"service.name": f"studio-{protocol}-{temporality}", "service.instance.id": "py", "host.name": "gpu-1"})
reader = PeriodicExportingMetricReader(exporter, export_interval_millis=3_600_000)
provider = MeterProvider(resource=resource, metric_readers=[reader])
meter = provider.get_meter("backlot-tests")

frames = meter.create_counter("render.frames", unit="{frame}", description="Frames rendered.")
memory = meter.create_gauge("gpu.memory", unit="By")
latency = meter.create_histogram("render.latency", unit="s", explicit_bucket_boundaries_advisory=[0.5, 1.0, 2.0])

for _ in range(2):
    frames.add(5, {"shot": "12"})
    memory.set(1024, {"gpu.index": 0})
    latency.record(0.75)
    latency.record(1.5)
    assert provider.force_flush(), "an export failed"
provider.shutdown()
print("ok")
