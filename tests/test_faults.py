"""What goes wrong on other people's machines, done for real: a sentence, the right status, no damage."""

import os
import re
import runpy
import shutil
import signal
import sys
from functools import partial
from pathlib import Path
from subprocess import PIPE, Popen
from unittest.mock import DEFAULT, Mock

import matplotlib
import pytest
import torch
from conftest import DATA, SCRIPT, check_files, run_script

MOMENTS = [
    {"frombuffer": 1},
    {"randperm": 1},
    {"randperm": 3},
    {"cat": 1},
    {"save": 1},
    {"randn": 4, "cat": 1},
]


@pytest.fixture
def run_here(monkeypatch, capsys):
    """A function that runs the script in this process, which is fast; returns status, output and errors."""

    def run_here(*options):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, options)])
        with pytest.raises(SystemExit) as stop:
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


def test_it_runs_with_warnings_as_errors_in_a_folder_of_any_letters(mnist, tmp_path):
    out, env = tmp_path / "Größe und 数", {**os.environ, "PYTHONWARNINGS": "error"}
    assert run_script("--updates=1", f"--data-dir={mnist}", f"--output-dir={out}", env=env).stderr == ""
    check_files(out, 1)


def test_files_of_two_runs_never_mix(hw5, run, tmp_path):
    """Where an old one cannot be removed, none of the new ones comes."""
    (tmp_path / "vae.pt").mkdir()
    (tmp_path / "metrics.json").write_text("old")
    with pytest.raises(OSError, match=r"vae\.pt"):
        hw5.save(folder=tmp_path, metrics={}, figures=run.figures, log=run.log, model=run.model)
    assert [path.name for path in tmp_path.iterdir()] == ["vae.pt"]


@pytest.mark.parametrize(("updates", "rate"), [(1, 5), (1, 1e3), (300, 1e5)])
def test_divergence_is_told(older, run_here, updates, rate):
    end = run_here("--updates", updates, "--learning-rate", rate, "--output-dir", older)
    assert end[::2] == (1, "error: training diverged; lower the --learning-rate\n")


def test_ctrl_c_saves_and_draws_what_was_logged(tmp_path):
    line = [sys.executable, SCRIPT, "--updates=30000", "--batch-size=20", f"--output-dir={tmp_path}"]
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background job would not
    process = Popen(line, preexec_fn=heed, text=True, stdout=PIPE, stderr=PIPE)
    while process.stdout.readline().split()[0] != "100":
        pass
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    (done,) = re.findall(r"^INTERRUPTED after update (\d+) of 30000$", output, re.MULTILINE)
    assert process.returncode == 130 and errors == "" and 100 <= int(done) < 30_000
    check_files(tmp_path, int(done))


@pytest.mark.parametrize("calls", MOMENTS, ids=str)
def test_ctrl_c_elsewhere_ends_silently(older, run_here, monkeypatch, calls):
    """While reading or drawing data, before the first update, in the results, while saving, twice."""
    for name, number in calls.items():
        effects = [DEFAULT] * (number - 1) + [KeyboardInterrupt] + [DEFAULT] * 99
        monkeypatch.setattr(torch, name, Mock(wraps=getattr(torch, name), side_effect=effects))
    status, output, errors = run_here("--updates=5", "--output-dir", older)
    assert (status, errors) == (130, "") and ("INTERRUPTED after update 3 of 5" in output) == (len(calls) > 1)


@pytest.mark.parametrize("names", [{}, {"__file__": "a.ipynb"}], ids=["Jupyter", "VS Code"])
def test_pasted_into_a_notebook(names, tmp_path, monkeypatch):
    """A kernel's -f is no option, those that main() is given are, and matplotlib's settings stay."""
    source, changed = re.subn(r'"updates": \(\d+', '"updates": (1', SCRIPT.read_text())
    (tmp_path / "data").symlink_to(DATA)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kernel", "-f", "x.json"])
    with pytest.raises(SystemExit, match=r"^0$"):
        exec(source, cell := {"__name__": "__main__", **names})
    assert changed == 1 and check_files(tmp_path, 1)
    assert cell["main"](["--updates=2", f"--output-dir={tmp_path / 'out'}"]) == 0
    check_files(tmp_path / "out", 2)
    assert matplotlib.rcParams["font.size"] == matplotlib.rcParamsOrig["font.size"] != 9  # as in the figures
