"""What goes wrong on other people's machines, done for real: a sentence, the right status, no damage."""

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
from conftest import DATA, OUTPUTS, PLOTS, ROOT, SCRIPT, command, environment, run_script
from pypdf import PdfReader

MNIST = DATA / "MNIST/raw"
NOWHERE = "http://127.0.0.1:9"  # a proxy that refuses: as good as no network


def assert_error(process, *words):
    """The process ended with status 1 and one sentence, which has the words, after at most progress bars."""
    sentence = process.stderr.splitlines()[-1]
    assert process.returncode == 1 and "Traceback" not in process.stderr, process.stderr
    assert sentence.startswith("error: ") and all(str(word) in sentence for word in words), sentence


def assert_whole(folder, updates):
    """Every output in `folder` is there and whole."""
    for name in PLOTS:
        assert len(PdfReader(folder / name, strict=True).pages) == 1
    with (folder / "training_log.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == updates
    assert (folder / "training_log.csv").read_bytes().endswith(b"\n")
    assert len(torch.load(folder / "vae.pt", weights_only=True)) == 8
    assert json.loads((folder / "metrics.json").read_text())["updates_done"] == updates


def contents(folder):
    """The bytes of every file in `folder`, hidden ones too."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def obey_permissions():
    """In a child process before exec: the superuser, too, is refused what the permission bits refuse."""
    if os.geteuid() == 0:
        pr_capbset_drop, cap_dac_override = 24, 1
        assert ctypes.CDLL(None, use_errno=True).prctl(pr_capbset_drop, cap_dac_override, 0, 0, 0) == 0


@pytest.fixture
def lone(tmp_path):
    """The script alone in a folder."""
    folder = tmp_path / "lone"
    folder.mkdir()
    return Path(shutil.copy(SCRIPT, folder / "hw.py"))


@pytest.fixture
def older(finished, tmp_path):
    """A folder with the files of a finished run."""
    return Path(shutil.copytree(finished[0], tmp_path / "older"))


@pytest.fixture
def mirror():
    """A server that stands for the network, an http proxy; a test may replace `answer(handler, name)`."""

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
    unset = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "no_proxy", "NO_PROXY"))
    return environment(http_proxy=proxy, https_proxy=proxy, **unset)


# Data and network


def test_no_network_and_no_data(lone, hw5):
    process = run_script("--updates", 1, script=lone, env=through(NOWHERE))
    assert_error(process, *hw5.MNIST_MD5, lone.parent / "data/MNIST/raw", "--data-dir")
    assert len(process.stderr.splitlines()) == 1


def break_off(handler, name):
    """Half of the file, then the end of the connection."""
    content = (MNIST / name).read_bytes()
    handler.send(content[: len(content) // 2], length=len(content))


@pytest.mark.parametrize(
    "answer",
    [
        lambda handler, name: handler.send(b"no", 503),
        lambda handler, name: handler.send(b"<html>a login page</html>"),
        break_off,
    ],
    ids=["refuses", "sends something else", "breaks off"],
)
def test_mirror_that_is_of_no_use(lone, hw5, mirror, answer):
    mirror.answer = answer
    process = run_script("--updates", 1, script=lone, env=mirror.environment)
    assert_error(process, *hw5.MNIST_MD5, lone.parent / "data/MNIST/raw", "--data-dir")
    assert mirror.requests and not list(lone.parent.rglob("*ubyte*"))


def test_two_lone_scripts_at_once_download_what_is_missing(lone, hw5, mirror):
    """In one folder, data and outputs shared."""
    start = {"env": mirror.environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command("--updates", 100, script=lone), **start) for _ in range(2)]
    for process in both:
        assert process.communicate(timeout=300) and process.returncode == 0
    original = {name: (MNIST / name).read_bytes() for name in hw5.MNIST_MD5}
    assert contents(lone.parent / "data/MNIST/raw") == original
    assert_whole(lone.parent, 100)
    assert sorted(path.name for path in lone.parent.iterdir()) == sorted([*OUTPUTS, "data", "hw.py"])


@pytest.fixture
def damaged(tmp_path):
    """A data folder with one .gz cut short and one with a flipped bit."""
    raw = Path(shutil.copytree(MNIST, tmp_path / "data/MNIST/raw"))
    path = raw / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:1_000_000])
    path = raw / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(
        path.read_bytes()[:-100] + bytes([path.read_bytes()[-100] ^ 1]) + path.read_bytes()[-99:]
    )
    return tmp_path / "data"


def test_damaged_files_are_repaired_or_named(damaged, tmp_path, mirror, hw5):
    options = ("--updates", 1, "--data-dir", damaged, "--output-dir", tmp_path)
    process = run_script(*options, env=through(NOWHERE))
    assert_error(process, f"MNIST is missing or damaged in {damaged}/MNIST/raw", "--data-dir")
    process = run_script(*options, env=mirror.environment)
    assert process.returncode == 0, process.stderr
    original = {name: (MNIST / name).read_bytes() for name in hw5.MNIST_MD5}
    assert contents(damaged / "MNIST/raw") == original


@pytest.fixture
def misfit(tmp_path):
    """No network, and a torchvision without its compiled operators, as with a torch of another build."""
    import torchvision

    source, target = Path(torchvision.__file__).parent, tmp_path / "packages" / "torchvision"
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.so", "*.pyd", "__pycache__"))
    return {**through(NOWHERE), "PYTHONPATH": str(target.parent)}


def test_torchvision_that_does_not_fit_is_told_where_it_is_needed(lone, misfit):
    assert_error(run_script("--updates", 1, script=lone, env=misfit), "nms does not exist", "--data-dir")


def test_complete_data_need_neither_network_nor_torchvision_nor_rights_nor_extracted_files(tmp_path, misfit):
    raw = Path(shutil.copytree(MNIST, tmp_path / "data/MNIST/raw"))
    for path in list(raw.iterdir()):
        path.with_suffix("").write_bytes(b"\0\0\x08\x03")  # as a torchvision leaves it that was killed
    for path in [tmp_path / "data", *(tmp_path / "data").rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    options = ("--updates", 1, "--data-dir", tmp_path / "data", "--output-dir", tmp_path / "out")
    process = run_script(*options, env=misfit, preexec_fn=obey_permissions)
    assert process.returncode == 0, process.stderr
    assert_whole(tmp_path / "out", 1)


def test_download_into_a_read_only_folder_says_which_option_helps(tmp_path, mirror):
    (tmp_path / "data").mkdir(mode=0o555)
    options = ("--updates", 1, "--data-dir", tmp_path / "data", "--output-dir", tmp_path / "out")
    process = run_script(*options, env=mirror.environment, preexec_fn=obey_permissions)
    assert_error(process, "Permission denied", tmp_path / "data", "--data-dir")


# Output folder


@pytest.mark.parametrize("case", ["is a file", "below a file", "not writable", "parent not writable"])
def test_output_folder_that_cannot_be_used_is_told_before_training(tmp_path, case):
    target = tmp_path / "out"
    target.touch() if "a file" in case else target.mkdir(mode=0o555)
    target = target / "below" if case in ("below a file", "parent not writable") else target
    process = run_script("--updates", 10**6, "--output-dir", target, preexec_fn=obey_permissions, timeout=60)
    assert_error(process, "cannot write", target, "--output-dir")
    assert process.stdout == "" and len(process.stderr.splitlines()) == 1  # not one update
    assert not target.is_dir() or not list(target.iterdir())


def test_full_disk_is_told_and_leaves_the_files_of_the_older_run(older):
    """The first file that is over 100 kB are the weights."""
    before = contents(older)
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # noqa: E731
    process = run_script("--updates", 1, "--output-dir", older, preexec_fn=limit)
    assert_error(process, "cannot write", older, "too large", "--output-dir")
    assert contents(older) == before


def test_folder_where_a_file_should_be(tmp_path):
    (tmp_path / "vae.pt").mkdir()
    assert_error(run_script("--updates", 1, "--output-dir", tmp_path), "cannot write", tmp_path / "vae.pt")
    assert not list(tmp_path.glob(".*"))


def test_killed_while_saving(tmp_path, hw5):
    """100 kills of a process that does nothing but save: every file old and whole, or new and whole."""
    old = dict.fromkeys("abcdefgh", b"a" * 300_000)
    for name, content in old.items():
        (tmp_path / name).write_bytes(content)
    seen = set()
    for _ in range(100):
        child = os.fork()
        if child == 0:
            while True:
                for letter in (b"a", b"b"):
                    with hw5.files_of_one_run(tmp_path) as hidden:
                        for name in old:
                            (hidden / name).write_bytes(letter * 300_000)
        time.sleep(random.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        for name in old:
            content = (tmp_path / name).read_bytes()
            assert content in (b"a" * 300_000, b"b" * 300_000)
            seen.add(content[0])
    assert len(seen) == 2


def test_killed_at_a_random_moment_of_a_run(older):
    """10 kills of runs over the files of an older one: all are those of the older or of the whole new run."""
    killer = f"""if True:
        import os, random, signal, sys, time
        sys.path.insert(0, {str(ROOT / "tests")!r})
        from conftest import import_script
        hw5 = import_script()
        import torch._dynamo  # once, and not in each child
        def run():
            child = os.fork()
            if child == 0:
                sys.stdout = open(os.devnull, "w")
                os._exit(hw5.main(["--updates", "300", "--seed", "1", "--output-dir", {str(older)!r}]))
            return child
        for number in range(11):
            start, child = time.monotonic(), run()
            if number:  # the first, to its end, tells how long a run takes
                time.sleep(random.uniform(0, whole))
                os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            whole = whole if number else time.monotonic() - start
            print("done", flush=True)
            sys.stdin.readline()
    """
    old, new = contents(older), None
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", killer], **pipes)
    for _ in range(11):
        assert process.stdout.readline() == "done\n"
        assert_whole(older, 300)
        now = {
            name: (older / name).read_bytes() for name in OUTPUTS if name != "metrics.json"
        }  # it has seconds
        new = new or now
        assert new["training_log.csv"] != old["training_log.csv"]
        assert now == new or all(now[name] == old[name] for name in now)
        for name, content in old.items():  # the older run again
            (older / name).write_bytes(content)
        process.stdin.write("\n")
        process.stdin.flush()
    assert process.communicate(timeout=60) and process.returncode == 0


# Ctrl-C and divergence


@pytest.fixture
def start(older):
    """A function that starts a long run over the files of an older one; the process is killed at the end."""
    started = []

    def start():
        options = ("--updates", 30_000, "--batch-size", 20, "--output-dir", older)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen(command(*options), text=True, **pipes))
        return started[0]

    yield start
    started[0].kill()
    started[0].communicate()


def wait_for(condition, seconds=120):
    """Wait until `condition()` is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_ctrl_c_saves_and_draws_what_was_logged(start, older):
    process = start()
    assert process.stdout.readline().startswith("update   3000/30000")
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 130 and errors == ""
    done = json.loads((older / "metrics.json").read_text())["updates_done"]
    assert 3000 <= done < 30_000 and f"CUT SHORT: interrupted after update {done}" in output
    assert_whole(older, done)
    assert sorted(path.name for path in older.iterdir()) == sorted(OUTPUTS)


def test_second_ctrl_c_stops_at_once(start, older):
    before, process = contents(older), start()
    assert process.stdout.readline().startswith("update ")
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    assert process.communicate(timeout=60)[1] == "" and process.returncode == 130
    assert time.monotonic() - began < 3 and contents(older) == before


def test_ctrl_c_before_the_first_update(start, older):
    """While torch.optim imports what it needs, which takes a second."""
    before, process = contents(older), start()
    wait_for(lambda: list(older.glob(".unfinished-*")))
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60) == ("", "") and process.returncode == 130
    assert contents(older) == before


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="looks into /proc")
def test_ctrl_c_while_importing(start):
    process = start()
    wait_for(lambda: "libtorch" in Path(f"/proc/{process.pid}/maps").read_text())
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60) == ("", "") and process.returncode == 130


