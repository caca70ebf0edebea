"""Training: it learns, it repeats itself, validating does not disturb it, and it stops where it must."""

import argparse
import contextlib
import itertools
import math

import numpy as np
import pytest
import torch
from conftest import DATA, train


def options(hw5, **changes):
    """The options of the command line with `changes`."""
    return argparse.Namespace(**{**vars(hw5.parse_options([])), **changes})


def test_log_has_every_update_and_every_100th_validation(hw5, data):
    log = train(hw5, data)[1]
    assert log.shape == (250, 3) and np.isfinite(log[:, :2]).all()
    assert np.flatnonzero(np.isfinite(log[:, 2])).tolist() == [99, 199]
    assert log[0, 0] < -100 and -40 < log[-1, 0] < -20  # nats per image: from noise to digits
    assert 3 < log[-1, 1] < 15


def test_log_is_eq_1_of_the_model_before_the_update(hw5, data):
    """Update 1 logs the terms of the initial weights on the first mini-batch of the first permutation."""
    torch.manual_seed(0)
    model = hw5.VAE()
    noise = torch.Generator().manual_seed(0)
    batch = next(hw5.minibatches(data.training, 200, noise))
    with torch.no_grad():
        reconstruction, kl = hw5.elbo_terms(model, batch, noise)
    assert train(hw5, data, 1)[1][0, :2] == pytest.approx([reconstruction.item(), kl.item()])


def test_updates_are_those_of_adam_with_a_cosine_and_decay_of_the_first_matrix(hw5, data):
    """Against Algorithm 1 of Kingma & Ba (arXiv:1412.6980), with decoupled decay, written out."""
    updates, rate, decay = 30, 0.02, 0.3
    model = train(hw5, data, updates, learning_rate=rate, weight_decay=decay)[0]
    torch.manual_seed(0)
    reference, noise = hw5.VAE(), torch.Generator().manual_seed(0)
    moments = {name: [torch.zeros_like(p), torch.zeros_like(p)] for name, p in reference.named_parameters()}
    batches = hw5.minibatches(data.training, 200, noise)
    for t, x in zip(range(1, updates + 1), batches):
        reconstruction, kl = hw5.elbo_terms(reference, x, noise)
        gradients = torch.autograd.grad(kl - reconstruction, list(reference.parameters()))
        now = rate * (1 + math.cos(math.pi * (t - 1) / updates)) / 2
        with torch.no_grad():
            for (name, p), gradient in zip(reference.named_parameters(), gradients):
                mean, square = moments[name]
                mean.mul_(0.9).add_(0.1 * gradient)
                square.mul_(0.999).add_(0.001 * gradient**2)
                if name == "encoder.0.weight":
                    p -= now * decay * p
                p -= now * (mean / (1 - 0.9**t)) / ((square / (1 - 0.999**t)).sqrt() + 1e-8)
    for (name, p), q in zip(reference.named_parameters(), model.parameters()):
        torch.testing.assert_close(q, p, rtol=0, atol=2e-3, msg=lambda text, name=name: f"{name}: {text}")


def test_validation_curve_is_the_models_at_its_update(hw5, data):
    model, log = train(hw5, data, 100)
    mean = hw5.evaluate(model, data.validation, seed=1, samples=200)["reconstruction"]
    assert log[99, 2] == pytest.approx(mean, abs=1.5)  # 2 samples against 200


def test_same_seed_same_result_and_another_seed_another(hw5, data):
    model, log = train(hw5, data)
    again, log_again = train(hw5, data)
    other = train(hw5, data, seed=1)[1]
    assert np.array_equal(log, log_again, equal_nan=True)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values()))
    assert not np.array_equal(log[:, 0], other[:, 0])


def test_validation_leaves_training_unchanged(hw5, data, monkeypatch):
    log = train(hw5, data)[1]
    monkeypatch.setattr(hw5, "VALIDATION_EVERY", 7)
    often = train(hw5, data)[1]
    assert np.isfinite(often[:, 2]).sum() == 35
    assert np.array_equal(log[:, :2], often[:, :2])


def test_validation_images_do_not_train(hw5, data):
    log = train(hw5, data)[1]
    other = train(hw5, data._replace(validation=torch.zeros(100, 196)))[1]
    assert np.array_equal(log[:, :2], other[:, :2])
    assert log[99, 2] != other[99, 2]


