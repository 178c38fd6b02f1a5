#!/usr/bin/env bash
# gunicorn 27.0.1 (PyPI): two masters of one user share one control socket path.
#
# Expected: a second gunicorn with the same HOME refuses the control socket, or uses a path of its own, as it would a TCP port.
# Seen: every master since 25.1 listens at ~/.gunicorn/gunicorn.ctl by default. The newer master removes the older one's
#       socket file without a word, so `gunicornc` then speaks to the newer master only. When the OLDER master stops, it
#       removes the file again: that file is now the newer master's. The newer master serves on, with no control socket.
# Why it matters: a rolling update overlaps the old and the new process. With a shared HOME (a volume, a host user, a
#       process supervisor with two apps) every update ends with an uncontrollable server, and `gunicornc -c shutdown`
#       during the overlap stops the wrong one. Remedy: --control-socket with a path per process, or --no-control-socket.
set -euo pipefail

work=$(mktemp -d)
pids=()
cleanup() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait
  rm -rf "$work"
}
trap cleanup EXIT

python3 -m venv "$work/venv"
"$work/venv/bin/pip" -q install --disable-pip-version-check gunicorn==27.0.1
mkdir "$work/home"
export HOME="$work/home"
unset XDG_RUNTIME_DIR
cat >"$work/app.py" <<'PY'
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
PY

controlled_pid() {
  "$work/venv/bin/gunicornc" -j -c "show stats" 2>/dev/null |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["pid"])' 2>/dev/null || echo none
}

# Starts a master on a unix socket and waits until its control socket is announced. Sets $started.
start_master() {
  (cd "$work" && exec "$work/venv/bin/gunicorn" app:app --bind "unix:$work/$1.sock") >"$work/$1.log" 2>&1 &
  started=$!
  pids+=("$started")
  for _ in $(seq 100); do
    if grep -q 'Control socket listening' "$work/$1.log"; then return; fi
    sleep 0.1
  done
  echo "master $1 did not start" >&2
  exit 1
}

start_master old
old=$started
with_old_alone=$(controlled_pid)
start_master new
new=$started
with_both=$(controlled_pid)
kill "$old"
wait "$old" || true
after_old_stopped=$(controlled_pid)
serving=$(python3 - "$work/new.sock" <<'PY'
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
print(s.recv(100).split(b"\r\n")[0].decode())
PY
)

name() { case $1 in "$old") echo old ;; "$new") echo new ;; *) echo "$1" ;; esac; }
echo "gunicornc reaches, old master alone:      $(name "$with_old_alone")"
echo "gunicornc reaches, both masters alive:    $(name "$with_both")"
echo "gunicornc reaches, old master stopped:    $(name "$after_old_stopped")"
echo "new master answers a request all the same: $serving"

[ "$with_old_alone" = "$old" ]
[ "$with_both" = "$new" ]
[ "$after_old_stopped" = none ]
[ "$serving" = "HTTP/1.1 200 OK" ]
