"""The data set, against a second reading of the MNIST files."""

import gzip
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import DATA, ROOT
from torchvision.datasets import MNIST


def rows(images):
    """The images as bytes, so that they can be looked up."""
    return [row.tobytes() for row in np.asarray(images).astype(bool)]


@pytest.fixture(scope="module")
def mnist():
    """Pixels (n, 28, 28) and labels (n,) of the training split, then of the test split."""
    files = [gzip.decompress((DATA / "MNIST/raw" / name).read_bytes()) for name, _ in MNIST.resources]
    files = [np.frombuffer(content, np.uint8) for content in files]
    return [(pixels[16:].reshape(-1, 28, 28), labels[8:]) for pixels, labels in zip(files[::2], files[1::2])]


def test_images_are_of_their_split_and_digit_and_none_is_drawn_twice(mnist, data):
    """Counted by image and digit, as a few images of MNIST are alike once sub-sampled and binarized."""
    assert [tuple(images.shape) for images in data] == [(10000, 196), (100, 196), (8820, 196)]
    for (pixels, labels), sets in zip(mnist, (data[:1], data[1:])):
        small = (pixels > 128)[:, ::2, ::2]  # binarized first, here
        left = Counter(zip(rows(small), labels))
        for images in sets:
            assert images.dtype == torch.float32 and set(images.unique().tolist()) == {0, 1}
            left.subtract(zip(rows(images), np.repeat(np.arange(10), len(images) // 10)))
        assert min(left.values()) == 0


def test_other_images_are_drawn_next_and_other_numbers_as_far_as_mnist_has_them(hw5, data, monkeypatch):
    monkeypatch.setattr(hw5, "VALIDATION_PER_DIGIT", 20)
    others = hw5.make_data(DATA)
    assert [len(images) for images in others] == [10000, 200, 8720]
    assert len(set(rows(others[0])) & set(rows(data[0]))) < 3000  # 1000 of about 6000 of each digit
    monkeypatch.setattr(hw5, "TRAINING_PER_DIGIT", 6000)
    with pytest.raises(OSError, match=r"5923 images of digit 0 .* not 6000"):
        hw5.make_data(DATA)


def test_what_readme_says_of_mnist_is_so(mnist, hw5):
    """The averages of equal images are over seeds 0 to 4."""
    (pixels, _), _ = mnist
    assert np.bincount(pixels.ravel())[1:251].argmax() + 1 == 128
    black = hw5.subsample_and_binarize(torch.tensor(pixels)).sum(dim=1)
    equal = []
    for seed in range(5):
        torch.manual_seed(seed)
        training, *others = map(rows, hw5.make_data(DATA))
        equal.append([sum(map(set(training).__contains__, images)) for images in others])
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    for claim in (
        f"at even places have {black[::2].mean():.1f} black pixels, at odd places {black[1::2].mean():.1f}",
        f"about {np.mean(equal, axis=0)[1] / 88.2:.0f} in 100 of either",
    ):
        assert claim in readme
