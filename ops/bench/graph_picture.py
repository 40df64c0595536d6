"""The pictures of the graph: latency over time, and a full collection by the table's size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from .picture import BLUE, INK, ORANGE, RED, figure, save
from .suite import Suite

GREY = "#8c959f"  # neither light nor dark
SERIES = {"heap": ("heap LRU", RED), "ours": ("this project", BLUE)}
FULL = {"heap LRU": RED, "ours, without gc.freeze()": ORANGE, "ours": BLUE}


class Measured(Protocol):
    """The part of `graph.Curve` that is drawn."""

    def seconds(self) -> list[list[float]]: ...
    def pauses(self) -> list[list[float]]: ...


def latency(suite: Suite, curves: Mapping[str, Measured], states: int) -> None:
    """`graph.svg`: the slowest query and p99 of each second; full collections are marked."""
    title = f"{states:,} resident read states: updates, evictions, queries"
    made, (axes,) = figure(title, 1, height=4.6)
    first = min(line[0] for curve in curves.values() for line in curve.seconds())
    for name, (label, colour) in SERIES.items():
        lines = curves[name].seconds()
        at = [line[0] - first for line in lines]
        axes.plot(at, [line[3] for line in lines], color=colour, lw=1.2, label=f"{label}, slowest")
        axes.plot(at, [line[2] for line in lines], color=colour, lw=0.8, ls=":", label="… p99")
        full = [pause for pause in curves[name].pauses() if pause[1] == 2]
        axes.plot(
            [pause[0] - first for pause in full],
            [1000 * pause[2] for pause in full],
            "v",
            color=colour,
            label=f"… full collections: {len(full)}",
        )
    lines = curves["ours"].seconds()
    noop = [line[4] for line in lines]
    label = "a no-op loop beside it, slowest"
    axes.plot([line[0] - first for line in lines], noop, color=GREY, lw=0.5, zorder=1, label=label)
    axes.set_ylabel("query latency in each second, ms")
    axes.set_xlabel("time, s")
    _finish(suite, made, axes, "graph")


def collections(suite: Suite, full: Mapping[str, Mapping[int, float]]) -> None:
    """`graph-pauses.svg`: the pause of a full collection, ms, by read states."""
    made, (axes,) = figure("What the collector has to look at", 1, width=7, height=4)
    for name, pauses in full.items():
        millions = [states / 1e6 for states in pauses]
        axes.plot(millions, list(pauses.values()), "o-", color=FULL[name], label=name)
    axes.set_ylabel("pause of a full collection, ms")
    axes.set_xlabel("read states, millions")
    _finish(suite, made, axes, "graph-pauses")


def _finish(suite: Suite, made: Any, axes: Any, name: str) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.14), "frameon": False}
    axes.legend(ncols=3, labelcolor=INK, **below)
    made.suptitle(made.get_suptitle(), color=INK, y=0.96)
    save(suite, made, name)
