# /// script
# requires-python = ">=3.10"
# dependencies = ["torch>=2.5", "torchvision>=0.20", "numpy>=1.26", "matplotlib>=3.8"]
# ///
"""ESE 546, Homework 5, Problem 1: a variational auto-encoder for binarized 14x14 MNIST.

The file reads in the order of the handout: (i) data, (ii) model, objective and training, (iii) to (vi)
figures, then files and command line. "Eq. (1)" is the handout's; "paper" is Kingma & Welling, Auto-Encoding
Variational Bayes, arXiv:1312.6114. Log-likelihoods, KL and ELBO are in nats per image. In shapes, B is a
number of images and S a number of samples of z. `python pennkey_hw5_problem1.py --help` lists the options.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

if "IPython" not in sys.modules:  # a notebook's own MPLBACKEND, inherited by its !python, may be missing here
    os.environ.pop("MPLBACKEND", None)

import matplotlib.style
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import nn
from torchvision.datasets import MNIST

# What the handout fixes, and in the last line what it leaves open.
SIDE, PIXELS, HIDDEN, LATENT = 14, 14 * 14, 128, 8
TRAINING_PER_DIGIT, VALIDATION_PER_DIGIT = 1000, 10
SAMPLES = 2  # of z ~ p_u(z|x), in training
VALIDATION_EVERY = 100  # weight updates
TEST_PER_DIGIT, EVALUATION_SAMPLES, IMPORTANCE_SAMPLES = 882, 16, 1000


# ---- (i) The data set ---------------------------------------------------------------------------
class Data(NamedTuple):
    """Binarized images, (B, 196) float32 of 0 and 1: equally many of each digit, ordered by digit."""

    training: torch.Tensor  # (10000, 196), from MNIST's training split
    validation: torch.Tensor  # (100, 196), from its test split
    test: torch.Tensor  # (8820, 196), from its test split too, none of them a validation image


def make_data(data_dir, device="cpu"):
    """Draw the data set at random from MNIST in `data_dir`, downloaded if missing; exits where it cannot."""
    try:
        training_split, test_split = (MNIST(data_dir, train=train, download=True) for train in (True, False))
    except Exception as error:  # of many kinds: no network, no permission, a file cut short, ...
        advice = "delete its *-ubyte files if they are damaged, or name another folder with --data-dir"
        sys.exit(f"error: no MNIST in {Path(data_dir, 'MNIST', 'raw')} ({error!r}); {advice}")
    training = draw_balanced(training_split, TRAINING_PER_DIGIT)
    held_out = draw_balanced(test_split, VALIDATION_PER_DIGIT + TEST_PER_DIGIT)
    validation, test = held_out.split([VALIDATION_PER_DIGIT, TEST_PER_DIGIT], dim=1)
    return Data(*(images.flatten(0, 1).to(device) for images in (training, validation, test)))


def draw_balanced(split, per_digit):
    """`per_digit` images of each digit, without replacement, from a split of MNIST: (10, per_digit, 196)."""
    order = torch.randperm(len(split.data))
    chosen = [order[split.targets[order] == digit][:per_digit] for digit in range(10)]
    return subsample_and_binarize(split.data[torch.stack(chosen)])


def subsample_and_binarize(images):
    """Every second row and column, then `pixel > 128`: (..., 28, 28) uint8 -> (..., 196) float32."""
    # Sub-sampling selects pixels and binarizing acts on each alone, so their order does not matter.
    return (images[..., ::2, ::2] > 128).flatten(-2).float()


# ---- (ii) Model, objective and training ---------------------------------------------------------
class VAE(nn.Module):
    """Encoder p_u(z|x) and decoder p_v(x|z), each with one tanh layer (paper, Appendices C.1 and C.2)."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(PIXELS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 2 * LATENT))
        self.decoder = nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, PIXELS))

    def encode(self, x):
        """Mean and log variance of p_u(z|x): (B, 196) -> (B, 8), (B, 8) (Appendix C.2)."""
        # The last layer is linear, so its outputs may be negative, which a standard deviation may not.
        return self.encoder(x).chunk(2, dim=-1)

    def decode_logits(self, z):
        """The decoder's output before its sigmoid, for a stable log-likelihood: (..., 8) -> (..., 196)."""
        return self.decoder(z)

    def decode(self, z):
        """The decoder's output y, the probability that each pixel is 1: (..., 8) -> (..., 196)."""
        return torch.sigmoid(self.decode_logits(z))


