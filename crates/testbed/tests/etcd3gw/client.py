"""Uses an etcd through the client etcd3gw, and through plain requests, and prints what it sees. Numbers of revisions are
printed as differences: the same script prints the same lines against etcd 3.4 and against Gantry."""

import base64
import json
import sys
import threading
import time
import urllib.error
import urllib.request

import etcd3gw

host, port = sys.argv[1], int(sys.argv[2])
client = etcd3gw.client(host=host, port=port)


def raw(path, body, method="POST"):
    data = None if body is None else (body if isinstance(body, bytes) else json.dumps(body).encode())
    request = urllib.request.Request(f"http://{host}:{port}/v3/{path}", data=data, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        text = error.read()
        try:
            return error.code, json.loads(text).get("code")
        except ValueError:
            return error.code, text.decode().strip()


def b64(text):
    return base64.b64encode(text.encode()).decode()


def shape(value):
    """The names of the fields, without the header."""
    return sorted(name for name in value if name != "header") if isinstance(value, dict) else value


# The client.
print("put", client.put("a", "1"), client.put("b", "2"))
print("get", client.get("a"), client.get("none"))
print("create", client.create("a", "x"), client.create("c", "3"))
print("replace", client.replace("c", "3", "4"), client.replace("c", "3", "5"))
print("prefix", [(value, pair["key"], pair["version"]) for value, pair in client.get_prefix("c")])
print("all", [value for value, _ in client.get_all(sort_order="descend", sort_target="key")])
print("delete", client.delete("b"), client.delete("b"))
lease = client.lease(ttl=60)
print("lease", lease.ttl() > 50, lease.refresh(), client.put("leased", "x", lease), lease.keys())
print("revoke", lease.revoke(), client.get("leased"), lease.ttl())
with client.lock("name", ttl=30) as lock:
    print("lock", lock.is_acquired(), client.lock("name", ttl=30).acquire())
print("released", client.lock("name", ttl=30).acquire())
events, cancel = client.watch("w")
threading.Timer(0.5, lambda: (client.put("w", "1"), client.delete("w"))).start()
seen = [next(events) for _ in range(2)]
print("watch", [(event.get("type"), event["kv"]["key"], event["kv"].get("value")) for event in seen])
cancel()

# Requests.
_, before = raw("kv/range", {"key": b64("a")})
revision = int(before["header"]["revision"])
print("range", shape(before), sorted(before["kvs"][0]), before["count"])
print("empty", raw("kv/range", b"")[0:2], shape(raw("kv/range", {"key": b64("zz")})[1]))
both = {"key": b64("a"), "range_end": "AA==", "limit": "2", "sortOrder": "DESCEND", "sort_target": 0, "unknown": 1, "revision": None}
print("limit", [base64.b64decode(pair["key"]) for pair in raw("kv/range", both)[1]["kvs"]], raw("kv/range", both)[1].get("more"))
print("wrong", [raw("kv/put", body)[0:2] for body in (
    {"key": "a_b-"}, {"key": "YQ"}, {"key": 7}, {"key": b64("a"), "lease": 100.0}, {"key": b64("a"), "lease": 5},
    {"key": b64("a"), "prev_kv": "yes"}, b"{", {})])
print("future", raw("kv/range", {"key": b64("a"), "revision": revision + 100}))
print("past", raw("kv/range", {"key": b64("b"), "revision": str(revision - 1)})[0])
put = {"request_put": {"key": b64("t"), "value": b64("1")}}
print("twice", raw("kv/txn", {"success": [put, put]}))
compare = {"target": "CREATE", "result": 0, "key": b64("t"), "createRevision": 0}
status, done = raw("kv/txn", {"compare": [compare], "success": [put], "failure": [{"requestRange": {"key": b64("t")}}]})
print("txn", status, shape(done), [list(response) for response in done["responses"]], done["succeeded"])
status, done = raw("kv/txn", {"compare": [compare], "success": [put], "failure": [{"requestRange": {"key": b64("t")}}]})
print("failed", status, shape(done), [list(response) for response in done["responses"]])
print("grant", [raw("lease/grant", {"TTL": ttl})[1]["TTL"] for ttl in (1, 0, -5, "30")])
print("exists", raw("lease/grant", {"TTL": 30, "ID": 77})[1]["ID"], raw("lease/grant", {"TTL": 30, "ID": "77"}))
print("unknown", shape(raw("lease/keepalive", {"ID": 5})[1]["result"]), raw("lease/timetolive", {"ID": 5})[1]["TTL"], raw("kv/lease/revoke", {"ID": 5}))
print("methods", raw("kv/range", None, "GET")[0], raw("kv/range", b"", "PUT")[0], raw("none", {})[0], raw("kv/range/", {})[0])
print("auth", raw("auth/authenticate", {"name": "root", "password": "x"}))
status, first = raw("lock/lock", {"name": b64("l"), "lease": 77})
print("etcd lock", status, base64.b64decode(first["key"]), raw("lock/lock", {"name": b64("l"), "lease": "77"})[1]["key"] == first["key"])
print("no lease", raw("lock/lock", {"name": b64("l"), "lease": 78}))
print("unlock", raw("lock/unlock", {"key": first["key"]})[0], raw("lock/unlock", {"key": b64("none")})[0])
print("no leader", raw("election/leader", {"name": b64("e")}))
_, won = raw("election/campaign", {"name": b64("e"), "lease": 77, "value": b64("one")})
print("campaign", shape(won), sorted(won["leader"]))
print("proclaim", raw("election/proclaim", {"leader": won["leader"], "value": b64("two")})[0])
print("leader", base64.b64decode(raw("election/leader", {"name": b64("e")})[1]["kv"]["value"]))
print("not leader", raw("election/proclaim", {"leader": {**won["leader"], "rev": 1}, "value": b64("x")}))
print("resign", raw("election/resign", {"leader": won["leader"]})[0], raw("election/leader", {"name": b64("e")}))
time.sleep(0.1)
