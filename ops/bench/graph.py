"""The graph: latency over time with 8,000,000 resident read states, ours and a heap LRU.

    make bench BENCHES=graph

Ours is the service's code on its table, and the peer is the same code on `heap_table.HeapTable`;
`graph_curve.py` describes their input. They are two processes pinned to the same core, and take
turns of ten seconds, each of them first in every other round, until each has had ten minutes
(quick: 500,000 read states, two turns of five seconds). So a disturbance by the machine that lasts
a minute affects both curves. Running both at once would not be fair: the collector's walk over two
gigabytes takes memory bandwidth and cache from the other process. The no-op loop runs in the same
process, on the same core, whenever the service leaves time, so it suffers the same disturbances.

The full form takes about 24 minutes: twenty for the curves, the rest to fill three tables.

The graph can fail: the heap LRU must show its spikes. A third process shows what a full collection
of ours costs without `gc.freeze()`. Other graphs: `python -m readstates.ops.bench.graph --help`.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

from readstates.cache.tablefile import SHM

from ..local.owner import Owner, command
from . import graph_picture
from .suite import NO_GOAL, Goal, Suite

STATES, QUICK_STATES = 8_000_000, 500_000
SECONDS, QUICK_SECONDS = 600, 10
TURN_S, QUICK_TURN_S = 10, 5
WARM_UP_S, QUICK_WARM_UP_S = 5, 1
FLUSH_DELAY_S, QUICK_FLUSH_DELAY_S = 30, 2
CALM_MS = 1  # if a no-op takes longer, the machine held it up
SPIKE_MS = 100  # the heap LRU must show at least this, or the graph shows nothing
OURS, HEAP = "ours", "heap"


class Curve:
    """A process that runs one curve, and its answers."""

    def __init__(
        self, owner: Owner, kind: str, freeze: str, states: int, quick: bool = False
    ) -> None:
        flush_delay_s = QUICK_FLUSH_DELAY_S if quick else FLUSH_DELAY_S
        arguments = [kind, freeze, str(states), str(flush_delay_s), _core()]
        arguments.append(str(owner.new_folder(SHM if os.access(SHM, os.W_OK) else None)))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "readstates.ops.bench.graph_curve", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.turns: list[dict[str, Any]] = []
        self.filled: dict[str, Any] = {}

    def order(self, what: str) -> dict[str, Any]:
        """Send an order, and wait for the answer."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(what + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise click.ClickException(f"the curve ended with {process.wait()} at: {what}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def fill(self) -> None:
        self.filled = self.order("fill")

    def close(self) -> None:
        """End the process; its table goes with it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    # -- what was measured --------------------------------------------------------------------

    def seconds(self) -> list[list[float]]:
        """The seconds of all turns, one after another; those of the warm-up are below 0."""
        return [line for turn in self.turns for line in turn["seconds"]]

    def pauses(self) -> list[list[float]]:
        """Collector pauses over a fifth of a millisecond: at, generation, seconds."""
        return [pause for turn in self.turns for pause in turn["pauses"]]

    def longest_pause_ms(self) -> float:
        return max((1000 * pause[2] for pause in self.pauses()), default=0.0)

    def most(self, what: str) -> float:
        return max(float(turn[what]) for turn in self.turns)

    def calm(self) -> list[dict[str, Any]]:
        """The turns in which the machine did not hold up even a loop that does nothing."""
        return [turn for turn in self.turns if turn["noop_ms"] <= CALM_MS]

    def collection_ms(self) -> dict[int, float]:
        """Medians of forced full collections, by read states."""
        found = self.filled["collections"].items()
        return {int(states): 1000 * statistics.median(all_s) for states, all_s in found}


def flatness(turns: list[dict[str, Any]]) -> float:
    """The ratio of the worst turn's p99.9 to the usual turn's."""
    all_ms = [turn["p999_ms"] for turn in turns]
    return float(max(all_ms) / statistics.median(all_ms)) if all_ms else math.nan


def _core() -> str:
    """The core for the curves: the last one we may use; the first has most of the interrupts."""
    if not hasattr(os, "sched_getaffinity"):
        return "any"
    cores = sorted(os.sched_getaffinity(0))
    return str(cores[-1]) if len(cores) > 1 else "any"


def draw(curves: dict[str, Curve], seconds: int, turn_s: int, warm_up_s: int, say: Any) -> None:
    """Fill the curves, then give each of them its seconds, in turns."""
    for name, curve in curves.items():
        curve.fill()
        filled = curve.filled
        say(f"  {name:<6} {filled['states']:,} read states in {filled['fill_s']:.0f} s")
    for curve in curves.values():
        curve.order(f"run {warm_up_s}")
    for number in range(max(1, seconds // turn_s)):
        for name, curve in list(curves.items())[:: -1 if number % 2 else 1]:
            curve.turns.append(curve.order(f"run {turn_s}"))
            last = curve.turns[-1]
            if number % 6 == 0 or seconds <= 60:
                say(
                    f"  {name:<6} {turn_s * (number + 1):>4} s: p99.9 {last['p999_ms']:.3g} ms · "
                    f"slowest {last['slowest_ms']:.3g} ms · no-op {last['noop_ms']:.3g} ms · "
                    f"busy {last['busy']:.0%} · collections {last['collections']}"
                )


def unfrozen(suite: Suite, states: int) -> dict[int, float]:
    """A full collection of our process if `gc.freeze()` was never called, by read states."""
    curve = Curve(suite.owner, OURS, "never", states)
    try:
        curve.fill()
        return curve.collection_ms()
    finally:
        curve.close()


def run(suite: Suite) -> None:
    """Run both curves, and draw both pictures."""
    quick = suite.quick
    states = QUICK_STATES if quick else STATES
    turn_s = QUICK_TURN_S if quick else TURN_S
    curves = {kind: Curve(suite.owner, kind, "start", states, quick) for kind in (HEAP, OURS)}
    try:
        seconds = QUICK_SECONDS if quick else SECONDS
        draw(curves, seconds, turn_s, QUICK_WARM_UP_S if quick else WARM_UP_S, suite.say)
    finally:
        for curve in curves.values():
            curve.close()
    heap, ours = curves[HEAP], curves[OURS]
    full = {
        "heap LRU": heap.collection_ms(),
        "ours, without gc.freeze()": unfrozen(suite, states),
        "ours": ours.collection_ms(),
    }
    suite.measured = {
        "full_collection_ms": full,
        **{name: {"filled": c.filled, "turns": c.turns} for name, c in curves.items()},
    }
    _lines(suite, heap, ours, full)
    graph_picture.latency(suite, curves, states)
    graph_picture.collections(suite, full)
    suite.leave_out("Kafka, Cassandra and their clients: the service's own code is measured")
    if quick:
        suite.leave_out(f"the graph itself: {states:,} read states for {seconds} s a curve")


def _lines(suite: Suite, heap: Curve, ours: Curve, full: dict[str, dict[int, float]]) -> None:
    spikes, pause = heap.longest_pause_ms(), ours.longest_pause_ms()
    largest = max(full["ours"])
    suite.bound("longest collector pause", [pause], "ms", Goal(at_most=5))
    slower = ours.most("slowest_ms") - ours.most("noop_ms")
    suite.bound("slowest query, over the slowest no-op", [slower], "ms", Goal(at_most=1))
    turn = max(turn["turn_ms"][0] for turn in ours.turns) - ours.most("noop_ms")
    suite.bound("longest turn of the loop, over the slowest no-op", [turn], "ms", Goal(at_most=1))
    calm, of = ours.calm(), len(ours.turns)
    what = f"p99.9, worst against usual turn, {len(calm)} of {of} turns: no no-op over {CALM_MS} ms"
    suite.bound(what, [flatness(calm)], "×", NO_GOAL)
    suite.bound("p99.9, worst against usual turn", [flatness(ours.turns)], "×", Goal(at_most=2))
    slowest = [ours.most("slowest_ms")], [heap.most("slowest_ms")]
    suite.line("slowest query", slowest[0], "heap LRU", slowest[1], "ms")
    for name in ("ours, without gc.freeze()", "heap LRU"):
        ms = [full["ours"][largest]], [full[name][largest]]
        suite.line(f"a full collection, {largest:,} states", ms[0], name, ms[1], "ms")
    if not suite.quick:  # in a few seconds a heap may have no full collection
        what = "the graph can fail: the heap LRU's longest pause"
        suite.bound(what, [spikes], "ms", Goal(at_least=SPIKE_MS))


@click.command()
@click.option("--states", default=STATES, show_default=True, help="Number of read states.")
@click.option("--seconds", default=60, show_default=True, help="Length of a curve.")
@click.option("--freeze", default="start", type=click.Choice(["start", "never", "full"]))
@click.option("--kind", "kinds", multiple=True, default=(HEAP, OURS), help="Draw this curve.")
@click.option("--to", "folder", type=click.Path(path_type=Path), default=Path("build/bench"))
def main(states: int, seconds: int, freeze: str, kinds: tuple[str, ...], folder: Path) -> None:
    """Draw another graph: nothing frozen and CPython's thresholds, or all frozen once full."""
    with command("read-states-graph-") as run:
        curves = {kind: Curve(run, kind, freeze, states) for kind in kinds}
        begin = time.monotonic()
        draw(curves, seconds, min(TURN_S, seconds), WARM_UP_S, click.echo)
    for name, curve in curves.items():
        pauses = sorted((round(1000 * p[2], 1) for p in curve.pauses()), reverse=True)
        click.echo(
            f"{name}: slowest query {curve.most('slowest_ms'):.3g} ms, no-op "
            f"{curve.most('noop_ms'):.3g} ms, p99.9 worst / usual {flatness(curve.turns):.3g}; "
            f"longest pauses {pauses[:8]} ms"
        )
    full = {name: curve.collection_ms() for name, curve in curves.items()}
    click.echo(f"a full collection, ms by read states: {full}")
    data = {name: {"filled": c.filled, "turns": c.turns} for name, c in curves.items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"graph-{freeze}.json").write_text(json.dumps(data) + "\n", "utf-8")
    click.echo(f"{time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main()
