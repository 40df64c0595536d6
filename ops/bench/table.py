"""The table against LRUs in the same language: get, update, insert with eviction, all of a user.

    make bench BENCHES=table

Each contender has a process of its own (so its collector scans only its own objects), and ours
takes turns with the shapes of one peer. All do the same operations on the same read states, and the
time includes the loop that calls them. Ours makes the calls that the service makes (`find` and
`touch` of the user, then `get_some`, `ack` or `states`; `evict` and `insert`). Fields are read.
Only ours keeps checksums, and the list of users who wait to be written out. The fastest shape of
each peer counts, chosen again for each operation; goals are against the fastest LRU.

    get             read three fields of one read state
    update          read, compare, change
    insert          insert a user with 10 read states, evict the coldest; per read state
    all of a user   get its 10 read states ordered by channel, all nine fields

`batch` is the entry for a slice of acks, from numbers that a decoder fills in.
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from typing import Any

from . import chart
from .contender import OURS, Contender, Entry
from .holders import SHAPES
from .suite import Goal, Suite

LRUS = ("lru-dict", "cachebox", "cachetools")
OTHERS = ("dict", "diskcache")
GET, UPDATE, INSERT, ALL_OF = "get", "update", "insert", "all of a user"
GOALS = {GET: Goal(at_most=1.2), UPDATE: Goal(at_most=1), INSERT: Goal(at_most=1)}
GOALS[ALL_OF] = Goal(at_most=1)
BATCH = "update, batch"
SLOWER = 50  # times fewer operations for the contender on a disk

Times = dict[str, list[float]]  # ns per operation, by contender, one for each round
Case = tuple[str, bool]  # operation, Zipf


def run(suite: Suite) -> None:
    sizes = (100_000,) if suite.quick else (100_000, 1_000_000)
    found: dict[tuple[int, Case], dict[str, Times]] = {}
    for states in sizes:
        count = 20_000 if suite.quick else 100_000
        for name in LRUS if suite.quick else (*LRUS, *OTHERS):
            for case, times in _against(suite, name, states, count).items():
                found.setdefault((states, case), {})[name] = times
    if suite.quick:
        suite.leave_out("in the quick form: 10^6 and 10^7 states, dict, diskcache")
    for (states, case), by_peer in found.items():
        _lines(suite, states, case, by_peer)
        if case[0] == BATCH:
            _batch_line(suite, states, case[1], found[states, (UPDATE, case[1])], by_peer)
    if not suite.quick:
        _ten_million(suite, found)
    suite.measured["ns_an_operation"] = {
        f"{operation}, {_law(operation, zipf)}{states} states": by_peer
        for (states, (operation, zipf)), by_peer in found.items()
    }
    _draw(suite, sizes[-1], found)


def _against(suite: Suite, name: str, states: int, count: int) -> dict[Case, Times]:
    """Ours and the shapes of one peer, in turn."""
    shapes = ("pairs", "tuples") if name in OTHERS else SHAPES
    count = count // SLOWER if name == "diskcache" else count
    if name == "diskcache":
        states = min(states, 100_000)
    entries = [Entry(OURS, "", states)] + [Entry(name, shape, states) for shape in shapes]
    results: dict[Case, Times] = {}
    with ExitStack() as stack:
        all_ = {str(entry): stack.enter_context(Contender(entry, suite)) for entry in entries}
        for contender in all_.values():
            contender.ask("fill")
        for zipf in (True, False):
            for operation in (GET, UPDATE, BATCH, ALL_OF):
                results[operation, zipf] = _in_turn(suite, all_, operation, zipf, count)
        for contender in all_.values():
            contender.ask("write_out")
        if name != "dict":  # which evicts nothing
            results[INSERT, False] = _in_turn(suite, all_, INSERT, False, count // 10)
    return results


def _in_turn(
    suite: Suite, all_: dict[str, Contender], operation: str, zipf: bool, count: int
) -> Times:
    """Run rounds of one operation, after one that is not counted."""
    what: dict[str, tuple[Any, ...]] = {
        GET: ("get", zipf, count),
        UPDATE: ("update", zipf, count),
        BATCH: ("update_batch", zipf, count),
        ALL_OF: ("all_of", zipf, count // 5),
        INSERT: ("insert", count),
    }
    able = {
        name: contender
        for name, contender in all_.items()
        if not (operation == ALL_OF and contender.entry.shape == "pairs")
        and not (operation == BATCH and contender.entry.name != OURS)
    }
    suite.say(f"  {operation}, {_law(operation, zipf)}{able[OURS].entry.states:,} states, ns")
    for contender in able.values():
        contender.ask(*what[operation], 0)
    runners = {
        name: lambda round_, contender=contender: contender.ask(*what[operation], round_ + 1)
        for name, contender in able.items()
    }
    return suite.in_turn(runners)


def _best(times: Times) -> str:
    """The shape of the peer that is fastest."""
    return min((name for name in times if name != OURS), key=lambda n: statistics.median(times[n]))


def _lines(suite: Suite, states: int, case: Case, by_peer: dict[str, Times]) -> None:
    operation, zipf = case
    where = f"{_law(operation, zipf)}{states:,} states"
    if operation == BATCH:
        return
    best = {name: _best(times) for name, times in by_peer.items()}
    fastest = min(
        (name for name in by_peer if name in LRUS),
        key=lambda name: statistics.median(by_peer[name][best[name]]),
    )
    for name, times in by_peer.items():
        if name == fastest:
            suite.line(
                f"{operation}, {where}", times[OURS], f"{best[name]}", times[best[name]], "ns",
                GOALS[operation],
            )  # fmt: skip


def _batch_line(
    suite: Suite, states: int, zipf: bool, calls: dict[str, Times], batch: dict[str, Times]
) -> None:
    """Compare the batch entry with single updates, measured beside the first LRU."""
    suite.line(
        f"{BATCH}, {_law(BATCH, zipf)}{states:,} states", batch[LRUS[0]][OURS],
        "single updates", calls[LRUS[0]][OURS], "ns", Goal(at_most=1),
    )  # fmt: skip


def _ten_million(suite: Suite, found: dict[tuple[int, Case], dict[str, Times]]) -> None:
    """Ours, and the shape that was fastest at updates of 10^6 states."""
    by_peer = found[1_000_000, (UPDATE, False)]
    shapes = {_best(by_peer[name]): statistics.median(by_peer[name][_best(by_peer[name])])
              for name in LRUS}  # fmt: skip
    name, shape = min(shapes, key=lambda n: shapes[n]).split(" ")
    entries = [Entry(OURS, "", 10_000_000), Entry(name, shape, 10_000_000)]
    with ExitStack() as stack:
        all_ = {str(entry): stack.enter_context(Contender(entry, suite)) for entry in entries}
        for contender in all_.values():
            contender.ask("fill")
        for operation in (GET, UPDATE):
            times = _in_turn(suite, all_, operation, False, 200_000)
            found[10_000_000, (operation, False)] = {name: times}
            _lines(suite, 10_000_000, (operation, False), {name: times})


def _law(operation: str, zipf: bool) -> str:
    return "" if operation == INSERT else "Zipf, " if zipf else "uniform, "


def _draw(suite: Suite, states: int, found: dict[tuple[int, Case], dict[str, Times]]) -> None:
    """Draw bars: each operation at the largest size, evenly drawn, in each peer's fastest shape."""
    groups: dict[str, dict[str, float]] = {}
    for operation in (GET, UPDATE, INSERT, ALL_OF):
        by_peer = found[states, (operation, False)]
        ours = [time for times in by_peer.values() for time in times[OURS]]
        bars = {"readstates": statistics.median(ours)}
        if operation == UPDATE:
            batch = found[states, (BATCH, False)].values()
            bars["readstates, batch"] = statistics.median(t for times in batch for t in times[OURS])
        for name, times in by_peer.items():
            if name != "diskcache":  # on a disk: a hundred times longer
                bars[name] = statistics.median(times[_best(times)])
        groups[operation] = bars
    chart.bars(
        suite.folder / "table.svg", groups, "ns of CPU an operation",
        f"{states:,} read states, 10 a user, drawn evenly; less is better",
    )  # fmt: skip
