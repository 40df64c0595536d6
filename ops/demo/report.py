"""The demo's report: a small table for each stretch.

A time says little on a machine that does much else; the ratio to a bare echo, or to a bare SELECT,
that went through the same moments says what the service adds.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..bench.asking import Asked, quantile
from .asking import ABSENT, ECHO, RESIDENT, SELECT
from .machine import load
from .stretches import BUSY_MAX, LOADED, Seen

SHARES = (0.5, 0.99)
NAMES = {
    RESIDENT: "query, user in the table",
    ECHO: "bare echo of the same size",
    ABSENT: "query, user to be loaded",
    SELECT: "bare SELECT of the same user",
}
HITS, MISSES = (f"read_states_queries_total{{outcome={name}}}" for name in ("hit", "miss"))
APPLIED = "read_states_updates_applied_total"
ROWS = "read_states_cassandra_rows_written_total"
EVICTED = "read_states_evictions_total"


def steady(seen: Seen, rate: int) -> Iterator[str]:
    """The steady stretch, each kind of query beside what it is held against."""
    each = len(seen.asked[RESIDENT].seconds)
    yield f"steady: {rate:,} updates per second, {each:,} queries of each kind"
    yield from _machine(seen)
    if seen.busy is not None and seen.busy.share > BUSY_MAX:
        yield "  over two thirds busy: times are mostly waits for a processor; compare the ratios"
    yield from _table(seen, (RESIDENT, ECHO), (ABSENT, SELECT))
    yield from _counts(seen)


def burst(seen: Seen) -> Iterator[str]:
    """The burst: what was applied per second, and the queries meanwhile."""
    rate = seen.updates / seen.seconds
    yield f"burst: {seen.updates:,} updates applied in {seen.seconds:.1f} s, {rate:,.0f} per second"
    yield from _machine(seen)
    yield from _table(seen, (RESIDENT, ECHO))
    yield from _counts(seen)
    yield f"  all of them were in Cassandra {seen.durable_s:.1f} s after the last was applied"


def storm(seen: Seen) -> Iterator[str]:
    """The storm of mentions: how many users had to be loaded for it."""
    loads = seen.counts.get(LOADED, 0)
    yield (
        f"mention storm: {seen.updates:,} mentions applied in {seen.seconds:.1f} s; "
        f"{loads:,.0f} users had to be loaded for them"
    )
    yield from _machine(seen)
    yield from _table(seen, (RESIDENT, ECHO))
    yield from _counts(seen)


def _machine(seen: Seen) -> Iterator[str]:
    yield f"  {seen.busy or 'this system does not say how busy the machine is'}; {load()}"
    if seen.busy is not None:
        yield f"    {seen.busy.shares()}"


def _counts(seen: Seen) -> Iterator[str]:
    """What the worker counted: a query that was not answered at once was a miss."""
    names = (HITS, MISSES, EVICTED, APPLIED, ROWS)
    hits, misses, evicted, applied, rows = (seen.counts.get(name, 0) for name in names)
    yield (
        f"  worker: {hits:,.0f} hits, {misses:,.0f} misses, {evicted:,.0f} evictions, "
        f"{applied:,.0f} changes, {rows:,.0f} rows written"
    )


def _table(seen: Seen, *pairs: tuple[str, str]) -> Iterator[str]:
    yield f"  {'':<30}{'p50 ms':>9}{'p99 ms':>9}{'ratio p50':>12}{'ratio p99':>11}"
    for ours, theirs in pairs:
        mine, peer = quantiles(seen.asked[ours]), quantiles(seen.asked[theirs])
        ratios = [a / b if b else float("inf") for a, b in zip(mine, peer, strict=True)]
        yield (
            f"  {NAMES[ours]:<30}{mine[0]:>9.2f}{mine[1]:>9.2f}"
            f"{ratios[0]:>10.2f} ×{ratios[1]:>9.2f} ×"
        )
        yield f"  {NAMES[theirs]:<30}{peer[0]:>9.2f}{peer[1]:>9.2f}"


def quantiles(asked: Asked) -> list[float]:
    """p50 and p99 in ms, of the answered ones; 0 where there are none."""
    if not asked.seconds:
        return [0.0] * len(SHARES)
    return [quantile(asked.seconds, share) * 1000 for share in SHARES]
