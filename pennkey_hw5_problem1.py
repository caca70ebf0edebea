# /// script
# requires-python = ">=3.10"
# dependencies = ["torch>=2.5", "torchvision>=0.20", "numpy>=1.26", "matplotlib>=3.8"]
# ///
"""ESE 546, Homework 5, Problem 1: a variational auto-encoder for binarized 14x14 MNIST.

The file reads in the order of the handout: (i) data, (ii) model, objective and training, (iii) to (vi)
figures, then files and command line. "Eq. (1)" is the handout's; "paper" is Kingma & Welling, Auto-Encoding
Variational Bayes, arXiv:1312.6114. Log-likelihoods, KL and ELBO are in nats per image. In shapes, B is a
number of images and S a number of samples of z. `python pennkey_hw5_problem1.py --help` lists the options.

A run takes about 20 s on one core. It ends with an ELBO of -33.5 nats per image on the training
images (first term -23.4, KL 10.1) and of -34.7 on test images.
"""

import argparse
import io
import json
import math
import shutil
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.style
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn
from torchvision.datasets import MNIST

# What the handout fixes.
SIDE, PIXELS, HIDDEN, LATENT = 14, 14 * 14, 128, 8
TRAINING_PER_DIGIT, VALIDATION_PER_DIGIT = 1000, 10
SAMPLES = 2  # of z ~ p_u(z|x), in training
VALIDATION_EVERY = 100  # weight updates
# What it leaves open; the settings of training give the best Eq. (1) over the training images within 20 s.
UPDATES, BATCH_SIZE, LEARNING_RATE = 5000, 200, 0.025
EVALUATION_SAMPLES, FINAL_SAMPLES = 16, 1000  # of z for each image; the second for the last validation


# ---- (i) The data set ---------------------------------------------------------------------------
def make_data(data_dir, device="cpu"):
    """Training (10000, 196), validation (100, 196) and test images (8820, 196), of `data_dir`.

    They are float32 of 0 and 1, equally many of each digit, ordered by digit. Training images come from
    MNIST's training split, the others from its test split, none twice. Raises OSError without such MNIST.
    """
    try:
        training_split, test_split = (MNIST(data_dir, train=train, download=True) for train in (True, False))
    except Exception as error:  # of many kinds: no network, no permission, a file cut short, ...
        advice = "run again if another run was extracting it, else delete its *-ubyte files or use --data-dir"
        raise OSError(f"no MNIST in {Path(data_dir, 'MNIST', 'raw')} ({error!r}); {advice}") from error
    training = draw_balanced(training_split, TRAINING_PER_DIGIT)
    held_out = draw_balanced(test_split, max(892, VALIDATION_PER_DIGIT + 1))  # it has 892 of its rarest digit
    validation, test = held_out[:, :VALIDATION_PER_DIGIT], held_out[:, VALIDATION_PER_DIGIT:]
    return [images.flatten(0, 1).to(device) for images in (training, validation, test)]


def draw_balanced(split, per_digit):
    """`per_digit` images of each digit, without replacement, from a split of MNIST: (10, per_digit, 196)."""
    order = torch.randperm(len(split.data))
    chosen = [order[split.targets[order] == digit][:per_digit] for digit in range(10)]
    for digit, indices in enumerate(chosen):
        if len(indices) < per_digit:
            raise OSError(f"MNIST has {len(indices)} images of digit {digit} in this split, not {per_digit}")
    return subsample_and_binarize(split.data[torch.stack(chosen)])


def subsample_and_binarize(images):
    """Every second row and column, then `pixel > 128`: (..., 28, 28) uint8 -> (..., 196) float32."""
    # Sub-sampling selects pixels and binarizing acts on each alone, so their order does not matter.
    return (images[..., ::2, ::2] > 128).flatten(-2).float()


