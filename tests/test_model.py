"""The mathematics: each equation against an independent reference."""

from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import arguments, reference
from torch.nn.functional import binary_cross_entropy_with_logits


def test_log_likelihood_and_gradient_are_right_at_0_and_at_extreme_logits_too(hw5):
    torch.manual_seed(2)
    x, logits = torch.bernoulli(torch.full((5, 9), 0.5)), 3 * torch.randn(8, 5, 9)
    logits[:2, :, ::2] = 0
    logits[2:] = torch.tensor([-1e30, -1e4, -200, 200, 1e4, 1e30])[:, None, None]
    logits.requires_grad_()
    value = hw5.bernoulli_log_likelihood(x, logits)
    expected = -binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(dim=-1)
    torch.testing.assert_close(value, expected)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    torch.testing.assert_close(gradient, x - torch.sigmoid(logits))


def test_terms_and_evaluation_are_those_of_an_independent_computation(hw5, run, data, monkeypatch):
    """With the noise drawn: normal, for each image and sample its own. The last piece is smaller."""
    monkeypatch.setattr(hw5, "reparameterize", seen := Mock(wraps=hw5.reparameterize))
    images = data[2][:760]
    terms = hw5.elbo_terms(run.model, images)
    row = hw5.evaluate(run.model, images, 16)
    first, *pieces = (call["epsilon"] for call in arguments(seen))
    epsilon = torch.cat(pieces, dim=1)
    assert first.shape == (2, 760, 8) and epsilon.shape == (16, 760, 8) and len(pieces) > 1
    for noise in (first, epsilon):
        assert len(noise.flatten(0, 1).unique(dim=0)) == noise[..., 0].numel()
        assert noise.mean().abs() < 0.04 and noise.std() == pytest.approx(1, abs=0.03)
    for term, expected in zip(terms, reference(run.model, images, first)):
        torch.testing.assert_close(term, expected, rtol=1e-4, atol=1e-3, check_dtype=False)
    reconstruction, kl = reference(run.model, images, epsilon)
    error = reconstruction.numpy().std(ddof=1) / np.sqrt(760)
    mean, expected = reconstruction.mean().item(), {"images": 760, "samples": 16, "standard_error": error}
    expected |= {"reconstruction": mean, "kl": kl.mean().item(), "elbo": mean - kl.mean().item()}
    assert row == pytest.approx(expected, rel=1e-4)
