"""Draws a flame graph as SVG: each function as wide as its share of the time, callers below.

The picture needs no script: pointing at a box shows its whole name and its share.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from xml.sax.saxutils import escape

WIDTH = 1600
ROW = 17
MARGIN = 10
TEXT_PX = 6.3  # of a character
LEAST_PX = 0.3  # narrower boxes are left out
COLOURS = ("#f2b880", "#f0a868", "#eeb462", "#f3c58c", "#e89f71", "#f1bf6f")

Stack = tuple[str, ...]


class _Box:
    """A function below certain callers: its time, and what it called."""

    def __init__(self) -> None:
        self.ns = 0
        self.callees: dict[str, _Box] = {}

    @property
    def depth(self) -> int:
        return 1 + max((box.depth for box in self.callees.values()), default=0)


def flame_graph(stacks: Mapping[Stack, int], title: str) -> str:
    """The SVG of CPU times in ns by stack, the outermost function first."""
    root = _Box()
    for stack, ns in stacks.items():
        root.ns += ns
        box = root
        for name in stack:
            box = box.callees.setdefault(name, _Box())
            box.ns += ns
    height = (root.depth + 2) * ROW + 2 * MARGIN
    boxes = "\n".join(_boxes("all", root, MARGIN, 0, root.ns, height))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" font-family="monospace" font-size="11">\n'
        f'<rect width="{WIDTH}" height="{height}" fill="#fffdf8"/>\n'
        f'<text x="{WIDTH / 2:.0f}" y="{MARGIN + 10}" text-anchor="middle" font-size="14">'
        f"{escape(title)}</text>\n{boxes}\n</svg>\n"
    )


def _boxes(name: str, box: _Box, x: float, level: int, all_ns: int, height: int) -> Iterable[str]:
    width = (WIDTH - 2 * MARGIN) * box.ns / all_ns if all_ns else 0.0
    if width < LEAST_PX:
        return
    y = height - MARGIN - (level + 1) * ROW
    colour = COLOURS[sum(name.encode()) % len(COLOURS)]
    share = 100 * box.ns / all_ns
    yield (
        f"<g><title>{escape(name)}: {share:.2f} %, {box.ns / 1e6:,.1f} ms</title>"
        f'<rect x="{x:.2f}" y="{y}" width="{width:.2f}" height="{ROW - 1}" fill="{colour}"/>'
        f"{_label(name, x, y, width)}</g>"
    )
    for callee, below in sorted(box.callees.items()):
        yield from _boxes(callee, below, x, level + 1, all_ns, height)
        x += (WIDTH - 2 * MARGIN) * below.ns / all_ns


def _label(name: str, x: float, y: int, width: float) -> str:
    room = int((width - 4) / TEXT_PX)
    if room < 3:
        return ""
    text = name if len(name) <= room else f"{name[: room - 1]}…"
    return f'<text x="{x + 2:.2f}" y="{y + ROW - 5}">{escape(text)}</text>'
