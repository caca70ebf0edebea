"""The write-up: its PDF holds the numbers and plots of the committed run and the blanks, and builds again."""

import inspect
import json
import math
import re
import runpy
import shutil
import subprocess
import sys
import unicodedata

import pytest
import torch
from conftest import COMMITTED, PLOTS, environment
from pypdf import PdfReader

WRITEUP, FIGURES = COMMITTED / "writeup", COMMITTED / "figures"
PDF = WRITEUP / "hw5_problem1.pdf"
SOURCE = (WRITEUP / "hw5_problem1.tex").read_text(encoding="utf-8")
BODY = SOURCE[SOURCE.index(r"\begin{document}") :]
METRICS = json.loads((FIGURES / "metrics.json").read_text(encoding="utf-8"))
HEADINGS = dict(zip(("i", "ii", "iii", "iv", "v", "vi"), re.findall(r"\\subsection\{(.*)\}", BODY)))
LATEX = shutil.which("latexmk") and shutil.which("pdflatex")


def pages(pdf):
    """The text of each page: plain signs and single spaces, without ligatures and the comma of 10,000."""
    texts = (unicodedata.normalize("NFKC", page.extract_text()) for page in PdfReader(pdf).pages)
    plain = (text.translate({0x2212: "-", 0x2019: "'"}) for text in texts)  # minus, apostrophe
    return [re.sub(r"(?<=\d),(?=\d{3})", "", re.sub(r"\s+", " ", text)) for text in plain]


PAGES = pages(PDF)
TEXT = " ".join(PAGES)


def not_in_pdf(values):
    """The formulas and macros of the LaTeX whose value by `values`, rounded as there, is not in the PDF."""
    rounded = re.findall(r"\\(nats|whole)\{([^{}]*)\}", BODY)
    others = re.findall(r"\\(\w+)", re.sub(r"\\(nats|whole)\{[^{}]*\}", "", BODY))
    numbers = {name: values[name] for name in others if name in values}
    for rounding, formula in rounded:
        number = eval(re.sub(r"\\(\w+)", lambda macro: values[macro[1]], formula), {"ln": math.log})
        numbers[formula] = f"{number:.2f}" if rounding == "nats" else f"{number:.0f}"
    # Whole numbers only: 4.2 is neither in 14.2 or 4.25 nor in -4.2
    whole = {name: rf"(?<![\d.-]){re.escape(number)}(?!\d|\.\d)" for name, number in numbers.items()}
    return [name for name, pattern in whole.items() if not re.search(pattern, TEXT)]


def test_numbers_of_the_pdf_are_those_of_the_run():
    """All are there; and each that the text quotes, altered alone, is missed."""
    values = runpy.run_path(str(WRITEUP / "build.py"))["macros"](METRICS)
    values = dict(re.findall(r"\\newcommand\{\\(\w+)\}\{(.*)\}\n", values))
    assert {*re.findall(r"\\((?:Settings|Results|Versions)\w+)", BODY)} <= {*values}  # else without a value
    assert not_in_pdf(values) == []
    quoted = [name for name in values if re.search(rf"\\{name}\b", BODY)]
    assert len(quoted) > 18 and {"ResultsTestElbo", "SettingsLearningRate", "UpdatesDone"} <= {*quoted}
    for name in quoted:
        first, *rest = values[name].split(",")
        text = name.startswith("Versions") or first.isalpha()
        other = ",".join([first + "x" if text else f"{float(first) + 123.4567}", *rest])
        assert not_in_pdf({**values, name: other}), f"{name} could be anything"


def test_no_decimal_is_typed_but_those_of_adam():
    """All decimals of the text are macros, but for lengths, addresses and AdamW's betas."""
    text = re.sub(r"\\href\{.*?\}\{.*?\}|\\begin\{tabular\}.*|\d\.\d+\\linewidth", "", BODY)
    betas = inspect.signature(torch.optim.AdamW).parameters["betas"].default
    assert re.findall(r"\d+\.\d+", text) == [str(beta) for beta in betas]


def test_words_on_the_training_agree_with_the_script(hw5):
    """That train() does what its calls say is tested in test_training.py."""
    script, settings = inspect.getsource(hw5), METRICS["settings"]
    adamw, model = inspect.signature(torch.optim.AdamW).parameters, hw5.VAE()
    beta1, beta2 = adamw["betas"].default
    assert adamw["eps"].default == 1e-8 and not re.search(r"betas=|eps=|nn\.init", script)
    encoder, decoder = (sum(weight.numel() for weight in part.parameters()) for part in model.children())
    for call, words in {
        "torch.optim.AdamW(": f"AdamW (β1 = {beta1}, β2 = {beta2}, ε = 10-8), from PyTorch's default initial",
        "CosineAnnealingLR(": f"{settings['learning_rate']} at first, falling to 0 as a cosine",
        "first, *others = ": f"{settings['weight_decay']} for the encoder's first matrix, 0 for all else",
        "HIDDEN, 2 * LATENT": f"128 → 16, linear: {encoder} parameters",
        "HIDDEN, PIXELS": f"128 → 196, sigmoid: {decoder} parameters",
        "ELBO_SAMPLES": f"with {hw5.ELBO_SAMPLES} samples of z",
        "IMPORTANCE_SAMPLES": f"With K = {hw5.IMPORTANCE_SAMPLES} it is",
    }.items():
        assert call in script and words in TEXT


