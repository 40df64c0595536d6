"""Service time of a query: from the moment the consumer's thread has it until its reply is sent.

The peer is a no-op agent on the same transport, which hands over as many bytes and does no more: it
shows what the machine, Faust and the transport cost. Both workers run all the time and get the same
queries in turn, 500 per second, evenly spaced, so that nearly each is alone in its batch. Users are
resident. The warm-up of a run does not count, for both.
"""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Iterator
from pathlib import Path

from readstates.streams.config import Settings

from ..local.worker import WorkerProcess
from ..proof.traffic import Traffic
from . import asking
from .asking import OpenLoop, quantile
from .suite import NO_GOAL, Goal, Suite

RATE = 500  # queries per second
WARM_UP_S = 1.0
P99_MAX_US = 500
SPREAD_MAX = 2  # p99 / p50
NOOP_RATIO_MAX = 1.3
MODULE = "readstates.ops.bench.timed_worker"


def run(suite: Suite) -> None:
    """Run both in turn, then read their notes."""
    traffic = Traffic(asking.SEED, asking.USERS)
    seconds = 4.0 if suite.quick else 20.0
    windows: dict[str, list[tuple[float, float]]] = {"ours": [], "no-op": []}
    with contextlib.ExitStack() as ending:
        settings, env = asking.prepare(suite, "service-time")
        ours = _worker(suite.scratch, "ours", {**env, **asking.flush_delay(suite)})
        ending.callback(ours.stop)
        ours.wait_ready()
        size = asking.make_residents(settings, traffic, ours)
        other, env = asking.prepare(suite, "service-time-noop")
        noop = _worker(suite.scratch, "no-op", {**env, "NOOP_BYTES": str(size)})
        ending.callback(noop.stop)
        noop.wait_ready()
        loops = {"ours": _loop(settings), "no-op": _loop(other)}
        queries = asking.queries_of(traffic, 10_000)
        for number in range(suite.rounds):
            for name, loop in loops.items():
                asked = loop.run(queries, RATE, WARM_UP_S + seconds)
                windows[name].append((asked.due[0] + WARM_UP_S, asked.due[-1] + 1))
                median = quantile(asked.after(WARM_UP_S), 0.5) * 1e3
                suite.say(f"  round {number + 1}  {name:<6} round trip p50 {median:.2f} ms")
        for loop in loops.values():
            loop.close()
    found = {name: list(_notes(suite.scratch / f"{name}.times", windows[name])) for name in windows}
    _lines(suite, found)


def _worker(scratch: Path, name: str, env: dict[str, str]) -> WorkerProcess:
    env = {**env, "TIMES": str(scratch / f"{name}.times")}
    return WorkerProcess(env, scratch / f"{name}.log", module=MODULE).start()


def _loop(settings: Settings) -> OpenLoop:
    topic = asking.make_topic(settings, f"{settings.topic_prefix}.replies.bench")
    return OpenLoop(settings, settings.queries_topic, topic)


def _notes(file: Path, windows: list[tuple[float, float]]) -> Iterator[list[float]]:
    """Service times in µs, for each window of the monotonic clock."""
    times = array("q")
    times.frombytes(file.read_bytes())
    pairs = list(zip(times[::2], times[1::2], strict=True))
    for begin, end in windows:
        yield [took / 1e3 for at, took in pairs if begin * 1e9 <= at <= end * 1e9]


def _lines(suite: Suite, found: dict[str, list[list[float]]]) -> None:
    shares = (0.5, 0.9, 0.99, 0.999)
    for name, rounds in found.items():
        for number, values in enumerate(rounds, 1):
            shown = " · ".join(f"p{s * 100:g} {quantile(values, s):.0f}" for s in shares)
            suite.say(f"  round {number}  {name:<6} {shown} µs · {len(values):,} queries")
    suite.measured["quantiles_us"] = {
        name: [{f"p{s * 100:g}": quantile(values, s) for s in shares} for values in rounds]
        for name, rounds in found.items()
    }
    p50, p99 = ({n: [quantile(v, s) for v in r] for n, r in found.items()} for s in (0.5, 0.99))
    spread = {n: [a / b for a, b in zip(p99[n], p50[n], strict=True)] for n in found}
    small, narrow = Goal(at_most=P99_MAX_US), Goal(at_most=SPREAD_MAX)
    ratio = Goal(at_most=NOOP_RATIO_MAX)
    alone = all(
        goal.met(sorted(values)[len(values) // 2])
        for goal, values in ((small, p99["ours"]), (narrow, spread["ours"]))
    )
    suite.line("p50", p50["ours"], "no-op agent", p50["no-op"], "µs")
    suite.line("p99", p99["ours"], "no-op agent", p99["no-op"], "µs", NO_GOAL if alone else ratio)
    suite.line(
        "p99 / p50", spread["ours"], "no-op agent", spread["no-op"], "", NO_GOAL if alone else ratio
    )
    if alone:
        suite.bound("p99", p99["ours"], "µs", small)
        suite.bound("p99 / p50", spread["ours"], "", narrow)
