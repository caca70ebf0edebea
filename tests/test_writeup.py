"""The write-up: its numbers are those of the run and of explain.py, its plots are the same; it builds."""

import io
import json
import re
import runpy
import shutil

import numpy as np
import pytest
from conftest import PLOTS, ROOT, committed, environment, run_script
from matplotlib.image import imread
from pypdf import PdfReader
from pypdfium2 import PdfDocument

SOURCE = (ROOT / "writeup/hw5_problem1.tex").read_text(encoding="utf-8")
BODY = SOURCE[SOURCE.index(r"\begin{document}") :]
METRICS = json.loads(committed("figures/metrics.json"))
EXPLAINED = json.loads((ROOT / "writeup/explanations.json").read_text())
PDF = PdfReader(ROOT / "writeup/hw5_problem1.pdf")
macros = runpy.run_path(str(ROOT / "writeup/build.py"))["macros"]


def values_of(*results):
    """The text of every LaTeX macro that build.py makes of the results, by its name."""
    return dict(re.findall(r"\\newcommand\{\\(\w+)\}\{(.*)\}\n", "".join(map(macros, results))))


VALUES = values_of(METRICS, EXPLAINED)


def plain(text):
    """Text without white space, hyphens and the comma of 10,000: lines may break anywhere."""
    return re.sub(r"[\s-]|(?<=\d),(?=\d{3})", "", text)


def claims(values):
    """Each number with what the source says before, and after it, up to a LaTeX command."""

    def rounded(found):
        expression = re.sub(r"\\(\w+)", lambda name: values[name[1]], found[2])
        digits = {"whole": 0, "nats": 1, "fine": 2}[found[1]]
        return f"<{eval(expression):.{digits}f}>".replace("-", "\u2212")

    body = re.sub(r"\\(nats|fine|whole)\{([^{}]*)\}", rounded, BODY.replace("$-", "\u2212"))
    body = re.sub(rf"\\({'|'.join(values)})\b", lambda name: f"<{values[name[1]]}>", body)
    body = plain(re.sub(r"\\(run|num|textbf)\b|\\[,\\]|[{}$&~]", "", body).replace("\\%", "%"))
    runs = re.split(r"\\[A-Za-z]+|[^\w.,:;()<>%+=\u2212]", body)
    for part in (re.split("[<>]", run) for run in runs):  # words, number, words, ...
        for n in range(1, len(part), 2):
            yield "".join(part[:n])[-20:] + part[n], part[n] + "".join(part[n + 1 :])[:9]


def missing(text, values):  # neither before a number nor, where a page ends there, after it
    return [sides for sides in claims(values) if not any(side in text for side in sides)]


def check(pdf):
    """The PDF makes the source's claims with the run's numbers, under its headings; returns its text."""
    text = plain("".join(page.extract_text() for page in pdf.pages))
    assert missing(text, VALUES) == [] and len([*claims(VALUES)]) > 40
    titles = zip(("i", "ii", "iii", "iv", "v", "vi"), re.findall(r"\\subsection\{(.*)\}", BODY), strict=True)
    headings = [re.escape(plain(f"({roman}){title}")) for roman, title in titles]
    assert re.search(".*".join(headings), text) and 3 <= len(pdf.pages) <= 5
    return text


def test_pdf_has_every_number_where_its_words_are():
    text = check(PDF)
    assert text.count("(fillin)") == 4
    for name in set(re.findall(r"\\([A-Z]\w+)", BODY)) & VALUES.keys():
        assert missing(text, {**VALUES, name: f"9{VALUES[name]}"}), name


def test_typed_numbers_are_measured_ones():
    """Those of the table of settings, of the plot of (iv), of the samples' log ratios; and constants."""
    decimal = r"\d+\.\d+"
    typed = re.sub(rf"\\href\{{.*?\}}\{{.*?\}}|{decimal}\\linewidth|p\{{.*?in\}}", "", BODY)
    table = re.findall(decimal, (ROOT / "tests/README.md").read_text(encoding="utf-8"))
    plot = PdfReader(io.BytesIO(committed("figures/problem1_iv_reconstructions.pdf"))).pages[0].extract_text()
    constants = {"0.9", "0.999", "135.9", "9.2", "0.25"}  # Adam's; 196 log 2; log 10,000; a ratio
    sample = np.array(EXPLAINED["information"]["samples"]).reshape(5, 8)
    rounded = {f"{abs(value) + 1e-9:.1f}" for value in (sample[2, 4], sample[2, 5], *map(float, table))}
    assert {*re.findall(decimal, typed)} <= {*constants, *rounded, *table, *re.findall(decimal, plot)}
    assert np.argwhere(sample < -9).tolist() == [[3, 1], [3, 4], [3, 7], [4, 1], [4, 6]]
    assert (sample > -0.25).sum() == 7


