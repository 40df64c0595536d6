"""Round trip of queries, open loop, against a bare confluent-kafka echo in the worker's place.

Both run all the time, each with a queries topic of its own on the same broker, and get the same
queries in turn, from the same client with the same settings. The echo answers with as many bytes as
a reply has on average. Users are resident. The warm-up of a run does not count, for both.

Then the worker is stopped while a backlog of updates is made, continues, and gets queries while the
backlog drains: only queries answered from a partition that has not reached the backlog's end count.
"""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Iterator, Mapping

import click
import orjson

from readstates.schemas.partitioner import partition_of
from readstates.schemas.version import OFFSET_BITS
from readstates.streams.config import Settings

from ..local.worker import WorkerProcess
from ..proof.traffic import Record, Traffic
from . import asking, echo
from .asking import OpenLoop, quantile
from .quantile_picture import draw
from .suite import Goal, Suite

RATES = (100, 1_000, 5_000)  # queries per second
WARM_UP_S = 1.0
BACKLOG_RATE = 1_000
BACKLOG_WARM_UP_S = 0.3  # after the worker continues


def run(suite: Suite) -> None:
    """Run three rates, then a backlog."""
    settings, env = asking.prepare(suite, "round-trip")
    traffic = Traffic(asking.SEED, asking.USERS)
    worker = WorkerProcess(
        {**env, **asking.flush_delay(suite)}, suite.scratch / "worker.log"
    ).start()
    try:
        worker.wait_ready()
        size = asking.make_residents(settings, traffic, worker)
        suite.measured["reply_bytes"] = size
        echoed = asking.make_topic(settings, "round-trip.echo", asking.PARTITIONS)
        reply_topic = asking.make_topic(settings, "round-trip.replies.bench")
        with echo.beside(settings, echoed, size):
            loops = {
                "ours": OpenLoop(settings, settings.queries_topic, reply_topic),
                "echo": OpenLoop(settings, echoed, reply_topic),
            }
            queries = asking.queries_of(traffic, 20_000)
            _rates(suite, loops, queries)
            _backlog(suite, settings, worker, traffic, loops, queries)
            for loop in loops.values():
                loop.close()
    finally:
        worker.stop()


def _rates(suite: Suite, loops: Mapping[str, OpenLoop], queries: list[Record]) -> None:
    seconds = 2.0 if suite.quick else 12.0
    every: dict[str, dict[str, list[float]]] = {}
    for rate in RATES:
        taken: dict[str, list[list[float]]] = {name: [] for name in loops}
        for number in range(suite.rounds):
            for name, loop in loops.items():
                asked = loop.run(queries, rate, WARM_UP_S + seconds)
                taken[name].append(asked.after(WARM_UP_S))
                _say(suite, f"round {number + 1}  {rate:>5}/s {name}", taken[name][-1], asked)
        for share, bound in ((0.5, 1.25), (0.99, 1.5)):
            ours, theirs = (
                [quantile(values, share) * 1e3 for values in taken[n]] for n in ("ours", "echo")
            )
            what = f"{rate:,}/s, p{share * 100:g}"
            suite.line(what, ours, "bare echo", theirs, "ms", Goal(at_most=bound))
        every[f"{rate:,} queries/s"] = {
            name: list(itertools.chain(*rounds)) for name, rounds in taken.items()
        }
    suite.measured["quantiles_ms"] = {
        rate: {
            name: {f"p{share * 100:g}": quantile(values, share) * 1e3 for share in SHARES}
            for name, values in both.items()
        }
        for rate, both in every.items()
    }
    draw(suite.folder / "round_trip.svg", "Round trip of a query", every)


SHARES = (0.5, 0.9, 0.99, 0.999)


def _say(suite: Suite, what: str, seconds: list[float], asked: asking.Asked) -> None:
    shown = " · ".join(f"p{s * 100:g} {quantile(seconds, s) * 1e3:.2f}" for s in SHARES)
    suite.say(
        f"  {what:<24} {shown} ms · sent at most {asked.late_s * 1e3:.1f} ms late"
        + (f" · UNANSWERED {asked.unanswered}" if asked.unanswered else "")
    )


def _backlog(
    suite: Suite,
    settings: Settings,
    worker: WorkerProcess,
    traffic: Traffic,
    loops: Mapping[str, OpenLoop],
    queries: list[Record],
) -> None:
    updates, seconds = (300_000, 2.0) if suite.quick else (1_500_000, 8.0)
    records = list(itertools.islice(traffic.updates(10**9), 100_000))
    ours: list[float] = []
    theirs: list[float] = []
    beside: list[float] = []
    for number in range(suite.rounds):
        alone = loops["echo"].run(queries, BACKLOG_RATE, WARM_UP_S + seconds)
        found = alone.after(WARM_UP_S)
        _say(suite, f"round {number + 1}  no backlog echo", found, alone)
        theirs.append(quantile(found, 0.99) * 1e3)
        for name, into in (("ours", ours), ("echo", beside)):
            os.kill(worker.pid, signal.SIGSTOP)
            try:
                for _ in range(updates // len(records)):
                    asking.send_all(settings, settings.updates_topic, records)
                behind = asking.ends(settings, settings.updates_topic)
            finally:
                os.kill(worker.pid, signal.SIGCONT)
            time.sleep(BACKLOG_WARM_UP_S)
            asked = loops[name].run(queries, BACKLOG_RATE, seconds)
            found = asked.after(0.0) if name == "echo" else list(_while_behind(asked, behind))
            _say(suite, f"round {number + 1}  backlog {name}", found, asked)
            suite.say(f"           {len(found):,} queries count")
            into.append(quantile(found, 0.99) * 1e3)
            _drained(settings, worker)
    what = f"{BACKLOG_RATE:,}/s while a backlog of updates drains, p99"
    suite.line(what, ours, "bare echo, no backlog", theirs, "ms")
    echo_beside = "bare echo beside the draining worker"
    suite.line(what, ours, echo_beside, beside, "ms", Goal(at_most=1.5))


def _while_behind(asked: asking.Asked, ends: list[int]) -> Iterator[float]:
    """Latencies of the queries answered before their partition was done with the backlog."""
    for seconds, body in zip(asked.seconds, asked.bodies, strict=True):
        reply = orjson.loads(body)
        position = int(reply["version"]) & ((1 << OFFSET_BITS) - 1)
        if position < ends[partition_of(reply["user_id"].encode(), len(ends))]:
            yield seconds


def _drained(settings: Settings, worker: WorkerProcess) -> None:
    """Wait until no update and no change waits, so that the next run has the machine to itself."""
    lags = [
        f"read_states_processing_lag_records{{partition={number},topic={settings.updates_topic}}}"
        for number in range(asking.PARTITIONS)
    ]
    while worker.returncode is None:
        time.sleep(asking.GAUGES_S)
        seen = worker.metrics()
        if not any(seen.get(lag, 1) for lag in lags):
            asking.wait_written_out(worker)
            return
    raise click.ClickException(f"the worker ended: {worker.output()[-2000:]}")
