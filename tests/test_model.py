"""The mathematics: each equation against an independent reference."""

import math

import pytest
import torch
from conftest import train
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence


@pytest.fixture
def posterior():
    """Mean and log variance (5, 8) of five Gaussians."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(5, 8, generator=generator), torch.randn(5, 8, generator=generator)


def normal(mean, log_variance):
    return Normal(mean, torch.exp(0.5 * log_variance))


def test_kl_is_that_of_torch_distributions(hw5, posterior):
    expected = kl_divergence(normal(*posterior), Normal(0.0, 1.0))
    torch.testing.assert_close(hw5.gaussian_kl(*posterior), expected)


def test_kl_is_its_monte_carlo_estimate(hw5, posterior):
    torch.manual_seed(2)
    q = normal(*posterior)
    z = q.sample((200_000,))
    estimate = (q.log_prob(z) - Normal(0.0, 1.0).log_prob(z)).sum(dim=-1)
    error = estimate.std(dim=0) / math.sqrt(len(z))
    assert ((hw5.gaussian_kl(*posterior).sum(dim=-1) - estimate.mean(dim=0)).abs() < 5 * error).all()


def test_log_likelihood_is_that_of_torch_distributions(hw5, data):
    x, logits = data.validation, 3 * torch.randn(2, 100, 196)
    expected = Independent(Bernoulli(logits=logits), 1).log_prob(x.expand(2, 100, 196))
    torch.testing.assert_close(hw5.bernoulli_log_likelihood(x, logits), expected)


def test_log_likelihood_is_the_formula_of_the_handout(hw5, data):
    x, logits = data.validation.double(), torch.randn(2, 100, 196, dtype=torch.double)
    y = torch.sigmoid(logits)
    expected = (x * torch.log(y) + (1 - x) * torch.log(1 - y)).sum(dim=-1)
    torch.testing.assert_close(hw5.bernoulli_log_likelihood(x, logits), expected)


@pytest.mark.parametrize("logit", [-1e30, -1e4, -200.0, 0.0, 200.0, 1e4, 1e30])
def test_extreme_logits_stay_finite(hw5, data, logit):
    logits = torch.full((2, 100, 196), logit, requires_grad=True)
    value = hw5.bernoulli_log_likelihood(data.validation, logits)
    value.sum().backward()
    assert value.isfinite().all() and logits.grad.isfinite().all()
    ink, paper = data.validation.sum(dim=-1), (1 - data.validation).sum(dim=-1)
    if abs(logit) >= 200:  # then a wrong pixel costs |logit| and a right one nothing
        torch.testing.assert_close(value[0], -abs(logit) * (paper if logit > 0 else ink))


def test_reparameterized_samples_have_the_right_distribution(hw5, posterior):
    z = hw5.reparameterize(*posterior, 200_000, torch.Generator().manual_seed(3))
    assert z.shape == (200_000, 5, 8)
    mean, deviation = posterior[0], torch.exp(0.5 * posterior[1])
    assert ((z.mean(dim=0) - mean).abs() < 5 * deviation / math.sqrt(len(z))).all()
    torch.testing.assert_close(z.std(dim=0), deviation, rtol=0.02, atol=0)


def test_reparameterized_gradient_is_the_score_function_gradient(hw5, data):
    """Of E[log p(x|z)], by E[(log p - b) d log q / d(mean, log variance)], free of derivatives of log p."""
    torch.manual_seed(4)
    model, x = hw5.VAE(), data.validation[:1]
    with torch.no_grad():
        model.decoder[2].weight.mul_(5)  # so that the log-likelihood depends on z
    mean, log_variance = (
        torch.full((1, 8), 0.3, requires_grad=True),
        torch.full((1, 8), -1.0, requires_grad=True),
    )
    samples = 200_000

    def log_likelihood(z):
        return hw5.bernoulli_log_likelihood(x, model.decoder(z)).squeeze(1)

    reparameterized = log_likelihood(hw5.reparameterize(mean, log_variance, samples)).mean()
    pathwise = torch.cat(torch.autograd.grad(reparameterized, (mean, log_variance))).flatten()

    with torch.no_grad():
        deviation = torch.exp(0.5 * log_variance)
        z = Normal(mean, deviation).sample((samples,))
        reward = log_likelihood(z)
        unit = ((z - mean) / deviation).squeeze(1)
        score = torch.cat(
            (unit / deviation, 0.5 * (unit.square() - 1)), dim=1
        )  # d log q / d mean, d log variance
        terms = (reward - reward.mean())[:, None] * score
    error = terms.std(dim=0) / math.sqrt(samples)
    assert (pathwise.abs() > 5 * error).sum() > 8  # the estimate tells the gradient from zero
    assert ((terms.mean(dim=0) - pathwise).abs() < 5 * error).all()


def test_elbo_terms_are_those_of_torch_distributions(hw5, trained, data):
    model, x = trained[0], data.validation
    with torch.no_grad():
        reconstruction, kl = hw5.elbo_terms(model, x, torch.Generator().manual_seed(5), samples=4000)
        q = normal(*model.encode(x))
        exact = kl_divergence(q, Normal(0.0, 1.0)).sum(dim=-1).mean()
        assert kl.item() == pytest.approx(exact.item(), rel=1e-5)
        z = q.sample((4000,))
        expected = Independent(Bernoulli(probs=model.decode(z)), 1).log_prob(x.expand(4000, 100, 196)).mean()
    assert reconstruction.item() == pytest.approx(expected.item(), abs=0.05)


def test_training_takes_two_samples(hw5, data, monkeypatch):
    seen, original = [], hw5.reparameterize
    monkeypatch.setattr(hw5, "reparameterize", lambda *a: seen.append(original(*a).shape) or original(*a))
    train(hw5, data, 100, batch_size=50)
    assert seen == [(2, 50, 8)] * 100 + [(2, 100, 8)]  # the last one validates


def test_elbo_lies_below_the_log_marginal_likelihood(hw5, trained, data):
    model = trained[0]
    elbo = hw5.evaluate(model, data.validation, seed=0, samples=500)["elbo"]
    noise = torch.Generator().manual_seed(6)
    estimates = [
        hw5.log_marginal_likelihood(model, data.validation, samples, noise).mean().item()
        for samples in (1, 10, 1000)
    ]
    assert abs(estimates[0] - elbo) < 1.5  # one sample estimates the ELBO itself
    assert elbo + 0.3 < estimates[1] < estimates[2] < elbo + 5  # and more samples tighten the bound


def test_log_marginal_likelihood_is_exact_where_it_can_be(hw5, data):
    """A decoder that ignores z has p(x|z) = p(x), and p(z) / p_u(z|x) must average to 1 for any encoder."""
    model = hw5.VAE()
    with torch.no_grad():
        model.decoder[0].weight.zero_()
        model.encoder[2].weight.zero_()
        model.encoder[2].bias.copy_(torch.tensor([0.2] * 8 + [-0.1] * 8))
    x = data.validation[:5]
    exact = Independent(Bernoulli(logits=model.decoder(torch.zeros(8))), 1).log_prob(x)
    estimate = hw5.log_marginal_likelihood(model, x, 50_050, torch.Generator().manual_seed(7))
    torch.testing.assert_close(estimate, exact, rtol=0, atol=0.02)


def test_architecture_is_that_of_the_handout(hw5):
    model = hw5.VAE()
    names = [[type(layer).__name__ for layer in part] for part in (model.encoder, model.decoder)]
    assert names == [["Linear", "Tanh", "Linear"]] * 2
    assert [tuple(weight.shape) for weight in model.state_dict().values()] == [
        (128, 196), (128,), (16, 128), (16,), (128, 8), (128,), (196, 128), (196,),
    ]  # fmt: skip
    z = torch.randn(64, 8)
    assert torch.equal(model.decode(z), torch.sigmoid(model.decoder(z)))
