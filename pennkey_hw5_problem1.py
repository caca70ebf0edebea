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
import contextlib
import gzip
import hashlib
import io
import json
import math
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__" and "IPython" not in sys.modules:  # not in a notebook's %run, whose kernel lives on
    os.environ.pop("MPLBACKEND", None)  # inherited by a notebook's !python; the backend may be missing here
    hook = sys.excepthook  # Ctrl-C shall end the program without a traceback
    sys.excepthook = lambda kind, *rest: os._exit(130) if kind is KeyboardInterrupt else hook(kind, *rest)

import matplotlib.style
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import nn

# What the handout fixes, and in the last line what it leaves open.
SIDE, PIXELS, HIDDEN, LATENT = 14, 14 * 14, 128, 8
TRAINING_PER_DIGIT, VALIDATION_PER_DIGIT = 1000, 10
SAMPLES = 2  # of z ~ p_u(z|x), in training and validation
VALIDATION_EVERY = 100  # weight updates
ELBO_SAMPLES, IMPORTANCE_SAMPLES = 16, 1000  # of z, for the results after training

MNIST_MD5 = {  # as in torchvision.datasets.MNIST, which is imported only to download: it takes seconds
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}


# ---- (i) The data set ---------------------------------------------------------------------------


class Data(NamedTuple):
    """Binarized images, (B, 196) float32 of 0 and 1. Training and validation are ordered by digit."""

    training: torch.Tensor  # (10000, 196), 1000 of each digit
    validation: torch.Tensor  # (100, 196), 10 of each digit, from the test split
    test: torch.Tensor  # (10000, 196), the whole test split, the validation images among them


def make_data(data_dir, seed, device="cpu"):
    """Draw the balanced data set from the MNIST files below `data_dir`; the same seed, the same images."""
    train_images, train_labels, test_images, test_labels = (read_idx(data_dir, name) for name in MNIST_MD5)
    generator = torch.Generator().manual_seed(seed)
    training = draw_balanced(train_labels, TRAINING_PER_DIGIT, generator)
    validation = draw_balanced(test_labels, VALIDATION_PER_DIGIT, generator)
    splits = (train_images[training], test_images[validation], test_images)
    return Data(*(subsample_and_binarize(images).to(device) for images in splits))


def draw_balanced(labels, per_digit, generator):
    """Indices of `per_digit` images of each digit, without replacement, by digit: (10 * per_digit,)."""
    by_digit = (np.flatnonzero(labels == digit) for digit in range(10))
    chosen = [i[torch.randperm(len(i), generator=generator)[:per_digit].numpy()] for i in by_digit]
    return np.concatenate(chosen)


def subsample_and_binarize(images):
    """Every second row and column, then `pixel > 128`: (n, 28, 28) uint8 -> (n, 196) float32 of 0 and 1.

    Sub-sampling selects pixels and binarizing acts on each pixel alone, so their order does not matter.
    """
    return torch.from_numpy(images[:, ::2, ::2] > 128).flatten(1).float()


def read_idx(data_dir, name):
    """One MNIST file, downloaded if missing or damaged, as uint8: (n, 28, 28) images or (n,) labels.

    It is read from the .gz in memory, after its md5 sum, so that no extracted file can be stale or cut short.
    """
    path = data_dir / "MNIST" / "raw" / name
    packed = path.read_bytes() if path.is_file() else b""
    if hashlib.md5(packed, usedforsecurity=False).hexdigest() != MNIST_MD5[name]:
        download_mnist(path.parent)
        packed = path.read_bytes()
    array = np.frombuffer(gzip.decompress(packed), np.uint8, offset=16 if "images" in name else 8)
    return array.reshape(-1, 28, 28) if "images" in name else array


