"""Uses the published client iron-mq against the server that CLOUD names."""

import os
import threading
import time

from expectations import refused
from iron_mq import IronMQ

mq = IronMQ(cloud=os.environ["CLOUD"], project_id="shop", token=os.environ["TOKEN"])
queue = mq.queue("orders/eu")
refused(queue.info, 404)

# Post, peek, reserve, delete.
assert len(queue.post("one", "two", {"body": "late", "delay": 3600})["ids"]) == 3
assert queue.size() == 3 and queue.total_messages() == 3
assert [message["body"] for message in queue.peek(max=5)["messages"]] == ["one", "two"]
taken = queue.reserve(max=10, timeout=60)
assert [message["body"] for message in taken["messages"]] == ["one", "two"]
assert taken["messages"][0]["reserved_count"] == 1
assert queue.reserve()["messages"] == []
one, two = taken["messages"]
refused(lambda: queue.delete(one["id"]), 403)
touched = queue.touch(one["id"], one["reservation_id"])["reservation_id"]
assert touched != one["reservation_id"]
refused(lambda: queue.delete(one["id"], one["reservation_id"]), 403)
assert queue.delete(one["id"], touched)["msg"] == "Deleted"

# A released message goes to the front.
queue.post("three")
queue.release(two["id"], two["reservation_id"])
again = queue.reserve(max=2)
assert [message["body"] for message in again["messages"]] == ["two", "three"]
assert again["messages"][0]["reserved_count"] == 2
assert queue.delete_multiple(messages=again)["msg"] == "Deleted"
refused(lambda: queue.get_message_by_id(one["id"]), 404)

# A long poll ends with the next message.
poll = threading.Timer(0.5, lambda: mq.queue("orders/eu").post("awaited"))
began = time.time()
poll.start()
found = queue.reserve(wait=20, delete=True)
assert [message["body"] for message in found["messages"]] == ["awaited"] and time.time() - began < 10, found

# Settings, and dead letters after two reservations.
dead = mq.create_queue("dead-ends", {"message_timeout": 30, "dead_letter": {"queue_name": "dead", "max_reservations": 2}})
assert dead["message_timeout"] == 30 and dead["type"] == "pull"
ends = mq.queue("dead-ends")
ends.post("poison")
for _ in range(2):
    message = ends.reserve()["messages"][0]
    ends.release(message["id"], message["reservation_id"])
assert ends.reserve()["messages"] == []
assert [message["body"] for message in mq.queue("dead").peek()["messages"]] == ["poison"]
assert mq.update_queue("dead-ends", {"message_timeout": 90})["message_timeout"] == 90
refused(lambda: mq.create_queue("x", {"type": "multicast", "push": {"subscribers": []}}), 400)
refused(lambda: mq.create_queue("x", {"message_timeout": 1}), 400)
refused(lambda: queue.reserve(timeout=5), 400)
refused(lambda: queue.post(""), 400)

# Clear, delete.
assert queue.clear()["msg"] == "Deleted" and queue.size() == 0
assert queue.delete_queue()["msg"] == "Deleted"
refused(queue.info, 404)
print("all is well")
