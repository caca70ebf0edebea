#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["torch>=2.4", "torchvision>=0.19", "numpy>=1.26", "matplotlib>=3.8"]
# ///
"""ESE 546, Homework 5, Problem 1: a variational auto-encoder for binarized 14x14 MNIST.

    python pennkey_hw5_problem1.py           makes the data, trains, saves every plot
    python pennkey_hw5_problem1.py --help    lists the options

The file reads in the order of the handout: (i) data, (ii) model, objective and training,
(iii) to (vi) figures, then files and the command line. "Eq. (1)" is the handout's; "paper" is
Kingma & Welling, Auto-Encoding Variational Bayes, arXiv:1312.6114. Log-likelihoods, KL and ELBO
are in nats per image. In shapes, B is a number of images and S a number of samples of z.
"""

import time

START = time.perf_counter()  # before the imports, which take seconds of their own

import argparse
import contextlib
import gzip
import hashlib
import io
import json
import math
import os
import platform
import shutil
import socket
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":
    os.environ.pop("MPLBACKEND", None)  # drawing opens no window; the name of a backend that is missing must not matter
try:
    import matplotlib.style
    import numpy as np
    import torch
    import torch.nn.functional as F
    from matplotlib.figure import Figure
    from torch import nn
except (Exception, KeyboardInterrupt) as error:
    if __name__ != "__main__":
        raise
    interrupted = isinstance(error, KeyboardInterrupt)
    install = "is a package missing or broken? pip install --upgrade torch torchvision numpy matplotlib"
    print("stopped: interrupted" if interrupted else f"error: {error}; {install}", file=sys.stderr)
    sys.exit(130 if interrupted else 1)

# What the handout fixes.
SIDE, PIXELS, HIDDEN, LATENT = 14, 14 * 14, 128, 8
TRAINING_PER_DIGIT, VALIDATION_PER_DIGIT = 1000, 10
SAMPLES = 2  # of z ~ p_u(z|x) for every expectation
VALIDATION_EVERY = 100  # weight updates

# How exactly the results are estimated. It costs seconds and touches neither training nor plots.
ELBO_SAMPLES, IMPORTANCE_SAMPLES = 16, 1000


class Failure(Exception):
    """An expected failure, told in one sentence that says what to do."""


# ---- (i) The data set ---------------------------------------------------------------------------

MNIST_MD5 = {  # as in torchvision.datasets.MNIST, which is imported only to download: it takes seconds
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}


class Data(NamedTuple):
    """Binarized images, (B, 196) float32 of 0 and 1. Training and validation are ordered by digit."""

    training: torch.Tensor  # (10000, 196), 1000 of each digit
    validation: torch.Tensor  # (100, 196), 10 of each digit, from the test split
    test: torch.Tensor  # (10000, 196), the whole test split, the validation images among them


def make_data(data_dir, seed, device="cpu"):
    """Draw the balanced data set from the four MNIST files below `data_dir`; the same seed draws the same images.

    Raises Failure where a file is missing and cannot be downloaded.
    """
    train_images, train_labels, test_images, test_labels = (read_idx(data_dir, name) for name in MNIST_MD5)
    generator = torch.Generator().manual_seed(seed)
    training = draw_balanced(train_labels, TRAINING_PER_DIGIT, generator)
    validation = draw_balanced(test_labels, VALIDATION_PER_DIGIT, generator)
    splits = (train_images[training], test_images[validation], test_images)
    return Data(*(subsample_and_binarize(images).to(device) for images in splits))


