"""Pictures of the benches, as SVG that can be read on a light and on a dark page.

matplotlib is a peer's library, installed with them; without it a bench says so and goes on.
"""

from __future__ import annotations

import re
from typing import Any

from .suite import Suite

BLUE, RED, GREEN, ORANGE = "#1f77b4", "#d62728", "#2ca02c", "#e07b00"
INK = "#808081"  # replaced by the reader's own ink, see `save`
STYLE = (
    "<style>:root { --ink: #24292f } "
    "@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3 } }</style>"
)
INKED = ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color")


def figure(title: str, panels: int, width: float = 11, height: float = 4) -> tuple[Any, Any]:
    """(figure, axes) with `panels` side by side; (None, ()) if matplotlib is missing."""
    import matplotlib  # type: ignore[import-not-found]  # a peer's, not the project's

    matplotlib.use("svg")
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot

    colours = dict.fromkeys((*INKED, "ytick.color"), INK)
    with pyplot.rc_context({**colours, "font.size": 9, "axes.grid": True, "grid.alpha": 0.3}):
        made, axes = pyplot.subplots(1, panels, figsize=(width, height), squeeze=False)
    made.suptitle(title, color=INK, y=1.1)
    for axis in axes[0]:
        axis.set_facecolor("none")
        axis.spines[["top", "right"]].set_visible(False)
    return made, axes[0]


def save(suite: Suite, made: Any, name: str) -> None:
    """Save `NAME.svg` in the report's folder, without a background, in the reader's theme."""
    suite.folder.mkdir(parents=True, exist_ok=True)
    path = suite.folder / f"{name}.svg"
    made.savefig(path, transparent=True, bbox_inches="tight", dpi=150)
    text = path.read_text("utf-8").replace(INK, "var(--ink)")
    text = re.sub(r"(<svg[^>]*>)", rf"\1{STYLE}", text, count=1)
    path.write_text(text, "utf-8")