def test_divergence_is_told_and_leaves_the_files_of_the_older_run(older):
    before = contents(older)
    process = run_script("--updates", 10**6, "--learning-rate", 1e5, "--output-dir", older, timeout=60)
    assert_error(process, "diverged", "--learning-rate")
    assert 1 < int(re.search(r"update (\d+)", process.stderr).group(1)) < 100
    assert contents(older) == before


# Environments


@pytest.mark.parametrize(
    "changes",
    [
        {"MPLBACKEND": "TkAgg", "DISPLAY": None, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0",
         "HOME": "/nonexistent", "MPLCONFIGDIR": None, "XDG_CONFIG_HOME": None, "XDG_CACHE_HOME": None},
        {"MPLBACKEND": "module://missing.backend", "HOME": None, "MPLCONFIGDIR": "/dev/null/here",
         "LC_ALL": "C", "PYTHONIOENCODING": "ascii"},
        {"MPLBACKEND": "missing"},  # what matplotlib makes of a notebook's, without matplotlib_inline
    ],
    ids=["no display, no home, C locale", "no configuration, ASCII output", "as in a notebook"],
)  # fmt: skip
def test_environment(tmp_path, changes):
    """In a folder with a space and letters that the locale may lack."""
    folder = tmp_path / "Größe und 数"
    folder.mkdir()
    script = shutil.copy(SCRIPT, folder / "мой hw5.py")
    process = run_script("--updates", 1, "--data-dir", DATA, script=script, env=environment(**changes))
    assert process.returncode == 0 and "Traceback" not in process.stderr, process.stderr
    assert_whole(folder, 1)


