"""Small charts as SVG. Lengths are percentages, so that text keeps its size at any width.

Colours and strokes come from the page's style sheet: a series only names its CSS class. All text is
escaped by `markupsafe`, a dependency of jinja2.
"""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

MOST_POINTS = 400
"""Longer curves are averaged in groups, as a screen cannot show more points."""
RESOLUTION = 1000
"""Size of the coordinate system of a line, which is stretched over the chart."""

Point = tuple[float, float]


class Series(NamedTuple):
    """One line of a chart."""

    css_class: str
    points: Sequence[Point]
    dots: bool = False
    """Mark each point, and show its values on hovering."""


class Bar(NamedTuple):
    """One bar of a histogram, from ``low`` to ``high``."""

    low: float
    high: float
    number: int


def line_chart(
    title: str, x_label: str, series: Sequence[Series], y_ticks_wanted: int = 5
) -> Markup:
    """Lines on common axes. Points that are not finite are skipped; without points it is empty."""
    finite = [
        line._replace(points=[point for point in line.points if all(map(math.isfinite, point))])
        for line in series
    ]
    points = [point for line in finite for point in line.points]
    if not points:
        return Markup()
    x_low, x_high = _range([x for x, _ in points])
    y_ticks = ticks(*_range([y for _, y in points]), y_ticks_wanted)
    across = Scale(x_low, x_high)
    up = Scale(y_ticks[0], y_ticks[-1])
    inner_ticks = [tick for tick in ticks(x_low, x_high) if x_low <= tick <= x_high]
    return _svg(
        title,
        _y_axis(up, y_ticks),
        _x_axis(across, inner_ticks, x_label),
        *(_line(line, across, up) for line in finite),
    )


class Panel(NamedTuple):
    """One of several histograms on the same axes."""

    name: str
    note: str
    chart: Markup


class Sample(NamedTuple):
    """Values for a histogram, and a note for its caption."""

    name: str
    values: Sequence[float]
    note: str


def panels(
    title: str, x_label: str, samples: Sequence[Sample], edges: Sequence[float]
) -> list[Panel]:
    """A histogram for each sample, on the same axes. The last bin includes its upper edge."""
    bars = {sample.name: count(sample.values, edges) for sample in samples}
    highest = max((bar.number for of_sample in bars.values() for bar in of_sample), default=0)
    return [
        Panel(
            sample.name,
            sample.note,
            histogram(
                f"{title}: {sample.name}",
                x_label,
                sample.name,
                bars[sample.name],
                highest,
                statistics.fmean(sample.values),
            ),
        )
        for sample in samples
    ]


def count(values: Sequence[float], edges: Sequence[float]) -> list[Bar]:
    """The number of ``values`` in each bin between neighbouring ``edges``."""
    counts, _ = np.histogram(values, edges)
    return [Bar(*bar) for bar in zip(edges, edges[1:], counts.tolist(), strict=False)]


def histogram(
    title: str, x_label: str, css_class: str, bars: Sequence[Bar], highest: int, mean: float
) -> Markup:
    """Bars with a mark at ``mean``. The axis ends at ``highest`` or a little above it."""
    across = Scale(bars[0].low, bars[-1].high)
    y_ticks = [tick for tick in ticks(0, max(highest, 1), 3) if tick == int(tick)]
    up = Scale(0, y_ticks[-1])
    x_ticks = [tick for tick in ticks(across.low, across.high) if tick <= across.high]
    mark = Markup('<line class="mean" x1="{0:.2f}%" x2="{0:.2f}%" y1="0" y2="100%"/>')
    return _svg(
        title,
        _y_axis(up, y_ticks),
        _x_axis(across, x_ticks, x_label),
        *(_bar(bar, css_class, across, up) for bar in bars if bar.number),
        mark.format(across.percent(mean)),
    )


