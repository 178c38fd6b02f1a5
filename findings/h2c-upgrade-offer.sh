#!/usr/bin/env bash
# uvicorn 0.54.0 with httptools 0.9.0 (PyPI), ws 8.23.0 (npm): a declined "Upgrade: h2c" offer still changes the request.
#
# A client may offer HTTP/2 on any cleartext request: java.net.http.HttpClient does so by default, on POST too. RFC 9110
# lets a server ignore the offer and answer the request as plain HTTP/1.1.
# Expected: uvicorn and a Node server ignore the offer. uvicorn logs "Unsupported upgrade request", as if it had.
# Seen: with httptools (the default once installed, as uvicorn[standard] does) the application gets an EMPTY body and
#       answers 200. The same uvicorn with h11 passes the whole body.
#       A plain Node server passes the whole body. Once a ws WebSocketServer shares that server, even for another path,
#       the same POST gets 405 and a GET gets 400, from ws, and never reaches the application.
# Why it matters: one Java caller stores empty uploads, or fails on every route, while curl shows no fault. Remedy: the
#       router drops an Upgrade header that is not "websocket", or the client is told HTTP_1_1.
set -euo pipefail

work=$(mktemp -d)
pids=()
cleanup() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait
  rm -rf "$work"
}
trap cleanup EXIT
cd "$work"

python3 -m venv venv
venv/bin/pip -q install --disable-pip-version-check uvicorn==0.54.0 httptools==0.9.0 h11==0.16.0
npm install --silent --no-audit --no-fund --prefix "$work" ws@8.23.0 >/dev/null

cat >app.py <<'PY'
async def app(scope, receive, send):
    size, more = 0, True
    while more:
        event = await receive()
        size += len(event.get("body", b""))
        more = event.get("more_body", False)
    body = b"read %d bytes" % size
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
PY
cat >server.js <<'JS'
const http = require("http");
const { WebSocketServer } = require("ws");
const server = http.createServer(async (request, response) => {
  let size = 0;
  for await (const chunk of request) size += chunk.length;
  response.end(`read ${size} bytes`);
});
if (process.argv[3] === "ws") new WebSocketServer({ server, path: "/live" });
server.listen(process.argv[2]);
JS
cat >ask.py <<'PY'
import socket, sys, time
path, method = sys.argv[1:]
for _ in range(100):
    try:
        s = socket.socket(socket.AF_UNIX)
        s.connect(path)
        break
    except OSError:
        time.sleep(0.1)
s.sendall(f"{method} /upload HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
          "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\nContent-Length: 5\r\n\r\nhello".encode())
s.settimeout(2)
answer = b""
try:
    while chunk := s.recv(4096):
        answer += chunk
        if b"read " in answer:
            break
except TimeoutError:
    pass
head, _, body = answer.decode().partition("\r\n\r\n")
print(head.split()[1], body)
PY

for http in httptools h11; do
  venv/bin/uvicorn app:app --http "$http" --uds "$http.sock" >"$http.log" 2>&1 &
  pids+=($!)
done
for kind in plain ws; do
  node server.js "$kind.sock" "$kind" &
  pids+=($!)
done

httptools=$(python3 ask.py httptools.sock POST)
h11=$(python3 ask.py h11.sock POST)
plain=$(python3 ask.py plain.sock POST)
ws_post=$(python3 ask.py ws.sock POST)
ws_get=$(python3 ask.py ws.sock GET)
echo "POST of 5 bytes, uvicorn with httptools: $httptools"
echo "POST of 5 bytes, uvicorn with h11:       $h11"
echo "POST of 5 bytes, node:                   $plain"
echo "POST of 5 bytes, node with ws on /live:  $ws_post"
echo "GET,             node with ws on /live:  $ws_get"

[ "$httptools" = "200 read 0 bytes" ]
[ "$h11" = "200 read 5 bytes" ]
[ "$plain" = "200 read 5 bytes" ]
[[ $ws_post == 405* ]]
[[ $ws_get == 400* ]]