def test_the_very_plots_are_in_order():
    plots, shown = [PdfReader(io.BytesIO(committed(f"figures/{plot}"))).pages[0] for plot in PLOTS], []
    for page in PDF.pages:
        names = re.findall(rb"(/\w+) Do", page.get_contents().get_data())
        shown += [page["/Resources"]["/XObject"][name.decode()].get_data().strip() for name in names]
    assert shown == [plot.get_contents().get_data().strip() for plot in plots]


def test_picture_of_readme_is_the_plot():
    pdf = PdfDocument(committed("figures/problem1_vi_log_likelihood.pdf"))
    drawn = pdf[0].render(scale=2).to_numpy().astype(float).mean(axis=-1)
    shown = imread(ROOT / "figures/problem1_vi_log_likelihood_1.png")[..., :3].mean(axis=-1)
    assert np.abs(drawn - 255 * shown).mean() < 2  # of 255: another release smooths edges otherwise


@pytest.fixture
def build(tmp_path):
    files = [f"writeup/{name}" for name in ("build.py", "hw5_problem1.tex", "explanations.json")]
    for name in (*files, "figures/metrics.json", *(f"figures/{plot}" for plot in PLOTS)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes() if name in files else committed(name))
    here = {"script": tmp_path / "writeup/build.py", "cwd": tmp_path.parent}
    return lambda **changes: run_script(**here, env=environment(**changes))


@pytest.mark.skipif(not shutil.which("latexmk"), reason="LaTeX is not installed")
def test_builds_again_the_same(build, tmp_path):
    pdf, tex = tmp_path / "writeup/hw5_problem1.pdf", tmp_path / "writeup/hw5_problem1.tex"
    (first, once), (_, twice) = [(build(), pdf.read_bytes()) for _ in range(2)]
    expected = rf"Still .*: PennKey, StudentName, PennEmail, Collaborators, TimeSpent\n{pdf}\n"
    assert re.fullmatch(expected, first.stdout) and once == twice and check(PdfReader(pdf))
    filled = SOURCE.replace(r"\PennEmail}{}", r"\PennEmail}{a_b@upenn.edu}")
    tex.write_text(filled.replace('"seed": 0', '"seed": 1'), encoding="utf-8")
    lines = [n for n, line in enumerate(SOURCE.splitlines(), 1) if r"\run{" in line and "%" not in line]
    assert all(str(line) in build().stdout.splitlines()[0] for line in lines) and len(lines) > 4
    assert "a_b@upenn.edu" in PdfReader(pdf).pages[0].extract_text()
    tex.write_text(SOURCE.replace(r"\end{document}", "\\nosuchmacro\n\\end{document}"), encoding="utf-8")
    assert "Undefined control sequence" in build().stderr


@pytest.mark.parametrize("fault", ["metrics.json", PLOTS[0], "cut short", "explanations.json", "LaTeX"])
def test_fault_is_one_sentence(build, tmp_path, fault):
    (tmp_path / "figures" / fault).unlink(missing_ok=True)
    changes = {"cut short": {"updates_done": 100}, "explanations.json": {"settings": {"updates": 5000}}}
    if fault in changes:
        (tmp_path / "figures/metrics.json").write_text(json.dumps(METRICS | changes[fault]))
    run = build(PATH=tmp_path)
    assert (run.returncode, run.stdout) == (1, "") and re.fullmatch(f"error: .*{fault}.*\n", run.stderr)
    assert (tmp_path / "writeup/build/numbers.tex").exists() == (fault == "LaTeX")  # for Overleaf


def test_causes_are_measured_again():
    """explain.py once more: each cause is seen; its numbers are those committed, up to another rounding."""
    made = runpy.run_path(str(ROOT / "writeup/explain.py"))["measure"](METRICS["settings"])
    peak, ringing = made["peak"], made["ringing"]
    assert peak["common"] > 0.7 * peak["kl"] > 3 * peak["mean_image_common"] and peak["variance"] < 0.1
    assert peak["slow_common"] > 0.7 * peak["slow_kl"] > 5
    assert ringing["deviation_halved"] < ringing["deviation"] / 2
    again = values_of(made)
    for name, value in values_of(EXPLAINED).items():
        if name.startswith(("PeakUpdate", "Likelihood", "CurvesFirst", "CurvesKl", "Information")):
            assert float(again[name]) == pytest.approx(float(value), abs=0.4, rel=0.05), name
