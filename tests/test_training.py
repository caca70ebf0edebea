"""Training: it takes Adam's steps on Eq. (1), logs what it should, and repeats itself."""

import math

import numpy as np
import pytest
import torch


def train(hw5, data, updates, batch_size=200, learning_rate=0.02, seed=0):
    """A new model trained by train() of the script, and the two arrays that it returned."""
    torch.manual_seed(seed)
    model = hw5.VAE()
    return model, *hw5.train(model, data, updates, batch_size, learning_rate)


def test_updates_are_those_of_adam_with_a_cosine_on_minus_the_elbo(hw5, data):
    """Against Algorithm 1 of Kingma & Ba (arXiv:1412.6980) written out; the log is that before each step."""
    updates, rate = 30, 0.02
    model, terms, _ = train(hw5, data, updates, learning_rate=rate)
    torch.manual_seed(0)
    reference = hw5.VAE()
    moments = {name: [torch.zeros_like(p), torch.zeros_like(p)] for name, p in reference.named_parameters()}
    for t in range(1, updates + 1):
        x = data.training[torch.randint(10_000, (200,))]
        reconstruction, kl = hw5.elbo_terms(reference, x)
        assert terms[t - 1] == pytest.approx([reconstruction.item(), kl.item()], rel=2e-2)
        gradients = torch.autograd.grad(kl - reconstruction, list(reference.parameters()))
        now = rate * (1 + math.cos(math.pi * (t - 1) / updates)) / 2
        with torch.no_grad():
            for (name, p), gradient in zip(reference.named_parameters(), gradients):
                mean, square = moments[name]
                mean.mul_(0.9).add_(0.1 * gradient)
                square.mul_(0.999).add_(0.001 * gradient**2)
                p -= now * (mean / (1 - 0.9**t)) / ((square / (1 - 0.999**t)).sqrt() + 1e-8)
    for (name, p), q in zip(reference.named_parameters(), model.parameters()):
        torch.testing.assert_close(q, p, rtol=0, atol=2e-3, msg=lambda text, name=name: f"{name}: {text}")


def test_one_pair_of_terms_for_every_update_and_a_validation_for_every_100th(hw5, data):
    _, terms, validation = train(hw5, data, 250)
    assert terms.shape == (250, 2) and validation.shape == (2,)
    assert terms[0, 0] < -100 and -40 < terms[-1, 0] < -20  # nats per image: from noise to digits
    assert terms[0, 1] < 3 < terms[-1, 1] < 15


def test_two_samples_train_and_16_validate(hw5, data, monkeypatch):
    seen, original = [], hw5.reparameterize
    monkeypatch.setattr(hw5, "reparameterize", lambda *a: seen.append(tuple(a[2].shape)) or original(*a))
    train(hw5, data, 100, batch_size=50)
    assert seen == [(2, 50, 8)] * 100 + [(16, 100, 8)]


def test_validation_is_the_log_likelihood_of_the_model_after_its_update(hw5, data):
    model, _, validation = train(hw5, data, 100)
    values = [hw5.evaluate(model, data.validation)["reconstruction"] for _ in range(10)]
    assert validation[0] == pytest.approx(np.mean(values), abs=0.5)
    assert abs(validation[0] - hw5.evaluate(model, data.training)["reconstruction"]) > 0.2  # other images


def test_validation_images_do_not_train(hw5, data):
    _, terms, validation = train(hw5, data, 150)
    _, other_terms, other_validation = train(hw5, data._replace(validation=torch.zeros(100, 196)), 150)
    assert np.array_equal(terms, other_terms) and validation[0] != other_validation[0]


def test_same_seed_same_result_and_another_seed_another(hw5, data):
    (model, *arrays), (again, *arrays_again) = train(hw5, data, 120), train(hw5, data, 120)
    assert all(np.array_equal(a, b) for a, b in zip(arrays, arrays_again))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values()))
    assert not np.array_equal(arrays[0], train(hw5, data, 120, seed=1)[1])


@pytest.mark.parametrize("seed", [0, 1])
def test_no_latent_dies_at_the_default_rate(hw5, data, seed):
    """Steps that are too large leave latents with a KL of 0 for ever; 500 updates show it."""
    model = train(hw5, data, 500, learning_rate=hw5.parse_options([]).learning_rate, seed=seed)[0]
    with torch.no_grad():
        mean, log_variance = model.encode(data.validation)
        kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean(dim=0)
    assert (kl > 0.2).all()  # nats; a latent in use has about 1


@pytest.mark.parametrize("size", [1, 10_000])
def test_any_batch_size_trains(hw5, data, size):
    _, terms, _ = train(hw5, data, 10, batch_size=size)
    assert terms.shape == (10, 2) and np.isfinite(terms).all()
