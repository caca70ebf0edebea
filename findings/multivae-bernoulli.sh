#!/usr/bin/env bash
# One would think: in MultiVae, decoders_dist={"m": "bernoulli"} and the default decoder make a Bernoulli VAE.
# What is so: the likelihood takes the decoder's outputs as logits, as its documentation says, but the default decoder
#   ends with a sigmoid. Logits between 0 and 1 are probabilities between 0.50 and 0.73: no white pixel costs less than
#   0.69 nats, no black one less than 0.31, 124 nats for an image of 14x14 that is always the same and should cost 0.
#   It trains without a warning. Remedy: a decoder of one's own, or its last sigmoid replaced.
# Who meets it: whoever trains a VAE of binary images by this library without writing a decoder.
# Source: multivae 1.0.3, models/base/base_utils.py (set_decoder_dist), models/nn/default_architectures.py.
# On x86-64 torch's CUDA build is installed: 5 GB in the temporary folder.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.14.1 torchvision==0.29.1 multivae==1.0.3
cat > train.py <<'PY'
import importlib.metadata
import sys
import torch
from multivae.data.datasets.base import DatasetOutput
from multivae.models import MVAE, MVAEConfig

print("multivae", importlib.metadata.version("multivae"), "torch", torch.__version__)
image = torch.zeros(14, 14)
image[3:11, 5:9] = 1  # 32 black pixels
batch = DatasetOutput(data={"m": image.flatten().repeat(100, 1)})
cost = {}
for name in "default decoder", "its sigmoid replaced":
    torch.manual_seed(0)
    model = MVAE(MVAEConfig(1, latent_dim=8, input_dims={"m": (196,)}, decoders_dist={"m": "bernoulli"}))
    if name != "default decoder":
        model.decoders["m"].layers[-1][1] = torch.nn.Identity()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(500):
        loss = model(batch, epoch=1, batch_ratio=1.0).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        output = model.decoders["m"](model.encode(batch).z).reconstruction
        cost[name] = -model.recon_log_probs["m"](output, batch.data["m"]).sum(1).mean().item()
    print(f"{name}: outputs {output.min():.2f} to {output.max():.2f}, one image always the same costs {cost[name]:.2f} nats")
if not cost["default decoder"] > 120 > 5 > cost["its sigmoid replaced"]:
    sys.exit("no longer so: the default decoder and the likelihood agree")
print(f"seen: {cost['default decoder']:.1f} nats with MultiVae's default decoder, {cost['its sigmoid replaced']:.1f} with logits")
PY
venv/bin/python -W ignore train.py
