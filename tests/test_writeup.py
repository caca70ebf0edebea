"""The write-up has the plots and the numbers of the committed run, and it compiles."""

import io
import re
import shutil
import subprocess

import numpy as np
import pytest
from conftest import ROOT, committed
from pypdf import PdfReader

import pennkey_hw5_problem1 as hw5

PLOTS = [name for name in hw5.OUTPUT_FILES if name.endswith(".pdf")]


@pytest.fixture
def source():
    """The text of the LaTeX file, with every line break as a space."""
    return " ".join((ROOT / "writeup/hw5_problem1.tex").read_text().split())


def committed_log(name):
    """The rows of a committed log, as an array."""
    text = committed(f"figures/{name}").decode()
    return np.loadtxt(io.StringIO(text), delimiter=",", skiprows=1)


def contents(pdf):
    """The contents of all drawings, pictures and fonts in a PDF."""
    reader = PdfReader(io.BytesIO(pdf))
    objects = [reader.get_object(number) for number in range(1, reader.trailer["/Size"])]
    return {each.get_data().strip() for each in objects if hasattr(each, "get_data")}


def test_pdf_has_the_committed_results():
    pages = PdfReader(io.BytesIO(committed("writeup/hw5_problem1.pdf"))).pages
    words = " ".join(page.extract_text() for page in pages).replace("\u2212", "-").split()
    text = " ".join(words)
    for line in committed("figures/results.txt").decode().splitlines():
        assert " ".join(line.split()) in text


@pytest.mark.parametrize("plot", PLOTS)
def test_pdf_has_the_committed_plot(plot):
    in_plot = contents(committed(f"figures/{plot}"))
    assert len(in_plot) > 0
    assert in_plot <= contents(committed("writeup/hw5_problem1.pdf"))


def test_numbers_about_the_first_term_are_those_of_the_log(source):
    _, reconstruction, _ = committed_log("training_log.csv").T
    assert f"the first term is ${reconstruction[0]:.1f}$" in source
    assert f"$196\\log\\frac12={196 * np.log(0.5):.1f}$" in source
    assert f"It rises to ${reconstruction[3]:.0f}$ at update 4" in source
    assert "from above $-55$ to $-68$ at updates 10 and 17" in source
    assert min(reconstruction[8], reconstruction[15]) > -55
    assert round(reconstruction[9]) == round(reconstruction[16]) == -68
    assert f"It is ${reconstruction[99]:.0f}$ at update 100" in source
    assert f"${reconstruction[-100:].mean():.1f}$ on average over the last 100 updates" in source


def test_numbers_about_the_kl_are_those_of_the_log(source):
    _, _, kl = committed_log("training_log.csv").T
    assert f"The KL begins at {kl[0]:.1f}" in source
    assert "In the first 30 updates it then swings between 1 and 12" in source
    assert round(kl[1:30].min()) == 1
    assert round(kl[1:30].max()) == 12
    assert f"{kl[9]:.1f} at update 10 and {kl[16]:.1f} at update 17" in source
    assert sorted([kl[9], kl[16]]) == sorted(kl[1:30])[:2]
    assert "Near update 50 it is about 4" in source
    assert round(kl[49]) == 4
    assert f"to {kl[900:1000].mean():.1f} on average over the updates 901 to 1,000" in source
    assert f"to {kl[-100:].mean():.1f} over the last 100" in source


def test_numbers_about_the_reconstructions_are_those_in_the_plot(source):
    plot = io.BytesIO(committed("figures/problem1_iv_reconstructions.pdf"))
    text = PdfReader(plot).pages[0].extract_text().replace("\u2212", "-")
    values = {}
    for words in re.findall(r"digit (\d): (-\d+\.\d) nats", text):
        values[int(words[0])] = float(words[1])
    assert len(values) == 8
    assert (
        f"The 2 has become a ring like a 0, with the lowest log-likelihood, ${values[2]}$" in source
    )
    assert values[2] == min(values.values())
    assert sorted(values, key=values.get)[-2:] == [7, 1]


def test_what_is_said_of_the_last_1000_updates_is_so(source):
    _, reconstruction, kl = committed_log("training_log.csv").T
    assert "the first term rises by about 2 nats, and the KL hardly changes" in source
    rise = reconstruction[-100:].mean() - reconstruction[2900:3000].mean()
    assert 1.8 < rise < 2.4
    assert abs(kl[-100:].mean() - kl[2900:3000].mean()) < 0.1


def test_comparison_of_validation_and_training_is_that_of_the_logs(source):
    _, training, _ = committed_log("training_log.csv").T
    updates, validation = committed_log("validation_log.csv").T
    average = {}  # the moving average of plot (vi), by its update
    for middle in range(51, len(training) - 49):
        average[middle] = training[middle - 51 : middle + 50].mean()
    gap = {}
    for update, value in zip(updates, validation):
        if update in average:
            gap[update] = average[update] - value

    def mean_gap(first, last):
        return np.mean([gap[update] for update in gap if first <= update <= last])

    assert "At the updates 300, 400 and 500" in source
    assert "differ by less than 0.1" in source
    assert max(abs(gap[300]), abs(gap[400]), abs(gap[500])) < 0.1
    assert f"From update 600 on validation lies below (at 800 by only {gap[800]:.2f})" in source
    assert min(gap[update] for update in gap if update >= 600) == gap[800] > 0
    assert f"by {mean_gap(600, 1000):.1f} on average over the points from 600 to 1,000" in source
    assert f"by {mean_gap(2000, 3000):.1f} from 2,000 to 3,000" in source
    assert f"by {mean_gap(3100, 3900):.1f} from 3,100 to 3,900" in source
    last = validation[-4:]
    assert f"stays between ${last.min():.1f}$ and ${last.max():.1f}$" in source
    assert f"ends at ${validation[-1]:.2f}$" in source
    assert f"which ends at update {max(average):,}, ends at ${average[max(average)]:.2f}$" in source


def test_numbers_of_the_table_are_those_of_the_results(source):
    reconstruction = {}
    for line in committed("figures/results.txt").decode().splitlines():
        words = line.split()
        if len(words) == 4:
            reconstruction[words[0]] = words[1]
    assert f"${reconstruction['training']}$ for the 10,000 training images" in source
    assert f"${reconstruction['test']}$ for the 8,820 test images" in source


def test_numbers_of_parameters_are_those_of_the_model(source):
    for part in (hw5.VAE().encoder, hw5.VAE().decoder):
        number = sum(weight.numel() for weight in part.parameters())
        assert f"{number:,} parameters" in source


def test_source_compiles_without_overfull_lines(tmp_path):
    if shutil.which("latexmk") is None:
        pytest.skip("LaTeX is not installed")
    (tmp_path / "writeup").mkdir()
    (tmp_path / "figures").mkdir()
    shutil.copy(ROOT / "writeup/hw5_problem1.tex", tmp_path / "writeup")
    for name in (*PLOTS, "results.txt"):
        (tmp_path / "figures" / name).write_bytes(committed(f"figures/{name}"))
    command = ["latexmk", "-pdf", "-interaction=nonstopmode", "hw5_problem1.tex"]
    process = subprocess.run(command, cwd=tmp_path / "writeup", capture_output=True)
    assert process.returncode == 0
    assert "Overfull" not in (tmp_path / "writeup/hw5_problem1.log").read_text("latin-1")
    assert len(PdfReader(tmp_path / "writeup/hw5_problem1.pdf").pages) <= 5
