"""The script as its users run it: every file that it writes, its command line, its project files."""

import ast
import csv
import json
import re
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import COMMITTED, DATA, OUTPUTS, PLOTS, ROOT, SCRIPT, run_script
from pypdf import PdfReader


def text_of(path):
    """The text of a PDF of one page, with white space folded."""
    (page,) = PdfReader(path).pages
    return " ".join(page.extract_text().split())


def rows_of(folder):
    with open(folder / "training_log.csv", newline="") as file:
        return list(csv.DictReader(file))


def check_outputs(folder, updates):
    """Every file of a finished run, and the figures' text."""
    log, metrics = rows_of(folder), json.loads((folder / "metrics.json").read_text())
    assert [row["update"] for row in log] == [str(update) for update in range(1, updates + 1)]
    assert [row["update"] for row in log if row["validation_reconstruction"]] == [str(u) for u in range(100, updates + 1, 100)]
    assert metrics["updates_done"] == updates and metrics["stopped"] is None
    for name, words in {
        "problem1_i_dataset.pdf": ["(i)", "digit 0", "digit 9", "pixel value"],
        "problem1_iii_elbo_terms.pdf": ["(iii)", "First term", "Second term", "number of weight updates", "nats per image", "every update", "running mean"],
        "problem1_iv_reconstructions.pdf": ["(iv)", "original", "output", "digits", "pixel probability"],
        "problem1_v_samples.pdf": ["(v)", "64 draws", "pixel probability"],
        "problem1_vi_log_likelihood.pdf": ["(vi)", "number of weight updates", "nats per image", "training, every update", "validation, every 100 updates"],
    }.items():
        text = text_of(folder / name)
        assert all(word in text for word in words), (name, text)


def test_every_file_is_written_and_nothing_else(finished):
    folder, process = finished
    assert sorted(path.name for path in folder.iterdir()) == sorted(OUTPUTS)
    check_outputs(folder, 300)
    assert process.stderr == ""


def test_plots_are_vector_drawings(finished):
    """Curves are paths: the only images inside are those of the grids."""
    for name in PLOTS:
        (page,) = PdfReader(finished[0] / name).pages
        assert len(page.images) == (0 if "iii" in name or "vi" in name else 2)  # a grid and its colour bar


def test_plots_draw_every_update_and_every_100th_validation(hw5):
    """In the axes of the figures themselves, at their true abscissas."""
    import numpy as np

    log = hw5.Log(np.linspace(-50, -30, 1234), np.linspace(1, 9, 1234), np.linspace(-40, -31, 12), None)
    for axes, values in zip(hw5.draw_elbo_terms(log).axes, (log.reconstruction, log.kl)):
        updates, drawn = axes.lines[0].get_data()
        assert updates.tolist() == list(range(1, 1235)) and np.array_equal(drawn, values)
    training, validation = hw5.draw_log_likelihood(log).axes[0].lines
    assert training.get_xdata().tolist() == list(range(1, 1235)) and np.array_equal(training.get_ydata(), log.reconstruction)
    assert validation.get_xdata().tolist() == list(range(100, 1201, 100)) and np.array_equal(validation.get_ydata(), log.validation)


def test_long_tail_is_not_flattened_by_the_start(hw5):
    import numpy as np

    tail = np.concatenate((np.linspace(-140, -40, 50), np.linspace(-36, -26, 2000)))
    axes = hw5.draw_log_likelihood(hw5.Log(tail, tail, tail[99::100], None)).axes[0]
    low, high = axes.get_ylim()
    assert high - low < 15 and low < tail[-1] < high
    inset = axes.child_axes[0]
    assert inset.get_ylim()[0] < -135  # where the start is drawn in full


