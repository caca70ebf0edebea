"""The data set, against a second reading of the MNIST files."""

import gzip
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import DATA
from torchvision.datasets import MNIST


def rows(images):
    """The images as bytes, so that they can be looked up."""
    return [row.tobytes() for row in np.asarray(images).astype(bool)]


def test_images_are_of_their_split_and_digit_and_none_is_drawn_twice(data):
    """Counted by image and digit, as a few images of MNIST are alike once sub-sampled and binarized."""
    assert [tuple(images.shape) for images in data] == [(10000, 196), (100, 196), (8820, 196)]
    files = [gzip.decompress((DATA / "MNIST/raw" / name).read_bytes()) for name, _ in MNIST.resources]
    files = [np.frombuffer(content, np.uint8) for content in files]
    for pixels, labels, sets in ((*files[:2], data[:1]), (*files[2:], data[1:])):
        small = (pixels[16:].reshape(-1, 28, 28) > 128)[:, ::2, ::2]  # binarized first, here
        left = Counter(zip(rows(small), labels[8:]))
        for images in sets:
            assert images.dtype == torch.float32 and set(images.unique().tolist()) == {0, 1}
            left.subtract(zip(rows(images), np.repeat(np.arange(10), len(images) // 10)))
        assert min(left.values()) == 0


def test_other_images_are_drawn_next_and_other_numbers_as_far_as_mnist_has_them(hw5, data, monkeypatch):
    monkeypatch.setattr(hw5, "VALIDATION_PER_DIGIT", 20)
    others = hw5.make_data(DATA)
    assert [len(images) for images in others] == [10000, 200, 8720]
    assert len(set(rows(others[0])) & set(rows(data[0]))) < 3000  # 1000 of about 6000 of each digit
    monkeypatch.setattr(hw5, "VALIDATION_PER_DIGIT", 892)
    with pytest.raises(OSError, match="892 images of digit 5"):
        hw5.make_data(DATA)
