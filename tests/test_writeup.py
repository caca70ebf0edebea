"""The write-up: its numbers are those of the run and of experiments.json, its plots the run's; it builds."""

import io
import json
import re
import runpy
import shutil

import pytest
from conftest import DATA, PLOTS, ROOT, SCRIPT, committed, run_script
from pypdf import PdfReader

SOURCE = (ROOT / "writeup/hw5_problem1.tex").read_text("utf-8")
BODY = SOURCE[SOURCE.index(r"\begin{document}") :]
SEEDS = json.loads((ROOT / "writeup/experiments.json").read_text())
BELOW = "start_shift<shuffled_shift start_shift<usual_shift later_shift<peak_shift idle<start_idle em<log_p"
BELOW += " slow_idle<start_idle far<near test_far<test_near others_gap<same_gap longer_test<longer held<elbo"
BELOW += " latent_grey<grey units_grey<grey grey<prior_grey 0<start_loss 0<fewer_loss 0<slow_gain 0<encoder"


def check(pdf, metrics):
    """Every macro's value stands in the PDF, in the source's order, as the words do; returns the text."""
    text = " ".join(row for page in PdfReader(pdf).pages for row in page.extract_text().splitlines()[1:-1])
    text, at = re.sub(r"\s|-|(?<=\d),(?=\d{3})", "", text).replace("\u2212", "-"), 0
    macros = runpy.run_path(str(ROOT / "writeup/build.py"))["macros"]
    values = dict(re.findall(r"\\def\\(\w+)\{(.*)\}\n", macros(metrics, "Run") + macros(SEEDS, "Seeds")))
    for command, name in re.findall(r"\\(nats|whole|rounded\{\d\}|seeds(?:\[\d\])?)\{\\?(\w+)\}", BODY):
        digits = int(re.sub(r"\D", "", command) or command != "whole")
        names = [f"Seeds{name}Least", f"Seeds{name}Most"] if "seeds" in command else [name]
        shown = "to".join(dict.fromkeys(f"{float(values[each]):.{digits}f}" for each in names))
        assert (at := text.find(shown, at)) >= 0, (command, name, shown)
    assert metrics["script"] in text and len(PdfReader(pdf).pages) <= 4
    return text


def test_committed_pdf_has_every_number_and_the_very_plots():
    metrics, seen = json.loads(committed("figures/metrics.json")), []
    text = check(io.BytesIO(committed("writeup/hw5_problem1.pdf")), metrics)
    assert re.search("^(?!.*notthedefaults).*27280parameters.*26436parameters", text)
    for name in ("writeup/hw5_problem1.pdf", *(f"figures/{plot}" for plot in PLOTS)):
        reader = PdfReader(io.BytesIO(committed(name)))
        objects = (reader.get_object(number) for number in range(1, reader.trailer["/Size"]))
        seen.append({each.get_data().strip() for each in objects if hasattr(each, "get_data")})
    assert all(plot <= seen[0] for plot in seen[1:])


def test_typed_numbers_and_words_are_measured():
    typed = re.sub(r"\\arxiv\{.*?\}|\\(plot.|beside.)[\d.]+|[\d.]+(pt|in)", "", BODY)  # no lengths
    known = re.findall(r"\d+\.\d+", (ROOT / "writeup/experiments.py").read_text("utf-8"))
    assert {*re.findall(r"\d+\.\d+", typed)} <= {*known, "0.9", "0.999", "32.2"}  # Adam's, the MADE's
    for less, more in (pair.split("<") for pair in BELOW.split()):
        assert SEEDS.get(less, (0, 0))[1] < SEEDS[more][0], f"{less} is not below {more} for every seed"


def test_first_peak_is_measured_again():
    first_peak = runpy.run_path(str(ROOT / "writeup/experiments.py"))["first_peak"]
    (_, shift, later), (least, most) = first_peak(1), SEEDS["peak_shift"]
    assert 0.9 * least < shift < 1.1 * most and first_peak(1, order=slice(None))[1] + later < shift / 2
    assert first_peak(1, order=[*range(98, 196), *range(98)])[1] > 2  # the lower half's above


@pytest.fixture
def build(tmp_path):
    shutil.which("latexmk") or pytest.skip("LaTeX is not installed")
    shutil.copytree(ROOT / "writeup", tmp_path / "writeup", ignore=shutil.ignore_patterns("build", "*.pdf"))
    (tmp_path / "figures").mkdir()
    for name in ("metrics.json", *PLOTS):
        (tmp_path / "figures" / name).write_bytes(committed(f"figures/{name}"))
    return lambda **more: run_script(script=tmp_path / "writeup/build.py", cwd=tmp_path.parent, **more)


def test_builds_after_one_update_with_other_constants(build, tmp_path):
    tex, pdf = (tmp_path / f"writeup/hw5_problem1.{kind}" for kind in ("tex", "pdf"))
    tex.write_text(re.sub(r"(\\PennEmail\}\{).*?\}", r"\1a_b@upenn.edu, \\& \\%}", SOURCE), "utf-8")
    first, once = build(), pdf.read_bytes()
    assert str(pdf) in first.stdout and build().returncode == 0 and once == pdf.read_bytes()
    other = SCRIPT.read_text("utf-8").replace("\nOPTIONS", "\nLATENT = 2\nOPTIONS")
    (tmp_path / "a#_1.py").write_text(other, "utf-8")
    run_script("--updates=1", f"--data-dir={DATA}", script=tmp_path / "a#_1.py", check=True)
    build()
    text = check(pdf, json.loads((tmp_path / "figures/metrics.json").read_text()))
    assert re.search("a_b@upenn.edu,&%.*defaults:LATENT=2,updates=1[.].*25732para.*25668para", text)


@pytest.mark.parametrize("fault", ["metrics.json", PLOTS[0], "LaTeX is missing", "LaTeX failed"])
def test_fault_is_one_sentence(build, tmp_path, fault):
    (tmp_path / "figures" / fault).unlink(missing_ok=True)
    (tmp_path / "writeup/hw5_problem1.tex").write_text(BODY)  # without its preamble
    run = build() if "failed" in fault else build(env={"PATH": ""})
    assert (run.returncode, run.stdout) == (1, "") and re.match(f"error: .*{fault}", run.stderr)
