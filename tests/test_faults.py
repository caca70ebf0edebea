"""What goes wrong on other people's machines, done for real: a sentence, the right status, no damage."""

import ctypes
import os
import re
import resource
import runpy
import shutil
import signal
import sys
from pathlib import Path
from subprocess import PIPE, Popen
from unittest.mock import DEFAULT, Mock

import matplotlib
import pytest
import torch
from conftest import DATA, SCRIPT, check_files, environment, run_script

ONCE = ("frombuffer", "randperm", "randint", "logsumexp", "save")  # functions of torch
CALLS = [*({name: 1} for name in ONCE), {"randint": 3, "logsumexp": 1}]


def as_a_user_at_a_terminal():
    """In a child process before exec: permission bits bind the superuser, too, and Ctrl-C is heeded."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if os.geteuid() == 0:
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH; 24 is PR_CAPBSET_DROP
            assert ctypes.CDLL(None, use_errno=True).prctl(24, capability, 0, 0, 0) == 0


@pytest.fixture
def run_here(monkeypatch, capsys):
    """A function that runs the script in this process, which is fast; returns status, output and errors."""

    def run_here(*options):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, options)])
        with pytest.raises((SystemExit, KeyboardInterrupt)) as stop:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        (output, errors), code = capsys.readouterr(), stop.value.code
        return (1, output, f"{errors}{code}\n") if isinstance(code, str) else (code, output, errors)

    return run_here


@pytest.fixture
def older(run, tmp_path):
    """A folder with the files of a finished run, which the test must leave as they are, and no others."""
    folder = Path(shutil.copytree(run.folder, tmp_path / "older"))
    yield folder
    before, after = ({p.name: p.read_bytes() for p in f.iterdir()} for f in (run.folder, folder))
    assert before == after


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    """A data folder with the extracted files alone, and no network: a proxy that refuses."""
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    return Path(shutil.copytree(DATA, tmp_path / "data", ignore=shutil.ignore_patterns("*.gz")))


@pytest.mark.parametrize("fault", ["cut short", "too long", "empty", "damaged .gz", "no data"])
def test_data_that_cannot_be_had_are_told(mnist, run_here, older, fault):
    folder = mnist / "none" if fault == "no data" else mnist
    path = mnist / "MNIST/raw/train-images-idx3-ubyte"
    content = path.read_bytes()
    path.write_bytes({"cut short": content[:1_000_000], "too long": content + b"0"}.get(fault, b""))
    if fault == "damaged .gz":
        path.rename(path.with_suffix(".gz"))
    end = run_here("--data-dir", folder, "--output-dir", older)
    sentence = rf"error: no MNIST in {folder}/MNIST/raw \(.*Error.*\); .* \*-ubyte .* --data-dir\n"
    assert end[0] == 1 and re.fullmatch(sentence, end[2])


def test_it_runs_with_read_only_data_and_warnings_as_errors_in_a_folder_of_any_letters(mnist, tmp_path):
    for path in [*mnist.rglob("*"), mnist]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    out, env = tmp_path / "Größe und 数", environment(PYTHONWARNINGS="error")
    options = ("--updates=1", f"--data-dir={mnist}", f"--output-dir={out}")
    process = run_script(*options, env=env, preexec_fn=as_a_user_at_a_terminal)
    assert process.returncode == 0 and process.stderr == "", process.stderr
    check_files(out, 1)


def test_full_disk_is_told_after_the_results(older, run_here):
    """A limit on the size of a file, under which the first plot stays and the second does not."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))
    status, output, errors = run_here("--updates=1", "--output-dir", older)
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert (status, errors) == (1, "error: [Errno 27] File too large\n") and "ELBO" in output


def test_folder_where_a_file_should_be_leaves_the_new_file_and_names_it(hw5, run, tmp_path):
    (tmp_path / "vae.pt").mkdir()
    with pytest.raises(IsADirectoryError) as error:
        hw5.save(tmp_path, run.figures, run.terms, run.validated, run.model, run.metrics)
    (new,) = tmp_path.glob("new-files-*/vae.pt")
    assert str(new) in str(error.value) and len(torch.load(new, weights_only=True)) == 8


@pytest.mark.parametrize(("updates", "rate"), [(1, 5), (1, 1e3), (300, 1e5)])
def test_divergence_is_told(older, run_here, updates, rate):
    end = run_here("--updates", updates, "--learning-rate", rate, "--output-dir", older)
    assert end == (1, "", "error: training diverged; lower the --learning-rate\n")


def test_ctrl_c_saves_and_draws_what_was_logged(tmp_path):
    line = [sys.executable, SCRIPT, "--updates=30000", "--batch-size=20", f"--output-dir={tmp_path}"]
    process = Popen(line, preexec_fn=as_a_user_at_a_terminal, text=True, stdout=PIPE, stderr=PIPE)
    assert process.stdout.readline().startswith("update  100 of 30000")
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    (done,) = re.findall(r"^INTERRUPTED after update (\d+) of 30000$", output, re.MULTILINE)
    assert process.returncode == 130 and errors == "" and 100 <= int(done) < 30_000
    check_files(tmp_path, int(done))


@pytest.mark.parametrize("calls", CALLS, ids=str)
def test_ctrl_c_elsewhere_ends_silently(older, run_here, monkeypatch, calls):
    """While reading or drawing data, before the first update, in the results, twice, while saving."""
    for name, number in calls.items():
        effects = [DEFAULT] * (number - 1) + [KeyboardInterrupt]
        monkeypatch.setattr(torch, name, Mock(wraps=getattr(torch, name), side_effect=effects))
    status, output, errors = run_here("--updates=5", "--output-dir", older)
    lines = 5 if "save" in calls else len(calls) - 1  # the results; INTERRUPTED ...
    assert (status, len(output.splitlines()), errors) == (130, lines, "")


@pytest.mark.parametrize("names", [{}, {"__file__": "a.ipynb"}], ids=["Jupyter", "VS Code"])
def test_pasted_into_a_notebook(names, tmp_path, monkeypatch):
    """A kernel's -f is no option, those that main() is given are, and matplotlib's settings stay."""
    source = SCRIPT.read_text().replace("RATE = 5000,", "RATE = 1,")
    (tmp_path / "data").symlink_to(DATA)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["kernel", "-f", "x.json"])
    with pytest.raises(SystemExit, match=r"^0$"):
        exec(source, cell := {"__name__": "__main__", **names})
    check_files(tmp_path, 1)
    assert cell["main"](["--updates=2", "--data-dir=~/data", "--output-dir=~/out"]) == 0
    check_files(tmp_path / "out", 2)
    assert matplotlib.rcParams["font.size"] == matplotlib.rcParamsOrig["font.size"] != 9  # as in the figures
