#!/usr/bin/env bash
# gunicorn 27.0.1 against 23.0.0 (PyPI): the sync worker now waits for the client to close, for two seconds.
#
# Expected: a sync worker answers with "Connection: close", closes the socket and takes the next connection. That is what
#       23.0.0 does, and why its throughput is one worker divided by the time of the application.
# Seen: 27.0.1 shuts down its sending side, and then reads until the client closes too, for at most 2 seconds, before it
#       accepts another connection. Three clients in turn that read their answer and keep the socket object around get
#       theirs after 0, 2 and 4 seconds. The answers themselves, the access log and the application show no delay.
# Why it matters: a client that parses Content-Length and closes late (a pool that looks at idle sockets at its next use,
#       a language with late finalizers, a proxy that tidies up in batches) divides the throughput of each worker, after
#       an update that changed no setting. The wait is a constant, not an option. Remedy: gthread, or a proxy that
#       closes as soon as it has read an answer with "Connection: close".
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
for version in 23.0.0 27.0.1; do
  python3 -m venv "venv-$version"
  "venv-$version/bin/pip" -q install --disable-pip-version-check "gunicorn==$version"
done
cat >app.py <<'PY'
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
PY
cat >measure.py <<'PY'
import os
import socket
import subprocess
import time


def connect_when_up(path):
    for _ in range(100):
        client = socket.socket(socket.AF_UNIX)
        try:
            client.connect(path)
            return client
        except OSError:
            client.close()
            time.sleep(0.1)
    raise SystemExit("gunicorn did not start")


def measure(version, closes_at_once):
    path = os.path.abspath(f"{version}-{closes_at_once}.sock")
    with open("server.log", "w") as log:
        command = [f"venv-{version}/bin/gunicorn", "app:app", "--bind", f"unix:{path}"]
        server = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "HOME": os.getcwd()})
    clients = []
    try:
        connect_when_up(path).close()
        time.sleep(1)
        began = time.monotonic()
        for _ in range(3):
            client = connect_when_up(path)
            client.settimeout(10)
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            answer = b""
            while not answer.endswith(b"ok"):
                answer += client.recv(4096)
            assert b"Connection: close" in answer
            if closes_at_once:
                client.close()
            clients.append((client, time.monotonic() - began))
    finally:
        for client, _ in clients:
            client.close()
        server.terminate()
        server.wait(timeout=20)
    answered = [after for _, after in clients]
    print(f"gunicorn {version}, clients that close {'at once' if closes_at_once else 'late   '}: answered after",
          ", ".join(f"{after:.1f} s" for after in answered))
    return answered


assert measure("23.0.0", True)[-1] < 1
assert measure("23.0.0", False)[-1] < 1
assert measure("27.0.1", True)[-1] < 1
late = measure("27.0.1", False)
assert late[0] < 1 and 1.5 < late[1] < 3.5 and 3.5 < late[2] < 6
PY
python3 measure.py
