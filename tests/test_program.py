"""The program as its users run it: its files, its results, and what the README says of them."""

import csv
import os
import re
import shutil
import sys

import numpy as np
import pytest
import torch
from conftest import DATA, ROOT, SCRIPT, committed, reference_terms, run_script
from pypdf import PdfReader

import pennkey_hw5_problem1 as hw5


def read_table(text):
    """Read the table in the text of results.txt: {"training": [reconstruction, KL, ELBO], ...}."""
    table = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) == 4 and words[0] in ("training", "validation", "test"):
            table[words[0]] = [float(word) for word in words[1:]]
    return table


def read_settings(text):
    """Read the settings in the text of results.txt: {"batch size": "200", ...}."""
    settings = {}
    for line in text.splitlines():
        if line == "":
            break
        name, value = re.split("  +", line, maxsplit=1)
        settings[name] = value
    return settings


def read_log(path):
    """Read a CSV file: its header and its rows as an array."""
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    return header, np.array(rows, float)


def test_default_run_reproduces_the_committed_results(tmp_path):
    """Another processor or release of PyTorch rounds differently, which changes the tenths."""
    process = run_script(f"--output-dir={tmp_path}")
    assert process.returncode == 0
    results = (tmp_path / "results.txt").read_text()
    expected = committed("figures/results.txt").decode()
    table = read_table(results)
    expected_table = read_table(expected)
    assert list(table) == ["training", "validation", "test"]
    for name in table:
        assert table[name] == pytest.approx(expected_table[name], abs=0.6)
    assert table["training"][2] > -33.9
    for name in ("weight updates", "batch size", "learning rate", "seed", "device", "SAMPLES"):
        assert read_settings(results)[name] == read_settings(expected)[name]


def test_run_leaves_the_files_that_the_handout_asks_for(run):
    names = {path.name for path in run.iterdir()} - {"printed"}
    assert names == set(hw5.OUTPUT_FILES)
    assert len(names) == 9
    for path in run.glob("*.pdf"):
        assert len(PdfReader(path, strict=True).pages) == 1


def test_training_log_has_a_row_for_every_update(run):
    header, rows = read_log(run / "training_log.csv")
    assert header == ["update", "reconstruction", "kl"]
    assert rows[:, 0].tolist() == list(range(1, 251))
    assert -145 < rows[0, 1] < -130  # before the first update a pixel costs about log 2
    assert rows[0, 2] < 1
    assert -36 < rows[-1, 1] < -29
    assert 5 < rows[-1, 2] < 10


def test_validation_log_has_a_row_after_every_100_updates(run):
    header, rows = read_log(run / "validation_log.csv")
    assert header == ["update", "reconstruction"]
    assert rows[:, 0].tolist() == [100, 200]
    assert -40 < rows[0, 1] < rows[1, 1] < -29


def test_results_are_those_of_the_saved_weights(run, trained_model):
    torch.manual_seed(1)
    image_sets = hw5.make_data(DATA)
    table = read_table((run / "results.txt").read_text())
    for images, name in zip(image_sets, ["training", "validation", "test"]):
        images = images.flatten(0, 1)
        epsilon = torch.randn(16, len(images), 8)
        reconstruction, kl = reference_terms(trained_model, images, epsilon)
        reconstruction = reconstruction.mean().item()
        kl = kl.mean().item()
        expected = [reconstruction, kl, reconstruction - kl]
        assert table[name] == pytest.approx(expected, abs=0.5 if name == "validation" else 0.1)


def test_results_name_the_settings_of_the_run(run):
    settings = read_settings((run / "results.txt").read_text())
    assert settings == {
        "weight updates": "250 of 250",
        "batch size": "200",
        "learning rate": "0.02",
        "seed": "1",
        "device": "cpu",
        "PIXELS": "196",
        "LATENT": "8",
        "HIDDEN": "128",
        "SAMPLES": "2",
        "images of each digit": "1000 training, 10 validation, 882 test",
        "Python": ".".join(str(number) for number in sys.version_info[:3]),
        "torch": torch.__version__,
    }


def test_program_prints_the_results_and_then_the_folder(run):
    printed = (run / "printed").read_text()
    results = (run / "results.txt").read_text()
    assert results in printed
    assert printed.splitlines()[-1].endswith(str(run))


