"""Puts the figures of ``benchmarks/results/`` into docs/performance.md: tables, and two pictures.

``python -m benchmarks.page``. What stands between two marks of a benchmark is replaced. The same
results make the same page and pictures, byte for byte.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from benchmarks.measure import RESULTS

PAGE = Path("docs", "performance.md")
IMAGES = Path("docs", "images")
MARKS = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- end: \2 -->)", re.DOTALL)
FIGURES: Mapping[str, Sequence[str]] = {
    "training_step": (
        "share of the rate of one large matrix product",
        "faster than nanoGPT by",
        "faster than Trainer by",
        "peak memory of ours",
        "peak memory of nanoGPT",
        "peak memory of Trainer",
    ),
    "under_load": ("share of the quiet rate",),
    "optimizer": (
        "validation loss of Muon at the end",
        "part of the tokens that Muon needed",
        "step of AdamW, ms",
        "step of Muon, ms",
    ),
    "generation": ("memory_bandwidth", "floor_ms_per_step", "share_of_floor_reached"),
    "tokenization": ("ours, ns per token", "ours, growth of anonymous memory"),
    "windows": ("ours, microseconds per batch", "share of that step"),
}
"""What else a benchmark found and the page shows, by the beginnings of the figures' names. Figures
that have a goal are shown anyway."""
GOAL = ", goal "
"""Between the name of a figure and what it is meant to be."""

Found = Mapping[str, Any]
"""A file of results, as `benchmarks.measure.record` writes it."""
Row = Mapping[str, Any]
"""One of its rows."""


class Point(NamedTuple):
    """A ratio of the picture."""

    work: str
    kind: str
    ratio: float
    goal: float


def write(page: Path = PAGE, results: Path = RESULTS, images: Path = IMAGES) -> None:
    """Bring the page and its pictures up to date."""
    text = page.read_text(encoding="utf-8")
    names = [name for _, name, _ in MARKS.findall(text)]
    found = {name: read(results, name) for name in names}

    def replaced(match: re.Match[str]) -> str:
        return f"{match[1]}\n{as_markdown(found[match[2]])}\n\n{match[3]}"

    page.write_text(MARKS.sub(replaced, text), encoding="utf-8")
    images.mkdir(exist_ok=True)
    if points := [point for name in names for point in ratios(found[name].values())]:
        height = 0.9 + 0.28 * len(works(points))
        save(images / "ratios.svg", (8, height), lambda axes: draw_ratios(axes, points))
    if corpora := found.get("tokenization"):
        rows = next(iter(corpora.values()))["rows"]  # alike on all processors
        save(images / "tokenization.svg", (6, 3.5), lambda axes: draw_tokenization(axes, rows))


def read(results: Path, name: str) -> dict[str, Found]:
    """The results of a benchmark by kind of processor."""
    files = sorted(results.glob(f"*/{name}.json"))
    return {file.parent.name: json.loads(file.read_text(encoding="utf-8")) for file in files}


def as_markdown(found: Mapping[str, Found]) -> str:
    """For each kind of processor: where it was measured, the table, its footnote, and tables of
    other figures."""
    parts = []
    for kind, one in found.items():
        wide, narrow = figures(one["rows"], FIGURES.get(one["benchmark"], ())), limits(one["rows"])
        parts += [origin(kind, one), table(one["rows"]), footnote(one["rows"]), wide, narrow]
    return "\n\n".join(filter(None, parts)) or "Not measured yet."


def origin(kind: str, found: Found) -> str:
    """On which machine, with what, and when."""
    machine = found["machine"]
    device = machine.get("gpu") or f"{machine['processor']}, {machine['threads']} threads"
    imitated = f", held to {kind}" if machine["imitated_by"] else ""
    torch = found["versions"]["torch"]
    return f"**{kind}**: {device}{imitated}, torch {torch}, {found['date'][:10]}"


def table(rows: Sequence[Row]) -> str:
    """A line for each work and peer; bold is a ratio that reaches its goal."""
    lines = []
    for row in rows:
        (name, ours), *others = row["sides"].items()
        for peer, facts in others:
            ratio, goal = f"{facts['ratio']:.2f}×", ""
            if facts["goal"] is not None:
                goal = f"{facts['goal']:g}×"
                ratio = f"**{ratio}**" if facts["ratio"] >= facts["goal"] else ratio
            named = name == "ours" or name in row["work"]
            speed = _speed(row, ours) if named else f"{name}: {_speed(row, ours)}"
            lines.append((row["work"], speed, f"{peer}: {_speed(row, facts)}", ratio, goal))
    return _table(("work", "ours", "peer", "ratio", "goal"), lines)


def footnote(rows: Sequence[Row]) -> str:
    """How far rounds were from the medians, and what was found to be the same on all sides."""
    ours, others = list[Row](), list[Row]()
    for row in rows:
        first, *rest = row["sides"].values()
        ours.append(first)
        others += rest
    counts = sorted({len(side["seconds"]) for side in ours})
    most = counts[-1]
    rounds = f"{counts[0]} to {most}" if len(counts) > 1 else f"{most}"
    notes = [f"{rounds} round{'s' if most > 1 else ''}."]
    if most > 1:
        notes = [f"Medians of {notes[0]} Spread: ours {_spread(ours)}, peers {_spread(others)}."]
    checks = "; ".join(dict.fromkeys(check for row in rows for check in row["checks"]))
    notes += [f"Checked: {checks}."] if checks else []
    return f"<sub>{' '.join(notes)}</sub>"


def figures(rows: Sequence[Row], shown: Sequence[str]) -> str:
    """A column for each figure whose name begins as one of ``shown``; "" if there is none."""
    found = [{name.partition(GOAL)[0]: v for name, v in row["figures"].items()} for row in rows]
    names = dict.fromkeys(name for row in found for name in row)
    columns = [name for start in shown for name in names if name.startswith(start)]
    lines = [
        (row["work"], *(_number(values[name]) if name in values else "" for name in columns))
        for row, values in zip(rows, found, strict=True)
        if values.keys() & set(columns)
    ]
    return _table(("work", *(name.replace("_", " ") for name in columns)), lines)


def limits(rows: Sequence[Row]) -> str:
    """A line for each figure that has a goal of its own; "" if there is none."""
    lines = []
    for row in rows:
        for name, value in row["figures"].items():
            figure, mark, goal = name.partition(GOAL)
            if mark:
                lines.append((row["work"], figure, _number(value), goal))
    return _table(("work", "figure", "found", "goal"), lines)


def ratios(found: Iterable[Found]) -> Iterator[Point]:
    """The ratios of a benchmark that have a goal."""
    for one in found:
        for row in one["rows"]:
            for peer, facts in row["sides"].items():
                if facts["goal"] is not None:
                    # What follows a comma is the peer's number format, of which the kinds differ.
                    work = f"{row['work']} / {peer.partition(',')[0]}"
                    yield Point(work, one["machine"]["kind"], facts["ratio"], facts["goal"])


def works(points: Iterable[Point]) -> list[str]:
    """The lines of the picture of ratios, from above."""
    return list(dict.fromkeys(point.work for point in points))


def draw_ratios(axes: Axes, points: Sequence[Point]) -> None:
    """A dot for each ratio, full where it reaches its goal, which is a stroke."""
    lines, kinds = works(points), sorted({point.kind for point in points})
    for number, kind in enumerate(kinds):
        colour, shift = f"C{number}", 0.36 * ((number + 0.5) / len(kinds) - 0.5)
        for point in (point for point in points if point.kind == kind):
            y = lines.index(point.work) + shift
            axes.plot([point.goal, point.ratio], [y, y], color=colour, alpha=0.4, linewidth=1)
            axes.plot(point.goal, y, "|", color=colour, markersize=7, markeredgewidth=1.5)
            face = colour if point.ratio >= point.goal else "white"
            axes.plot(point.ratio, y, "o", color=colour, markerfacecolor=face, markersize=5)
        axes.plot([], [], "o", color=colour, label=kind)
    axes.plot([], [], "o", color="grey", markerfacecolor="white", label="below its goal")
    axes.plot([], [], "|", color="grey", markersize=7, markeredgewidth=1.5, label="goal")
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.set(xscale="log", xlabel="times as fast as the peer", ylim=(len(lines) - 0.4, -0.6))
    axes.set_xticks([0.5, 1, 2, 3, 5, 10, 20, 40])
    axes.minorticks_off()
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}×"))
    axes.set_yticks(range(len(lines)), lines, fontsize=8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0)
    axes.figure.legend(loc="outside upper center", ncols=len(kinds) + 2, frameon=False, fontsize=8)


def draw_tokenization(axes: Axes, rows: Sequence[Row]) -> None:
    """Nanoseconds a byte of text against the size of the corpus, a line a side."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for side, facts in row["sides"].items():
            point = row["figures"]["corpus, MB"], 1000 / facts["median"]
            lines.setdefault(side, []).append(point)
    for side, points in lines.items():
        axes.plot(*zip(*sorted(points), strict=True), marker="o", label=side)
    axes.set(xscale="log", xlabel="corpus, MB", ylabel="ns a byte of text", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()


def save(path: Path, size: tuple[float, float], draw: Callable[[Axes], None]) -> None:
    """Draw a picture of ``size`` inches."""
    with rc_context({"svg.hashsalt": path.name}):  # the same figures, the same file
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots())
        figure.savefig(path, metadata={"Date": None})


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    marked = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in marked) if lines else ""


def _speed(row: Row, side: Row) -> str:
    if row["amount"] == 1:  # of what is done once, the seconds say more
        return f"{_number(1 / side['median'])} s"
    return f"{_number(side['median'])} {row['unit']}/s"


def _spread(sides: Sequence[Row]) -> str:
    low = min(side["low"] / side["median"] for side in sides)
    high = max(side["high"] / side["median"] for side in sides)
    return f"−{100 * (1 - low):.0f} % to +{100 * (high - 1):.0f} %"


def _number(value: float) -> str:
    if abs(value) >= 1e6:
        return f"{value / 1e6:.3g} million"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    write()
