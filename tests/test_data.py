"""The data set: counts, shapes, values, disjointness, and the committed files."""

import gzip
import hashlib

import numpy as np
import pytest
import torch
from conftest import DATA


@pytest.fixture(scope="module")
def mnist(hw5, tmp_path_factory):
    """The four arrays as torchvision reads them, so that the script's own reading is tested against it."""
    from torchvision.datasets.mnist import read_image_file, read_label_file

    def read(name):
        path = tmp_path_factory.mktemp("mnist") / name.removesuffix(".gz")
        path.write_bytes(gzip.decompress((DATA / "MNIST/raw" / name).read_bytes()))
        return (read_image_file if "images" in name else read_label_file)(str(path)).numpy()

    return [read(name) for name in hw5.MNIST_MD5]


def test_files_are_those_of_torchvision(hw5):
    from torchvision.datasets import MNIST

    assert dict(MNIST.resources) == hw5.MNIST_MD5
    for name, md5 in hw5.MNIST_MD5.items():
        assert hashlib.md5((DATA / "MNIST/raw" / name).read_bytes()).hexdigest() == md5


def test_arrays_are_those_of_torchvision(hw5, mnist):
    for name, expected in zip(hw5.MNIST_MD5, mnist):
        array = hw5.read_idx(DATA, name)
        assert array.dtype == np.uint8 and np.array_equal(array, expected)


def test_shapes_and_values(data):
    assert [tuple(images.shape) for images in data] == [(10000, 196), (100, 196), (10000, 196)]
    for images in data:
        assert images.dtype == torch.float32 and set(images.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("per_digit", [10, 1000])
def test_draw_is_balanced_and_without_replacement(hw5, mnist, per_digit):
    labels = mnist[1]
    drawn = hw5.draw_balanced(labels, per_digit, torch.Generator().manual_seed(0))
    assert len(set(drawn.tolist())) == len(drawn) == 10 * per_digit
    assert np.array_equal(labels[drawn], np.repeat(np.arange(10), per_digit))
    again = hw5.draw_balanced(labels, per_digit, torch.Generator().manual_seed(0))
    other = hw5.draw_balanced(labels, per_digit, torch.Generator().manual_seed(1))
    assert np.array_equal(drawn, again) and not np.array_equal(drawn, other)
    assert not np.array_equal(drawn, np.sort(drawn))  # drawn at random, not the first ones


def test_training_and_validation_come_from_their_splits_in_the_order_of_digits(data, mnist):
    """Every image is one of its own split with the label of its place, so that the two sets are disjoint."""
    train_images, train_labels, test_images, test_labels = mnist
    splits = [(data.training, train_images, train_labels), (data.validation, test_images, test_labels)]
    for images, pixels, labels in splits:
        binary = (pixels > 128)[:, ::2, ::2].reshape(
            len(pixels), 196
        )  # binarized first: the order does not matter
        known = {(row.tobytes(), label) for row, label in zip(binary, labels)}
        places = np.repeat(np.arange(10), len(images) // 10)
        assert all((row.tobytes(), label) in known for row, label in zip(images.numpy().astype(bool), places))


def test_subsampling_keeps_every_second_pixel_and_the_threshold_is_128(hw5):
    image = np.zeros((1, 28, 28), np.uint8)
    image[0, 2, 4], image[0, 4, 6], image[0, 3, 5] = 129, 128, 255  # kept and over; kept, not over; left out
    small = hw5.subsample_and_binarize(image).reshape(14, 14)
    assert small.sum() == 1 and small[1, 2] == 1


def test_minibatches_are_permutations_without_the_remainder(hw5):
    images = torch.arange(10.0)[:, None]
    batches = hw5.minibatches(images, 4, torch.Generator().manual_seed(0))
    epochs = [[next(batches).flatten().tolist() for _ in range(2)] for _ in range(30)]
    assert all(len(batch) == 4 for epoch in epochs for batch in epoch)
    orders = [[*epoch[0], *epoch[1]] for epoch in epochs]
    assert all(len(set(order)) == 8 for order in orders)  # no image twice in an epoch
    assert orders[0] != orders[1] != orders[2]
    assert set().union(*orders) == set(range(10))  # not always the same two are left out
