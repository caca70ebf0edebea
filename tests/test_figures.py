"""The figures, by what is drawn in their axes: it is what titles, labels and legends say."""

import re

import numpy as np
import pytest
import torch
from conftest import NAMES, layers
from pypdf import PdfReader


def tiles(axes):
    """The images (rows, columns, 196) that a reader sees in a mosaic with its whole frame, 1 for black."""
    (image,) = axes.images
    rows, columns = (int(size) for size in (axes.get_ylim()[0], axes.get_xlim()[1]))
    assert [*axes.get_xlim(), *axes.get_ylim()] == image.get_extent() == [0, columns, rows, 0]
    assert image.origin == "upper" and [lines.get_clip_on() for lines in axes.collections] == [False, False]
    shown = 1 - image.to_rgba(image.get_array())[..., 0]  # 0 is white and 1 black: what the eye sees
    return shown.reshape(rows, 14, columns, 14).swapaxes(1, 2).reshape(rows, columns, 196)


def ticks(axis):
    """The labels of an axis and where they stand."""
    return list(zip([label.get_text() for label in axis.get_ticklabels()], axis.get_ticklocs()))


def test_dataset_shows_ten_training_images_of_each_digit_beside_its_name(hw5, run, data, monkeypatch):
    monkeypatch.setattr(hw5, "TRAINING_PER_DIGIT", 100)
    fewer = hw5.draw_dataset(data[0][::10])
    for figure, count in ((run.figures["i_dataset"], 1000), (fewer, 100)):
        (axes,) = figure.axes
        images = data[0][:: 1000 // count].view(10, count, 196)[:, :10]
        np.testing.assert_allclose(tiles(axes), images, atol=0.01)
        assert ticks(axes.yaxis) == [(f"digit {digit}", digit + 0.5) for digit in range(10)]
        assert f"10 of the {count} images of each digit" in figure.get_suptitle()


def test_reconstructions_show_image_and_output_for_the_mean_with_its_log_likelihood(run, data):
    *panels, bar = run.figures["iv_reconstructions"].axes
    assert len(panels) == 8 and bar.get_ylabel() == "pixel probability $y$"
    for digit, axes in enumerate(panels):
        x = data[1][10 * digit]  # the first validation image of its digit
        y = layers(run.model, "decoder", layers(run.model, "encoder", x)[:8]).sigmoid()
        np.testing.assert_allclose(tiles(axes), torch.stack((x, y))[None], atol=0.01)
        image, (output, at) = ticks(axes.xaxis)
        assert (axes.get_ylabel(), *image, at) == (f"digit {digit}", "image $x$", 0.5, 1.5)
        (value,) = re.fullmatch(r"output \$y\$\n\$(-\d+\.\d)\$", output).groups()
        assert float(value) == pytest.approx(torch.where(x == 1, y, 1 - y).log().sum().item(), abs=0.0501)
    assert "Validation images" in run.figures["iv_reconstructions"].get_suptitle()


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


def check_curves(figure, terms, validated, images=100):
    """Both axes of each term of Eq. (1) hold what their labels say, and the legend has each curve's name."""
    updates, late, (at, mean, error) = len(terms), len(terms) // 20 + 1, validated.T
    words = r"first.*log p\(x\|z\).*nats per image", r"second.*KL.*p\(z\|x\).*N\(0, I\).*nats per image"
    assert len(figure.axes) == 2 * terms.shape[1]
    for left, right, y, pattern in zip(figure.axes[::2], figure.axes[1::2], terms.T, words):
        assert re.search(pattern, left.get_ylabel(), re.DOTALL)
        assert (left.get_xscale(), right.get_xscale()) == ("log", "linear")
        assert (left.get_title(), right.get_title()) == ("all updates, log axis", f"from update {late} on")
        for axes in (left, right):
            assert axes.get_xlabel() == "number of weight updates"
            curves = {line.get_label(): np.array(line.get_data()) for line in axes.lines}
            np.testing.assert_array_equal(curves.pop("training mini-batch"), [range(1, updates + 1), y])
            if axes is right and updates >= 1000:
                x, centred = curves.pop("centred mean over 101 mini-batches")
                assert x.tolist() == list(range(late + 50, updates - 49))
                np.testing.assert_allclose(centred, [np.mean(y[int(t) - 51 : int(t) + 50]) for t in x])
            assert len(curves) == len(axes.collections) == min(1, len(validated))
            for (label, curve), band in zip(curves.items(), axes.collections):
                assert re.match(rf"(mean of )?{images} validation images \$\\pm\$.* standard error", label)
                np.testing.assert_array_equal(curve, [at, mean])
                corners = {*zip(at, mean - error), *zip(at, mean + error)}
                assert {*map(tuple, band.get_paths()[0].vertices)} == corners
        shown = np.concatenate((y[late - 1 :], mean[at >= late]))
        (low, high), (start, end) = right.get_ylim(), right.get_xlim()
        assert late - 1 <= start < late and updates < end < 1.05 * updates + 2
        assert shown.min() - 0.5 < low < shown.min() and shown.max() < high < shown.max() + 0.5
    (legend,) = figure.legends
    colours = {text.get_text(): key.get_color() for text, key in zip(legend.texts, legend.legend_handles)}
    assert colours == {line.get_label(): line.get_color() for line in right.lines}
    assert len({*colours.values()}) == len(colours)


def test_the_run_draws_both_terms_and_compares_the_first_with_validation(run):
    check_curves(run.figures["iii_elbo_terms"], run.terms, run.validated[:0])
    check_curves(run.figures["vi_log_likelihood"], run.terms[:, :1], run.validated)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("updates", [1, 10, 99, 100, 150, 999, 1000, 2345])
def test_curves_of_short_and_long_runs(hw5, updates, monkeypatch):
    """Made up: validation goes below and above the mini-batches, within what the right axes show."""
    at = np.arange(100, updates + 1, 100)
    terms = np.random.default_rng(0).normal((-30, 9), 1, (updates, 2)) - np.geomspace(99, 1, updates)[:, None]
    validated = np.stack((at, np.linspace(-90, -9, len(at)), np.linspace(2, 1, len(at))), axis=1)
    monkeypatch.setattr(hw5, "VALIDATION_PER_DIGIT", 1)
    for part, points in ((terms, validated[:0]), (terms[:, :1], validated)):
        check_curves(figure := hw5.draw_curves("title", part, points), part, points, images=10)
        figure.draw_without_rendering()


@pytest.mark.parametrize("name", NAMES)
def test_pdf_has_one_page_its_width_its_title_and_curves_of_300_dots_an_inch(run, name):
    (page,) = PdfReader(run.folder / f"problem1_{name}.pdf").pages
    text, title = page.extract_text(), run.figures[name].get_suptitle()
    assert title.startswith(f"({name.split('_')[0]}) ") and title.split("$")[0].strip() in text
    assert float(page.mediabox.width) == pytest.approx(280.8 if name in ("i_dataset", "v_samples") else 468)
    if name in ("iii_elbo_terms", "vi_log_likelihood"):
        widths = re.findall(rb"q ([\d.]+) 0 0 [\d.]+ \S+ \S+ cm /I\d+ Do", page.get_contents().get_data())
        dots = [72 * i.image.width / float(points) for i, points in zip(page.images, widths, strict=True)]
        assert len(dots) == len(run.figures[name].axes) and min(dots) > 299
