#!/usr/bin/env python3
"""Build the PDF of the write-up from its LaTeX and the numbers of a finished run.

    python3 writeup/build.py

reads figures/metrics.json, writes its numbers as LaTeX macros to writeup/build/numbers.tex, runs
latexmk in writeup/ and leaves writeup/hw5_problem1.pdf. Only the standard library is needed, any
current directory will do, and the same inputs give the same PDF, byte for byte.
"""

import json
import math
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
FIELDS = {"StudentName": "name", "PennEmail": "Penn email", "Collaborators": "collaborators", "TimeSpent": "time spent"}

USED_ABOVE = 0.1  # nats: a latent counts as used where its mean KL is above


class Failure(Exception):
    """An expected failure, told in one sentence that says what to do."""


def macros(metrics):
    """The numbers that the write-up quotes, as plain text by macro name, from the dictionary of metrics.json.

    Raises KeyError where metrics.json lacks a key.
    """
    settings, results, seconds = metrics["settings"], metrics["results"], metrics["seconds"]
    training, validation, test = (results[name] for name in ("training", "validation", "test"))
    updates, batch = metrics["updates_done"], settings["batch_size"]
    per_latent = results["validation_kl_per_latent"]
    log_p, wrong = results["validation_log_marginal_likelihood"], results["validation_pixels_wrong"]
    gap = training["reconstruction"] - test["reconstruction"]
    values = {
        # Settings
        "Updates": f"{updates:,}",
        "BatchSize": f"{batch:,}",
        "Epochs": f"{updates / math.ceil(training['images'] / batch):.0f}",
        "LearningRate": f"{settings['learning_rate']:g}",
        "WeightDecay": f"{settings['weight_decay']:g}",
        "Seed": f"{settings['seed']}",
        "Samples": f"{settings['samples']}",
        "EncoderParameters": f"{metrics['parameters']['encoder']:,}",
        "DecoderParameters": f"{metrics['parameters']['decoder']:,}",
        "AllParameters": f"{sum(metrics['parameters'].values()):,}",
        # Time and place
        "TrainingSeconds": f"{seconds['training']:.0f}",
        "TotalSeconds": f"{seconds['total']:.0f}",
        "Device": {"cpu": "a CPU", "cuda": "a GPU (CUDA)", "mps": "a GPU (MPS)"}[settings["device"]],
        "System": " ".join(metrics["machine"]["system"].split("-")[:2]),
        "Processors": f"{metrics['machine']['processors']}",
        "Threads": f"{metrics['machine']['threads']}",
        **{name.capitalize() + "Version": metrics["versions"][name] for name in ("python", "torch")},
        # (iii) The two terms
        "LastTrainingReconstruction": f"{results['last_training_reconstruction']:.2f}",
        "LastTrainingKl": f"{results['last_training_kl']:.2f}",
        "LastTrainingElbo": f"{results['last_training_reconstruction'] - results['last_training_kl']:.2f}",
        "SettledReconstruction": f"{results['settled_within_1_nat']['reconstruction']:,}",
        "SettledKl": f"{results['settled_within_1_nat']['kl']:,}",
        "KlPerLatent": ", ".join(f"{kl:.2f}" for kl in per_latent),
        "UsedAbove": f"{USED_ABOVE:g}",
        "LatentsUsed": f"{sum(kl > USED_ABOVE for kl in per_latent)}",
        # (iv) Reconstructions
        "PixelsWrongPercent": f"{100 * wrong:.1f}",
        "PixelsWrongPerImage": f"{196 * wrong:.1f}",
        "ValidationKlBits": f"{validation['kl'] / math.log(2):.1f}",
        # (vi) Log-likelihoods
        "GapTrainingTest": f"{gap:.2f}",
        "GapTrainingTestPercent": f"{100 * abs(gap / test['reconstruction']):.1f}",
        "GapValidationTest": f"{validation['reconstruction'] - test['reconstruction']:.2f}",
        "ElboSamples": f"{results['elbo_samples']:,}",
        "ImportanceSamples": f"{results['importance_samples']:,}",
        "ValidationLogP": f"{log_p:.2f}",
        "LogPAboveElbo": f"{log_p - validation['elbo']:.2f}",
    }
    for name, part in (("Training", training), ("Validation", validation), ("Test", test)):
        values[name + "Images"] = f"{part['images']:,}"
        for term in ("reconstruction", "kl", "elbo"):
            values[name + term.capitalize()] = f"{part[term]:.2f}"
    return values


