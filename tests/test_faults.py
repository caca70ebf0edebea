"""What goes wrong elsewhere is told in one sentence, has the right status, and loses nothing."""

import functools
import math
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import DATA, SCRIPT, run_script

import pennkey_hw5_problem1 as hw5


def files_in(folder):
    """The names of the files in a folder, and what is in them."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def old_run(run, tmp_path):
    """A folder with the files of another run."""
    return shutil.copytree(run, tmp_path / "old")


@pytest.fixture
def no_network(monkeypatch):
    """No server can be reached: there is no proxy at this address."""
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")


WRONG_OPTIONS = [
    "--updates=0",
    "--updates=1.5",
    "--batch-size=-1",
    "--learning-rate=0",
    "--learning-rate=nan",
    "--learning-rate=inf",
    "--learning-rate=fast",
    "--seed=-1",
    "--seed=18446744073709551616",
    "--device=cuda:99",
    "--device=gpu",
    "--device=meta",
    "--device=",
]


@pytest.mark.parametrize("option", WRONG_OPTIONS)
def test_wrong_option_is_named_in_one_line(capsys, option):
    with pytest.raises(SystemExit) as exit_:
        hw5.parse_options([option])
    assert exit_.value.code == 2
    name = option.split("=")[0]
    assert f"error: argument {name}: " in capsys.readouterr().err.splitlines()[-1]


def test_no_mnist_and_no_network_is_one_sentence(no_network, tmp_path):
    with pytest.raises(hw5.RunError) as told:
        hw5.make_data(tmp_path / "none")
    sentence = str(told.value)
    assert sentence.startswith(
        f"MNIST can be neither read from nor downloaded to the folder {tmp_path}"
    )
    assert "--data-dir" in sentence
    assert "\n" not in sentence


def test_damaged_mnist_is_one_sentence(no_network, tmp_path):
    without_archives = shutil.ignore_patterns("*.gz")
    shutil.copytree(DATA, tmp_path / "data", ignore=without_archives)
    damaged = tmp_path / "data/MNIST/raw/train-images-idx3-ubyte"
    damaged.write_bytes(damaged.read_bytes()[:1_000_000])
    with pytest.raises(hw5.RunError, match="Delete damaged files"):
        hw5.make_data(tmp_path / "data")


def test_output_folder_that_cannot_be_made_is_told_before_the_training(tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(hw5.RunError, match=f"Nothing can be saved in the folder {file}"):
        hw5.main([f"--data-dir={DATA}", f"--output-dir={file}"])
    assert capsys.readouterr().out == ""


def test_output_folder_that_cannot_be_written_is_told():
    with pytest.raises(hw5.RunError, match="Nothing can be saved in the folder /proc"):
        hw5.make_folder(Path("/proc"))


def test_divergence_is_one_sentence_and_leaves_old_files_alone(old_run):
    before = files_in(old_run)
    process = run_script("--updates=100", "--learning-rate=1", f"--output-dir={old_run}")
    assert process.returncode == 1
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: The training has made the ELBO worse")
    assert "Try a lower --learning-rate" in line
    assert files_in(old_run) == before


def test_last_update_that_spoils_the_weights_is_divergence(tmp_path):
    options = ["--updates=1", "--learning-rate=1000"]
    with pytest.raises(hw5.RunError, match="made the ELBO worse"):
        hw5.main([*options, f"--data-dir={DATA}", f"--output-dir={tmp_path}"])


def test_elbo_below_that_of_the_untrained_model_is_divergence():
    hw5.check_elbo(elbo=-137.9, untrained_elbo=-137.7)
    for elbo in (-139, -1e30, float("-inf"), float("nan")):
        with pytest.raises(hw5.RunError, match="made the ELBO worse"):
            hw5.check_elbo(elbo, untrained_elbo=-137.7)


def test_elbo_below_that_of_the_mean_image_is_a_warning_in_the_results(tmp_path, capsys):
    hw5.main(["--updates=1", f"--data-dir={DATA}", f"--output-dir={tmp_path}"])
    warning = (tmp_path / "results.txt").read_text().splitlines()[-1]
    assert warning.startswith("WARNING: a model that does not use z")
    assert warning in capsys.readouterr().out


def test_good_elbo_is_no_warning(run):
    assert "WARNING" not in (run / "results.txt").read_text()


def test_mean_image_s_elbo_is_that_of_independent_pixels():
    images = torch.tensor([[0.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    assert hw5.mean_image_elbo(images) == pytest.approx(math.log(0.5), rel=1e-3)


def test_failing_plot_loses_no_training_and_leaves_no_old_plot(old_run, monkeypatch):
    def fail(model):
        raise ValueError("a bug in a plot")

    monkeypatch.setattr(hw5, "draw_samples", fail)
    old_files = files_in(old_run)
    with pytest.raises(ValueError, match="a bug in a plot"):
        hw5.main(["--updates=2", "--seed=7", f"--data-dir={DATA}", f"--output-dir={old_run}"])
    files = files_in(old_run)
    for name in ("training_log.csv", "validation_log.csv", "vae.pt", "results.txt"):
        assert files[name] != old_files[name]
    assert "problem1_v_samples.pdf" not in files
    assert "problem1_vi_log_likelihood.pdf" not in files


def test_full_disk_is_one_sentence(tmp_path):
    """The operating system refuses files of more than 100 kB, as it would on a full disk."""
    limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (100_000, 100_000))
    process = run_script("--updates=1", f"--output-dir={tmp_path}", preexec_fn=limit)
    assert process.returncode == 1
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: [Errno 27]")  # EFBIG: file too large


def test_ctrl_c_saves_and_draws_what_was_trained(tmp_path):
    command = [sys.executable, SCRIPT, "--updates=100000", f"--data-dir={DATA}"]
    process = subprocess.Popen(
        [*command, "--batch-size=20", f"--output-dir={tmp_path}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs ignore Ctrl-C; this process must not.
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    process.stdout.readline()  # the progress after update 100
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == ""
    assert {path.name for path in tmp_path.iterdir()} == set(hw5.OUTPUT_FILES)
    updates_done = len((tmp_path / "training_log.csv").read_text().splitlines()) - 1
    results = (tmp_path / "results.txt").read_text()
    assert f"Interrupted after update {updates_done}." in output
    assert f"{updates_done} of 100000\n" in results
    assert "The training was interrupted." in results
