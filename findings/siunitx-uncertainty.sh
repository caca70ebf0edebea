#!/usr/bin/env bash
# One would think: \num[round-mode=uncertainty, round-precision=1]{-33.5123 +- 0.0996} prints -33.5 +- 0.1.
# What is so: siunitx 3.2.0, which Debian 12 and TeX Live 2022 have, prints "-33 +- 10", without a warning: wherever
#   the rounding of the uncertainty carries into a new digit (0.95 to 0.99.. to one digit, 0.995 .. to two) it loses
#   its decimal marker. 0.0949 and 0.1040 come out right, so a table looks right until a standard error begins with 95.
# Who meets it: whoever writes means with standard errors, as Python computed them, into a write-up.
# Source: siunitx issue 646 ("Incorrect rounding of some uncertainty/main value combinations", closed in March 2023).
# Needs pdflatex and siunitx: Debian's texlive-latex-base and texlive-science.
set -euo pipefail
for program in pdflatex kpsewhich; do
  command -v "$program" >/dev/null || { echo "$program is missing: install texlive-latex-base"; exit 2; }
done
kpsewhich siunitx.sty >/dev/null || { echo "siunitx is missing: install texlive-science"; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet pypdf==7.1.1
cat > page.tex <<'TEX'
\documentclass{article}
\usepackage{siunitx}
\sisetup{separate-uncertainty, round-mode=uncertainty, round-precision=1}
\newcommand{\display}[1]{#1 as \num{#1}\par}
\begin{document}
\typeout{SEEN \csname ver@siunitx.sty\endcsname}
\display{-33.5123 +- 0.0949}
\display{-33.5123 +- 0.0996}
\display{-33.5123 +- 0.1040}
\end{document}
TEX
pdflatex -interaction=nonstopmode -halt-on-error page.tex | grep SEEN
cat > read.py <<'PY'
import sys
import pypdf

lines = pypdf.PdfReader("page.pdf").pages[0].extract_text().replace("\u2212", "-").splitlines()
seen = ["".join(line.split(" as ")[1].split()) for line in lines if " as " in line]
print(*zip(("0.0949", "0.0996", "0.1040"), seen), sep="\n")
if seen != ["-33.51\u00b10.09", "-33\u00b110", "-33.5\u00b10.1"]:
    sys.exit("no longer so: siunitx rounds the three otherwise")
print("seen: siunitx prints -33.5123 +- 0.0996 as", seen[1])
PY
venv/bin/python read.py
