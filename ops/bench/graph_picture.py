"""The pictures of the graph, as SVG that follows the reader's light or dark theme.

matplotlib is one of the libraries that `peers.sh` installs; nothing else here needs it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

LIGHT_TO_DARK = {
    "#ffffff": "#0d1117",  # the ground
    "#24292f": "#e6edf3",  # text
    "#d0d7de": "#30363d",  # grid
    "#cf222e": "#ff7b72",  # the heap LRU
    "#0969da": "#58a6ff",  # ours
    "#8c959f": "#6e7681",  # the no-op loop
    "#bc4c00": "#f0883e",  # ours without gc.freeze()
}
GROUND, TEXT, GRID, HEAP, OURS, NOOP, UNFROZEN = LIGHT_TO_DARK


class Measured(Protocol):
    """As much of `graph.Curve` as is drawn."""

    def seconds(self) -> list[list[float]]: ...
    def pauses(self) -> list[list[float]]: ...


def write(
    folder: Path,
    curves: Mapping[str, Measured],
    full: Mapping[str, Mapping[int, float]],
    states: int,
) -> None:
    """`graph.svg`, latency over time, and `graph-pauses.svg`, a full collection by size."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "graph.svg").write_text(_latency(curves, states), "utf-8")
    (folder / "graph-pauses.svg").write_text(_collections(full), "utf-8")


def themed(svg: str) -> str:
    """The picture with a style sheet that has each colour's counterpart for dark themes."""
    rules = "".join(
        f'[style*="{what}: {light}"] {{ {what}: {dark} !important }} '
        for light, dark in LIGHT_TO_DARK.items()
        for what in ("fill", "stroke")
    )
    style = f"<style>@media (prefers-color-scheme: dark) {{ {rules}}}</style>"
    head, tag, rest = svg.partition("<defs>")
    return f"{head}{style}\n{tag}{rest}"


def _latency(curves: Mapping[str, Measured], states: int) -> str:
    plot = _matplotlib()
    figure, axes = plot.subplots(figsize=(11, 5))
    first = min(line[0] for curve in curves.values() for line in curve.seconds())
    for name, label, colour in (("heap", "heap LRU", HEAP), ("ours", "this project", OURS)):
        lines = [[line[0] - first, *line[1:]] for line in curves[name].seconds()]
        at = [line[0] for line in lines]
        axes.plot(at, [line[3] for line in lines], color=colour, lw=1.2, label=f"{label}, slowest")
        axes.plot(
            at, [line[2] for line in lines], color=colour, lw=0.8, ls=":", label=f"{label}, p99"
        )
        full = [p for p in curves[name].pauses() if p[1] == 2]
        axes.plot(
            [pause[0] - first for pause in full],
            [1000 * pause[2] for pause in full],
            "v",
            color=colour,
            label=f"{label}, full collections ({len(full)})",
        )
    noop = [[line[0] - first, line[4]] for line in curves["ours"].seconds()]
    axes.plot(*zip(*noop, strict=True), color=NOOP, lw=0.6, zorder=1, label="a no-op loop, slowest")
    axes.set_yscale("log")
    axes.set_ylabel("query latency in each second, ms")
    axes.set_xlabel("time, s")
    axes.set_title(f"{states:,} resident read states: updates, evictions, queries")
    return _finish(figure, axes)


def _collections(full: Mapping[str, Mapping[int, float]]) -> str:
    plot = _matplotlib()
    figure, axes = plot.subplots(figsize=(7, 4.2))
    colours = {"heap LRU": HEAP, "ours, without gc.freeze()": UNFROZEN, "ours": OURS}
    for name, pauses in full.items():
        millions = [states / 1e6 for states in pauses]
        axes.plot(millions, list(pauses.values()), "o-", color=colours[name], label=name)
    axes.set_yscale("log")
    axes.set_ylabel("pause of a full collection, ms")
    axes.set_xlabel("read states, millions")
    axes.set_title("What the collector has to look at")
    return _finish(figure, axes)


def _matplotlib() -> Any:
    import matplotlib as library  # type: ignore[import-not-found]  # not the project's: peers.sh

    library.use("svg")
    library.rcParams.update(
        {
            "axes.edgecolor": GRID,
            "axes.facecolor": GROUND,
            "axes.labelcolor": TEXT,
            "axes.titlecolor": TEXT,
            "figure.facecolor": GROUND,
            "font.size": 11,
            "grid.color": GRID,
            "legend.edgecolor": GRID,
            "legend.facecolor": GROUND,
            "legend.labelcolor": TEXT,
            "savefig.facecolor": GROUND,
            "svg.hashsalt": "read-states",  # the same picture from the same figures
            "text.color": TEXT,
            "xtick.color": TEXT,
            "ytick.color": TEXT,
        }
    )
    from matplotlib import pyplot

    return pyplot


def _finish(figure: Any, axes: Any) -> str:
    axes.grid(True, which="major", lw=0.6)
    axes.set_axisbelow(True)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=9, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False)
    text = io.StringIO()
    figure.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None})
    return themed(text.getvalue())
