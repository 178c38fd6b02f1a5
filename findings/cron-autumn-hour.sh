#!/usr/bin/env bash
# rq 3.0.0 and croniter 7.0.0 (PyPI), node-cron 4.6.0 and croner 11.0.1 (npm): every 15 minutes, in autumn, in Berlin.
#
# On 2027-10-31 the clock shows 02:00 to 03:00 twice: 00:00Z to 01:00Z, and 01:00Z to 02:00Z.
# Expected: "*/15 * * * *" fires every 15 minutes all night, as it does under Vixie cron, and as croniter and croner say.
# Seen: rq's cron scheduler is built on croniter, but strips the zone first: it fires in the first 02:00 hour and pauses
#       for the second. node-cron fires in the second and pauses for the first (its README admits a pause, not which),
#       while its task.match() says true for every instant that it passed over.
#       A daily job for 02:30 runs at 00:30Z under rq and croner, and an hour later under node-cron.
# Why it matters: a health probe, a lease renewal or a queue drain "every 15 minutes" stops for 75 minutes once a year,
#       at a different hour in the Python and the Node half of one system. rq 2 counted in UTC and had no pause, so the
#       major update brings it to containers that set TZ. Remedy: UTC for frequent schedules.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip -q install --disable-pip-version-check rq==3.0.0 croniter==7.0.0 redis==5.3.1 tzdata==2026.6
npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$work" node-cron@4.6.0 croner@11.0.1 >/dev/null

cat >python.py <<'PY'
from datetime import datetime, timezone
from zoneinfo import ZoneInfo

from croniter import croniter
from rq.cron import CronJob


def show(name, runs, expected):
    runs = [moment.astimezone(timezone.utc).strftime("%H:%M") for moment in runs]
    print(f"{name:10}", *runs)
    assert runs == expected, name


def with_rq(expression, start, count):
    job = CronJob("default", func_name="work", cron=expression)
    for _ in range(count):
        job.set_enqueue_time(start)
        start = job.next_enqueue_time
        yield start


def with_croniter(expression, start, count):
    runs = croniter(expression, start.astimezone(ZoneInfo("Europe/Berlin")))
    return [runs.get_next(datetime) for _ in range(count)]


start = datetime(2027, 10, 30, 23, 45, tzinfo=timezone.utc)
print("*/15 after 23:45Z, in UTC")
show("croniter", with_croniter("*/15 * * * *", start, 9), "00:00 00:15 00:30 00:45 01:00 01:15 01:30 01:45 02:00".split())
show("rq", with_rq("*/15 * * * *", start, 5), "00:00 00:15 00:30 00:45 02:00".split())
show("rq, daily", with_rq("30 2 * * *", start, 1), ["00:30"])
PY
TZ=Europe/Berlin venv/bin/python python.py

# Both schedulers run for real, on a clock that the test moves in steps of 15 seconds.
cat >live.mjs <<'JS'
import assert from 'node:assert';
import { mock } from 'node:test';
import { Cron } from 'croner';
import cron from 'node-cron';

const nextTurn = setImmediate;
const timezone = 'Europe/Berlin';
mock.timers.enable({ apis: ['Date', 'setTimeout', 'setInterval'], now: Date.parse('2027-10-30T23:45:00Z') });
const fired = { croner: [], 'node-cron': [], daily: [] };
const note = (list) => () => void list.push(new Date().toISOString().slice(11, 16));
new Cron('*/15 * * * *', { timezone }, note(fired.croner));
const task = cron.schedule('*/15 * * * *', note(fired['node-cron']), { timezone });
cron.schedule('30 2 * * *', note(fired.daily), { timezone });
for (let step = 0; step < 4 * 140; step++) {
  mock.timers.tick(15_000);
  await new Promise((resolve) => nextTurn(resolve));
}
for (const [name, times] of Object.entries(fired)) console.log((name === 'daily' ? 'its daily' : name).padEnd(10), ...times);
const skipped = task.match(new Date('2027-10-31T00:15:00Z'));
console.log('node-cron matches 00:15Z:', skipped);
assert.deepEqual(fired.croner, '00:00 00:15 00:30 00:45 01:00 01:15 01:30 01:45 02:00'.split(' '));
assert.deepEqual(fired['node-cron'], '01:00 01:15 01:30 01:45 02:00'.split(' '));
assert.deepEqual(fired.daily, ['01:30']);
assert.equal(skipped, true);
process.exit(0);
JS
node --no-warnings live.mjs
