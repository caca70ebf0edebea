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


def macros(value, name=""):
    r"""LaTeX that defines a macro for every number and word: results.test.elbo is \ResultsTestElbo."""
    if isinstance(value, dict):
        return "".join(macros(part, name + key.title().replace("_", "")) for key, part in value.items())
    return "" if isinstance(value, list) else f"\\newcommand{{\\{name}}}{{{value}}}\n"


def main():
    """Write the numbers, run LaTeX, and name what is still to be filled in or to be read again."""
    source = SOURCE.read_text(encoding="utf-8")
    for needed in ("metrics.json", *re.findall(r"problem1_\w+\.pdf", source)):
        if not (FIGURES / needed).is_file():
            sys.exit(f"error: {FIGURES / needed} is missing; run the program first")
    metrics = json.loads((FIGURES / "metrics.json").read_text(encoding="utf-8"))
    explanations = json.loads((HERE / "explanations.json").read_text(encoding="utf-8"))
    done, settings = metrics["updates_done"], metrics["settings"]
    if done < settings["updates"]:
        sys.exit(f"error: the run in {FIGURES} was cut short after {done} updates; run it again")
    if explanations.pop("settings") != settings:
        sys.exit(f"error: explanations.json is of other settings; run .venv/bin/python {HERE / 'explain.py'}")
    BUILD.mkdir(exist_ok=True)
    (BUILD / "numbers.tex").write_text(macros({**metrics, **explanations}), encoding="utf-8")
    if not shutil.which("latexmk"):
        sys.exit("error: LaTeX is missing; README.md names its packages")
    latex = ["latexmk", "-norc", "-g", "-pdf", "-interaction=nonstopmode", "-halt-on-error", "-outdir=build"]
    process = subprocess.run([*latex, SOURCE.name], cwd=HERE, stdin=subprocess.DEVNULL, capture_output=True)
    if process.returncode:
        log = process.stdout.decode(errors="replace")
        found = re.search(r"^!.*(\n.*){0,5}", log, re.MULTILINE)
        sys.exit(f"error: LaTeX failed; for a missing file README.md names packages\n{(found or [log])[0]}")
    shutil.copyfile(BUILD / PDF.name, PDF)
    lines = [str(number) for number, line in enumerate(source.splitlines(), 1) if r"\run{" in line]
    if settings != json.loads(re.search(r"^% WRITTEN FOR (.*)", source, re.MULTILINE)[1]):
        print(
            f"The text was written for other settings: read \\run{{...}} again, lines {', '.join(lines[1:])}"
        )
    blank = re.findall(r"^\\newcommand\{\\(\w+)\}\{(?:|pennkey)\} +%", source, re.MULTILINE)
    if blank:
        print(f"Still to be filled in at the top of {SOURCE}: {', '.join(blank)}")
    print(PDF)


if __name__ == "__main__":
    main()
