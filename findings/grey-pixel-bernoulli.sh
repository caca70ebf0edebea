#!/usr/bin/env bash
# One would think: a grey pixel, 0.5, under a Bernoulli with p = 0.3 costs what cross-entropy says, log p(x) = -0.780,
#   or is an error, and it is the same in every library and release.
# What is so: scipy says -inf, jax.scipy -0.780, and PyMC log(1 - p) = -0.357 without a word, since it turns 0.5, and
#   0.999, into the integer 0. NumPyro says -0.780 up to 0.21 and -inf from 0.22 (autumn 2026) on, where its validation,
#   long meant to be on, is on; the gradient in p is 0 there, so a jitted decoder does not learn and no warning says why.
# Who meets it: whoever feeds MNIST's grey values, divided by 255, to a Bernoulli decoder, as many VAEs do.
# Source: NumPyro pull request 2201 ("Fix enable_validation", 2026); jax/_src/scipy/stats/bernoulli.py.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
cat > numpyro_grey.py <<'PY'
import warnings
import jax
import numpyro
from numpyro.distributions import Bernoulli

warnings.simplefilter("ignore")  # outside jit NumPyro 0.22 warns of values out of support
value, slope = jax.jit(jax.value_and_grad(lambda p: Bernoulli(p).log_prob(0.5)))(0.3)
print(f"numpyro {numpyro.__version__}, jax {jax.__version__}: {value:.3f}, gradient {slope:.3f}")
PY
cat > others.py <<'PY'
import jax
import jax.scipy.stats
import pymc
import scipy.stats

print(f"scipy {scipy.__version__}: {scipy.stats.bernoulli.logpmf(0.5, 0.3):.3f}")
print(f"jax.scipy {jax.__version__}: {jax.scipy.stats.bernoulli.logpmf(0.5, 0.3):.3f}")
for grey in 0.5, 0.999:
    print(f"pymc {pymc.__version__}, grey {grey}: {pymc.logp(pymc.Bernoulli.dist(p=0.3), grey).eval():.3f}")
PY
for version in 0.21.0 0.22.0; do
  venv/bin/pip install --quiet numpyro==$version jax==0.10.2 jaxlib==0.10.2
  venv/bin/python numpyro_grey.py | tee -a seen
done
venv/bin/pip install --quiet pymc==5.28.5 scipy==1.17.1
venv/bin/python -W ignore others.py | tee -a seen
seen=$(sed 's/.*: //' seen | paste -sd ';')
[ "$seen" = "-0.780, gradient 0.952;-inf, gradient 0.000;-inf;-0.780;-0.357;-0.357" ] || { echo "no longer so: $seen"; exit 1; }
echo "seen: a grey pixel has log p -0.780 (NumPyro 0.21, jax.scipy), -inf (NumPyro 0.22, scipy) and -0.357 (PyMC)"
