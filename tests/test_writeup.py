"""The write-up: its PDF holds the numbers of the committed run, every sub-problem and the blanks, and builds again."""

import copy
import importlib.util
import inspect
import json
import re
import shutil
import subprocess
import sys

import pytest
from conftest import COMMITTED, PLOTS, environment
from pypdf import PdfReader

WRITEUP = COMMITTED / "writeup"
TEX, PDF = WRITEUP / "hw5_problem1.tex", WRITEUP / "hw5_problem1.pdf"
needs_latex = pytest.mark.skipif(not (shutil.which("latexmk") and shutil.which("pdflatex")), reason="LaTeX is not installed")


@pytest.fixture(scope="module")
def build():
    """build.py, imported from its file."""
    spec = importlib.util.spec_from_file_location("build", WRITEUP / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def metrics(build):
    return build.read_metrics()


@pytest.fixture(scope="module")
def text():
    """The text of the committed PDF."""
    return pdf_text(PDF)


def pdf_text(path):
    """The text of a PDF with plain minus signs, no ligatures, and one space wherever there is space of any kind."""
    text = "\n".join(page.extract_text() for page in PdfReader(path).pages)
    for sign, plain in (("−", "-"), ("ﬁ", "fi"), ("ﬂ", "fl"), ("ﬀ", "ff"), ("ﬃ", "ffi")):
        text = text.replace(sign, plain)
    return re.sub(r"\s+", " ", text)


def not_printed(values, text):
    """The macros whose value does not stand in `text` as a whole: 4.2 stands neither in 14.2 or 4.25 nor in -4.2."""
    missing = []
    for name, value in values.items():
        loose = r"\s*".join(re.escape(part) for part in re.split(r"(?<=^-)| ", value))
        if not re.search(rf"(?<![\d.,-]){loose}(?!\d|[.,]\d)", text):
            missing.append(name)
    return missing


def leaves(tree, path=()):
    """The path of every number in nested dictionaries and lists."""
    if isinstance(tree, (dict, list)):
        for key, branch in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from leaves(branch, (*path, key))
    elif isinstance(tree, (int, float)):
        yield path


def test_numbers_of_the_pdf_are_those_of_the_run(build, metrics, text):
    assert not_printed(build.macros(metrics), text) == []


def test_all_numbers_of_the_source_are_macros(build, metrics):
    """Every number that build.py offers is quoted, and no decimal is typed into the text but lengths and arXiv's."""
    tex = TEX.read_text(encoding="utf-8")
    body = tex[tex.index(r"\begin{document}") :]
    assert [name for name in build.macros(metrics) if not re.search(rf"\\{name}(?![A-Za-z])", body)] == []
    body = re.sub(r"\\(begin\{tabular\}|href).*", "", body)
    assert re.findall(r"\d+\.\d+(?!\d*\\linewidth)", body) == []


def test_other_numbers_are_noticed(build, metrics, text):
    """Each number of the results, settings, times and sizes, altered alone, is missed in the committed PDF."""
    parts = ("settings", "results", "seconds", "parameters", "machine")
    # Parts of the time but for training are not quoted; updates_done is quoted in place of settings.updates.
    silent = {("settings", "updates")} | {("seconds", part) for part in metrics["seconds"] if part not in ("training", "total")}
    altered = [path for path in leaves(metrics) if path == ("updates_done",) or path[0] in parts and path not in silent]
    assert len(altered) > 30
    for path in altered:
        other = copy.deepcopy(metrics)
        branch = other
        for key in path[:-1]:
            branch = branch[key]
        branch[path[-1]] = branch[path[-1]] * 3 + 77777
        assert not_printed(build.macros(other), text), f"{path} could be anything"


def test_optimizer_in_words_is_that_of_the_script(hw5, text):
    defaults = inspect.signature(hw5.Optimizer).parameters
    beta1, beta2 = defaults["betas"].default
    assert f"β1 = {beta1}, β2 = {beta2}" in text
    assert defaults["eps"].default == 1e-8 and "10-8" in text


def test_pages_and_headings(text):
    pages = [re.sub(r"\s+", " ", page.extract_text()) for page in PdfReader(PDF).pages]
    assert 3 <= len(pages) <= 5
    titles = re.findall(r"\\subsection\{(.*)\}", TEX.read_text(encoding="utf-8"))
    assert len(titles) == 6
    found = [re.search(re.escape(f"({number}) {title}"), text) for number, title in zip(("i", "ii", "iii", "iv", "v", "vi"), titles)]
    assert all(found) and [match.start() for match in found] == sorted(match.start() for match in found)


def test_each_plot_is_on_the_page_of_its_sub_problem():
    """The PDF holds the very drawings of the committed plots, each on the page of its heading and on no other."""
    pages = PdfReader(PDF).pages
    titles = dict(zip(("i", "ii", "iii", "iv", "v", "vi"), re.findall(r"\\subsection\{(.*)\}", TEX.read_text(encoding="utf-8"))))
    for plot in PLOTS:
        number = plot.split("_")[1]
        drawing = PdfReader(COMMITTED / "figures" / plot).pages[0].get_contents().get_data().strip()
        shown = [
            re.sub(r"\s+", " ", page.extract_text())
            for page in pages
            if any(form.get_object().get_data().strip() == drawing for form in page["/Resources"].get("/XObject", {}).values())
        ]
        assert len(shown) == 1 and f"({number}) {titles[number]}" in shown[0], plot


def test_blanks_are_visible_until_filled_in(build, text):
    source = TEX.read_text(encoding="utf-8")
    for label in ("Name:", "Penn email:", "Collaborators (name, Penn email):", "Time spent on Problem 1:"):
        assert label in text
    assert text.count("(fill in)") == len(build.blank_fields(source))
    assert source.index("FILL IN") < 300 and source.index(r"\newcommand{\TimeSpent}") < 1000


@pytest.fixture
def tree(tmp_path):
    """A copy of what the write-up is built from."""
    shutil.copytree(WRITEUP, tmp_path / "writeup", ignore=shutil.ignore_patterns("build", "*.pdf", "__pycache__"))
    shutil.copytree(COMMITTED / "figures", tmp_path / "figures")
    return tmp_path


def run_build(tree, **changes):
    """Run build.py of `tree` from another directory."""
    return subprocess.run(
        [sys.executable, str(tree / "writeup/build.py")],
        cwd=tree.parent, env=environment(**changes), capture_output=True, text=True, timeout=300,
    )


def sentence(process):
    """The one line that a failed build prints."""
    assert process.returncode == 1 and process.stdout == "" and "Traceback" not in process.stderr
    assert process.stderr.startswith("error: ") and process.stderr.count("\n") == 1
    return process.stderr


@needs_latex
def test_builds_again(tree):
    process = run_build(tree)
    assert process.returncode == 0, process.stderr
    pdf = tree / "writeup/hw5_problem1.pdf"
    assert process.stdout.splitlines()[-1] == str(pdf)
    log = (tree / "writeup/build/hw5_problem1.log").read_text(encoding="utf-8", errors="replace")
    assert "undefined" not in log and "multiply defined" not in log
    assert [line for line in re.findall(r"Overfull \\hbox \(([\d.]+)pt", log) if float(line) > 2] == []
    letters = [re.sub(r"[\s-]", "", pdf_text(path)) for path in (pdf, PDF)]  # releases of LaTeX differ in where lines break
    assert letters[0] == letters[1]
    before = pdf.read_bytes()
    assert run_build(tree).returncode == 0 and pdf.read_bytes() == before


@needs_latex
def test_fields_are_printed(tree, build):
    tex = tree / "writeup/hw5_problem1.tex"
    source = tex.read_text(encoding="utf-8")
    blank = [name for name, label in build.FIELDS.items() if label in build.blank_fields(source)]
    for name in blank:
        source = source.replace(rf"\newcommand{{\{name}}}{{}}", rf"\newcommand{{\{name}}}{{Field {name}}}")
    tex.write_text(source, encoding="utf-8")
    process = run_build(tree)
    assert process.returncode == 0 and "filled in" not in process.stdout
    printed = pdf_text(tree / "writeup/hw5_problem1.pdf")
    assert "(fill in)" not in printed
    assert all(f"Field {name}" in printed for name in blank)


@needs_latex
def test_error_of_latex_is_shown(tree):
    tex = tree / "writeup/hw5_problem1.tex"
    tex.write_text(tex.read_text(encoding="utf-8").replace(r"\end{document}", "\\nosuchmacro\n\\end{document}"), encoding="utf-8")
    process = run_build(tree)
    assert process.returncode == 1 and "Undefined control sequence" in process.stderr and "nosuchmacro" in process.stderr
    assert not (tree / "writeup/hw5_problem1.pdf").exists()


def test_without_latex(tree):
    empty = tree / "empty"
    empty.mkdir()
    message = sentence(run_build(tree, PATH=empty))
    assert "texlive-latex-recommended" in message and "latexmk" in message and "MacTeX" in message


@pytest.mark.parametrize("name", ["metrics.json", *PLOTS])
def test_without_a_file_of_the_run(tree, name):
    (tree / "figures" / name).unlink()
    assert name in sentence(run_build(tree))


@pytest.mark.parametrize(
    "content, words",
    [
        (lambda m: json.dumps({**m, "stopped": "interrupted after update 100"}), "was cut short (interrupted after update 100)"),
        (lambda m: json.dumps({name: part for name, part in m.items() if name != "results"}), "lacks 'results'"),
        (lambda m: json.dumps(m)[:100], "is damaged"),
    ],
    ids=["cut short", "lacks a key", "damaged"],
)
def test_with_the_metrics_of_no_finished_run(tree, metrics, content, words):
    (tree / "figures/metrics.json").write_text(content(metrics), encoding="utf-8")
    assert words in sentence(run_build(tree))
