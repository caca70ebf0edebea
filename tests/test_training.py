"""Training: it learns, it repeats itself, validating does not disturb it, and it stops where it must."""

import numpy as np
import pytest
import torch

SETTINGS = {"updates": 250, "batch_size": 200, "learning_rate": 0.02, "weight_decay": 0.03, "seed": 0}


def train(hw5, data, **changes):
    torch.manual_seed(0)
    model = hw5.VAE()
    return model, hw5.train(model, data, **{**SETTINGS, **changes})


def test_log_has_every_update_and_every_100th_validation(hw5, data):
    model, log = train(hw5, data)
    assert len(log.reconstruction) == len(log.kl) == 250 and len(log.validation) == 2 and log.stopped is None
    assert log.reconstruction[0] < -50 < -36 < log.reconstruction[-1] < -20  # nats per image: from the mean image to digits
    assert 3 < log.kl[-1] < 15


def test_log_is_eq_1_of_the_model_before_the_update(hw5, data):
    """Update 1 logs the terms of the initial weights on the first mini-batch of the first permutation."""
    torch.manual_seed(0)
    model = hw5.VAE()
    hw5.start_at_mean_image(model, data.training)
    noise = torch.Generator().manual_seed(0)
    batch = next(hw5.minibatches(data.training, 200, noise))
    with torch.no_grad():
        reconstruction, kl = hw5.elbo_terms(model, batch, noise)
    log = train(hw5, data, updates=1)[1]
    assert log.reconstruction[0] == pytest.approx(reconstruction.item()) and log.kl[0] == pytest.approx(kl.item())


def test_validation_curve_is_the_models_at_its_update(hw5, data):
    model, log = train(hw5, data, updates=100)
    mean = hw5.evaluate(model, data.validation, seed=1, samples=200)["reconstruction"]
    assert log.validation[0] == pytest.approx(mean, abs=1.5)  # 2 samples against 200


def test_same_seed_same_result_and_another_seed_another(hw5, data):
    model, log = train(hw5, data)
    again, log_again = train(hw5, data)
    other = train(hw5, data, seed=1)[1]
    assert np.array_equal(log.reconstruction, log_again.reconstruction) and np.array_equal(log.kl, log_again.kl)
    assert np.array_equal(log.validation, log_again.validation)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values()))
    assert not np.array_equal(log.reconstruction, other.reconstruction)


def test_validation_leaves_training_unchanged(hw5, data, monkeypatch):
    log = train(hw5, data)[1]
    monkeypatch.setattr(hw5, "VALIDATION_EVERY", 7)
    often = train(hw5, data)[1]
    assert len(often.validation) == 35
    assert np.array_equal(log.reconstruction, often.reconstruction) and np.array_equal(log.kl, often.kl)


def test_validation_images_do_not_train(hw5, data):
    log = train(hw5, data)[1]
    other = train(hw5, data._replace(validation=torch.zeros(100, 196)))[1]
    assert np.array_equal(log.reconstruction, other.reconstruction)
    assert not np.array_equal(log.validation, other.validation)


def test_training_improves_both_sides_of_the_bound(hw5, data, trained):
    model, log = trained
    torch.manual_seed(0)
    before = hw5.evaluate(hw5.VAE(), data.validation, seed=0)["elbo"]
    after = hw5.evaluate(model, data.validation, seed=0)
    assert before < -100 and after["elbo"] > -50
    assert after["elbo"] == pytest.approx(after["reconstruction"] - after["kl"])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_latent_dies(hw5, data, seed):
    """Early steps that are too large leave latents with a KL of 0 for ever; a quarter of a long training shows it."""

    def progress(update, *_):
        if update == 400:
            raise KeyboardInterrupt

    torch.manual_seed(seed)
    model = hw5.VAE()
    hw5.train(model, data, updates=1600, batch_size=400, learning_rate=0.04, weight_decay=0.2, seed=seed, progress=progress)
    with torch.no_grad():
        kl = hw5.gaussian_kl(*model.encode(data.validation)).mean(dim=0)
    assert (kl > 0.2).all()  # nats; a latent in use has about 1


def test_ctrl_c_keeps_the_log(hw5, data):
    def progress(update, *_):
        if update == 200:
            raise KeyboardInterrupt

    log = train(hw5, data, progress=progress)[1]
    assert isinstance(log.stopped, KeyboardInterrupt) and "200" in str(log.stopped)
    assert len(log.kl) == 200 and len(log.validation) == 2


def test_divergence_names_the_update_and_keeps_the_log_up_to_it(hw5, data):
    seen = []
    log = train(hw5, data, learning_rate=1e4, updates=500, progress=lambda update, *_: seen.append(update))[1]
    assert isinstance(log.stopped, hw5.Failure)
    assert seen == list(range(100, len(log.kl) + 1, 100))  # it stopped at the next look, not at the end
    assert f"update {len(log.kl) + 1} " in str(log.stopped)
    assert len(log.kl) < 400 and np.isfinite(log.kl).all() and np.isfinite(log.reconstruction).all()


@pytest.mark.parametrize("size", [1, 7, 300, 10000])
def test_any_batch_size_trains(hw5, data, size):
    log = train(hw5, data, updates=100 if size < 10000 else 20, batch_size=size)[1]
    assert log.stopped is None and np.isfinite(log.reconstruction).all()


def test_evaluation_weighs_images_equally(hw5, trained, data):
    """Also where the pieces are unequal: 10,000 images but one, against pieces of one size."""
    model = trained[0]
    whole = hw5.evaluate(model, data.test[:750], seed=0, samples=50)
    parts = [hw5.evaluate(model, part, seed=0, samples=50) for part in data.test[:750].split(250)]
    assert whole["images"] == 750
    assert whole["kl"] == pytest.approx(np.mean([part["kl"] for part in parts]), rel=1e-5)
    assert whole["reconstruction"] == pytest.approx(np.mean([part["reconstruction"] for part in parts]), abs=0.05)


def test_running_mean_and_settled(hw5):
    values = np.arange(1.0, 301.0)
    updates, mean = hw5.running_mean(values)
    assert len(mean) == 201 and np.allclose(updates, mean)  # of a line, the mean over a window is its middle
    updates, mean = hw5.running_mean(values[:3])
    assert updates.tolist() == [2.0] and mean.tolist() == [2.0]
    step = np.concatenate((np.zeros(500), np.full(500, 100.0)))
    assert 549 <= hw5.settled(step) <= 551 and hw5.settled(np.zeros(300)) == 50
