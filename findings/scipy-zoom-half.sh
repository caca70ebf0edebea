#!/usr/bin/env bash
# One would think: scipy.ndimage.zoom(image, 0.5, order=0) takes every second row and column of an image.
# What is so: it takes rows 0, 2, .. 12, 15, .. 25 of 28, skips two in the middle, and fills the last row and column
#   with 0, whatever stands there. So it does at every order for sides of 28 (MNIST) and 32 (CIFAR), not for 16, 64, 224:
#   the corners are aligned, 13 * (27 / 13) rounds to more than 27, and what lies outside is `cval`. The remedy is
#   grid_mode=True with mode="nearest", which at order 0 takes the rows 1, 3, .. 27, or image[::2, ::2].
# Who meets it: whoever halves small images so; on MNIST, white at its border, nothing tells.
# Source: scipy issues 4922 and 6713, reported in 2015 and 2016 and closed; scipy 1.17.1 still does it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet scipy==1.17.1 numpy==2.4.6
cat > zoom.py <<'PY'
import sys
import numpy as np
import scipy
from scipy.ndimage import zoom

print("scipy", scipy.__version__, "numpy", np.__version__)
rows = np.arange(28.0)[:, None] + np.zeros(28)
taken = zoom(rows, 0.5, order=0)[:, 0].astype(int).tolist()
print("rows taken of 28:", taken)
print("with grid_mode: ", zoom(rows, 0.5, order=0, grid_mode=True, mode="nearest")[:, 0].astype(int).tolist())
blank = {side: [zoom(np.ones((side, side)), 0.5, order=o)[-1].max() for o in (0, 1, 3)] for side in (16, 28, 32, 64)}
print("the last row of an image of ones, orders 0, 1, 3:", {s: np.round(v, 3).tolist() for s, v in blank.items()})
if not (taken == [0, 2, 4, 6, 8, 10, 12, 15, 17, 19, 21, 23, 25, 0] and max(blank[28] + blank[32]) == 0 < min(blank[64])):
    sys.exit("no longer so: zoom takes other rows")
print("seen: zoom by 0.5 leaves the last row of 28x28 and 32x32 images 0")
PY
venv/bin/python zoom.py
