"""What goes wrong on other people's machines, done for real: a sentence, the right status, no damage."""

import ctypes
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DATA, OUTPUTS, SCRIPT, environment, run_script
from test_script import check_files

NOWHERE = "http://127.0.0.1:9"  # a proxy that refuses: as good as no network
IMAGES = "MNIST/raw/train-images-idx3-ubyte"


def assert_error(process, *words):
    """The process ended with status 1 and one sentence, which has the words."""
    assert process.returncode == 1 and process.stderr.startswith("error: "), process.stderr
    assert process.stderr.count("\n") == 1 and all(str(word) in process.stderr for word in words), (
        process.stderr
    )


def contents(folder):
    """The bytes of every file in `folder`."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def obey_permissions():
    """In a child process before exec: the superuser, too, is refused what the permission bits refuse."""
    if os.geteuid() == 0:
        pr_capbset_drop, capabilities = 24, (1, 2)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        for capability in capabilities:
            assert ctypes.CDLL(None, use_errno=True).prctl(pr_capbset_drop, capability, 0, 0, 0) == 0


@pytest.fixture
def older(run, tmp_path):
    """A folder with the files of a finished run."""
    return Path(shutil.copytree(run["folder"], tmp_path / "older"))


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    """A data folder with the extracted files alone, and no network."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, NOWHERE)
    ignore = shutil.ignore_patterns("*.gz", "*.md")
    return Path(shutil.copytree(DATA, tmp_path / "data", ignore=ignore))


@pytest.mark.parametrize("damage", ["cut short", "too long", "empty", "not extracted", "no data at all"])
def test_data_that_cannot_be_read_or_had(hw5, mnist, damage, capsys):
    path = mnist / IMAGES
    content = path.read_bytes()
    path.write_bytes({"cut short": content[:1_000_000], "too long": content + b"0"}.get(damage, b""))
    if damage == "not extracted":
        path.with_suffix(".gz").write_bytes(b"a login page")
        path.unlink()
    folder = mnist / "nothing" if damage == "no data at all" else mnist
    with pytest.raises(SystemExit) as stop:
        hw5.make_data(folder)
    sentence = stop.value.code
    assert sentence.startswith(f"error: no MNIST in {folder}/MNIST/raw (") and "\n" not in sentence
    assert "Error" in sentence and "*-ubyte" in sentence and "--data-dir" in sentence


def test_damaged_files_are_extracted_again_once_deleted(hw5, mnist):
    """As the sentence advises: without a network where the .gz files are there."""
    for path in (DATA / "MNIST/raw").glob("*.gz"):
        shutil.copy(path, mnist / "MNIST/raw")
    for path in (mnist / "MNIST/raw").glob("*-ubyte"):
        path.unlink()
    assert len(hw5.make_data(mnist).training) == 10_000


def test_no_network_and_no_data_end_in_a_sentence(mnist, tmp_path):
    process = run_script("--data-dir", tmp_path / "none", "--output-dir", tmp_path)
    assert_error(process, tmp_path / "none/MNIST/raw", "refused", "--data-dir")


@pytest.mark.parametrize("readable", [True, False])
def test_read_only_data_are_enough_and_unreadable_ones_named(mnist, tmp_path, readable):
    for path in [*mnist.rglob("*"), mnist]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    (mnist / IMAGES).chmod(0o444 if readable else 0)
    options = ("--updates", 1, "--data-dir", mnist, "--output-dir", tmp_path / "out")
    process = run_script(*options, preexec_fn=obey_permissions)
    if readable:
        assert process.returncode == 0, process.stderr
        check_files(tmp_path / "out", 1)
    else:
        assert_error(process, "Permission denied", mnist / "MNIST/raw", "--data-dir")


@pytest.mark.parametrize("case", ["is a file", "not writable", "full disk"])
def test_output_folder_that_cannot_be_used_is_told_before_training(tmp_path, case):
    target = tmp_path / "out"
    target.touch() if case == "is a file" else target.mkdir(mode=0o555 if case == "not writable" else 0o755)

    def limit():
        obey_permissions()
        if case == "full disk":
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    process = run_script("--updates", 10**6, "--output-dir", target, preexec_fn=limit)
    assert_error(process, "too large" if case == "full disk" else target)
    assert process.stdout == "" and not (target.is_dir() and list(target.iterdir()))


def test_folder_where_a_file_should_be_leaves_the_new_file_and_names_it(hw5, run, tmp_path):
    (tmp_path / "vae.pt").mkdir()
    with pytest.raises(IsADirectoryError) as error:
        hw5.save(tmp_path, *run["save of"][1:])
    (new,) = tmp_path.glob("new-files-*/vae.pt")
    assert str(new) in str(error.value) and len(torch.load(new, weights_only=True)) == 8


