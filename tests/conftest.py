"""What the tests share: the script as a module, its data, a run, references, and ways to run the script."""

import inspect
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from pypdf import PdfReader
from torch.distributions import Bernoulli, Normal, kl_divergence
from torchvision.datasets import MNIST

import pennkey_hw5_problem1

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "pennkey_hw5_problem1.py"
DATA = ROOT / "data"
NAMES = "i_dataset iii_elbo_terms iv_reconstructions v_samples vi_log_likelihood"
PLOTS = [f"problem1_{name}.pdf" for name in NAMES.split()]
OUTPUTS = [*PLOTS, "training_log.csv", "vae.pt", "metrics.json"]


def committed(path):
    """The bytes of a file as committed, as a run of the script changes figures/; skips where git has none."""
    try:
        show = subprocess.run(["git", "show", f"HEAD:./{path}"], cwd=ROOT, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        told = getattr(error, "stderr", b"").decode().strip()
        pytest.skip(f"{path} may be of another run, and git tells no committed one: {told or error}")
    return show.stdout


def pytest_configure(config):
    """Let torchvision extract the .gz files once, before several tests read them at once."""
    if not hasattr(config, "workerinput"):
        MNIST(DATA, download=True)


def run_script(*options, script=SCRIPT, **more):
    """Run the script to its end; returns the CompletedProcess with text output."""
    return subprocess.run([sys.executable, script, *options], text=True, capture_output=True, **more)


def check_files(folder, updates):
    """The files of a run are there, whole, and nothing else; returns metrics.json and the log."""
    assert {path.name for path in folder.iterdir() if path.suffix != ".py"} - {"data"} == {*OUTPUTS}
    assert all(len(PdfReader(folder / name, strict=True).pages) == 1 for name in PLOTS)
    assert len(torch.load(folder / "vae.pt", weights_only=True)) == 8
    log = np.genfromtxt(folder / "training_log.csv", delimiter=",", names=True, ndmin=1)
    assert log["update"].tolist() == list(range(1, updates + 1))
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["updates_done"] == updates
    return metrics, log


def layers(model, part, inputs):
    """The output of the model's encoder or decoder, before a sigmoid, by NumPy in double precision."""
    w1, b1, w2, b2 = (p.detach().double().numpy() for p in getattr(model, part).parameters())
    return torch.from_numpy(np.tanh(np.asarray(inputs, float) @ w1.T + b1) @ w2.T + b2)


def reference(model, images, epsilon):
    """Reconstruction and KL of each image (B,), by torch.distributions and noise (S, B or 1, 8)."""
    mean, log_variance = layers(model, "encoder", images).chunk(2, dim=1)
    posterior = Normal(mean, torch.exp(0.5 * log_variance))
    log_p = Bernoulli(logits=layers(model, "decoder", mean + posterior.stddev * epsilon)).log_prob(images)
    return log_p.sum(dim=-1).mean(dim=0), kl_divergence(posterior, Normal(0.0, 1.0)).sum(dim=-1)


def arguments(function):
    """The arguments, by name, of each call of a function of the script that a Mock wraps."""
    signature = inspect.signature(function._mock_wraps)
    return [signature.bind(*call.args, **call.kwargs).arguments for call in function.call_args_list]


@pytest.fixture(scope="session")
def hw5():
    """The script as a module."""
    torch.set_num_threads(1)  # as main() does
    return pennkey_hw5_problem1


@pytest.fixture(scope="session")
def data(hw5):
    """Training, validation and test images of seed 1, that of `run`."""
    torch.manual_seed(1)
    return hw5.make_data(DATA)


@pytest.fixture(scope="session")
def run(hw5, tmp_path_factory):
    """A run of main() with 300 updates: what it gave to save(), and in `trained` what to train()."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("train", "save"):
            patch.setattr(hw5, name, Mock(wraps=getattr(hw5, name)))
        assert hw5.main(["--updates=300", "--seed=1", "--device=cpu", f"--output-dir={folder}"]) == 0
        (trained,), (saved,) = arguments(hw5.train), arguments(hw5.save)
    return SimpleNamespace(trained=trained, **saved)
