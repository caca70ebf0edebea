"""What goes wrong on other people's machines, done for real: one sentence, the right status, no damaged file."""

import csv
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
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from conftest import DATA, OUTPUTS, PLOTS, SCRIPT, command, environment, run_script
from pypdf import PdfReader

MNIST = DATA / "MNIST/raw"
NOWHERE = "http://127.0.0.1:9"  # a proxy that refuses: as good as no network


def assert_one_sentence(process, status, *words):
    """The process ended with `status` and one line on standard error, which has the words and no traceback."""
    lines = process.stderr.splitlines()
    assert process.returncode == status and len(lines) == 1, process.stderr
    assert all(str(word) in lines[0] for word in words), lines


def assert_whole(folder, updates):
    """Every output in `folder` is there and whole."""
    for name in PLOTS:
        assert len(PdfReader(folder / name, strict=True).pages) == 1
    with open(folder / "training_log.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == updates
    assert (folder / "training_log.csv").read_bytes().endswith(b"\n")
    assert len(torch.load(folder / "vae.pt", weights_only=True)) == 8
    assert json.loads((folder / "metrics.json").read_text())["updates_done"] == updates


def obey_permissions():
    """In a child process before exec: the superuser, too, is refused what the permission bits refuse."""
    if os.geteuid() == 0:
        pr_capbset_drop, cap_dac_override = 24, 1
        assert ctypes.CDLL(None, use_errno=True).prctl(pr_capbset_drop, cap_dac_override, 0, 0, 0) == 0


def limit_file_size(size):
    """A preexec_fn: no file of the child can grow beyond `size` bytes, as on a disk that fills up."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.fixture
def lone(tmp_path):
    """The script alone in a folder."""
    folder = tmp_path / "lone"
    folder.mkdir()
    return Path(shutil.copy(SCRIPT, folder / "hw.py"))


@pytest.fixture
def mirror():
    """A server that stands for the network: an http proxy whose `answer(handler, name)` a test may replace."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.requests.append(self.path)
            self.server.answer(self, self.path.rsplit("/", 1)[-1])

        do_HEAD = do_GET

        def send(self, content, status=200, length=None):
            self.send_response(status)
            self.send_header("Content-Length", str(len(content) if length is None else length))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests, server.answer = [], lambda handler, name: handler.send((MNIST / name).read_bytes())
    server.environment = through(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def through(proxy):
    """The environment in which all downloads go through `proxy`."""
    return environment(http_proxy=proxy, https_proxy=proxy, HTTP_PROXY=None, HTTPS_PROXY=None, no_proxy=None, NO_PROXY=None)


# 1. No data and no network


def test_no_network_and_no_data(lone, hw5):
    process = run_script("--updates", 1, script=lone, env=through(NOWHERE))
    assert_one_sentence(process, 1, *hw5.MNIST_MD5, lone.parent / "data/MNIST/raw", "--data-dir")


@pytest.mark.parametrize("status", [403, 503])
def test_mirror_that_refuses(lone, hw5, mirror, status):
    mirror.answer = lambda handler, name: handler.send(b"no", status)
    process = run_script("--updates", 1, script=lone, env=mirror.environment)
    assert_one_sentence(process, 1, *hw5.MNIST_MD5, lone.parent / "data/MNIST/raw", "--data-dir", status)
    assert mirror.requests


def test_mirror_that_sends_something_else(lone, hw5, mirror):
    mirror.answer = lambda handler, name: handler.send(b"<html>a login page</html>")
    assert_one_sentence(run_script("--updates", 1, script=lone, env=mirror.environment), 1, *hw5.MNIST_MD5)
    assert not list(lone.parent.rglob("*ubyte*"))


def test_mirror_that_breaks_off(lone, hw5, mirror):
    def answer(handler, name):
        content = (MNIST / name).read_bytes()
        handler.send(content[: len(content) // 2], length=len(content))

    mirror.answer = answer
    assert_one_sentence(run_script("--updates", 1, script=lone, env=mirror.environment), 1, *hw5.MNIST_MD5)
    assert not list(lone.parent.rglob("*ubyte*"))


def test_lone_script_downloads_what_is_missing(lone, hw5, mirror):
    process = run_script("--updates", 1, script=lone, env=mirror.environment)
    assert process.returncode == 0, process.stderr
    raw = lone.parent / "data/MNIST/raw"
    assert sorted(path.name for path in raw.iterdir()) == sorted(hw5.MNIST_MD5)
    assert all((raw / name).read_bytes() == (MNIST / name).read_bytes() for name in hw5.MNIST_MD5)
    assert_whole(lone.parent, 1)


# 2. Damaged data


@pytest.fixture
def damaged(tmp_path):
    """A data folder with one .gz cut short, one with a flipped bit, and extracted files that are empty and cut short."""
    raw = tmp_path / "data/MNIST/raw"
    shutil.copytree(MNIST, raw)
    path = raw / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:1_000_000])
    path = raw / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-100] + bytes([path.read_bytes()[-100] ^ 1]) + path.read_bytes()[-99:])
    (raw / "train-images-idx3-ubyte").write_bytes(b"")
    (raw / "train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\xea\x60half")
    return tmp_path / "data"


