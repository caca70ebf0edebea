"""(i): the images are those that the handout asks for, by a second reading of MNIST's files."""

import gzip
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import DATA

import pennkey_hw5_problem1 as hw5


def read_split(name):
    """Read the pixels (n, 28, 28) and labels (n,) of "train" or "t10k" from the original files."""
    images = gzip.decompress((DATA / f"MNIST/raw/{name}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((DATA / f"MNIST/raw/{name}-labels-idx1-ubyte.gz").read_bytes())
    pixels = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28)
    return pixels, np.frombuffer(labels, np.uint8, offset=8)


def count_images(pixels, labels):
    """Count how often each pair of a small black-and-white image and its digit is in a split."""
    counts = Counter()
    for image, digit in zip(pixels > 128, labels):
        counts[image[::2, ::2].tobytes(), int(digit)] += 1
    return counts


def remove_images(counts, images):
    """Take images (n, 196), ordered by digit, out of the counts of count_images."""
    per_digit = len(images) // 10
    for number, image in enumerate(images.numpy().astype(bool)):
        counts[image.tobytes(), number // per_digit] -= 1


def test_there_are_as_many_images_as_the_handout_asks_for(data_by_digit):
    training, validation, test = data_by_digit
    assert training.shape == (10, 1000, 196)
    assert validation.shape == (10, 10, 196)
    assert test.shape == (10, 882, 196)


def test_pixels_are_floats_of_0_and_1(data):
    for images in data:
        assert images.dtype == torch.float32
        assert images.unique().tolist() == [0, 1]


def test_training_images_are_different_images_of_the_training_split_ordered_by_digit(data):
    training, _, _ = data
    counts = count_images(*read_split("train"))
    remove_images(counts, training)
    assert min(counts.values()) >= 0


def test_validation_and_test_images_are_different_images_of_the_test_split(data):
    _, validation, test = data
    counts = count_images(*read_split("t10k"))
    remove_images(counts, validation)
    remove_images(counts, test)
    assert min(counts.values()) >= 0


def test_training_images_come_from_the_whole_split_at_random(data):
    """The first 1,000 images of each digit would be the same for every seed."""
    torch.manual_seed(1)
    others, _, _ = hw5.make_data(DATA)
    same = (others.flatten(0, 1) == data[0]).all(dim=1).float().mean()
    assert same < 0.05


def test_pixel_of_128_is_white_and_of_129_is_black():
    image = torch.full((1, 28, 28), 128, dtype=torch.uint8)
    image[0, 0, 0] = 129
    image[0, 1, 1] = 255  # row 1 and column 1 are left out
    expected = torch.zeros(1, 196)
    expected[0, 0] = 1
    assert torch.equal(hw5.subsample_and_binarize(image), expected)


def test_more_validation_images_leave_fewer_test_images(monkeypatch):
    monkeypatch.setattr(hw5, "VALIDATION_PER_DIGIT", 20)
    _, validation, test = hw5.make_data(DATA)
    assert validation.shape == (10, 20, 196)
    assert test.shape == (10, 872, 196)


@pytest.mark.parametrize("name", ["TRAINING_PER_DIGIT", "HELD_OUT_PER_DIGIT"])
def test_more_images_than_mnist_has_are_an_error_that_tells_how_many_it_has(monkeypatch, name):
    monkeypatch.setattr(hw5, name, 10_000)
    with pytest.raises(hw5.RunError, match=r"10000 images of digit 0 .* only (5923|980)"):
        hw5.make_data(DATA)


@pytest.mark.parametrize("step", [1, 3])
def test_step_that_does_not_give_images_of_this_side_is_an_error(monkeypatch, step):
    """3 does not divide 28; 1 does, but SIDE was computed from the STEP in the script."""
    monkeypatch.setattr(hw5, "STEP", step)
    with pytest.raises(hw5.RunError, match="SIDE must be 28 / STEP"):
        hw5.make_data(DATA)


def test_some_digits_may_be_chosen(monkeypatch):
    monkeypatch.setattr(hw5, "DIGITS", [3, 8])
    training, validation, test = hw5.make_data(DATA)
    assert [len(training), len(validation), len(test)] == [2, 2, 2]
    hw5.draw_dataset(training)
    titles = [axes.get_title() for axes in hw5.draw_reconstructions(hw5.VAE(), validation).axes]
    assert titles[0].startswith("digit 3: ")
    assert titles[1].startswith("digit 8: ")


@pytest.mark.parametrize("number", [0, 893])
def test_number_of_validation_images_that_mnist_does_not_have_is_an_error(monkeypatch, number):
    monkeypatch.setattr(hw5, "VALIDATION_PER_DIGIT", number)
    with pytest.raises(hw5.RunError, match="between 1 and 892"):
        hw5.make_data(DATA)
