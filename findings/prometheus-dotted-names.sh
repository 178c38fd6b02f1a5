#!/usr/bin/env bash
# prometheus-client 0.26.0 (PyPI): two metrics for one scraper are the same series twice for another.
#
# Metric names may hold dots since Prometheus 3, and the client accepts them: Counter("http.requests").
# Expected: a registry that has "http.requests" refuses "http_requests", as it refuses a second "http_requests", since the
#       two names are one name for every scraper that does not ask for UTF-8.
# Seen: both register without a word. A scraper that sends "escaping=allow-utf-8" gets two series. Any other, curl too,
#       gets http_requests_total twice in one answer with two values, and two TYPE lines: the text format forbids that.
#       A single metric that meets no other is renamed the same way: its name depends on who scrapes.
# Why it matters: it takes one library with dotted names (OpenTelemetry's style) beside one with the old names. The
#       endpoint looks right under a new Prometheus; the older one, or the agent beside it, rejects the scrape or keeps
#       whichever value came last, and dashboards differ between the two. Remedy: underscores, or one style per process.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip -q install --disable-pip-version-check prometheus-client==0.26.0

cat >scrape.py <<'PY'
import urllib.request

from prometheus_client import CollectorRegistry, Counter, start_http_server

registry = CollectorRegistry()
Counter("http.requests", "from a library with dotted names", registry=registry).inc(5)
Counter("http_requests", "from a library with the old names", registry=registry).inc(7)
try:
    Counter("http_requests", "again", registry=registry)
    raise SystemExit("the registry accepted one name twice")
except ValueError as error:
    print("a second http_requests:", str(error).split(":")[0])

server, thread = start_http_server(0, addr="127.0.0.1", registry=registry)


def scrape(accept):
    headers = {"Accept": accept} if accept else {}
    request = urllib.request.Request(f"http://127.0.0.1:{server.server_port}/metrics", headers=headers)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as response:
        lines = response.read().decode().splitlines()
    return [line for line in lines if "requests_total" in line and not line.startswith("#")]


old = scrape("text/plain;version=0.0.4")
plain = scrape(None)
new = scrape("text/plain;version=1.0.0;escaping=allow-utf-8")
print("scraper with version=0.0.4:       ", old)
print("scraper with no Accept (curl):    ", plain)
print("scraper with escaping=allow-utf-8:", new)
assert old == plain == ["http_requests_total 5.0", "http_requests_total 7.0"]
assert new == ['{"http.requests_total"} 5.0', "http_requests_total 7.0"]
server.shutdown()
thread.join()
PY
venv/bin/python scrape.py