def test_damaged_files_are_repaired(damaged, tmp_path, mirror, hw5):
    process = run_script("--updates", 1, "--data-dir", damaged, "--output-dir", tmp_path, env=mirror.environment)
    assert process.returncode == 0, process.stderr
    assert all((damaged / "MNIST/raw" / name).read_bytes() == (MNIST / name).read_bytes() for name in hw5.MNIST_MD5)


def test_damaged_file_is_named_where_it_cannot_be_repaired(damaged, tmp_path):
    process = run_script("--updates", 1, "--data-dir", damaged, "--output-dir", tmp_path, env=through(NOWHERE))
    assert_one_sentence(process, 1, "train-images-idx3-ubyte.gz is missing or damaged", "--data-dir")


def test_extracted_files_do_not_matter(tmp_path):
    """As a run of torchvision leaves them that was killed while extracting."""
    raw = tmp_path / "data/MNIST/raw"
    shutil.copytree(MNIST, raw)
    for path in list(raw.iterdir()):
        path.with_suffix("").write_bytes(b"\0\0\x08\x03")
    process = run_script("--updates", 1, "--data-dir", tmp_path / "data", "--output-dir", tmp_path, env=through(NOWHERE))
    assert process.returncode == 0, process.stderr


# 3. Two at once


@pytest.mark.parametrize("fresh", ["with the files", "without"])
def test_two_runs_at_once(lone, mirror, fresh):
    """In one folder, data and outputs shared; where the files are missing, both download them."""
    if fresh == "with the files":
        shutil.copytree(MNIST, lone.parent / "data/MNIST/raw")
    start = {"env": mirror.environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command("--updates", 100, script=lone), **start) for _ in range(2)]
    for process in both:
        assert process.communicate(timeout=300) and process.returncode == 0
    assert_whole(lone.parent, 100)
    assert not list(lone.parent.rglob("*.partial"))


# 4. Read-only data


