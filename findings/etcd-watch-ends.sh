#!/usr/bin/env bash
# etcd3gw 2.7.0, python3-etcd3 0.13.0, aetcd 1.0.0 (PyPI), etcd3 1.1.2 (npm), on etcd 3.4.23 (Debian 12): ends of a watch.
#
# etcd ends a watch in two ordinary ways. It cancels one whose start revision was compacted, and says so with a
# compact_revision. And a server that restarts for an update closes the stream.
# Expected: the loop over the events raises an error or ends, so that the program can list the keys and watch again; or
#       the client does that itself.
# Seen:                   compacted start revision     restart of the server
#       etcd3gw           no error, no end             no error, no end; later events are lost
#       python3-etcd3     RevisionCompactedError       no end: NameError in its thread, on stderr only
#       aetcd             RevisionCompactedError       ConnectionFailedError
#       etcd3 for Node    "error" event                connects again, later events arrive
# Why it matters: a service that follows its settings or its peers in etcd stays "healthy" and works with the state of
#       the day before the update of etcd. Requests of the same client succeed, since each opens a connection of its own
#       or reconnects. Remedy: read the keys again on a timer, and treat the watch as a hint to do so sooner.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
if ! apt-get download -qq etcd-server=3.4.23-4+b4 2>/dev/null; then
  echo "cannot download etcd-server 3.4.23-4+b4: run \"apt-get update\" on Debian 12" >&2
  exit 1
fi
dpkg -x etcd-server_*.deb root
python3 -m venv venv
venv/bin/pip -q install --disable-pip-version-check \
  etcd3gw==2.7.0 python3-etcd3==0.13.0 aetcd==1.0.0 grpcio==1.85.3 protobuf==7.36.2
npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$work" etcd3@1.1.2 >/dev/null

# Each watcher prints one line per event, and one line when the loop over its events ends.
cat >watch_etcd3gw.py <<'PY'
import sys

import etcd3gw

options = {"start_revision": int(sys.argv[2])} if len(sys.argv) > 2 else {}
events, cancel = etcd3gw.client(host="127.0.0.1", port=int(sys.argv[1]), api_path="/v3/").watch("key", **options)
for event in events:
    print("event", event["kv"]["value"].decode(), flush=True)
print("end")
PY
cat >watch_etcd3.py <<'PY'
import sys

import etcd3

options = {"start_revision": int(sys.argv[2])} if len(sys.argv) > 2 else {}
try:
    events, cancel = etcd3.client(host="127.0.0.1", port=int(sys.argv[1])).watch("key", **options)
    for event in events:
        print("event", event.value.decode(), flush=True)
    print("end")
except Exception as error:
    print(type(error).__name__, flush=True)
PY
cat >watch_aetcd.py <<'PY'
import asyncio
import sys

import aetcd


async def main():
    options = {"start_revision": int(sys.argv[2])} if len(sys.argv) > 2 else {}
    async with aetcd.Client(host="127.0.0.1", port=int(sys.argv[1])) as client:
        try:
            async for event in await client.watch(b"key", **options):
                print("event", event.kv.value.decode(), flush=True)
            print("end")
        except Exception as error:
            print(type(error).__name__, flush=True)


asyncio.run(main())
PY
cat >watch_node.mjs <<'JS'
import { Etcd3 } from 'etcd3';

const [port, revision] = process.argv.slice(2);
const builder = new Etcd3({ hosts: `http://127.0.0.1:${port}` }).watch().key('key');
if (revision) builder.startRevision(revision);
const watcher = await builder.create();
watcher.on('put', (pair) => console.log('event', pair.value.toString()));
watcher.on('error', () => console.log('error'));
watcher.on('end', () => console.log('end'));
JS

cat >drive.py <<'PY'
import base64
import json
import socket
import subprocess
import time
import urllib.request

WATCHERS = {
    # name: command, lines of a compacted watch, lines of a watch across a restart
    "etcd3gw": (["venv/bin/python", "watch_etcd3gw.py"], [], ["event before"]),
    "python3-etcd3": (["venv/bin/python", "watch_etcd3.py"], ["RevisionCompactedError"], ["event before"]),
    "aetcd": (["venv/bin/python", "watch_aetcd.py"], ["RevisionCompactedError"], ["event before", "ConnectionFailedError"]),
    "etcd3 for Node": (["node", "watch_node.mjs"], ["error"], ["event before", "event after"]),
}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


CLIENT, PEER = free_port(), free_port()
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def post(path, **body):
    request = urllib.request.Request(f"http://127.0.0.1:{CLIENT}/v3{path}", json.dumps(body).encode())
    with opener.open(request, timeout=5) as response:
        return json.load(response)


def put(value):
    encoded = {name: base64.b64encode(text.encode()).decode() for name, text in (("key", "key"), ("value", value))}
    return int(post("/kv/put", **encoded)["header"]["revision"])


def start_server(log):
    client, peer = f"http://127.0.0.1:{CLIENT}", f"http://127.0.0.1:{PEER}"
    options = ["--data-dir", "data", "--listen-client-urls", client, "--advertise-client-urls", client]
    options += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"]
    server = subprocess.Popen(["root/usr/bin/etcd", *options], stdout=log, stderr=log)
    for _ in range(100):
        try:
            post("/maintenance/status")
            return server
        except OSError:
            time.sleep(0.1)
    raise SystemExit("etcd did not start")


def lines(name):
    with open(name) as output:
        return output.read().splitlines()


log = open("etcd.log", "w")
server = start_server(log)
started = []
try:
    revision = [put("old") for _ in range(5)][-1]
    post("/kv/compaction", revision=revision, physical=True)
    for name, (command, _, _) in WATCHERS.items():
        for suffix, arguments in (("compacted", [str(revision - 3)]), ("restart", [])):
            with open(f"{name} {suffix}", "w") as output, open(f"{name} {suffix} errors", "w") as errors:
                started.append(subprocess.Popen([*command, str(CLIENT), *arguments], stdout=output, stderr=errors))
    time.sleep(6)
    put("before")
    time.sleep(2)
    server.terminate()
    server.wait(timeout=20)
    server = start_server(log)
    time.sleep(10)
    put("after")
    time.sleep(5)
    for name, (_, compacted, restart) in WATCHERS.items():
        found = lines(f"{name} compacted"), lines(f"{name} restart")
        print(f"{name:15} compacted: {found[0] or 'nothing'}, restart: {found[1]}")
        assert found == (compacted, restart), name
    waiting = [started[0].poll(), started[1].poll(), started[3].poll()]
    assert waiting == [None, None, None]
    assert "NameError" in "".join(lines("python3-etcd3 restart errors"))
    print("the silent watchers still wait, 15 seconds after the server is back")
finally:
    for process in [*started, server]:
        process.kill()
        process.wait()
PY
venv/bin/python drive.py
