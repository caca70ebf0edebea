"""What the tests share: the script as a module, the data, and ways to run the script as its users do."""

import argparse
import importlib.util
import io
import math
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "pennkey_hw5_problem1.py"
DATA = ROOT / "data"
PLOTS = [
    "problem1_i_dataset.pdf",
    "problem1_iii_elbo_terms.pdf",
    "problem1_iv_reconstructions.pdf",
    "problem1_v_samples.pdf",
    "problem1_vi_log_likelihood.pdf",
]
OUTPUTS = [*PLOTS, "training_log.csv", "vae.pt", "metrics.json"]


def committed_tree():
    """A folder with README.md, figures/ and writeup/ as committed; the checkout where git cannot tell.

    A run of the script changes figures/, and must not make the tests of the reference run fail.
    """
    command = ["git", "-C", str(ROOT), "archive", "--format=zip", "HEAD", "README.md", "figures", "writeup"]
    try:
        archive = subprocess.run(command, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ROOT
    zipfile.ZipFile(io.BytesIO(archive)).extractall(COPY.name)
    return Path(COPY.name)


COPY = tempfile.TemporaryDirectory()
COMMITTED = committed_tree()


def import_script():
    """Import the script from its file, as a user with another file name would."""
    spec = importlib.util.spec_from_file_location("hw5", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.set_num_threads(1)  # as main() does
    return module


def train(hw5, data, updates=250, **changes):
    """A new model trained by train() of the script, and its log as an array (updates, 3)."""
    defaults = {"batch_size": 200, "learning_rate": 0.02, "weight_decay": 0.1, "seed": 0}
    torch.manual_seed(0)
    model, log = hw5.VAE(), torch.full((updates, 3), math.nan)
    every = hw5.VALIDATION_EVERY
    looks = list(hw5.train(model, data, log, argparse.Namespace(**{**defaults, **changes})))
    assert looks == list(range(every, updates + 1, every))
    return model, log.numpy()


def command(*options, script=SCRIPT, python=()):
    """The command line that runs `script`."""
    return [sys.executable, *python, str(script), *map(str, options)]


def environment(**changes):
    """This process's environment with `changes`; a value of None takes a variable out."""
    merged = {**os.environ, **changes}
    return {name: str(value) for name, value in merged.items() if value is not None}


def run_script(*options, script=SCRIPT, python=(), env=None, timeout=300, **more):
    """Run the script to its end; returns the CompletedProcess with text output."""
    line = command(*options, script=script, python=python)
    more = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
    return subprocess.run(line, env=env or environment(), timeout=timeout, text=True, **more)


@pytest.fixture(scope="session")
def hw5():
    """The script, imported once."""
    return import_script()


@pytest.fixture(scope="session")
def data(hw5):
    """The data set of seed 0."""
    return hw5.make_data(DATA, 0)


@pytest.fixture(scope="session")
def trained(hw5, data):
    """A model and its log after 300 updates."""
    return train(hw5, data, 300)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A finished run of 300 updates by the script, from another directory: its folder and its process."""
    folder = tmp_path_factory.mktemp("finished")
    process = run_script("--updates", 300, "--output-dir", folder / "out", cwd=folder)
    assert process.returncode == 0, process.stderr
    return folder / "out", process
