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
from conftest import DATA, OUTPUTS, PLOTS, ROOT, SCRIPT, committed, run_script
from pypdf import PdfReader
from test_model import numpy_layers, sigmoid

SETS = ("training", "validation", "test")
TERMS = ("reconstruction", "kl", "elbo")


def check_files(folder, updates):
    """The files of a run are there, whole, and nothing else; returns metrics.json and the rows of the log."""
    assert sorted(path.name for path in folder.iterdir() if path.suffix != ".py") == sorted(OUTPUTS)
    assert all(len(PdfReader(folder / name, strict=True).pages) == 1 for name in PLOTS)
    assert len(torch.load(folder / "vae.pt", weights_only=True)) == 8
    with (folder / "training_log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["update"] for row in rows] == [str(update) for update in range(1, updates + 1)]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["updates_done"] == updates
    return metrics, rows


def table(metrics):
    """The rows of the table that the script prints."""
    parts = {name: metrics["results"][name] for name in SETS}
    return [[str(p["images"]), name, "images", *(f"{p[t]:.1f}" for t in TERMS)] for name, p in parts.items()]


def test_defaults_reproduce_the_committed_result(tmp_path):
    """The whole program as its users run it; another machine or release of PyTorch rounds differently."""
    process = run_script("--output-dir", tmp_path, "--device", "cpu")
    assert process.returncode == 0 and process.stderr == "", process.stderr
    reference = json.loads(committed("figures/metrics.json"))
    metrics, _ = check_files(tmp_path, reference["updates_done"])
    assert metrics["settings"] == reference["settings"] and metrics["updates_done"] <= 5000
    for name in ("training", "test"):
        elbos = [run["results"][name]["elbo"] for run in (metrics, reference)]
        assert elbos[0] == pytest.approx(elbos[1], abs=0.3)
    lines = process.stdout.splitlines()
    assert sum(line.startswith("update ") for line in lines) == metrics["updates_done"] // 100
    assert [line.split() for line in lines[-4:-1]] == table(metrics) and str(tmp_path) in lines[-1]


def test_readme_has_the_table_of_the_reference_run_and_the_files_that_it_names():
    readme = committed("README.md").decode()
    lines = [line.split() for line in readme.splitlines()]
    assert all(row in lines for row in table(json.loads(committed("figures/metrics.json"))))
    for link in re.findall(r"\]\(([^)#]+)", readme):
        assert link.startswith("http") or (ROOT / link).exists(), link
    (pattern,) = re.findall(r"grep -m 1 '([^']+)' README.md", (ROOT / ".ci/run").read_text())
    assert readme.count(pattern) == 1


def test_log_has_what_train_returned(run):
    _, rows = check_files(run["folder"], 300)
    terms = [[float(row["reconstruction"]), float(row["kl"])] for row in rows]
    validation = {row["update"]: row["validation_reconstruction"] for row in rows}
    assert np.array_equal(terms, run["terms"])
    assert [float(validation.pop(update)) for update in ("100", "200", "300")] == run["validation"].tolist()
    assert set(validation.values()) == {""}


def test_metrics_are_those_of_the_saved_weights(hw5, run, data):
    """Both terms of Eq. (1) of vae.pt in NumPy, with other noise, on the data set that seed 0 draws."""
    metrics, _ = check_files(run["folder"], 300)
    assert all(torch.equal(a, b) for a, b in zip(run["make_data"], data))
    settings = {"updates": 300, "batch_size": 200, "learning_rate": 0.025, "seed": 0}
    assert metrics["settings"] == {**settings, "device": run["make_data of"][1]}
    assert run["train of"][2:] == (300, 200, 0.025)
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
    assert 0.3 < log_p - metrics["results"]["validation"]["elbo"] < 5  # a bound


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


def test_folders_and_device(hw5, tmp_path, monkeypatch):
    """Beside the script, or in figures/ where that is; ~ is the home folder; a GPU where there is one."""
    monkeypatch.setattr(hw5, "__file__", str(tmp_path / "x.py"))
    assert hw5.parse_options([]).output_dir == tmp_path
    (tmp_path / "figures").mkdir()
    assert hw5.parse_options([]).output_dir == tmp_path / "figures"
    options = hw5.parse_options(["--output-dir=~/plots", "--data-dir=~/mnist"])
    assert (options.output_dir, options.data_dir) == (Path.home() / "plots", Path.home() / "mnist")
    for there, device in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert hw5.parse_options([]).device == device


@pytest.mark.parametrize("option", ["--updates=0", "--batch-size=-1", "--learning-rate=nan", "--seed=x"])
def test_a_wrong_option_is_named(hw5, capsys, option):
    with pytest.raises(SystemExit) as stop:
        hw5.parse_options([option])
    assert stop.value.code == 2 and f"argument {option.split('=')[0]}: " in capsys.readouterr().err


def test_header_requirements_and_imports_agree():
    """PEP 723: `uv run` on the lone file installs what requirements.txt does, which is what it imports."""
    text = SCRIPT.read_text(encoding="utf-8")
    dependencies = ast.literal_eval(re.search(r"^# dependencies = (\[.*?\])", text, re.MULTILINE).group(1))
    assert dependencies == (ROOT / "requirements.txt").read_text().split()
    imports = re.findall(r"^(?:import|from) (\w+)", text, re.MULTILINE)
    assert {name.split(">")[0] for name in dependencies} == {*imports} - sys.stdlib_module_names
