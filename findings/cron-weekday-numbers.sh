#!/usr/bin/env bash
# APScheduler 3.11.3, croniter 7.0.0, cronsim 2.8 (PyPI), croner 11.0.1, cron-parser 5.10.6 (npm): the weekday of a crontab line.
#
# Expected: "0 9 * * 1" is Monday at nine and "0 9 13 * 5" each 13th and each Friday, as crontab(5) says; a class method
#       named from_crontab reads a line as crontab does.
# Seen: croniter, cronsim, croner and cron-parser do so. APScheduler's CronTrigger.from_crontab counts from Monday = 0:
#       "* * 1" is Tuesday, "* * 1-5" Tuesday to Saturday, and "* * 7", Sunday elsewhere, raises ValueError. It joins the
#       two day fields by AND: "0 9 13 * 5" runs on Saturdays that are a 13th.
#       The others differ among themselves for "0 9 */2 * 1": cronsim takes the Mondays with an odd date, as Debian's
#       crontab(5) says (a field that begins with a star restricts nothing), and the three others take either day.
# Why it matters: a backup of Mondays runs, with success, on Tuesdays. A working-day report is missing on Mondays and comes
#       on Saturdays. Nothing fails, and the printed trigger shows the number. Remedy: names (mon-fri), which all five read
#       alike, and one day field per line.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm install --silent --no-audit --no-fund --prefix "$work" croner@11.0.1 cron-parser@5.10.6 >/dev/null
python3 -m venv venv
venv/bin/pip -q install --disable-pip-version-check APScheduler==3.11.3 croniter==7.0.0 cronsim==2.8

cat >days.py <<'PY'
from datetime import datetime, timedelta, timezone

from apscheduler.triggers.cron import CronTrigger
from croniter import croniter
from cronsim import CronSim

BEGIN = datetime(2026, 11, 1, tzinfo=timezone.utc)  # a Sunday


def apscheduler(line):
    trigger, now = CronTrigger.from_crontab(line, timezone="UTC"), BEGIN
    while True:
        now = trigger.get_next_fire_time(None, now)
        yield now
        now += timedelta(minutes=1)


def with_croniter(line):
    times = croniter(line, BEGIN)
    while True:
        yield times.get_next(datetime)


def days(read, line):
    try:
        times = read(line)
        return " ".join(next(times).strftime("%a%d") for _ in range(4))
    except ValueError:
        return "refused"


READERS = {"APScheduler": apscheduler, "croniter": with_croniter, "cronsim": lambda line: CronSim(line, BEGIN)}
EXPECTED = {
    "0 9 * * 1": ["Tue03 Tue10 Tue17 Tue24", "Mon02 Mon09 Mon16 Mon23", "Mon02 Mon09 Mon16 Mon23"],
    "0 9 * * 1-5": ["Tue03 Wed04 Thu05 Fri06", "Mon02 Tue03 Wed04 Thu05", "Mon02 Tue03 Wed04 Thu05"],
    "0 9 * * 7": ["refused", "Sun01 Sun08 Sun15 Sun22", "Sun01 Sun08 Sun15 Sun22"],
    "0 9 13 * 5": ["Sat13 Sat13 Sat13 Sat13", "Fri06 Fri13 Fri20 Fri27", "Fri06 Fri13 Fri20 Fri27"],
    "0 9 */2 * 1": ["Tue03 Tue17 Tue01 Tue15", "Sun01 Mon02 Tue03 Thu05", "Mon09 Mon23 Mon07 Mon21"],
    "0 9 * * mon": ["Mon02 Mon09 Mon16 Mon23"] * 3,
}
for line, expected in EXPECTED.items():
    got = [days(read, line) for read in READERS.values()]
    for name, each in zip(READERS, got):
        print(f"{line:12} {name:12} {each}")
    assert got == expected, (line, got)
PY
venv/bin/python days.py

cat >days.mjs <<'JS'
import assert from 'node:assert';
import { CronExpressionParser } from 'cron-parser';
import { Cron } from 'croner';

const begin = new Date('2026-11-01T00:00:00Z');
const day = (time) => time.toUTCString().replace(/^(\w+), (\d+) .*/, '$1$2');
const expected = {
  '0 9 * * 1': 'Mon02 Mon09 Mon16 Mon23',
  '0 9 * * 7': 'Sun01 Sun08 Sun15 Sun22',
  '0 9 13 * 5': 'Fri06 Fri13 Fri20 Fri27',
  '0 9 */2 * 1': 'Sun01 Mon02 Tue03 Thu05',
};
for (const [line, wanted] of Object.entries(expected)) {
  const parsed = CronExpressionParser.parse(line, { currentDate: begin, tz: 'UTC' });
  const got = {
    croner: new Cron(line, { timezone: 'UTC' }).nextRuns(4, begin).map(day).join(' '),
    'cron-parser': parsed.take(4).map((time) => day(time.toDate())).join(' '),
  };
  for (const [name, each] of Object.entries(got)) {
    console.log(line.padEnd(12), name.padEnd(12), each);
    assert.equal(each, wanted);
  }
}
JS
node days.mjs
