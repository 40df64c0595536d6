"""The result in words and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from .campaign import Result

EXAMPLES = 5


def verdict(result: Result, say: Callable[[str], None]) -> None:
    """Timeline, table, and what is wrong."""
    say("")
    say("timeline: begin, hand off again, all well again (s)")
    for fault in result.timeline:
        times = (t - result.begin_s for t in (fault.begin_s, fault.end_s, fault.well_s))
        say("  " + " ".join(f"{t:7.1f}" for t in times) + f"  {fault.kind:<20}{fault.what}")
    say("")
    for name, text in _table(result):
        say(f"  {name:<26} {text}")
    say("  * or in the warm-up, the first seconds of the load")
    for wrong in _wrong(result):
        say(f"  WRONG: {wrong}")
    say("")
    say(
        "RIGHT: nothing lost, nothing doubled, every query accounted for, every change told"
        if result.right
        else "NOT RIGHT"
    )


def _table(result: Result) -> Iterator[tuple[str, str]]:
    kinds = Counter(fault.kind for fault in result.timeline)
    yield "faults", f"{sum(kinds.values())}"
    for kind, count in kinds.most_common():
        yield f"  {kind}", f"{count}"
    differences, queries = result.differences, result.queries
    yield "updates sent", f"{result.updates:,} ({result.updates_failed} not taken by Kafka)"
    yield "  twice in the log", f"{result.duplicates:,}, by producers without idempotence"
    yield "  missing in the log", f"{result.missing:,}"
    yield "read states compared", f"{differences.compared:,}"
    yield "  lost", f"{differences.lost:,}"
    yield "  doubled", f"{differences.doubled:,}"
    yield "  not deleted", f"{differences.extra:,}"
    yield "  differing otherwise", f"{differences.differing:,}"
    yield (
        "changes told",
        f"{result.changes_told:,}, {result.changes_late:,} of them late, by an owner of before",
    )
    yield (
        "mirrors against the fold",
        f"{result.mirrors_compared:,} users compared, {len(result.mirrors_wrong):,} differences",
    )
    yield "dead letters", f"{result.dead_letters:,} of {result.bad:,} bad records"
    yield "workers that crashed", f"{len(result.workers_crashed)}"
    yield "  that could not start", f"{len(result.workers_refused)}: a server was away"
    if queries is None:
        return
    yield "queries sent", f"{queries.sent:,}"
    yield "  answered", f"{queries.answered:,}"
    yield "  errors", f"{sum(queries.errors.values()):,} {queries.errors or ''}".rstrip()
    yield "  expired, in faults*", f"{queries.expired:,}"
    yield "  lost with their topic", f"{queries.lost:,}"
    yield "  not in Kafka in time", f"{queries.not_taken:,}"
    yield "  unaccounted", f"{queries.unaccounted:,}"
    yield (
        "answered twice",
        f"{queries.twice_inside:,} in faults*, {queries.twice_outside:,} outside",
    )
    yield (
        "answered after deadline",
        f"{queries.late_inside:,} in faults*, {queries.late_outside:,} outside",
    )
    yield (
        "versions that went back",
        f"{queries.back_inside:,} in zombie windows, {queries.back_outside:,} outside",
    )
    yield "own write not seen", f"{queries.own_write_missing:,}"
    yield (
        "replies against the fold",
        f"{result.replies_checked:,} checked, {len(result.replies_wrong):,} differ",
    )


def _wrong(result: Result) -> Iterator[str]:
    for examples in (
        result.problems,
        result.workers_crashed,
        result.differences.examples,
        result.dead_letters_wrong,
        result.replies_wrong,
        result.mirrors_wrong,
        result.queries.examples if result.queries else (),
    ):
        yield from list(examples)[:EXAMPLES]


def as_json(result: Result) -> dict[str, Any]:
    """Everything, with times in seconds since the campaign's begin."""
    value = asdict(result)
    begin_s = value.pop("begin_s")
    for fault in value["timeline"]:
        for name in ("begin_s", "end_s", "well_s"):
            fault[name] = round(fault[name] - begin_s, 3)
    value["latencies"] = [[round(t - begin_s, 3), round(s, 5)] for t, s in value["latencies"]]
    value["lag"] = [[round(t - begin_s, 1), records] for t, records in value["lag"]]
    value["right"] = result.right
    return value
