"""The script as its users run it: its files, its result, its command line, its project files."""

import json
import os
import re
import shutil
import subprocess

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


def test_default_run_reproduces_the_committed_result(tmp_path):
    """The whole program as its users run it; another machine or release of PyTorch rounds differently."""
    process = run_script("--output-dir", tmp_path, "--device", "cpu")
    assert process.returncode == 0 and process.stderr == "", process.stderr
    metrics, _ = check_files(tmp_path, 4000)
    lines = [line.split() for line in process.stdout.splitlines()]
    assert [line for line in lines if line and line[-1].startswith("-")][-3:] == table(metrics)
    expected = json.loads(committed("figures/metrics.json"))
    assert metrics["settings"] == expected["settings"] and metrics["constants"] == expected["constants"]
    for name, row in expected["results"].items():
        assert metrics["results"][name]["elbo"] == pytest.approx(row["elbo"], abs=0.3)


def test_readme_and_docstring_have_the_committed_numbers_and_links_lead_to_files(hw5):
    metrics, readme = json.loads(committed("figures/metrics.json")), (ROOT / "README.md").read_text()
    assert all(row in map(str.split, readme.splitlines()) for row in table(metrics))
    (*_, reconstruction, kl, elbo), (*_, test_elbo), _ = table(metrics)
    assert re.findall(r"-?\d+\.\d+", hw5.__doc__)[-4:] == [elbo, reconstruction, kl, test_elbo]
    for link in re.findall(r"\]\(([^)#]+)", readme):
        assert link.startswith("http") or (ROOT / link).exists(), link


def test_readme_example_decodes_what_a_run_left(run, tmp_path, monkeypatch):
    example = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    shutil.copytree(run.folder, tmp_path / "figures")
    monkeypatch.chdir(tmp_path)
    exec(example, names := {})
    assert names["images"].shape == (16, 14, 14) and 0 < names["images"].min() < names["images"].max() < 1
    assert all(map(torch.equal, names["model"].state_dict().values(), run.model.state_dict().values()))


def test_log_and_metrics_are_those_of_the_arrays_and_of_the_saved_weights(hw5, run, data):
    metrics, log = check_files(run.folder, 300)
    assert log.dtype.names[1:] == ("reconstruction", "kl", "validation_reconstruction", "test_reconstruction")
    np.testing.assert_allclose(np.array(log.tolist())[:, 1:], run.log, rtol=1e-8)
    settings = {"updates": 300, "batch_size": 200, "learning_rate": 0.02, "seed": 1, "device": "cpu"}
    assert metrics["settings"] == settings and metrics["torch"] == torch.__version__
    assert {name: run.trained[name] for name in list(settings)[:3]} == dict(list(settings.items())[:3])
    assert metrics["script"] == SCRIPT.name and metrics["constants"]["LATENT"] == 8
    for name, images in zip(("training", "validation", "test"), (*data[:2], data[2][::6])):
        assert torch.equal(run.trained[name], images)
    model, samples = hw5.VAE(), {"training": 4, "test": 4, "validation": 1000}
    model.load_state_dict(weights := torch.load(run.folder / "vae.pt", weights_only=True))
    shapes = [(128, 196), (128,), (16, 128), (16,), (128, 8), (128,), (196, 128), (196,)]  # of the handout
    assert [tuple(weight.shape) for weight in weights.values()] == shapes
    assert {name: row["samples"] for name, row in metrics["results"].items()} == samples
    for name, images in zip(("training", "validation", "test"), data):
        row, kl = metrics["results"][name], reference(model, images, torch.zeros(1, 1, 8))[1].mean().item()
        assert row["images"] == len(images) and row["kl"] == pytest.approx(kl, rel=1e-4)


def test_alone_and_renamed_it_saves_the_same_bytes_beside_itself(hw5, run, tmp_path):
    """Not into the current folder, in which nothing appears; in the repository into its figures/."""
    options = hw5.parse_options([])
    assert (options.output_dir, options.data_dir) == (ROOT / "figures", DATA)
    (tmp_path / "a lone").mkdir()
    script = shutil.copy(SCRIPT, tmp_path / "a lone/pratikac_hw5_problem1.py")
    options = ("--updates=300", "--seed=1", "--device=cpu", f"--data-dir={DATA}")
    run_script(*options, script=script, cwd=tmp_path, check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a lone"]
    metrics, _ = check_files(script.parent, 300)
    assert metrics == {**run.metrics, "script": script.name}
    for name in OUTPUTS[:-1]:
        assert (script.parent / name).read_bytes() == (run.folder / name).read_bytes(), name


@pytest.mark.parametrize("option", OPTIONS)
def test_a_wrong_option_is_named_in_one_line_after_the_usage(hw5, capsys, option):
    with pytest.raises(SystemExit, match=r"^2$"):
        hw5.parse_options([f"--{option}"])
    name, errors = option.split("=")[0], capsys.readouterr().err
    assert re.fullmatch(rf"usage: .*\n( .*\n)*\S+: error: argument --{name}: .*\n", errors)


def test_header_has_the_requirements():
    """PEP 723: `uv run` on the lone file installs what requirements.txt does."""
    dependencies = json.loads(re.search(r"^# dependencies = (.*)", SCRIPT.read_text(), re.MULTILINE)[1])
    assert dependencies == (ROOT / "requirements.txt").read_text().split()


def test_findings_are_executable_name_versions_are_bash_and_are_listed():
    listed = re.findall(r"\(([\w-]+\.sh)\)", (ROOT / "findings/README.md").read_text(encoding="utf-8"))
    assert {*listed} == {path.name for path in ROOT.glob("findings/*.sh")}
    for path in map(ROOT.joinpath("findings").joinpath, listed):
        assert os.access(path, os.X_OK) and re.search(r"\d\.\d+\.\d", path.read_text(encoding="utf-8"))
        subprocess.run(["bash", "-n", path], check=True)
