#!/usr/bin/env bash
# PostgreSQL 15 (Debian 12, postgresql-15): a plan type that is switched off makes a query of two rows compile machine code.
#
# A program sets enable_seqscan, enable_sort or enable_nestloop to off: in a test that wants to see an index used, or for a
# queue whose statistics are always stale. One of its queries has no other plan: a table has no such index.
# Expected: the setting only chooses between plans. Without a choice the query runs as before, in microseconds: the table
#       has two rows, and jit_above_cost (100,000) is meant for queries over millions.
# Seen: the setting adds 10,000,000,000 to the plan's cost, and JIT looks at that cost. The planner compiles the query with
#       inlining and optimization: milliseconds to hundreds of them for one row, each time again, because no connection
#       keeps compiled code. The plan, its result and its row counts are the same; only EXPLAIN ANALYZE has a section "JIT".
#       A LIMIT 1 does not help: its cost begins at the same number. With jit = off the time is as before.
# Why it matters: a worker that asks its queue 100 times a second uses a core for compilation, and the queue's latency grows
#       from 0.1 ms to that of the compiler. It looks like a slow table, and no statistics and no VACUUM change it. Remedy:
#       jit = off wherever an enable_ setting is off. A build without LLVM, where pg_jit_available() is false, does not show it.
set -euo pipefail

command -v /usr/lib/postgresql/15/bin/postgres >/dev/null ||
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql-15 >/dev/null
bin=/usr/lib/postgresql/15/bin
"$bin/postgres" --version
work=$(mktemp -d)
as=()
# The server refuses to run as root.
if [ "$(id -u)" = 0 ]; then
  chown postgres "$work"
  as=(runuser -u postgres --)
fi
trap '"${as[@]}" "$bin/pg_ctl" -D "$work/data" -m immediate stop >/dev/null 2>&1 || true; rm -rf "$work"' EXIT
cd "$work"
"${as[@]}" "$bin/initdb" -D "$work/data" -A trust >/dev/null
"${as[@]}" "$bin/pg_ctl" -D "$work/data" -o "-k $work -c listen_addresses=" -w start >/dev/null
ask() { "${as[@]}" psql -h "$work" -d postgres -qAt -v ON_ERROR_STOP=1 "$@"; }
ask -c "CREATE TABLE jobs (id int, state text); INSERT INTO jobs VALUES (1, 'new'), (2, 'done'); ANALYZE jobs"
[ "$(ask -c 'SELECT pg_jit_available()')" = t ]

# Prints a name, whether the query was compiled, the number of rows, and the time of execution in ms of the third run.
explain() { # name setting query
  local plan
  plan=$(ask -c "$2" -c "EXPLAIN (ANALYZE, FORMAT JSON) $3" -c "EXPLAIN (ANALYZE, FORMAT JSON) $3" \
    -c "EXPLAIN (ANALYZE, FORMAT JSON) $3")
  python3 - "$1" "$plan" <<'P'
import json, sys
name, text = sys.argv[1:]
decoder, plans = json.JSONDecoder(), []
while text.strip():
    plan, end = decoder.raw_decode(text.strip())
    plans.append(plan[0])
    text = text.strip()[end:]
compiled = ["JIT" in plan for plan in plans]
assert len(set(compiled)) == 1, compiled
last = plans[-1]
print(name, "compiled" if compiled[0] else "plain", last["Plan"]["Actual Rows"], f'{last["Execution Time"]:.2f}', sep="\t")
P
}
select="SELECT * FROM jobs WHERE state = 'new'"
{
  explain default "SET jit = on" "$select"
  explain seqscan "SET enable_seqscan = off" "$select"
  explain limit "SET enable_seqscan = off" "SELECT id FROM jobs WHERE state = 'new' LIMIT 1"
  explain sort "SET enable_sort = off" "SELECT id FROM jobs ORDER BY state LIMIT 1"
  explain nestloop "SET enable_nestloop = off" "SELECT a.id FROM jobs a JOIN jobs b ON a.id < b.id"
  explain without "SET enable_seqscan = off; SET jit = off" "$select"
} | tee results
awk -F '\t' '
  { compiled[$1] = $2; time[$1] = $4; if ($3 != 1) bad = 1 }
  END {
    if (compiled["default"] != "plain" || compiled["without"] != "plain") bad = 1
    if (compiled["seqscan"] != "compiled" || compiled["limit"] != "compiled") bad = 1
    if (compiled["sort"] != "compiled" || compiled["nestloop"] != "compiled") bad = 1
    if (time["seqscan"] < 5 * time["default"] || time["seqscan"] < 5 * time["without"]) bad = 1
    exit bad
  }' results
