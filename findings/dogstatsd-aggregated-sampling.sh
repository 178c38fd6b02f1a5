#!/usr/bin/env bash
# datadog 0.56.0 (PyPI): with client-side aggregation, a sample rate is applied to the sum and not to the calls.
#
# increment("hits", sample_rate=0.1) sends one call in ten as "hits:1|c|@0.1", and the server counts ten for each.
# disable_aggregation=False adds the calls up in the client and sends one line per flush.
# Expected: 1,000 calls at a rate of 0.1 become one line per flush that a server reads as about 1,000. Aggregation sees
#       every call, so a line "hits:1000|c" would be exact.
# Seen: the client adds all 1,000 calls, and throws the dice once, for the whole sum. Nine flushes in ten send nothing.
#       The tenth sends "hits:1000|c|@0.1", which a server reads as 10,000. A gauge is silent nine flushes in ten, too.
#       The first call of a flush sets the rate for all: one call at 0.1 before 999 calls at 1 gives the same result.
# Why it matters: only the average over many flushes is right. After a change of one flag, meant to save packets, a
#       steady counter turns into zeros and spikes of ten times its value, and alarms on rate and on absence both fire.
#       Remedy: drop every sample_rate of counters and gauges when aggregation is switched on.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip -q install --disable-pip-version-check datadog==0.56.0

cat >count.py <<'PY'
import random
import socket

from datadog.dogstatsd import DogStatsd

FLUSHES = 200
random.seed(1)
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 0))
server.settimeout(0.01)


def received():
    lines = []
    try:
        while True:
            lines += server.recv(65536).decode().split()
    except TimeoutError:
        return lines


def as_server_reads(lines):
    total = 0
    for line in lines:
        value, _, *options = line.split("|")
        rate = next((float(option[1:]) for option in options if option[0] == "@"), 1)
        total += float(value.split(":")[1]) / rate
    return round(total)


def flushes(calls, aggregate):
    client = DogStatsd(
        host="127.0.0.1",
        port=server.getsockname()[1],
        disable_aggregation=not aggregate,
        disable_telemetry=True,
        flush_interval=3600,
    )
    result = []
    for _ in range(FLUSHES):
        lines = []
        for number in range(10):
            calls(client, number * 100)
            if not aggregate:
                client.flush_buffered_metrics()
                lines += received()
        if aggregate:
            client.flush_aggregated_metrics()
            client.flush_buffered_metrics()
            lines += received()
        result.append(lines)
    client.stop()
    return result


def sampled_counter(client, _):
    for _ in range(100):
        client.increment("hits", sample_rate=0.1)


def one_sampled_call(client, number):
    for call in range(100):
        client.increment("hits", sample_rate=0.1 if number + call == 0 else 1)


def sampled_gauge(client, _):
    for _ in range(100):
        client.gauge("depth", 7, sample_rate=0.1)


def summary(name, result):
    totals = [as_server_reads(lines) for lines in result]
    silent = sum(1 for lines in result if not lines)
    print(f"{name:45} flushes with no line: {silent:3} of {FLUSHES}; a server reads {min(totals)} to {max(totals)}")
    return silent, totals


silent, totals = summary("1,000 calls at 0.1, no aggregation", flushes(sampled_counter, False))
assert silent == 0 and min(totals) > 500 and max(totals) < 1500

result = flushes(sampled_counter, True)
silent, totals = summary("1,000 calls at 0.1, aggregation", result)
assert FLUSHES * 0.8 < silent < FLUSHES
assert set(totals) == {0, 10_000}
assert {line for lines in result for line in lines} == {"hits:1000|c|@0.1"}

silent, totals = summary("1 call at 0.1, then 999 at 1, aggregation", flushes(one_sampled_call, True))
assert FLUSHES * 0.8 < silent < FLUSHES
assert set(totals) == {0, 10_000}

result = flushes(sampled_gauge, True)
silent = sum(1 for lines in result if not lines)
print(f"{'1,000 gauge calls at 0.1, aggregation':45} flushes with no line: {silent:3} of {FLUSHES}")
assert FLUSHES * 0.8 < silent < FLUSHES
PY
venv/bin/python count.py
