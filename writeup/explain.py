"""Measure the causes that the write-up names, for the run in figures/; writes writeup/explanations.json.

    .venv/bin/python writeup/explain.py

Repeats that run, and its beginnings with one thing changed: half a minute. In nats per image, and over the
training images, where nothing else is said.
"""

import contextlib
import copy
import itertools
import json
import math
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import pennkey_hw5_problem1 as hw5

HERE = Path(__file__).resolve().parent

MOMENTS = {"three_hundred": 300, "one_thousand": 1000, "three_thousand": 3000}  # updates
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven")


def replay(settings, watch, prepare=lambda model, images: None):
    """Run `main` with `settings`, saving nothing; returns model, both arrays of `train`, state before (v).

    Calls prepare(model, training images) before training and watch(update, model, optimizer) after every
    update; as Ctrl-C would, a KeyboardInterrupt of `watch` ends training.
    """
    train = hw5.train

    def watched(model, training, *others):
        prepare(model, training)
        updates = itertools.count(1)
        hook = register_optimizer_step_post_hook(lambda optimizer, *_: watch(next(updates), model, optimizer))
        try:
            return train(model, training, *others)
        finally:
            hook.remove()

    with (
        mock.patch.object(hw5, "train", watched),
        mock.patch.object(hw5, "draw_samples", lambda model: torch.get_rng_state()),
        mock.patch.object(hw5, "save") as save,
        contextlib.redirect_stdout(None),
    ):
        hw5.main([f"--{name.replace('_', '-')}={value}" for name, value in settings.items()])
    _, figures, terms, validated, model, _ = save.call_args.args
    return model, terms, validated, figures["v_samples"]


def until(last, seen):
    """A `watch` of the first `last` updates, which appends seen(model) to the list that it returns beside."""
    values = []

    def watch(update, model, optimizer):
        values.append(seen(model))
        if update == last:
            raise KeyboardInterrupt

    return watch, values


def first_peak(settings, training, terms, kept):
    """(iii) What the first peak of the KL is made of, and whether learning rate or output biases make it."""

    def common(model):  # half the squared mean of mu over the images: a shift of z that tells none apart
        return 0.5 * (model.encode(training)[0].mean(dim=0) ** 2).sum().item()

    def variance(model):  # of the outputs at z = mu, over the images, summed over the pixels
        return torch.sigmoid(model.decoder(model.encode(training)[0])).var(dim=0).sum().item()

    def start_at_mean_image(model, images):
        with torch.no_grad():
            model.decoder[2].bias.copy_(torch.logit(images.mean(dim=0), eps=1e-3))

    peak = int(
        np.argmax(terms[:40, 1])
    )  # terms of an update are those before its step, so after `peak` steps
    watch, slow_common = until(60, common)
    _, slow, _, _ = replay({**settings, "learning_rate": 0.001}, watch)
    slow_peak = int(np.argmax(slow[:40, 1]))
    watch, mean_common = until(41, common)
    _, mean_image, _, _ = replay(settings, watch, start_at_mean_image)
    return {
        "update": peak + 1,
        "kl": terms[peak, 1],
        "common": common(kept[peak]),
        "common_later": common(kept[99]),
        "variance": variance(kept[peak]),
        "variance_later": variance(kept[199]),
        "slow_update": slow_peak + 1,
        "slow_kl": slow[slow_peak, 1],
        "slow_common": slow_common[slow_peak - 1],
        "mean_image_kl": mean_image[:40, 1].max(),
        "mean_image_common": max(mean_common),
        "mean_image_first_term": mean_image[:40, 0].min(),
    }


def ringing(settings, terms):
    """(iii) The 31 updates after the 300th in which the KL varies most, and with half the learning rate."""
    deviations = np.lib.stride_tricks.sliding_window_view(terms[:, 1], 31).std(axis=1)
    first = 300 + int(np.argmax(deviations[300:]))

    def halve(update, model, optimizer):
        if update == first - 15:
            optimizer.param_groups[0]["lr"] /= 2
        if update == first + 32:
            raise KeyboardInterrupt

    _, halved, _, _ = replay(settings, halve)
    window = slice(first, first + 31)
    return {
        "first": first + 1,
        "last": first + 31,
        "low": terms[window, 1].min(),
        "high": terms[window, 1].max(),
        "deviation": deviations[first],
        "deviation_median": np.median(deviations[300:]),
        "deviation_halved": halved[window, 1].std(),
    }