def reparameterize(mean, log_variance, epsilon):
    """z = mean + sigma * epsilon ~ N(mean, sigma^2 I), where epsilon (S, B, 8) ~ N(0, I) (Section 2.4)."""
    return mean + torch.exp(0.5 * log_variance) * epsilon


def bernoulli_log_likelihood(x, logits):
    """log p_v(x|z) = sum_i x_i log y_i + (1 - x_i) log(1 - y_i): x (B, 196), logits (S, B, 196) -> (S, B)."""
    # With y = sigmoid(a) the summand is x a - log(1 + e^a), where log(1 + e^a), computed here as
    # max(a, 0) - log sigmoid(|a|), cannot overflow; log(y) would be -inf where float32 rounds y to 0.
    return (x * logits - F.relu(logits) + torch.log(torch.sigmoid(logits.abs()))).sum(dim=-1)


def gaussian_kl(mean, log_variance):
    """KL(N(mean, sigma^2 I) || N(0, I)): two (B, 8) -> (B,) (handout, after Eq. (1); paper, Appendix B)."""
    return -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(dim=-1)


def elbo_terms(model, x, samples=SAMPLES):
    """First term of Eq. (1), by `samples` of z, and the KL: means over x (B, 196) (paper, Eq. (7))."""
    mean, log_variance = model.encode(x)
    epsilon = torch.randn(samples, *mean.shape).to(mean.device)  # from the CPU: the same on every device
    z = reparameterize(mean, log_variance, epsilon)
    return bernoulli_log_likelihood(x, model.decode_logits(z)).mean(), gaussian_kl(mean, log_variance).mean()


def train(model, data, updates, batch_size, learning_rate):
    """Maximize Eq. (1) over the weights of `model`, by `updates` steps of Adam; exits where it diverges.

    Returns both terms of Eq. (1) on the mini-batch of every update, before its step: (updates, 2), and the
    validation log-likelihood log p(x|z) after every 100th: (updates // 100,). Ctrl-C ends both early.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=updates)  # down to 0
    images, terms, validation = data.training, [], []
    try:
        for update in range(1, updates + 1):
            x = images.index_select(0, torch.randint(len(images), (batch_size,)).to(images.device))
            reconstruction, kl = elbo_terms(model, x)
            loss = kl - reconstruction  # minus the ELBO
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            terms.append((reconstruction.item(), kl.item()))
            if not loss.isfinite():
                sys.exit(f"error: training diverged at update {update}; lower the --learning-rate")
            if update % VALIDATION_EVERY == 0:
                validation.append(evaluate(model, data.validation)["reconstruction"])
                first, second = np.mean(terms[-VALIDATION_EVERY:], axis=0)
                line = f"update {update:5d}   reconstruction {first:6.1f}   KL {second:4.1f}"
                print(f"{line}   validation {validation[-1]:6.1f}", flush=True)
    except KeyboardInterrupt:
        print(f"INTERRUPTED after update {len(terms)} of {updates}")
    return np.array(terms), np.array(validation)


@torch.no_grad()
def evaluate(model, images):
    """Both terms of Eq. (1) and the ELBO, their difference: means over `images` (B, 196), 16 samples of z."""
    pieces = [len(x) * torch.stack(elbo_terms(model, x, EVALUATION_SAMPLES)) for x in images.split(100)]
    reconstruction, kl = (sum(pieces) / len(images)).tolist()
    return {"images": len(images), "reconstruction": reconstruction, "kl": kl, "elbo": reconstruction - kl}


@torch.no_grad()
def log_marginal_likelihood(model, x, samples=IMPORTANCE_SAMPLES):
    """Estimate of log p_v(x) in nats: log of the mean of p_v(x|z) p(z) / p_u(z|x): (B, 196) -> (B,).

    With z ~ p_u(z|x), it is too low on average, the less the more samples (Burda, Grosse & Salakhutdinov,
    arXiv:1509.00519, Theorem 1; paper, Appendix D, estimates the same quantity in another way).
    """
    mean, log_variance = model.encode(x)
    epsilon = torch.randn(samples, *mean.shape).to(mean.device)
    z = reparameterize(mean, log_variance, epsilon)
    log_prior_ratio = 0.5 * (log_variance + epsilon**2 - z**2).sum(dim=-1)  # log p(z) - log p_u(z|x)
    log_weights = bernoulli_log_likelihood(x, model.decode_logits(z)) + log_prior_ratio
    return torch.logsumexp(log_weights, dim=0) - np.log(samples)


@torch.no_grad()
def reconstruct(model, images):
    """(iv) The decoder's output for z = the mean of p_u(z|x): (n, 196) -> pixel probabilities (n, 196)."""
    return model.decode(model.encode(images)[0])


