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
from conftest import DATA, SCRIPT, environment, run_script
from test_script import check_files

NOWHERE = "http://127.0.0.1:9"  # a proxy that refuses: as good as no network
IMAGES = "MNIST/raw/train-images-idx3-ubyte"


def assert_error(process, *words):
    """The process ended with status 1 and one sentence, which has the words."""
    sentence = process.stderr
    assert process.returncode == 1 and sentence.startswith("error: ") and sentence.count("\n") == 1, sentence
    assert all(str(word) in sentence for word in words), sentence


def obey_permissions():
    """In a child process before exec: the superuser, too, is refused what the permission bits refuse."""
    if os.geteuid() == 0:
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH; 24 is PR_CAPBSET_DROP
            assert ctypes.CDLL(None, use_errno=True).prctl(24, capability, 0, 0, 0) == 0


@pytest.fixture
def older(run, tmp_path):
    """A folder with the files of a finished run."""
    return Path(shutil.copytree(run["folder"], tmp_path / "older"))


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    """A data folder with the extracted files alone, and no network."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, NOWHERE)
    return Path(shutil.copytree(DATA, tmp_path / "data", ignore=shutil.ignore_patterns("*.gz")))


@pytest.mark.parametrize("damage", ["cut short", "too long", "empty", "damaged .gz"])
def test_damaged_data_are_told_and_extracted_again_once_deleted(hw5, mnist, damage):
    path, raw = mnist / IMAGES, mnist / "MNIST/raw"
    content = path.read_bytes()
    path.write_bytes({"cut short": content[:1_000_000], "too long": content + b"0"}.get(damage, b""))
    if damage == "damaged .gz":
        path.rename(path.with_suffix(".gz"))
    with pytest.raises(SystemExit) as stop:
        hw5.make_data(mnist)
    assert stop.value.code.startswith(f"error: no MNIST in {raw} (") and "\n" not in stop.value.code
    assert all(word in stop.value.code for word in ("Error", "*-ubyte", "--data-dir"))
    for compressed in (DATA / "MNIST/raw").glob("*.gz"):
        shutil.copy(compressed, raw)
    for extracted in raw.glob("*-ubyte"):
        extracted.unlink()
    assert len(hw5.make_data(mnist).training) == 10_000


def test_no_network_and_no_data_end_in_a_sentence(mnist, tmp_path):
    process = run_script("--data-dir", tmp_path / "none", "--output-dir", tmp_path)
    assert_error(process, tmp_path / "none/MNIST/raw", "refused", "--data-dir")


def test_unreadable_data_are_named(mnist, tmp_path):
    (mnist / IMAGES).chmod(0)
    process = run_script("--data-dir", mnist, "--output-dir", tmp_path, preexec_fn=obey_permissions)
    assert_error(process, "Permission denied", mnist / "MNIST/raw", "--data-dir")


def test_read_only_data_missing_backend_no_display_no_home_and_warnings_as_errors(mnist, tmp_path):
    """All at once, and in a folder with letters that the locale lacks, it runs."""
    for path in [*mnist.rglob("*"), mnist]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    unset = dict.fromkeys(("DISPLAY", "MPLCONFIGDIR"))
    env = environment(MPLBACKEND="missing", HOME="/nonexistent", LC_ALL="C", PYTHONWARNINGS="error", **unset)
    out = tmp_path / "Größe und 数"
    options = ("--updates", 1, "--data-dir", mnist, "--output-dir", out)
    process = run_script(*options, env=env, preexec_fn=obey_permissions)
    assert process.returncode == 0 and "Traceback" not in process.stderr, process.stderr
    check_files(out, 1)


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
    """20 kills of a process that does nothing but save: every file is whole, the old one or the new one."""
    for _ in range(20):
        child = os.fork()
        while child == 0:
            for number in (1.0, 2.0):
                terms = np.full((20_000, 2), number)
                hw5.save(tmp_path, {}, terms, (), run["model"], {"log": [number] * 9999})
        time.sleep(random.uniform(0.1, 0.3))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert re.search(r"\n20000,(1.0,1.0|2.0,2.0),\n$", (tmp_path / "training_log.csv").read_text())
        assert len(json.loads((tmp_path / "metrics.json").read_text())["log"]) == 9999
        assert len(torch.load(tmp_path / "vae.pt", weights_only=True)) == 8


def test_ctrl_c_saves_and_draws_what_was_logged(older):
    line = [sys.executable, SCRIPT, "--updates=30000", "--batch-size=20", f"--output-dir={older}"]
    heed = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731  also where tests run in the background
    process = subprocess.Popen(
        line, preexec_fn=heed, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for _ in range(3):
        assert process.stdout.readline().startswith("update ")
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    done = json.loads((older / "metrics.json").read_text())["updates_done"]
    assert process.returncode == 130 and errors == "" and 300 <= done < 30_000
    assert f"INTERRUPTED after update {done} of 30000" in output
    check_files(older, done)


def test_divergence_names_its_update_and_leaves_the_files_of_the_older_run(older):
    before = {path: path.read_bytes() for path in older.iterdir()}
    process = run_script("--updates", 10**6, "--learning-rate", 1e5, "--output-dir", older)
    assert_error(process, "diverged at update 2;", "--learning-rate")
    assert {path: path.read_bytes() for path in older.iterdir()} == before


def test_no_value_that_is_not_finite_gets_into_metrics(hw5, run, tmp_path):
    with pytest.raises(ValueError, match="nan"):
        hw5.save(tmp_path, *run["save of"][1:5], {"elbo": float("nan")})
    assert not (tmp_path / "metrics.json").exists()


@pytest.mark.parametrize(
    "run_it", ["exec(open('hw.py').read())", "runpy.run_path('hw.py', run_name='__main__')"]
)
def test_in_a_notebook(tmp_path, run_it):
    """The source pasted into a cell, where argparse would meet the kernel's -f; and the magic %run."""
    (tmp_path / "hw.py").write_text(SCRIPT.read_text().replace("default=5000", "default=1"))
    (tmp_path / "data").symlink_to(DATA)
    code = f"""import os, runpy, sys, types
sys.modules["IPython"] = types.SimpleNamespace(version_info=(9, 0))
{run_it}
import matplotlib
assert os.environ["MPLBACKEND"] == "agg" and matplotlib.rcParams["font.size"] == 10"""
    line = [sys.executable, "-c", code, *(["-f", "kernel.json"] if "exec" in run_it else [])]
    env = environment(MPLBACKEND="agg")
    process = subprocess.run(line, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0 and process.stderr == "", process.stderr
    (tmp_path / "data").unlink()
    check_files(tmp_path, 1)
