#!/usr/bin/env bash
# etcd3gw 2.7.0, python3-etcd3 0.13.0, aetcd 1.0.0 (PyPI), etcd3 1.1.2 (npm), on etcd 3.4.23 (Debian 12): "with lock".
#
# A process holds a lock. A second process reaches "with client.lock(name):" (or "async with") for the same name.
# Expected: the block waits for the lock, as threading.Lock does, or the statement raises an error, as redis-py's does.
# Seen: the block runs without the lock, in all three Python libraries. acquire() returns False when the lock is taken, at
#       once in etcd3gw and after ten seconds in the two others, and the statement drops that value. is_acquired() is
#       False inside the block, and nothing is logged. The holder keeps its lock and does not notice.
#       The Node client's lock(name).do(work) rejects with EtcdLockFailedError and does not run the work.
# Why it matters: a test with one process, or with work shorter than ten seconds, passes. In production two "singletons"
#       run side by side, and etcd shows one correct holder. Remedy: "if not lock.acquire(): return" before try/finally,
#       or a check of is_acquired() as the first statement of the block.
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
if ! apt-get download -qq etcd-server=3.4.23-4+b4 2>/dev/null; then
  echo "cannot download etcd-server 3.4.23-4+b4: run \"apt-get update\" on Debian 12" >&2
  exit 1
fi
dpkg -x etcd-server_*.deb root
python3 -m venv venv
venv/bin/pip -q install --disable-pip-version-check \
  etcd3gw==2.7.0 python3-etcd3==0.13.0 aetcd==1.0.0 grpcio==1.85.3 protobuf==7.36.2
npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$work" etcd3@1.1.2 >/dev/null

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
port=$(free_port)
peer=$(free_port)
root/usr/bin/etcd --data-dir data --listen-client-urls "http://127.0.0.1:$port" --advertise-client-urls \
  "http://127.0.0.1:$port" --listen-peer-urls "http://127.0.0.1:$peer" --initial-advertise-peer-urls \
  "http://127.0.0.1:$peer" --initial-cluster "default=http://127.0.0.1:$peer" >etcd.log 2>&1 &
pids+=($!)
for _ in $(seq 100); do
  if grep -q 'ready to serve client requests' etcd.log; then break; fi
  sleep 0.1
done

cat >report.py <<'PY'
import time


class Report:
    def __init__(self, library, at_least, at_most):
        self.library, self.at_least, self.at_most = library, at_least, at_most
        self.began = time.monotonic()

    def inside(self, first_holds, second_holds):
        waited = time.monotonic() - self.began
        print(f"{self.library:14} inside the block after {waited:4.1f} s: holder {first_holds}, this block {second_holds}")
        assert first_holds and not second_holds
        assert self.at_least <= waited <= self.at_most
PY
cat >with_etcd3gw.py <<'PY'
import sys

import etcd3gw

from report import Report

client = etcd3gw.client(host="127.0.0.1", port=int(sys.argv[1]), api_path="/v3/")
first = client.lock("etcd3gw", ttl=60)
assert first.acquire()
report = Report("etcd3gw", 0, 3)
with client.lock("etcd3gw", ttl=60) as second:
    report.inside(first.is_acquired(), second.is_acquired())
PY
cat >with_etcd3.py <<'PY'
import sys

import etcd3

from report import Report

client = etcd3.client(host="127.0.0.1", port=int(sys.argv[1]))
first = client.lock("etcd3", ttl=60)
assert first.acquire()
report = Report("python3-etcd3", 9, 15)
with client.lock("etcd3", ttl=60) as second:
    report.inside(first.is_acquired(), second.is_acquired())
PY
cat >with_aetcd.py <<'PY'
import asyncio
import sys

import aetcd

from report import Report


async def main():
    async with aetcd.Client(host="127.0.0.1", port=int(sys.argv[1])) as client:
        first = client.lock(b"aetcd", ttl=60)
        assert await first.acquire()
        report = Report("aetcd", 9, 15)
        async with client.lock(b"aetcd", ttl=60) as second:
            report.inside(await first.is_acquired(), await second.is_acquired())


asyncio.run(main())
PY
cat >with_node.mjs <<'JS'
import assert from 'node:assert';
import { Etcd3, EtcdLockFailedError } from 'etcd3';

const client = new Etcd3({ hosts: `http://127.0.0.1:${process.argv[2]}` });
await client.lock('node').ttl(60).acquire();
let ran = false;
await assert.rejects(client.lock('node').ttl(60).do(() => { ran = true; }), EtcdLockFailedError);
assert.equal(ran, false);
console.log('etcd3 for Node rejects, and does not run the work');
process.exit(0);
JS
venv/bin/python with_etcd3gw.py "$port"
venv/bin/python with_etcd3.py "$port"
venv/bin/python with_aetcd.py "$port"
node with_node.mjs "$port"
