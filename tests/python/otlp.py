"""The OpenTelemetry Python SDK against the OTLP doors: logs, traces and metrics, over HTTP (with gzip) and gRPC.

Prints one JSON line: the trace id and the marker that its log records, spans and metrics carry.
"""

import json
import logging
import os
import sys

from opentelemetry import metrics, trace
from opentelemetry._logs import set_logger_provider
from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

transport, marker = sys.argv[1], sys.argv[2]

if transport == "http":
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    base = os.environ["BACKLOT_AGENT_OTLP"]
    logs_out = OTLPLogExporter(endpoint=f"{base}/v1/logs", compression=Compression.Gzip)
    spans_out = OTLPSpanExporter(endpoint=f"{base}/v1/traces", compression=Compression.Gzip)
    metrics_out = OTLPMetricExporter(endpoint=f"{base}/v1/metrics")
else:
    import grpc
    from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    base = os.environ["BACKLOT_TEST_OTLP_GRPC"]
    common = {"endpoint": base, "insecure": True, "compression": grpc.Compression.Gzip}
    logs_out, spans_out, metrics_out = OTLPLogExporter(**common), OTLPSpanExporter(**common), OTLPMetricExporter(**common)

resource = Resource.create({"service.name": f"renderer-{marker}", "host.name": "gpu-7", "service.instance.id": marker})

loggers = LoggerProvider(resource=resource)
loggers.add_log_record_processor(BatchLogRecordProcessor(logs_out))
set_logger_provider(loggers)
logger = logging.getLogger("render.frames")
logger.setLevel(logging.DEBUG)
logger.addHandler(LoggingHandler(logger_provider=loggers))

tracers = TracerProvider(resource=resource)
tracers.add_span_processor(BatchSpanProcessor(spans_out))
tracer = tracers.get_tracer("render")

meters = MeterProvider(resource=resource, metric_readers=[PeriodicExportingMetricReader(metrics_out)])
frames = meters.get_meter("render").create_counter("render_frames", unit="{frame}")

with tracer.start_as_current_span("attempt", attributes={"job.id": f"job-{marker}"}) as attempt:
    trace_id = format(attempt.get_span_context().trace_id, "032x")
    with tracer.start_as_current_span("infer") as infer:
        infer.add_event("first frame", {"frame": 0})
        for frame in range(20):
            logger.info("frame %d written", frame, extra={"gpu.index": frame % 4, "job.id": f"job-{marker}"})
            frames.add(1, {"gpu": str(frame % 2)})
        try:
            raise MemoryError("CUDA out of memory: 12 GiB wanted")
        except MemoryError:
            logger.exception("frame 20 failed", extra={"job.id": f"job-{marker}"})
    attempt.set_status(trace.Status(trace.StatusCode.ERROR, "out of memory"))

for provider in (loggers, tracers, meters):
    assert provider.force_flush(), "the export was not answered with success"
    provider.shutdown()
print(json.dumps({"trace_id": trace_id}))
