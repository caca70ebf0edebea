#!/usr/bin/env bash
# One would think: the text of a vector PDF is what the plot shows: an axis from -50 to -20 reads -50 .. -20.
# What is so: up to matplotlib 3.10 it reads 50 .. 20. The PDF's default fonts (Type 3) have no place for characters
#   above 255, so the minus sign (U+2212), Greek letters and relations are drawn as shapes: seen, but lost to search,
#   copying, screen readers and whatever else reads a PDF's text. matplotlib 3.11 writes them as text, yet
#   mathtext's \mathbb{E} is U+E156 there, a private code that no search for an E finds.
# Who meets it: whoever hands in plots of log-likelihoods, which are negative, to readers that read text.
#   Remedy before 3.11: rcParams["pdf.fonttype"] = 42.
# Source: matplotlib pull request 30512, "pdf: Improve text with characters outside embedded font limits".
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
cat > plot.py <<'PY'
import io
import matplotlib
import pypdf
from matplotlib.figure import Figure

figure = Figure()
axes = figure.subplots()
axes.plot([-50, -20])
axes.set(yticks=[-50, -20], xticks=[], ylabel=r"$\mathbb{E}[\log p(x|z)]$", title="σ ≤ 1")
for fonttype in (3, 42):
    with matplotlib.rc_context({"pdf.fonttype": fonttype}):
        figure.savefig(pdf := io.BytesIO(), format="pdf")
    text = pypdf.PdfReader(pdf).pages[0].extract_text().replace("\u2212", "-")
    print(f"matplotlib {matplotlib.__version__}, fonttype {fonttype}:", ascii(text.split("\n")))
PY
for version in 3.10.9 3.11.2; do
  venv/bin/pip install --quiet matplotlib==$version pypdf==7.1.1
  venv/bin/python plot.py | tee seen-$version
done
grep "fonttype 3:" seen-3.10.9 | grep "'50'" | grep -qv -e "-50" || { echo "no longer so in 3.10.9"; exit 1; }
grep "fonttype 3:" seen-3.11.2 | grep -e "'-50'" | grep -q "ue156\[log" || { echo "no longer so in 3.11.2"; exit 1; }
echo "seen: the ticks -50, -20 are the text 50, 20 in matplotlib 3.10.9 and -50, -20 in 3.11.2, where E is U+E156"