def download_mnist(raw):
    """Let torchvision download and verify the four MNIST files, and move them to folder `raw`; or exit."""
    say(f"Downloading MNIST (12 MB) to {raw}")
    try:
        from torchvision.datasets import MNIST

        raw.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=raw) as folder:
            MNIST(folder, download=True)
            for name in MNIST_MD5:
                Path(folder, "MNIST", "raw", name).replace(raw / name)
    except Exception as error:  # no network, no right to write, a torchvision that does not fit torch, ...
        names, reason = ", ".join(MNIST_MD5), " ".join(str(error).split())
        advice = f"copy {names} there, or name with --data-dir a folder that has them in MNIST/raw"
        sys.exit(f"error: MNIST is missing or damaged in {raw} and cannot be downloaded ({reason}); {advice}")


# ---- (ii) Model, objective and training ---------------------------------------------------------


class VAE(nn.Module):
    """Encoder p_u(z|x) and decoder p_v(x|z), each with one tanh layer (paper, Appendices C.1 and C.2)."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(PIXELS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 2 * LATENT))
        self.decoder = nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, PIXELS))

    def encode(self, x):
        """Mean and log variance of p_u(z|x): (B, 196) -> (B, 8), (B, 8).

        The layer has no nonlinearity, but a standard deviation is positive: hence log sigma^2 (Appendix C.2).
        """
        return self.encoder(x).chunk(2, dim=-1)

    def decode(self, z):
        """The decoder's output y, the probability that each pixel is 1: (..., 8) -> (..., 196).

        `decoder` alone gives the logits before the sigmoid, for a stable log-likelihood.
        """
        return torch.sigmoid(self.decoder(z))


def reparameterize(mean, log_variance, samples, generator=None):
    """z = mean + sigma * epsilon with epsilon ~ N(0, I): two (B, 8) -> (S, B, 8) (paper, Section 2.4)."""
    epsilon = torch.randn(samples, *mean.shape, generator=generator, device=mean.device)
    return mean + torch.exp(0.5 * log_variance) * epsilon


def bernoulli_log_likelihood(x, logits):
    """log p_v(x|z) = sum_i x_i log y_i + (1 - x_i) log(1 - y_i): x (B, 196), logits (S, B, 196) -> (S, B).

    With y = sigmoid(logits) the summand is log sigmoid(logit) for x_i = 1, log sigmoid(-logit) for x_i = 0.
    logsigmoid is finite where log(sigmoid) is -inf, as the sigmoid rounds to 0 or 1 (paper, Appendix C.1).
    """
    return F.logsigmoid((2 * x - 1) * logits).sum(dim=-1)


def gaussian_kl(mean, log_variance):
    """KL(N(mean, sigma^2 I) || N(0, I)) of every latent: two (B, 8) -> (B, 8) (after Eq. (1); Appendix B)."""
    return -0.5 * (1 + log_variance - mean * mean - log_variance.exp())


def elbo_terms(model, x, generator=None, samples=SAMPLES):
    """First term of Eq. (1), and the KL that it subtracts: means over x (B, 196), in nats per image."""
    mean, log_variance = model.encode(x)
    z = reparameterize(mean, log_variance, samples, generator)
    reconstruction = bernoulli_log_likelihood(x, model.decoder(z))
    return reconstruction.mean(), gaussian_kl(mean, log_variance).sum(dim=-1).mean()


@torch.no_grad()
def log_marginal_likelihood(model, x, samples, generator=None):
    """Importance-weighted estimate of log p_v(x) in nats: (B, 196) -> (B,).

    The mean of p_v(x|z) p(z) / p_u(z|x) over z ~ p_u(z|x): the quantity of the paper's Appendix D, by the
    estimator of Burda, Grosse & Salakhutdinov (arXiv:1509.00519, Eq. (8)), a lower bound in expectation.
    """
    mean, log_variance = model.encode(x)
    log_weights = []
    for size in [100] * (samples // 100) + [samples % 100]:  # in pieces, to bound the memory
        z = reparameterize(mean, log_variance, size, generator)
        log_ratio = 0.5 * (log_variance + (z - mean).square() / log_variance.exp() - z.square()).sum(dim=-1)
        log_weights.append(bernoulli_log_likelihood(x, model.decoder(z)) + log_ratio)
    return torch.logsumexp(torch.cat(log_weights), dim=0) - math.log(samples)


def minibatches(images, size, generator):
    """Mini-batches (size, 196) without end: every epoch a fresh permutation, whose remainder is left out."""
    while True:
        order = torch.randperm(len(images), generator=generator, device=images.device)
        for indices in order.split(size):
            if len(indices) == size:  # the few images of a smaller one would weigh as much as a whole one
                yield images[indices]


def train(model, data, log, settings):
    """Maximize Eq. (1) on `data.training` over the weights of `model`, one update for each row of `log`.

    Row t - 1 of `log` (updates, 3) takes both terms of Eq. (1) on the mini-batch of update t before its step,
    and after every 100th update log p(x|z) of the validation images. A generator, which then yields t.
    `settings` has batch_size, learning_rate, weight_decay and seed.
    """
    # Two generators, so that validating does not change the training.
    noise, validation_noise = (torch.Generator(log.device).manual_seed(settings.seed) for _ in range(2))
    first, *others = model.parameters()  # without decay the first matrix, of the encoder, over-fits
    groups = [{"params": first, "weight_decay": settings.weight_decay}, {"params": others}]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, weight_decay=0, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=len(log))  # down to 0
    for update, x in zip(range(1, len(log) + 1), minibatches(data.training, settings.batch_size, noise)):
        reconstruction, kl = elbo_terms(model, x, noise)
        optimizer.zero_grad()
        (kl - reconstruction).backward()  # minus the ELBO
        optimizer.step()
        schedule.step()
        log[update - 1, :2] = torch.stack((reconstruction, kl)).detach()
        if update % VALIDATION_EVERY == 0:
            with torch.no_grad():
                log[update - 1, 2] = elbo_terms(model, data.validation, validation_noise)[0]
            yield update


def train_and_report(model, data, settings):
    """train() with lines of progress, to its end or to Ctrl-C; returns the log as an array (updates done, 3).

    Raises KeyboardInterrupt before the first update; exits where training diverges.
    """
    updates = settings.updates
    log = torch.full((updates, 3), math.nan, device=data.training.device)
    start, every = time.perf_counter(), max(1, updates // 1000) * VALIDATION_EVERY
    with contextlib.suppress(KeyboardInterrupt):
        for update in train(model, data, log, settings):
            latest = log[update - VALIDATION_EVERY : update].cpu().nanmean(dim=0)
            if not latest.isfinite().all():
                break
            if update % every == 0:
                left = (time.perf_counter() - start) * (updates - update) / update
                terms = "reconstruction {:7.2f}   KL {:6.2f}   validation {:7.2f}".format(*latest.tolist())
                say(f"update {update:6d}/{updates}   {terms}   {left:4.0f} s left")
    log = log.cpu().numpy()
    done = int(np.isfinite(log[:, :2]).all(axis=1).cumprod().sum())  # rows before the first not finite
    if done == 0:
        raise KeyboardInterrupt
    if not math.isfinite(evaluate(model, data.validation, settings.seed)["elbo"]):
        sys.exit(f"error: training diverged at update {min(done + 1, updates)}; lower the --learning-rate")
    return log[:done]


@torch.no_grad()
def evaluate(model, images, seed, samples=ELBO_SAMPLES):
    """Both terms of Eq. (1) and the ELBO, their difference, as means over all images (n, 196)."""
    generator = torch.Generator(images.device).manual_seed(seed)
    sums = sum(len(x) * torch.stack(elbo_terms(model, x, generator, samples)) for x in images.split(500))
    reconstruction, kl = (sums / len(images)).tolist()
    return {"images": len(images), "reconstruction": reconstruction, "kl": kl, "elbo": reconstruction - kl}


@torch.no_grad()
def reconstruct(model, images):
    """(iv) The decoder's output for z = the mean of p_u(z|x), pixel probabilities: (n, 196) -> (n, 196)."""
    return model.decode(model.encode(images)[0])


