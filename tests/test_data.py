"""The data set, against a second reading of the MNIST files."""

import gzip
import hashlib
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import DATA
from torchvision.datasets import MNIST

FILES = dict(MNIST.resources)


@pytest.fixture(scope="module")
def mnist():
    """Images (n, 28, 28) and labels (n,) of both splits, read from the .gz files by NumPy."""
    raw = [gzip.decompress((DATA / "MNIST/raw" / name).read_bytes()) for name in FILES]
    offsets = [16 if "images" in name else 8 for name in FILES]
    arrays = [np.frombuffer(part, np.uint8, offset=offset) for part, offset in zip(raw, offsets)]
    return [array.reshape(-1, 28, 28) if offset == 16 else array for array, offset in zip(arrays, offsets)]


def rows(images):
    """The images as bytes, so that they can be looked up."""
    return [row.tobytes() for row in np.asarray(images).astype(bool)]


def test_committed_files_are_the_original_ones():
    for name, md5 in FILES.items():
        assert hashlib.md5((DATA / "MNIST/raw" / name).read_bytes()).hexdigest() == md5


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
