"""Bytes per read state, everything included, with 10 read states per user.

    make bench BENCHES=memory

Each contender has a process of its own. The bench counts by how much its resident pages (mapped
files too), its page tables and its files on a disk grow while it is filled. Our table has room for
as many read states as are put in, so it is full; its header, index, users' slots and spare slots
are in the figure. Beside it are two figures from "Why Discord is switching from Go to Rust":
about 120 bytes per entry in Go with the collector's headers, and about 80 for the bare struct in
Rust; neither has an index, a list or the user's ID in it.
"""

from __future__ import annotations

from contextlib import ExitStack

from . import chart
from .contender import OURS, Contender, Entry
from .holders import SHAPES
from .suite import Goal, Suite

PEERS = ("lru-dict", "cachebox", "cachetools", "dict")
GO_BYTES, RUST_BYTES = 120.0, 80.0  # from the article
GOAL = Goal(at_most=80)


def run(suite: Suite) -> None:
    states = 100_000 if suite.quick else 1_000_000
    entries = [Entry(OURS, "", states)]
    entries += [Entry(name, shape, states) for name in PEERS for shape in SHAPES]
    if suite.quick:
        entries = entries[:4]
        suite.leave_out("in the quick form: 10^6 and 10^7 read states, and all but one peer")
    else:
        entries += [Entry("diskcache", "tuples", 100_000), Entry(OURS, "", 10_000_000)]
        suite.leave_out("peers at 10^7 read states: nothing in them gets smaller as they grow")
    found: dict[str, list[float]] = {}
    for entry in entries:  # one after another: memory does not depend on the moment
        found[f"{entry}, {entry.states:,} states"] = [_filled(suite, entry)]
        suite.say(f"  {entry}, {entry.states:,} states: {_filled_text(found)}")
    suite.measured["bytes_a_state"] = found
    ours = {name: value for name, value in found.items() if name.startswith(OURS)}
    for name, value in ours.items():
        suite.bound(f"a read state, {name.split(', ')[1]}", value, "bytes", GOAL)
    first = next(iter(ours.values()))
    peers = {name: value for name, value in found.items() if name not in ours}
    smallest = min(peers, key=lambda name: peers[name][0])
    suite.line("a read state", first, f"{smallest.split(', ')[0]}", peers[smallest], "bytes")
    suite.line("a read state", first, "Go, from the article", [GO_BYTES], "bytes")
    suite.line("a read state", first, "Rust, from the article", [RUST_BYTES], "bytes")
    bars = {"readstates": first[0], "Rust*": RUST_BYTES, "Go*": GO_BYTES}
    bars |= {name.split(",")[0]: value[0] for name, value in peers.items()}
    chart.rows(
        suite.folder / "memory.svg", bars, "bytes a read state",
        f"{states:,} read states, 10 a user, all included     * as the article has it, the entry "
        "alone",
    )  # fmt: skip


def _filled(suite: Suite, entry: Entry) -> float:
    with ExitStack() as stack:
        contender = stack.enter_context(Contender(entry, suite))
        contender.ask("fill")
        return contender.ask("memory")


def _filled_text(found: dict[str, list[float]]) -> str:
    return f"{list(found.values())[-1][0]:,.1f} bytes a read state"
