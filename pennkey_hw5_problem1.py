# /// script
# requires-python = ">=3.10"
# dependencies = ["torch>=2.5", "torchvision>=0.20", "numpy>=1.26", "matplotlib>=3.8"]
# ///
"""ESE 546, Homework 5, Problem 1: a variational auto-encoder for binarized 14x14 MNIST.

The file reads in the order of the handout: data, model, objective, training, figures, then the command line.
"Eq. (1)" is the handout's, and reconstruction its first term; "paper" is Kingma & Welling, Auto-Encoding
Variational Bayes, arXiv:1312.6114. Reconstruction, KL and ELBO are in nats per image. In shapes, B is a
number of images and S a number of samples of z.

With the default options (12 s on a core with AVX-512) it ends with an ELBO of -33.5 on the training images
(reconstruction -23.4, KL 10.0) and of -34.7 on test images.
"""

import argparse
import json
import math
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
TRAINING_PER_DIGIT, VALIDATION_PER_DIGIT = 1000, 10  # images
SAMPLES = 2  # of z ~ p_u(z|x) for each image in training
VALIDATION_EVERY = 100  # weight updates
# What it leaves open; tests/README.md has other settings that were tried.
HELD_OUT_PER_DIGIT = 892  # for validation and test, from MNIST's test split, which has no more fives
OPTIONS = {  # default and help
    "updates": (4000, "weight updates"),
    "batch-size": (200, "images in a mini-batch"),
    "learning-rate": (0.02, "of Adam; in the last quarter it falls to 0"),
    "seed": (0, "of data, weights, mini-batches and noise"),
}
SCRIPT = Path(globals().get("__file__", "pasted")).resolve()  # no __file__ in a notebook


# ---- (i) The data set ---------------------------------------------------------------------------
def make_data(data_dir, device="cpu"):
    """Training (10000, 196), validation (100, 196) and test images (8820, 196), from MNIST in `data_dir`.

    They are float32 of 0 and 1, equally many of each digit, ordered by digit. Training images come from
    MNIST's training split, the others from its test split. Raises OSError if there is no such MNIST.
    """
    try:
        training_split, test_split = (MNIST(data_dir, train=train, download=True) for train in (True, False))
    except Exception as error:  # of many kinds: no network, no permission, a file cut short, ...
        advice = "delete damaged *-ubyte files there; without a network use --data-dir"
        raise OSError(f"no MNIST in {Path(data_dir, 'MNIST', 'raw')} ({error!r}); {advice}") from error
    training = draw_balanced(training_split, TRAINING_PER_DIGIT)
    held_out = draw_balanced(test_split, HELD_OUT_PER_DIGIT)
    validation, test = held_out[:, :VALIDATION_PER_DIGIT], held_out[:, VALIDATION_PER_DIGIT:]
    return [images.flatten(0, 1).to(device) for images in (training, validation, test)]


def draw_balanced(split, per_digit):
    """`per_digit` random images of each digit from a split of MNIST, none twice: (10, per_digit, 196)."""
    # MNIST's own order is no random one: two populations of writers take turns in it.
    order = torch.randperm(len(split.data))
    chosen = [order[split.targets[order] == digit][:per_digit] for digit in range(10)]
    for digit, indices in enumerate(chosen):
        if len(indices) < per_digit:
            raise OSError(f"MNIST has {len(indices)} images of digit {digit} in this split, not {per_digit}")
    return subsample_and_binarize(split.data[torch.stack(chosen)])


def subsample_and_binarize(images):
    """Every second row and column, then `pixel > 128`: (..., 28, 28) uint8 -> (..., 196) float32."""
    # 128 itself, the commonest grey value between 1 and 250, becomes 0.
    return (images[..., ::2, ::2] > 128).flatten(-2).float()


# ---- (ii) Model, objective and training ---------------------------------------------------------
class VAE(nn.Module):
    """Encoder: x (B, 196) -> (B, 16), mean and log variance of p_u(z|x). Decoder: z (..., 8) -> (..., 196).

    The handout's y is sigmoid(decoder(z)); the likelihood needs the logits (paper, Appendices C.1, C.2). The
    encoder's last layer is linear and may give a negative log variance, as no standard deviation may be.
    """

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(PIXELS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 2 * LATENT))
        self.decoder = nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, PIXELS))


def reparameterize(mean, log_variance, epsilon):
    """z = mean + sigma * epsilon ~ N(mean, diag(sigma^2)), epsilon (S, B, 8) ~ N(0, I) (paper, 2.4)."""
    return mean + torch.exp(0.5 * log_variance) * epsilon


