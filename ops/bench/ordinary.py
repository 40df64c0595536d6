"""Ordinary load: what a worker costs, and how its queries do, while it is far from its limits.

    make bench BENCHES=ordinary

All users are resident. Plain acks arrive at 100 to 10,000 per second, and 100 queries per second in
an open loop, which go to the worker and to a bare echo beside it in turn. Users and their channels
are drawn by Zipf's law, and FLUSH_DELAY_S is 5, so the worker writes out all the time. A rate is
measured after its warm-up: the CPU time of the worker's process as a share of one core, and the
round trips. The last line is a worker that has nothing to do.

`STRETCH_S=10 RATES=3000 make bench BENCHES=ordinary` measures less.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Iterator

from readstates.streams.config import Settings

from ..local.worker import WorkerProcess
from ..proof.traffic import Record, Traffic
from . import asking, echo
from .asking import OpenLoop, quantile
from .cpu import cpu_s_of
from .open_loop import Updates
from .suite import NO_GOAL, Goal, Suite

RATES = (100, 1_000, 3_000, 10_000)  # updates per second
GOAL_RATE = 3_000
CPU_MAX, IDLE_MAX = 0.15, 0.01  # of a core
RATIOS = {0.5: 1.5, 0.99: 2.0}  # quantile: how many times the echo's
QUERY_RATE = 100
FLUSH_DELAY_S = "5"
WARM_UP_S = 10.0  # twice the delay: rows are written at their steady rate then
DRAWN = 1_000  # users drawn at once


def acks(traffic: Traffic, first: int = 10**18) -> Iterator[Record]:
    """Endless acks of users and channels by Zipf's law, each of a newer message than `first`."""
    source = random.Random(6)
    for number in itertools.count(1):
        for user in traffic.users(DRAWN):
            channels = traffic.channels_of(user)
            channel = channels[min(int(source.expovariate(0.5)), len(channels) - 1)]
            yield Record(
                b"%d" % user,
                b'{"type":"ack","user_id":"%d","channel_id":"%d","message_id":"%d"}'
                % (user, channel, first + number),
            )


def run(suite: Suite) -> None:
    """Run each rate with queries to both in turn, then none."""
    settings, env = asking.prepare(suite, "ordinary")
    traffic = Traffic(asking.SEED, asking.USERS)
    env |= {"READ_STATES_FLUSH_DELAY_S": FLUSH_DELAY_S}
    worker = WorkerProcess(env, suite.scratch / "worker.log").start()
    try:
        worker.wait_ready()
        size = asking.make_residents(settings, traffic, worker)
        echoed = asking.make_topic(settings, "ordinary.echo", asking.PARTITIONS)
        replies = asking.make_topic(settings, "ordinary.replies.bench")
        with echo.beside(settings, echoed, size):
            loops = {
                "ours": OpenLoop(settings, settings.queries_topic, replies),
                "echo": OpenLoop(settings, echoed, replies),
            }
            for rate in map(int, os.environ.get("RATES", "").split() or RATES):
                _rate(suite, settings, worker, traffic, loops, rate)
            for loop in loops.values():
                loop.close()
        asking.wait_written_out(worker)
        seconds = 5.0 if suite.quick else 30.0
        before = cpu_s_of(worker.pid)
        time.sleep(seconds)
        idle = (cpu_s_of(worker.pid) - before) / seconds
        suite.bound("CPU of an idle worker", [idle], "cores", Goal(at_most=IDLE_MAX))
    finally:
        worker.stop()


def _rate(
    suite: Suite,
    settings: Settings,
    worker: WorkerProcess,
    traffic: Traffic,
    loops: dict[str, OpenLoop],
    rate: int,
) -> None:
    seconds = float(os.environ.get("STRETCH_S", "4" if suite.quick else "20"))
    queries = asking.queries_of(traffic, 5_000)
    updates = Updates(settings, acks(traffic), rate)
    updates.start()
    time.sleep(WARM_UP_S)
    cores: list[float] = []
    taken: dict[str, list[list[float]]] = {name: [] for name in loops}
    for number in range(suite.rounds):
        for name, loop in loops.items():
            before, begin = cpu_s_of(worker.pid), time.monotonic()
            taken[name].append(loop.run(queries, QUERY_RATE, seconds).after(0.0))
            used = (cpu_s_of(worker.pid) - before) / (time.monotonic() - begin)
            if name == "ours":  # it has nothing to answer while the echo is asked
                cores.append(used)
            shown = " · ".join(
                f"p{s * 100:g} {quantile(taken[name][-1], s) * 1e3:.2f}" for s in RATIOS
            )
            suite.say(f"  round {number + 1}  {rate:>6}/s {name} {shown} ms · {used:.3f} cores")
    updates.finish()
    has_goal = rate == GOAL_RATE
    what = f"{rate:,} updates/s, {QUERY_RATE} queries/s"
    suite.bound(f"{what}, CPU", cores, "cores", Goal(at_most=CPU_MAX) if has_goal else NO_GOAL)
    for share, most in RATIOS.items():
        ours, theirs = ([quantile(v, share) * 1e3 for v in taken[n]] for n in ("ours", "echo"))
        goal = Goal(at_most=most) if has_goal else NO_GOAL
        suite.line(f"{what}, p{share * 100:g}", ours, "bare echo", theirs, "ms", goal)