def test_run_in_a_notebook_leaves_its_kernel_alone(tmp_path):
    """IPython's %run executes the file as __main__ in the process of the kernel, which needs MPLBACKEND."""
    code = f"""if True:
        import os, runpy, sys, types
        sys.modules["IPython"], hook = types.SimpleNamespace(version_info=(9, 0)), sys.excepthook
        sys.argv = ["x", "--updates", "1", "--output-dir", {str(tmp_path)!r}]
        try:
            runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
        except SystemExit as stop:
            assert stop.code == 0, stop.code
        assert os.environ["MPLBACKEND"] == "agg" and sys.excepthook is hook
        import matplotlib.pyplot
        assert matplotlib.pyplot.get_backend() == "agg" and matplotlib.rcParams["font.size"] == 10
    """
    line = [sys.executable, "-c", code]
    process = subprocess.run(line, env=environment(MPLBACKEND="agg"), capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


def test_switches_of_python(tmp_path):
    process = run_script("--updates", 1, "--output-dir", tmp_path, python=["-O", "-Werror", "-I"])
    assert process.returncode == 0 and process.stderr == ""
    assert_whole(tmp_path, 1)


@pytest.mark.parametrize("redirect", [">&- 2>&-", "| head -n 1", ">/dev/full"])
def test_standard_output_that_is_gone(tmp_path, redirect):
    line = f'"$@" {redirect}; exit "${{PIPESTATUS[0]}}"'
    run = ["bash", "-c", line, "bash", *command("--updates", 200, "--output-dir", tmp_path)]
    process = subprocess.run(run, capture_output=True, text=True)
    assert process.returncode == 0 and process.stderr == ""
    assert_whole(tmp_path, 200)


# Unusual numbers of updates and batch sizes, a device that is not there


@pytest.mark.parametrize(
    ("updates", "size"),
    [(1, 200), (2, 200), (19, 200), (20, 200), (99, 100), (100, 100), (150, 300), (101, 1), (20, 10000)],
)
def test_unusual_sizes(hw5, tmp_path, monkeypatch, updates, size):
    evaluate = hw5.evaluate
    monkeypatch.setattr(hw5, "evaluate", lambda model, images, seed: evaluate(model, images[:100], seed, 1))
    monkeypatch.setattr(hw5, "IMPORTANCE_SAMPLES", 1)
    sizes = ("--updates", updates, "--batch-size", size)
    assert hw5.main([*map(str, sizes), "--output-dir", str(tmp_path), "--data-dir", str(DATA)]) == 0
    assert_whole(tmp_path, updates)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_on_a_machine_without(tmp_path):
    process = run_script("--device", "cuda", "--output-dir", tmp_path)
    assert process.returncode == 2 and "argument --device: invalid choice: 'cuda'" in process.stderr
    assert "cpu" in process.stderr.splitlines()[-1] and not list(tmp_path.iterdir())
