"""The campaign's picture is a whole SVG, in scale, with every fault in it."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest

from readstates.ops.chaos.picture import LEFT, RIGHT, WIDTH, draw, quantiles

SVG = "{http://www.w3.org/2000/svg}"
LATENCIES = [(second + 0.1, 0.01 * (1 + second % 7)) for second in range(100)]
LAG = [(float(second), 100.0 * second) for second in range(100)]
BARS = [("worker killed", 10.0, 12.0, 20.0), ("<zombie>", 50.0, 60.0, 100.0)]


def drawn(**changed: Any) -> ElementTree.Element:
    given: dict[str, Any] = {
        "title": "a & b",
        "latencies": LATENCIES,
        "lag": LAG,
        "bars": BARS,
        **changed,
    }
    return ElementTree.fromstring(draw(**given))


def texts(picture: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in picture.iter(f"{SVG}text")]


def test_words() -> None:
    found = texts(drawn())
    assert found[0] == "a & b"
    for word in ("round trip of queries, ms", "not yet durable, records", "time, s", "<zombie>"):
        assert word in found


def test_faults_stand_where_they_were() -> None:
    rects = [r.attrib for r in drawn().iter(f"{SVG}rect") if r.get("class") in ("hand", "well")]
    scale = (WIDTH - LEFT - RIGHT) / 100
    places = [((float(r["x"]) - LEFT) / scale, float(r["width"]) / scale) for r in rects]
    expected = [(10, 2), (12, 8), (50, 10), (60, 40)]
    assert places == [pytest.approx(place, abs=0.2) for place in expected]


def test_lines_rise_with_the_values() -> None:
    (lag,) = (line for line in drawn().iter(f"{SVG}polyline") if line.get("class") == "lag")
    points = [tuple(map(float, point.split(","))) for point in lag.attrib["points"].split()]
    assert points == sorted(points, key=lambda point: (point[0], -point[1]))
    assert points[0][1] > points[-1][1]  # y grows downwards


def test_a_gap_breaks_the_line() -> None:
    with_gap = [sample for sample in LATENCIES if not 30 < sample[0] < 60]
    lines = drawn(latencies=with_gap).iter(f"{SVG}polyline")
    assert [line.get("class") for line in lines] == ["p50", "p50", "p99", "p99", "lag"]


def test_nothing_to_draw() -> None:
    assert texts(drawn(latencies=[], lag=[], bars=[]))


def test_quantiles_of_each_second() -> None:
    samples = [(3.5, float(value)) for value in range(100)] + [(4.2, 7.0)]
    assert quantiles(samples, (0.5, 0.99)) == [[(3.5, 50.0), (4.5, 7.0)], [(3.5, 99.0), (4.5, 7.0)]]