def test_read_only_data(tmp_path):
    shutil.copytree(DATA, tmp_path / "data")
    for path in [tmp_path / "data", *(tmp_path / "data").rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    options = ("--updates", 1, "--data-dir", tmp_path / "data", "--output-dir", tmp_path / "out")
    process = run_script(*options, env=through(NOWHERE), preexec_fn=obey_permissions)
    assert process.returncode == 0, process.stderr


def test_download_into_a_read_only_folder_says_which_option_helps(tmp_path, mirror):
    (tmp_path / "data").mkdir(mode=0o555)
    options = ("--updates", 1, "--data-dir", tmp_path / "data", "--output-dir", tmp_path / "out")
    process = run_script(*options, env=mirror.environment, preexec_fn=obey_permissions)
    assert_one_sentence(process, 1, "cannot write", tmp_path / "data", "--data-dir")


# 5. Output folder


@pytest.mark.parametrize("case", ["is a file", "below a file", "not writable", "parent not writable", "full"])
def test_output_folder_that_cannot_be_used_is_told_before_training(tmp_path, case):
    target, limit = tmp_path / "out", obey_permissions
    if case == "is a file":
        target.touch()
    elif case == "below a file":
        target.touch()
        target = target / "below"
    elif case == "not writable":
        target.mkdir(mode=0o555)
    elif case == "parent not writable":
        target.mkdir(mode=0o555)
        target = target / "below"
    else:
        limit = limit_file_size(5000)
    process = run_script("--updates", 10**6, "--output-dir", target, preexec_fn=limit)
    assert_one_sentence(process, 1, "cannot write", target, "--output-dir")
    assert process.stdout == ""  # not one update
    assert not target.is_dir() or not list(target.iterdir())


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB, where the tests may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a file system is not permitted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_small_disk_is_told_before_training(small_disk):
    process = run_script("--updates", 10**6, "--output-dir", small_disk)
    assert_one_sentence(process, 1, "4 MB", small_disk, "--output-dir")


def test_disk_that_fills_up_after_training_keeps_what_was_finished(tmp_path):
    process = run_script("--updates", 200, "--output-dir", tmp_path, preexec_fn=limit_file_size(100_000))
    assert_one_sentence(process, 1, "cannot write", tmp_path / "vae.pt", "--output-dir")  # the first of over 100 kB
    assert sorted(path.name for path in tmp_path.iterdir()) == ["problem1_i_dataset.pdf", "training_log.csv"]
    assert len(PdfReader(tmp_path / "problem1_i_dataset.pdf").pages) == 1


def test_folder_where_a_file_should_be(tmp_path):
    (tmp_path / "vae.pt").mkdir()
    process = run_script("--updates", 1, "--output-dir", tmp_path)
    assert_one_sentence(process, 1, "cannot write", tmp_path / "vae.pt")
    assert not list(tmp_path.glob(".*"))


# 6. SIGKILL at any moment


def test_killed_while_saving(tmp_path, hw5):
    """100 kills of a process that does nothing but save: old and whole, or new and whole."""
    path, contents = tmp_path / "file", [bytes([letter]) * 300_000 for letter in b"ab"]
    path.write_bytes(contents[0])
    seen = set()
    for _ in range(100):
        child = os.fork()
        if child == 0:
            while True:
                for content in contents:
                    hw5.save(path, content)
        time.sleep(random.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        content = path.read_bytes()
        assert content in contents
        seen.add(content[0])
    assert len(seen) == 2


def test_killed_at_a_random_moment_of_a_run(finished, tmp_path):
    """20 kills of whole runs over the outputs of a finished one: each file is that of the old run or a whole new one."""
    for name in OUTPUTS:
        shutil.copy(finished[0] / name, tmp_path)
    killer = f"""if True:
        import importlib.util, os, random, signal, sys, time
        spec = importlib.util.spec_from_file_location("hw5", {str(SCRIPT)!r})
        hw5 = importlib.util.module_from_spec(spec); spec.loader.exec_module(hw5)
        hw5.ELBO_SAMPLES, hw5.IMPORTANCE_SAMPLES = 1, 10  # sooner at the saving
        hw5.torch.set_num_threads(1)
        def run():
            child = os.fork()
            if child == 0:
                sys.stdout = open(os.devnull, "w")
                os._exit(hw5.main(["--updates", "300", "--batch-size", "20", "--seed", "1", "--output-dir", {str(tmp_path)!r}]))
            return child
        start = time.monotonic()
        assert os.waitpid(run(), 0)[1] == 0
        whole = time.monotonic() - start
        print("whole", flush=True)
        for _ in range(20):
            child = run()
            time.sleep(random.uniform(0, whole))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            print("killed", flush=True)
            sys.stdin.readline()
    """
    process = subprocess.Popen([sys.executable, "-c", killer], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "whole\n"
    for _ in range(20):
        assert process.stdout.readline() == "killed\n"
        assert_whole(tmp_path, 300)
        process.stdin.write("\n")
        process.stdin.flush()
    assert process.communicate(timeout=60) and process.returncode == 0


# 7. Ctrl-C


@pytest.fixture
def training(tmp_path):
    """A run of many updates whose first progress line has been printed."""
    process = subprocess.Popen(
        command("--updates", 10**6, "--batch-size", 20, "--output-dir", tmp_path),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(PYTHONUNBUFFERED="1"),
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (tmp_path / "problem1_i_dataset.pdf").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(2)  # training
    yield process
    process.kill()
    process.communicate()


def test_ctrl_c_saves_and_draws_what_was_logged(training, tmp_path):
    training.send_signal(signal.SIGINT)
    output, errors = training.communicate(timeout=120)
    assert training.returncode == 130 and errors == ""
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    done = metrics["updates_done"]
    assert 0 < done < 10**6 and metrics["stopped"] == f"interrupted after update {done}"
    assert f"CUT SHORT: interrupted after update {done}" in output
    assert_whole(tmp_path, done)


def test_second_ctrl_c_stops_at_once(training, tmp_path):
    training.send_signal(signal.SIGINT)
    time.sleep(0.5)
    training.send_signal(signal.SIGINT)
    start = time.monotonic()
    errors = training.communicate(timeout=60)[1]
    assert time.monotonic() - start < 3 and training.returncode == 130
    assert errors.startswith("stopped: ") and len(errors.splitlines()) == 1
    assert not (tmp_path / "metrics.json").exists() and not list(tmp_path.glob(".*"))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="looks into /proc")
def test_ctrl_c_while_importing(tmp_path):
    process = subprocess.Popen(command("--output-dir", tmp_path), stderr=subprocess.PIPE, text=True)
    while "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "Traceback" not in errors


# 8. Divergence


def test_divergence(tmp_path):
    process = run_script("--updates", 1000, "--learning-rate", 1e5, "--output-dir", tmp_path)
    assert_one_sentence(process, 1, "not finite", "--learning-rate")
    update = int(re.search(r"update (\d+)", process.stderr).group(1))
    with open(tmp_path / "training_log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == update - 1
    assert not any(word in str(rows) for word in ("nan", "inf"))
    assert not (tmp_path / "metrics.json").exists()


# 9. Environments


@pytest.mark.parametrize(
    "changes",
    [
        {"MPLBACKEND": "TkAgg", "DISPLAY": None},
        {"MPLBACKEND": "module://matplotlib_inline.backend_inline"},  # as in a notebook
        {"HOME": "/nonexistent", "MPLCONFIGDIR": None, "XDG_CONFIG_HOME": None, "XDG_CACHE_HOME": None},
        {"HOME": None, "MPLCONFIGDIR": "/dev/null/here"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"},
    ],
    ids=lambda changes: "-".join(f"{name}={value}" for name, value in changes.items()).replace("/", "_"),
)
def test_environment(tmp_path, changes):
    """In a folder with a space and letters that the locale may lack."""
    folder = tmp_path / "Größe und 数"
    folder.mkdir()
    script = shutil.copy(SCRIPT, folder / "мой hw5.py")
    process = run_script("--updates", 1, "--data-dir", DATA, script=script, env=environment(**changes))
    assert process.returncode == 0 and "Traceback" not in process.stderr, process.stderr
    assert_whole(folder, 1)


@pytest.mark.parametrize("python", ["-O", "-Werror", "-I"])
def test_switches_of_python(tmp_path, python):
    process = run_script("--updates", 1, "--output-dir", tmp_path, python=[python])
    assert process.returncode == 0 and process.stderr == ""
    assert_whole(tmp_path, 1)


@pytest.mark.parametrize("redirect", [">&-", "| head -n 1", "| true", ">/dev/full", ">&- 2>&-"])
def test_standard_output_that_is_gone(tmp_path, redirect):
    line = f'"$@" {redirect}; exit "${{PIPESTATUS[0]}}"'
    process = subprocess.run(
        ["bash", "-c", line, "bash", *command("--updates", 200, "--output-dir", tmp_path)], capture_output=True, text=True
    )
    assert process.returncode == 0 and process.stderr == ""
    assert_whole(tmp_path, 200)


# 10. Packages that do not fit


@pytest.fixture
def misfit(tmp_path):
    """The installed torchvision without its compiled operators, which is what a torch of another build makes of it."""
    import torchvision

    folder = tmp_path / "packages"
    shutil.copytree(Path(torchvision.__file__).parent, folder / "torchvision", ignore=shutil.ignore_patterns("*.so", "*.pyd", "__pycache__"))
    return environment(**{**through(NOWHERE), "PYTHONPATH": str(folder)})


def test_torchvision_that_does_not_fit_is_told_where_it_is_needed(lone, misfit):
    process = run_script("--updates", 1, script=lone, env=misfit)
    assert_one_sentence(process, 1, "torchvision", "do not fit each other", "nms does not exist", "pip install")


def test_torchvision_that_does_not_fit_does_no_harm_where_the_data_are_there(tmp_path, misfit):
    process = run_script("--updates", 1, "--output-dir", tmp_path, env=misfit)
    assert process.returncode == 0, process.stderr


def test_missing_package(tmp_path):
    """A Python without torch: a sentence that says what to install."""
    process = subprocess.run([sys.executable, "-S", str(SCRIPT)], capture_output=True, text=True, env=environment(PYTHONPATH=None))
    assert process.returncode == 1 and "Traceback" not in process.stderr
    assert "pip install --upgrade torch torchvision numpy matplotlib" in process.stderr


# 11. Unusual numbers of updates and batch sizes


@pytest.mark.parametrize(
    "updates, size", [(1, 400), (2, 400), (50, 400), (99, 100), (100, 100), (150, 300), (101, 1), (20, 10000), (140, 7)]
)
def test_unusual_sizes(hw5, tmp_path, monkeypatch, updates, size):
    figures = {}
    for name in ("draw_elbo_terms", "draw_log_likelihood"):
        draw = getattr(hw5, name)
        monkeypatch.setattr(hw5, name, lambda log, draw=draw, name=name: figures.setdefault(name, draw(log)))
    monkeypatch.setattr(hw5, "ELBO_SAMPLES", 1)
    assert hw5.main(["--updates", str(updates), "--batch-size", str(size), "--output-dir", str(tmp_path), "--data-dir", str(DATA)]) == 0
    assert_whole(tmp_path, updates)
    for axes in figures["draw_elbo_terms"].axes:
        assert axes.lines[0].get_xdata().tolist() == list(range(1, updates + 1))
        low, high = axes.get_ylim()
        assert low <= axes.lines[0].get_ydata()[-1] <= high
    validation = figures["draw_log_likelihood"].axes[0].lines[1]
    assert validation.get_xdata().tolist() == list(range(100, updates + 1, 100))


# 12. A device that is not there


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_on_a_machine_without(tmp_path):
    process = run_script("--device", "cuda", "--output-dir", tmp_path)
    assert process.returncode == 2 and "argument --device: 'cuda' is not available here; choose auto or" in process.stderr
    assert process.stderr.rstrip().endswith("cpu") and not list(tmp_path.iterdir())
