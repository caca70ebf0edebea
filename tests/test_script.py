"""The script as its users run it: every file that it writes, its command line, its project files."""

import ast
import csv
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import COMMITTED, DATA, OUTPUTS, PLOTS, ROOT, SCRIPT, environment, run_script
from pypdf import PdfReader

WORDS = {  # of each plot
    "problem1_i_dataset.pdf": ["(i)", "digit 0", "digit 9", "pixel value"],
    "problem1_iii_elbo_terms.pdf": ["(iii)", "first term", "second term", "training mini-batch", "mean over"],
    "problem1_iv_reconstructions.pdf": ["(iv)", "left", "right", "digit 0", "digit 7", "pixel probability"],
    "problem1_v_samples.pdf": ["(v)", "64 samples", "pixel probability"],
    "problem1_vi_log_likelihood.pdf": ["(vi)", "training mini-batch", "mean over", "100 validation images"],
}


def text_of(path):
    """The text of a PDF of one page, with white space folded."""
    (page,) = PdfReader(path).pages
    return " ".join(page.extract_text().split())


def rows_of(folder):
    """The rows of training_log.csv."""
    with (folder / "training_log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def check_outputs(folder, updates):
    """Every file of a finished run, and the figures' text."""
    log = rows_of(folder)
    assert [row["update"] for row in log] == [str(update) for update in range(1, updates + 1)]
    validated = [row["update"] for row in log if row["validation_reconstruction"]]
    assert validated == [str(update) for update in range(100, updates + 1, 100)]
    assert json.loads((folder / "metrics.json").read_text())["updates_done"] == updates
    for name, words in WORDS.items():
        text = text_of(folder / name)
        assert all(word in text for word in words), (name, text)
        if "iii" in name or "vi" in name:
            assert all(word in text for word in ("number of weight updates", "nats per image")), (name, text)


def test_defaults_reproduce_the_committed_result(tmp_path):
    """The whole program as its users run it; another machine or release of PyTorch rounds differently."""
    process = run_script("--output-dir", tmp_path)
    assert process.returncode == 0, process.stderr
    new, committed = (
        json.loads((folder / "metrics.json").read_text()) for folder in (tmp_path, COMMITTED / "figures")
    )
    assert new["settings"] == committed["settings"]
    assert new["updates_done"] == committed["updates_done"] >= 5000
    check_outputs(tmp_path, new["updates_done"])
    for name in ("training", "test"):
        assert new["results"][name]["elbo"] == pytest.approx(committed["results"][name]["elbo"], abs=0.3)
    log = [float(row["reconstruction"]) for row in rows_of(tmp_path)]
    tenth = len(log) // 10
    before, last = np.mean(log[-2 * tenth : -tenth]), np.mean(log[-tenth:])
    assert -0.1 < last - before < 0.4  # the curve settles


def test_every_file_is_written_and_nothing_else(finished):
    folder, process = finished
    assert sorted(path.name for path in folder.iterdir()) == sorted(OUTPUTS)
    check_outputs(folder, 300)
    assert process.stderr == ""


def test_plots_are_vector_drawings(finished):
    """Curves are paths: the only images inside are those of the grids and their colour bar."""
    for name in PLOTS:
        (page,) = PdfReader(finished[0] / name).pages
        grids = {"i": 1, "iv": 8, "v": 1}.get(name.split("_")[1])
        assert len(page.images) == (grids + 1 if grids else 0)


def drawn(row, number):
    """The curve `number` of both axes of a row, as one: its abscissas and ordinates."""
    return np.hstack([axes.lines[number].get_data() for axes in row])


def test_plots_draw_every_update_and_every_100th_validation(hw5):
    """In the axes of the figures themselves, at their true abscissas; the start apart from the rest."""
    log = np.stack((np.linspace(-140, -30, 1234), np.linspace(1, 9, 1234), np.full(1234, np.nan)), axis=1)
    log[99::100, 2] = np.linspace(-40, -31, 12)
    axes = hw5.draw_elbo_terms(log).axes
    for row, values in ((axes[:2], log[:, 0]), (axes[2:], log[:, 1])):
        assert np.array_equal(drawn(row, 0), [np.arange(1, 1235), values])
        updates, mean = drawn(row, 1)
        shown = np.isfinite(mean)
        assert updates[shown].tolist() == list(range(161, 1235))
        expected = [values[t - 100 : t].mean() for t in range(161, 1235)]
        np.testing.assert_allclose(mean[shown], expected)
        assert [len(part.lines[0].get_xdata()) for part in row] == [61, 1234 - 61]
    axes = hw5.draw_log_likelihood(log).axes
    assert np.array_equal(drawn(axes, 0), [np.arange(1, 1235), log[:, 0]])
    updates, validation = drawn(axes, 2)
    shown = np.isfinite(validation)
    assert updates[shown].tolist() == list(range(100, 1201, 100))
    assert np.array_equal(validation[shown], log[99::100, 2])


def test_no_mean_lags_behind_the_steep_start(hw5):
    log = np.full((6000, 3), -30.0)
    log[:200, 0] = np.linspace(-140, -30, 200)
    start, rest = hw5.draw_log_likelihood(log).axes
    assert np.isnan(start.lines[1].get_ydata()).all()
    assert rest.get_ylim()[0] > -40  # and it does not flatten the rest


def test_reconstructions_are_typical_images_of_eight_digits_beside_their_outputs(hw5, trained, data):
    originals = hw5.typical_images(data.validation)
    outputs = hw5.reconstruct(trained[0], originals)
    assert originals.shape == outputs.shape == (8, 196)
    for digit, original in enumerate(originals):
        ten = data.validation[10 * digit : 10 * digit + 10]
        assert (ten == original).all(dim=1).any()
        ink = sorted(ten.sum(dim=1).tolist())
        assert ink[4] <= original.sum() <= ink[5]
    axes = hw5.draw_reconstructions(originals, outputs).axes[:8]
    for digit, (panel, original, output) in enumerate(zip(axes, originals, outputs)):
        assert panel.get_title() == f"digit {digit}"
        pixels = panel.images[0].get_array()[::6, ::6].reshape(16, 2, 16)[1:-1, :, 1:-1]
        assert np.array_equal(pixels[:, 0], original.reshape(14, 14))
        assert np.array_equal(pixels[:, 1], output.reshape(14, 14))


def test_progress_and_table(finished):
    lines = finished[1].stdout.splitlines()
    progress = [line for line in lines if line.startswith("update ")]
    assert [line.split()[1] for line in progress] == ["100/300", "200/300", "300/300"]
    for word in ("reconstruction", "KL", "validation", "s left"):
        assert all(word in line for line in progress)
    log = rows_of(finished[0])
    for line, end in zip(progress, (100, 200, 300)):
        mean = np.mean([float(row["reconstruction"]) for row in log[end - 100 : end]])
        validation = float(log[end - 1]["validation_reconstruction"])
        assert f"reconstruction {mean:7.2f}" in line and f"validation {validation:7.2f}" in line
    results = json.loads((finished[0] / "metrics.json").read_text())["results"]
    for name in ("training", "validation", "test"):
        (row,) = [line.split() for line in lines if f" {name} images " in line]
        numbers = [f"{results[name][key]:.2f}" for key in ("reconstruction", "kl", "elbo")]
        assert row == [str(results[name]["images"]), name, "images", *numbers]
    log_p = results["validation_log_marginal_likelihood"]
    assert f"log p(x) of the validation images: {log_p:.2f}" in lines
    assert str(finished[0]) in lines[-1]


def test_metrics_say_what_was_done(finished):
    metrics = json.loads((finished[0] / "metrics.json").read_text())
    assert set(metrics) == {"settings", "updates_done", "results", "seconds", "versions"}
    numbers = {"updates", "batch_size", "learning_rate", "weight_decay", "seed", "threads"}
    assert set(metrics["settings"]) == {*numbers, "device"} and metrics["settings"]["updates"] == 300
    assert set(metrics["versions"]) == {"python", "torch"} and 0 < metrics["seconds"] < 300
    results = metrics["results"]
    for name, images in {"training": 10000, "validation": 100, "test": 10000}.items():
        part = results[name]
        assert part["images"] == images
        assert part["elbo"] == pytest.approx(part["reconstruction"] - part["kl"])
        assert -50 < part["elbo"] < -33
    log_p = results["validation_log_marginal_likelihood"]
    assert results["validation"]["elbo"] < log_p < results["validation"]["reconstruction"]
    assert sum(results["validation_kl_per_latent"]) == pytest.approx(results["validation"]["kl"], rel=1e-4)


def test_weights_load_into_the_model(hw5, finished, data):
    state = torch.load(finished[0] / "vae.pt", weights_only=True)
    model = hw5.VAE()
    assert list(state) == list(model.state_dict()) and len(state) == 8
    model.load_state_dict(state)
    results = json.loads((finished[0] / "metrics.json").read_text())["results"]
    elbo = hw5.evaluate(model, data.test, seed=0)["elbo"]
    assert elbo == pytest.approx(results["test"]["elbo"], rel=1e-5)


def test_same_seed_same_bytes_alone_and_renamed_in_an_empty_folder(finished, tmp_path):
    """The files go beside a lone script, not into the current directory; nothing else appears in either."""
    elsewhere, alone = tmp_path / "elsewhere", tmp_path / "alone"
    elsewhere.mkdir()
    alone.mkdir()
    script = shutil.copy(SCRIPT, alone / "pratikac_hw5_problem1.py")
    process = run_script("--updates", 300, "--data-dir", DATA, script=script, cwd=elsewhere)
    assert process.returncode == 0, process.stderr
    assert list(elsewhere.iterdir()) == []
    assert sorted(path.name for path in alone.iterdir()) == sorted([*OUTPUTS, "pratikac_hw5_problem1.py"])
    check_outputs(alone, 300)
    for name in [*PLOTS, "training_log.csv", "vae.pt"]:
        assert (alone / name).read_bytes() == (finished[0] / name).read_bytes(), name


def test_files_go_to_figures_where_that_folder_is(hw5, tmp_path, monkeypatch):
    monkeypatch.setattr(hw5, "__file__", str(tmp_path / "x.py"))
    assert hw5.parse_options([]).output_dir == tmp_path
    (tmp_path / "figures").mkdir()
    assert hw5.parse_options([]).output_dir == tmp_path / "figures"


@pytest.mark.parametrize(
    ("option", "values"),
    {
        "--updates": ["0", "-1", "1.5", "x", ""],
        "--batch-size": ["0", "10001", "2.0"],
        "--learning-rate": ["0", "-1", "nan", "inf", "x"],
        "--weight-decay": ["-1", "nan"],
        "--seed": ["-1", "x", str(2**63)],
        "--threads": ["0", "x"],
        "--device": ["gpu", "cuda:x", ""],
    }.items(),
)
def test_a_value_out_of_range_is_an_argparse_error_that_names_the_option(hw5, capsys, option, values):
    for value in values:
        with pytest.raises(SystemExit) as stop:
            hw5.parse_options([option, value])
        assert stop.value.code == 2
        assert f"argument {option}:" in capsys.readouterr().err


def test_devices_are_those_that_are_there(hw5, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, device in {"auto": "cuda", "cuda": "cuda", "cuda:0": "cuda:0", "cuda:1": "cuda:1"}.items():
        assert hw5.parse_options(["--device", name]).device == device
    with pytest.raises(SystemExit):
        hw5.parse_options(["--device", "cuda:2"])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert hw5.parse_options(["--device", "auto"]).device == "cpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert hw5.parse_options(["--device", "auto"]).device == "mps"
    assert hw5.parse_options([]).device == "cpu"  # the same result everywhere


def test_help_gives_every_default(hw5, capsys):
    with pytest.raises(SystemExit) as stop:
        hw5.parse_options(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0
    defaults = vars(hw5.parse_options([]))
    for name, value in defaults.items():
        assert "--" + name.replace("_", "-") in text
        if name not in ("device", "data_dir", "output_dir"):
            assert f"(default: {value})" in text
    assert text.count("(default: ") == len(defaults)


def test_importing_does_nothing(tmp_path):
    """No parsing, no file, no download, no window, and none of the slow imports that a run does not need."""
    shutil.copy(SCRIPT, tmp_path / "lone.py")
    code = """if True:
        import os, sys, torch
        sys.argv, state, before = ["x", "--nonsense"], torch.get_rng_state(), torch.get_num_threads()
        hook, environ = sys.excepthook, dict(os.environ)
        import lone, matplotlib
        assert torch.equal(state, torch.get_rng_state()) and before == torch.get_num_threads()
        assert hook is sys.excepthook and environ == dict(os.environ)
        late = {"torchvision", "matplotlib.pyplot", "torch._dynamo"} & set(sys.modules)
        assert not late, late
        assert matplotlib.rcParams["pdf.fonttype"] == 3
    """
    process = subprocess.run(
        [sys.executable, "-B", "-c", code],
        cwd=tmp_path, env=environment(MPLBACKEND="agg"), capture_output=True, text=True,
    )  # fmt: skip
    assert process.returncode == 0 and process.stdout == process.stderr == "", process.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["lone.py"]


def test_requirements_are_those_of_the_script():
    """PEP 723: `uv run` on the lone file installs what requirements.txt does."""
    text = SCRIPT.read_text(encoding="utf-8")
    block = re.search(r"^# /// script\n(.*?)^# ///$", text, re.DOTALL | re.MULTILINE).group(1)
    header = "".join(line[2:] + "\n" for line in block.splitlines())
    dependencies = ast.literal_eval(re.search(r"dependencies = (\[.*?\])", header, re.DOTALL).group(1))
    assert dependencies == (ROOT / "requirements.txt").read_text().split()


def test_script_imports_four_packages_and_the_standard_library():
    tree = ast.parse(SCRIPT.read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    roots = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)
    assert roots == {"torch", "torchvision", "numpy", "matplotlib"}


def test_readme_has_the_numbers_of_the_reference_run():
    metrics = json.loads((COMMITTED / "figures/metrics.json").read_text())
    readme = (COMMITTED / "README.md").read_text(encoding="utf-8")
    for row in readme_rows(metrics):
        assert row in readme, row


def readme_rows(metrics):
    """What the README quotes of metrics.json, as it stands there."""
    results, settings = metrics["results"], metrics["settings"]
    for name in ("training", "validation", "test"):
        part = results[name]
        log_p = f"{results['validation_log_marginal_likelihood']:.2f}" if name == "validation" else ""
        numbers = f"{part['reconstruction']:.2f} | {part['kl']:.2f} | {part['elbo']:.2f} | {log_p} |"
        yield f"| {part['images']:,} {name} images | {numbers}"
    yield f"{metrics['updates_done']:,} updates of {settings['batch_size']} images"
    yield f"{metrics['seconds']:.0f} s"


def test_files_that_the_readme_names_are_there_and_ci_runs_its_test_command():
    readme, ci = (COMMITTED / "README.md").read_text(encoding="utf-8"), (ROOT / ".ci/run").read_text()
    assert all(name in readme for name in PLOTS)
    for link in re.findall(r"\]\(([^)#]+)\)", readme):
        if not link.startswith("http"):
            assert (COMMITTED / link).exists() or (ROOT / link).exists(), link
    (pattern,) = re.findall(r"grep -m 1 '([^']+)' README.md", ci)
    (test_command,) = [line.strip() for line in readme.splitlines() if pattern in line]
    assert "-r tests/requirements.txt" in test_command
