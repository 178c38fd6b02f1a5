#!/usr/bin/env bash
# uvicorn 0.54.0, Hypercorn 0.18.0, granian 2.8.9, gunicorn 27.0.1 -k asgi (PyPI): SIGTERM with a WebSocket open.
#
# Expected: a server that stops says so to its WebSocket clients with close code 1001 (going away), the code of RFC 6455
#       for "a server going down", and gives the application a disconnect event.
# Seen: none of the four sends 1001 for one and the same ASGI application.
#       uvicorn sends 1012 (service restart) at once, and the application gets the disconnect event with code 1012.
#       Hypercorn waits its 3 seconds of grace, cancels the application, and reports 1011 (internal error).
#       granian cuts the connection with no close frame, which a client calls 1006. Whether the application still sees a
#       disconnect event, with code 1005, differs from run to run.
#       gunicorn's own asgi worker sends nothing and waits out its graceful timeout: 30 seconds by default, 4 here.
# Why it matters: clients reconnect by close code. 1011 reads as a bug and 1006 as a lost network, so a planned update
#       raises alarms or back-off. With gunicorn one open WebSocket outlives the usual 10 seconds before SIGKILL.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip -q install --disable-pip-version-check \
  uvicorn==0.54.0 Hypercorn==0.18.0 granian==2.8.9 gunicorn==27.0.1 websockets==17.4 h11==0.16.0 wsproto==1.3.2

cat >app.py <<'PY'
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            event = await receive()
            await send({"type": event["type"] + ".complete"})
            if event["type"] == "lifespan.shutdown":
                return
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": "hello"})
    try:
        event = await receive()
        print("app saw", event["type"], event.get("code"), flush=True)
    except BaseException as error:
        print("app saw", type(error).__name__, flush=True)
        raise
PY
cat >close.py <<'PY'
import socket
import subprocess
import time

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

SERVERS = {
    "uvicorn": ["uvicorn", "app:app", "--port"],
    "hypercorn": ["hypercorn", "app:app", "--bind"],
    "granian": ["granian", "app:app", "--interface", "asgi", "--port"],
    "gunicorn": ["gunicorn", "app:app", "-k", "asgi", "--graceful-timeout", "4", "--no-control-socket", "--bind"],
}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def connect_when_up(port):
    for _ in range(150):
        try:
            return connect(f"ws://127.0.0.1:{port}/", ping_interval=None)
        except OSError:
            time.sleep(0.1)
    raise SystemExit("the server did not start")


def run(name):
    port = free_port()
    command = SERVERS[name]
    address = f"127.0.0.1:{port}" if command[-1] == "--bind" else str(port)
    with open(f"{name}.log", "w+") as log:
        server = subprocess.Popen([f"venv/bin/{command[0]}", *command[1:], address], stdout=log, stderr=log)
        try:
            with connect_when_up(port) as client:
                assert client.recv(timeout=5) == "hello"
                time.sleep(0.5)
                began = time.monotonic()
                server.terminate()
                try:
                    client.recv(timeout=15)
                except ConnectionClosed as closed:
                    code = closed.rcvd.code if closed.rcvd else None
                after = time.monotonic() - began
            server.wait(timeout=15)
        finally:
            server.kill()
        log.seek(0)
        seen = [line.strip() for line in log if line.startswith("app saw")]
    print(f"{name:10} close frame {code}, after {after:.1f} s; {seen or 'the app saw nothing'}")
    return code, after, seen


for name, expected in {
    "uvicorn": (1012, 0, 2, ["app saw websocket.disconnect 1012"]),
    "hypercorn": (1011, 2, 6, ["app saw CancelledError"]),
    "granian": (None, 0, 2, None),
    "gunicorn": (None, 3, 12, None),
}.items():
    code, at_least, at_most, seen = expected
    result = run(name)
    assert result[0] == code, (name, result)
    assert at_least <= result[1] <= at_most, (name, result)
    assert seen is None or result[2] == seen, (name, result)
PY
venv/bin/python close.py
