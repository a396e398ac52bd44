"""Puts the figures of ``benchmarks/results/`` into docs/performance.md: tables, and the plot.

``python -m benchmarks.page``. What stands between two marks of a benchmark is replaced.
"""

import json
import re
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from benchmarks.measure import RESULTS

PAGE = Path("docs", "performance.md")
PLOT = Path("docs", "images", "tokenization.svg")


def write() -> None:
    """Bring the page and its plot up to date."""
    text = PAGE.read_text(encoding="utf-8")
    for name in re.findall(r"<!-- results: (\w+) -->", text):
        found = RESULTS / f"{name}.json"
        if found.exists():
            table = as_markdown(json.loads(found.read_text(encoding="utf-8")))
            marks = f"<!-- results: {name} -->", f"<!-- end: {name} -->"
            before, rest = text.split(marks[0])
            text = f"{before}{marks[0]}\n{table}\n{marks[1]}{rest.split(marks[1])[1]}"
    PAGE.write_text(text, encoding="utf-8")
    if (RESULTS / "tokenization.json").exists():
        plot(json.loads((RESULTS / "tokenization.json").read_text(encoding="utf-8")))


def as_markdown(found: dict[str, Any]) -> str:
    """The rows of a benchmark as a table, then its other figures and what was checked."""
    lines = [
        "| work | side | a second | spread | ours is faster by | goal |",
        "|---|---|---|---|---|---|",
    ]
    notes = []
    for row in found["rows"]:
        for side, facts in row["sides"].items():
            ratio = "" if facts["ratio"] is None else f"**{facts['ratio']:.2f}×**"
            goal = "" if facts["goal"] is None else f"{facts['goal']}×"
            lines.append(
                f"| {row['work']} | {side} | {_number(facts['median'])} {row['unit']} | "
                f"{_number(facts['low'])} to {_number(facts['high'])} | {ratio} | {goal} |"
            )
        figures = [f"{name}: {_number(value)}" for name, value in row["figures"].items()]
        notes += [f"- {row['work']}: " + "; ".join([*figures, *row["checks"]])]
    machine = found["machine"]
    device = machine.get("gpu") or f"{machine['processor']}, {machine['threads']} threads"
    versions = found["versions"]
    origin = f"{found['date'][:10]}, {device}, torch {versions['torch']}."
    return "\n".join(["", *lines, "", *notes, "", origin, ""])


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def plot(found: dict[str, Any]) -> None:
    """Nanoseconds a byte of text against the size of the corpus, a line a side."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in found["rows"]:
        for side, facts in row["sides"].items():
            size = float(re.search(r"([\d.,]+) MB", row["work"])[1].replace(",", ""))  # type: ignore[index]  # every row names its size
            lines.setdefault(side, []).append((size, 1000 / facts["median"]))
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    for side, points in lines.items():
        axes.plot(*zip(*sorted(points), strict=True), marker="o", label=side)
    axes.set(xscale="log", xlabel="corpus, MB", ylabel="ns a byte of text", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    PLOT.parent.mkdir(exist_ok=True)
    with rc_context({"svg.hashsalt": PLOT.name}):  # the same figures, the same file
        figure.savefig(PLOT, metadata={"Date": None})


if __name__ == "__main__":
    write()
