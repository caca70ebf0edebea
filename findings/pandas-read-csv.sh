#!/usr/bin/env bash
# One would think: a float64 that Python wrote with all its digits is the same number after pandas.read_csv.
# What is so: up to pandas 3.0 the default parser is off in the last digits: of the 5,000 learning rates of a cosine
#   schedule 94 % come back as other numbers, the smallest off by 1e-12 of their value. pandas 3.1 (autumn 2026) reads
#   all of them exactly, and `float_precision`, the old remedy, is deprecated there.
# Who meets it: whoever compares a training log, read back by pandas, bit for bit with the run or with numpy's reading.
# Source: pandas pull requests 66010 and 64666 (2026): all modes are fast_float's; issue 17154 for the old ones.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
cat > read.py <<'PY'
import io
import numpy as np
import pandas as pd

rates = 0.0125 * (1 + np.cos(np.pi * np.arange(5000) / 5000))
text = "\n".join(map(repr, map(float, rates)))
read = pd.read_csv(io.StringIO("rate\n" + text))["rate"].to_numpy()
assert (np.loadtxt(io.StringIO(text)) == rates).all()
print(f"pandas {pd.__version__}, numpy {np.__version__}: {(read != rates).sum()} of 5000 differ", end=", ")
print(f"by up to {np.abs(read / rates - 1).max():.1e} of the value; numpy.loadtxt: none")
PY
for version in 3.0.5 3.1.1; do
  venv/bin/pip install --quiet pandas==$version numpy==2.4.6
  venv/bin/python read.py | tee seen-$version
done
grep -q " 0 of 5000" seen-3.1.1 || { echo "no longer so: pandas 3.1.1 is not exact"; exit 1; }
grep -q " 4[0-9]* of 5000" seen-3.0.5 || { echo "no longer so: pandas 3.0.5 is exact"; exit 1; }
echo "seen: read_csv changes most of 5,000 float64 up to pandas 3.0.5 and none in 3.1.1"