def latex(name, value):
    """The LaTeX that defines one macro: a true minus sign, no space after the comma of 10,000 in mathematics."""
    escaped = re.sub(r"([#$%&_{}])", r"\\\1", value)
    escaped = re.sub(r"(?<=\d),(?=\d)", "{,}", escaped)
    if escaped.startswith("-"):
        escaped = r"\ensuremath{-}" + escaped[1:]
    return rf"\newcommand{{\{name}}}{{{escaped}}}"


def read_metrics(figures=FIGURES):
    """The dictionary of metrics.json; raises Failure where the run's files are missing or it was cut short."""
    again = "run pennkey_hw5_problem1.py to its end first"
    plots = re.findall(r"problem1_\w+\.pdf", SOURCE.read_text(encoding="utf-8"))
    for name in ("metrics.json", *plots):
        if not (figures / name).is_file():
            raise Failure(f"{figures / name} is missing; {again}")
    try:
        metrics = json.loads((figures / "metrics.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise Failure(f"{figures / 'metrics.json'} is damaged ({error}); {again}") from error
    if metrics.get("stopped") is not None:
        raise Failure(f"the run in {figures} was cut short ({metrics['stopped']}); {again}")
    return metrics


def blank_fields(source):
    """The names of the student's fields that are still empty in the LaTeX `source`."""
    return [label for macro, label in FIELDS.items() if rf"\newcommand{{\{macro}}}{{}}" in source]


def relevant_lines(log):
    """The lines of a LaTeX log that say what went wrong: every error and what follows it, or else its end."""
    lines = log.splitlines()
    errors = [i for i, line in enumerate(lines) if re.match(r"!|\S+\.tex:\d+:", line)]
    chosen = sorted({j for i in errors[:3] for j in range(i, min(i + 6, len(lines)))})
    return "\n".join(lines[i] for i in chosen) if chosen else "\n".join(lines[-15:])


def build():
    """Write numbers.tex and run latexmk; returns the path of the PDF. Raises Failure."""
    metrics = read_metrics()
    try:
        definitions = [latex(name, value) for name, value in macros(metrics).items()]
    except KeyError as error:
        raise Failure(f"{FIGURES / 'metrics.json'} lacks {error}; run pennkey_hw5_problem1.py again") from error
    BUILD.mkdir(exist_ok=True)
    (BUILD / "numbers.tex").write_text("\n".join(definitions) + "\n", encoding="utf-8")
    if not (shutil.which("latexmk") and shutil.which("pdflatex")):
        raise Failure("LaTeX is missing; install texlive-latex-recommended and latexmk (Debian, Ubuntu) or MacTeX (macOS)")

    # No clock, so that the PDF depends on its sources alone; no broken lines in the log, so that they can be searched.
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "0", "FORCE_SOURCE_DATE": "1", "max_print_line": "1000"}
    command = ["latexmk", "-norc", "-g", "-pdf", "-interaction=nonstopmode", "-halt-on-error", "-file-line-error"]
    process = subprocess.run(
        [*command, "-outdir=build", SOURCE.name], cwd=HERE, env=environment,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )
    if process.returncode:
        log = BUILD / f"{SOURCE.stem}.log"
        text = log.read_bytes() if log.is_file() else process.stdout
        raise Failure(f"LaTeX failed; the whole log is {log}.\n" + relevant_lines(text.decode("utf-8", "replace")))
    return Path(shutil.copyfile(BUILD / f"{SOURCE.stem}.pdf", HERE / f"{SOURCE.stem}.pdf"))


def main():
    """Build, and turn expected errors into one sentence each; returns the exit status."""
    try:
        pdf = build()
    except (Failure, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    blank = blank_fields(SOURCE.read_text(encoding="utf-8"))
    if blank:
        print(f"Still to be filled in at the top of {SOURCE}: {', '.join(blank)}.")
    print(pdf)
    return 0


if __name__ == "__main__":
    sys.exit(main())