# ---- (ii) Model, objective and training ---------------------------------------------------------
class VAE(nn.Module):
    """Encoder p_u(z|x), and decoder p_v(x|z) as logits: y is their sigmoid (paper, Appendices C.1, C.2)."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(PIXELS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 2 * LATENT))
        self.decoder = nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, PIXELS))

    def encode(self, x):
        """Mean and log variance of p_u(z|x): (B, 196) -> (B, 8), (B, 8) (Appendix C.2)."""
        # The last layer is linear, so its outputs may be negative, which a standard deviation may not.
        return self.encoder(x).chunk(2, dim=-1)


def reparameterize(mean, log_variance, epsilon):
    """z = mean + sigma * epsilon ~ N(mean, diag(sigma^2)), epsilon (S, B, 8) ~ N(0, I) (Section 2.4)."""
    return mean + torch.exp(0.5 * log_variance) * epsilon


def bernoulli_log_likelihood(x, logits):
    """log p_v(x|z) = sum_i x_i log y_i + (1 - x_i) log(1 - y_i): x (B, 196), logits (S, B, 196) -> (S, B)."""
    # The summand is log sigmoid(t), where t is the logit of what the pixel is: minus the library's
    # binary_cross_entropy_with_logits, which takes longer. Written so, no logit makes it infinite.
    t = (2 * x - 1) * logits
    return (0.5 * (t - t.abs()) + torch.log(torch.sigmoid(t.abs()))).sum(dim=-1)


def gaussian_kl(mean, log_variance):
    """KL(N(mean, diag(sigma^2)) || N(0, I)): two (B, 8) -> (B,) (handout, after Eq. (1); Appendix B)."""
    return -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(dim=-1)


def elbo_terms(model, x, samples=SAMPLES):
    """First term of Eq. (1), by `samples` of z, and the KL, for each of x (B, 196): (B,), (B,) (Eq. (7))."""
    mean, log_variance = model.encode(x)
    epsilon = torch.randn(samples, *mean.shape).to(mean.device)  # from the CPU: the same on every device
    z = reparameterize(mean, log_variance, epsilon)
    return bernoulli_log_likelihood(x, model.decoder(z)).mean(dim=0), gaussian_kl(mean, log_variance)


def train(model, training, validation, updates, batch_size, learning_rate):
    """Maximize the mean of Eq. (1) over the training images, by `updates` steps of Adam.

    Returns both terms of Eq. (1) on the mini-batch of every update, before its step: (updates, 2), and every
    100th update with the validation log-likelihood log p(x|z) after it and its standard error: (n, 3). Ctrl-C
    ends both early. Raises FloatingPointError where training diverges.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)  # fused is faster
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=updates)  # down to 0
    terms, validated, start = [], [], time.perf_counter()
    try:
        for update in range(1, updates + 1):
            x = training.index_select(0, torch.randint(len(training), (batch_size,)).to(training.device))
            reconstruction, kl = (term.mean() for term in elbo_terms(model, x))
            optimizer.zero_grad()
            (kl - reconstruction).backward()  # minus the ELBO
            optimizer.step()
            schedule.step()
            terms.append((reconstruction.item(), kl.item()))
            if update % VALIDATION_EVERY == 0:
                row = evaluate(model, validation)
                validated.append((update, row["reconstruction"], row["standard_error"]))
                first, second = np.mean(terms[-VALIDATION_EVERY:], axis=0)
                means = f"{VALIDATION_EVERY} mini-batches: reconstruction {first:.1f}, KL {second:.1f}"
                after = f"validation: {row['reconstruction']:.1f}, {time.perf_counter() - start:.0f} s"
                print(f"update {update:4d} of {updates}   mean of the last {means}   {after}", flush=True)
    except KeyboardInterrupt:
        if not terms:
            raise
        print(f"INTERRUPTED after update {len(terms)} of {updates}")
    return np.array(terms), np.array(validated).reshape(-1, 3)


