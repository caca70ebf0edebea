"""Build hw5_problem1.pdf beside this file, with LaTeX, by the run in ../figures/; standard library only."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
METRICS, SOURCE = HERE.parent / "figures/metrics.json", HERE / "hw5_problem1.tex"


def macros(value, name):
    r"""LaTeX that defines a macro for each value: results.test.elbo of the run is \RunResultsTestElbo."""
    if isinstance(value, list):  # of the seeds
        value = {"least": value[0], "most": value[1]}
    if isinstance(value, dict):
        return "".join(macros(part, name + key.title().replace("_", "")) for key, part in value.items())
    text = "".join(c if c.isalnum() or c in " +-.,:=" else f"\\char{ord(c)} " for c in str(value))
    return f"\\def\\{name}{{{text}}}\n" if re.fullmatch("[A-Za-z]+", name) else ""  # TeX has no others


def main():
    """Write results.def, run LaTeX, and name the fields that are still empty."""
    source = SOURCE.read_text("utf-8")
    for needed in ("metrics.json", *re.findall(r"problem1_\w+\.pdf", source)):
        if not (path := METRICS.with_name(needed)).is_file():
            sys.exit(f"error: {path} is missing; run the program first")
    run, seeds = (json.loads(path.read_text("utf-8")) for path in (METRICS, HERE / "experiments.json"))
    mine, default = (of["constants"] | of["settings"] | {"seed": 0, "device": 0} for of in (run, seeds))
    differs = [f"{name} = {mine.get(name)}" for name in mine | default if mine.get(name) != default.get(name)]
    numbers = macros(run | {"differs": ", ".join(differs)}, "Run") + macros(seeds, "Seeds")
    (HERE / "results.def").write_text(numbers, "utf-8")
    if not shutil.which("latexmk"):
        sys.exit("error: LaTeX is missing; README.md names its packages")
    SOURCE.with_suffix(".pdf").unlink(missing_ok=True)  # so that no older one is handed in
    latex = ["latexmk", "-norc", "-g", "-pdf", "-interaction=nonstopmode", "-halt-on-error", "-outdir=build"]
    done = subprocess.run([*latex, SOURCE.name], cwd=HERE, stdin=subprocess.DEVNULL, capture_output=True)
    if done.returncode:
        fault = re.search(rb"^!.*(\n.*){0,5}", done.stdout, re.MULTILINE) or [done.stdout]
        advice = "a package of README.md is missing, or in a field a % & # lacks its \\"
        sys.exit(f"error: LaTeX failed: {advice}?\n{fault[0].decode(errors='replace')}")
    blank = re.findall(r"^\\newcommand\{\\(\w+)\}\{\} +%", source, re.MULTILINE)
    pdf = shutil.copyfile(HERE / "build/hw5_problem1.pdf", SOURCE.with_suffix(".pdf"))
    print(f"{pdf}\nstill empty at the top of its source: {', '.join(blank) or 'nothing'}")


if __name__ == "__main__":
    main()
