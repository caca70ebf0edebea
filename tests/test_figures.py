"""The figures of a run, by what is drawn in their axes: it is what titles, labels and legends say."""

import numpy as np
import pytest
import torch
from conftest import PLOTS
from pypdf import PdfReader


@pytest.fixture(scope="module")
def figures(run):
    """The five figures of the run, by the number of their sub-problem."""
    return {name.split("_")[1]: figure for name, figure in run["figures"].items()}


def tiles(axes):
    """The images (rows, columns, 196) that a reader sees in a mosaic, row 0 above, 1 for black."""
    (image,) = axes.images
    rows, columns = (int(size) for size in (axes.get_ylim()[0], axes.get_xlim()[1]))
    assert image.get_extent() == [0, columns, rows, 0] and axes.get_ylim() == (rows, 0)
    assert image.origin == "upper" and axes.get_xlim() == (0, columns)
    shown = 1 - image.to_rgba(image.get_array())[..., 0]  # 0 is white and 1 black: what the eye sees
    assert shown.shape == (14 * rows, 14 * columns)
    return shown.reshape(rows, 14, columns, 14).swapaxes(1, 2).reshape(rows, columns, 196)


def ticks(axis):
    """The labels of an axis and where they stand."""
    return dict(zip([label.get_text() for label in axis.get_ticklabels()], axis.get_ticklocs()))


def line(axes, label):
    """The abscissas and ordinates of the curve with this label in the legend."""
    (found,) = [line for line in axes.lines if line.get_label() == label]
    return np.array(found.get_data())


def test_dataset_shows_ten_training_images_of_each_digit_beside_its_name(figures, data):
    (axes,) = figures["i"].axes
    np.testing.assert_allclose(tiles(axes), data.training.view(10, 1000, 196)[:, :10], atol=0.01)
    assert ticks(axes.yaxis) == {f"digit {digit}": digit + 0.5 for digit in range(10)}


def test_reconstructions_show_image_and_output_under_their_names(figures, run, data):
    *panels, bar = figures["iv"].axes
    assert len(panels) == 8 and bar.get_ylabel() == "pixel probability $y$"
    for digit, axes in enumerate(panels):
        ((image, output),) = tiles(axes)
        original = data.validation[10 * digit]  # the first of its digit
        assert axes.get_ylabel() == f"digit {digit}"
        assert ticks(axes.xaxis) == {"image $x$": 0.5, "output $y$": 1.5}
        np.testing.assert_allclose(image, original, atol=0.01)
        with torch.no_grad():
            mean = run["model"].encode(original)[0]
            np.testing.assert_allclose(output, run["model"].decode(mean), atol=0.01)
    assert "Validation images" in figures["iv"].get_suptitle()


def test_samples_show_the_outputs_for_40_draws(hw5, figures, run):
    axes, bar = figures["v"].axes
    assert run["sample of"] == (run["model"], 40) and bar.get_ylabel() == "pixel probability $y$"
    np.testing.assert_allclose(tiles(axes).reshape(40, 196), run["sample"], atol=0.01)
    assert "40 draws" in figures["v"].get_suptitle()
    pale = hw5.draw_samples(run["sample"] / 2)  # grey is not stretched to black
    np.testing.assert_allclose(tiles(pale.axes[0]).reshape(40, 196), run["sample"] / 2, atol=0.01)


def check_training(start, rest, values):
    """Every update is drawn once, the first 5 % on a logarithmic axis, and the mean is centred."""
    steep = len(values) // 20
    for axes, first, last, scale in ((start, 1, steep, "log"), (rest, steep + 1, len(values), "linear")):
        x, y = line(axes, "training mini-batch")
        assert x.tolist() == list(range(first, last + 1)) and np.array_equal(y, values[first - 1 : last])
        assert axes.get_xscale() == scale and axes.get_xlabel() == "number of weight updates"
        assert f"updates {first} to {last}" in axes.get_title()
        assert ("log scale" in axes.get_title()) == (scale == "log")
    x, y = line(rest, "centred mean over 101 mini-batches")
    assert x.tolist() == list(range(steep + 51, len(values) - 49))
    np.testing.assert_allclose(y, [np.mean(values[t - 51 : t + 50]) for t in x.astype(int)])


def test_elbo_terms_are_drawn_beside_their_names(figures, run):
    axes = figures["iii"].axes
    check_training(*axes[:2], run["terms"][:, 0])
    check_training(*axes[2:], run["terms"][:, 1])
    labels = [axes[0].get_ylabel(), axes[2].get_ylabel()]
    assert "first term" in labels[0] and "log p(x|z)" in labels[0] and "second term" in labels[1]
    assert "KL" in labels[1] and all("nats per image" in label for label in labels)


@pytest.mark.parametrize("updates", [300, 2345])
def test_log_likelihood_compares_training_with_validation(hw5, run, figures, updates):
    """In the run, and in a longer one, made up, so that validation images fall into both axes."""
    figure, terms, validation = figures["vi"], run["terms"], run["validation"]
    if updates > 300:
        terms, validation = np.linspace((-140, 1), (-30, 9), updates), np.linspace(-40, -31, updates // 100)
        figure = hw5.draw_log_likelihood(terms, validation)
    start, rest = figure.axes
    check_training(start, rest, terms[:, 0])
    label = "100 validation images, every 100 updates"
    x, y = np.hstack([line(axes, label) for axes in figure.axes if updates > 300 or axes is rest])
    assert x.tolist() == list(range(100, updates + 1, 100)) and np.array_equal(y, validation)
    assert "log p(x|z)" in start.get_ylabel() and "nats per image" in start.get_ylabel()
    (legend,) = figure.legends
    shown = {text.get_text(): key.get_color() for text, key in zip(legend.texts, legend.legend_handles)}
    assert shown == {curve.get_label(): curve.get_color() for curve in rest.lines} and len(shown) == 3


@pytest.mark.parametrize("updates", [1, 10, 99, 100, 150])
def test_short_runs_draw_no_empty_axes(hw5, updates):
    terms = np.linspace(-140, -30, 2 * updates).reshape(updates, 2)
    axes = hw5.draw_log_likelihood(terms, np.linspace(-40, -31, updates // 100)).axes
    assert len(axes) == (2 if updates >= 100 else 1)
    x = np.hstack([line(part, "training mini-batch")[0] for part in axes])
    assert x.tolist() == list(range(1, updates + 1))


def test_pdfs_have_one_page_one_width_and_their_titles(run):
    for name in PLOTS:
        (page,) = PdfReader(run["folder"] / name).pages
        assert f"({name.split('_')[1]}) " in page.extract_text() and page.mediabox.width == 360  # points
