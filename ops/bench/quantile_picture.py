"""Draws latency by quantile as SVG, one panel per rate, readable on light and on dark pages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from .asking import quantile

SHARES = (0.0, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999)
TICKS = {0.0: "min", 0.5: "p50", 0.9: "p90", 0.99: "p99", 0.999: "p99.9"}
INK = "#7d8590"  # text and axes: enough contrast on white and on black
STYLES = (("#2f81f7", "-"), ("#db6d28", "--"), ("#3fb950", ":"))  # told apart without colour, too


def draw(path: Path, title: str, panels: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """`panels`: latencies in seconds by name for each. All decades of the tail are equally wide."""
    import matplotlib as mpl  # type: ignore[import-not-found]  # of the benches, not the project

    mpl.use("svg")
    from matplotlib import pyplot

    mpl.rcParams.update({"svg.fonttype": "none", "text.color": INK, "axes.labelcolor": INK})
    figure, axes = pyplot.subplots(1, len(panels), figsize=(4 * len(panels), 3.6), sharey=True)
    for axis, (name, lines) in zip(axes, panels.items(), strict=True):
        for (label, seconds), (colour, style) in zip(lines.items(), STYLES, strict=False):
            values = [quantile(seconds, share) * 1e3 for share in SHARES]
            axis.plot([_tail(s) for s in SHARES], values, style, color=colour, label=label)
        axis.set(title=name, yscale="log", facecolor="none")
        axis.set_xticks([_tail(share) for share in TICKS], TICKS.values())
        axis.tick_params(colors=INK, which="both")
        axis.grid(color=INK, alpha=0.25, which="both")
        for spine in axis.spines.values():
            spine.set_color(INK)
    axes[0].set_ylabel("ms")
    axes[0].legend(facecolor="none", edgecolor=INK, labelcolor=INK)
    figure.suptitle(title, color=INK)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, transparent=True, metadata={"Date": None})
    pyplot.close(figure)


def _tail(share: float) -> float:
    return -math.log10(1 - share)