@torch.no_grad()
def sample(model, number):
    """(v) The decoder's output for `number` draws of z ~ N(0, I): pixel probabilities (number, 196)."""
    return model.decode(torch.randn(number, LATENT).to(next(model.parameters()).device))


# ---- (i), (iii) to (vi) Figures -----------------------------------------------------------------
WIDTH = 5.0  # inches, of every figure: placed at one width, all have one size of type
BLUE, ORANGE, PALE = "#0072B2", "#D55E00", "#7FB8DE"  # told apart by the colour-blind and in grey
STYLE = {"font.size": 9, "axes.titlesize": "medium", "figure.constrained_layout.h_pad": 0.1}


def draw_images(title, height, layout, mosaics):
    """A Figure with `layout` axes, each a mosaic of images (rows, columns, 196): 0 is white, 1 black."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.suptitle(title)
    for axes, images in zip(figure.subplots(*layout, squeeze=False).flat, mosaics):
        rows, columns, _ = images.shape
        tiles = images.cpu().unflatten(2, (SIDE, SIDE)).transpose(1, 2).flatten(2).flatten(0, 1).numpy()
        axes.imshow(tiles, "gray_r", vmin=0, vmax=1, interpolation="nearest", extent=(0, columns, rows, 0))
        axes.hlines(range(rows + 1), 0, columns, PALE, linewidth=0.5)
        axes.vlines(range(columns + 1), 0, rows, PALE, linewidth=0.5)
        axes.set(xticks=[], yticks=[], frame_on=False)
        axes.tick_params(length=0)
    return figure


def draw_dataset(training):
    """(i) Ten images of each digit, of the training images (10000, 196), as the encoder sees them."""
    mosaic = training.view(10, TRAINING_PER_DIGIT, PIXELS)[:, :10]
    figure = draw_images("(i) Data set: 10 of the 1000 images of each digit", 4.9, (1, 1), [mosaic])
    figure.axes[0].set_yticks(np.arange(10) + 0.5, [f"digit {digit}" for digit in range(10)])
    return figure


def draw_reconstructions(originals, outputs):
    """(iv) Originals (8, 196), one of each digit from 0 to 7, and beside each the decoder's output for it."""
    pairs = torch.stack((originals, outputs), dim=1)[:, None]  # 8 mosaics of one row and two columns
    figure = draw_images("(iv) Validation images, and the decoder's outputs for them", 4.9, (4, 2), pairs)
    for digit, axes in enumerate(figure.axes):
        axes.set_ylabel(f"digit {digit}")
        axes.set_xticks([0.5, 1.5], ["image $x$", "output $y$"])
    figure.colorbar(figure.axes[0].images[0], ax=figure.axes, label="pixel probability $y$", aspect=30)
    return figure


