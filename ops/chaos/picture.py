"""The campaign as a picture: latency, lag and faults over one axis of time, as SVG.

No library: rectangles, lines and text. Colours follow the reader's light or dark theme.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from xml.sax.saxutils import escape

Point = tuple[float, float]
Bar = tuple[str, float, float, float]  # kind, begin, hand off again, all well again; seconds

WIDTH, LEFT, RIGHT, TOP = 1200, 150, 20, 50
PANEL, GAP, ROW, FOOT = 190, 46, 18, 46
STYLE = """
  svg { background: #ffffff; font: 12px system-ui, sans-serif; }
  text { fill: #24292f; } .title { font-size: 16px; font-weight: 600; }
  .grid { stroke: #d0d7de; stroke-width: 1; } .p50 { stroke: #0969da; } .p99 { stroke: #cf222e; }
  .lag { stroke: #1a7f37; } polyline { fill: none; stroke-width: 1.3; }
  .hand { fill: #bc4c00; } .well { fill: #bc4c00; opacity: 0.3; }
  .key50 { fill: #0969da; } .key99 { fill: #cf222e; }
  @media (prefers-color-scheme: dark) {
    svg { background: #0d1117; } text { fill: #e6edf3; } .grid { stroke: #30363d; }
    .p50 { stroke: #58a6ff; } .p99 { stroke: #ff7b72; } .lag { stroke: #3fb950; }
    .hand { fill: #f0883e; } .well { fill: #f0883e; }
    .key50 { fill: #58a6ff; } .key99 { fill: #ff7b72; }
  }
"""


def quantiles(samples: Iterable[Point], shares: Sequence[float]) -> list[list[Point]]:
    """For each share a line of (second, quantile of that second's samples)."""
    by_second: dict[int, list[float]] = defaultdict(list)
    for at, value in samples:
        by_second[int(at)].append(value)
    lines: list[list[Point]] = [[] for _ in shares]
    for second, values in sorted(by_second.items()):
        values.sort()
        for line, share in zip(lines, shares, strict=True):
            line.append((second + 0.5, values[min(len(values) - 1, int(share * len(values)))]))
    return lines


def draw(title: str, latencies: Iterable[Point], lag: Sequence[Point], bars: Sequence[Bar]) -> str:
    """The picture. Latencies as (second sent, seconds it took); lag as (second, records)."""
    latencies = list(latencies)
    end = max([t for t, _ in latencies] + [t for t, _ in lag] + [b[3] for b in bars] + [1.0])
    rows = list(dict.fromkeys(kind for kind, *_ in sorted(bars, key=lambda bar: bar[1])))
    lag_top, faults_top = TOP + PANEL + GAP, TOP + 2 * (PANEL + GAP)
    height = faults_top + ROW * len(rows) + FOOT
    p50, p99 = quantiles(((t, 1000 * s) for t, s in latencies), (0.5, 0.99))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>{escape(title)}</title><style>{STYLE}</style>",
        f'<text class="title" x="{LEFT}" y="20">{escape(title)}</text>',
        *_panel("round trip of queries, ms", TOP, _decades(p50 + p99), end, logarithmic=True),
        *_key(TOP),
        *_line("p50", p50, TOP, _decades(p50 + p99), end, logarithmic=True),
        *_line("p99", p99, TOP, _decades(p50 + p99), end, logarithmic=True),
        *_panel("not yet durable, records", lag_top, _steps(lag), end),
        *_line("lag", lag, lag_top, _steps(lag), end),
        *_faults(rows, bars, faults_top, end),
        *_time_axis(faults_top + ROW * len(rows), end),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _x(at: float, end: float) -> float:
    return round(LEFT + (WIDTH - LEFT - RIGHT) * min(max(at, 0), end) / end, 1)


def _y(value: float, top: float, ticks: Sequence[float], logarithmic: bool) -> float:
    low, high = ticks[0], ticks[-1]
    value = min(max(value, low), high)
    if logarithmic:
        low, high, value = math.log10(low), math.log10(high), math.log10(value)
    return round(top + PANEL * (1 - (value - low) / (high - low)), 1)


def _decades(line: Sequence[Point]) -> list[float]:
    """Ticks of a logarithmic axis: powers of ten around the values."""
    values = [value for _, value in line if value > 0] or [1.0]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return [10.0**power for power in range(low, max(high, low + 1) + 1)]


def _steps(line: Sequence[Point]) -> list[float]:
    """Ticks of a linear axis from 0: four or five round steps."""
    largest = max([value for _, value in line] + [1])
    power = 10.0 ** math.floor(math.log10(largest / 4)) if largest > 4 else 1.0
    step = next(power * f for f in (1, 2, 5, 10) if power * f * 5 >= largest)
    return [step * n for n in range(math.ceil(largest / step) + 1)]


def _panel(
    label: str, top: float, ticks: Sequence[float], end: float, logarithmic: bool = False
) -> list[str]:
    parts = [f'<text x="{LEFT}" y="{top - 8}">{label}</text>']
    for tick in ticks:
        y = _y(tick, top, ticks, logarithmic)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{tick:,g}</text>')
    return parts


def _key(top: float) -> list[str]:
    parts = []
    for place, name in enumerate(("p50", "p99")):
        x = LEFT + 180 + 70 * place
        parts.append(f'<rect class="key{name[1:]}" x="{x}" y="{top - 14}" width="14" height="4"/>')
        parts.append(f'<text x="{x + 20}" y="{top - 8}">{name}</text>')
    return parts


def _line(
    name: str,
    line: Sequence[Point],
    top: float,
    ticks: Sequence[float],
    end: float,
    logarithmic: bool = False,
) -> list[str]:
    """A line that is broken where there is no value for some seconds."""
    pieces: list[list[Point]] = []
    for point in line:
        if not pieces or point[0] - pieces[-1][-1][0] > 2.5:
            pieces.append([])
        pieces[-1].append(point)
    return [
        f'<polyline class="{name}" points="'
        + " ".join(f"{_x(t, end)},{_y(v, top, ticks, logarithmic)}" for t, v in piece)
        + '"/>'
        for piece in pieces
    ]


def _faults(rows: Sequence[str], bars: Sequence[Bar], top: float, end: float) -> list[str]:
    parts = [
        f'<text x="{LEFT}" y="{top - 8}">faults: solid while the hand is on, pale until all is '
        "well again</text>"
    ]
    for place, kind in enumerate(rows):
        y = top + ROW * place
        parts.append(
            f'<text x="{LEFT - 8}" y="{y + 13}" text-anchor="end">{escape(kind)}</text>'
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y + ROW}" y2="{y + ROW}"/>'
        )
        for _, begin, off, well in (bar for bar in bars if bar[0] == kind):
            for name, start, stop in (("hand", begin, off), ("well", off, well)):
                x, width = _x(start, end), max(0.0, _x(stop, end) - _x(start, end))
                if name == "hand":
                    width = max(width, 2.0)
                parts.append(
                    f'<rect class="{name}" x="{x}" y="{y + 3}" width="{width:.1f}" '
                    f'height="{ROW - 6}"/>'
                )
    return parts


def _time_axis(top: float, end: float) -> list[str]:
    parts = [f'<text x="{(LEFT + WIDTH) / 2}" y="{top + 38}">time, s</text>']
    for tick in _steps([(0.0, end)]):
        if tick <= end:
            x = _x(tick, end)
            parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP}" y2="{top + 4}"/>')
            parts.append(f'<text x="{x}" y="{top + 20}" text-anchor="middle">{tick:,g}</text>')
    return parts
