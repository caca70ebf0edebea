"""The data set, against a second reading of the MNIST files."""

import gzip
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import DATA
from torchvision.datasets import MNIST


@pytest.fixture(scope="module")
def mnist():
    """Images (n, 28, 28) and labels (n,) of both splits, read from the .gz files by NumPy."""
    raw = [gzip.decompress((DATA / "MNIST/raw" / name).read_bytes()) for name, _ in MNIST.resources]
    training, training_labels, held_out, held_out_labels = (np.frombuffer(part, np.uint8) for part in raw)
    images = (part[16:].reshape(-1, 28, 28) for part in (training, held_out))
    return next(images), training_labels[8:], next(images), held_out_labels[8:]


def rows(images):
    """The images as bytes, so that they can be looked up."""
    return [row.tobytes() for row in np.asarray(images).astype(bool)]


def test_images_are_of_their_split_and_digit_and_none_is_drawn_twice(data, mnist):
    """Counted by image and digit, as a few images of MNIST are alike once sub-sampled and binarized."""
    assert [tuple(images.shape) for images in data] == [(10000, 196), (100, 196), (8820, 196)]
    for pixels, labels, sets in ((*mnist[:2], [data.training]), (*mnist[2:], [data.validation, data.test])):
        small = (pixels > 128)[:, ::2, ::2].reshape(len(pixels), 196)  # binarized first, here
        left = Counter(zip(rows(small), labels))
        for images in sets:
            assert images.dtype == torch.float32 and set(images.unique().tolist()) == {0, 1}
            left.subtract(zip(rows(images), np.repeat(np.arange(10), len(images) // 10)))
        assert min(left.values()) == 0


def test_threshold_is_128_and_every_second_pixel_stays(hw5):
    image = torch.zeros(1, 28, 28, dtype=torch.uint8)
    image[0, 2, 4], image[0, 4, 6], image[0, 3, 5] = 129, 128, 255  # kept and over; kept, not over; left out
    small = hw5.subsample_and_binarize(image).view(14, 14)
    assert small.sum() == 1 and small[1, 2] == 1


def test_the_seed_draws_the_images(hw5, data):
    torch.manual_seed(0)
    again = hw5.make_data(DATA)
    torch.manual_seed(1)
    other = hw5.make_data(DATA)
    assert all(torch.equal(a, b) for a, b in zip(again, data))
    for a, b in zip(other, data):
        shared = len(set(rows(a)) & set(rows(b))) / len(a)
        assert shared < 0.3 or len(a) == 8820  # 1000 of about 6000, 10 of about 1000, 882 of 892 to 1135