def bernoulli_log_likelihood(x, logits):
    """log p_v(x|z) = sum_i x_i log y_i + (1 - x_i) log(1 - y_i): x (B, 196), logits (S, B, 196) -> (S, B)."""
    # 2x - 1 is 1 for log y = log sigmoid(logit), -1 for log(1 - y) = log sigmoid(-logit): never infinite.
    return nn.functional.logsigmoid((2 * x - 1) * logits).sum(dim=-1)


def gaussian_kl(mean, log_variance):
    """KL(N(mean, diag(sigma^2)) || N(0, I)): two (B, 8) -> (B,) (after Eq. (1); paper, Appendix B)."""
    return -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(dim=-1)


def elbo_terms(model, x, samples=SAMPLES):
    """Reconstruction, by `samples` of z, minus KL is Eq. (1): both for each of x (B, 196), (B,) and (B,)."""
    mean, log_variance = model.encoder(x).chunk(2, dim=-1)
    epsilon = torch.randn(samples, *mean.shape).to(mean.device)  # from the CPU: the same on every device
    logits = model.decoder(reparameterize(mean, log_variance, epsilon))
    return bernoulli_log_likelihood(x, logits).mean(dim=0), gaussian_kl(mean, log_variance)


def mini_batches(images, size):
    """Endless mini-batches (size, 196) of `images`, each epoch in a new random order."""
    while True:
        for indices in torch.randperm(len(images)).split(size):
            yield images.index_select(0, indices.to(images.device))  # faster than images[indices]


def train(model, training, validation, test, updates, batch_size, learning_rate):
    """Maximize the mean of Eq. (1) over the training images by `updates` steps of Adam.

    The learning rate is held and, in the last quarter, falls linearly to 0. Returns the log (updates, 4):
    reconstruction and KL of each mini-batch, before its step; reconstruction of validation and test images
    after every 100th step, else nan. Ctrl-C ends training early. Raises FloatingPointError if these diverge.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)  # fused is faster
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: min(1, 4 * (1 - done / updates)))
    log, start = [], time.perf_counter()
    means = f"(reconstruction and KL: means of {VALIDATION_EVERY} mini-batches)"
    print(f"update  reconstruction    KL  validation   test  seconds  {means}")
    try:
        for update, x in zip(range(1, updates + 1), mini_batches(training, batch_size)):
            reconstruction, kl = (term.mean() for term in elbo_terms(model, x))
            optimizer.zero_grad()
            (kl - reconstruction).backward()  # minus the ELBO
            optimizer.step()
            schedule.step()
            log.append([reconstruction.item(), kl.item(), math.nan, math.nan])
            if update % VALIDATION_EVERY == 0:
                log[-1][2] = evaluate(model, validation, samples=16)["reconstruction"]  # of few images more
                log[-1][3] = evaluate(model, test, samples=1)["reconstruction"]
                row = (*np.nanmean(log[-VALIDATION_EVERY:], axis=0), time.perf_counter() - start)
                print("{:6d}{:16.1f}{:6.1f}{:12.1f}{:7.1f}{:9.0f}".format(update, *row), flush=True)
    except KeyboardInterrupt:
        if not log:
            raise
        print(f"INTERRUPTED after update {len(log)} of {updates}")
    return np.array(log)


@torch.no_grad()
@torch.random.fork_rng(devices=[])  # restores the random state: training does not depend on evaluation
def evaluate(model, images, samples):
    """Means over `images` (n, 196) of Eq. (1) and its terms, by `samples` of z; raises FloatingPointError."""
    pieces = images.split(max(1, 2000 // samples))  # 2,000 z at a time: their outputs stay in the cache
    terms = torch.cat([torch.stack(elbo_terms(model, x, samples)) for x in pieces], dim=1)
    if not terms.isfinite().all():
        raise FloatingPointError("training diverged; lower the --learning-rate")
    reconstruction, kl = terms.mean(dim=1).tolist()
    # The standard error is that of the reconstruction, over the images.
    row = {"images": len(images), "samples": samples, "reconstruction": reconstruction, "kl": kl}
    return {**row, "elbo": reconstruction - kl, "standard_error": terms[0].std().item() / len(images) ** 0.5}


# ---- (i), (iii) to (vi) Figures -----------------------------------------------------------------
BLUE, PALE, ORANGE, BLACK = "#0072B2", "#7FB8DE", "#D55E00", "black"  # for the colour-blind and in grey, too
STYLE = {"font.size": 9, "axes.titlesize": "medium", "legend.markerscale": 2}


def draw_images(title, size, grid, mosaics):
    """A Figure, `size` in inches, with a grid of axes, each a mosaic of images (rows, columns, 196)."""
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title)
    for axes, images in zip(figure.subplots(*grid, squeeze=False).flat, mosaics):
        rows, columns, _ = images.shape
        pixels = np.block([[*row] for row in images.cpu().unflatten(2, (SIDE, SIDE)).numpy()])  # one picture
        axes.imshow(pixels, "gray_r", vmin=0, vmax=1, interpolation="nearest", extent=(0, columns, rows, 0))
        axes.hlines(range(rows + 1), 0, columns, PALE, linewidth=0.5, clip_on=False)
        axes.vlines(range(columns + 1), 0, rows, PALE, linewidth=0.5, clip_on=False)
        axes.set(xticks=[], yticks=[], frame_on=False)
    return figure


def draw_dataset(training):
    """(i) Ten images of each digit, of the training images (10000, 196), as the encoder sees them."""
    mosaic = training.view(10, TRAINING_PER_DIGIT, PIXELS)[:, :10]
    title = f"(i) Data set: {mosaic.shape[1]} of the {TRAINING_PER_DIGIT} images of each digit"
    figure = draw_images(title, (3.9, 3.5), (1, 1), [mosaic])
    figure.axes[0].set_yticks(np.arange(10) + 0.5, [f"digit {digit}" for digit in range(10)])
    return figure


@torch.no_grad()
def draw_reconstructions(model, images):
    """(iv) Images of digits 0 to 7 (8, 196), each beside the output for z = the mean of p_u(z|x)."""
    logits = model.decoder(model.encoder(images)[:, :LATENT])
    pairs = torch.stack((images, torch.sigmoid(logits)), dim=1)[:, None]  # 8 mosaics of 1 row, 2 columns
    title = "(iv) Validation images $x$ (left), outputs $y$ (right) and $\\log p(x|z)$ in nats"
    figure = draw_images(title, (6.5, 2.4), (2, 4), pairs)
    for digit, value in enumerate(bernoulli_log_likelihood(images, logits)):
        figure.axes[digit].set_title(f"digit {digit}: \N{MINUS SIGN}{-value:.1f}")
    figure.colorbar(figure.axes[0].images[0], ax=figure.axes, label="pixel probability $y$", aspect=30)
    return figure


@torch.no_grad()
def draw_samples(model):
    """(v) The decoder's outputs for 40 draws of z from N(0, I), in one pass."""
    z = torch.randn(40, LATENT).to(next(model.parameters()).device)
    mosaic = torch.sigmoid(model.decoder(z)).view(4, 10, PIXELS)
    figure = draw_images("(v) Outputs $y$ for 40 draws $z \\sim N(0, I)$", (6.5, 2.7), (1, 1), [mosaic])
    figure.colorbar(figure.axes[0].images[0], label="pixel probability $y$")
    return figure


