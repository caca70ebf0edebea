# The next four lines tell `uv run` which libraries to install (PEP 723); python ignores them.
# /// script
# requires-python = ">=3.10"
# dependencies = ["torch>=2.5", "torchvision>=0.20", "numpy>=1.26", "matplotlib>=3.8"]
# ///
"""ESE 546, Homework 5, Problem 1: a variational auto-encoder (VAE) for binarized 14x14 MNIST.

    python pennkey_hw5_problem1.py           solves the whole problem
    python pennkey_hw5_problem1.py --help    lists the options

The script follows the handout: first the data set (i), then the model and its training (ii), then
the plots for (i) and (iii) to (vi). It saves five plots (PDF), two logs of the training (CSV), the
trained weights and a table of results. They are saved beside this file, or in the folder figures/
beside it if there is one.

In this file, the two terms of Eq. (1) of the handout are called reconstruction and KL, and Eq. (1)
itself is called the ELBO. All their values are averages over images, in nats per image.

    reconstruction    E[log p(x|z)] with z from p(z|x)
    KL                KL(p(z|x) || N(0, I))
    ELBO              reconstruction - KL

With the default options the ELBO ends at about -33.3 on the training images and -34.6 on the test
images.

"Paper" is Kingma & Welling, Auto-Encoding Variational Bayes, https://arxiv.org/abs/1312.6114.
Docstrings and comments give the shapes of tensors. In them, B is any number of images.
"""

import argparse
import csv
import io
import math
import platform
import sys
import tempfile
from pathlib import Path

import matplotlib.style
import numpy as np
import torch
from matplotlib.figure import Figure  # instead of pyplot, which may need a display
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torchvision.datasets import MNIST
from torchvision.utils import make_grid

# Constants that the handout gives.
STEP = 2  # keep every second row and every second column of MNIST's images; must divide 28
SIDE = 28 // STEP  # rows and columns of an image: 14
PIXELS = SIDE * SIDE  # 196
THRESHOLD = 128  # a pixel greater than this becomes 1, any other becomes 0
DIGITS = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
TRAINING_PER_DIGIT = 1000  # training images of each digit, 10,000 in all
VALIDATION_PER_DIGIT = 10  # validation images of each digit, 100 in all
VALIDATION_EVERY = 100  # weight updates from one validation to the next
HIDDEN = 128  # hidden units of the encoder, and also of the decoder
LATENT = 8  # dimensions of z
SAMPLES = 2  # samples of z for each image in training

# Constants that the handout leaves open.
# Images of each digit that are taken from MNIST's test split: 10 for validation and 882 for test.
# The rarest digit there, 5, has 892 images, so no more can be taken of each.
HELD_OUT_PER_DIGIT = 892
# Samples of z for each training or test image in the table of results.
EVALUATION_SAMPLES = 4
# Samples of z for each validation image. With only 100 images, fewer samples would be too noisy.
VALIDATION_SAMPLES = 16


class RunError(Exception):
    """Raised where the program cannot go on. Its message is a sentence for the user."""


