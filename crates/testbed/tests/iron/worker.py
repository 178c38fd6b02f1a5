"""Uses the published client iron-worker against the server that IRON_CLOUD names."""

import datetime
import json
import tempfile
import time
import urllib.request

from expectations import refused
from iron_worker import CodePackage, IronWorker, Task

import os

worker = IronWorker(cloud=os.environ["CLOUD"], project_id="shop", token=os.environ["TOKEN"])

# Queue, wait, read the output.
task = worker.queue(code_name="greet", payload={"name": "world"})
done = worker.wait_for_task(task)
assert done.status == "complete", done.status
assert done.code_name == "greet" and not done.scheduled and done.duration > 0
assert done.created_at.tzinfo is not None
assert worker.wait_for_task_stdout(task) == "hello world\n", worker.stdout(task)
assert "to the log" in worker.log(task)
assert worker.run(code_name="greet", payload={"name": "again"}) == "hello again\n"

# A batch, a list with filters, a retry.
both = worker.queue(tasks=[Task(code_name="greet", payload={"name": str(n)}) for n in range(2)])
for one in both:
    worker.wait_for_task(one)
assert len(worker.tasks(complete=True, code_name="greet")) == 4
assert worker.tasks(running=True) == [] and len(worker.tasks(per_page=1)) == 1
again = worker.retry(task, delay=1)["tasks"][0]["id"]
assert again != task.id and worker.wait_for_task(again).status == "complete"

# Progress and cancellation.
slow = worker.queue(code_name="slow", payload={}, timeout=60)
while worker.task(slow).status != "running":
    time.sleep(0.1)
worker.setProgress(slow, 50, "half")
told = worker.task(slow)
assert told.percent == 50, told.percent
worker.cancel(slow)
while worker.task(slow).status in ("queued", "preparing", "running"):
    time.sleep(0.1)
assert worker.task(slow).status == "cancelled"

# Scheduled tasks.
start = datetime.datetime.now(datetime.timezone.utc)
scheduled = worker.queue(code_name="greet", payload={"name": "later"}, start_at=start, run_every=3600, run_times=2)
while not worker.task(scheduled).run_count:
    time.sleep(0.1)
told = worker.task(scheduled)
assert told.scheduled and told.code_name == "greet" and told.run_every == 3600, vars(told)
assert len(worker.tasks(scheduled=True)) == 1
worker.cancel(scheduled)
assert worker.tasks(scheduled=True) == []

# A webhook, whose body is the payload.
url = os.environ["CLOUD"] + "/2/projects/shop/tasks/webhook?code_name=greet&oauth=" + os.environ["TOKEN"]
with urllib.request.urlopen(urllib.request.Request(url, data=b'{"name": "hook"}')) as response:
    hook = json.load(response)
assert worker.wait_for_task(Task(id=hook["id"])).status == "complete"
assert worker.stdout(hook["id"]) == "hello hook\n"

# An upload, as the client packs and sends it. Its code then runs as a task.
folder = tempfile.mkdtemp()
os.chdir(folder)
for words in ["first", "second \\ 'quoted' \u00e9"]:
    with open("hi.py", "w", encoding="utf-8") as file:
        file.write("import os\nprint(%r, open(os.environ['PAYLOAD_FILE']).read())\n" % words)
    uploaded = worker.upload("hi.py", name="hi", executable="hi.py")
    assert uploaded.id == "hi", vars(uploaded)
    done = worker.wait_for_task(worker.queue(code_name="hi", payload="7"))
    assert done.status == "complete"
    assert worker.stdout(done) == words + " 7\n", worker.stdout(done)
assert [revision.revision for revision in worker.revisions("hi")] == [2, 1]
assert worker.code("hi").revision == 2
worker.deleteCode("hi")

# Codes, and refusals with words.
assert [code.name for code in worker.codes()] == ["greet", "slow"]
assert worker.code("greet").revision == 1
for call, status in [
    (lambda: worker.queue(code_name="unknown"), 404),
    (lambda: worker.queue(code_name="greet", run_every=5), 400),
    (lambda: worker.queue(code_name="greet", priority=7), 400),
    (lambda: worker.task("99999"), 404),
    (lambda: worker.cancel(task), 409),
    (lambda: IronWorker(cloud=os.environ["CLOUD"], project_id="shop", token="x").queue(code_name="greet"), 401),
]:
    refused(call, status)
print("all is well")
