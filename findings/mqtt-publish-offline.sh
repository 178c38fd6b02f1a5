#!/usr/bin/env bash
# paho-mqtt 2.2.0 (PyPI) and mqtt 5.16.0 (npm), on the broker amqtt 0.12.1 (PyPI): publish() while the broker is away.
#
# A service publishes with QoS 1. The broker restarts for an update; the client library reconnects by itself.
# Expected: publish() either takes the message and sends it later, or reports an error and does not send it.
# Seen: paho does both. publish() returns rc 4, MQTT_ERR_NO_CONN, and is_published() and wait_for_publish() raise
#       RuntimeError("Message publish failed"). The same message arrives as soon as the client is connected again: three
#       calls with an error, three messages. With QoS 0, the same code is true: nothing arrives.
#       MQTT.js keeps the promise of publishAsync() open, delivers once, and then resolves it.
# Why it matters: a program that repeats what failed, or spools it on disk, sends each reading of the outage twice or more,
#       and the counts look like a burst of the devices. QoS 1 is then blamed for its duplicates. Remedy: with QoS 1 and 2,
#       treat MQTT_ERR_NO_CONN as taken, and wait in the on_publish callback.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm install --silent --no-audit --no-fund --prefix "$work" mqtt@5.16.0 >/dev/null
python3 -m venv venv
venv/bin/pip -q install --disable-pip-version-check paho-mqtt==2.2.0 amqtt==0.12.1

cat >publish.mjs <<'JS'
import mqtt from 'mqtt';
const client = mqtt.connect(`mqtt://127.0.0.1:${process.argv[2]}`, { reconnectPeriod: 300 });
client.on('error', () => {});
const sent = Promise.all([1, 2, 3].map((n) => client.publishAsync('reading', `js-${n}`, { qos: 1 })));
let early = true;
sent.then(() => console.log(early ? 'resolved while the broker is away' : 'resolved later'), () => console.log('rejected'));
process.stdin.once('data', () => (early = false));
await sent.catch(() => {});
client.end(true, () => process.exit(0));
JS
cat >outage.py <<'PY'
import asyncio
import logging
import socket
import subprocess
import threading
import time

import paho.mqtt.client as paho
from amqtt.broker import Broker

logging.disable(logging.CRITICAL)
with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
loop = asyncio.new_event_loop()
threading.Thread(target=loop.run_forever, daemon=True).start()
SETTINGS = {
    "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
    "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
}


def run(coroutine):
    return asyncio.run_coroutine_threadsafe(coroutine, loop).result(20)


async def start():
    broker = Broker(SETTINGS)
    await broker.start()
    return broker


def client():
    made = paho.Client(paho.CallbackAPIVersion.VERSION2)
    made.reconnect_delay_set(2, 2)
    made.connect_async("127.0.0.1", port)
    made.loop_start()
    return made


def subscriber():
    received, ready = [], threading.Event()
    made = paho.Client(paho.CallbackAPIVersion.VERSION2)
    made.on_message = lambda *event: received.append(event[2].payload.decode())
    made.on_subscribe = lambda *_: ready.set()
    made.connect("127.0.0.1", port)
    made.subscribe("reading", 1)
    made.loop_start()
    assert ready.wait(10)
    return made, received


def wait_for(condition):
    deadline = time.monotonic() + 15
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert condition()


for qos in (0, 1):
    broker = run(start())
    publisher = client()
    wait_for(publisher.is_connected)
    run(broker.shutdown())
    wait_for(lambda: not publisher.is_connected())
    results = [publisher.publish("reading", f"py-{n}", qos=qos) for n in (1, 2, 3)]
    assert [result.rc for result in results] == [paho.MQTT_ERR_NO_CONN] * 3
    try:
        results[0].is_published()
        raise SystemExit("is_published() raised no error")
    except RuntimeError as error:
        print(f"paho, QoS {qos}: {error}")
    broker = run(start())
    watcher, received = subscriber()
    wait_for(publisher.is_connected)
    if qos:
        wait_for(lambda: len(received) >= 3)
    time.sleep(1)
    print(f"paho, QoS {qos}: arrived after the outage: {' '.join(received) or 'nothing'}")
    assert sorted(set(received)) == (["py-1", "py-2", "py-3"] if qos else [])
    publisher.loop_stop()
    watcher.loop_stop()
    run(broker.shutdown())

node = subprocess.Popen(["node", "publish.mjs", str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
time.sleep(2)
node.stdin.write("\n")
node.stdin.flush()
broker = run(start())
said = node.communicate(timeout=20)[0].strip()
print(f"MQTT.js, QoS 1: {said}")
assert said == "resolved later"
PY
venv/bin/python outage.py