@torch.no_grad()
def sample(model, number, generator):
    """(v) The decoder's output for z ~ N(0, I), in one forward pass, pixel probabilities: (number, 196)."""
    z = torch.randn(number, LATENT, generator=generator)  # drawn on the CPU: the same on every device
    return model.decode(z.to(next(model.parameters()).device))


def typical_images(validation):
    """(iv) Of each digit from 0 to 7, the validation image with the median amount of ink: (8, 196)."""
    by_digit = validation.view(10, VALIDATION_PER_DIGIT, PIXELS)[:8]
    middle = VALIDATION_PER_DIGIT // 2
    return torch.stack([images[images.sum(dim=1).argsort(stable=True)[middle]] for images in by_digit])


# ---- (i), (iii) to (vi) Figures -----------------------------------------------------------------

BLUE, ORANGE, PALE = "#0072B2", "#D55E00", "#9CC9E8"  # told apart by the colour-blind and in grey
STYLE = {"font.size": 11, "axes.grid": True, "grid.alpha": 0.3, "figure.constrained_layout.use": True}


def draw_grids(grids, titles, layout, figsize, label="pixel probability $y_i$"):
    """A Figure with `layout` axes, each a grid of images (rows, columns, 196) in [0, 1], and a colour bar."""
    figure = Figure(figsize=figsize)
    colours = matplotlib.colormaps["gray_r"].with_extremes(bad="#C8DDEB")
    for axes, images, title in zip(np.ravel(figure.subplots(*layout)), grids, titles):
        rows, columns, _ = images.shape
        framed = np.full((rows, SIDE + 2, columns, SIDE + 2), np.nan)
        framed[:, 1:-1, :, 1:-1] = images.reshape(rows, columns, SIDE, SIDE).swapaxes(1, 2)
        # Enlarged, so that viewers that smooth images show square pixels
        sharp = np.kron(framed.reshape(rows * (SIDE + 2), columns * (SIDE + 2)), np.ones((6, 6)))
        axes.imshow(sharp, colours, vmin=0, vmax=1, interpolation="none", extent=(0, columns, rows, 0))
        axes.set(title=title, xticks=[], yticks=[])
        axes.grid(False)
    figure.colorbar(axes.images[0], ax=figure.axes, label=label, aspect=30)
    return figure