def test_reconstructions_are_eight_different_digits_beside_their_outputs(hw5, trained, data, monkeypatch, tmp_path):
    seen = {}
    monkeypatch.setattr(hw5, "draw_reconstructions", lambda *a: seen.update(zip(("originals", "outputs", "digits"), a)) or hw5.Figure())
    options = hw5.parse_options(["--updates", "1", "--output-dir", str(tmp_path), "--data-dir", str(DATA)])
    assert hw5.run(options) == 0
    assert len(set(seen["digits"])) == 8 and seen["originals"].shape == seen["outputs"].shape == (8, 196)
    for digit, original in zip(seen["digits"], seen["originals"]):
        assert torch.equal(torch.from_numpy(original), data.validation[10 * digit])
    assert set(seen["originals"].flatten()) == {0.0, 1.0} and 0 < seen["outputs"].min() < seen["outputs"].max() < 1


def test_progress_and_table(finished):
    lines = finished[1].stdout.splitlines()
    progress = [line for line in lines if line.startswith("update ")]
    assert [line.split()[1] for line in progress] == ["100/300", "200/300", "300/300"]
    for word in ("reconstruction", "KL", "validation", "updates/s", "left"):
        assert all(word in line for line in progress)
    assert all(any(name in line for line in lines) for name in ("training", "validation", "test", *OUTPUTS))


def test_metrics_say_what_was_done(finished):
    metrics = json.loads((finished[0] / "metrics.json").read_text())
    assert metrics["settings"]["updates"] == 300 and metrics["settings"]["samples"] == 2
    assert set(metrics["settings"]) >= {"updates", "batch_size", "learning_rate", "weight_decay", "seed", "samples", "device"}
    assert set(metrics["versions"]) == {"python", "torch", "numpy", "matplotlib"}
    seconds = metrics["seconds"]
    assert set(seconds) == {"imports", "data", "training", "evaluation", "figures", "total"}
    assert sum(seconds.values()) - seconds["total"] == pytest.approx(seconds["total"], rel=0.1)
    results = metrics["results"]
    for name, images in {"training": 10000, "validation": 100, "test": 10000}.items():
        part = results[name]
        assert part["images"] == images and part["elbo"] == pytest.approx(part["reconstruction"] - part["kl"])
        assert -50 < part["elbo"] < -33
    assert results["importance_samples"] == 1000
    assert results["validation"]["elbo"] < results["validation_log_marginal_likelihood"] < results["validation"]["reconstruction"]
    assert sum(results["validation_kl_per_latent"]) == pytest.approx(results["validation"]["kl"], rel=1e-4)


def test_weights_load_into_the_model(hw5, finished, data):
    state = torch.load(finished[0] / "vae.pt", weights_only=True)
    assert list(state) == [f"{part}.{layer}.{kind}" for part in ("encoder", "decoder") for layer in (0, 2) for kind in ("weight", "bias")]
    model = hw5.VAE()
    model.load_state_dict(state)
    results = json.loads((finished[0] / "metrics.json").read_text())["results"]
    assert hw5.evaluate(model, data.test, seed=0)["elbo"] == pytest.approx(results["test"]["elbo"], rel=1e-5)


def test_same_seed_same_bytes(finished, tmp_path):
    process = run_script("--updates", 300, "--output-dir", tmp_path)
    assert process.returncode == 0
    for name in [*PLOTS, "training_log.csv"]:
        assert (tmp_path / name).read_bytes() == (finished[0] / name).read_bytes(), name


def test_alone_and_renamed_in_an_empty_folder(tmp_path):
    """The plots go beside a lone script, not into the current directory; nothing else appears in either."""
    elsewhere, alone = tmp_path / "elsewhere", tmp_path / "alone"
    elsewhere.mkdir()
    alone.mkdir()
    script = shutil.copy(SCRIPT, alone / "pratikac_hw5_problem1.py")
    process = run_script("--updates", 150, "--data-dir", DATA, script=script, cwd=elsewhere)
    assert process.returncode == 0, process.stderr
    assert list(elsewhere.iterdir()) == []
    assert sorted(path.name for path in alone.iterdir()) == sorted([*OUTPUTS, "pratikac_hw5_problem1.py"])
    check_outputs(alone, 150)


