#!/usr/bin/env bash
# systemd 252 (Debian 12), pytimeparse 1.1.10, durationpy 0.11 (PyPI), ms 2.1.3, parse-duration 2.1.9 (npm): "1h30" and "1M".
#
# One setting, a time with a unit, is read by the unit file of a service, a Python worker and a Node program.
# Expected: "1h30" is an hour and a half or an error, "90" a number of seconds or an error, and "1M" a minute or an error.
# Seen, in seconds (- is an error, or a value that means none):
#                         1h30      90      1M   1h30m
#       systemd-analyze   3630      90   1month  5400
#       pytimeparse          -       -      60   5400
#       durationpy           -       -       -   5400
#       ms                   -    0.09      60      -
#       parse-duration    5400    0.09      60   5400
#       systemd reads "1h30" as an hour and 30 SECONDS: a number without a unit is in seconds wherever it stands. ms, the
#       package of most Node settings, reads no sum at all: "1h30m" gives undefined, and a timer takes that for 1 ms.
# Why it matters: a stop timeout or a lease that two programs share differs by half an hour, or by a factor of a thousand, and
#       no reader warns. Remedy: one unit per value, always written, in lower case: 90m. All five agree on that form.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
systemd-analyze --version | grep -q '^systemd 252 '
npm install --silent --no-audit --no-fund --prefix "$work" ms@2.1.3 parse-duration@2.1.9 >/dev/null
python3 -m venv venv
venv/bin/pip -q install --disable-pip-version-check pytimeparse==1.1.10 durationpy==0.11

cat >spans.mjs <<'JS'
import ms from 'ms';
import parse from 'parse-duration';
const [reader, text] = process.argv.slice(2);
const value = { ms, 'parse-duration': parse }[reader](text);
console.log(value == null ? '-' : value / 1000);
JS
cat >spans.py <<'PY'
import subprocess

import durationpy
import pytimeparse


def systemd(text):
    lines = subprocess.run(["systemd-analyze", "timespan", text], check=True, capture_output=True, text=True).stdout
    fields = dict(line.strip().split(": ", 1) for line in lines.splitlines() if ": " in line)
    return int(next(value for name, value in fields.items() if name.endswith("s"))) / 1e6


def python(text):
    value = pytimeparse.parse(text)
    return "-" if value is None else value


def go(text):
    try:
        return durationpy.from_str(text).total_seconds()
    except durationpy.DurationError:
        return "-"


def node(reader):
    def read(text):
        said = subprocess.run(["node", "spans.mjs", reader, text], check=True, capture_output=True, text=True).stdout.strip()
        return said if said == "-" else float(said)

    return read


MONTH = 2629800
EXPECTED = {
    "systemd-analyze": (systemd, [3630, 90, MONTH, 5400, 5400]),
    "pytimeparse": (python, ["-", "-", 60, 5400, 5400]),
    "durationpy": (go, ["-", "-", "-", 5400, 5400]),
    "ms": (node("ms"), ["-", 0.09, 60, "-", 5400]),
    "parse-duration": (node("parse-duration"), [5400, 0.09, 60, 5400, 5400]),
}
TEXTS = ["1h30", "90", "1M", "1h30m", "90m"]
print(f"{'':16}", *(f"{text:>10}" for text in TEXTS))
for name, (read, expected) in EXPECTED.items():
    got = [read(text) for text in TEXTS]
    print(f"{name:16}", *(f"{value:>10}" for value in got))
    assert got == expected, name
PY
venv/bin/python spans.py