def draw_curves(title, terms, evaluated=(), names=()):
    """(iii), (vi) `terms` (1 or 2, updates), the reconstruction and the KL, each in full and enlarged.

    Over them curves `evaluated` (updates,), nan at updates without a value, by their `names`.
    """
    figure = Figure(figsize=(6.5, 1.4 + 1.4 * len(terms)), layout="constrained")
    figure.suptitle(title)
    grid = figure.subplots(len(terms), 2, sharex="col", squeeze=False, width_ratios=(2, 3))
    for (left, right), values, label in zip(grid, terms, ("reconstruction", "KL")):
        updates, batch = np.arange(1, len(values) + 1), "training mini-batch"
        for axes, line in ((left, ".-"), (right, ".")):
            axes.plot(updates, values, line, c=PALE, ms=2, lw=0.5, rasterized=True, label=batch)
            axes.grid(alpha=0.3)
        if len(values) >= 1000:  # a shorter curve bends within the mean's window
            mean = np.convolve(values, np.full(101, 1 / 101), mode="valid")
            right.plot(updates[50:-50], mean, c=BLUE, label="centred mean over 101 mini-batches")
        for name, points, line, colour in zip(names, evaluated, ("o-", "-"), (BLACK, ORANGE)):
            at = np.flatnonzero(~np.isnan(points))
            for axes in (left, right)[: 2 * len(at)]:  # none where there is no value
                axes.plot(updates[at], points[at], line, c=colour, ms=2.5, lw=1, label=name)
        late = np.vstack([values, *evaluated])[:, len(values) // 20 :]
        right.set(xlim=(0, len(values) + 1), ylim=(np.nanmin(late) - 0.3, np.nanmax(late) + 0.3))
        left.set(xscale="log", ylabel=f"{label}\n(nats per image)")
        left.minorticks_off()
        left.xaxis.set_major_formatter("{x:g}")
    grid[-1, 0].set_xlabel("number of weight updates (log)")
    grid[-1, 1].set_xlabel("number of weight updates")
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


# ---- Files and command line ---------------------------------------------------------------------
def save(folder, figures, log, model, metrics):
    """Write all files into a new folder in `folder`, then move them up; raises OSError."""
    with tempfile.TemporaryDirectory(prefix="new-files-", dir=folder) as new:
        for name, figure in figures.items():
            figure.savefig(Path(new, f"problem1_{name}.pdf"), dpi=300, metadata={"CreationDate": None})
        columns = "update,reconstruction,kl,validation_reconstruction,test_reconstruction"
        rows = np.column_stack((np.arange(1, len(log) + 1), log))
        np.savetxt(Path(new, "training_log.csv"), rows, "%.9g", ",", header=columns, comments="")
        torch.save({name: weight.cpu() for name, weight in model.state_dict().items()}, Path(new, "vae.pt"))
        Path(new, "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
        for path in sorted(Path(new).iterdir()):  # every old file goes before a new one comes: runs never mix
            (folder / path.name).unlink(missing_ok=True)
        for path in sorted(Path(new).iterdir()):
            path.replace(folder / path.name)


def parse_options(arguments=None):
    """The options; without `arguments` those of this file's command line. argparse exits at a wrong one."""
    if arguments is None:  # where this file was pasted into a notebook, the command line is not its own
        arguments = sys.argv[1:] if Path(sys.argv[0]).resolve() == SCRIPT else []
    plots = SCRIPT.with_name("figures")  # of the repository; else beside the script, as the handout asks
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    for name, (default, text) in OPTIONS.items():
        add(f"--{name}", type=type(default), default=default, help=text)
    add("--device", default="cpu", help="cuda works, too, but is not faster for networks as small as these")
    add("--data-dir", type=Path, default=SCRIPT.with_name("data"), help="MNIST is or goes in MNIST/raw there")
    add("--output-dir", type=Path, default=plots if plots.is_dir() else SCRIPT.parent, help="for the files")
    options = parser.parse_args(arguments)
    for name in ("updates", "batch_size", "learning_rate"):
        if not 0 < getattr(options, name) < math.inf:
            parser.error(f"argument --{name.replace('_', '-')}: must be positive and finite")
    if not 0 <= options.seed < 2**64:
        parser.error("argument --seed: must be from 0 to 2**64 - 1")
    try:
        name = "device"
        torch.zeros(1, device=options.device).item()
        name = "output-dir"
        options.output_dir.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryDirectory(dir=options.output_dir).cleanup()
    except Exception as error:  # torch's are of many kinds
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
    some = test[::6]  # ordered by digit; all of them at every validation would slow the training by a tenth
    log = train(model, training, validation, some, options.updates, options.batch_size, options.learning_rate)

    results = {"training": evaluate(model, training, 4), "test": evaluate(model, test, 4)}
    results["validation"] = evaluate(model, validation, 1000)  # samples of z: enough for one decimal
    print("\nimages (nats per image)  reconstruction      KL    ELBO")
    for name, row in results.items():
        print(f"{row['images']:6d} {name:17s}{row['reconstruction']:15.1f}{row['kl']:8.1f}{row['elbo']:8.1f}")
    constants = {k: v for k, v in globals().items() if k.isupper() and isinstance(v, int | float)}
    settings = {name: value for name, value in vars(options).items() if not name.endswith("_dir")}
    metrics = {"script": SCRIPT.name, "constants": constants, "settings": settings, "updates_done": len(log)}
    metrics |= {"results": results, "torch": torch.__version__}
    names = f"{len(validation)} validation images", f"{len(some)} test images"
    figures = {
        "i_dataset": draw_dataset(training),
        "iii_elbo_terms": draw_curves("(iii) ELBO terms: $\\mathbb{E}[\\log p(x|z)]$ and KL", log.T[:2]),
        "iv_reconstructions": draw_reconstructions(model, validation[::VALIDATION_PER_DIGIT][:8]),
        "v_samples": draw_samples(model),
        "vi_log_likelihood": draw_curves("(vi) Reconstruction $\\log p(x|z)$", log.T[:1], log.T[2:], names),
    }
    save(options.output_dir, figures, log, model, metrics)
    print(f"Five plots, training_log.csv, vae.pt and metrics.json are in {options.output_dir}")
    return 130 if len(log) < options.updates else 0  # interrupted


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except (FloatingPointError, OSError) as error:
        sys.exit(f"error: {error}")