def curves(terms, validated):
    """(iii), (vi) What the mean curves gain; validation points above: of the first quarter, of the rest."""
    late = len(terms) // 20
    first, second = (np.convolve(y, np.full(101, 1 / 101), mode="valid") for y in terms[late:].T)
    points = {int(at) - late - 51: value for at, value, _ in validated}  # by their place in the mean curves
    above = np.array([value > first[at] for at, value in points.items() if 0 <= at < len(first)])
    early, later = np.split(above, [len(above) // 4])
    return {
        "first_update": late + 51,
        "last_update": len(terms) - 50,
        "first_term_gain": first[-1] - first[0],
        "kl_gain": second[-1] - second[0],
        "early": len(early),
        "early_above": int(early.sum()),
        "later": len(later),
        "later_above": int(later.sum()),
    }


def pixels_to_nearest(images, training):
    """The number of pixels in which each image of 0 and 1 differs from the nearest training image: (B,)."""
    overlap = images @ training.T
    return (images.sum(dim=1)[:, None] + training.sum(dim=1) - 2 * overlap).min(dim=1).values


def log_aggregate_ratio(z, mean, log_variance):
    """log of the mean of p_u(z|x) over the images, less log p(z): z (n, 8), two (B, 8) -> (n,)."""
    z, mean, log_variance = z.double(), mean.double(), log_variance.double()
    precision = torch.exp(-log_variance)
    constant = (mean**2 * precision + log_variance).sum(dim=1)
    products = (piece**2 @ precision.T - 2 * piece @ (mean * precision).T for piece in z.split(1000))
    densities = torch.cat([torch.logsumexp(-0.5 * (product + constant), dim=1) for product in products])
    return densities - math.log(len(mean)) + 0.5 * (z**2).sum(dim=1)


@torch.no_grad()
def information(model, training, state):
    """(iv), (v) mean KL = what z tells of the image + KL(aggregate || prior); the prior where no image is."""
    mean, log_variance = model.encode(training)
    epsilon = torch.randn(mean.shape)
    z = hw5.reparameterize(mean, log_variance, epsilon)  # a draw for each image
    log_ratio = 0.5 * (z**2 - epsilon**2 - log_variance).sum(dim=1)  # log p_u(z|x) - log p(z)
    aggregate = log_aggregate_ratio(z, mean, log_variance)
    free = torch.randn(4000, hw5.LATENT)
    prior = log_aggregate_ratio(free, mean, log_variance)

    def distance(z):
        return pixels_to_nearest(torch.sigmoid(model.decoder(z)).round(), training).mean().item()

    torch.set_rng_state(state)
    drawn = torch.randn(40, hw5.LATENT)  # those of (v)
    return {
        "carried": (log_ratio - aggregate).mean().item(),
        "misfit": aggregate.mean().item(),
        "misfit_error": aggregate.std().item() / math.sqrt(len(aggregate)),
        "prior_mean": prior.mean().item(),
        "prior_below": (prior < -3).double().mean().item() * 100,
        "distance_below": distance(free[prior < -3]),
        "distance_above": distance(free[prior >= -3]),
        "distance_aggregate": distance(z[::3]),
        "samples": log_aggregate_ratio(drawn, mean, log_variance).tolist(),
    }


@torch.no_grad()
def likelihoods(kept, model, training, validation, test):
    """(iv), (vi) The first term of three sets at the same weights; what log p(x|z) at the mean follows."""

    def first_term(update, images, samples=hw5.EVALUATION_SAMPLES):
        return hw5.evaluate(kept[update], images, samples)["reconstruction"]

    def at_mean(images):
        return hw5.bernoulli_log_likelihood(images, model.decoder(model.encode(images)[0]))

    first, _ = hw5.elbo_terms(model, validation, hw5.FINAL_SAMPLES)
    nearest = pixels_to_nearest(validation, training)
    correlations = np.corrcoef(
        [at_mean(validation).tolist(), nearest.tolist(), validation.sum(dim=1).tolist()]
    )
    easy = {name: first_term(update, validation, 1000) for name, update in MOMENTS.items()}
    hard = {name: first_term(update, test) for name, update in MOMENTS.items()}
    ahead = [easy[name] - hard[name] for name in MOMENTS]
    ahead.append(first.mean().item() - hw5.evaluate(model, test)["reconstruction"])
    return {
        "training": {name: first_term(update, training) for name, update in MOMENTS.items()},
        "validation": easy,
        "test": hard,
        "ahead_least": min(ahead),
        "ahead_most": max(ahead),
        "balanced_error": math.sqrt(first.view(10, -1).var(dim=1).mean().item() / len(validation)),
        "at_mean_training": at_mean(training).mean().item(),
        "at_mean_test": at_mean(test).mean().item(),
        "nearest": dict(zip(DIGITS, nearest[:: hw5.VALIDATION_PER_DIGIT].int().tolist())),  # of those in (iv)
        "correlation_nearest": correlations[0, 1],
        "correlation_ink": correlations[0, 2],
    }


def measure(settings):
    """All of it, for the run with `settings`."""
    kept = {}

    def watch(update, model, optimizer):
        if update < 200 or update in MOMENTS.values():
            kept[update] = copy.deepcopy(model)

    settings = {**settings, "device": "cpu"}
    model, terms, validated, state = replay(settings, watch)
    torch.manual_seed(settings["seed"])
    training, validation, test = hw5.make_data(HERE.parent / "data")
    return {
        "peak": first_peak(settings, training, terms, kept),
        "ringing": ringing(settings, terms),
        "curves": curves(terms, validated),
        "likelihood": likelihoods(kept, model, training, validation, test),
        "information": information(model, training, state),
    }


if __name__ == "__main__":
    metrics = json.loads((HERE.parent / "figures/metrics.json").read_text())
    text = json.dumps({"settings": metrics["settings"], **measure(metrics["settings"])}, default=float)
    explanations = json.loads(text, parse_float=lambda number: round(float(number), 4))
    (HERE / "explanations.json").write_text(json.dumps(explanations, indent=2) + "\n")
    print(HERE / "explanations.json")
