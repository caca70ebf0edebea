"""Training: it takes Adam's steps on Eq. (1), logs and prints what it should, and repeats itself."""

import math
import re
from unittest.mock import Mock

import benchmark
import numpy as np
import pytest
import torch
from conftest import layers, reference
from torch.utils.flop_counter import FlopCounterMode


@pytest.fixture
def train(hw5, data):
    """A function that trains a new model; it returns the model and what train() of the script returns."""

    def train(updates, batch_size=200, learning_rate=0.02, validation=data[1]):
        torch.manual_seed(0)
        model = hw5.VAE()
        return model, *hw5.train(model, data[0], validation, updates, batch_size, learning_rate)

    return train


def test_updates_are_those_of_adam_with_a_cosine_on_minus_the_elbo(hw5, data, train):
    """Against the library's Adam, not fused; the log is that before each step."""
    model, terms, _ = train(30)
    torch.manual_seed(0)
    expected = hw5.VAE()
    adam = torch.optim.Adam(expected.parameters(), fused=False)
    for update in range(30):
        adam.param_groups[0]["lr"] = 0.02 * (1 + math.cos(math.pi * update / 30)) / 2
        x = data[0][torch.randint(10_000, (200,))]
        reconstruction, kl = (term.mean() for term in hw5.elbo_terms(expected, x))
        assert terms[update] == pytest.approx([reconstruction.item(), kl.item()], rel=1e-3)
        adam.zero_grad()
        (kl - reconstruction).backward()
        adam.step()
    torch.testing.assert_close(model.state_dict(), expected.state_dict(), rtol=0, atol=1e-4)


def test_terms_of_2_samples_validation_by_16_and_the_progress_line(hw5, train, monkeypatch, capsys):
    monkeypatch.setattr(hw5, "reparameterize", seen := Mock(wraps=hw5.reparameterize))
    _, terms, validated = train(250, batch_size=150)
    shapes = [tuple(call.args[2].shape) for call in seen.call_args_list]
    assert shapes == ([(2, 150, 8)] * 100 + [(16, 100, 8)]) * 2 + [(2, 150, 8)] * 50
    assert terms.shape == (250, 2) and validated.shape == (2, 3) and validated[:, 0].tolist() == [100, 200]
    lines = [re.findall(r"-?\d[\d.]*", line) for line in capsys.readouterr().out.splitlines()]
    for first, line, row in zip((0, 100), lines, validated, strict=True):
        values = *terms[first:][:100].mean(axis=0), row[1]
        assert line[:-1] == [str(first + 100), "250", "100", *(f"{value:.1f}" for value in values)]
    assert 0 <= int(lines[0][-1]) <= int(lines[1][-1]) < 60  # seconds


def test_validation_images_are_what_is_validated_and_do_not_train(data, train):
    negatives = 1 - data[1]
    model, terms, validated = train(100, validation=negatives)
    first = reference(model, negatives, torch.randn(100, 1, 8))[0].numpy()
    assert validated[0] == pytest.approx([100, first.mean(), first.std(ddof=1) / 10], rel=0.05)
    assert first.mean() < -100 and np.array_equal(terms, train(100)[1])


def test_no_latent_dies_at_the_default_rate(hw5, data, train):
    """Steps that are too large leave latents with a KL of 0 for ever; 500 updates show it."""
    model = train(500, learning_rate=hw5.LEARNING_RATE)[0]
    mean, log_variance = layers(model, "encoder", data[1]).chunk(2, dim=1)
    kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean(dim=0)
    assert (kl > 0.2).all()  # nats; a latent in use has about 1


def test_floor_of_the_benchmark_does_the_matrix_products_of_an_update(hw5, data):
    with FlopCounterMode(display=False) as update:
        hw5.elbo_terms(hw5.VAE(), data[0][:200])[0].sum().backward()
    products = [2 * left.numel() * right.shape[1] for left, right in benchmark.matrix_products()]
    assert update.get_total_flops() == sum(products)
