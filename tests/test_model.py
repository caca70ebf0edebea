"""The mathematics: each equation against an independent reference."""

import numpy as np
import pytest
import torch
from conftest import reference
from torch.autograd import gradcheck
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence
from torch.nn.functional import binary_cross_entropy_with_logits


def test_kl_is_that_of_torch_distributions_and_gradients_are_those_of_the_values(hw5):
    torch.manual_seed(1)
    mean, log_variance, epsilon = torch.randn(3, 5, 8, dtype=torch.double).unbind()
    expected = kl_divergence(Normal(mean, torch.exp(0.5 * log_variance)), Normal(0.0, 1.0)).sum(dim=-1)
    torch.testing.assert_close(hw5.gaussian_kl(mean, log_variance), expected)
    leaves = mean.requires_grad_(), log_variance.requires_grad_()
    assert gradcheck(hw5.gaussian_kl, leaves)
    assert gradcheck(lambda *leaves: hw5.reparameterize(*leaves, epsilon), leaves)


def test_log_likelihood_and_gradient_are_those_of_the_library_at_0_and_at_extreme_logits_too(hw5):
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
    assert torch.equal(gradient[logits == 0], (x - 0.5).expand_as(logits)[logits == 0])
    moderate = logits[:2].detach().double().requires_grad_()
    assert gradcheck(lambda logits: hw5.bernoulli_log_likelihood(x.double(), logits), moderate)


def test_terms_and_evaluation_are_those_of_an_independent_computation(hw5, run, data, monkeypatch):
    """With the same noise for each image, so that pieces do not matter; of 760 images the last is smaller."""
    images, noise = data[2][:760], torch.randn(16, 1, 8, generator=torch.Generator().manual_seed(3))
    monkeypatch.setattr(torch, "randn", lambda *shape: noise.expand(shape))
    first, kl, bound = reference(run.model, images, noise)
    for term, expected in zip(hw5.elbo_terms(run.model, images, 16), (first, kl)):
        torch.testing.assert_close(term, expected, rtol=1e-4, atol=1e-3, check_dtype=False)
    means = [value.mean().item() for value in (first, kl, first - kl, bound)]
    error = first.numpy().std(ddof=1) / np.sqrt(760)
    row = [*hw5.evaluate(run.model, images).values()]  # by their names in test_script.py
    assert row == pytest.approx([760, 16, means[0], error, *means[1:]], rel=1e-4)


def test_bound_of_log_p_is_exact_where_it_can_be(hw5, data):
    """A decoder that ignores z has p(x|z) = p(x), and p(z) / p_u(z|x) must average to 1 for any encoder."""
    torch.manual_seed(7)
    model, x = hw5.VAE(), data[1][:5]
    with torch.no_grad():
        model.decoder[0].weight.zero_()
        model.encoder[2].weight.zero_()
        model.encoder[2].bias.copy_(torch.tensor([0.2] * 8 + [-0.1] * 8))
        exact = Independent(Bernoulli(logits=model.decoder(torch.zeros(8))), 1).log_prob(x).mean().item()
    bound = hw5.evaluate(model, x, 50_000)["log_marginal_likelihood_bound"]
    assert bound == pytest.approx(exact, abs=0.02)
