"""Training: it takes Adam's steps on Eq. (1), logs and prints what it should, and repeats itself."""

from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import arguments
from torch.distributions import Bernoulli, Normal, kl_divergence


@pytest.fixture
def train(hw5, data):
    """A function that trains a new model; returns it and the log."""

    def train(updates, batch_size=200, learning_rate=0.02, validation=data[1]):
        torch.manual_seed(0)
        images = {"training": data[0], "validation": validation, "test": data[2][:500]}
        steps = {"updates": updates, "batch_size": batch_size, "learning_rate": learning_rate}
        return (model := hw5.VAE()), hw5.train(model=model, **images, **steps)

    return train


def test_updates_are_those_of_adam_on_eq_1_and_validation_is_after_them(hw5, data, train, monkeypatch):
    """By the library's Adam, not fused, and torch.distributions, with the script's mini-batches and noise."""
    monkeypatch.setattr(hw5, "VALIDATION_EVERY", 13)
    for name in ("elbo_terms", "reparameterize"):
        monkeypatch.setattr(hw5, name, Mock(wraps=getattr(hw5, name)))
    model, log = train(52)
    calls = [call["x"] for call in arguments(hw5.elbo_terms)]
    draws = [call["epsilon"] for call in arguments(hw5.reparameterize)]
    torch.manual_seed(0)
    expected, batches = hw5.VAE(), []
    adam = torch.optim.Adam(expected.parameters(), fused=False)
    for x, epsilon in zip(calls, draws, strict=True):
        mean, log_variance = expected.encoder(x).chunk(2, dim=1)
        posterior = Normal(mean, torch.exp(0.5 * log_variance))
        logits = expected.decoder(mean + posterior.stddev * epsilon)
        reconstruction = Bernoulli(logits=logits).log_prob(x).sum(dim=-1).mean()
        kl = kl_divergence(posterior, Normal(0.0, 1.0)).sum(dim=-1).mean()
        if len(x) == 200:  # a mini-batch, else the 100 validation images or 500 of the test images
            assert epsilon.shape == (2, 200, 8)
            assert log[len(batches), :2] == pytest.approx([reconstruction.item(), kl.item()], rel=1e-3)
            adam.param_groups[0]["lr"] = 0.02 * min(1, 4 * (1 - len(batches) / 52))
            adam.zero_grad()
            (kl - reconstruction).backward()
            adam.step()
            batches.append(x)
        else:
            column = {(100, 16): 2, (500, 1): 3}[len(x), len(epsilon)]
            assert torch.equal(x, data[column - 1][: len(x)])
            assert log[len(batches) - 1, column] == pytest.approx(reconstruction.item(), rel=1e-3)
    assert log.shape == (52, 4) and np.argwhere(~np.isnan(log[:, 2:])).tolist() == [
        [update, column] for update in (12, 25, 38, 51) for column in (0, 1)
    ]
    torch.testing.assert_close(model.state_dict(), expected.state_dict(), rtol=0, atol=1e-4)
    monkeypatch.setattr(hw5, "VALIDATION_EVERY", 100)  # without validation it trains the same
    assert np.array_equal(log[:, :2], train(52)[1][:, :2])
    epoch = sorted(torch.cat(batches[:50]).tolist())
    assert epoch == sorted(data[0].tolist()) and not torch.equal(batches[50], batches[0])


def test_progress_has_the_means_of_the_mini_batches_and_the_last_validation(train, capsys):
    _, log = train(250, batch_size=50)
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.split()[0].isdigit()]
    for row, end in zip(rows, (100, 200), strict=True):
        values = *log[end - 100 : end, :2].mean(axis=0), *log[end - 1, 2:]
        assert row[:5] == [str(end), *(f"{value:.1f}" for value in values)]
    assert 0 <= int(rows[0][-1]) <= int(rows[1][-1]) < 60  # seconds


@pytest.mark.parametrize("batch_size", [1, 10_000, 20_000])
def test_mini_batches_of_any_size(train, batch_size):
    assert np.isfinite(train(2, batch_size)[1][:, :2]).all()
