#!/usr/bin/env bash
# @datadog/sketches-js 2.1.1 (npm) against ddsketch 3.0.1 (PyPI): merge() counts negative values, but does not keep them.
#
# A DDSketch is made to be merged: agents send sketches, a relay adds them up, and quantiles stay within one per cent. Both
# libraries speak one protobuf format.
# Expected: the merge of two sketches answers like one sketch of all values, in either order, in both languages.
# Seen: Python does. In Node, positive.merge(negative) has the right count, sum, min and max. But the negative buckets stay
#       behind, and ranks are still taken from the full count: of -1000 to 1000, the 25th percentile is 498 and the median
#       is the maximum. The Python library reads the right quartiles from the same bytes.
#       negative.merge(positive) is right, and so is the first merge into an empty sketch.
# Why it matters: values below zero are ordinary for clock offsets, drift, lag against a forecast and temperatures. A test
#       of "merge into a new sketch" passes, and so does a check of count and sum. Dashboards then show a quantile that no
#       host has, by the order in which reports arrive. Remedy: keep a second sketch for the negated values.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip -q install --disable-pip-version-check ddsketch==3.0.1 protobuf==7.36.2
npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$work" \
  @datadog/sketches-js@2.1.1 protobufjs@7.6.6 >/dev/null

cat >merge.cjs <<'JS'
const assert = require('node:assert');
const fs = require('node:fs');
const { DDSketch } = require('@datadog/sketches-js');

const sketch = (values) => {
  const result = new DDSketch();
  for (const value of values) result.accept(value);
  return result;
};
const merged = (first, second) => {
  first.merge(second);
  return first;
};
const show = (name, result) => {
  const quantiles = [0.25, 0.5, 0.75].map((quantile) => Math.round(result.getValueAtQuantile(quantile)));
  const { count, min, max } = result;
  console.log(`Node    ${name.padEnd(25)} count ${count}, min ${min}, max ${max}, quartiles`, ...quantiles);
  return quantiles;
};

const positive = Array.from({ length: 1000 }, (_, index) => index + 1);
const negative = positive.map((value) => -value);
for (const [name, values] of Object.entries({ positive, negative })) fs.writeFileSync(name, sketch(values).toProto());

const right = show('one sketch of all', sketch([...positive, ...negative]));
const intoEmpty = show('new.merge(all)', merged(new DDSketch(), sketch([...positive, ...negative])));
const intoNegative = show('negative.merge(positive)', merged(sketch(negative), sketch(positive)));
const wrong = merged(sketch(positive), sketch(negative));
assert.deepEqual(right, [-498, -1, 498]);
assert.deepEqual(intoEmpty, right);
assert.deepEqual(intoNegative, right);
assert.deepEqual(show('positive.merge(negative)', wrong), [498, 1002, 1002]);
assert.deepEqual([wrong.count, wrong.sum, wrong.min, wrong.max], [2000, 0, -1000, 1000]);
JS
cat >merge.py <<'PY'
from ddsketch.pb.ddsketch_pb2 import DDSketch as Message
from ddsketch.pb.proto import DDSketchProto


def read(name):
    message = Message()
    with open(name, "rb") as file:
        message.ParseFromString(file.read())
    return DDSketchProto.from_proto(message)


for first, second in (("positive", "negative"), ("negative", "positive")):
    sketch = read(first)
    sketch.merge(read(second))
    quantiles = [round(sketch.get_quantile_value(quantile)) for quantile in (0.25, 0.5, 0.75)]
    print(f"Python  {f'{first}.merge({second})':25} count {sketch.count:.0f}, from the same bytes, quartiles", *quantiles)
    assert sketch.count == 2000 and quantiles == [-498, -1, 498]
PY
node merge.cjs
venv/bin/python merge.py
