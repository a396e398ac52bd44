"""Charts are well-formed, and points and bars have the right positions."""

from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2.report.charts import (
    Sample,
    Series,
    count,
    line_chart,
    panels,
    thin,
    tick_label,
    ticks,
)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 8, [0, 2, 4, 6, 8]),
        (2.51, 8.4, [2, 4, 6, 8, 10]),
        (0, 0.03, [0, 0.01, 0.02, 0.03]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]),
        (0, 100000, [0, 20000, 40000, 60000, 80000, 100000]),
    ],
)
def test_ticks_are_the_numbers_that_people_would_choose(low, high, expected):
    assert ticks(low, high) == expected


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 20))
def test_ticks_enclose_the_range_and_are_not_many(low, width, wanted):
    found = ticks(low, low + width, wanted)
    assert found[0] <= low + 1e-6 * width
    assert found[-1] >= low + width - 1e-6 * width
    assert 2 <= len(found) <= 2 * wanted + 2
    assert np.allclose(np.diff(found), found[1] - found[0])


def test_labels_are_short():
    values = (0, 0.5, 250, 1500, 20000, 3e6)
    assert [tick_label(v) for v in values] == ["0", "0.5", "250", "1.5k", "20k", "3M"]


def test_a_line_spans_the_chart_and_dots_have_their_values():
    points = [(0.0, 0.0), (50.0, 8.0), (100.0, 4.0)]
    svg = ElementTree.fromstring(line_chart("Loss", "step", [Series("validation", points, True)]))
    assert svg.get("role") == "img"
    assert svg[0].tag == "title"
    assert svg[0].text == "Loss"
    (line,) = svg.iter("polyline")
    assert line.get("points") == "0.0,1000.0 500.0,0.0 1000.0,500.0"
    dots = [(dot.get("cx"), dot.get("cy"), dot[0].text) for dot in svg.iter("circle")]
    assert dots[1] == ("50.00%", "0.00%", "50: 8")
    labels = [text.text for text in svg.iter("text")]
    assert labels == ["0", "2", "4", "6", "8", "0", "20", "40", "60", "80", "100", "step"]


def test_values_that_are_not_finite_are_skipped_and_an_empty_chart_is_empty():
    nan, inf = float("nan"), float("inf")
    chart = line_chart("t", "x", [Series("a", [(0, 1), (1, nan), (2, inf), (3, 2)])])
    (line,) = ElementTree.fromstring(chart).iter("polyline")
    assert len(line.get("points", "").split()) == 2
    assert not line_chart("t", "x", [Series("a", [(0, nan)])])
    assert not line_chart("t", "x", [])


@pytest.mark.parametrize("points", [[(7, 3)], [(0, 0), (1, 0)], [(0, -2), (1, -2)]])
def test_one_point_and_a_flat_line_are_drawn_inside(points):
    svg = ElementTree.fromstring(line_chart("t", "x", [Series("a", points, dots=True)]))
    for dot in svg.iter("circle"):
        assert 0 <= float(dot.get("cy", "").rstrip("%")) <= 100
        assert 0 <= float(dot.get("cx", "").rstrip("%")) <= 100


def test_a_long_curve_is_averaged():
    points = [(float(x), float(x % 2)) for x in range(100_000)]
    drawn = thin(points)
    assert len(drawn) <= 400
    assert all(y == pytest.approx(0.5) for _, y in drawn)
    assert thin(points[:400]) == points[:400]


def test_histograms_share_their_axes_and_lose_nothing():
    few, many = [0, 5, 10, 100], [55.0] * 40
    edges = range(0, 101, 10)
    assert sum(bar.number for bar in count(few, edges)) == 4
    assert [bar.number for bar in count(few, edges)][:2] == [2, 1]
    assert count(few, edges)[-1].number == 1
    shown = panels("Scores", "score", [Sample("a", few, "n"), Sample("b", many, "n")], edges)
    small, large = (ElementTree.fromstring(panel.chart) for panel in shown)
    assert [t.text for t in small.iter("text")] == [t.text for t in large.iter("text")]
    (bar,) = large.iter("rect")
    assert bar[0].text == "50 to 60: 40"
    assert bar.get("height") == "100.00%"
    (mean,) = (line for line in large.iter("line") if line.get("class") == "mean")
    assert mean.get("x1") == "55.00%"


def test_text_is_escaped():
    chart = line_chart("<script>", "a & b", [Series('"x', [(0, 1), (1, 2)])])
    assert "<script>" not in chart
    assert ElementTree.fromstring(chart)[0].text == "<script>"
