#!/usr/bin/env bash
# cron-converter 2.0.2 (PyPI): next() goes back in time at the spring clock change.
#
# Expected: next() of a schedule with a time zone returns instants in ascending order, one per match. The README has a
#       section on clock changes that asks for no more than an aware start.
# Seen: for "*/30 * * * *" in Berlin on 2027-03-28, next() returns 02:00+01:00 and 02:30+01:00, which no clock shows, then
#       03:00+02:00 and 03:30+02:00: the same two instants again. Python hides the fault: datetimes that share a tzinfo
#       are compared by wall clock, so each result is "greater" than the one before, and a check for order passes.
#       In autumn the reverse: no run from 02:30 to 03:00, an hour and a half later. croniter 7.0.0 has neither fault.
# Why it matters: a loop of "sleep until next(), enqueue" enqueues every frequent job twice for an hour, and a queue that
#       drops duplicates by scheduled time in UTC hides that, until the job has a side effect in front of the queue.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip -q install --disable-pip-version-check cron-converter==2.0.2 croniter==7.0.0 tzdata==2026.6

cat >order.py <<'PY'
from datetime import datetime, timezone
from itertools import islice
from zoneinfo import ZoneInfo

from cron_converter import Cron
from croniter import croniter

BERLIN = ZoneInfo("Europe/Berlin")


def utc(moment):
    return moment.astimezone(timezone.utc).strftime("%H:%MZ")


def compare(start, count):
    ours = Cron("*/30 * * * *").schedule(start)
    theirs = croniter("*/30 * * * *", start)
    converted = [ours.next() for _ in range(count)]
    reference = [theirs.get_next(datetime) for _ in range(count)]
    print(f"after {start.isoformat()}")
    print("  cron-converter:", *(f"{moment:%H:%M%z}={utc(moment)}" for moment in converted))
    print("  croniter:      ", *(f"{moment:%H:%M%z}={utc(moment)}" for moment in reference))
    return converted, reference


spring, reference = compare(datetime(2027, 3, 28, 1, 45, tzinfo=BERLIN), 5)
assert [utc(moment) for moment in spring] == ["01:00Z", "01:30Z", "01:00Z", "01:30Z", "02:00Z"]
assert [utc(moment) for moment in reference] == ["01:00Z", "01:30Z", "02:00Z", "02:30Z", "03:00Z"]
assert all(later > earlier for earlier, later in zip(spring, islice(spring, 1, None)))
print("  Python says that each result is later than the one before")

autumn, reference = compare(datetime(2027, 10, 31, 1, 45, tzinfo=BERLIN), 4)
assert [utc(moment) for moment in autumn] == ["00:00Z", "00:30Z", "02:00Z", "02:30Z"]
assert [utc(moment) for moment in reference] == ["00:00Z", "00:30Z", "01:00Z", "01:30Z"]
PY
PYTHONTZPATH="" venv/bin/python order.py
