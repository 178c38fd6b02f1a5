#!/usr/bin/env bash
# beanstalkd 1.12 (Debian 12) with its binlog (-b, -f0), client greenstalk 2.1.1 (PyPI): a restart undoes a release.
#
# "release" gives a job back with a new priority. stats-job counts reserves, releases and timeouts of a job.
# Expected: with the binlog and a sync after every write, a restart restores a job as it was: the priority of its last
#       release, and its counters. The remaining time of a delay does survive, to the second.
# Seen: a job put with priority 10, then reserved and released with priority 900 three times, has priority 900, 3 reserves
#       and 3 releases before a restart, and priority 10, no reserve and no release after. Timeouts are forgotten too. A
#       release with a delay of one second writes the job to the log, counters included; one without writes nothing.
# Why it matters: workers move a failing job to the end with a large priority number, and count its reserves to bury it at
#       last. After each restart of the server such jobs are the most urgent ones again, with no past: a poisoned job that
#       takes the machine down is never buried. Remedy: release with a delay of at least one second, or count elsewhere.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
if ! apt-get download -qq beanstalkd=1.12-2+b1 2>/dev/null; then
  echo "cannot download beanstalkd 1.12-2+b1: run \"apt-get update\" on Debian 12" >&2
  exit 1
fi
dpkg -x beanstalkd_*.deb root
python3 -m venv venv
venv/bin/pip -q install --disable-pip-version-check greenstalk==2.1.1
mkdir log

cat >restart.py <<'PY'
import socket
import subprocess
import time
from contextlib import contextmanager

import greenstalk


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def server():
    port = free_port()
    process = subprocess.Popen(["root/usr/bin/beanstalkd", "-l", "127.0.0.1", "-p", str(port), "-b", "log", "-f0"])
    try:
        for _ in range(100):
            try:
                client = greenstalk.Client(("127.0.0.1", port))
                break
            except OSError:
                time.sleep(0.1)
        else:
            raise SystemExit("beanstalkd did not start")
        yield client
        client.close()
    finally:
        process.terminate()
        process.wait(timeout=10)


def fail_three_times(client, body, delay):
    tube = body
    client.use(tube)
    client.watch(tube)
    client.put(body, priority=10)
    for _ in range(3):
        job = client.reserve(timeout=5)
        assert job.body == body
        client.release(job, priority=900, delay=delay)
    client.ignore(tube)
    return job.id


def time_out(client, body):
    client.use(body)
    client.watch(body)
    job = client.put(body, priority=10, ttr=1)
    client.reserve(timeout=5)
    time.sleep(1.5)
    client.reserve(timeout=5)
    client.ignore(body)
    return job


def show(client, job):
    stats = client.stats_job(job)
    return stats["pri"], stats["reserves"], stats["releases"]


with server() as client:
    plain = fail_three_times(client, "plain", delay=0)
    delayed = fail_three_times(client, "delayed", delay=1)
    forgotten = time_out(client, "forgotten")
    assert client.stats_job(forgotten)["timeouts"] == 1
    client.use("later")
    later = client.put("later", delay=30)
    time.sleep(3)
    before = {name: show(client, job) for name, job in (("plain", plain), ("delayed", delayed))}
with server() as client:
    after = {name: show(client, job) for name, job in (("plain", plain), ("delayed", delayed))}
    timeouts = client.stats_job(forgotten)["timeouts"]
    left = client.stats_job(later)["time-left"]

for name in before:
    print(f"{name:8} (priority, reserves, releases) before {before[name]}, after {after[name]}")
print("a job that timed out once has", timeouts, "timeouts")
print("a delay of 30 s has", left, "s left")
assert before == {"plain": (900, 3, 3), "delayed": (900, 3, 3)}
assert after == {"plain": (10, 0, 0), "delayed": (900, 3, 3)}
assert timeouts == 0
assert 20 <= left <= 28
PY
venv/bin/python restart.py