def draw_samples(outputs):
    """(v) The decoder's outputs for 40 draws of z (40, 196)."""
    title = "(v) The decoder's outputs $y$ for 40 draws $z \\sim N(0, I)$"
    figure = draw_images(title, 3.0, (1, 1), [outputs.view(5, 8, PIXELS)])
    figure.colorbar(figure.axes[0].images[0], label="pixel probability $y$")
    return figure


def draw_curves(title, height, panels, validation=()):
    """A Figure with a row for each panel, (y label, value at every update); validation values in each."""
    updates = len(panels[0][1])
    steep = updates // 20 if updates >= 100 else 0  # the first 5 % have axes of their own, at the left
    parts = [(1, steep, "log", ".-")] if steep else []
    parts.append((steep + 1, updates, "linear", "."))
    validated = VALIDATION_EVERY * np.arange(1, len(validation) + 1)
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.suptitle(title)
    for row, (label, values) in zip(figure.subplots(len(panels), len(parts), squeeze=False), panels):
        row[0].set_ylabel(label)
        for axes, (first, last, scale, line) in zip(row, parts):
            x, y = np.arange(first, last + 1), values[first - 1 : last]
            axes.plot(x, y, line, c=PALE, ms=2, lw=1, rasterized=True, label="training mini-batch")
            if scale == "linear" and len(y) > 100:
                mean = np.convolve(y, np.full(101, 1 / 101), mode="valid")
                axes.plot(x[50:-50], mean, c=BLUE, label="centred mean over 101 mini-batches")
            shown = (first <= validated) & (validated <= last)
            if shown.any():
                label = f"100 validation images, every {VALIDATION_EVERY} updates"
                axes.plot(validated[shown], validation[shown], "o-", c=ORANGE, ms=2.5, lw=1, label=label)
            axes.set(xlabel="number of weight updates", xscale=scale)
            axes.set_title(f"updates {first} to {last}" + " (log scale)" * (scale == "log"))
            axes.grid(alpha=0.3)
    figure.legend(*row[-1].get_legend_handles_labels(), loc="outside lower center", markerscale=2)
    return figure


def draw_elbo_terms(terms):
    """(iii) First and second term of Eq. (1) against the number of weight updates."""
    first = "first term, $\\mathbb{E}[\\log p(x|z)]$\n(nats per image)"
    second = "second term, $\\mathrm{KL}(p(z|x)\\,\\|\\,N(0, I))$\n(nats per image)"
    return draw_curves("(iii) The two terms of the ELBO", 5.6, [(first, terms[:, 0]), (second, terms[:, 1])])


def draw_log_likelihood(terms, validation):
    """(vi) The reconstruction term on training mini-batches and the validation log-likelihood."""
    panel = ("$\\log p(x|z)$ (nats per image)", terms[:, 0])
    return draw_curves("(vi) Training and validation log-likelihood", 3.7, [panel], validation)


# ---- Files and command line ---------------------------------------------------------------------
def save(folder, figures, terms, validation, model, metrics):
    """Write all files into a new folder in `folder`, then move them up together."""
    new = Path(tempfile.mkdtemp(prefix="new-files-", dir=folder))
    for name, figure in figures.items():  # undated, so that the same run gives the same bytes
        figure.savefig(new / f"{name}.pdf", dpi=300, metadata={"CreationDate": None})
    validated = dict(zip(range(VALIDATION_EVERY, len(terms) + 1, VALIDATION_EVERY), map(str, validation)))
    rows = [f"{t},{a},{b},{validated.get(t, '')}\n" for t, (a, b) in enumerate(terms, start=1)]
    rows.insert(0, "update,reconstruction,kl,validation_reconstruction\n")
    (new / "training_log.csv").write_text("".join(rows))
    torch.save({name: weight.cpu() for name, weight in model.state_dict().items()}, new / "vae.pt")
    (new / "metrics.json").write_text(json.dumps(metrics, indent=2, allow_nan=False) + "\n")
    for path in sorted(new.iterdir()):
        path.replace(folder / path.name)  # where that fails, its message names `new`, which keeps the rest
    shutil.rmtree(new, ignore_errors=True)


