"""(i), (iii) to (vi): what is drawn is what titles, labels and legends say."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

import pennkey_hw5_problem1 as hw5


def shown_images(axes, rows, columns):
    """The images (rows, columns, 196) in the picture on `axes`, as seen: 1 for black."""
    (picture,) = axes.images
    darkness = 1 - picture.to_rgba(picture.get_array())[:, :, 0]
    assert darkness.shape == (1 + 15 * rows, 1 + 15 * columns)
    images = np.empty((rows, columns, 196))
    for row in range(rows):
        for column in range(columns):
            top, left = 1 + 15 * row, 1 + 15 * column
            images[row, column] = darkness[top : top + 14, left : left + 14].reshape(196)
    return images


def curve(axes, label):
    """The x and y values of the curve that the legend calls `label`."""
    for line in axes.lines:
        if line.get_label() == label:
            return line.get_data()
    raise AssertionError(f"there is no curve {label!r}")


def legend_texts(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def made_up_logs(updates):
    """A training log and a validation log with made-up values that rise as real ones do."""
    random = np.random.default_rng(0)
    training_log = []
    validation_log = []
    for update in range(1, updates + 1):
        training_log.append((update, -20 - 100 / update + random.normal(), 10 + random.normal()))
        if update % 100 == 0:
            validation_log.append((update, -21 - 100 / update))
    return training_log, validation_log


def test_plot_i_shows_ten_training_images_of_each_digit_beside_its_name(data_by_digit):
    training, _, _ = data_by_digit
    (axes,) = hw5.draw_dataset(training).axes
    images = shown_images(axes, rows=10, columns=10)
    np.testing.assert_allclose(images, training[:, :10], atol=0.01)
    for digit, label in enumerate(axes.texts):
        _, height = label.get_position()
        assert label.get_text() == f"digit {digit}"
        assert height == pytest.approx(7.5 + 15 * digit)
    assert "10 of 1000 images of each digit" in axes.get_title()


def test_plot_iii_shows_both_terms_at_every_update():
    training_log, _ = made_up_logs(500)
    updates, reconstruction, kl = np.array(training_log).T
    upper, lower = hw5.draw_elbo_terms(training_log).axes

    np.testing.assert_array_equal(
        curve(upper, "first term: E[log p(x|z)]"), (updates, reconstruction)
    )
    np.testing.assert_array_equal(
        curve(lower, "second term, subtracted: KL(p(z|x) || N(0, I))"), (updates, kl)
    )
    assert upper.get_ylabel() == "reconstruction\n(nats per image)"
    assert lower.get_ylabel() == "KL\n(nats per image)"
    assert lower.get_xlabel() == "number of weight updates (logarithmic axis)"
    assert upper.get_xscale() == lower.get_xscale() == "log"
    assert len(legend_texts(upper)) == len(legend_texts(lower)) == 1


def test_plot_iv_shows_validation_images_beside_the_outputs_for_the_encoder_s_mean(
    data_by_digit, trained_model
):
    _, validation, _ = data_by_digit
    *panels, colour_bar = hw5.draw_reconstructions(trained_model, validation).axes
    assert len(panels) == 8
    assert colour_bar.get_ylabel() == "probability y of black"
    for digit, axes in enumerate(panels):
        x = validation[digit, 0]
        mean, _ = trained_model.encode(x)
        y = torch.sigmoid(trained_model.decode(mean)).detach()
        (pair,) = shown_images(axes, rows=1, columns=2)
        np.testing.assert_allclose(pair[0], x, atol=0.01)
        np.testing.assert_allclose(pair[1], y, atol=0.01)
        log_likelihood = torch.where(x == 1, y, 1 - y).log().sum().item()
        assert axes.get_title() == f"digit {digit}: {log_likelihood:.1f} nats"


def test_plot_v_shows_the_outputs_for_40_standard_normal_z(trained_model):
    torch.manual_seed(0)
    outputs = []
    hook = trained_model.decoder.register_forward_hook(
        lambda module, inputs, output: outputs.append((inputs[0], torch.sigmoid(output)))
    )
    axes, colour_bar = hw5.draw_samples(trained_model).axes
    hook.remove()
    ((z, y),) = outputs
    assert z.shape == (40, 8)
    assert abs(z.mean()) < 0.2
    assert abs(z.std() - 1) < 0.2
    images = shown_images(axes, rows=5, columns=8)
    np.testing.assert_allclose(images.reshape(40, 196), y, atol=0.01)
    assert colour_bar.get_ylabel() == "probability y of black"
    assert "40 samples z from N(0, I)" in axes.get_title()


def test_plot_v_does_not_stretch_grey_to_black_and_white():
    axes, _ = hw5.draw_samples(hw5.VAE()).axes  # an untrained model, whose outputs are all grey
    images = shown_images(axes, rows=5, columns=8)
    assert 0.2 < images.min() < images.max() < 0.8


def test_plot_vi_shows_mini_batches_their_moving_average_and_validation():
    training_log, validation_log = made_up_logs(500)
    updates, reconstruction, _ = np.array(training_log).T
    (axes,) = hw5.draw_log_likelihood(training_log, validation_log).axes

    shown = curve(axes, "training mini-batch")
    np.testing.assert_array_equal(shown, (updates, reconstruction))

    shown_updates, average = curve(axes, "moving average of 101 mini-batches")
    assert list(shown_updates) == list(range(51, 451))
    for update, value in zip(shown_updates.astype(int), average):
        around = reconstruction[update - 51 : update + 50]  # updates - 50 to update + 50
        assert value == pytest.approx(around.mean())

    shown = curve(axes, "validation images")
    np.testing.assert_array_equal(shown, np.array(validation_log).T)
    assert axes.get_xlabel() == "number of weight updates"
    assert axes.get_ylabel() == "reconstruction (nats per image)"


def test_plot_vi_gives_each_curve_a_colour_of_its_own_and_a_place_in_the_legend():
    (axes,) = hw5.draw_log_likelihood(*made_up_logs(500)).axes
    assert legend_texts(axes) == [line.get_label() for line in axes.lines]
    assert len({to_hex(line.get_color()) for line in axes.lines}) == 3


def test_plot_vi_leaves_out_the_first_updates_and_says_so():
    training_log, validation_log = made_up_logs(500)
    (axes,) = hw5.draw_log_likelihood(training_log, validation_log).axes
    bottom, top = axes.get_ylim()
    assert training_log[0][1] < bottom < validation_log[0][1]
    assert top > max(reconstruction for _, reconstruction, _ in training_log)
    assert (
        f"mini-batches below {bottom:.1f}, such as the first ones, are not shown"
        in axes.get_title()
    )


def test_plot_vi_shows_validation_that_becomes_worse():
    """So it is with few training images: the end must not lie below the plot."""
    training_log, validation_log = made_up_logs(500)
    validation_log[-1] = (500, -70.0)
    (axes,) = hw5.draw_log_likelihood(training_log, validation_log).axes
    assert axes.get_ylim()[0] < -70


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("updates", [1, 2, 99, 100, 101, 250])
def test_curves_of_short_runs_are_drawn_without_warnings(updates):
    training_log, validation_log = made_up_logs(updates)
    hw5.draw_elbo_terms(training_log).draw_without_rendering()
    figure = hw5.draw_log_likelihood(training_log, validation_log)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    for line in axes.lines:
        assert len(line.get_xdata()) > 0
    bottom, top = axes.get_ylim()
    assert bottom < training_log[-1][1] < top


def test_plots_of_a_model_with_dropout_are_those_of_evaluation(data_by_digit):
    _, validation, _ = data_by_digit
    model = hw5.VAE()
    model.encoder.append(torch.nn.Dropout(0.5))
    model.train()
    first = hw5.draw_reconstructions(model, validation)
    second = hw5.draw_reconstructions(model, validation)
    for axes, same_axes in zip(first.axes, second.axes):
        assert axes.get_title() == same_axes.get_title()
