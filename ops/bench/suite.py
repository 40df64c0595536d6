"""What every bench shares: rounds in turn, lines of the final table, one JSON file per bench.

A bench is a module of this package with a function `run(suite: Suite) -> None`. It measures ours
and its peers in turn, several rounds, on the same input in one run (only such ratios count on a
machine that others use, too), and hands each comparison to `Suite.line`.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from readstates.cache.tablefile import default_cache_dir

from ..local.owner import Owner

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Goal:
    """A bound for the median of the ratios ours / peer; None if the figure is only shown."""

    at_least: float | None = None
    at_most: float | None = None

    def met(self, ratio: float) -> bool | None:
        if self.at_least is None and self.at_most is None:
            return None
        low = self.at_least is None or ratio >= self.at_least
        return low and (self.at_most is None or ratio <= self.at_most)

    def __str__(self) -> str:
        bounds = [f"≥ {self.at_least:g}"] if self.at_least is not None else []
        bounds += [f"≤ {self.at_most:g}"] if self.at_most is not None else []
        return " and ".join(bounds) or "–"


NO_GOAL = Goal()


@dataclass(frozen=True)
class Line:
    """One line of the final table. `ours` and `theirs`: medians with their unit, as text."""

    bench: str
    what: str
    ours: str
    peer: str
    theirs: str
    ratios: tuple[float, ...]  # ours / theirs, one per round
    goal: str
    met: bool | None

    @property
    def ratio(self) -> str:
        low, middle, high = min(self.ratios), statistics.median(self.ratios), max(self.ratios)
        return " – ".join(f"{ratio:.3g}" for ratio in (low, middle, high))


@dataclass
class Suite:
    """The parameter of a bench. `quick`: smaller sizes and fewer rounds."""

    bench: str
    quick: bool
    folder: Path  # for JSON and pictures
    owner: Owner  # of everything that the bench starts, and of its scratch folders
    servers: Owner  # of the servers that benches may share
    say: Callable[[str], None]
    lines: list[Line] = field(default_factory=list)
    measured: dict[str, Any] = field(default_factory=dict)  # into the JSON as it is
    leaves_out: list[str] = field(default_factory=list)

    @property
    def scratch(self) -> Path:
        """A folder for servers, logs and tables; removed at the end."""
        return self.owner.folder

    def memory_folder(self) -> Path:
        """A new folder where the service would have its tables; removed at the end."""
        return self.owner.new_folder(default_cache_dir().parent)

    @property
    def rounds(self) -> int:
        return 1 if self.quick else 3

    def in_turn(
        self, runners: Mapping[str, Callable[[int], float]], rounds: int = 0
    ) -> dict[str, list[float]]:
        """Call each runner once per round, one after another; returns their results by name."""
        results: dict[str, list[float]] = {name: [] for name in runners}
        for number in range(rounds or self.rounds):
            for name, run in runners.items():
                begin = time.monotonic()
                results[name].append(run(number))
                took_s = time.monotonic() - begin
                self.say(
                    f"  round {number + 1}  {name:<24}{results[name][-1]:>14,.4g}  {took_s:.1f} s"
                )
        return results

    def line(
        self,
        what: str,
        ours: Sequence[float],
        peer: str,
        theirs: Sequence[float],
        unit: str,
        goal: Goal = NO_GOAL,
    ) -> Line:
        """Compare ours with a peer by rounds. The goal is for the median ratio ours / theirs."""
        ratios = tuple(a / b for a, b in zip(ours, theirs, strict=True))
        line = Line(
            self.bench,
            what,
            f"{_figure(statistics.median(ours))} {unit}",
            peer,
            f"{_figure(statistics.median(theirs))} {unit}",
            ratios,
            f"{goal} ×" if goal != NO_GOAL else "–",
            goal.met(statistics.median(ratios)),
        )
        return self._add(line)

    def bound(self, what: str, ours: Sequence[float], unit: str, goal: Goal) -> Line:
        """Add a figure of ours that has no peer; the goal is for its median."""
        median = statistics.median(ours)
        text = f"{goal} {unit}" if goal != NO_GOAL else "–"
        line = Line(
            self.bench, what, f"{_figure(median)} {unit}", "–", "–", (), text, goal.met(median)
        )
        return self._add(line)

    def leave_out(self, what: str) -> None:
        """Say what this bench does not measure, or does smaller than its name."""
        self.leaves_out.append(what)

    def _add(self, line: Line) -> Line:
        self.lines.append(line)
        self.say("  " + as_text(line))
        return line

    def write(self, took_s: float) -> None:
        """Write `BENCH.json`: the lines, everything measured, and the machine."""
        self.folder.mkdir(parents=True, exist_ok=True)
        data = {
            "bench": self.bench,
            "quick": self.quick,
            "took_s": round(took_s, 1),
            "machine": machine(),
            "lines": [asdict(line) for line in self.lines],
            "leaves_out": self.leaves_out,
            "measured": self.measured,
        }
        path = self.folder / f"{self.bench}.json"
        path.write_text(json.dumps(data, indent=1) + "\n", "utf-8")


def commit() -> str:
    """The checkout's commit, marked if files differ from it; `unknown` outside of a checkout."""
    argv = ("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*")
    try:
        said = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    except OSError:
        return "unknown"
    return said.stdout.strip() or "unknown"


def machine() -> dict[str, Any]:
    """What was measured, when, and the machine on which it was."""
    cpu = "unknown processor"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [x for x in cpuinfo.read_text("utf-8").splitlines() if x.startswith("model name")]
        cpu = names[0].split(":", 1)[1].strip() if names else cpu
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gib": round(pages * size / 2**30, 1),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "load_average": os.getloadavg()[0],
    }


def as_text(line: Line) -> str:
    """A line for a terminal."""
    met = {None: "", True: " · met", False: " · NOT MET"}[line.met]
    peer = f" · {line.peer} {line.theirs} · ratio {line.ratio}" if line.ratios else ""
    return f"{line.what}: {line.ours}{peer} · goal {line.goal}{met}"


def as_markdown(lines: Sequence[Line]) -> str:
    """The final table, in the form that the README has."""
    rows = [
        "| bench | ours | peer | ratio (min – median – max) | goal | met? |",
        "|---|---|---|---|---|---|",
    ]
    for line in lines:
        met = {None: "–", True: "yes", False: "**no**"}[line.met]
        peer = f"{line.peer} {line.theirs}" if line.ratios else "–"
        ratio = line.ratio if line.ratios else "–"
        rows.append(
            f"| {line.bench}: {line.what} | {line.ours} | {peer} | {ratio} | {line.goal} | {met} |"
        )
    return "\n".join(rows) + "\n"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