def test_columns_of_the_table_do_not_run_together():
    options = hw5.parse_options([])
    row = {"reconstruction": -1e14, "kl": 1e14, "elbo": -2e14}
    text = hw5.describe_results(options, 1, {"validation": row}, remarks=[])
    assert read_table(text)["validation"] == [-1e14, 1e14, -2e14]


def test_lone_renamed_script_saves_the_same_files_beside_itself(run, tmp_path):
    """Also when the user has a matplotlibrc of his own, and from another current folder."""
    folder = tmp_path / "Größe und 数"
    folder.mkdir()
    script = shutil.copy(SCRIPT, folder / "jane_hw5_problem1.py")
    (tmp_path / "matplotlibrc").write_text("font.size: 20\naxes.facecolor: yellow\n")
    environment = {**os.environ, "MATPLOTLIBRC": str(tmp_path), "PYTHONWARNINGS": "error"}
    process = run_script("--updates=250", "--seed=1", script=script, cwd=tmp_path, env=environment)
    assert process.returncode == 0
    assert process.stderr == ""
    for name in hw5.OUTPUT_FILES:
        assert (folder / name).read_bytes() == (run / name).read_bytes(), name


def test_script_saves_in_the_folder_figures_beside_it_if_there_is_one():
    options = hw5.parse_options([])
    assert options.output_dir == ROOT / "figures"
    assert options.data_dir == ROOT / "data"


def test_main_can_be_called_from_a_notebook_with_a_list_of_options(tmp_path):
    status = hw5.main(["--updates=1", f"--data-dir={DATA}", f"--output-dir={tmp_path}"])
    assert status == 0
    assert (tmp_path / "problem1_vi_log_likelihood.pdf").exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_program_runs_on_a_gpu(tmp_path):
    process = run_script("--updates=120", "--device=cuda", f"--output-dir={tmp_path}")
    assert process.returncode == 0
    assert process.stderr == ""
    table = read_table((tmp_path / "results.txt").read_text())
    assert -48 < table["training"][2] < -38
    weights = torch.load(tmp_path / "vae.pt", weights_only=True)
    assert all(weight.device.type == "cpu" for weight in weights.values())


def test_images_of_28x28_pixels_are_one_edit(tmp_path):
    source = SCRIPT.read_text()
    assert source.count("\nSTEP = 2 ") == 1
    script = tmp_path / "edited.py"
    script.write_text(source.replace("\nSTEP = 2 ", "\nSTEP = 1 "))
    process = run_script("--updates=20", script=script)
    assert process.returncode == 0
    assert process.stderr == ""
    weights = torch.load(tmp_path / "vae.pt", weights_only=True)
    assert weights["encoder.0.weight"].shape == (128, 784)
    assert weights["decoder.2.weight"].shape == (784, 128)


def test_without_test_images_there_is_no_row_for_them(tmp_path, monkeypatch):
    monkeypatch.setattr(hw5, "VALIDATION_PER_DIGIT", 892)
    hw5.main(["--updates=1", f"--data-dir={DATA}", f"--output-dir={tmp_path}"])
    assert list(read_table((tmp_path / "results.txt").read_text())) == ["training", "validation"]


def test_header_for_uv_names_the_requirements():
    requirements = (ROOT / "requirements.txt").read_text().split()
    (line,) = re.findall(r"(?m)^# dependencies = (.*)$", SCRIPT.read_text())
    assert re.findall(r'"(.*?)"', line) == requirements


def test_readme_and_docstring_have_the_committed_results():
    results = committed("figures/results.txt").decode()
    readme = (ROOT / "README.md").read_text()
    assert results in readme
    table = read_table(results)
    docstring = " ".join(hw5.__doc__.split())
    assert f"about {table['training'][2]:.1f} on the training images" in docstring
    assert f"{table['test'][2]:.1f} on the test images" in docstring


def test_readme_s_example_runs(run, tmp_path, monkeypatch):
    readme = (ROOT / "README.md").read_text()
    (example,) = re.findall(r"```python\n(import torch.*?)```", readme, re.DOTALL)
    shutil.copytree(run, tmp_path / "figures")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(example, names)
    assert names["images"].shape == (16, 14, 14)


def test_links_in_the_readme_lead_to_files():
    for link in re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text()):
        assert link.startswith("https://") or (ROOT / link).exists(), link
