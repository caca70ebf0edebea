"""The benchmark, in its smallest form: every table with its rows. What it measures is not judged here."""

import re
import subprocess
import sys

from conftest import ROOT

TABLES = {  # title: the first cell of every row
    "An update at batch 200 and two samples": ["floor", "this program", "the usual in-memory", "the usual PyTorch loop over a DataLoader"],
    "An update of this program against batch size and samples": ["25", "50", "100", "200", "400", "800", "200", "200", "200"],
    "The whole command": ["imports", "data", "figures", "training", "evaluation", "total", "from start to exit", "peak memory"],
    "Seconds of training until a validation ELBO is reached": ["-38", "-37", "-36", "-35", "-34.5"],
    "Where both trainings end": ["this program", "usual recipe"],
    "ELBO over seeds": ["0", "mean"],
}


def test_every_table_has_its_rows(tmp_path):
    options = ["--quick", "--no-plot", "--seconds", "0.2", "--updates", "200", "--seeds", "1", "--output", str(tmp_path / "tables.md")]
    command = [sys.executable, str(ROOT / "tests" / "benchmark.py"), *options]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "tables.md").read_text() == process.stdout.removesuffix("\n")
    assert "Measured on" in process.stdout and "torch" in process.stdout

    printed = process.stdout.split("### ")[1:]
    for (title, names), text in zip(TABLES.items(), printed, strict=True):
        assert text.startswith(title)
        header, _, *rows = ([cell.strip() for cell in line[1:-1].split("|")] for line in text.splitlines() if line.startswith("|"))
        rows = [row for row in rows if "jax" not in row[0]]  # only where it is installed
        assert len(rows) == len(names) and all(row[0].startswith(name) for row, name in zip(rows, names)), text
        for row in rows:
            for column, cell in list(zip(header, row, strict=True))[1:]:
                if cell:  # no ratio where a target was not reached, no time of a mean
                    sign = "-" if "ELBO" in column else ""
                    number = re.fullmatch(rf"(?:not in )?{sign}(\d+(?:\.\d+)?)(?: s| MiB)?", cell)
                    assert number and float(number[1]) > 0, (column, row)
