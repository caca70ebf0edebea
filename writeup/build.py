#!/usr/bin/env python3
"""Build the PDF of the write-up from its LaTeX and the numbers of a finished run.

    python3 writeup/build.py

reads figures/metrics.json, writes its numbers as LaTeX macros to writeup/build/numbers.tex, runs latexmk in
writeup/ and leaves writeup/hw5_problem1.pdf. Only the standard library is needed, any current directory will
do, and the same inputs give the same PDF, byte for byte.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
FIGURES = HERE.parent / "figures"
SOURCE = HERE / "hw5_problem1.tex"
BUILD = HERE / "build"  # all that LaTeX writes; git ignores it
PACKAGES = (
    "texlive-latex-recommended, texlive-science, latexmk and lmodern (Debian, Ubuntu) or MacTeX (macOS)"
)


def macros(value, name=""):
    """LaTeX that defines a macro for every value of metrics.json, named after its keys.

    results.test.elbo is \\ResultsTestElbo; a list is one macro, with commas. LaTeX does the rounding.
    """
    if isinstance(value, dict):
        return "".join(macros(part, name + key.title().replace("_", "")) for key, part in value.items())
    text = ",".join(map(str, value)) if isinstance(value, list) else value
    return f"\\newcommand{{\\{name}}}{{{text}}}\n"


def read_metrics(source):
    """The contents of metrics.json; exits where it or a plot that `source` shows is not of a finished run."""
    path, again = FIGURES / "metrics.json", "run the program to its end first"
    for needed in (path, *(FIGURES / plot for plot in re.findall(r"problem1_\w+\.pdf", source))):
        if not needed.is_file():
            sys.exit(f"error: {needed} is missing; {again}")
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        done, updates = metrics["updates_done"], metrics["settings"]["updates"]
    except (ValueError, KeyError, TypeError) as error:
        sys.exit(f"error: {path} is damaged ({error!r}); {again}")
    if done < updates:
        sys.exit(f"error: the run in {FIGURES} was cut short after {done} of {updates} updates; {again}")
    return metrics


def run_latex():
    """Run latexmk in writeup/; exits where it is missing or fails, with the lines that say why."""
    if not (shutil.which("latexmk") and shutil.which("pdflatex")):
        sys.exit(f"error: LaTeX is missing; install {PACKAGES}")
    options = ["-norc", "-g", "-pdf", "-interaction=nonstopmode", "-halt-on-error", "-file-line-error"]
    process = subprocess.run(
        ["latexmk", *options, f"-outdir={BUILD.name}", SOURCE.name],
        cwd=HERE,
        env={**os.environ, "max_print_line": "1000"},  # unbroken lines, for the search below
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if process.returncode:
        output = process.stdout.decode("utf-8", "replace")
        found = re.search(r"^(!|\S+:\d+:).*(\n.*){0,5}", output, re.MULTILINE)
        lines = found.group() if found else output[-1500:]
        sys.exit(f"error: LaTeX failed; where it lacks a file, install {PACKAGES}\n{lines}")


def main():
    """Build the PDF, name the fields at the top of the source that are still empty, and print its path."""
    source = SOURCE.read_text(encoding="utf-8")
    metrics = read_metrics(source)
    BUILD.mkdir(exist_ok=True)
    (BUILD / "numbers.tex").write_text(macros(metrics), encoding="utf-8")
    run_latex()
    pdf = shutil.copyfile(BUILD / f"{SOURCE.stem}.pdf", HERE / f"{SOURCE.stem}.pdf")
    blank = re.findall(r"^\\newcommand\{\\(\w+)\}\{(?:|pennkey)\} +%", source, re.MULTILINE)
    if blank:
        print(f"Still to be filled in at the top of {SOURCE}: {', '.join(blank)}")
    print(pdf)


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(f"error: {error}")
