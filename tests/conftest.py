"""What the tests share: paths, the data, a short run of the program, and reference equations."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence
from torchvision.datasets import MNIST

import pennkey_hw5_problem1 as hw5

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "pennkey_hw5_problem1.py"
DATA = ROOT / "data"


def pytest_configure(config):
    """Extract MNIST's files once, before several processes read them at the same time."""
    is_worker = hasattr(config, "workerinput")
    if not is_worker:
        MNIST(DATA, download=True)


def run_script(*options, script=SCRIPT, **more):
    """Run the script as a user does, with the data of this repository; return what it printed."""
    command = [sys.executable, script, f"--data-dir={DATA}", *options]
    return subprocess.run(command, capture_output=True, text=True, **more)


def committed(path):
    """Return the bytes of a file as committed: a run of the program may have changed it since."""
    command = ["git", "show", f"HEAD:./{path}"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True)
    if process.returncode != 0:
        pytest.skip(f"git has no {path}: {process.stderr.decode()}")
    return process.stdout


@pytest.fixture(scope="session")
def data_by_digit():
    """The training, validation and test images of seed 0, each (10, n, 196)."""
    torch.manual_seed(0)
    return hw5.make_data(DATA)


@pytest.fixture(scope="session")
def data(data_by_digit):
    """The training (10000, 196), validation (100, 196) and test images (8820, 196) of seed 0."""
    return [images.flatten(0, 1) for images in data_by_digit]


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A folder with the files of a short run: 250 updates, seed 1."""
    folder = tmp_path_factory.mktemp("run")
    process = run_script("--updates=250", "--seed=1", f"--output-dir={folder}")
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    (folder / "printed").write_text(process.stdout)
    return folder


@pytest.fixture(scope="session")
def trained_model(run):
    """The model that the short run saved."""
    model = hw5.VAE()
    model.load_state_dict(torch.load(run / "vae.pt", weights_only=True))
    return model


class Recorder:
    """Records what goes through a model: the encoder's x and outputs, and the z for the decoder."""

    def __init__(self, model):
        self.passes = []
        model.encoder.register_forward_hook(self.encoder_was_called)
        model.decoder.register_forward_hook(self.decoder_was_called)

    def encoder_was_called(self, module, inputs, output):
        mean, log_variance = output.detach().chunk(2, dim=-1)
        record = {"x": inputs[0], "mean": mean, "log_variance": log_variance}
        record["training"] = module.training
        self.passes.append(record)

    def decoder_was_called(self, module, inputs, output):
        if len(self.passes) == 0:
            return  # the model is only being checked before the training
        record = self.passes[-1]
        sigma = torch.exp(0.5 * record["log_variance"])
        record["z"] = inputs[0].detach().reshape(-1, *record["mean"].shape)
        record["epsilon"] = (record["z"] - record["mean"]) / sigma


def reference_terms(model, x, epsilon):
    """Reconstruction and KL of each image by torch.distributions: (B,) and (B,)."""
    mean, log_variance = model.encoder(x).chunk(2, dim=-1)
    posterior = Normal(mean, torch.exp(0.5 * log_variance))
    logits = model.decoder(mean + posterior.stddev * epsilon)
    log_likelihood = Bernoulli(logits=logits).log_prob(x).sum(dim=-1)
    kl = kl_divergence(posterior, Normal(0.0, 1.0)).sum(dim=-1)
    return log_likelihood.mean(dim=0), kl
