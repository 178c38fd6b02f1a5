#!/usr/bin/env bash
# gunicorn 27.0.1 (-k asgi and its WSGI workers), uvicorn 0.54.0, granian 2.8.9, Hypercorn 0.18.0, waitress 3.0.2 (PyPI).
#
# A client may shut down its sending side after the request and read the answer from the other: `nc -N`, a health check
# written with sockets, and layer 4 balancers that pass a FIN on do so. TCP allows that, and HTTP/1.1 does not forbid it.
# Expected: a server answers, or all servers of a family refuse alike.
# Seen: for an answer that takes a second, gunicorn's sync and gthread workers, waitress and Hypercorn send the answer.
#       uvicorn (httptools and h11), granian (ASGI and WSGI) and gunicorn's own asgi worker close at once, with not one
#       byte of an answer. The application runs to its end under every one of them.
# Why it matters: the same probe against the same gunicorn turns from 200 to "empty reply" when the worker class changes
#       from gthread to asgi, only for answers that are not instant, and the caller repeats work that was done.
#       Remedy: a layer 7 proxy in front of such servers must not pass a client's half-close on.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip -q install --disable-pip-version-check \
  uvicorn==0.54.0 httptools==0.9.0 h11==0.16.0 Hypercorn==0.18.0 granian==2.8.9 gunicorn==27.0.1 waitress==3.0.2

cat >app.py <<'PY'
import asyncio
import time


async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            event = await receive()
            await send({"type": event["type"] + ".complete"})
            if event["type"] == "lifespan.shutdown":
                return
    if scope["path"] == "/slow":
        await asyncio.sleep(1)
        print("finished", flush=True)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"done\n"})


def wsgi(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        time.sleep(1)
        print("finished", flush=True)
    start_response("200 OK", [("Content-Length", "5")])
    return [b"done\n"]
PY
cat >probe.py <<'PY'
import socket
import subprocess
import time

BIND = " --bind 127.0.0.1:"
PORT = " --port "
SERVERS = [
    # command, option for the port, does a half-closed client get the answer
    ("gunicorn --no-control-socket -k sync app:wsgi", BIND, True),
    ("gunicorn --no-control-socket -k gthread app:wsgi", BIND, True),
    ("waitress-serve app:wsgi", " --listen=127.0.0.1:", True),
    ("hypercorn app:asgi", BIND, True),
    ("gunicorn --no-control-socket -k asgi app:asgi", BIND, False),
    ("uvicorn --http httptools app:asgi", PORT, False),
    ("uvicorn --http h11 app:asgi", PORT, False),
    ("granian --interface asgi app:asgi", PORT, False),
    ("granian --interface wsgi app:wsgi", PORT, False),
]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def connect_when_up(port):
    for _ in range(150):
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=5)
        except OSError:
            time.sleep(0.1)
    raise SystemExit("the server did not start")


def ask(port, half_close):
    with connect_when_up(port) as client:
        client.sendall(b"GET /slow HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        if half_close:
            client.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := client.recv(4096):
            answer += chunk
    return answer.endswith(b"done\n")


for command, port_option, answers in SERVERS:
    port = free_port()
    program, *arguments = command.split()
    line = [f"venv/bin/{program}", *(port_option + str(port)).split(), *arguments]
    with open("server.log", "w+") as log:
        server = subprocess.Popen(line, stdout=log, stderr=log)
        try:
            open_client = ask(port, False)
            half_closed = ask(port, True)
            time.sleep(1.5)
        finally:
            server.terminate()
            server.wait(timeout=20)
        log.seek(0)
        finished = log.read().count("finished") == 2
    said = "200" if half_closed else "no byte"
    print(f"{command:50} half-closed client gets: {said:7} application finished: {finished}")
    assert open_client, command
    assert half_closed == answers, command
    assert finished, command
PY
venv/bin/python probe.py
