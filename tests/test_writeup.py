"""The write-up: its PDF holds the numbers and plots of the committed run and the blanks, and builds again."""

import io
import json
import re
import runpy
import shutil
import subprocess
import sys
import unicodedata

import pytest
from conftest import PLOTS, ROOT, committed, environment
from pypdf import PdfReader

SOURCE = committed("writeup/hw5_problem1.tex").decode()
BODY = SOURCE[SOURCE.index(r"\begin{document}") :]
METRICS = json.loads(committed("figures/metrics.json"))
PDF = committed("writeup/hw5_problem1.pdf")


def pages(pdf):
    """The text of each page: plain signs and single spaces, without the comma of 10,000."""
    texts = [unicodedata.normalize("NFKC", page.extract_text()) for page in PdfReader(io.BytesIO(pdf)).pages]
    plain = [re.sub(r"\s+", " ", text.replace("\u2212", "-")) for text in texts]
    return [re.sub(r"(?<=\d),(?=\d{3})", "", text) for text in plain]


TEXT = " ".join(pages(PDF))


def test_every_number_of_the_run_that_the_text_quotes_is_in_the_pdf_as_often():
    values = runpy.run_path(str(ROOT / "writeup/build.py"))["macros"](METRICS)
    values = dict(re.findall(r"\\newcommand\{\\(\w+)\}\{(.*)\}\n", values))
    quoted = re.findall(r"(nats\{-?)?\\((?:Settings|Results|Updates|Versions)\w+)", BODY)
    assert len({name for _, name in quoted}) >= 16
    numbers = [f"{float(values[name]):.1f}" if nats else values[name] for nats, name in quoted]
    numbers = [
        number.strip("-") if nats.endswith("-") else number for (nats, _), number in zip(quoted, numbers)
    ]
    for number in numbers:
        found = re.findall(rf"(?<![\d.-]){re.escape(number)}(?!\d|\.\d)", TEXT)
        assert len(found) >= numbers.count(number), number


def test_no_decimal_is_typed_but_constants():
    text = re.sub(r"\\href\{.*?\}\{.*?\}|\d\.\d+\\linewidth|p\{.*?in\}", "", BODY)
    assert re.findall(r"\d+\.\d+", text) == ["0.9", "0.999", "135.9"]  # Adam's, and 196 log 2


def test_headings_and_the_very_plots_are_in_order():
    titles = re.findall(r"\\subsection\{(.*)\}", BODY)
    numbered = [f"({n}) {title}" for n, title in zip(("i", "ii", "iii", "iv", "v", "vi"), titles)]
    places = [TEXT.index(title) for title in numbered]
    assert places == sorted(places) and len(places) == 6 and 3 <= len(pages(PDF)) <= 4
    figures = [PdfReader(io.BytesIO(committed(f"figures/{plot}"))).pages[0] for plot in PLOTS]
    drawings = [figure.get_contents().get_data().strip() for figure in figures]
    shown = []
    for page in PdfReader(io.BytesIO(PDF)).pages:
        for name in re.findall(rb"(/\w+) Do", page.get_contents().get_data()):
            shown.append(page["/Resources"]["/XObject"][name.decode()].get_object().get_data().strip())
    assert shown == drawings


@pytest.fixture
def tree(tmp_path):
    """What the write-up is built from, as committed."""
    names = ["writeup/build.py", "writeup/hw5_problem1.tex", "figures/metrics.json"]
    for name in [*names, *(f"figures/{plot}" for plot in PLOTS)]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(committed(name))
    return tmp_path


def build(tree, **changes):
    """Run build.py of `tree` from another folder."""
    command, env = [sys.executable, str(tree / "writeup/build.py")], environment(**changes)
    return subprocess.run(command, cwd=tree.parent, env=env, capture_output=True, text=True)


@pytest.mark.skipif(not shutil.which("latexmk"), reason="LaTeX is not installed")
def test_builds_again_the_same_and_with_the_blanks_filled_in(tree):
    tex, pdf = tree / "writeup/hw5_problem1.tex", tree / "writeup/hw5_problem1.pdf"
    process = build(tree)
    fields = re.findall(r"\{\\(\w+)\}\{(?:pennkey)?\}  %", SOURCE)
    assert process.returncode == 0 and f"{', '.join(fields)}\n{pdf}\n" in process.stdout, process.stderr
    again = " ".join(pages(pdf.read_bytes()))
    assert re.sub(r"[\s-]", "", again) == re.sub(r"[\s-]", "", TEXT)  # lines may break elsewhere
    assert again.count("(fill in)") == len(fields) - 1 == 4
    filled = re.sub(r"(?m)^(\\newcommand\{\\(\w+)\}\{).*\}  %", r"\1Field-\2}  %", SOURCE)
    tex.write_text(filled.replace(r"\end{document}", "\\nosuchmacro\n\\end{document}"), encoding="utf-8")
    process = build(tree)
    assert process.returncode == 1 and "Undefined control sequence" in process.stderr
    tex.write_text(filled, encoding="utf-8")
    assert build(tree).stdout == f"{pdf}\n"
    first = pages(pdf.read_bytes())[0]
    assert "(fill in)" not in first and all(f"Field-{field}" in first for field in fields)


@pytest.mark.parametrize("fault", ["metrics.json", PLOTS[0], "cut short", "LaTeX"])
def test_fault_is_one_sentence(tree, fault):
    if fault in ("metrics.json", PLOTS[0]):
        (tree / "figures" / fault).unlink()
    if fault == "cut short":
        (tree / "figures/metrics.json").write_text(json.dumps({**METRICS, "updates_done": 100}))
    process = build(tree, PATH=tree / "figures")
    assert process.returncode == 1 and process.stdout == "" and fault in process.stderr
    assert process.stderr.startswith("error: ") and process.stderr.count("\n") == 1
    assert (tree / "writeup/build/numbers.tex").exists() == (fault == "LaTeX")
