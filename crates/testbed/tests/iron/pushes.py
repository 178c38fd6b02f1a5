"""Push queues with the published client iron-mq, and receivers that take, refuse, hang, and take their time."""

import collections
import functools
import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import expectations
import requests
from expectations import refused
from iron_mq import IronMQ
from requests.exceptions import HTTPError

received = collections.defaultdict(list)
wait = functools.partial(expectations.wait, seen=received)


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        kind = self.path.strip("/").split("/")[0]
        received[self.path].append((dict(self.headers), body))
        if kind == "hangs":
            time.sleep(60)
        status = {"takes": 200, "later": 202, "refuses": 503, "created": 201}.get(kind, 200)
        if kind == "once" and len(received[self.path]) == 1:
            status = 500
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def receiver():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


mq = IronMQ(cloud=os.environ["CLOUD"], project_id="shop", token=os.environ["TOKEN"])
here, hung = receiver(), receiver()


def subscriber(name, url=here, **more):
    return {"name": name, "url": f"{url}/{name}", **more}


# A private address is refused unless the policy allows its range; so is what is no receiver.
said = refused(lambda: mq.create_queue("x", {"type": "multicast", "push": {"subscribers": [
    {"name": "metadata", "url": "http://169.254.169.254/latest"}]}}), 400)
assert "callback-private-addresses" in said, said
for url in ["ftp://a.example/", "http://user:secret@a.example/", "nothing"]:
    refused(lambda: mq.create_queue("x", {"type": "unicast", "push": {"subscribers": [{"name": "a", "url": url}]}}), 400)
refused(lambda: mq.create_queue("x", {"type": "multicast", "push": {"subscribers": []}}), 400)
refused(lambda: mq.create_queue("x", {"type": "multicast", "push": {
    "subscribers": [subscriber("a")], "retries_delay": 1}}), 400)
refused(lambda: mq.create_queue("x", {"type": "multicast", "dead_letter": {"queue_name": "d"}, "push": {
    "subscribers": [subscriber("a")]}}), 400)

# Multicast: each subscriber gets the message, with its headers and those of the message.
made = mq.create_queue("news", {"type": "multicast", "push": {
    "subscribers": [subscriber("takes", headers={"X-To": "first"}), subscriber("once")],
    "retries": 3, "retries_delay": 3, "error_queue": "errors"}})
assert made["type"] == "multicast" and made["push"]["retries_delay"] == 3, made
news = mq.queue("news")
ident = news.post({"body": "hello", "push_headers": {"X-Kind": "greeting", "Content-Type": "text/x-greeting"}})["ids"][0]
headers, body = wait("the first receiver", lambda: received["/takes"])[0]
assert body == "hello" and headers["X-To"] == "first" and headers["X-Kind"] == "greeting", headers
assert headers["Content-Type"] == "text/x-greeting" and headers["Iron-Message-Id"] == ident, headers
assert headers["Iron-Subscriber-Name"] == "takes" and headers["Iron-Reservation-Id"], headers
statuses = {one["subscriber_name"]: one for one in news.get_message_push_statuses(ident)["subscribers"]}
assert statuses.keys() == {"takes", "once"}, statuses
wait("the retry", lambda: len(received["/once"]) == 2)
wait("the message is gone", lambda: news.size() == 0)
assert len(received["/takes"]) == 1, "an acknowledged message is not sent again"
refused(lambda: news.get_message_push_statuses(ident), 404)
refused(lambda: news.reserve(), 400)
refused(lambda: mq.update_queue("news", {"type": "pull"}), 400)

# Subscribers are added, replaced and removed.
news.add_subscribers(subscriber("added"))
assert {one["name"] for one in news.info()["push"]["subscribers"]} == {"takes", "once", "added"}
news.remove_subscribers("once", "added")
news.replace_subscribers(subscriber("replaced"))
assert [one["name"] for one in news.info()["push"]["subscribers"]] == ["replaced"]
refused(lambda: news.remove_subscribers("replaced"), 400)
refused(lambda: mq.queue("pulled").post("x") and mq.queue("pulled").add_subscribers(subscriber("a")), 400)

