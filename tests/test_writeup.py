"""The write-up: its PDF holds the numbers and plots of the committed run and the blanks, and builds again."""

import io
import json
import re
import runpy
import shutil
import subprocess
import sys

import pytest
from conftest import PLOTS, ROOT, committed, environment
from pypdf import PdfReader

SOURCE = committed("writeup/hw5_problem1.tex").decode()
BODY = SOURCE[SOURCE.index(r"\begin{document}") :]
METRICS = json.loads(committed("figures/metrics.json"))
PDF = PdfReader(io.BytesIO(committed("writeup/hw5_problem1.pdf")))


def plain(pdf):
    """A PDF's text without white space, hyphens and the comma of 10,000: lines may break anywhere."""
    return re.sub(r"[\s-]|(?<=\d),(?=\d{3})", "", "".join(page.extract_text() for page in pdf.pages))


def phrases(values):
    """A pattern of every number that the source quotes, with the plain words around it, in order."""
    numbers = {name: f"<{value}>" for name, value in values.items()}
    for name in re.findall(r"\\nats\{-?\\(\w+)", BODY):
        numbers[name] = f"<{float(values[name]):.1f}>".replace("-", "\u2212")
    body = re.sub(rf"\\({'|'.join(values)})\b", lambda name: numbers[name[1]], BODY)
    body = re.sub(r"\\(nats|whole|num|textbf)\b|\\\\|[\s{}&~$-]", "", body.replace("-<\u2212", "<"))
    runs = [run for run in re.split(r"\\[A-Za-z]+|[^A-Za-z\d.,:;()<>+\u2212]", body) if "<" in run]
    return ".*?".join(re.escape(re.sub("[<>]", "", run)) for run in runs)


def test_pdf_quotes_every_number_of_the_run():
    macros, text = runpy.run_path(str(ROOT / "writeup/build.py"))["macros"](METRICS), plain(PDF)
    values = dict(re.findall(r"\\newcommand\{\\(\w+)\}\{(.*)\}\n", macros))
    assert re.search(phrases(values), text)
    for name in values.keys() - {"SettingsUpdates"}:  # instead of which UpdatesDone is quoted
        other = re.sub(r"\w", lambda sign: "1" if sign[0] == "9" else "9", values[name], count=1)
        assert not re.search(phrases({**values, name: other}), text), name
    typed = re.sub(r"\\href\{.*?\}\{.*?\}|\d\.\d+\\linewidth|p\{.*?in\}", "", BODY)
    assert re.findall(r"\d+\.\d+", typed) == ["0.9", "0.999", "135.9"]  # Adam's, and 196 log 2


def test_headings_and_the_very_plots_are_in_order_and_blanks_visible():
    titles = zip(("i", "ii", "iii", "iv", "v", "vi"), re.findall(r"\\subsection\{(.*)\}", BODY), strict=True)
    headings = [re.escape(re.sub("[ -]", "", f"({roman}){title}")) for roman, title in titles]
    assert re.search(".*".join(headings), plain(PDF)) and plain(PDF).count("(fillin)") == 4
    plots, shown = [PdfReader(io.BytesIO(committed(f"figures/{plot}"))).pages[0] for plot in PLOTS], []
    for page in PDF.pages:
        names = re.findall(rb"(/\w+) Do", page.get_contents().get_data())
        shown += [page["/Resources"]["/XObject"][name.decode()].get_data().strip() for name in names]
    assert shown == [plot.get_contents().get_data().strip() for plot in plots] and 3 <= len(PDF.pages) <= 4


@pytest.fixture
def build(tmp_path):
    inputs = ["writeup/build.py", "writeup/hw5_problem1.tex", "figures/metrics.json"]
    for name in [*inputs, *(f"figures/{plot}" for plot in PLOTS)]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(committed(name))
    line, more = [sys.executable, tmp_path / "writeup/build.py"], {"capture_output": True, "text": True}
    return lambda **changes: subprocess.run(line, cwd=tmp_path.parent, env=environment(**changes), **more)


@pytest.mark.skipif(not shutil.which("latexmk"), reason="LaTeX is not installed")
def test_builds_again_the_same(build, tmp_path):
    pdf, tex = tmp_path / "writeup/hw5_problem1.pdf", tmp_path / "writeup/hw5_problem1.tex"
    (first, once), (_, twice) = [(build(), pdf.read_bytes()) for _ in range(2)]
    assert first.stdout.endswith(f": PennKey, StudentName, PennEmail, Collaborators, TimeSpent\n{pdf}\n")
    assert once == twice and plain(PdfReader(pdf)) == plain(PDF)
    tex.write_text(SOURCE.replace(r"\end{document}", "\\nosuchmacro\n\\end{document}"), encoding="utf-8")
    assert "Undefined control sequence" in build().stderr


@pytest.mark.parametrize("fault", ["metrics.json", PLOTS[0], "cut short", "LaTeX"])
def test_fault_is_one_sentence(build, tmp_path, fault):
    (tmp_path / "figures" / fault).unlink(missing_ok=True)
    if fault == "cut short":
        (tmp_path / "figures/metrics.json").write_text(json.dumps({**METRICS, "updates_done": 100}))
    run = build(PATH=tmp_path)
    assert (run.returncode, run.stdout) == (1, "") and re.fullmatch(f"error: .*{fault}.*\n", run.stderr)
    assert (tmp_path / "writeup/build/numbers.tex").exists() == (fault == "LaTeX")  # for Overleaf
