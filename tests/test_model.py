"""The mathematics: each equation against an independent reference."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence


@pytest.fixture
def posterior():
    """Mean and log variance (5, 8) of five Gaussians."""
    return torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1)).unbind()


def normal(mean, log_variance):
    return Normal(mean, torch.exp(0.5 * log_variance))


def numpy_layers(model, part, inputs):
    """The output of the model's encoder or decoder, before a sigmoid, in NumPy and double precision."""
    w1, b1, w2, b2 = (p.detach().double().numpy() for p in getattr(model, part).parameters())
    return np.tanh(np.asarray(inputs, float) @ w1.T + b1) @ w2.T + b2


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def test_kl_is_that_of_torch_distributions(hw5, posterior):
    expected = kl_divergence(normal(*posterior), Normal(0.0, 1.0)).sum(dim=-1)
    torch.testing.assert_close(hw5.gaussian_kl(*posterior), expected)


def test_log_likelihood_is_the_formula_of_the_handout(hw5, data):
    x, logits = data.validation.double(), 3 * torch.randn(2, 100, 196, dtype=torch.double)
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


def test_reparameterized_samples_have_the_mean_and_the_variance(hw5, posterior):
    epsilon, (mean, variance) = torch.randn(2, 5, 8), (posterior[0], torch.exp(posterior[1]))
    z = hw5.reparameterize(*posterior, epsilon)
    torch.testing.assert_close((z - mean) / variance.sqrt(), epsilon)


def test_reparameterized_gradient_is_the_score_function_gradient(hw5, data):
    """Of E[log p(x|z)], by E[(log p - b) d log q / d(mean, log variance)], free of derivatives of log p."""
    torch.manual_seed(4)
    model, x, samples = hw5.VAE(), data.validation[:1], 100_000
    with torch.no_grad():
        model.decoder[2].weight.mul_(5)  # so that the log-likelihood depends on z
    mean = torch.full((1, 8), 0.3, requires_grad=True)
    log_variance = torch.full((1, 8), -1.0, requires_grad=True)

    def log_likelihood(z):
        return hw5.bernoulli_log_likelihood(x, model.decode_logits(z)).squeeze(1)

    z = hw5.reparameterize(mean, log_variance, torch.randn(samples, 1, 8))
    pathwise = torch.cat(torch.autograd.grad(log_likelihood(z).mean(), (mean, log_variance))).flatten()

    with torch.no_grad():
        deviation = torch.exp(0.5 * log_variance)
        z = Normal(mean, deviation).sample((samples,))
        unit, reward = ((z - mean) / deviation).squeeze(1), log_likelihood(z)
        score = torch.cat((unit / deviation, 0.5 * (unit.square() - 1)), dim=1)
        terms = (reward - reward.mean())[:, None] * score
    error = terms.std(dim=0) / math.sqrt(samples)
    assert (pathwise.abs() > 5 * error).sum() > 8  # the estimate tells the gradient from zero
    assert ((terms.mean(dim=0) - pathwise).abs() < 5 * error).all()


def test_elbo_terms_are_those_of_torch_distributions(hw5, run, data):
    model, x = run["model"], data.validation
    with torch.no_grad():
        reconstruction, kl = hw5.elbo_terms(model, x, samples=500)
        q = normal(*model.encode(x))
        exact = kl_divergence(q, Normal(0.0, 1.0)).sum(dim=-1).mean()
        likelihood = Independent(Bernoulli(probs=model.decode(q.sample((500,)))), 1)
        expected = likelihood.log_prob(x.expand(500, 100, 196)).mean()
    assert kl.item() == pytest.approx(exact.item(), rel=1e-5)
    assert reconstruction.item() == pytest.approx(expected.item(), abs=0.1)


def test_evaluation_weighs_images_equally(hw5, run, data):
    """Also where the last piece is smaller, as with 750 images."""
    model, images = run["model"], data.test[:750]
    result = hw5.evaluate(model, images)
    with torch.no_grad():
        whole = [term.item() for term in hw5.elbo_terms(model, images, samples=16)]
    assert result["images"] == 750 and result["kl"] == pytest.approx(whole[1], rel=1e-5)
    assert result["reconstruction"] == pytest.approx(whole[0], abs=0.15)


def test_log_marginal_likelihood_is_exact_where_it_can_be(hw5, data):
    """A decoder that ignores z has p(x|z) = p(x), and p(z) / p_u(z|x) must average to 1 for any encoder."""
    torch.manual_seed(7)
    model, x = hw5.VAE(), data.validation[:5]
    with torch.no_grad():
        model.decoder[0].weight.zero_()
        model.encoder[2].weight.zero_()
        model.encoder[2].bias.copy_(torch.tensor([0.2] * 8 + [-0.1] * 8))
        exact = Independent(Bernoulli(logits=model.decode_logits(torch.zeros(8))), 1).log_prob(x)
    torch.testing.assert_close(hw5.log_marginal_likelihood(model, x, 50_000), exact, rtol=0, atol=0.02)
    with torch.no_grad():
        model.encoder[2].bias.copy_(torch.tensor([0.0] * 8 + [-300.0] * 8))  # a variance that underflows
    assert hw5.log_marginal_likelihood(model, x, 10).isfinite().all()


def test_architecture_is_that_of_the_handout(hw5):
    model = hw5.VAE()
    names = [[type(layer).__name__ for layer in part] for part in (model.encoder, model.decoder)]
    assert names == [["Linear", "Tanh", "Linear"]] * 2
    assert [tuple(weight.shape) for weight in model.state_dict().values()] == [
        (128, 196), (128,), (16, 128), (16,), (128, 8), (128,), (196, 128), (196,),
    ]  # fmt: skip


def test_reconstructions_decode_the_mean(hw5, run, data):
    """Against the decoder's equation in NumPy: neither a sample, nor the log variance, nor thresholded."""
    mean = numpy_layers(run["model"], "encoder", data.validation)[:, :8]
    expected = sigmoid(numpy_layers(run["model"], "decoder", mean))
    np.testing.assert_allclose(hw5.reconstruct(run["model"], data.validation), expected, atol=1e-5)


def test_samples_decode_standard_gaussians(hw5, run):
    """Against the decoder's equation in NumPy, of the normal numbers that the seed gives."""
    torch.manual_seed(8)
    outputs = hw5.sample(run["model"], 500)
    torch.manual_seed(8)
    z = torch.randn(500, 8)
    expected = sigmoid(numpy_layers(run["model"], "decoder", z))
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
