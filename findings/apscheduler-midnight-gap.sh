#!/usr/bin/env bash
# APScheduler 3.11.3 (PyPI), against croniter 7.0.0 and cronsim 2.8: a clock change at midnight swallows a daily run.
#
# In most zones clocks change at 02:00 or 03:00. In Cairo, Beirut and Santiago they go from 00:00 to 01:00.
# Expected: APScheduler treats both alike. A job for 02:30 in Berlin, whose 02:30 does not exist on 2027-03-28, still runs
#       that night, at 03:30 on the wall clock.
# Seen: a job for 00:00 or 00:30 in Cairo does not run at all on 2027-04-30: 48 hours less the hour of the change pass
#       between two runs of a nightly job. A job for Fridays at 00:00 waits two weeks. croniter and cronsim run the same
#       expressions at 01:00 that night.
#       In Berlin, APScheduler's fire time prints as 02:30+01:00, a wall-clock time that never was.
# Why it matters: "0 0 * * *" is the most common schedule there is, and a test of the change in Europe or America passes.
#       A job moved between a scheduler built on croniter and one on APScheduler gains or loses a run.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip -q install --disable-pip-version-check \
  APScheduler==3.11.3 tzlocal==5.4.5 croniter==7.0.0 cronsim==2.8 tzdata==2026.6

cat >compare.py <<'PY'
from datetime import datetime, timezone
from zoneinfo import ZoneInfo

from apscheduler.triggers.cron import CronTrigger
from croniter import croniter
from cronsim import CronSim


def with_apscheduler(expression, start):
    trigger, fired = CronTrigger.from_crontab(expression, timezone=start.tzinfo), None
    while True:
        fired = trigger.get_next_fire_time(fired, fired or start)
        yield fired


def with_croniter(expression, start):
    runs = croniter(expression, start)
    while True:
        yield runs.get_next(datetime)


def first_two(library, expression, zone, start):
    runs = library(expression, datetime.fromisoformat(start).replace(tzinfo=ZoneInfo(zone)))
    return [next(runs).astimezone(timezone.utc).strftime("%m-%dT%H:%MZ") for _ in range(2)]


CASES = [
    # expression, zone, start, APScheduler, croniter and cronsim
    ("30 2 * * *", "Europe/Berlin", "2027-03-27T12:00", ["03-28T01:30Z", "03-29T00:30Z"], ["03-28T01:00Z", "03-29T00:30Z"]),
    ("0 0 * * *", "Africa/Cairo", "2027-04-28T12:00", ["04-28T22:00Z", "04-30T21:00Z"], ["04-28T22:00Z", "04-29T22:00Z"]),
    ("30 0 * * *", "Africa/Cairo", "2027-04-29T12:00", ["04-30T21:30Z", "05-01T21:30Z"], ["04-29T22:00Z", "04-30T21:30Z"]),
    ("0 0 * * FRI", "Africa/Cairo", "2027-04-24T12:00", ["05-06T21:00Z", "05-13T21:00Z"], ["04-29T22:00Z", "05-06T21:00Z"]),
]
for expression, zone, start, apscheduler, others in CASES:
    print(f"{expression} in {zone}, next two runs after {start}")
    for name, library, expected in (
        ("APScheduler", with_apscheduler, apscheduler),
        ("croniter", with_croniter, others),
        ("cronsim", CronSim, others),
    ):
        runs = first_two(library, expression, zone, start)
        print(f"  {name:12}", *runs)
        assert runs == expected, (name, runs)

never = next(with_apscheduler("30 2 * * *", datetime(2027, 3, 27, 12, tzinfo=ZoneInfo("Europe/Berlin"))))
print("APScheduler's fire time in Berlin:", never.isoformat())
assert never.isoformat() == "2027-03-28T02:30:00+01:00"
PY
PYTHONTZPATH="" venv/bin/python compare.py
