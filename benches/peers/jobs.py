"""Client of benches/jobs: jobs.py URL TOKEN_FILE rate COUNT | first COUNT | fill COUNT. Keeps one connection to the server, as a program
that queues jobs does."""
import http.client
import json
import sys
import time
import urllib.parse

url, token_file, what, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
server = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=300)
headers = {"Authorization": "Bearer " + open(token_file).read().strip(), "Content-Type": "application/json"}
DEADLINE = time.monotonic() + 600


def call(method, path, body=None):
    server.request(method, path, body and json.dumps(body), headers)
    answer = server.getresponse()
    text = answer.read()
    if answer.status >= 300:
        sys.exit(f"{method} {path}: {answer.status} {text.decode()}")
    return text


def submit(number, program):
    job = {"source": {"image": {"reference": "bench:1"}}, "command": [program]}
    return json.loads(call("POST", "/v1/jobs", {"jobs": [job] * number}))


def wait_until(is_so):
    while not is_so():
        if time.monotonic() > DEADLINE:
            sys.exit("the jobs did not end in time")
        time.sleep(0.01)


def queue():
    return json.loads(call("GET", "/v1/queues/bench/image"))


def submit_all():
    for first in range(0, count, 1000):
        submit(min(1000, count - first), "/bin/true")


def rate():
    before = queue()["ended"] if count > 1 else 0
    begun = time.monotonic()
    submit_all()
    wait_until(lambda: queue()["ended"] - before >= count)
    took = time.monotonic() - begun
    if queue()["dead"]:
        sys.exit("a job has failed")
    print(f"{count / took:8.1f} lifecycles/s, {count} jobs in {took:.2f} s")


def first():
    times = []
    for _ in range(count):
        before = queue()["ended"]
        begun = time.time()
        number = submit(1, "/bin/now")["ids"][0]
        wait_until(lambda: queue()["ended"] > before)
        lines = call("GET", f"/v1/jobs/{number}/logs").decode().splitlines()
        times.append(int(json.loads(lines[0])["text"]) / 1e6 - begun)
    times.sort()
    p50, p99 = times[(count - 1) // 2] * 1000, times[-(count // 100) - 1] * 1000
    print(f"submit to first instruction: p50 {p50:.1f} ms, p99 {p99:.1f} ms, {count} jobs")


def fill():
    begun = time.monotonic()
    submit_all()
    took = time.monotonic() - begun
    call("GET", "/v1/jobs?limit=100")
    waiting = queue()
    print(f"{waiting['ready'] + waiting['waiting']} jobs wait, {count / took:.0f} submitted a second")


{"rate": rate, "first": first, "fill": fill}[what]()
