"""What an update costs as the table grows a hundredfold, from 10^5 to 10^7 read states.

    make bench BENCHES=growth

All sizes run at once and take turns, each in a process of its own. The service's update begins with
the bytes of a fetch: take the record out, decode it, find the user, fold, hold its offset; every
user is resident. Beside it the bench shows the table alone, by single updates and by batch: its
cost is little more than the processor's cache misses.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import ExitStack

from . import chart
from .contender import OURS, Contender, Entry
from .suite import NO_GOAL, Goal, Suite

SERVICE = "the service"
WAYS = {SERVICE: "service_update", "single": "update", "batch": "update_batch"}
GOAL = Goal(at_most=1.5)


def run(suite: Suite) -> None:
    sizes = [100_000, 1_000_000] if suite.quick else [100_000, 300_000, 10**6, 3 * 10**6, 10**7]
    count = 20_000 if suite.quick else 100_000
    if suite.quick:
        suite.leave_out("in the quick form: 3 * 10^5, 3 * 10^6 and 10^7 read states")
    drawn: dict[str, list[tuple[float, float]]] = {}
    with ExitStack() as stack:
        tables = {n: stack.enter_context(Contender(Entry(OURS, "", n), suite)) for n in sizes}
        for table in tables.values():
            table.ask("fill")
        for zipf in (False, True):
            law = "Zipf" if zipf else "uniform"
            for way, operation in WAYS.items():
                suite.say(f"  {way}, {law}, ns an update, by read states")
                times = _in_turn(suite, tables, operation, zipf, count)
                names = list(times)
                drawn[f"{way}, {law}"] = [(n, statistics.median(times[f"{n:,}"])) for n in sizes]
                suite.line(
                    f"an update, {way}, {law}, {names[-1]} states", times[names[-1]],
                    f"{names[0]} states", times[names[0]], "ns",
                    GOAL if way == SERVICE else NO_GOAL,
                )  # fmt: skip
    suite.measured["ns_an_update"] = drawn
    chart.curves(
        suite.folder / "growth.svg", drawn, "read states in the table", "ns of CPU an update",
        "an update as the table grows",
    )  # fmt: skip


def _in_turn(
    suite: Suite, tables: dict[int, Contender], operation: str, zipf: bool, count: int
) -> dict[str, list[float]]:
    """Run rounds of one operation on every size, after one that is not counted."""

    def runner(table: Contender) -> Callable[[int], float]:
        table.ask(operation, zipf, count, 0)
        return lambda round_: table.ask(operation, zipf, count, round_ + 1)

    return suite.in_turn({f"{size:,}": runner(table) for size, table in tables.items()})
