"""The figures, by what is drawn in their axes: it is what titles, labels and legends say."""

import re

import numpy as np
import pytest
import torch
from conftest import layers


def tiles(axes):
    """The images (rows, columns, 196) that a reader sees in a mosaic with its whole frame, 1 for black."""
    (image,) = axes.images
    rows, columns = (int(size) for size in (axes.get_ylim()[0], axes.get_xlim()[1]))
    assert [*axes.get_xlim(), *axes.get_ylim()] == image.get_extent() == [0, columns, rows, 0]
    assert image.origin == "upper"
    shown = 1 - image.to_rgba(image.get_array())[..., 0]  # 0 is white and 1 black: what the eye sees
    return shown.reshape(rows, 14, columns, 14).swapaxes(1, 2).reshape(rows, columns, 196)


def test_dataset_shows_ten_training_images_of_each_digit_beside_its_name(run, data):
    (axes,) = run.figures["i_dataset"].axes
    np.testing.assert_allclose(tiles(axes), data[0].view(10, 1000, 196)[:, :10], atol=0.01)
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert dict(zip(labels, axes.get_yticks())) == {f"digit {digit}": digit + 0.5 for digit in range(10)}
    assert "10 of the 1000 images of each digit" in run.figures["i_dataset"].get_suptitle()


def test_reconstructions_show_image_and_output_for_the_mean_with_its_log_likelihood(run, data):
    *panels, bar = (figure := run.figures["iv_reconstructions"]).axes
    assert len(panels) == 8 and bar.get_ylabel() == "pixel probability $y$"
    assert "Validation images $x$ (left), outputs $y$ (right)" in figure.get_suptitle()
    for digit, axes in enumerate(panels):
        x = data[1][10 * digit]  # the first validation image of its digit
        y = layers(run.model, "decoder", layers(run.model, "encoder", x)[:8]).sigmoid()
        np.testing.assert_allclose(tiles(axes), torch.stack((x, y))[None], atol=0.01)
        (value,) = re.fullmatch(rf"digit {digit}: \u2212(\d+\.\d)", axes.get_title()).groups()
        assert -float(value) == pytest.approx(torch.where(x == 1, y, 1 - y).log().sum().item(), abs=0.0501)


def test_samples_show_the_outputs_for_40_draws(hw5, run):
    """By a new model, too, whose outputs are grey: they are not stretched to black and white."""
    for model in (run.model, hw5.VAE()):
        torch.manual_seed(8)
        axes, bar = (figure := hw5.draw_samples(model)).axes
        torch.manual_seed(8)
        expected = layers(model, "decoder", torch.randn(40, 8)).sigmoid()
        np.testing.assert_allclose(tiles(axes).reshape(40, 196), expected, atol=0.01)
        assert bar.get_ylabel() == "pixel probability $y$" and "40 draws" in figure.get_suptitle()
    assert tiles(run.figures["v_samples"].axes[0]).max() > 0.9  # main() draws from what it trained


def test_curves_are_the_columns_of_the_log_by_their_names(run):
    """At the update of their row; the legend has their colours; the right axes show all late values."""
    terms = run.log[:, :1], run.log[:, 1:2]
    names = ("training mini-batch", "100 validation images", "1470 test images")
    for name, rows in (("iii_elbo_terms", terms), ("vi_log_likelihood", [run.log[:, [0, 2, 3]]])):
        figure, (legend,) = run.figures[name], run.figures[name].legends
        keys = {text.get_text(): key.get_color() for text, key in zip(legend.texts, legend.legend_handles)}
        axes = np.reshape(figure.axes, (len(rows), 2))
        labels = [each.get_xlabel() for each in axes[-1]]
        assert labels == ["number of weight updates (log)", "number of weight updates"]
        for (left, right), columns, label in zip(axes, rows, ("reconstruction", "KL")):
            assert left.get_ylabel() == f"{label}\n(nats per image)" and left.get_xscale() == "log"
            assert keys == {line.get_label(): line.get_color() for line in right.lines}
            for each in (left, right):
                curves = {line.get_label(): line.get_data() for line in each.lines}
                for key, column in zip(names, columns.T):
                    updates, values = curves.pop(key)
                    np.testing.assert_array_equal(column[updates - 1], values)
                    assert len(updates) == (3 if "images" in key else 300)
            assert not curves and right.get_xlim() == (0, 301)
            ends = [np.nanmin(columns[15:]) - 0.3, np.nanmax(columns[15:]) + 0.3]
            assert [*right.get_ylim()] == pytest.approx(ends)
        assert len({*keys.values()}) == len(keys)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("updates", [1, 99, 100, 999, 1000, 2345])
def test_curves_of_short_and_long_runs(hw5, updates):
    log = np.random.default_rng(0).normal(-30, 1, (4, updates))
    log[2:, np.arange(1, updates + 1) % 100 > 0] = np.nan
    (figure := hw5.draw_curves("title", log[:1], log[2:], ("a", "b"))).draw_without_rendering()
    curves = {line.get_label(): line.get_data() for line in figure.axes[1].lines}
    assert (updates < 100) == ("a" not in curves) and (updates < 1000) == (len(curves) < 4)
    at, means = curves.get("centred mean over 101 mini-batches", ([], []))
    assert list(means) == pytest.approx([log[0, n - 51 : n + 50].mean() for n in at])
