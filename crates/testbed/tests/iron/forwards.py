"""Push queues whose subscribers are another queue and a code, with the published clients iron-mq and iron-worker."""

import json
import os

from expectations import refused, wait
from iron_mq import IronMQ
from iron_worker import IronWorker
from requests.exceptions import HTTPError

access = {"cloud": os.environ["CLOUD"], "project_id": "shop", "token": os.environ["TOKEN"]}
mq, worker = IronMQ(**access), IronWorker(**access)


def refused_queue(name, *subscribers):
    push = {"type": "multicast", "push": {"subscribers": list(subscribers)}}
    return refused(lambda: mq.create_queue(name, push), 400)


def messages(name):
    try:
        return mq.queue(name).reserve(max=10)["messages"]
    except HTTPError:  # The first message makes the queue.
        return []


# Another project, and names that are none.
for url, why in [
    ("ironmq://other:token@/news", "same project"),
    ("ironworker://other:token@worker.example/greet", "same project"),
    ("ironmq:///", "name of a queue"),
    ("ironworker:///No Code", "not a role name"),
    ("ironcache:///x", "must begin with"),
]:
    said = refused_queue("x", {"name": "bad", "url": url})
    assert why in said and "bad" in said, (url, said)

# Queues that form a loop.
said = refused_queue("round", {"name": "myself", "url": "ironmq:///round"})
assert "would come back" in said and "myself" in said, said
mq.create_queue("there", {"type": "multicast", "push": {"subscribers": [{"name": "b", "url": "ironmq:///back"}]}})
said = refused_queue("back", {"name": "t", "url": "ironmq:///there"})
assert "would come back" in said, said

# A message goes into the other queue, and is the payload of a task. A code that is unknown fails, and is reported.
mq.create_queue("fan", {"type": "multicast", "push": {"retries": 0, "error_queue": "fan-errors", "subscribers": [
    {"name": "inbox", "url": "ironmq:///in/box"},
    {"name": "greet", "url": "ironworker:///greet"},
    {"name": "none", "url": "ironworker:///none"},
]}})
body = json.dumps({"name": "a pushed message"})
mq.queue("fan").post(body)
taken = wait("the message in the other queue", lambda: messages("in/box"))
assert [message["body"] for message in taken] == [body], taken
[task] = wait("the task", worker.tasks)
assert task.code_name == "greet", task
worker.wait_for_task(task)
assert worker.wait_for_task_stdout(task) == "hello a pushed message\n", worker.stdout(task)
report = json.loads(wait("the report", lambda: messages("fan-errors"))[0]["body"])
assert [one["name"] for one in report["subscribers"]] == ["none"], report
assert "no code none" in report["subscribers"][0]["msg"], report
assert mq.queue("fan").size() == 0 and mq.queue("in/box").info()["total_messages"] == 1
assert len(worker.tasks()) == 1
print("all is well")
