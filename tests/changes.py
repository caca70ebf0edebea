"""Print what changes to the script do: the table "If you change ..." in README.md here; 8 minutes."""

import time
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
SOURCE = (ROOT / "pennkey_hw5_problem1.py").read_text(encoding="utf-8")
TOP, MODEL, DATA = "# What it leaves open", "model = VAE().to(options.device)", "    return [images.flatten"
LINES = (
    "LATENT = 2, LATENT = 4, LATENT = 16, LATENT = 32, HIDDEN = 64, HIDDEN = 512, SAMPLES = 1, SAMPLES = 8, "
)
LINES += "TRAINING_PER_DIGIT = 100, TRAINING_PER_DIGIT = 5000"
BLOCKS = "images.unfold(-2, 2, 2).unfold(-2, 2, 2).float().mean(dim=(-2, -1))"
BIASES = "; model.decoder[2].bias.data = torch.logit(training.mean(dim=0), eps=1e-3)"
FIRST = "    validation = subsample_and_binarize(test_split.data[:100])[None]\n"
CHANGES = {"the default": (TOP, TOP), **{line: (TOP, f"{line}\n{TOP}") for line in LINES.split(", ")}}
CHANGES |= {"`pixel >= 128`": ("> 128)", ">= 128)"), "means of 2x2": ("images[..., ::2, ::2]", BLOCKS)}
CHANGES |= {"biases at the mean image": (MODEL, MODEL + BIASES), "validation: first": (DATA, FIRST + DATA)}
default = None
for name, (old, new) in CHANGES.items():
    assert SOURCE.count(old) == 1, f"{name}: the script does not have what this edits"
    rows = []
    for seed in range(3):
        script, given, start = {"__name__": "", "print": lambda *_, **__: None}, [], time.process_time()
        exec(SOURCE.replace(old, new), script)
        script["save"] = lambda *arguments, given=given: given.extend(arguments)
        script["main"]([f"--seed={seed}", f"--data-dir={ROOT / 'data'}"])
        seconds, (*_, model, metrics) = time.process_time() - start, given
        torch.manual_seed(seed)
        mean, log_variance = model.encoder(script["make_data"](ROOT / "data")[0]).T.unsqueeze(2).chunk(2)
        used = (script["gaussian_kl"](mean, log_variance).mean(dim=1) > 0.1).sum().item()
        rows.append([row["elbo"] for row in metrics["results"].values()] + [used, seconds])
    *means, seconds = np.mean(rows, axis=0)
    default = default or seconds
    print(name, *(f"{value:.1f}" for value in (*means, seconds / default)), sep=" | ", flush=True)
