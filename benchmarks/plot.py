# /// script
# requires-python = ">=3.11"
# dependencies = ["matplotlib"]
# ///
"""Draw the peers' tables of README.md as peers.svg.

    uv run benchmarks/plot.py

Rates differ a thousandfold, so the axis is logarithmic.
"""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot as plt

HERE = Path(__file__).parent
TABLES = {
    "Handlers that do nothing:": "messages/s, handlers that do nothing",
    "Handlers of 10 ms, up to 1,000 at once:": "messages/s, handlers of 10 ms, 1,000 at once",
}


def rows(text: str, heading: str) -> list[tuple[str, float]]:
    """The names and rates of the table below a line."""
    table = text.partition(heading)[2].lstrip().partition("\n\n")[0]
    found = []
    for line in table.splitlines()[2:]:
        name, rate = (cell.strip() for cell in line.strip("|").split("|")[:2])
        found.append((re.sub(r", `.*", "", name), float(rate.replace(",", ""))))
    return found


def main() -> None:
    text = (HERE / "README.md").read_text(encoding="utf-8")
    mpl.rcParams["svg.hashsalt"] = "the same file each time"
    figure, axes = plt.subplots(2, 1, figsize=(8, 7), height_ratios=[10, 7])
    for axis, (heading, title) in zip(axes, TABLES.items(), strict=True):
        names, rates = zip(*reversed(rows(text, heading)), strict=True)
        colors = ["#2f6fde" if name.startswith("ours") else "#98a4b5" for name in names]
        bars = axis.barh(names, rates, color=colors)
        axis.bar_label(bars, [f" {rate:,.0f}" for rate in rates], fontsize=8)
        axis.set_xscale("log")
        axis.set_xlim(right=max(rates) * 4)
        axis.set_title(title, loc="left", fontsize=10)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(HERE / "peers.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
