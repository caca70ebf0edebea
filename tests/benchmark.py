"""Measure the time of a weight update, of a plain loop, and of the matrix products alone.

Run it as `python tests/benchmark.py` (half a minute). Compare the ratios: the times themselves
depend on the processor and on what else it is doing.
"""

import contextlib
import io
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import pennkey_hw5_problem1 as hw5  # noqa: E402

UPDATES = 100  # in a round
ROUNDS = 20
BATCH_SIZE = 200


def this_program(images, validation_images):
    """Train by the script, with its log and its validation."""
    with contextlib.redirect_stdout(io.StringIO()):  # without the progress
        hw5.train(hw5.VAE(), images, validation_images, UPDATES, BATCH_SIZE, learning_rate=0.02)


def plain_loop(images):
    """Train with one sample of z after the other, and with a sigmoid before the loss."""
    model = hw5.VAE()
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(UPDATES):
        x = images[torch.randint(len(images), (BATCH_SIZE,))]
        mean, log_variance = model.encode(x)
        loss = -0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())
        for _ in range(hw5.SAMPLES):
            z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
            y = torch.sigmoid(model.decode(z))
            loss = loss + binary_cross_entropy(y, x, reduction="sum") / hw5.SAMPLES
        loss = loss / len(x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def matrix_products(images):
    """Compute nothing but the matrix products of all layers, forward and backward."""
    layers = [  # rows, inputs, outputs
        (BATCH_SIZE, hw5.PIXELS, hw5.HIDDEN),
        (BATCH_SIZE, hw5.HIDDEN, 2 * hw5.LATENT),
        (hw5.SAMPLES * BATCH_SIZE, hw5.LATENT, hw5.HIDDEN),
        (hw5.SAMPLES * BATCH_SIZE, hw5.HIDDEN, hw5.PIXELS),
    ]
    for rows, inputs, outputs in layers:
        x = torch.randn(rows, inputs)
        weight = torch.randn(inputs, outputs)
        gradient = torch.randn(rows, outputs)
        for _ in range(UPDATES):
            torch.mm(x, weight)  # forward
            torch.mm(x.T, gradient)  # gradient of the weight
            if inputs != hw5.PIXELS:  # the images need no gradient
                torch.mm(gradient, weight.T)  # gradient of the inputs


def main():
    """Time the three in turn, and print the median times of an update and their ratios."""
    torch.set_num_threads(1)
    training_by_digit, validation_by_digit, _ = hw5.make_data(ROOT / "data")
    images = training_by_digit.flatten(0, 1)
    validation_images = validation_by_digit.flatten(0, 1)
    ways = {
        "matrix products alone": lambda: matrix_products(images),
        "this program": lambda: this_program(images, validation_images),
        "plain loop": lambda: plain_loop(images),
    }
    times = np.empty((1 + ROUNDS, len(ways)))
    for round_times in times:
        for column, way in enumerate(ways.values()):
            start = time.perf_counter()
            way()
            round_times[column] = (time.perf_counter() - start) / UPDATES
    times = times[1:]  # the first round only warms up
    ratios = times / times[:, :1]

    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, one thread")
    print("an update of              milliseconds     ratio")
    for name, seconds, ratio in zip(ways, np.median(times, axis=0), np.median(ratios, axis=0)):
        print(f"{name:25} {1000 * seconds:12.2f} {ratio:9.2f}")


if __name__ == "__main__":
    main()