def parse_options(arguments=None):
    """The options of the command line; a wrong one exits with status 2."""
    script = globals().get("__file__")  # missing where the source was pasted into a notebook
    here = Path(script).resolve().parent if script else Path.cwd()
    plots = here / "figures" if (here / "figures").is_dir() else here
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--updates", type=int, default=5000, help="weight updates")
    add("--batch-size", type=int, default=200, help="images in a mini-batch")
    add("--learning-rate", type=float, default=0.025, help="at first; it falls to 0 as a cosine")
    add("--seed", type=int, default=0, help="of data, weights, mini-batches and noise")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="any that torch knows")
    add("--data-dir", type=Path, default=here / "data", help="MNIST is in MNIST/raw in it, or goes there")
    add("--output-dir", type=Path, default=plots, help="the script's folder, or figures/ in it if there")
    options = parser.parse_args(arguments if script else [])
    for name in ("updates", "batch_size", "learning_rate"):
        if not vars(options)[name] > 0:
            parser.error(f"argument --{name.replace('_', '-')}: must be positive")
    options.data_dir, options.output_dir = options.data_dir.expanduser(), options.output_dir.expanduser()
    return options


def main(arguments=None):
    """Do the homework in the order of the handout."""
    options = parse_options(arguments)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=options.output_dir) as file:
        file.write(bytes(2**20))  # a folder or disk that has no room for the files is told before training
    torch.set_num_threads(1)  # two are faster only while no other process is busy
    torch.manual_seed(options.seed)

    data = make_data(options.data_dir, options.device)  # (i)
    model = VAE().to(options.device)  # (ii)
    terms, validation = train(model, data, options.updates, options.batch_size, options.learning_rate)
    originals = data.validation[::VALIDATION_PER_DIGIT][:8]  # the first of each digit from 0 to 7
    results = {name: evaluate(model, images) for name, images in data._asdict().items()}
    log_p = log_marginal_likelihood(model, data.validation).mean().item()
    metrics = {
        "settings": {name: value for name, value in vars(options).items() if not name.endswith("_dir")},
        "updates_done": len(terms),
        "results": {**results, "validation_log_marginal_likelihood": log_p},
        "versions": {"python": sys.version.split()[0], "torch": torch.__version__},
    }
    with matplotlib.style.context(["default", STYLE]):
        figures = {
            "problem1_i_dataset": draw_dataset(data.training),
            "problem1_iii_elbo_terms": draw_elbo_terms(terms),
            "problem1_iv_reconstructions": draw_reconstructions(originals, reconstruct(model, originals)),
            "problem1_v_samples": draw_samples(sample(model, 40)),
            "problem1_vi_log_likelihood": draw_log_likelihood(terms, validation),
        }
        save(options.output_dir, figures, terms, validation, model, metrics)
    print(f"\n{'nats per image':24s}  reconstruction      KL    ELBO")
    for name, row in results.items():
        print("{images:6d} {0:17s}{reconstruction:16.1f}{kl:8.1f}{elbo:8.1f}".format(name + " images", **row))
    print(f"Five plots, training_log.csv, vae.pt and metrics.json are in {options.output_dir}")
    if len(terms) < options.updates:
        sys.exit(130)  # interrupted


if __name__ == "__main__":
    try:
        main()
    except OSError as error:  # a folder that cannot be used, a full disk
        sys.exit(f"error: {error}")