def test_killed_while_saving(hw5, run, tmp_path):
    """30 kills of a process that does nothing but save: every file is whole, the old one or the new one."""
    logs = [np.full((20_000, 2), number) for number in (1.0, 2.0)]
    whole = {f"{t},{n},{n}," for n in (1.0, 2.0) for t in (20_000,)}
    for _ in range(30):
        child = os.fork()
        if child == 0:
            while True:
                for terms in logs:
                    hw5.save(tmp_path, {}, terms, (), run["model"], {"log": [terms[0, 0]] * 9999})
        time.sleep(random.uniform(0.1, 0.3))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert (tmp_path / "training_log.csv").read_text().splitlines()[-1] in whole
        assert len(json.loads((tmp_path / "metrics.json").read_text())["log"]) == 9999
        assert len(torch.load(tmp_path / "vae.pt", weights_only=True)) == 8


def test_ctrl_c_saves_and_draws_what_was_logged(older):
    options = ["--updates", "30000", "--batch-size", "20", "--output-dir", str(older)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, SCRIPT, *options], **pipes)
    for _ in range(3):
        assert process.stdout.readline().startswith("update ")
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    done = json.loads((older / "metrics.json").read_text())["updates_done"]
    assert process.returncode == 130 and errors == "" and 300 <= done < 30_000
    assert f"INTERRUPTED after update {done} of 30000" in output
    check_files(older, done)


def test_divergence_names_its_update_and_leaves_the_files_of_the_older_run(older):
    before = contents(older)
    process = run_script("--updates", 10**6, "--learning-rate", 1e5, "--output-dir", older)
    assert_error(process, "diverged", "--learning-rate")
    assert 1 < int(re.search(r"at update (\d+);", process.stderr).group(1)) < 100
    assert contents(older) == before


def test_divergence_is_seen_in_the_update_of_its_first_term_that_is_not_finite(hw5, data, monkeypatch):
    original, calls = hw5.elbo_terms, iter(range(1, 100))
    huge = lambda *a: (original(*a)[0], original(*a)[1] * (float("inf") if next(calls) == 7 else 1))  # noqa: E731
    monkeypatch.setattr(hw5, "elbo_terms", huge)
    with pytest.raises(SystemExit, match="diverged at update 7;"):
        hw5.train(hw5.VAE(), data, 50, 10, 0.01)


def test_no_value_that_is_not_finite_gets_into_metrics(hw5, run, tmp_path):
    with pytest.raises(ValueError, match="nan"):
        hw5.save(tmp_path, *run["save of"][1:5], {"elbo": float("nan")})
    assert not (tmp_path / "metrics.json").exists()


@pytest.mark.parametrize("updates", [1, 101])
def test_very_short_runs(hw5, tmp_path, updates):
    hw5.main(["--updates", str(updates), "--output-dir", str(tmp_path)])
    check_files(tmp_path, updates)


def test_missing_backend_no_display_no_home_and_warnings_as_errors(tmp_path):
    env = environment(
        MPLBACKEND="missing",
        DISPLAY=None,
        HOME="/nonexistent",
        MPLCONFIGDIR=None,
        LC_ALL="C",
        PYTHONWARNINGS="error",
    )
    process = run_script(
        "--updates", 1, "--data-dir", DATA, "--output-dir", tmp_path / "Größe und 数", env=env
    )
    assert process.returncode == 0 and "Traceback" not in process.stderr, process.stderr
    check_files(tmp_path / "Größe und 数", 1)


@pytest.mark.parametrize("pasted", [True, False])
def test_in_a_notebook(tmp_path, pasted):
    """The source pasted into a cell, where argparse would meet the kernel's -f; and the magic %run."""
    source = SCRIPT.read_text().replace("default=5000", "default=1")
    (tmp_path / "hw.py").write_text(source)
    (tmp_path / "data").symlink_to(DATA)
    code = (
        "exec(open('hw.py').read())"
        if pasted
        else "import runpy; runpy.run_path('hw.py', run_name='__main__')"
    )
    arguments = ["-f", "kernel.json"] if pasted else ["--updates", "1"]
    code = f"""import os, sys, types
sys.modules["IPython"] = types.SimpleNamespace(version_info=(9, 0))
{code}
assert os.environ["MPLBACKEND"] == "agg"
import matplotlib
assert matplotlib.rcParams["font.size"] == 10"""
    line = [sys.executable, "-c", code, *arguments]
    env = environment(MPLBACKEND="agg")
    process = subprocess.run(line, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0 and process.stderr == "", process.stderr
    assert {*OUTPUTS} < {path.name for path in tmp_path.iterdir()}