def draw_dataset(training):
    """(i) Ten images of each digit, of the training images (10000, 196), as the encoder sees them."""
    images = training.view(10, TRAINING_PER_DIGIT, PIXELS)[:, :10].cpu().numpy()
    title = "(i) Data set: 10 of the 1000 images of each digit"
    figure = draw_grids([images], [title], (1, 1), (6.4, 5.4), "pixel value $x_i$")
    figure.axes[0].set_yticks(np.arange(10) + 0.5, [f"digit {digit}" for digit in range(10)])
    return figure


def draw_reconstructions(originals, outputs):
    """(iv) Originals (8, 196), one of each digit from 0 to 7, and beside each the decoder's output for it."""
    pairs = torch.stack((originals, outputs), dim=1)[:, None].cpu().numpy()  # 8 grids: one row, two columns
    figure = draw_grids(pairs, [f"digit {digit}" for digit in range(8)], (4, 2), (6.4, 6.4))
    figure.suptitle("(iv) Validation images (left) and the decoder's outputs (right)")
    return figure


def draw_samples(outputs):
    """(v) The decoder's outputs for 64 draws of z (64, 196)."""
    title = "(v) Decoder's outputs for 64 samples $z \\sim N(0, I)$"
    return draw_grids([outputs.view(8, 8, PIXELS).cpu().numpy()], [title], (1, 1), (6.4, 5.8))