def test_pages_headings_and_plots():
    """The headings are in order, and the very drawings of the plots are on their pages, in order."""
    titles = [f"({number}) {title}" for number, title in HEADINGS.items()]
    found = [[i for i, page in enumerate(PAGES) if title in page] for title in titles]
    assert [len(pages) for pages in found] == [1] * 6 and found == sorted(found) and 3 <= len(PAGES) <= 5
    drawings = {PdfReader(FIGURES / plot).pages[0].get_contents().get_data().strip(): plot for plot in PLOTS}
    shown = []
    for i, page in enumerate(PdfReader(PDF).pages):
        for name in re.findall(rb"(/\w+) Do", page.get_contents().get_data()):
            form = page["/Resources"]["/XObject"][name.decode()].get_object()
            shown.append(([i], drawings.get(form.get_data().strip())))
    assert shown == [(found[i], plot) for i, plot in zip((0, 2, 3, 4, 5), PLOTS)]


def test_blanks_are_visible_until_filled_in():
    for label in ("Name:", "Penn email:", "Collaborators (name, Penn email):", "Time spent on Problem 1:"):
        assert label in PAGES[0]
    assert PAGES[0].count(": (fill in)") == len(re.findall(r"\{\}  %", SOURCE))
    assert SOURCE.index("FILL IN") < SOURCE.index(r"\newcommand{\TimeSpent}") < 1000


@pytest.fixture
def tree(tmp_path):
    """A copy of what the write-up is built from."""
    shutil.copytree(WRITEUP, tmp_path / "writeup", ignore=shutil.ignore_patterns("build", "*.pdf"))
    shutil.copytree(FIGURES, tmp_path / "figures")
    return tmp_path


def run_build(tree, **changes):
    """Run build.py of `tree` from another directory."""
    command, env = [sys.executable, str(tree / "writeup/build.py")], environment(**changes)
    return subprocess.run(command, cwd=tree.parent, env=env, capture_output=True, text=True, timeout=300)


@pytest.mark.skipif(not LATEX, reason="LaTeX is not installed")
def test_builds_again(tree):
    process, pdf = run_build(tree), tree / "writeup/hw5_problem1.pdf"
    assert process.returncode == 0, process.stderr
    fields = re.findall(r"\{\\(\w+)\}\{\}  %", SOURCE)
    assert ", ".join(fields) in process.stdout and process.stdout.splitlines()[-1] == str(pdf)
    log = (tree / "writeup/build/hw5_problem1.log").read_text(encoding="utf-8", errors="replace")
    assert not re.search(r"undefined|multiply defined|Overfull \\.box \((?![01]\.)", log)
    again, committed = (re.sub(r"[\s-]", "", "".join(texts)) for texts in (pages(pdf), PAGES))
    assert again == committed  # but for where lines break, in which releases of LaTeX differ
    before = pdf.read_bytes()
    assert run_build(tree).returncode == 0 and pdf.read_bytes() == before


@pytest.mark.skipif(not LATEX, reason="LaTeX is not installed")
def test_fields_are_printed_and_errors_of_latex_shown(tree):
    tex, pdf = tree / "writeup/hw5_problem1.tex", tree / "writeup/hw5_problem1.pdf"
    tex.write_text(SOURCE.replace(r"\end{document}", "\\nosuchmacro\n\\end{document}"), encoding="utf-8")
    process = run_build(tree)
    assert process.returncode == 1 and not pdf.exists() and process.stderr.startswith("error: LaTeX failed")
    assert re.search(r"Undefined control sequence.\n.*\\nosuchmacro", process.stderr)
    assert process.stderr.count("\n") < 10

    filled = re.sub(r"(?m)^(\\newcommand\{\\(\w+)\}\{).*\}  %", r"\1Field-\2}  %", SOURCE)
    tex.write_text(filled, encoding="utf-8")
    process = run_build(tree)
    assert process.returncode == 0 and process.stdout == f"{pdf}\n"
    first = pages(pdf)[0]
    assert "(fill in)" not in first and "The code is Field-PennKey_hw5_problem1.py." in first
    printed = re.findall(r": Field-(\w+)", first)
    assert printed == ["StudentName", "PennEmail", "Collaborators", "TimeSpent"]


@pytest.mark.parametrize(
    "name, content, words",
    [
        *((name, None, f"{name} is missing") for name in ("metrics.json", *PLOTS)),
        ("metrics.json", json.dumps({**METRICS, "updates_done": 100}), "was cut short after 100 of"),
        ("metrics.json", json.dumps({**METRICS, "settings": {}}), "is damaged (KeyError('updates'))"),
        ("metrics.json", json.dumps(METRICS)[:100], "is damaged (JSONDecodeError"),
        ("metrics.json", json.dumps(METRICS), "texlive-science, latexmk and lmodern"),
    ],
)
def test_fault_is_one_sentence(tree, name, content, words):
    """All without LaTeX, which is the last thing that build.py looks for."""
    (tree / "figures" / name).unlink()
    if content:
        (tree / "figures" / name).write_text(content, encoding="utf-8")
    process = run_build(tree, PATH=tree / "figures")
    assert process.returncode == 1 and process.stdout == "" and words in process.stderr
    assert process.stderr.startswith("error: ") and process.stderr.count("\n") == 1
    assert (tree / "writeup/build/numbers.tex").exists() == words.startswith("texlive")
