"""The benchmark, in its smallest form: every table has its rows, with numbers that can be."""

import re
import subprocess
import sys

from conftest import ROOT
from torch.utils.flop_counter import FlopCounterMode

OPTIONS = ["--rounds", "1", "--runs", "1", "--updates", "100", "--seeds", "2", "--no-plot"]
UPDATE = "An update at batch 200, two samples"
COMMAND = "The whole command, 100 updates"
REACH = "How soon a validation ELBO is reached"
SEEDS = "ELBO over seeds"
TABLES = {  # title: how every row begins, and between which numbers its own lie
    UPDATE: {
        "floor": (1, 1e5),
        "this program": (1, 1e6),
        "the same objective as one jitted `jax.lax.scan`": (0.3, 1e6),
        "usual loop in memory": (1, 1e6),
        "usual loop over a DataLoader": (1, 1e7),
    },
    COMMAND: {
        "imports": (0.1, 100),
        "first use of `torch.optim`": (0.1, 100),
        "training": (0.01, 100),
        "the rest": (0.1, 100),
        "**all of it**": (1, 300),
        "peak memory": (200, 4000),
    },
    REACH: {
        **{f"seconds to {target}": None for target in ("-38", "-37", "-36", "-35", "-34.7")},
        "at the end: seconds": (0.01, 300),
        "at the end: updates": (100, 1e5),
        "at the end: validation ELBO": (-60, -38),
        "at the end: test ELBO": (-60, -38),
    },
    SEEDS: {"test ELBO": (-60, 10)},  # the last of them is a standard deviation
}


def numbers(cells):
    """The cells of a row without their units."""
    return [float(cell.removesuffix(" s").removesuffix(" MiB")) for cell in cells]


def test_the_floor_does_the_matrix_products_of_an_update(hw5, data):
    import benchmark  # here, as it imports JAX

    floor = benchmark.floor()
    next(floor)
    with FlopCounterMode(display=False) as of_floor:
        next(floor)
    with FlopCounterMode(display=False) as of_update:
        reconstruction, kl = hw5.elbo_terms(hw5.VAE(), data.training[:200])
        (kl - reconstruction).backward()
    assert of_floor.get_total_flops() == of_update.get_total_flops() > 0


def test_every_table_has_its_rows(tmp_path):
    command = [sys.executable, str(ROOT / "tests" / "benchmark.py"), *OPTIONS]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    machine, *printed = process.stdout.split("### ")
    assert re.fullmatch(r".+, \d+ cores; Python 3\.\S+, torch \d\S+, JAX .+; 1 thread\.\s+", machine)

    tables = {}
    for text in printed:
        lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
        header, _, *rows = [[cell.strip() for cell in line] for line in lines]
        assert {len(row) for row in rows} == {len(header)}
        tables[text.splitlines()[0]] = {name: cells for name, *cells in rows}
    assert list(tables) == list(TABLES)
    for title, expected in TABLES.items():
        starts = [start for start in expected if "jax" not in start or "not installed" not in machine]
        assert len(tables[title]) == len(starts), printed
        for start, (name, cells) in zip(starts, tables[title].items()):
            assert name.startswith(start)
            if expected[start] is None:  # so few updates reach no target
                assert cells == ["not reached", "not reached"], name
            else:
                low, high = expected[start]
                assert all(low <= number <= high for number in numbers(cells)), (name, cells)

    # What the numbers have to do with each other; all are rounded
    assert next(iter(tables[UPDATE].values()))[1] == "1.00"
    *parts, whole, _ = (numbers(cells)[0] for cells in tables[COMMAND].values())
    assert abs(sum(parts) - whole) < 0.04
    ours, usual = numbers(tables[REACH]["at the end: seconds"])
    assert ours * 3.99 < usual < ours * 6
    assert tables[REACH]["at the end: updates"][0] == "100"
    first, second, mean, deviation = numbers(tables[SEEDS]["test ELBO"])
    assert abs(first - numbers(tables[REACH]["at the end: test ELBO"])[0]) < 0.01
    assert abs((first + second) / 2 - mean) < 0.02
    assert abs(abs(first - second) / 2**0.5 - deviation) < 0.02
