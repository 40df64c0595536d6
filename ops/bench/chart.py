"""Pictures as SVG, readable on a light page and on a dark one: no background, grey letters.

matplotlib comes with the peers; without it a bench says so and draws nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

GREY = "#808890"  # readable on white and on near-black
COLOURS = {"readstates": "#0f9d8a", "readstates, batch": "#5fc9b9"}
OTHERS = ("#c77d1e", "#a05fb5", "#4f83cc", "#a3a53a", "#b5525c")
HATCHES = ("", "", "//", "\\\\", "..", "xx", "--")  # told apart without colour
MARKS = "osD^v"


def _axes(width: float, height: float) -> tuple[Any, Any] | None:
    try:
        matplotlib = importlib.import_module("matplotlib")
    except ImportError:
        return None
    matplotlib.use("svg")
    plt = importlib.import_module("matplotlib.pyplot")
    plt.rcParams.update(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "readstates",
            "font.family": "sans-serif",
            "font.size": 10,
            **{
                f"{what}color": GREY
                for what in ("text.", "axes.label", "axes.edge", "xtick.", "ytick.", "grid.")
            },
            "hatch.color": GREY,
            "hatch.linewidth": 0.5,
        }
    )
    figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, transparent=True, metadata={"Date": None})


def bars(path: Path, groups: Mapping[str, Mapping[str, float]], unit: str, title: str) -> bool:
    """Draw bars side by side, with a colour and a hatch for each name; False if not drawn."""
    made = _axes(9, 4)
    if made is None:
        return False
    figure, axes = made
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    others = [name for name in names if name not in COLOURS]
    left, ticks = 0.0, []
    for group in groups.values():
        begin = left
        for name, value in group.items():
            colour = COLOURS.get(name) or OTHERS[others.index(name) % len(OTHERS)]
            hatch = HATCHES[names.index(name) % len(HATCHES)]
            axes.bar(left, value, 0.9, color=colour, hatch=hatch, label=name)
            axes.annotate(f"{value:,.0f}", (left, value), ha="center", va="bottom", fontsize=8)
            left += 1
        ticks.append((begin + left - 1) / 2)
        left += 1
    axes.set_xticks(ticks, list(groups))
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel(unit)
    axes.set_title(title, fontsize=10)
    handles, labels = axes.get_legend_handles_labels()
    first = {label: handle for handle, label in reversed(list(zip(handles, labels, strict=True)))}
    axes.legend(
        [first[name] for name in names], names, frameon=False, ncols=2, fontsize=8,
        labelcolor=GREY,
    )  # fmt: skip
    _save(figure, path)
    return True


def rows(path: Path, values: Mapping[str, float], unit: str, title: str) -> bool:
    """Draw bars one below another, ours first, each with its figure; False if not drawn."""
    made = _axes(8, 0.9 + 0.28 * len(values))
    if made is None:
        return False
    figure, axes = made
    names = list(values)
    colours = [COLOURS.get(name, OTHERS[2]) for name in names]
    axes.barh(names, list(values.values()), 0.75, color=colours)
    for index, value in enumerate(values.values()):
        axes.annotate(f" {value:,.0f}", (value, index), va="center", fontsize=9)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(unit)
    axes.set_title(title, fontsize=10)
    _save(figure, path)
    return True


def curves(
    path: Path,
    lines: Mapping[str, Sequence[tuple[float, float]]],
    x_label: str,
    unit: str,
    title: str,
) -> bool:
    """Draw curves over a logarithmic x from 0 up, each named at its end; False if not drawn."""
    made = _axes(8, 4)
    if made is None:
        return False
    figure, axes = made
    for index, (name, points) in enumerate(lines.items()):
        xs, ys = zip(*points, strict=True)
        colour = ("#0f9d8a", *OTHERS)[index % 6]
        axes.plot(xs, ys, marker=MARKS[index % len(MARKS)], color=colour)
        axes.annotate(
            f"  {name}", (xs[-1], ys[-1]), color=colour, va="center", fontsize=9,
            annotation_clip=False,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", alpha=0.3)
    axes.set_xlabel(x_label)
    axes.set_ylabel(unit)
    axes.set_title(title, fontsize=10)
    _save(figure, path)
    return True
