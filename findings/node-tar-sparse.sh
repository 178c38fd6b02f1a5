#!/usr/bin/env bash
# tar 7.5.23, tar-stream 3.2.2, modern-tar 0.8.6 (npm): a sparse file made by GNU tar is unpacked wrong without an error.
#
# Expected: a reader that meets an entry of a format it does not know raises an error or a warning, or unpacks the file.
# Seen: GNU tar's --sparse writes valid archives in two formats. With its default (gnu) format, node's tar, in strict mode
#       too, leaves the file out without any warning; tar-stream and modern-tar give the data blocks without the holes.
#       With --format=posix all three give a file named ./GNUSparseFile.<pid>/<name>, whose content begins with a map in
#       text. GNU tar itself and Python's tarfile restore every byte of both.
# Why it matters: database files, VM images and core files are sparse, and backup scripts say --sparse for that reason.
#       A restore tool, or a build step, that a Node library carries out ends well and delivers a damaged volume.
#       Remedy: no --sparse in archives that leave GNU tar's world, or compare sizes after unpacking.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm install --silent --no-audit --no-fund --prefix "$work" tar@7.5.23 tar-stream@3.2.2 modern-tar@0.8.6 >/dev/null

python3 - <<'PY'
with open("volume.img", "wb") as image:
    image.write(b"A" * 4096)
    image.seek(1 << 20)
    image.write(b"B" * 4096)
    image.truncate(2 << 20)
PY
echo other >other.txt
tar --sparse --format=gnu -cf gnu.tar volume.img other.txt
tar --sparse --format=posix -cf posix.tar volume.img other.txt

cat >check.py <<'PY'
import tarfile
original = open("volume.img", "rb").read()
for name in ("gnu", "posix"):
    with tarfile.open(f"{name}.tar") as archive:
        assert archive.extractfile("volume.img").read() == original
    print(f"{name + ':':7}Python tarfile  volume.img, {len(original)} bytes, intact")
PY
python3 check.py
for format in gnu posix; do
  tar -xOf "$format.tar" volume.img | cmp - volume.img
done

cat >read.mjs <<'JS'
import assert from 'node:assert';
import { mkdirSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { extract as extractTar } from 'tar';
import { extract as tarStream } from 'tar-stream';
import { unpackTar } from 'modern-tar';

async function nodeTar(file) {
  const warnings = [];
  const cwd = `out-${file}`;
  mkdirSync(cwd);
  await extractTar({ file, cwd, strict: true, onwarn: (code) => warnings.push(code) });
  assert.deepEqual(warnings, []);
  return readdirSync(cwd, { recursive: true })
    .map((name) => ({ name, stat: statSync(`${cwd}/${name}`) }))
    .filter(({ stat }) => stat.isFile())
    .map(({ name, stat }) => ({ name, size: stat.size }));
}

async function stream(file) {
  const found = [];
  const reader = tarStream();
  reader.end(readFileSync(file));
  for await (const entry of reader) {
    let size = 0;
    for await (const chunk of entry) size += chunk.length;
    found.push({ name: entry.header.name, size });
  }
  return found;
}

const modern = async (file) =>
  (await unpackTar(readFileSync(file))).map((entry) => ({ name: entry.header.name, size: entry.data.length }));

const image = ({ name }) => name.endsWith('volume.img');
for (const format of ['gnu', 'posix'])
  for (const [library, read] of [['node tar', nodeTar], ['tar-stream', stream], ['modern-tar', modern]]) {
    const found = await read(`${format}.tar`);
    assert(found.some(({ name, size }) => name === 'other.txt' && size === 6));
    const got = found.find(image);
    const outcome = got ? `${got.name}, ${got.size} bytes` : 'volume.img is missing';
    console.log(`${(format + ':').padEnd(7)}${library.padEnd(15)} ${outcome}, no error`);
    if (format === 'posix') assert(got.name.includes('GNUSparseFile') && got.size < 16384);
    else if (library === 'node tar') assert.equal(got, undefined);
    else assert.equal(got.size, 8192);
  }
JS
node read.mjs