def test_training_improves_both_sides_of_the_bound(hw5, data, trained):
    torch.manual_seed(0)
    before = hw5.evaluate(hw5.VAE(), data.validation, seed=0)["elbo"]
    after = hw5.evaluate(trained[0], data.validation, seed=0)
    assert before < -100 and after["elbo"] > -50
    assert after["elbo"] == pytest.approx(after["reconstruction"] - after["kl"])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_latent_dies(hw5, seed):
    """Steps that are too large leave latents with a KL of 0 for ever; a tenth of a training shows it."""
    data, settings = hw5.make_data(DATA, seed), options(hw5, seed=seed)
    torch.manual_seed(seed)
    model, log = hw5.VAE(), torch.full((settings.updates, 3), math.nan)
    for _ in itertools.islice(hw5.train(model, data, log, settings), settings.updates // 1000):
        pass
    with torch.no_grad():
        kl = hw5.gaussian_kl(*model.encode(data.validation)).mean(dim=0)
    assert (kl > 0.2).all()  # nats; a latent in use has about 1


def test_ctrl_c_keeps_the_log(hw5, data, monkeypatch):
    whole, original = train(hw5, data, 230)[1], hw5.train

    def interrupted(*arguments):
        for update in original(*arguments):
            yield update
            if update == 200:
                raise KeyboardInterrupt

    settings = options(hw5, updates=230, learning_rate=0.02)
    torch.manual_seed(0)
    monkeypatch.setattr(hw5, "train", interrupted)
    log = hw5.train_and_report(hw5.VAE(), data, settings)
    assert log.shape == (200, 3) and np.isfinite(log[:, :2]).all()
    assert log[0].tolist()[:2] == whole[0].tolist()[:2]


@pytest.mark.parametrize("updates", [500, 80])
def test_divergence_names_the_update_and_stops_at_the_next_look(hw5, data, monkeypatch, updates):
    seen, original = [], hw5.train

    def watched(model, data, log, settings):
        seen.append(log)
        for update in original(model, data, log, settings):
            seen.append(update)
            yield update

    monkeypatch.setattr(hw5, "train", watched)
    torch.manual_seed(0)
    with pytest.raises(SystemExit) as stop:
        hw5.train_and_report(hw5.VAE(), data, options(hw5, updates=updates, learning_rate=1e4))
    log, *looks = seen
    bad = int(log[:, :2].isfinite().all(dim=1).int().argmin()) + 1  # the first update that is not finite
    assert stop.value.code == f"error: training diverged at update {bad}; lower the --learning-rate"
    assert 1 < bad < 100 and looks == ([100] if updates == 500 else [])


@pytest.mark.parametrize("size", [1, 7, 300, 9999, 10000])
def test_any_batch_size_trains(hw5, data, size):
    log = train(hw5, data, 100 if size < 9999 else 20, batch_size=size)[1]
    assert np.isfinite(log[:, :2]).all()
    if size == 9999:  # a remainder of one image must not train as much as all others
        assert log[-1, 0] == pytest.approx(train(hw5, data, 20, batch_size=10000)[1][-1, 0], abs=3)


def test_evaluation_weighs_images_equally(hw5, trained, data):
    """Also where the pieces are unequal: 750 images at once against three times 250."""
    model = trained[0]
    whole = hw5.evaluate(model, data.test[:750], seed=0, samples=50)
    parts = [hw5.evaluate(model, part, seed=0, samples=50) for part in data.test[:750].split(250)]
    assert whole["images"] == 750
    assert whole["kl"] == pytest.approx(np.mean([part["kl"] for part in parts]), rel=1e-5)
    reconstruction = np.mean([part["reconstruction"] for part in parts])
    assert whole["reconstruction"] == pytest.approx(reconstruction, abs=0.05)


def test_train_is_lazy(hw5, data):
    """A generator: closing it early leaves the rest of the log as it was."""
    log = torch.full((300, 3), math.nan)
    with contextlib.closing(hw5.train(hw5.VAE(), data, log, options(hw5))) as steps:
        assert next(steps) == 100
    assert log[:100, :2].isfinite().all() and log[100:].isnan().all()