def read_idx(data_dir, name):
    """One MNIST file as an array of uint8: (n, 28, 28) images or (n,) labels.

    It is read from the .gz in memory, after its md5 sum, so that no extracted file can be stale or cut short.
    """
    path = data_dir / "MNIST" / "raw" / name
    packed = path.read_bytes() if path.is_file() else b""
    if hashlib.md5(packed, usedforsecurity=False).hexdigest() != MNIST_MD5[name]:
        packed = download(path)
    unpacked = gzip.decompress(packed)
    dimensions = unpacked[3]  # the header: two zeros, the type, the number of dimensions, each size
    shape = np.frombuffer(unpacked, ">u4", dimensions, offset=4)
    return np.frombuffer(unpacked, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def draw_balanced(labels, per_digit, generator):
    """Indices of `per_digit` images of every digit, drawn without replacement: (10 * per_digit,), ordered by digit."""
    by_digit = (np.flatnonzero(labels == digit) for digit in range(10))
    return np.concatenate([i[torch.randperm(len(i), generator=generator)[:per_digit].numpy()] for i in by_digit])


def subsample_and_binarize(images):
    """Every second row and column, then `pixel > 128`: (n, 28, 28) uint8 -> (n, 196) float32 of 0 and 1.

    Sub-sampling selects pixels and binarizing acts on each pixel alone, so their order does not matter.
    """
    return torch.from_numpy(images[:, ::2, ::2] > 128).flatten(1).float()


# ---- (ii) Model and objective -------------------------------------------------------------------


class VAE(nn.Module):
    """Encoder p_u(z|x) and decoder p_v(x|z), each with one hidden layer of tanh (paper, Appendices C.1 and C.2)."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(PIXELS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 2 * LATENT))
        self.decoder = nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, PIXELS))

    def encode(self, x):
        """Mean and log variance of p_u(z|x): (B, 196) -> (B, 8), (B, 8).

        The layer has no nonlinearity and a standard deviation must be positive: hence log sigma^2 (Appendix C.2).
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
    """log p_v(x|z) = sum_i x_i log y_i + (1 - x_i) log(1 - y_i), y = sigmoid(logits): (B, 196), (S, B, 196) -> (S, B).

    For x_i = 1 the summand is log sigmoid(logit), for x_i = 0 it is log(1 - sigmoid(logit)) = log sigmoid(-logit).
    logsigmoid is finite where log(sigmoid) is -inf, as the sigmoid rounds to 0 or 1 (paper, Appendix C.1).
    """
    return F.logsigmoid((2 * x - 1) * logits).sum(dim=-1)


def gaussian_kl(mean, log_variance):
    """KL(N(mean, sigma^2 I) || N(0, I)) of every latent: two (B, 8) -> (B, 8) (handout after Eq. (1); Appendix B)."""
    return -0.5 * (1 + log_variance - mean * mean - log_variance.exp())


def elbo_terms(model, x, generator=None, samples=SAMPLES):
    """First term of Eq. (1), and the KL that it subtracts: means over the images x (B, 196), in nats per image."""
    mean, log_variance = model.encode(x)
    z = reparameterize(mean, log_variance, samples, generator)
    reconstruction = bernoulli_log_likelihood(x, model.decoder(z))
    return reconstruction.mean(), gaussian_kl(mean, log_variance).sum(dim=-1).mean()


@torch.no_grad()
def log_marginal_likelihood(model, x, samples, generator=None):
    """Importance-weighted estimate of log p_v(x) in nats: (B, 196) -> (B,).

    The mean over z ~ p_u(z|x) of p_v(x|z) p(z) / p_u(z|x): the quantity of the paper's Appendix D, by the estimator
    of Burda, Grosse & Salakhutdinov (arXiv:1509.00519, Eq. (8)), which is a lower bound in expectation.
    """
    mean, log_variance = model.encode(x)
    log_weights = []
    for size in [100] * (samples // 100) + [samples % 100]:  # in pieces, to bound the memory
        z = reparameterize(mean, log_variance, size, generator)
        log_ratio = 0.5 * (log_variance + (z - mean).square() / log_variance.exp() - z.square()).sum(dim=-1)
        log_weights.append(bernoulli_log_likelihood(x, model.decoder(z)) + log_ratio)
    return torch.logsumexp(torch.cat(log_weights), dim=0) - math.log(samples)


# ---- (ii) Training ------------------------------------------------------------------------------


class Optimizer:
    """Adam (arXiv:1412.6980, Algorithm 1), but whitened steps for the two large matrices; weight decay of the first.

    The first matrix of the encoder and the last of the decoder have 196 weights for each of 128 hidden units. With G
    the gradient of such a matrix (128, 196), M its running mean and C that of G G^T, the step is sqrt(196) C^(-1/2) M
    (ASGO, arXiv:2503.20762; also called one-sided Shampoo): hidden units that would all learn the same are told apart,
    and pixels that are seldom on take no larger steps than others. It takes less than half of the updates of Adam.

    The model must not move to another device, nor set its gradients to None, once this has been made.
    """

    def __init__(self, model, weight_decay, betas=(0.95, 0.99), eps=1e-8):
        self.weight_decay, self.betas, self.eps, self.steps = weight_decay, betas, eps, 0
        first, last = model.encoder[0].weight, model.decoder[-1].weight
        rest = [p for p in model.parameters() if p is not first and p is not last]
        self.matrices = torch.stack((first, last.T)).detach()  # (2, 128, 196)
        self.vector = nn.utils.parameters_to_vector(rest).detach()
        self.matrices_gradient, self.matrices_mean = torch.zeros_like(self.matrices), torch.zeros_like(self.matrices)
        self.vector_gradient, self.vector_mean, self.vector_square = (torch.zeros_like(self.vector) for _ in range(3))

        def views(matrices, vector):
            parts = vector.split([p.numel() for p in rest])
            return [matrices[0], matrices[1].T, *(part.view_as(p) for part, p in zip(parts, rest))]

        # Weights and gradients of the model become views of these tensors, so that a step is few operations.
        weights, gradients = views(self.matrices, self.vector), views(self.matrices_gradient, self.vector_gradient)
        for p, weight, gradient in zip((first, last, *rest), weights, gradients):
            p.data, p.grad = weight, gradient

    def step(self, learning_rate):
        """Move the weights against the gradients that backward() has added up, and set these to zero again."""
        self.steps += 1
        beta1, beta2 = self.betas
        rate = learning_rate / (1 - beta1**self.steps)
        if self.steps % 10 == 1:  # often enough, at a tenth of the cost
            self.update_whitening()
        self.matrices_mean.lerp_(self.matrices_gradient, 1 - beta1)
        self.matrices[0].mul_(1 - learning_rate * self.weight_decay)
        self.matrices.baddbmm_(self.whitening, self.matrices_mean, alpha=-rate)

        self.vector_mean.lerp_(self.vector_gradient, 1 - beta1)
        self.vector_square.lerp_(self.vector_gradient.square(), 1 - beta2)
        deviation = (self.vector_square / (1 - beta2**self.steps)).sqrt() + self.eps
        self.vector.addcdiv_(self.vector_mean, deviation, value=-rate / 2)  # at the whole rate, latents can die early

        self.matrices_gradient.zero_()
        self.vector_gradient.zero_()

    def update_whitening(self):
        """Take this step's gradients into C, and compute sqrt(196) C^(-1/2), both (2, 128, 128)."""
        gradient = self.matrices_gradient.cpu()  # eigh is missing on MPS, and slow on CUDA for matrices so small
        gram = gradient @ gradient.mT
        if self.steps == 1:  # at first a multiple of I, as one gradient says too little about 128 directions
            scale = gram.diagonal(dim1=1, dim2=2).mean(dim=1)
            self.gram_mean = scale[:, None, None] * torch.eye(HIDDEN, dtype=gram.dtype)
        self.gram_mean.lerp_(gram, 0.2)
        if self.gram_mean.isfinite().all():  # else training has diverged, which train() finds
            values, vectors = torch.linalg.eigh(self.gram_mean)
            # Damped, so that a direction that has had no gradient does not get a huge step.
            damped = values + 1e-3 * values.mean(dim=1, keepdim=True) + self.eps**2
            self.whitening = (vectors * (PIXELS / damped).sqrt()[:, None] @ vectors.mT).to(self.matrices.device)


class Log(NamedTuple):
    """What training logged, in nats per image: entry t - 1 of a term is that of update t, before its step."""

    reconstruction: np.ndarray  # (updates,), first term of Eq. (1)
    kl: np.ndarray  # (updates,), second term
    validation: np.ndarray  # (updates // 100,), log p(x|z) after updates 100, 200, ...
    stopped: BaseException | None  # what ended training early: KeyboardInterrupt, or Failure where it diverged


@torch.no_grad()
def start_at_mean_image(model, images):
    """Start the decoder near the mean of `images` (n, 196), whatever z, so that training is about what differs."""
    model.decoder[-1].bias.copy_(images.mean(dim=0).clamp(0.001, 0.999).logit())


def minibatches(images, size, generator):
    """Mini-batches (size, 196) without end: every epoch a fresh permutation, its last batch the smaller remainder."""
    while True:
        order = torch.randperm(len(images), generator=generator, device=images.device)
        for indices in order.split(size):
            yield images.index_select(0, indices)


def train(model, data, *, updates, batch_size, learning_rate, weight_decay, seed, progress=None):
    """Maximize Eq. (1) on `data.training` over the weights of `model`; returns the Log.

    `progress(update, reconstruction, kl, validation)` is called after every 100th update and the last one: means of the
    terms over the latest 100 updates, and the latest validation, None before update 100. Ctrl-C or a value that is not
    finite ends training early: the Log then holds what came before, and `stopped` says why.
    """
    # The same seed for both: each is a stream of its own, and they are never compared.
    noise, validation_noise = (torch.Generator(data.training.device).manual_seed(seed) for _ in range(2))
    optimizer = Optimizer(model, weight_decay)
    start_at_mean_image(model, data.training)
    # One tensor for all values: many small ones that stay would keep the memory of the steps from being used again.
    terms = torch.empty(updates, 2, device=data.training.device)
    validation, done, stopped = [], 0, None
    try:
        for update, x in zip(range(1, updates + 1), minibatches(data.training, batch_size, noise)):
            reconstruction, kl = elbo_terms(model, x, noise)
            (kl - reconstruction).backward()
            # Up in the first 5 %, while early steps mislead; down in the last half, which averages out their noise.
            elapsed = update / (updates + 1)
            optimizer.step(learning_rate * min(1, 20 * elapsed, 2 * (1 - elapsed)))
            terms[update - 1] = torch.stack((reconstruction.detach(), kl.detach()))
            done = update

            if update % VALIDATION_EVERY == 0:
                with torch.no_grad():  # noise of its own: validating never changes training
                    validation.append(elbo_terms(model, data.validation, validation_noise)[0])
            if update % VALIDATION_EVERY == 0 or update == updates:  # besides eigh, only this waits for the device
                latest = terms[max(0, update - VALIDATION_EVERY) : update]
                if not (latest.isfinite().all() and all(p.isfinite().all() for p in model.parameters())):
                    stopped = Failure(f"update {update} left weights that are not finite")
                    break
                if progress:
                    progress(update, *latest.mean(dim=0).tolist(), validation[-1].item() if validation else None)
    except KeyboardInterrupt:
        if done == 0:
            raise
        stopped = KeyboardInterrupt(f"interrupted after update {done}")

    terms = terms[:done].cpu().numpy()
    finite = np.isfinite(terms).all(axis=1)
    if not finite.all():
        terms = terms[: finite.argmin()]
        stopped = Failure(f"update {len(terms) + 1} gave a value that is not finite")
    validation = [value.item() for value in validation[: len(terms) // VALIDATION_EVERY]]
    return Log(*terms.T, np.array(validation), stopped)


@torch.no_grad()
def evaluate(model, images, seed, samples=ELBO_SAMPLES):
    """Both terms of Eq. (1) and their difference, the ELBO, as means over all images (n, 196) with `samples` of z."""
    generator = torch.Generator(images.device).manual_seed(seed)
    sums = sum(len(x) * torch.stack(elbo_terms(model, x, generator, samples)) for x in images.split(500))
    reconstruction, kl = (sums / len(images)).tolist()
    return {"images": len(images), "reconstruction": reconstruction, "kl": kl, "elbo": reconstruction - kl}


@torch.no_grad()
def reconstruct(model, images):
    """(iv) The decoder's output for z = the mean of p_u(z|x): (n, 196) -> (n, 196), probabilities of the pixels."""
    return model.decode(model.encode(images)[0])


@torch.no_grad()
def sample(model, number, generator):
    """(v) The decoder's output for z ~ N(0, I), all in one forward pass: (number, 196), probabilities of the pixels."""
    z = torch.randn(number, LATENT, generator=generator)  # drawn on the CPU: the same on every device
    return model.decode(z.to(next(model.parameters()).device))


# ---- (i), (iii) to (vi) Figures -----------------------------------------------------------------

BLUE, ORANGE, PALE = "#0072B2", "#D55E00", "#9CC9E8"  # told apart by the colour-blind and in grey
STYLE = {
    "font.size": 11,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "figure.constrained_layout.use": True,
}


def mosaic(images, title, figsize, label="pixel probability $y_i$", ticks=None):
    """A Figure, and its axes, with a grid of images (rows, columns, 14, 14), values in [0, 1], and a colour bar."""
    figure = Figure(figsize=figsize)
    axes = figure.subplots()
    rows, columns = images.shape[:2]
    framed = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=np.nan)
    grid = framed.transpose(0, 2, 1, 3).reshape(rows * (SIDE + 2), columns * (SIDE + 2))
    sharp = np.kron(grid, np.ones((6, 6)))  # viewers that smooth an enlarged image still show square pixels
    colours = matplotlib.colormaps["gray_r"].with_extremes(bad="#C8DDEB")
    picture = axes.imshow(sharp, cmap=colours, vmin=0, vmax=1, interpolation="none", extent=(0, columns, rows, 0))
    axes.set(title=title, xticks=[], yticks=[])
    axes.tick_params(length=0)
    axes.grid(False)
    figure.colorbar(picture, label=label, ticks=ticks, aspect=30, pad=0.03)
    return figure, axes


def draw_dataset(data):
    """(i) Ten images of each digit, as the encoder sees them."""
    images = data.training.reshape(10, TRAINING_PER_DIGIT, SIDE, SIDE)[:, :10].cpu().numpy()
    title = "(i) Data set: 10 of the 1000 images of each digit"
    figure, axes = mosaic(images, title, (6.4, 5.4), "pixel value $x_i$", ticks=[0, 1])
    axes.set_yticks(np.arange(10) + 0.5, [f"digit {digit}" for digit in range(10)])
    return figure


def running_mean(values, window=100):
    """The update in the middle of each `window` successive values (of all, where there are fewer), and their mean."""
    window = min(window, len(values))
    sums = np.cumsum(np.concatenate(([0.0], values)))
    return np.arange(len(values) - window + 1) + (window + 1) / 2, (sums[window:] - sums[:-window]) / window


def draw_curves(axes, curves, **labels):
    """Draw curves (x, y, style); the steep first 5 % of the updates have an inset, so that the axes show the tail."""
    for x, y, style in curves:
        axes.plot(x, y, **style)
    updates = len(curves[0][0])
    axes.set(xlim=(0, updates + 1), xlabel="number of weight updates", **labels)
    start = updates // 20
    if start:
        inset = axes.inset_axes((0.5, 0.14, 0.47, 0.3))
        for x, y, style in curves:
            inset.plot(x[x <= start], y[x <= start], **style)
        inset.set_xlim(0, start)
        inset.set_title(f"the first {start} updates", fontsize="small")
        inset.tick_params(labelsize="small")
        tail = np.concatenate([y[x > start] for x, y, _ in curves])
        margin = 0.05 * np.ptp(tail)
        axes.set_ylim(tail.min() - margin, tail.max() + margin)


def add_legend(figure, axes):
    """Name the curves of `axes` below the figure, with lines and points thick enough to tell their colours."""
    legend = figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    for line in legend.get_lines():
        line.set(linewidth=2, markersize=6)


def draw_elbo_terms(log):
    """(iii) First and second term of Eq. (1) against the number of weight updates."""
    figure = Figure(figsize=(6.4, 7.6))
    figure.suptitle("(iii) The two terms of the ELBO during training")
    updates = np.arange(1, len(log.kl) + 1)
    raw = {"color": PALE, "linewidth": 0.6, "label": "mini-batch, every update"}
    if len(updates) == 1:
        raw["marker"] = "."  # a line needs two points
    mean = {"color": BLUE, "linewidth": 1.6, "label": "running mean over 100 updates"}
    titles = [
        r"First term: $\mathbb{E}_{z\sim p_u(z|x)}[\log p_v(x|z)]$",
        r"Second term: $\mathrm{KL}(p_u(z|x)\,\|\,N(0, I))$",
    ]
    for axes, values, title in zip(figure.subplots(2), (log.reconstruction, log.kl), titles):
        curves = [(updates, values, raw), (*running_mean(values), mean)]
        draw_curves(axes, curves, title=title, ylabel="nats per image")
    add_legend(figure, axes)
    return figure


def draw_reconstructions(originals, outputs, digits):
    """(iv) Each original (8, 196) beside the decoder's output for it (8, 196), in two columns of pairs."""
    pairs = np.stack((originals, outputs), axis=1).reshape(2, 4, 2, SIDE, SIDE)  # side of the figure, row, which
    title = "(iv) Validation images and the decoder's outputs\n"
    figure, axes = mosaic(np.concatenate(pairs, axis=1), title, (6.4, 5.6))
    axes.set_xticks(np.arange(4) + 0.5, ["original", "output", "original", "output"])
    axes.set_yticks(np.arange(4) + 0.5, [f"digits {left}, {right}" for left, right in zip(digits[:4], digits[4:])])
    axes.tick_params(labeltop=True, labelbottom=False)
    axes.axvline(2, color="black", linewidth=1)
    return figure


def draw_samples(outputs):
    """(v) Images decoded from z ~ N(0, I): (64, 196)."""
    figure, axes = mosaic(outputs.reshape(8, 8, SIDE, SIDE), "(v) Samples of the generative model", (6.4, 5.6))
    axes.set_xlabel(r"decoder's output for 64 draws $z \sim N(0, I)$")
    return figure


def draw_log_likelihood(log):
    """(vi) The reconstruction term on training mini-batches and the validation log-likelihood."""
    figure = Figure(figsize=(6.4, 4.8))
    axes = figure.subplots()
    updates = np.arange(1, len(log.reconstruction) + 1)
    every_100th = VALIDATION_EVERY * np.arange(1, len(log.validation) + 1)
    point = {"linestyle": "none", "marker": ".", "markersize": 1.5, "color": PALE, "label": "training, every update"}
    joined = {"marker": ".", "markersize": 4, "linewidth": 1, "color": ORANGE, "label": "validation, every 100 updates"}
    curves = [(updates, log.reconstruction, point), (every_100th, log.validation, joined)]
    title = "(vi) Training and validation log-likelihood"
    draw_curves(axes, curves, title=title, ylabel=r"$\log p_v(x|z)$ (nats per image)")
    add_legend(figure, axes)
    return figure


# ---- Files --------------------------------------------------------------------------------------


def save(path, content, option="--output-dir"):
    """Write bytes beside `path`, then move them into place: at any moment the file is old and whole or new and whole.

    Raises Failure, which names `option`, where that cannot be done.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(content)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise Failure(f"cannot write {path} ({error.strerror}); choose another folder with {option}") from error


def download(path):
    """Download one MNIST file to `path` from torchvision's mirrors, verify it and return its bytes.

    Raises Failure where no mirror gives the right file, or where torchvision cannot be imported.
    """
    try:
        from torchvision.datasets import MNIST
        from torchvision.datasets.utils import download_url
    except (ImportError, RuntimeError) as error:
        reason = f"torch {torch.__version__} and the installed torchvision do not fit each other: {error}"
        raise Failure(f"{reason}; install both anew: pip install --upgrade torch torchvision") from error
    say(f"Downloading {path.name} to {path.parent}")
    socket.setdefaulttimeout(15)  # seconds, or a silent server would hold the program for ever
    for mirror in MNIST.mirrors:
        try:
            with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):  # no progress bars
                download_url(mirror + path.name, folder, md5=MNIST_MD5[path.name])
                packed = Path(folder, path.name).read_bytes()
        except Exception as error:  # a refusal, a time-out, a wrong md5 sum: the next mirror may do better
            reason = error
        else:
            save(path, packed, "--data-dir")
            return packed
    raise Failure(
        f"{path.name} is missing or damaged in {path.parent}, and downloading it failed ({reason}); copy the four "
        f"files {', '.join(MNIST_MD5)} into that folder, or name with --data-dir a folder that has them in MNIST/raw"
    )


def save_figure(path, draw, png):
    """Save the Figure that `draw()` gives as `path`, a PDF, and where `png` is true as a PNG beside it."""
    with matplotlib.style.context(["default", STYLE]):  # whatever the user's own matplotlibrc says
        figure = draw()
        for suffix in (".pdf", ".png") if png else (".pdf",):
            content = io.BytesIO()
            undated = {"metadata": {"CreationDate": None}} if suffix == ".pdf" else {}  # same run, same bytes
            figure.savefig(content, format=suffix[1:], dpi=110, **undated)
            save(path.with_suffix(suffix), content.getvalue())


def log_csv(log):
    """The Log as CSV: a row an update; the validation column is filled at every 100th."""
    rows = ["update,reconstruction,kl,validation_reconstruction"]
    for update, (reconstruction, kl) in enumerate(zip(log.reconstruction, log.kl), start=1):
        point, rest = divmod(update, VALIDATION_EVERY)
        validation = f"{log.validation[point - 1]:.6f}" if rest == 0 and point <= len(log.validation) else ""
        rows.append(f"{update},{reconstruction:.6f},{kl:.6f},{validation}")
    return "\n".join(rows) + "\n"


# ---- Command line -------------------------------------------------------------------------------


def number(kind, low, high):
    """An argparse type: `kind` (int or float) from `low` to `high`."""

    def parse(text):
        with contextlib.suppress(ValueError):
            if low <= kind(text) <= high:
                return kind(text)
        kind_in_words = "a whole number" if kind is int else "a number"
        raise argparse.ArgumentTypeError(f"{text!r} is not {kind_in_words} from {low:g} to {high:g}")

    return parse


def device(name):
    """An argparse type: a torch.device that is there; "auto" takes CUDA, then MPS, then CPU."""
    kinds = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    available = [kind for kind, there in kinds.items() if there]
    if name == "auto":
        name = available[0]
    if name not in available:
        raise argparse.ArgumentTypeError(f"{name!r} is not available here; choose auto or {' or '.join(available)}")
    return torch.device(name)


def parse_options(arguments=None):
    """The options of the command line, each with its help and its default."""
    here = Path(__file__).resolve().parent
    plots = here / "figures" if (here / "figures").is_dir() else here
    parser = argparse.ArgumentParser(
        description="Train a variational auto-encoder on binarized 14x14 MNIST and save every plot of the homework.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )

    def add(name, help, **more):
        parser.add_argument(name, help=help, **more)

    def add_number(name, kind, low, high, default, help):
        add(name, help, type=number(kind, low, high), default=default, metavar="N")

    add_number("--updates", int, 1, 10**7, 1250, "weight updates")
    add_number("--batch-size", int, 1, 10 * TRAINING_PER_DIGIT, 400, "images in a mini-batch")
    add_number("--learning-rate", float, 1e-9, 1e9, 0.04, "highest learning rate")
    add_number("--weight-decay", float, 0, 1e9, 0.2, "decoupled weight decay of the encoder's first matrix")
    add_number("--seed", int, 0, 2**63 - 1, 0, "seed of data, weights, mini-batches and noise")
    add_number("--threads", int, 1, 1024, 1, "processor threads; 2 are faster only while nothing else runs")
    add("--device", "auto, cuda, mps or cpu; auto takes the first of them that is there", type=device, default="auto")
    add("--data-dir", "has MNIST/raw/*.gz, or will have them", type=Path, default=here / "data", metavar="DIR")
    add("--output-dir", "takes the plots and files", type=Path, default=plots, metavar="DIR")
    add("--png", "save each plot as a PNG too", action="store_true")
    return parser.parse_args(arguments)


def say(line=""):
    """Print a line at once. A reader that has gone (`| head`) or a full disk must not stop the training."""
    try:
        print(line, flush=True)
    except OSError:
        sys.stdout = None  # print() then does nothing


def progress_printer(updates):
    """A `progress` for train(): a line after every tenth of the updates, or after every 100 where they are few."""
    start = time.perf_counter()
    every = VALIDATION_EVERY * max(1, updates // (10 * VALIDATION_EVERY))

    def progress(update, reconstruction, kl, validation):
        if update % every == 0 or update == updates:
            rate = update / (time.perf_counter() - start)
            validated = "none yet" if validation is None else f"{validation:8.2f}"
            say(
                f"update {update:6d}/{updates}   reconstruction {reconstruction:8.2f}   KL {kl:6.2f}   "
                f"validation {validated}   {rate:5.0f} updates/s   {(updates - update) / rate:4.0f} s left"
            )

    return progress


def settled(values):
    """The first update from which the running mean of `values` stays within 1 nat of its last value."""
    updates, mean = running_mean(values)
    far = np.flatnonzero(np.abs(mean - mean[-1]) > 1)
    return int(updates[far[-1] + 1] if len(far) else updates[0])


@torch.no_grad()
def results(model, data, log, seed):
    """The numbers that a reader asks for, in nats per image, as metrics.json has them."""
    generator = torch.Generator(data.validation.device).manual_seed(seed)
    log_p = log_marginal_likelihood(model, data.validation, IMPORTANCE_SAMPLES, generator)
    mean, log_variance = model.encode(data.validation)
    wrong = (reconstruct(model, data.validation) > 0.5) != data.validation.bool()
    return {
        **{name: evaluate(model, images, seed) for name, images in data._asdict().items()},
        "elbo_samples": ELBO_SAMPLES,
        "validation_log_marginal_likelihood": log_p.mean().item(),
        "importance_samples": IMPORTANCE_SAMPLES,
        "validation_kl_per_latent": gaussian_kl(mean, log_variance).mean(dim=0).tolist(),
        "validation_pixels_wrong": wrong.float().mean().item(),
        "last_training_reconstruction": float(log.reconstruction[-VALIDATION_EVERY:].mean()),
        "last_training_kl": float(log.kl[-VALIDATION_EVERY:].mean()),
        "settled_within_1_nat": {"reconstruction": settled(log.reconstruction), "kl": settled(log.kl)},
    }


class Stopwatch:
    """Seconds spent on each part of the work: a call charges the time since the last call to its part."""

    def __init__(self):
        self.seconds, self.last = {}, START

    def __call__(self, part):
        now = time.perf_counter()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self.last
        self.last = now


def run(options):
    """Do the whole homework: data, training, plots, files, and a table of the results.

    Returns the exit status; raises Failure where a file cannot be read or written, or where training diverges.
    """
    folder, seed, watch = options.output_dir, options.seed, Stopwatch()
    names = ("updates", "batch_size", "learning_rate", "weight_decay", "seed")
    settings = {name: getattr(options, name) for name in names}
    watch("imports")
    data = make_data(options.data_dir, seed, options.device)
    watch("data")
    # This plot comes before the training to show whether the folder can be written.
    save_figure(folder / "problem1_i_dataset.pdf", lambda: draw_dataset(data), options.png)
    if shutil.disk_usage(folder).free < 4e6:
        raise Failure(f"less than 4 MB are free in {folder}; choose another folder with --output-dir")
    watch("figures")

    torch.manual_seed(seed)  # for the initial weights, drawn on the CPU: the same on every device
    model = VAE().to(options.device)
    say(f"Training on {options.device}; all terms in nats per image.")
    log = train(model, data, **settings, progress=progress_printer(options.updates))
    watch("training")
    save(folder / "training_log.csv", log_csv(log).encode())
    if isinstance(log.stopped, Failure):
        raise Failure(f"{log.stopped}; training_log.csv has what came before. Choose a lower --learning-rate")

    weights = io.BytesIO()  # copies, as the weights are views of the optimizer's tensors
    torch.save({name: weight.cpu().contiguous().clone() for name, weight in model.state_dict().items()}, weights)
    save(folder / "vae.pt", weights.getvalue())
    numbers = results(model, data, log, seed)
    watch("evaluation")

    generator = torch.Generator().manual_seed(seed)
    digits = torch.randperm(10, generator=generator)[:8].sort().values
    originals = data.validation.view(10, VALIDATION_PER_DIGIT, PIXELS)[digits.to(options.device), 0]
    outputs, samples = reconstruct(model, originals), sample(model, 64, generator).cpu().numpy()
    originals, outputs = originals.cpu().numpy(), outputs.cpu().numpy()
    plots = {
        "problem1_iii_elbo_terms.pdf": lambda: draw_elbo_terms(log),
        "problem1_iv_reconstructions.pdf": lambda: draw_reconstructions(originals, outputs, digits.tolist()),
        "problem1_v_samples.pdf": lambda: draw_samples(samples),
        "problem1_vi_log_likelihood.pdf": lambda: draw_log_likelihood(log),
    }
    for name, draw in plots.items():
        save_figure(folder / name, draw, options.png)
    watch("figures")

    report = {
        "settings": {**settings, "samples": SAMPLES, "device": str(options.device)},
        "updates_done": len(log.kl),
        "stopped": str(log.stopped) if log.stopped else None,
        "results": numbers,
        "seconds": {part: round(spent, 2) for part, spent in {**watch.seconds, "total": watch.last - START}.items()},
        "parameters": {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()},
        "versions": {
            "python": platform.python_version(),
            **{module.__name__: module.__version__ for module in (torch, np, matplotlib)},
        },
        "machine": {
            "system": platform.platform(),
            "processors": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
    }
    save(folder / "metrics.json", (json.dumps(report, indent=2) + "\n").encode())

    say("\nCUT SHORT: " + report["stopped"] if log.stopped else "")
    say(f"{'nats per image':26s}{'reconstruction':>16s}{'KL':>8s}{'ELBO':>9s}{'log p(x)':>10s}")
    for name in Data._fields:
        part = numbers[name]
        log_p = f"{numbers['validation_log_marginal_likelihood']:10.2f}" if name == "validation" else ""
        row = f"{part['reconstruction']:16.2f}{part['kl']:8.2f}{part['elbo']:9.2f}{log_p}"
        say(f"{part['images']:6d} {name + ' images':19s}{row}")
    say(f"\n{watch.last - START:.1f} s in all. Written to {folder}:")
    for name in ("problem1_i_dataset.pdf", *plots, "training_log.csv", "vae.pt", "metrics.json"):
        say(f"  {name}")
    return 130 if log.stopped else 0


def main(arguments=None):
    """Run the command line and turn expected errors into one sentence each; returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not so in a notebook or IDLE
            stream.reconfigure(errors="backslashreplace")  # a path may hold what the terminal cannot show
    options = parse_options(arguments)
    torch.set_num_threads(options.threads)
    try:
        return run(options)
    except (Failure, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except RuntimeError as error:
        if options.device.type == "cpu":
            raise
        print(f"error: {options.device} failed ({error}); --device cpu always works", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        print(f"stopped: {error or 'interrupted'}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
