"""Build writeup/hw5_problem1.pdf from its LaTeX and the numbers and plots of a finished run, in figures/.

    python3 writeup/build.py

Needs the standard library and LaTeX; the same inputs give the same PDF, byte for byte.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
FIGURES, BUILD = HERE.parent / "figures", HERE / "build"  # git ignores the second
SOURCE, PDF = HERE / "hw5_problem1.tex", HERE / "hw5_problem1.pdf"
PACKAGES = "texlive-latex-recommended, texlive-science, lmodern and latexmk on Debian, MacTeX on macOS"


def macros(value, name=""):
    r"""LaTeX that defines a macro for every value of metrics.json: results.test.elbo is \ResultsTestElbo."""
    if isinstance(value, dict):
        return "".join(macros(part, name + key.title().replace("_", "")) for key, part in value.items())
    return f"\\newcommand{{\\{name}}}{{{value}}}\n"


def main():
    """Write the numbers, run LaTeX, and name the fields that are still to be filled in."""
    source = SOURCE.read_text(encoding="utf-8")
    for needed in ("metrics.json", *re.findall(r"problem1_\w+\.pdf", source)):
        if not (FIGURES / needed).is_file():
            sys.exit(f"error: {FIGURES / needed} is missing; run the program first")
    metrics = json.loads((FIGURES / "metrics.json").read_text(encoding="utf-8"))
    done, updates = metrics["updates_done"], metrics["settings"]["updates"]
    if done < updates:
        sys.exit(f"error: the run in {FIGURES} was cut short after {done} of {updates} updates; run it again")
    BUILD.mkdir(exist_ok=True)
    (BUILD / "numbers.tex").write_text(macros(metrics), encoding="utf-8")
    if not shutil.which("latexmk"):
        sys.exit(f"error: LaTeX is missing; install {PACKAGES}")
    latex = ["latexmk", "-norc", "-g", "-pdf", "-interaction=nonstopmode", "-halt-on-error", "-outdir=build"]
    process = subprocess.run([*latex, SOURCE.name], cwd=HERE, stdin=subprocess.DEVNULL, capture_output=True)
    if process.returncode:
        log = process.stdout.decode(errors="replace")
        found = re.search(r"^!.*(\n.*){0,5}", log, re.MULTILINE)
        sys.exit(
            f"error: LaTeX failed; if it lacks a file, install {PACKAGES}\n{found.group() if found else log}"
        )
    shutil.copyfile(BUILD / PDF.name, PDF)
    blank = re.findall(r"^\\newcommand\{\\(\w+)\}\{(?:|pennkey)\} +%", source, re.MULTILINE)
    if blank:
        print(f"Still to be filled in at the top of {SOURCE}: {', '.join(blank)}")
    print(PDF)


if __name__ == "__main__":
    main()
