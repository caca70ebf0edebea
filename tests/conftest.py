"""What the tests share: the script as a module, the data, and ways to run the script as its users do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torchvision.datasets import MNIST

import pennkey_hw5_problem1

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "pennkey_hw5_problem1.py"
DATA = ROOT / "data"
NAMES = ("i_dataset", "iii_elbo_terms", "iv_reconstructions", "v_samples", "vi_log_likelihood")
PLOTS = [f"problem1_{name}.pdf" for name in NAMES]
OUTPUTS = [*PLOTS, "training_log.csv", "vae.pt", "metrics.json"]


def committed(path):
    """The bytes of a file as committed, since a run of the script changes figures/."""
    show = subprocess.run(["git", "show", f"HEAD:{path}"], cwd=ROOT, capture_output=True)
    return show.stdout if show.returncode == 0 else (ROOT / path).read_bytes()


def pytest_configure(config):
    """Let torchvision extract the .gz files once, before several tests read them at once."""
    if not hasattr(config, "workerinput"):
        MNIST(DATA, download=True)


def environment(**changes):
    """This process's environment with `changes`; a value of None takes a variable out."""
    merged = {**os.environ, **changes}
    return {name: str(value) for name, value in merged.items() if value is not None}


def run_script(*options, script=SCRIPT, env=None, **more):
    """Run the script to its end; returns the CompletedProcess with text output."""
    line = [sys.executable, str(script), *map(str, options)]
    return subprocess.run(line, env=env or environment(), timeout=300, text=True, capture_output=True, **more)


@pytest.fixture(scope="session")
def hw5():
    """The script as a module."""
    torch.set_num_threads(1)  # as main() does
    return pennkey_hw5_problem1


@pytest.fixture(scope="session")
def data(hw5):
    """The data set of seed 0."""
    torch.manual_seed(0)
    return hw5.make_data(DATA)


@pytest.fixture(scope="session")
def run(hw5, tmp_path_factory):
    """What a run of main() with 300 updates computed, by name, and in `folder` the files that it saved."""
    made, folder = {}, tmp_path_factory.mktemp("run")

    def watched(name):
        original = getattr(hw5, name)

        def call(*arguments):
            made[name] = original(*arguments)
            made[f"{name} of"] = arguments
            return made[name]

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("make_data", "train", "sample", "reconstruct", "save"):
            patch.setattr(hw5, name, watched(name))
        hw5.main(["--updates", "300", "--output-dir", str(folder)])
    names = ("folder", "figures", "terms", "validation", "model", "metrics")
    return {**made, **dict(zip(names, made["save of"]))}
