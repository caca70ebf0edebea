"""The script as its users run it: its files, its result, its command line, its project files."""

import ast
import json
import re
import shutil
import sys

import numpy as np
import pytest
import torch
from conftest import DATA, OUTPUTS, ROOT, SCRIPT, check_files, committed, reference, run_script

WRONG = "updates=0 batch-size=-1 learning-rate=nan learning-rate=inf seed=x device=gpu device=meta device="
OPTIONS = [*WRONG.split(), f"seed={2**64}", "device=cuda:99", f"output-dir={SCRIPT}", "output-dir=/proc"]


def table(metrics):
    """The rows of the table that the script prints, by their words."""
    terms, rows = ("reconstruction", "kl", "elbo"), metrics["results"].items()
    return [[str(row["images"]), name, *(f"{row[term]:.1f}" for term in terms)] for name, row in rows]


def test_defaults_reproduce_the_committed_result(tmp_path):
    """The whole program as its users run it; another machine or release of PyTorch rounds differently."""
    process = run_script("--output-dir", tmp_path, "--device", "cpu")
    assert process.returncode == 0 and process.stderr == "", process.stderr
    expected, (metrics, _) = json.loads(committed("figures/metrics.json")), check_files(tmp_path, 5000)
    assert metrics["settings"] == expected["settings"]
    for name, row in expected["results"].items():
        assert metrics["results"][name]["elbo"] == pytest.approx(row["elbo"], abs=0.3)
    *progress, empty, header, first, second, third, last = process.stdout.splitlines()
    assert len(progress) == 50 and all(line.startswith("update ") for line in progress) and empty == ""
    assert re.fullmatch("images [(]nats per image[)] +reconstruction +KL +ELBO", header)
    assert [line.split() for line in (first, second, third)] == table(metrics) and str(tmp_path) in last


def test_readme_and_docstring_have_the_committed_numbers_and_links_lead_to_files(hw5):
    metrics, readme = json.loads(committed("figures/metrics.json")), (ROOT / "README.md").read_text()
    lines = [line.split() for line in readme.splitlines()]
    assert all(row in lines for row in table(metrics))
    (_, _, first, kl, elbo), (*_, test_elbo), _ = table(metrics)
    assert re.findall(r"-?\d+\.\d+", hw5.__doc__.split("\n\n")[-1]) == [elbo, first, kl, test_elbo]
    for link in re.findall(r"\]\(([^)#]+)", readme):
        assert link.startswith("http") or (ROOT / link).exists(), link


def test_log_and_metrics_are_those_of_the_arrays_and_of_the_saved_weights(hw5, run, data):
    metrics, log = check_files(run.folder, 300)
    names = ("update", "reconstruction", "kl", "validation_reconstruction", "validation_standard_error")
    columns = np.array(log.tolist())
    assert log.dtype.names == names and np.array_equal(columns[:, 1:3], run.terms)
    assert np.array_equal(columns[~np.isnan(columns).any(axis=1)][:, [0, 3, 4]], run.validated)
    settings = {"updates": 300, "batch_size": 200, "learning_rate": 0.025, "seed": 1, "device": "cpu"}
    assert metrics["settings"] == settings and metrics["torch"] == torch.__version__
    assert all(map(torch.equal, run.steps[:2], data[:2])) and run.steps[2:] == [300, 200, 0.025]
    model, sets = hw5.VAE(), {"training": data[0], "test": data[2], "validation": data[1]}
    model.load_state_dict(weights := torch.load(run.folder / "vae.pt", weights_only=True))
    shapes = [(128, 196), (128,), (16, 128), (16,), (128, 8), (128,), (196, 128), (196,)]  # of the handout
    assert [tuple(weight.shape) for weight in weights.values()] == shapes
    assert [*metrics["results"]] == [*sets]
    for images, row, samples in zip(sets.values(), metrics["results"].values(), (16, 16, 1000)):
        kl = pytest.approx(reference(model, images, torch.zeros(1, 1, 8))[1].mean().item(), rel=1e-4)
        assert (row["images"], row["samples"], row["kl"]) == (len(images), samples, kl)


def test_lone_and_renamed_it_saves_the_same_bytes_in_figures_beside_itself(run, tmp_path):
    """Not into the current folder, in which nothing appears."""
    out = tmp_path / "a lone/figures"
    out.mkdir(parents=True)
    script = shutil.copy(SCRIPT, tmp_path / "a lone/pratikac_hw5_problem1.py")
    options = ("--updates=300", "--seed=1", "--device=cpu", f"--data-dir={DATA}")
    process = run_script(*options, script=script, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a lone"]
    check_files(out, 300)
    for name in OUTPUTS:
        assert (out / name).read_bytes() == (run.folder / name).read_bytes(), name


@pytest.mark.parametrize("option", OPTIONS)
def test_a_wrong_option_is_named_in_one_line_after_the_usage(hw5, capsys, option):
    with pytest.raises(SystemExit, match=r"^2$"):
        hw5.parse_options([f"--{option}"])
    name, errors = option.split("=")[0], capsys.readouterr().err
    assert re.fullmatch(rf"usage: .*\n( .*\n)*\S+: error: argument --{name}: .*\n", errors)


def test_header_requirements_and_imports_agree():
    """PEP 723: `uv run` on the lone file installs what requirements.txt does, which is what it imports."""
    text = SCRIPT.read_text(encoding="utf-8")
    dependencies = ast.literal_eval(re.search(r"^# dependencies = (\[.*?\])", text, re.MULTILINE).group(1))
    assert dependencies == (ROOT / "requirements.txt").read_text().split()
    imports = re.findall(r"^(?:import|from) (\w+)", text, re.MULTILINE)
    assert {name.split(">")[0] for name in dependencies} == {*imports} - sys.stdlib_module_names