@torch.no_grad()
def evaluate(model, images, samples=EVALUATION_SAMPLES):
    """Means over `images` (B, 196) of Eq. (1), its terms and a bound of log p_v(x), by `samples` of z each.

    The bound is the log of the mean of p_v(x|z) p(z) / p_u(z|x) over the samples z ~ p_u(z|x), too low on
    average, the less the more samples (Burda, Grosse & Salakhutdinov, arXiv:1509.00519, Theorem 1). The
    standard error is that of the first term over the images. Raises FloatingPointError if not all is finite.
    """
    pieces = []
    for x in images.split(max(1, 2000 // samples)):  # small pieces stay in the processor's cache
        mean, log_variance = model.encode(x)
        epsilon = torch.randn(samples, *mean.shape).to(mean.device)
        z = reparameterize(mean, log_variance, epsilon)
        log_likelihood = bernoulli_log_likelihood(x, model.decoder(z))
        log_prior_ratio = 0.5 * (log_variance + epsilon**2 - z**2).sum(dim=-1)  # log p(z) - log p_u(z|x)
        bound = torch.logsumexp(log_likelihood + log_prior_ratio, dim=0) - math.log(samples)
        pieces.append(torch.stack((log_likelihood.mean(dim=0), gaussian_kl(mean, log_variance), bound)))
    terms = torch.cat(pieces, dim=1)
    if not terms.isfinite().all():
        raise FloatingPointError("training diverged; lower the --learning-rate")
    first, kl, bound = terms.mean(dim=1).tolist()
    error = terms[0].std().item() / math.sqrt(len(images))
    row = {"images": len(images), "samples": samples, "reconstruction": first, "standard_error": error}
    return {**row, "kl": kl, "elbo": first - kl, "log_marginal_likelihood_bound": bound}


# ---- (i), (iii) to (vi) Figures -----------------------------------------------------------------
WIDE, NARROW = 6.5, 3.9  # inches: in the write-up a page's width and 60 % of it, with one size of type
BLUE, ORANGE, PALE = "#0072B2", "#D55E00", "#7FB8DE"  # told apart by the colour-blind and in grey
FIRST = "first term, $\\mathbb{E}[\\log p(x|z)]$\n(nats per image)"
SECOND = "second term, $\\mathrm{KL}(p(z|x)\\,\\|\\,N(0, I))$\n(nats per image)"
STYLE = {"font.size": 9, "axes.titlesize": "medium", "legend.markerscale": 2}


def draw_images(title, size, layout, mosaics):
    """A Figure with `layout` axes, each a mosaic of images (rows, columns, 196): 0 is white, 1 black."""
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title)
    for axes, images in zip(figure.subplots(*layout, squeeze=False).flat, mosaics):
        rows, columns, _ = images.shape
        tiles = images.cpu().unflatten(2, (SIDE, SIDE)).transpose(1, 2).flatten(2).flatten(0, 1).numpy()
        axes.imshow(tiles, "gray_r", vmin=0, vmax=1, interpolation="nearest", extent=(0, columns, rows, 0))
        axes.hlines(range(rows + 1), 0, columns, PALE, linewidth=0.5, clip_on=False)
        axes.vlines(range(columns + 1), 0, rows, PALE, linewidth=0.5, clip_on=False)
        axes.set(xticks=[], yticks=[], frame_on=False)
        axes.tick_params(length=0)
    return figure


def draw_dataset(training):
    """(i) Ten images of each digit, of the training images (10000, 196), as the encoder sees them."""
    mosaic = training.view(10, TRAINING_PER_DIGIT, PIXELS)[:, :10]
    title = f"(i) Data set: {mosaic.shape[1]} of the {TRAINING_PER_DIGIT} images of each digit"
    figure = draw_images(title, (NARROW, 3.5), (1, 1), [mosaic])
    figure.axes[0].set_yticks(np.arange(10) + 0.5, [f"digit {digit}" for digit in range(10)])
    return figure


@torch.no_grad()
def draw_reconstructions(model, originals):
    """(iv) Originals of digits 0 to 7 (8, 196), each beside the output for z = the mean of p_u(z|x)."""
    logits = model.decoder(model.encode(originals)[0])
    values = bernoulli_log_likelihood(originals, logits).tolist()
    pairs = torch.stack((originals, torch.sigmoid(logits)), dim=1)[:, None]  # 8 mosaics of 1 row, 2 columns
    title = "(iv) Validation images, the decoder's outputs for them, and $\\log p(x|z)$ in nats"
    figure = draw_images(title, (WIDE, 2.6), (2, 4), pairs)
    for digit, (axes, value) in enumerate(zip(figure.axes, values)):
        axes.set_ylabel(f"digit {digit}")
        axes.set_xticks([0.5, 1.5], ["image $x$", f"output $y$\n${value:.1f}$"])
    figure.colorbar(figure.axes[0].images[0], ax=figure.axes, label="pixel probability $y$", aspect=30)
    return figure


@torch.no_grad()
def draw_samples(model):
    """(v) The decoder's outputs for 40 draws of z from N(0, I), in one pass."""
    z = torch.randn(40, LATENT).to(next(model.parameters()).device)
    mosaic = torch.sigmoid(model.decoder(z)).view(5, 8, PIXELS)
    figure = draw_images("(v) Outputs $y$ for 40 draws $z \\sim N(0, I)$", (NARROW, 2.4), (1, 1), [mosaic])
    figure.colorbar(figure.axes[0].images[0], label="pixel probability $y$")
    return figure


def draw_curves(title, terms, validated):
    """(iii), (vi) The first or both `terms` of Eq. (1) and `validated`, as `train` returns them."""
    figure = Figure(figsize=(WIDE, 1.6 + 1.5 * terms.shape[1]), layout="constrained")
    figure.suptitle(title)
    x, late = np.arange(1, len(terms) + 1), len(terms) // 20 + 1  # the first 5 % are steep
    rows = figure.subplots(terms.shape[1], 2, squeeze=False)
    for (left, right), label, y in zip(rows, (FIRST, SECOND), terms.T):
        if len(x) >= 1000:  # in a shorter run the curve bends within 101 updates
            mean = np.convolve(y[late - 1 :], np.full(101, 1 / 101), mode="valid")
            right.plot(x[late + 49 : -50], mean, c=BLUE, zorder=3, label="centred mean over 101 mini-batches")
        for axes, line, part in (
            (left, ".-", "all updates, log axis"),
            (right, ".", f"from update {late} on"),
        ):
            axes.plot(x, y, line, c=PALE, ms=2, lw=0.5, rasterized=True, label="training mini-batch")
            if len(validated):
                at, mean, error = validated.T
                name = f"{10 * VALIDATION_PER_DIGIT} validation images $\\pm$ standard error"
                axes.plot(at, mean, "o-", c=ORANGE, ms=2.5, lw=1, zorder=4, label=name)
                axes.fill_between(at, mean - error, mean + error, color=ORANGE, alpha=0.3, lw=0, zorder=2)
            axes.locator_params(axis="y", steps=[1, 2, 5, 10], nbins=8)
            axes.set(xlabel="number of weight updates", title=part)
            axes.grid(alpha=0.3)
        left.set(ylabel=label, xscale="log")
        shown = np.append(y[late - 1 :], validated[validated[:, 0] >= late, 1])
        right.set(xlim=(late - 1, 1.02 * len(x) + 1), ylim=(shown.min() - 0.3, shown.max() + 0.3))
    figure.legend(*figure.axes[-1].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


# ---- Files and command line ---------------------------------------------------------------------
def save(folder, figures, terms, validated, model, metrics):
    """Write all files into a new folder in `folder`, then move them up together; raises OSError."""
    new = Path(tempfile.mkdtemp(prefix="new-files-", dir=folder))
    try:
        for name, figure in figures.items():  # in memory first: on a full disk it raises what is no OSError
            figure.savefig(pdf := io.BytesIO(), format="pdf", dpi=300, metadata={"CreationDate": None})
            (new / f"problem1_{name}.pdf").write_bytes(pdf.getvalue())
        validations = {update: row for update, *row in validated}
        with (new / "training_log.csv").open("w") as log:
            print("update,reconstruction,kl,validation_reconstruction,validation_standard_error", file=log)
            for update, row in enumerate(terms, start=1):
                print(update, *row, *validations.get(update, ("", "")), sep=",", file=log)
        weights = {name: weight.cpu() for name, weight in model.state_dict().items()}
        torch.save(weights, file := io.BytesIO())  # as the figures
        (new / "vae.pt").write_bytes(file.getvalue())
        (new / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    except BaseException:  # a full disk, Ctrl-C
        shutil.rmtree(new, ignore_errors=True)
        raise
    for path in sorted(new.iterdir()):
        path.replace(folder / path.name)  # where that fails, its message names `new`, which keeps the rest
    new.rmdir()


def parse_options(arguments=None):
    """The options; without `arguments` those of this file's command line. argparse exits at a wrong one."""
    script = Path(globals().get("__file__", "pasted")).resolve()
    if arguments is None:
        arguments = sys.argv[1:] if Path(sys.argv[0]).resolve() == script else []
    plots = script.with_name("figures")
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--updates", type=int, default=UPDATES, help="weight updates")
    add("--batch-size", type=int, default=BATCH_SIZE, help="images in a mini-batch")
    add("--learning-rate", type=float, default=LEARNING_RATE, help="at first; it falls to 0 as a cosine")
    add("--seed", type=int, default=0, help="of data, weights, mini-batches and noise")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="any that torch knows")
    add("--data-dir", type=Path, default=script.with_name("data"), help="MNIST is or goes in MNIST/raw there")
    add("--output-dir", type=Path, default=plots if plots.is_dir() else script.parent, help="for the files")
    options = parser.parse_args(arguments)
    for name in ("updates", "batch_size", "learning_rate"):
        if not 0 < getattr(options, name) < math.inf:
            parser.error(f"argument --{name.replace('_', '-')}: must be positive and finite")
    if not 0 <= options.seed < 2**64:
        parser.error("argument --seed: must be from 0 to 2**64 - 1")
    options.data_dir, options.output_dir = options.data_dir.expanduser(), options.output_dir.expanduser()
    try:
        torch.zeros(1, device=options.device).item()
        options.output_dir.mkdir(parents=True, exist_ok=True)
        Path(tempfile.mkdtemp(dir=options.output_dir)).rmdir()
    except Exception as error:  # torch's are of many kinds
        name = "output-dir" if isinstance(error, OSError) else "device"
        parser.error(f"argument --{name}: {str(error).splitlines()[0]}")
    return options


@matplotlib.style.context(["default", STYLE])
def main(arguments=None):
    """Do the homework in the order of the handout; returns the exit status."""
    options = parse_options(arguments)
    torch.set_num_threads(1)  # two are faster only while no other process is busy
    torch.manual_seed(options.seed)
    training, validation, test = make_data(options.data_dir, options.device)  # (i)
    model = VAE().to(options.device)  # (ii)
    steps = options.updates, options.batch_size, options.learning_rate
    terms, validated = train(model, training, validation, *steps)

    results = {"training": evaluate(model, training), "test": evaluate(model, test)}
    results["validation"] = evaluate(model, validation, FINAL_SAMPLES)
    print("\nimages (nats per image)  reconstruction      KL    ELBO")
    for name, row in results.items():
        print(f"{row['images']:6d} {name:17s}{row['reconstruction']:15.1f}{row['kl']:8.1f}{row['elbo']:8.1f}")

    given = {name: value for name, value in vars(options).items() if not isinstance(value, Path)}
    metrics = {"settings": given, "updates_done": len(terms), "results": results, "torch": torch.__version__}
    originals = validation[::VALIDATION_PER_DIGIT][:8]  # the first of each digit from 0 to 7
    figures = {
        "i_dataset": draw_dataset(training),
        "iii_elbo_terms": draw_curves("(iii) The two terms of the ELBO", terms, validated[:0]),
        "iv_reconstructions": draw_reconstructions(model, originals),
        "v_samples": draw_samples(model),
        "vi_log_likelihood": draw_curves("(vi) Reconstruction log-likelihood", terms[:, :1], validated),
    }
    save(options.output_dir, figures, terms, validated, model, metrics)
    print(f"Five plots, training_log.csv, vae.pt and metrics.json are in {options.output_dir}")
    return 130 if len(terms) < options.updates else 0  # interrupted


if __name__ == "__main__":
    try:
        status = main()
    except KeyboardInterrupt:
        status = 130
    except (FloatingPointError, OSError) as error:
        status = f"error: {error}"
    sys.exit(status)