# 202 leaves the message to the receiver, which deletes it with its reservation.
mq.create_queue("slow", {"type": "multicast", "push": {"subscribers": [subscriber("later")], "retries_delay": 5}})
slow = mq.queue("slow")
ident = slow.post("take your time")["ids"][0]
headers, _ = wait("the slow receiver", lambda: received["/later"])[0]
wait("the answer", lambda: slow.get_message_push_statuses(ident)["subscribers"][0].get("status_code") == 202)
refused(lambda: slow.delete(ident, "7-7", "later"), 403)
assert slow.delete(ident, headers["Iron-Reservation-Id"], "later")["msg"] == "Deleted"
assert slow.size() == 0
# Without the deletion, the message comes again.
slow.post("forgotten")
again = wait("the second try", lambda: [one for one in received["/later"] if one[1] == "forgotten"][1:], 30)
assert again[0][0]["Iron-Reservation-Id"] != headers["Iron-Reservation-Id"]
# A DELETE request to the URL of the last try acknowledges, and one to that of the try before is too late.
token = {"Authorization": "OAuth " + os.environ["TOKEN"]}
late = [one for one in received["/later"] if one[1] == "forgotten"][0][0]["Iron-Subscriber-Message-Url"]
assert late.startswith(os.environ["CLOUD"] + "/3/projects/shop/queues/slow/messages/"), late
assert requests.delete(late, headers=token).status_code == 403
url = again[0][0]["Iron-Subscriber-Message-Url"]
assert requests.delete(url).status_code == 401, "the URL alone proves nothing"
wait("the answer to the second try", lambda: requests.delete(url, headers=token).status_code == 200)
assert slow.size() == 0

# A receiver that always refuses: the retries end, and the error queue has the message. 201 is no acknowledgement.
mq.create_queue("lost", {"type": "multicast", "push": {
    "subscribers": [subscriber("refuses"), subscriber("created")], "retries": 1, "retries_delay": 3,
    "error_queue": "errors"}})
ident = mq.queue("lost").post("nobody")["ids"][0]
errors = mq.queue("errors")


def reports():
    try:
        return errors.reserve(max=10)["messages"]
    except HTTPError:
        return []


report = json.loads(wait("the report", reports)[0]["body"])
assert report["source_msg_id"] == ident and report["body"] == "nobody", report
assert {one["name"]: one["code"] for one in report["subscribers"]} == {"refuses": 503, "created": 201}, report
assert mq.queue("lost").size() == 0 and len(received["/refuses"]) == 2

# Unicast: one subscriber takes it; after a refusal, the other one at once.
mq.create_queue("tasks", {"type": "unicast", "push": {
    "subscribers": [subscriber("refuses/task"), subscriber("takes/task")], "retries_delay": 60}})
tasks = mq.queue("tasks")
for number in range(4):
    tasks.post(f"task {number}")
wait("all tasks", lambda: {body for _, body in received["/takes/task"]} == {f"task {number}" for number in range(4)})
wait("no task is left", lambda: tasks.size() == 0)
assert len(received["/takes/task"]) == 4

# A receiver that hangs delays nobody else.
mq.create_queue("hung", {"type": "multicast", "push": {"subscribers": [subscriber("hangs", hung)], "retries_delay": 3}})
for number in range(20):
    mq.queue("hung").post(f"hung {number}")
wait("the hung receiver", lambda: received["/hangs"])
news.replace_subscribers(subscriber("takes/quick"))
began = time.time()
for number in range(50):
    news.post(f"quick {number}")
wait("the quick receiver", lambda: len(received["/takes/quick"]) == 50)
took = time.time() - began
assert took < 8, f"{took:.1f} s behind a receiver that hangs"
ident = mq.queue("hung").peek()["messages"][0]["id"]
wait("the timeout", lambda: [one for one in mq.queue("hung").get_message_push_statuses(ident)["subscribers"]
                             if "no response" in one.get("msg", "")])
mq.queue("hung").delete_queue()
print("all is well")
