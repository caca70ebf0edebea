"""The script as its users run it: its files, its result, its command line, its project files."""

import ast
import csv
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import COMMITTED, DATA, OUTPUTS, PLOTS, ROOT, SCRIPT, run_script
from pypdf import PdfReader
from test_model import numpy_layers, sigmoid


def check_files(folder, updates):
    """The files of a run are there, whole, and nothing else; returns metrics.json."""
    assert sorted(path.name for path in folder.iterdir() if path.suffix != ".py") == sorted(OUTPUTS)
    assert all(len(PdfReader(folder / name, strict=True).pages) == 1 for name in PLOTS)
    with (folder / "training_log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["update"] for row in rows] == [str(update) for update in range(1, updates + 1)]
    assert len(torch.load(folder / "vae.pt", weights_only=True)) == 8
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["updates_done"] == updates
    return metrics


def test_defaults_reproduce_the_committed_result(tmp_path):
    """The whole program as its users run it; another machine or release of PyTorch rounds differently."""
    process = run_script("--output-dir", tmp_path, "--device", "cpu")
    assert process.returncode == 0 and process.stderr == "", process.stderr
    committed = json.loads((COMMITTED / "figures/metrics.json").read_text())
    new = check_files(tmp_path, committed["updates_done"])
    assert new["settings"] == committed["settings"]
    assert new["updates_done"] == new["settings"]["updates"] <= 5000
    for name in ("training", "test"):
        assert new["results"][name]["elbo"] == pytest.approx(committed["results"][name]["elbo"], abs=0.3)
    lines = process.stdout.splitlines()
    assert sum(line.startswith("update ") for line in lines) == new["updates_done"] // 100
    for name, part in new["results"].items():
        if name in ("training", "validation", "test"):
            row = [str(part["images"]), name, "images"]
            assert [*row, *(f"{part[key]:.1f}" for key in ("reconstruction", "kl", "elbo"))] in [
                line.split() for line in lines
            ]
    assert str(tmp_path) in lines[-1]


def test_log_has_what_train_returned(run):
    with (run["folder"] / "training_log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    terms = [[float(row["reconstruction"]), float(row["kl"])] for row in rows]
    validation = {row["update"]: row["validation_reconstruction"] for row in rows}
    assert np.array_equal(terms, run["terms"])
    assert [float(validation.pop(update)) for update in ("100", "200", "300")] == run["validation"].tolist()
    assert set(validation.values()) == {""}


def test_metrics_are_those_of_the_saved_weights(hw5, run, data):
    """Both terms of Eq. (1) of vae.pt in NumPy, with other noise, on the data set that seed 0 draws."""
    metrics = check_files(run["folder"], 300)
    assert all(torch.equal(a, b) for a, b in zip(run["make_data"], data))
    settings = {"updates": 300, "batch_size": 200, "learning_rate": 0.025, "seed": 0}
    assert metrics["settings"] == {**settings, "device": run["make_data of"][1]}
    model, noise = hw5.VAE(), np.random.default_rng(0)
    model.load_state_dict(torch.load(run["folder"] / "vae.pt", weights_only=True))
    for name, images in data._asdict().items():
        mean, log_variance = np.split(numpy_layers(model, "encoder", images), 2, axis=1)
        kl = 0.5 * (mean**2 + np.exp(log_variance) - log_variance - 1).sum(axis=1).mean()
        z = mean + np.exp(0.5 * log_variance) * noise.standard_normal((4, *mean.shape))
        y, x = sigmoid(numpy_layers(model, "decoder", z)), images.numpy()
        reconstruction = np.log(np.where(x == 1, y, 1 - y)).sum(axis=-1).mean()
        part = metrics["results"][name]
        assert part["images"] == len(images) and part["kl"] == pytest.approx(kl, rel=1e-4)
        assert part["reconstruction"] == pytest.approx(reconstruction, abs=0.5 if len(images) == 100 else 0.1)
        assert part["elbo"] == pytest.approx(part["reconstruction"] - part["kl"])
    log_p = metrics["results"]["validation_log_marginal_likelihood"]
    assert metrics["results"]["validation"]["elbo"] < log_p < reconstruction + 5


def test_lone_and_renamed_it_saves_the_same_bytes_beside_itself(run, tmp_path):
    """Not into the current folder; nothing else appears in either."""
    alone, elsewhere = tmp_path / "a lone", tmp_path / "elsewhere"
    alone.mkdir()
    elsewhere.mkdir()
    script = shutil.copy(SCRIPT, alone / "pratikac_hw5_problem1.py")
    process = run_script("--updates", 300, "--data-dir", DATA, script=script, cwd=elsewhere)
    assert process.returncode == 0 and not list(elsewhere.iterdir()), process.stderr
    check_files(alone, 300)
    for name in OUTPUTS:
        assert (alone / name).read_bytes() == (run["folder"] / name).read_bytes(), name


def test_folders(hw5, tmp_path, monkeypatch):
    """Beside the script, or in figures/ where that is; ~ is the home folder."""
    monkeypatch.setattr(hw5, "__file__", str(tmp_path / "x.py"))
    assert hw5.parse_options([]).output_dir == tmp_path
    (tmp_path / "figures").mkdir()
    assert hw5.parse_options([]).output_dir == tmp_path / "figures"
    options = hw5.parse_options(["--output-dir=~/plots", "--data-dir=~/mnist"])
    assert (options.output_dir, options.data_dir) == (Path.home() / "plots", Path.home() / "mnist")


@pytest.mark.parametrize(
    "option", ["--updates=0", "--batch-size=-1", "--learning-rate=nan", "--learning-rate=0", "--seed=x"]
)
def test_a_wrong_option_is_named(hw5, capsys, option):
    with pytest.raises(SystemExit) as stop:
        hw5.parse_options([option])
    assert stop.value.code == 2
    assert f"argument {option.split('=')[0]}: " in capsys.readouterr().err


def test_device_is_cuda_where_there_is_one(hw5, monkeypatch):
    for there, device in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert hw5.parse_options([]).device == device
        assert hw5.parse_options(["--device", "mps"]).device == "mps"


def test_help_gives_every_default(hw5, capsys):
    with pytest.raises(SystemExit):
        hw5.parse_options(["--help"])
    text = capsys.readouterr().out
    assert text.count("(default:") == len(vars(hw5.parse_options([])))


def test_header_requirements_and_imports_agree():
    """PEP 723: `uv run` on the lone file installs what requirements.txt does, which is what it imports."""
    text = SCRIPT.read_text(encoding="utf-8")
    dependencies = ast.literal_eval(re.search(r"^# dependencies = (\[.*?\])", text, re.MULTILINE).group(1))
    assert dependencies == (ROOT / "requirements.txt").read_text().split()
    imports = re.findall(r"^(?:import|from) (\w+)", text, re.MULTILINE)
    assert {name.split(">")[0] for name in dependencies} == {*imports} - sys.stdlib_module_names


def test_readme_has_the_numbers_of_the_reference_run_and_the_files_that_it_names():
    metrics = json.loads((COMMITTED / "figures/metrics.json").read_text())
    readme = (COMMITTED / "README.md").read_text(encoding="utf-8")
    log_p = metrics["results"]["validation_log_marginal_likelihood"]
    assert f"{log_p:.1f}" in readme
    for name in ("training", "validation", "test"):
        part = metrics["results"][name]
        row = [f"{part[key]:.1f}" for key in ("reconstruction", "kl", "elbo")]
        assert f"| {part['images']:,} {name} images | {' | '.join(row)} |" in readme
    for link in re.findall(r"\]\(([^)#]+)\)", readme):
        assert link.startswith("http") or (ROOT / link).exists(), link
    (pattern,) = re.findall(r"grep -m 1 '([^']+)' README.md", (ROOT / ".ci/run").read_text())
    assert [pattern in line for line in readme.splitlines()].count(True) == 1