# ==== Options =====================================================================================
def positive_integer(text):
    """Return the integer written in `text`; raise ArgumentTypeError if it is not positive."""
    value = int(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


def positive_number(text):
    """Return the number written in `text`; raise ArgumentTypeError if not positive and finite."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not positive and finite")
    return value


def seed_number(text):
    """Return the integer written in `text`; raise ArgumentTypeError if it is not a valid seed."""
    value = int(text)
    if not 0 <= value < 2**64:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 2**64 - 1")
    return value


def available_device(text):
    """Return `text` if it names a device that works here; raise ArgumentTypeError if not."""
    try:
        number = torch.zeros(1, device=text)
        number.item()  # reading the number back shows that the device really works
    except Exception as error:  # each kind of device raises an exception of its own
        raise argparse.ArgumentTypeError(f"PyTorch cannot use {text!r} on this machine") from error
    return text


def parse_options(arguments=None):
    """Return the options in a list of `arguments`, or those of the command line if it is None."""
    script_dir = Path(__file__).resolve().parent
    # The write-up takes the plots from a folder figures/. Where there is none, everything is saved
    # beside this file, as the handout asks.
    output_dir = script_dir
    if (script_dir / "figures").is_dir():
        output_dir = script_dir / "figures"

    parser = argparse.ArgumentParser(
        description="Train a variational auto-encoder on MNIST and draw the plots of the problem.",
        epilog="More settings are constants at the top of the script.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    # The defaults of the next three options come from a search. It compared settings that use as
    # many training images as these: updates x batch size = 800,000. These gave the best training
    # ELBO.
    parser.add_argument(
        "--updates",
        type=positive_integer,
        default=4000,
        help="number of weight updates",
    )
    parser.add_argument(
        "--batch-size",
        type=positive_integer,
        default=200,
        help="number of images in a mini-batch",
    )
    parser.add_argument(
        "--learning-rate",
        type=positive_number,
        default=0.02,
        help="learning rate of Adam; it falls to 0 over the last quarter of the updates",
    )
    parser.add_argument(
        "--seed",
        type=seed_number,
        default=0,
        help="seed of all random numbers",
    )
    parser.add_argument(
        "--device",
        type=available_device,
        default="cpu",
        help="where to compute; a GPU (cuda) works, but is no faster for so small a model",
    )
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=script_dir / "data",
        help="folder of the data set; MNIST is downloaded to it if it is not there",
    )
    parser.add_argument(
        "--output-dir",
        type=Path,
        default=output_dir,
        help="folder in which everything is saved",
    )
    return parser.parse_args(arguments)


# ==== (i) The data set ============================================================================
def make_data(data_dir):
    """Return the training, validation and test images, each (digits, images of a digit, PIXELS).

    By default they are (10, 1000, PIXELS), (10, 10, PIXELS) and (10, 882, PIXELS). The training
    images come from MNIST's training split. MNIST has no validation split, so the validation images
    come from its test split. The test images, 892 - 10 of each digit, are further images of that
    split. The handout does not ask for them, and they are used only in the table of results.
    Raises RunError if MNIST can be neither read nor downloaded, or if a constant does not fit.
    """
    if SIDE * STEP != 28:
        raise RunError(
            f"SIDE is {SIDE} and STEP is {STEP}, but SIDE must be 28 / STEP. "
            "Change STEP at the top of the script: SIDE is computed from it."
        )
    if not 0 < VALIDATION_PER_DIGIT <= HELD_OUT_PER_DIGIT:
        raise RunError(f"VALIDATION_PER_DIGIT must be between 1 and {HELD_OUT_PER_DIGIT}.")
    try:
        training_split = MNIST(data_dir, train=True, download=True)
        test_split = MNIST(data_dir, train=False, download=True)
    except Exception as error:  # no network, no permission, a damaged file, ...
        # {error!r} stays on one line even if the message of the error has several.
        raise RunError(
            f"MNIST can be neither read from nor downloaded to the folder {data_dir} ({error!r}). "
            "Delete damaged files in it, or use --data-dir to name a folder that has MNIST."
        ) from error

    training = choose_images(training_split, TRAINING_PER_DIGIT)
    held_out = choose_images(test_split, HELD_OUT_PER_DIGIT)
    validation = held_out[:, :VALIDATION_PER_DIGIT]
    test = held_out[:, VALIDATION_PER_DIGIT:]
    return training, validation, test


def choose_images(split, per_digit):
    """Return `per_digit` prepared images of each digit from a split of MNIST.

    They are (digits, per_digit, PIXELS), sub-sampled and binarized. They are drawn at random,
    because the order of the images in MNIST is not random. Raises RunError if MNIST has too few.
    """
    chosen = []
    for digit in DIGITS:
        # split.data has the images as they are in MNIST's files: a transform= that is given to
        # MNIST(...) would have no effect here.
        images = split.data[split.targets == digit]
        if len(images) < per_digit:
            raise RunError(
                f"{per_digit} images of digit {digit} were asked for, but this split of MNIST has "
                f"only {len(images)}. Change TRAINING_PER_DIGIT or HELD_OUT_PER_DIGIT."
            )
        order = torch.randperm(len(images))
        chosen.append(subsample_and_binarize(images[order[:per_digit]]))
    return torch.stack(chosen)


def subsample_and_binarize(images):
    """Return images (B, PIXELS) of 0 and 1 for MNIST's images (B, 28, 28) of 0 to 255."""
    smaller = images[:, ::STEP, ::STEP]
    binary = (smaller > THRESHOLD).float()
    return binary.flatten(1)


# ==== (ii) The model ==============================================================================
class VAE(nn.Module):
    """The encoder, for p_u(z|x), and the decoder, for p_v(x|z) (paper, Appendices C.1 and C.2)."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(PIXELS, HIDDEN),
            nn.Tanh(),
            nn.Linear(HIDDEN, 2 * LATENT),  # mean and log variance, see encode
        )
        self.decoder = nn.Sequential(
            nn.Linear(LATENT, HIDDEN),
            nn.Tanh(),
            nn.Linear(HIDDEN, PIXELS),  # the sigmoid comes later, see decode
        )

    def encode(self, x):
        """Return the mean and the log variance of p_u(z|x) for x (B, PIXELS); each is (B, LATENT).

        The handout says that the second half of the encoder's outputs is for the standard
        deviation sigma. The last layer is linear, so its outputs may be negative, but sigma may
        not. The outputs are therefore log(sigma^2) instead, as in the paper (Appendix C.2).
        """
        mean, log_variance = self.encoder(x).chunk(2, dim=-1)
        return mean, log_variance

    def decode(self, z):
        """Return logits (B, PIXELS) for z (B, LATENT). The handout's y is sigmoid(logits).

        The sigmoid is applied later: by torch.sigmoid for the plots, and inside PyTorch's loss for
        the log-likelihood. A y on its own may be rounded to 0 or 1, and the logarithm of 0 is
        infinite; PyTorch's loss avoids that.
        """
        return self.decoder(z)


# ==== (ii) The objective ==========================================================================
def reparameterize(mean, log_variance, epsilon):
    """Return z = mean + sigma * epsilon (paper, Section 2.4).

    If epsilon is drawn from N(0, I), z is a sample from N(mean, sigma^2 I), the handout's p_u(z|x).
    `mean` and `log_variance` are (B, LATENT); `epsilon` and z are (samples, B, LATENT). PyTorch
    broadcasts mean and sigma: it uses the same ones for every sample.
    """
    sigma = torch.exp(0.5 * log_variance)
    return mean + sigma * epsilon


def bernoulli_log_likelihood(x, logits):
    """Return log p_v(x|z) = sum_i x_i log y_i + (1 - x_i) log(1 - y_i), with y = sigmoid(logits).

    This is the handout's formula above line 27 (paper, Appendix C.1). `x` is (B, PIXELS), `logits`
    are (..., B, PIXELS) and the result is (..., B). The dots are for a dimension of samples of z.
    """
    # PyTorch's loss needs targets and logits of the same shape: repeat x for every sample of z.
    targets = x.expand_as(logits)
    cross_entropy = binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return -cross_entropy.sum(dim=-1)


def gaussian_kl(mean, log_variance):
    """Return KL(N(mean, sigma^2 I) || N(0, I)), (B,), for `mean` and `log_variance` (B, LATENT).

    This is the handout's formula above line 25 (paper, Appendix B).
    """
    variance = torch.exp(log_variance)
    return -0.5 * (1 + log_variance - mean**2 - variance).sum(dim=-1)


def elbo_terms(model, x, samples):
    """Return the reconstruction and the KL of Eq. (1), averaged over the images x (B, PIXELS).

    Both are scalar tensors. The reconstruction is an expectation over z; it is estimated by the
    average over `samples` samples of z for each image (paper, Section 2.3). The KL is exact.
    """
    mean, log_variance = model.encode(x)
    # The noise is drawn on the CPU, because then it is the same for every device.
    epsilon = torch.randn(samples, len(x), LATENT).to(x.device)
    z = reparameterize(mean, log_variance, epsilon)
    # z is decoded as one batch with two dimensions. The layers of this decoder would also accept z
    # with three dimensions, but others, such as convolutions, would not.
    logits = model.decode(z.flatten(0, 1))  # (samples * B, PIXELS)
    logits = logits.unflatten(0, (samples, len(x)))  # (samples, B, PIXELS)
    reconstruction = bernoulli_log_likelihood(x, logits).mean()  # over samples and images
    kl = gaussian_kl(mean, log_variance).mean()  # over images
    return reconstruction, kl


@torch.no_grad()
def evaluate(model, images, samples):
    """Return the reconstruction, KL and ELBO of `images` (B, PIXELS), as a dictionary of floats.

    `samples` is the number of samples of z for each image.
    """
    model.eval()  # makes no difference to this model, but would to one with dropout
    # fork_rng puts the random number generator of the CPU back to its state from before the block.
    # So the training draws the same random numbers with and without validation. devices=[] leaves
    # the generators of GPUs alone, because this script draws all its noise on the CPU.
    with torch.random.fork_rng(devices=[]):
        reconstruction, kl = elbo_terms(model, images, samples)
    return {
        "reconstruction": reconstruction.item(),
        "kl": kl.item(),
        "elbo": reconstruction.item() - kl.item(),
    }


# ==== (ii) Training ===============================================================================
def mini_batches(images, batch_size):
    """Yield mini-batches (batch_size, PIXELS) of `images` (B, PIXELS) without end.

    Every epoch uses each image once, in a new random order. If `batch_size` does not divide B, the
    last mini-batch of an epoch is smaller.
    """
    while True:
        order = torch.randperm(len(images))
        for indices in order.split(batch_size):
            yield images[indices]  # indices on the CPU also work for images on a GPU


def learning_rate_factor(updates_done, updates):
    """Return 1 for three quarters of the updates, then a factor that falls linearly to 0.

    If the learning rate does not fall, the ELBO on the training images ends about 2 nats lower.
    """
    remaining = (updates - updates_done) / updates  # 1 at the beginning, 0 at the end
    if remaining > 0.25:
        return 1
    return remaining / 0.25


def check_before_training(model, training_images, validation_images):
    """Raise RunError for data or a model that would give wrong results.

    The data and the model of this script pass. The checks are for you if you change them.
    """
    for images in (training_images, validation_images):
        if images.min() < 0 or images.max() > 1:
            raise RunError("The Bernoulli log-likelihood needs pixels between 0 and 1.")
    # For any z, an untrained decoder outputs about as many negative logits as positive ones. If all
    # outputs lie between 0 and 1, somebody has almost certainly added a sigmoid.
    model.eval()
    outputs = model.decode(torch.zeros(1, LATENT, device=training_images.device))
    if outputs.min() >= 0 and outputs.max() <= 1:
        raise RunError(
            "The decoder must not end with a sigmoid, because the log-likelihood and the plots "
            "apply a sigmoid to its outputs."
        )


def train(model, training_images, validation_images, updates, batch_size, learning_rate):
    """Train `model` with Adam to maximize Eq. (1), averaged over the training images.

    Both kinds of images are (B, PIXELS). Returns two logs, which are lists of rows, and whether
    Ctrl-C has ended the training early:
    - training_log has a row (update, reconstruction, KL) for every weight update. The two values
      are those of its mini-batch, before the weights are changed.
    - validation_log has a row (update, reconstruction) after every VALIDATION_EVERY-th update. The
      value is that of all validation images.
    Raises RunError as check_before_training does, or if the loss is no longer finite.
    Sets PyTorch to one thread.
    """
    check_before_training(model, training_images, validation_images)
    # The matrices are so small that sharing the work among threads takes longer than it saves.
    torch.set_num_threads(1)

    # fused=True only makes Adam faster. Leave it out for an optimizer that does not have it.
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda updates_done: learning_rate_factor(updates_done, updates)
    )
    batches = mini_batches(training_images, batch_size)
    training_log = []
    validation_log = []
    interrupted = False
    model.train()
    try:
        for update in range(1, updates + 1):
            x = next(batches)
            reconstruction, kl = elbo_terms(model, x, SAMPLES)
            loss = kl - reconstruction  # minus the ELBO
            if not torch.isfinite(loss):
                raise RunError(
                    f"The training diverged at update {update}. Try a lower --learning-rate."
                )

            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()  # after every update, not every epoch

            training_log.append((update, reconstruction.item(), kl.item()))
            if update % VALIDATION_EVERY == 0:
                validation = evaluate(model, validation_images, VALIDATION_SAMPLES)
                model.train()  # evaluate has switched to model.eval()
                validation_log.append((update, validation["reconstruction"]))
                print(
                    f"update {update:5d}: reconstruction {reconstruction.item():6.1f}, "
                    f"KL {kl.item():5.1f}, "
                    f"validation reconstruction {validation['reconstruction']:6.1f}",
                    flush=True,
                )
    except KeyboardInterrupt:
        if len(training_log) == 0:
            raise  # there is nothing yet that could be saved
        print(f"Interrupted after update {len(training_log)}.", flush=True)
        interrupted = True
    return training_log, validation_log, interrupted


# ==== Plots =======================================================================================
# Here, the model and the images are on the CPU.

# These colours differ for colour-blind readers, too, and in a grey print.
BLUE = "#0072B2"
LIGHT_BLUE = "#9ECAE1"
ORANGE = "#D55E00"

# Sizes of text, lines and markers, in points.
SIZES = {
    "font.size": 9,
    "axes.titlesize": 9,
    "figure.titlesize": 9,
    "lines.linewidth": 0.8,
    "lines.markersize": 2,
}


def show_images(axes, images, columns):
    """Show images (B, PIXELS) on `axes`, with `columns` images in a row.

    A pixel of 0 is white, one of 1 is black. Returns the AxesImage, which figure.colorbar needs.
    """
    images = images.reshape(len(images), 1, SIDE, SIDE)  # (B, channels, height, width)
    # nrow is the number of images in a row. The padding is a grey line around each image.
    grid = make_grid(images, nrow=columns, padding=1, pad_value=0.3)
    axes.set_xticks([])
    axes.set_yticks([])
    # make_grid returns three equal channels, for red, green and blue; one of them is enough.
    return axes.imshow(grid[0].numpy(), cmap="gray_r", vmin=0, vmax=1)


def draw_dataset(training_by_digit):
    """Return plot (i), a Figure: the first ten training images of each digit.

    `training_by_digit` is (digits, images of a digit, PIXELS).
    """
    shown = training_by_digit[:, :10]
    columns = shown.shape[1]  # 10, or fewer if there are fewer images

    figure = Figure(figsize=(3.4, 3.4), layout="constrained")
    axes = figure.subplots()
    show_images(axes, shown.flatten(0, 1), columns)
    total = training_by_digit.shape[1]
    axes.set_title(f"(i) Data set: {columns} of {total} images of each digit")
    for row, digit in enumerate(DIGITS):
        # A row is SIDE + 1 pixels high: an image and the grey line above it.
        middle = (SIDE + 1) * (row + 0.5)
        axes.text(-2, middle, f"digit {digit}", ha="right", va="center")
    return figure


def draw_elbo_terms(training_log):
    """Return plot (iii), a Figure: both terms of Eq. (1) for every row of `training_log`."""
    updates, reconstruction, kl = np.array(training_log).T  # the columns of the log

    figure = Figure(figsize=(6.5, 3.5), layout="constrained")
    figure.suptitle("(iii) The two terms of the ELBO, Eq. (1), for the training mini-batches")
    upper, lower = figure.subplots(2, sharex=True)

    # "o-" draws a marker at each value and a line between them. Without markers, the plot of a
    # single update would be empty.
    upper.plot(updates, reconstruction, "o-", color=BLUE, label="first term: E[log p(x|z)]")
    upper.set_ylabel("reconstruction\n(nats per image)")
    upper.grid(alpha=0.3)
    upper.legend(loc="lower right")

    lower.plot(
        updates, kl, "o-", color=ORANGE, label="second term, subtracted: KL(p(z|x) || N(0, I))"
    )
    lower.set_ylabel("KL\n(nats per image)")
    lower.grid(alpha=0.3)
    lower.legend(loc="lower right")

    # Both panels share this axis. As it is logarithmic, the first 100 updates can be seen, too.
    lower.set_xscale("log")
    lower.minorticks_off()  # in short runs, matplotlib would label minor ticks
    lower.xaxis.set_major_formatter("{x:g}")  # "1000" instead of a power of ten
    lower.set_xlabel("number of weight updates (logarithmic axis)")
    return figure


@torch.no_grad()
def draw_reconstructions(model, validation_by_digit):
    """Return plot (iv), a Figure: eight validation images, each beside the decoder's output for it.

    They are the first image of each of the digits 0 to 7. `validation_by_digit` is (digits, images
    of a digit, PIXELS). The decoder's input z is the encoder's mean, because a sample of z would
    make the plot depend on chance.
    """
    model.eval()
    x = validation_by_digit[:8, 0]
    mean, _ = model.encode(x)
    logits = model.decode(mean)
    y = torch.sigmoid(logits)
    log_likelihood = bernoulli_log_likelihood(x, logits)

    figure = Figure(figsize=(6.5, 2.5), layout="constrained")
    figure.suptitle(
        "(iv) Validation images x (left), the decoder's outputs y (right), and log p(x|z)"
    )
    panels = figure.subplots(2, 4)
    for i in range(len(x)):
        axes = panels.flat[i]
        pair = torch.stack([x[i], y[i]])
        picture = show_images(axes, pair, columns=2)
        axes.set_title(f"digit {DIGITS[i]}: {log_likelihood[i].item():.1f} nats")
    # All pictures have the same scale of grey, so one colour bar, for the last, is enough.
    figure.colorbar(picture, ax=panels, label="probability y of black", aspect=40)
    return figure


@torch.no_grad()
def draw_samples(model):
    """Return plot (v), a Figure: the decoder's outputs for 40 samples z from N(0, I)."""
    model.eval()
    z = torch.randn(40, LATENT)
    y = torch.sigmoid(model.decode(z))

    figure = Figure(figsize=(6.5, 3.3), layout="constrained")
    axes = figure.subplots()
    picture = show_images(axes, y, columns=8)
    axes.set_title("(v) The decoder's outputs y for 40 samples z from N(0, I)")
    figure.colorbar(picture, ax=axes, label="probability y of black", aspect=40)
    return figure


def draw_log_likelihood(training_log, validation_log):
    """Return plot (vi), a Figure: the reconstruction in training and in validation."""
    updates, reconstruction, _ = np.array(training_log).T  # the columns of the log
    title = "(vi) Log-likelihood log p(x|z): training mini-batches and validation images"

    figure = Figure(figsize=(6.5, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel("number of weight updates")
    axes.set_ylabel("reconstruction (nats per image)")
    axes.grid(alpha=0.3)
    axes.plot(updates, reconstruction, "o", color=LIGHT_BLUE, label="training mini-batch")

    # The moving average at an update is over its mini-batch, the 50 before it and the 50 after it.
    # mode="valid" keeps complete windows only: the first and the last 50 updates have no average.
    half = 50
    window = half + 1 + half
    if len(updates) >= window:
        weights = np.ones(window) / window
        average = np.convolve(reconstruction, weights, mode="valid")
        axes.plot(
            updates[half:-half],
            average,
            color=BLUE,
            label=f"moving average of {window} mini-batches",
        )

    if len(validation_log) > 0:
        validation_updates, validation_reconstruction = np.array(validation_log).T
        axes.plot(
            validation_updates,
            validation_reconstruction,
            "o-",
            color=ORANGE,
            label="validation images",
        )
        # The first mini-batches are so low that they would squeeze the rest of the plot. So the
        # axis begins just below the lowest validation value. (Plot (iii) shows all mini-batches.)
        # With a single validation value (fewer than 200 updates) the axis is left alone. That value
        # is higher than most mini-batches before it, and an axis that begins there would hide them.
        if len(validation_log) > 1:
            bottom = validation_reconstruction.min() - 0.5
            top = max(reconstruction.max(), validation_reconstruction.max()) + 0.5
            axes.set_ylim(bottom, top)
            title += f"\n(mini-batches below {bottom:.1f}, such as the first ones, are not shown)"

    axes.set_title(title)
    axes.legend(loc="lower right")
    return figure


def save_figure(figure, path):
    """Save `figure` as a PDF without a date, so that the same run saves the same file."""
    # Write to memory first: then a full disk gives an OSError, and not some error of matplotlib's.
    # At the end of this file, an OSError is reported in one sentence.
    pdf = io.BytesIO()
    # dpi is the resolution of the images in the PDF. Lines and text have none.
    figure.savefig(pdf, format="pdf", dpi=300, metadata={"CreationDate": None})
    path.write_bytes(pdf.getvalue())


def save_plots(folder, model, training_by_digit, validation_by_digit, training_log, validation_log):
    """Draw all plots and save them in `folder`. The model and the images must be on the CPU."""
    # matplotlib's own style and the sizes above, whatever the user's own style is.
    with matplotlib.style.context(["default", SIZES]):
        save_figure(draw_dataset(training_by_digit), folder / "problem1_i_dataset.pdf")
        save_figure(draw_elbo_terms(training_log), folder / "problem1_iii_elbo_terms.pdf")
        save_figure(
            draw_reconstructions(model, validation_by_digit),
            folder / "problem1_iv_reconstructions.pdf",
        )
        save_figure(draw_samples(model), folder / "problem1_v_samples.pdf")
        save_figure(
            draw_log_likelihood(training_log, validation_log),
            folder / "problem1_vi_log_likelihood.pdf",
        )


# ==== Results and files ===========================================================================
# The names of all files that save_plots and save_training save, for delete_old_files. If you change
# or add a name there, do so here, too.
OUTPUT_FILES = [
    "problem1_i_dataset.pdf",
    "problem1_iii_elbo_terms.pdf",
    "problem1_iv_reconstructions.pdf",
    "problem1_v_samples.pdf",
    "problem1_vi_log_likelihood.pdf",
    "training_log.csv",
    "validation_log.csv",
    "vae.pt",
    "results.txt",
]


def make_folder(folder):
    """Make `folder` if there is none; raise RunError if that fails or no file can be made in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass  # a test whether a file can be made; it is deleted at once
    except OSError as error:
        raise RunError(f"Nothing can be saved in the folder {folder} ({error}).") from error


def check_elbo(elbo, untrained_elbo):
    """Raise RunError if the training has made the ELBO worse.

    train() has checked that the loss was finite. The weights may be useless all the same: the loss
    may have become very large, or the last update may have spoiled them.
    """
    # Both are estimated from samples of z, so a difference of less than 1 nat may be chance.
    if math.isnan(elbo) or elbo < untrained_elbo - 1:
        raise RunError(
            f"The training has made the ELBO worse: it is {elbo:.4g} nats per image, and was "
            f"{untrained_elbo:.4g} before the first update. Try a lower --learning-rate, and check "
            "that the loss is minus the ELBO."
        )


def mean_image_elbo(training_images):
    """Return the best training ELBO of a model that does not use z.

    Such a model has the same output y for every z. The y with the highest log-likelihood is the
    mean image. As z does not matter, p(z|x) can be N(0, I) for every x, so that the KL is 0.
    """
    mean_image = training_images.mean(dim=0)
    logits = torch.logit(mean_image, eps=1e-6)  # without eps, a pixel that is always 0 gives -inf
    logits = logits.expand_as(training_images)
    return bernoulli_log_likelihood(training_images, logits).mean().item()


def describe_results(options, updates_done, results, remarks):
    """Return the text of results.txt: the settings, the table of results and the remarks.

    `results` is a dictionary from the name of a set of images to what evaluate returns for it.
    """
    test_per_digit = HELD_OUT_PER_DIGIT - VALIDATION_PER_DIGIT
    lines = [
        f"weight updates        {updates_done} of {options.updates}",
        f"batch size            {options.batch_size}",
        f"learning rate         {options.learning_rate}",
        f"seed                  {options.seed}",
        f"device                {options.device}",
        f"PIXELS                {PIXELS}",
        f"LATENT                {LATENT}",
        f"HIDDEN                {HIDDEN}",
        f"SAMPLES               {SAMPLES}",
        f"images of each digit  {TRAINING_PER_DIGIT} training, {VALIDATION_PER_DIGIT} validation, "
        f"{test_per_digit} test",
        f"Python                {platform.python_version()}",
        f"torch                 {torch.__version__}",
        "",
        "nats per image  reconstruction          KL        ELBO",
    ]
    for name, row in results.items():
        lines.append(
            f"{name:14}  {row['reconstruction']:14.2f}  {row['kl']:10.2f}  {row['elbo']:10.2f}"
        )
    lines.extend(remarks)
    return "\n".join(lines) + "\n"


def save_log(path, header, log):
    """Save the rows of `log` as a CSV file, with `header` as its first row."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(log)


def delete_old_files(folder):
    """Delete the files of an older run, so that `folder` never has files of two different runs."""
    for name in OUTPUT_FILES:
        (folder / name).unlink(missing_ok=True)


def save_training(folder, model, training_log, validation_log, text):
    """Save the weights, both logs and the `text` of results.txt. The model must be on the CPU."""
    weights = io.BytesIO()  # written to memory first, for the reason given in save_figure
    torch.save(model.state_dict(), weights)
    (folder / "vae.pt").write_bytes(weights.getvalue())
    save_log(folder / "training_log.csv", ["update", "reconstruction", "kl"], training_log)
    save_log(folder / "validation_log.csv", ["update", "reconstruction"], validation_log)
    (folder / "results.txt").write_text(text)


# ==== The program =================================================================================
def main(arguments=None):
    """Solve the problem with the options in a list of `arguments`, or on the command line if None.

    Returns the exit status: 0, or 130 if Ctrl-C has ended the training early. In a notebook, import
    this file and call main([]). Raises RunError or OSError if the program cannot go on.
    """
    options = parse_options(arguments)
    folder = options.output_dir
    make_folder(folder)
    torch.manual_seed(options.seed)

    # (i)
    training_by_digit, validation_by_digit, test_by_digit = make_data(options.data_dir)
    # For (ii) the digits do not matter: from (digits, images of a digit, PIXELS) to (B, PIXELS).
    training_images = training_by_digit.flatten(0, 1).to(options.device)
    validation_images = validation_by_digit.flatten(0, 1).to(options.device)
    test_images = test_by_digit.flatten(0, 1).to(options.device)

    # (ii)
    model = VAE().to(options.device)
    # The ELBO before the training, with which check_elbo compares. One sample of z is enough, as
    # check_elbo ignores differences of less than 1 nat.
    untrained = evaluate(model, training_images, samples=1)
    training_log, validation_log, interrupted = train(
        model,
        training_images,
        validation_images,
        options.updates,
        options.batch_size,
        options.learning_rate,
    )

    # The results. If the training has made the ELBO worse, check_elbo ends the program here, before
    # any file of an older run is deleted.
    results = {}
    results["training"] = evaluate(model, training_images, EVALUATION_SAMPLES)
    check_elbo(results["training"]["elbo"], untrained["elbo"])
    results["validation"] = evaluate(model, validation_images, VALIDATION_SAMPLES)
    if len(test_images) > 0:  # there are none if VALIDATION_PER_DIGIT is HELD_OUT_PER_DIGIT
        results["test"] = evaluate(model, test_images, EVALUATION_SAMPLES)

    remarks = []
    if interrupted:
        remarks.append("The training was interrupted.")
    baseline = mean_image_elbo(training_images)
    if results["training"]["elbo"] < baseline:
        remarks.append(
            "WARNING: a model that does not use z and always outputs the mean image has a better "
            f"training ELBO, {baseline:.2f}."
        )
    text = describe_results(options, len(training_log), results, remarks)
    print(f"\n{text}")

    # What took time to compute is saved first, before anything can go wrong in a plot.
    model = model.to("cpu")
    delete_old_files(folder)
    save_training(folder, model, training_log, validation_log, text)
    save_plots(folder, model, training_by_digit, validation_by_digit, training_log, validation_log)
    print(f"Five plots, two logs, vae.pt and results.txt are in {folder}")

    if interrupted:
        return 130  # the usual status after Ctrl-C
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (RunError, OSError) as error:
        sys.exit(f"error: {error}")