class Scale(NamedTuple):
    """Maps values to percentages of a chart's width or height."""

    low: float
    high: float

    def percent(self, value: float) -> float:
        return 100 * (value - self.low) / (self.high - self.low)


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """About ``wanted`` multiples of 1, 2 or 5 times a power of ten, which enclose the range
    (Heckbert 1990, "Nice numbers for graph labels")."""
    raw = (high - low) / max(wanted - 1, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(step for step in (power, 2 * power, 5 * power, 10 * power) if step >= 0.75 * raw)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    # Round to the digits of the step, as 3 * 0.1 is not 0.3.
    digits = max(0, -math.floor(math.log10(step)))
    return [round(number * step, digits) for number in range(first, last + 1)]


def tick_label(value: float) -> str:
    """A short number: 0.5, 250, 1.5k, 20k, 3M."""
    for divisor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= divisor:
            return f"{value / divisor:g}{unit}"
    return f"{value:g}"


def thin(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most ``most`` points: the means of neighbouring groups."""
    size = math.ceil(len(points) / most) or 1
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [
        (sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group))
        for group in groups
    ]


def _range(values: Sequence[float]) -> tuple[float, float]:
    """The lowest and the highest value; a wider range if they are equal."""
    low, high = min(values), max(values)
    return (low, high) if low < high else (low - (abs(low) / 2 or 1), high + (abs(high) / 2 or 1))


def _bar(bar: Bar, css_class: str, across: Scale, up: Scale) -> Markup:
    left, right = across.percent(bar.low), across.percent(bar.high)
    return Markup(
        '<rect class="bar {}" x="{:.2f}%" y="{:.2f}%" width="{:.2f}%" height="{:.2f}%">'
        "<title>{} to {}: {}</title></rect>"
    ).format(
        css_class,
        left + 0.06 * (right - left),
        100 - up.percent(bar.number),
        0.88 * (right - left),
        up.percent(bar.number),
        tick_label(bar.low),
        tick_label(bar.high),
        bar.number,
    )


def _svg(title: str, *parts: Markup) -> Markup:
    return Markup('<svg class="chart" role="img"><title>{}</title>{}</svg>').format(
        title, Markup().join(parts)
    )


def _y_axis(scale: Scale, values: Sequence[float]) -> Markup:
    return Markup().join(
        Markup(
            '<line class="grid" x1="0" x2="100%" y1="{0:.2f}%" y2="{0:.2f}%"/>'
            '<text class="y" x="-8" y="{0:.2f}%">{1}</text>'
        ).format(100 - scale.percent(value), tick_label(value))
        for value in values
    )


def _x_axis(scale: Scale, values: Sequence[float], label: str) -> Markup:
    numbers = Markup().join(
        Markup('<text class="x" x="{:.2f}%" y="100%" dy="20">{}</text>').format(
            scale.percent(value), tick_label(value)
        )
        for value in values
    )
    return numbers + Markup('<text class="label" x="100%" y="100%" dy="38">{}</text>').format(label)


def _line(series: Series, across: Scale, up: Scale) -> Markup:
    """A line that stretches with the chart; its stroke and dots do not."""
    unit = RESOLUTION / 100
    drawn = " ".join(
        f"{across.percent(x) * unit:.1f},{RESOLUTION - up.percent(y) * unit:.1f}"
        for x, y in thin(series.points)
    )
    line = Markup(
        '<svg viewBox="0 0 {0} {0}" preserveAspectRatio="none">'
        '<polyline class="line {1}" points="{2}"/></svg>'
    ).format(RESOLUTION, series.css_class, drawn)
    if not series.dots:
        return line
    dot = Markup(
        '<circle class="dot {}" cx="{:.2f}%" cy="{:.2f}%" r="3.5">'
        "<title>{:g}: {:.4g}</title></circle>"
    )
    return line + Markup().join(
        dot.format(series.css_class, across.percent(x), 100 - up.percent(y), x, y)
        for x, y in thin(series.points)
    )
