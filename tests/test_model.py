"""(ii): the model and every equation, each against an independent computation."""

import pytest
import torch
from conftest import Recorder, reference_terms
from torch.distributions import Bernoulli, Normal, kl_divergence

import pennkey_hw5_problem1 as hw5


def test_layers_are_those_of_the_handout():
    shapes = [tuple(weight.shape) for weight in hw5.VAE().encoder.parameters()]
    assert shapes == [(128, 196), (128,), (16, 128), (16,)]
    shapes = [tuple(weight.shape) for weight in hw5.VAE().decoder.parameters()]
    assert shapes == [(128, 8), (128,), (196, 128), (196,)]


def test_encoder_and_decoder_compute_tanh_layers():
    model = hw5.VAE()
    x = torch.rand(3, 196)
    w1, b1, w2, b2 = model.encoder.parameters()
    outputs = torch.tanh(x @ w1.T + b1) @ w2.T + b2
    mean, log_variance = model.encode(x)
    torch.testing.assert_close(mean, outputs[:, :8])
    torch.testing.assert_close(log_variance, outputs[:, 8:])

    z = torch.randn(3, 8)
    w1, b1, w2, b2 = model.decoder.parameters()
    logits = torch.tanh(z @ w1.T + b1) @ w2.T + b2
    torch.testing.assert_close(model.decode(z), logits)


def test_reparameterized_z_has_the_mean_and_the_variance():
    torch.manual_seed(0)
    mean = torch.tensor([[1.0, -2.0]])
    log_variance = torch.tensor([[0.0, 2.0]])
    z = hw5.reparameterize(mean, log_variance, torch.randn(100_000, 1, 2))
    torch.testing.assert_close(z.mean(dim=0), mean, atol=0.03, rtol=0)
    torch.testing.assert_close(z.var(dim=0), log_variance.exp(), atol=0, rtol=0.03)


def test_log_likelihood_is_that_of_a_bernoulli_distribution():
    torch.manual_seed(0)
    x = torch.bernoulli(torch.full((5, 196), 0.5))
    logits = 3 * torch.randn(2, 5, 196)
    expected = Bernoulli(logits=logits.double()).log_prob(x.double()).sum(dim=-1)
    value = hw5.bernoulli_log_likelihood(x, logits)
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=0)


def test_log_likelihood_of_grey_pixels_is_the_formula_of_the_handout():
    x = torch.tensor([[0.3, 0.9]])
    y = torch.tensor([[[0.3, 0.2]]])
    expected = (x * y.log() + (1 - x) * (1 - y).log()).sum(dim=-1)
    torch.testing.assert_close(hw5.bernoulli_log_likelihood(x, torch.logit(y)), expected)


def test_log_likelihood_and_its_gradient_are_right_for_very_large_logits():
    x = torch.tensor([[0.0, 1.0, 0.0, 1.0]])
    logits = torch.tensor([[[200.0, -200.0, -200.0, 200.0]]], requires_grad=True)
    value = hw5.bernoulli_log_likelihood(x, logits)
    value.sum().backward()
    assert value.item() == -400
    assert logits.grad.tolist() == [[[-1, 1, 0, 0]]]


def test_kl_is_that_between_two_gaussians():
    torch.manual_seed(0)
    mean, log_variance = torch.randn(2, 5, 8)
    posterior = Normal(mean, torch.exp(0.5 * log_variance))
    expected = kl_divergence(posterior, Normal(0.0, 1.0)).sum(dim=-1)
    torch.testing.assert_close(hw5.gaussian_kl(mean, log_variance), expected)


@pytest.mark.parametrize("samples", [1, 2, 16])
def test_terms_of_the_elbo_and_their_gradients_are_those_of_the_reference(data, samples):
    torch.manual_seed(0)
    model = hw5.VAE()
    recorder = Recorder(model)
    x = data[0][::50]
    reconstruction, kl = hw5.elbo_terms(model, x, samples)
    gradients = torch.autograd.grad(reconstruction - kl, model.parameters())

    epsilon = recorder.passes[0]["epsilon"]
    expected_reconstruction, expected_kl = reference_terms(model, x, epsilon)
    torch.testing.assert_close(reconstruction, expected_reconstruction.mean())
    torch.testing.assert_close(kl, expected_kl.mean())
    elbo = expected_reconstruction.mean() - expected_kl.mean()
    expected_gradients = torch.autograd.grad(elbo, model.parameters())
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-3, atol=1e-5)


def test_noise_is_standard_normal_and_its_own_for_each_image_sample_and_dimension(data):
    torch.manual_seed(0)
    model = hw5.VAE()
    recorder = Recorder(model)
    hw5.elbo_terms(model, data[0][:2000], samples=2)
    epsilon = recorder.passes[0]["epsilon"]
    assert epsilon.shape == (2, 2000, 8)
    assert abs(epsilon.mean()) < 0.02
    assert abs(epsilon.std() - 1) < 0.02
    rows = epsilon.reshape(-1, 8)
    assert len(rows.unique(dim=0)) == 4000
    correlations = torch.corrcoef(rows.T) - torch.eye(8)
    assert correlations.abs().max() < 0.1


def test_everything_is_computed_on_the_device_of_the_images():
    """PyTorch's device "meta" has no values, but refuses tensors of two devices, as a GPU does."""
    model = hw5.VAE().to("meta")
    x = torch.zeros(20, 196, device="meta")
    reconstruction, kl = hw5.elbo_terms(model, x, samples=2)
    assert reconstruction.device.type == "meta"
    assert kl.device.type == "meta"


def test_evaluation_averages_over_all_images_and_samples(data, trained_model):
    """By many samples the estimates agree, whatever the noise was."""
    torch.manual_seed(0)
    _, validation, _ = data
    results = hw5.evaluate(trained_model, validation, samples=400)
    epsilon = torch.randn(400, 100, 8)
    expected_reconstruction, expected_kl = reference_terms(trained_model, validation, epsilon)
    reconstruction = expected_reconstruction.mean().item()
    kl = expected_kl.mean().item()
    assert results["reconstruction"] == pytest.approx(reconstruction, abs=0.1)
    assert results["kl"] == pytest.approx(kl, rel=1e-4)
    assert results["elbo"] == pytest.approx(reconstruction - kl, abs=0.1)


def test_evaluation_leaves_the_random_numbers_as_they_were(data):
    model = hw5.VAE()
    state = torch.get_rng_state()
    hw5.evaluate(model, data[1], samples=1)
    assert torch.equal(torch.get_rng_state(), state)