def draw_curves(title, height, panels):
    """A Figure with a row for each panel: label, training term, validation or None, values for every update.

    The axes at the left have the steep first 5 % of the updates, those at the right the rest.
    """
    figure = Figure(figsize=(6.4, height))
    figure.suptitle(title)
    grid = figure.subplots(len(panels), 2, squeeze=False, width_ratios=(1, 3))
    for row, (label, training, validation) in zip(grid, panels):
        updates, steep = np.arange(1, len(training) + 1), len(training) // 20
        mean = np.convolve(training, np.full(100, 0.01))[: len(training)]
        mean[: steep + 99] = np.nan  # of fewer than 100 values, or reaching into the steep part
        for axes, part, size in zip(row, (slice(steep), slice(steep, None)), (3, 1.5)):
            x = updates[part]
            axes.plot(x, training[part], ".", markersize=size, color=PALE, label="training mini-batch")
            axes.plot(x, mean[part], color=BLUE, label="mean over the last 100 mini-batches")
            if validation is not None:
                axes.plot(x, validation[part], ".", markersize=4, color=ORANGE, label="100 validation images")
        row[0].set(xlabel=f"first {steep} updates", ylabel=label)
        row[1].set(xlabel="number of weight updates")
    figure.legend(*row[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, markerscale=2)
    return figure


def draw_elbo_terms(log):
    """(iii) First and second term of Eq. (1) against the number of weight updates."""
    first = r"first term: $\mathbb{E}_{z\sim p_u(z|x)}[\log p_v(x|z)]$"
    second = r"second term: $\mathrm{KL}(p_u(z|x)\,\|\,N(0, I))$"
    panels = [(first, log[:, 0], None), (second, log[:, 1], None)]
    return draw_curves("(iii) The two terms of the ELBO, in nats per image", 7.6, panels)


def draw_log_likelihood(log):
    """(vi) The reconstruction term on training mini-batches and the validation log-likelihood."""
    panels = [(r"$\log p_v(x|z)$ (nats per image)", log[:, 0], log[:, 2])]
    return draw_curves("(vi) Training and validation log-likelihood", 4.8, panels)


# ---- Files and command line ---------------------------------------------------------------------


@contextlib.contextmanager
def files_of_one_run(folder):
    """A hidden folder in `folder`, whose files move up together at the end; exits where it cannot write."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=folder) as hidden:
            yield Path(hidden)
            for path in Path(hidden).iterdir():
                path.replace(folder / path.name)
    except OSError as error:
        sys.exit(f"error: cannot write to {folder} ({error}); name another folder with --output-dir")


def say(line):
    """Print a line at once. A reader that has gone (`| head`) or a full disk must not stop the training."""
    try:
        print(line, flush=True)
    except OSError:
        sys.stdout = None  # print() then does nothing


def evaluate_and_print(model, data, seed):
    """The results of metrics.json, in nats per image; prints the table of them too."""
    results = {name: evaluate(model, images, seed) for name, images in data._asdict().items()}
    say(f"\n{'nats per image':24s}{'reconstruction':>16s}{'KL':>8s}{'ELBO':>9s}")
    for name, row in results.items():
        say("{images:6d} {0:17s}{reconstruction:16.2f}{kl:8.2f}{elbo:9.2f}".format(name + " images", **row))
    log_p = log_marginal_likelihood(model, data.validation, IMPORTANCE_SAMPLES).mean().item()
    say(f"log p(x) of the validation images: {log_p:.2f}")
    kl = gaussian_kl(*model.encode(data.validation)).mean(dim=0).tolist()
    return {**results, "validation_log_marginal_likelihood": log_p, "validation_kl_per_latent": kl}


NUMBERS = {  # option: type, lowest, highest, default, help
    "updates": (int, 1, 10**7, 6000, "weight updates"),
    "batch_size": (int, 1, 10 * TRAINING_PER_DIGIT, 200, "images in a mini-batch"),
    "learning_rate": (float, 1e-9, 1e9, 0.03, "learning rate at first; it falls to 0 as a cosine"),
    "weight_decay": (float, 0, 1e9, 0.1, "decoupled weight decay of the encoder's first matrix"),
    "seed": (int, 0, 2**63 - 1, 0, "seed of data, weights, mini-batches and noise"),
    "threads": (int, 1, 1024, 1, "processor threads; 2 are faster only while nothing else runs"),
}


def parse_options(arguments=None):
    """The options of the command line, each with its help and default; a wrong one exits with status 2."""
    here = Path(__file__).resolve().parent
    plots = here / "figures" if (here / "figures").is_dir() else here
    cuda = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    devices = ["cuda"] * bool(cuda) + cuda + ["mps"] * torch.backends.mps.is_available() + ["cpu"]
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    for name, (kind, _, _, default, text) in NUMBERS.items():
        add("--" + name.replace("_", "-"), type=kind, default=default, metavar="N", help=text)
    add("--device", choices=["auto", *devices], default="cpu", help="auto is the first of the others")
    add("--data-dir", type=Path, default=here / "data", metavar="DIR", help="folder of MNIST/raw/*.gz")
    add("--output-dir", type=Path, default=plots, metavar="DIR", help="folder for the plots and files")
    options = parser.parse_args(arguments)
    for name, (_, low, high, _, _) in NUMBERS.items():
        if not low <= vars(options)[name] <= high:
            parser.error(f"argument --{name.replace('_', '-')}: must be from {low} to {high}")
    options.device = devices[0] if options.device == "auto" else options.device
    return options


def main(arguments=None):
    """Do the homework in the order of the handout; returns the exit status, 130 where Ctrl-C cut it short."""
    start = time.perf_counter()
    if hasattr(sys.stdout, "reconfigure"):  # not so in a notebook
        sys.stdout.reconfigure(errors="backslashreplace")  # for a folder whose name it cannot show
    options = parse_options(arguments)
    torch.set_num_threads(options.threads)
    data = make_data(options.data_dir, options.seed, options.device)  # (i)
    with files_of_one_run(options.output_dir) as folder, matplotlib.style.context(["default", STYLE]):
        torch.manual_seed(options.seed)  # for the initial weights, drawn on the CPU: the same on every device
        model = VAE().to(options.device)
        log = train_and_report(model, data, options)  # (ii)

        originals = typical_images(data.validation)
        samples = sample(model, 64, torch.Generator().manual_seed(options.seed))
        figures = {
            "problem1_i_dataset": draw_dataset(data.training),
            "problem1_iii_elbo_terms": draw_elbo_terms(log),
            "problem1_iv_reconstructions": draw_reconstructions(originals, reconstruct(model, originals)),
            "problem1_v_samples": draw_samples(samples),
            "problem1_vi_log_likelihood": draw_log_likelihood(log),
        }
        for name, figure in figures.items():  # undated, so that the same run gives the same bytes
            figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None})

        rows = [f"{t},{a:.6f},{b:.6f},{c:.6f}".removesuffix("nan") for t, (a, b, c) in enumerate(log, 1)]
        rows.insert(0, "update,reconstruction,kl,validation_reconstruction")
        (folder / "training_log.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
        weights = io.BytesIO()  # torch.save() to a file makes a RuntimeError of a full disk
        torch.save({name: weight.cpu() for name, weight in model.state_dict().items()}, weights)
        (folder / "vae.pt").write_bytes(weights.getvalue())
        metrics = {
            "settings": {name: vars(options)[name] for name in (*NUMBERS, "device")},
            "updates_done": len(log),
            "results": evaluate_and_print(model, data, options.seed),
            "seconds": round(time.perf_counter() - start, 1),
            "versions": {"python": sys.version.split()[0], "torch": torch.__version__},
        }
        (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")

    say(f"Five plots, training_log.csv, vae.pt and metrics.json are in {options.output_dir}")
    if len(log) < options.updates:
        say(f"CUT SHORT: interrupted after update {len(log)}")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
