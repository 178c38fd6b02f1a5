#!/usr/bin/env bash
# opentelemetry-sdk 1.45.2 and its OTLP/HTTP exporter (PyPI): force_flush(timeout) keeps neither its limit nor its word.
#
# Expected: TracerProvider.force_flush(1000) returns after about one second, and returns False when the collector is down:
#       its documentation says True when all spans were flushed within the limit, and False otherwise.
# Seen: with nothing listening at the collector's address, force_flush(1000) takes several seconds for one batch (the
#       exporter retries with back-off inside), as many times over for a queue of several batches, and returns True. The
#       spans are gone: the SIGTERM handler that trusted the result has no reason to log a loss.
# Why it matters: a container that flushes in its SIGTERM handler "for at most a second" overruns a stop grace of ten
#       seconds with 2,000 queued spans, and is killed before its own clean-up. Remedy: flush in a daemon thread that is
#       joined with a timeout, and do not read the result as delivery.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip -q install --disable-pip-version-check \
  opentelemetry-sdk==1.45.2 opentelemetry-api==1.45.2 opentelemetry-exporter-otlp-proto-http==1.45.2

cat >flush.py <<'PY'
import logging
import socket
import time

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

logging.disable(logging.CRITICAL)
# A bound socket that does not listen: connections are refused, and nobody else can take the port.
reserved = socket.socket()
reserved.bind(("127.0.0.1", 0))
url = f"http://127.0.0.1:{reserved.getsockname()[1]}/v1/traces"


def flush(spans):
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(url), schedule_delay_millis=3_600_000))
    tracer = provider.get_tracer("finding")
    for _ in range(spans):
        tracer.start_span("work").end()
    began = time.monotonic()
    result = provider.force_flush(1000)
    took = time.monotonic() - began
    print(f"{spans:5} spans queued: force_flush(1000 ms) returned {result} after {took:.1f} s, nothing was delivered")
    return result, took


one_result, one_took = flush(1)
many_result, many_took = flush(2000)
assert one_result is True and many_result is True
assert one_took > 3
assert many_took > 10
PY
venv/bin/python flush.py
