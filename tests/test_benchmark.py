"""The benchmark in its smallest form, without JAX: its tables have their rows, with numbers that can be."""

import sys

import benchmark
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode


def table(text):
    """The rows of a Markdown table: name and numbers."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {name: [float(number) for number in numbers] for name, *numbers in rows[2:]}


def test_floor_does_the_matrix_products_of_an_update(hw5, data):
    with FlopCounterMode(display=False) as of_floor:
        for left, right in benchmark.matrix_products():
            torch.mm(left, right)
    with FlopCounterMode(display=False) as of_update:
        hw5.elbo_terms(hw5.VAE(), data.training[:200])[0].backward()
    assert of_floor.get_total_flops() == of_update.get_total_flops() > 0


def test_tables_have_their_rows(data, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    benchmark.measure_updates(data, rounds=1)
    floor, *others = table(capsys.readouterr().out).values()
    assert floor[1] == 1 and len(others) == 3 and all(1 < row[1] < 100 for row in others)
    benchmark.measure_command(seeds=1, updates=1)
    rows = table(capsys.readouterr().out)
    assert list(rows) == ["0", "mean"] and rows["0"] == rows["mean"]
    assert 1 < rows["0"][0] < 100 and rows["0"][1:] == [pytest.approx(-110, abs=40)] * 2
