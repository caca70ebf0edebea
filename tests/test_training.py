"""(ii): training takes Adam's steps on Eq. (1), logs both terms, and validates after updates."""

import copy
import os
import signal
import threading
import time

import numpy as np
import pytest
import torch
from conftest import Recorder, reference_terms

import pennkey_hw5_problem1 as hw5


def train(model, data, updates, batch_size=200, learning_rate=0.02):
    """Train by hw5.train with the training and validation images of `data`."""
    training, validation, _ = data
    return hw5.train(model, training, validation, updates, batch_size, learning_rate)


def new_model():
    """A model that is the same in every test, and the random numbers that come after it."""
    torch.manual_seed(0)
    return hw5.VAE()


def test_weights_and_log_are_those_of_adam_on_the_reference(data):
    """The reference has the mini-batches and the noise, and computes everything else anew."""
    model = new_model()
    expected = copy.deepcopy(model)
    recorder = Recorder(model)
    training_log, _, _ = train(model, data, updates=40)

    adam = torch.optim.Adam(expected.parameters())
    for update, record in enumerate(recorder.passes, start=1):
        updates_left = 41 - update  # with this one
        adam.param_groups[0]["lr"] = 0.02 * min(1, updates_left / 10)
        assert record["x"].shape == (200, 196)
        assert record["epsilon"].shape == (2, 200, 8)
        reconstruction, kl = reference_terms(expected, record["x"], record["epsilon"])
        reconstruction = reconstruction.mean()
        kl = kl.mean()
        row = (update, reconstruction.item(), kl.item())
        assert training_log[update - 1] == pytest.approx(row, rel=1e-3)
        adam.zero_grad()
        (kl - reconstruction).backward()
        adam.step()
    assert len(recorder.passes) == 40
    torch.testing.assert_close(model.state_dict(), expected.state_dict(), rtol=0, atol=1e-3)


def test_every_epoch_uses_each_image_once_in_a_new_order():
    images = torch.arange(10.0).reshape(10, 1)
    batches = hw5.mini_batches(images, batch_size=4)
    epochs = []
    for _ in range(3):
        epoch = [next(batches) for _ in range(3)]
        assert [len(batch) for batch in epoch] == [4, 4, 2]
        epochs.append(torch.cat(epoch).flatten().tolist())
    for epoch in epochs:
        assert sorted(epoch) == list(range(10))
    assert epochs[0] != epochs[1] != epochs[2]


def test_validation_is_after_the_update_and_uses_all_validation_images(data, monkeypatch):
    monkeypatch.setattr(hw5, "VALIDATION_EVERY", 3)
    model = new_model()
    recorder = Recorder(model)
    _, validation_log, _ = train(model, data, updates=6)

    # Three mini-batches and a validation, twice.
    assert [record["training"] for record in recorder.passes] == 2 * [True, True, True, False]
    assert [update for update, _ in validation_log] == [3, 6]
    last = recorder.passes[-1]
    assert torch.equal(last["x"], data[1])
    # The model now has the weights after update 6, which the last validation should have used.
    reconstruction, _ = reference_terms(model, last["x"], last["epsilon"])
    assert validation_log[-1] == pytest.approx((6, reconstruction.mean().item()), rel=1e-5)


def test_how_often_validation_runs_does_not_change_the_training(data, monkeypatch):
    monkeypatch.setattr(hw5, "VALIDATION_EVERY", 2)
    often, _, _ = train(new_model(), data, updates=10)
    monkeypatch.setattr(hw5, "VALIDATION_EVERY", 100)
    never, validation_log, _ = train(new_model(), data, updates=10)
    assert often == never
    assert validation_log == []


def test_constants_that_are_changed_after_the_import_are_used(data, monkeypatch):
    monkeypatch.setattr(hw5, "SAMPLES", 5)
    monkeypatch.setattr(hw5, "LATENT", 3)
    model = new_model()
    recorder = Recorder(model)
    train(model, data, updates=1)
    assert recorder.passes[0]["epsilon"].shape == (5, 200, 3)


@pytest.mark.parametrize("batch_size", [1, 10_000, 20_000])
def test_mini_batches_may_be_of_any_size(data, batch_size):
    training_log, _, _ = train(new_model(), data, updates=2, batch_size=batch_size)
    assert np.isfinite(training_log).all()


def test_training_uses_one_thread(data):
    torch.set_num_threads(2)
    train(new_model(), data, updates=1)
    assert torch.get_num_threads() == 1


def test_progress_shows_the_rows_of_both_logs(data, capsys):
    training_log, validation_log, _ = train(new_model(), data, updates=200, batch_size=20)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for line, update in zip(lines, [100, 200]):
        _, reconstruction, kl = training_log[update - 1]
        _, validation_reconstruction = validation_log[update // 100 - 1]
        assert line.split() == [
            "update",
            f"{update}:",
            "reconstruction",
            f"{reconstruction:.1f},",
            "KL",
            f"{kl:.1f},",
            "validation",
            "reconstruction",
            f"{validation_reconstruction:.1f}",
        ]


@pytest.mark.parametrize("pixel", [-0.1, 1.1, 255.0])
def test_pixels_for_which_the_likelihood_has_no_meaning_are_an_error(data, pixel):
    training, validation, _ = data
    wrong = validation.clone()
    wrong[3, 5] = pixel
    for images in ((wrong, validation, None), (training, wrong, None)):
        with pytest.raises(hw5.RunError, match="between 0 and 1"):
            train(new_model(), images, updates=1)


def test_second_sigmoid_is_an_error(data):
    model = new_model()
    model.decoder.append(torch.nn.Sigmoid())
    with pytest.raises(hw5.RunError, match="must not end with a sigmoid"):
        train(model, data, updates=1)


def test_layers_that_need_batches_of_vectors_can_be_added(data):
    model = new_model()
    model.encoder.insert(2, torch.nn.BatchNorm1d(128))
    model.decoder.insert(2, torch.nn.BatchNorm1d(128))
    training_log, _, _ = train(model, data, updates=2)
    assert np.isfinite(training_log).all()


def test_loss_that_is_no_longer_finite_is_an_error_that_names_the_update(data):
    with pytest.raises(hw5.RunError, match="diverged at update 2"):
        train(new_model(), data, updates=5, learning_rate=1e10)


@pytest.fixture
def ctrl_c_is_heard():
    """Python's own handling of Ctrl-C: a job in the background of a shell would ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c_is_heard")
def test_ctrl_c_ends_the_training_and_returns_what_was_logged(data):
    def press_ctrl_c():
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press_ctrl_c).start()
    training_log, _, interrupted = train(new_model(), data, updates=20_000, batch_size=20)
    assert interrupted
    assert 0 < len(training_log) < 20_000
    assert training_log[-1][0] == len(training_log)


def test_training_that_is_not_interrupted_says_so(data):
    _, _, interrupted = train(new_model(), data, updates=1)
    assert not interrupted


def test_ctrl_c_before_the_first_update_is_left_to_python(data, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(hw5, "elbo_terms", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(new_model(), data, updates=1)