def test_plots_go_to_figures_where_that_folder_is(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "data").symlink_to(DATA)
    script = shutil.copy(SCRIPT, tmp_path / "x.py")
    process = run_script("--updates", 1, "--png", script=script)
    assert process.returncode == 0, process.stderr
    names = OUTPUTS + [name.replace(".pdf", ".png") for name in PLOTS]
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == sorted(names)


@pytest.mark.parametrize(
    "option, values",
    {
        "--updates": ["0", "-1", "1.5", "x", ""],
        "--batch-size": ["0", "10001", "2.0"],
        "--learning-rate": ["0", "-1", "nan", "inf", "x"],
        "--weight-decay": ["-1", "nan"],
        "--seed": ["-1", "x"],
        "--device": ["gpu", "cuda:x", ""],
    }.items(),
)
def test_a_value_out_of_range_is_an_argparse_error_that_names_the_option(hw5, capsys, option, values):
    for value in values:
        with pytest.raises(SystemExit) as stop:
            hw5.parse_options([option, value])
        assert stop.value.code == 2
        assert f"argument {option}:" in capsys.readouterr().err


def test_help_gives_every_default(hw5, capsys):
    with pytest.raises(SystemExit) as stop:
        hw5.parse_options(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0
    for name, value in vars(hw5.parse_options([])).items():
        option = "--" + name.replace("_", "-")
        assert option in text
        if name not in ("device", "png", "data_dir", "output_dir"):
            assert f"(default: {value})" in text
    assert text.count("(default: ") == len(vars(hw5.parse_options([])))


def test_importing_does_nothing(tmp_path):
    """No parsing, no file, no download, no window system, and none of the slow imports that a run does not need."""
    script = shutil.copy(SCRIPT, tmp_path / "lone.py")
    code = (
        "import sys, torch; threads = torch.get_num_threads(); sys.argv = ['x', '--nonsense']; state = torch.get_rng_state()\n"
        "import lone, matplotlib\n"
        "assert torch.equal(state, torch.get_rng_state()) and threads == torch.get_num_threads()\n"
        "late = {'torchvision', 'matplotlib.pyplot', 'torch._dynamo'} & set(sys.modules); assert not late, late\n"
        "assert matplotlib.rcParams['pdf.fonttype'] == 3\n"
    )
    process = subprocess.run([sys.executable, "-B", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == 0 and process.stdout == process.stderr == ""
    assert [path.name for path in tmp_path.iterdir()] == ["lone.py"]


def test_requirements_are_those_of_the_script():
    """PEP 723: `uv run` on the lone file installs what requirements.txt does."""
    block = re.search(r"^# /// script\n(.*?)^# ///$", SCRIPT.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE).group(1)
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
    results, seconds, settings = metrics["results"], metrics["seconds"], metrics["settings"]
    for name in ("training", "validation", "test"):
        part = results[name]
        log_p = f"{results['validation_log_marginal_likelihood']:.2f}" if name == "validation" else ""
        numbers = f"{part['reconstruction']:.2f} | {part['kl']:.2f} | {part['elbo']:.2f} | {log_p} |"
        yield f"| {part['images']:,} {name} images | {numbers}"
    yield f"{metrics['updates_done']:,} updates of {settings['batch_size']} images"
    yield f"{seconds['training']:.0f} s of training, {seconds['total']:.0f} s in all"


def test_readme_shows_every_plot_and_ci_runs_its_test_command():
    readme, ci = (COMMITTED / "README.md").read_text(encoding="utf-8"), (ROOT / ".ci/run").read_text()
    for name in PLOTS:
        assert name in readme and (COMMITTED / "figures" / name).is_file()
    for image in re.findall(r"!\[[^]]+\]\(([^)]+)\)", readme):
        assert (COMMITTED / image).is_file(), image
    (pattern,) = re.findall(r"grep -m 1 '([^']+)' README.md", ci)
    (test_command,) = [line.strip() for line in readme.splitlines() if pattern in line]
    assert "-r tests/requirements.txt" in test_command
