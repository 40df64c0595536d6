"""Scale: more partitions on one worker, and more workers on the same partitions.

From 8 to 256 partitions, with the same number of read states in all tables together. Idle: the
processor time of a worker that owns them all and has nothing to do. Flooded: its largest memory
beside the tables while it takes a backlog of users it has never seen, which fills everything that a
partition may fill (inboxes, parked updates); and its rate, to the last commit.

With the most partitions, an idle worker is also measured with probes and without them, in turn.

One worker, then two, take a backlog of the same users, to the last commit. On two cores, which the
broker and Cassandra share, two workers cannot be twice as fast; the figure has no goal.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import orjson
from confluent_kafka import Consumer, TopicPartition

from readstates.streams.cassandra.store import Store
from readstates.streams.config import Settings
from readstates.streams.kafka import topics

from ..local.worker import WorkerProcess
from ..proof.traffic import Record, Traffic
from . import asking, picture
from .open_loop import send_all
from .storm import MEMORY_MB_MAX, Memory
from .suite import Goal, Suite

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
STATES = 1_600_000  # in all tables together: 200,000 for each of 8
IDLE_SHARE_MAX = 0.02
PROBE_SHARE_MAX = 0.005
PROBE_INTERVALS_S = ("0", "5")  # none, and the default
SETTLES_S = 10.0  # after which a worker that has just started has nothing more to do
WORKERS_PARTITIONS = 8
WORKERS_USERS = 30_000
TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Sizes:
    partitions: tuple[int, ...]
    idle_s: float
    probed_s: float
    flood: int  # updates, of as many users
    backlog: int  # updates, for one worker and for two


FULL = Sizes((8, 32, 64, 128, 256), 20.0, 60.0, 120_000, 300_000)
QUICK = Sizes((8, 256), 4.0, 10.0, 5_000, 10_000)
Servers = dict[str, str]  # their environment


def strangers(count: int) -> Iterator[Record]:
    """One ack for each of so many users."""
    for number in range(count):
        user_id = 10**17 + number
        event = {"type": "ack", "user_id": user_id, "channel_id": 1, "message_id": 10**18}
        yield Record(b"%d" % user_id, orjson.dumps(event))


class Log:
    """Topics, keyspace and group of one measurement."""

    def __init__(self, suite: Suite, servers: Servers, name: str, partitions: int) -> None:
        self.folder = suite.scratch / name
        self.name, self.partitions = name, partitions
        self.env = {
            **servers,
            "READ_STATES_TOPIC_PREFIX": name,
            "READ_STATES_KAFKA_GROUP": name,
            "READ_STATES_CASSANDRA_KEYSPACE": name.replace("-", "_"),
            "READ_STATES_CACHE_STATES": str(STATES // partitions),
            "READ_STATES_FLUSH_DELAY_S": "1",
        }
        self.settings = Settings.load(self.env)
        topics.create(self.settings, partitions, 1)
        store = Store(self.settings)
        store.create_schema()
        store.close()
        self.places = [TopicPartition(self.settings.updates_topic, n) for n in range(partitions)]
        self.consumer = Consumer(self.settings.librdkafka(**{"group.id": name}))

    def worker(self, name: str, **more: str) -> WorkerProcess:
        env = {**self.env, "READ_STATES_CACHE_DIR": str(self.folder / name), **more}
        return WorkerProcess(env, self.folder / f"{name}.log").start()

    def committed(self) -> int:
        return sum(max(0, p.offset) for p in self.consumer.committed(self.places, timeout=30))

    def until_committed(self, count: int) -> float:
        """Seconds, from the first commit of a worker at work to that of the last update."""
        begin = time.monotonic()
        while self.committed() < count:
            if time.monotonic() - begin > TIMEOUT_S:
                raise click.ClickException(f"{self.name}: not committed after {TIMEOUT_S:.0f} s")
            time.sleep(0.1)
        return time.monotonic() - begin


def processor_s(pid: int) -> float:
    """Processor time of a process so far, its threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_A_SECOND


def partitions(
    suite: Suite, servers: Servers, count: int, sizes: Sizes
) -> tuple[float, float, float, float]:
    """(share of a core when idle, MB when idle, MB flooded, updates/s) with so many partitions."""
    log = Log(suite, servers, f"scale-{count}", count)
    worker = log.worker("worker")
    try:
        worker.wait_ready(TIMEOUT_S)
        time.sleep(2)
        begin, used = time.monotonic(), processor_s(worker.pid)
        time.sleep(sizes.idle_s)
        share = (processor_s(worker.pid) - used) / (time.monotonic() - begin)
        memory = Memory(worker)
        memory.start()
        time.sleep(1)
        begin = time.monotonic()
        updates = send_all(log.settings, strangers(sizes.flood))
        log.until_committed(updates)
        took_s = time.monotonic() - begin
        memory.finish()
    finally:
        worker.stop()
    suite.say(
        f"  {count:>4} partitions: idle {share:.1%} of a core, {memory.mb[0]:.0f} MB; flooded "
        f"{max(memory.mb):.0f} MB, {updates / took_s:,.0f} updates/s"
    )
    return share, memory.mb[0], max(memory.mb), updates / took_s


def probes(suite: Suite, servers: Servers, count: int, sizes: Sizes) -> dict[str, list[float]]:
    """Shares of a core that an idle worker takes, by PROBE_INTERVAL_S; a round for each entry."""
    log = Log(suite, servers, "scale-probes", count)
    shares: dict[str, list[float]] = {interval: [] for interval in PROBE_INTERVALS_S}
    for number in range(suite.rounds):
        for interval, found in shares.items():
            worker = log.worker("worker", READ_STATES_PROBE_INTERVAL_S=interval)
            try:
                worker.wait_ready(TIMEOUT_S)
                time.sleep(SETTLES_S)
                begin, used = time.monotonic(), processor_s(worker.pid)
                time.sleep(sizes.probed_s)
                found.append((processor_s(worker.pid) - used) / (time.monotonic() - begin))
            finally:
                worker.stop()
            suite.say(
                f"  round {number + 1}: {count} partitions, PROBE_INTERVAL_S={interval}: "
                f"{found[-1]:.2%} of a core"
            )
    return shares


def workers(suite: Suite, servers: Servers, count: int, sizes: Sizes) -> float:
    """Updates/s of so many workers over the same backlog."""
    log = Log(suite, servers, f"workers-{count}", WORKERS_PARTITIONS)
    running = [log.worker(f"worker-{number}") for number in range(count)]
    try:
        for worker in running:
            worker.wait_ready()
        traffic = itertools.islice(Traffic(1, WORKERS_USERS).updates(sizes.backlog), sizes.backlog)
        records = list(traffic)
        begin = time.monotonic()
        log.until_committed(send_all(log.settings, iter(records)))
        rate = sizes.backlog / (time.monotonic() - begin)
    finally:
        for worker in running:
            worker.stop()
    suite.say(f"  {count:>4} workers: {rate:,.0f} updates/s")
    return rate


def run(suite: Suite) -> None:
    """Run with one pair of servers, and with separate topics for each size."""
    sizes = QUICK if suite.quick else FULL
    servers = asking.servers(suite)
    found = {n: partitions(suite, servers, n, sizes) for n in sizes.partitions}
    rates = {n: workers(suite, servers, n, sizes) for n in (1, 2)}
    least, most = min(found), max(found)
    without, probed = probes(suite, servers, most, sizes).values()
    suite.measured["partitions"] = {
        n: dict(zip(("idle_share", "idle_mb", "flooded_mb", "updates_s"), one, strict=True))
        for n, one in found.items()
    }
    suite.measured["workers"] = rates
    suite.bound(
        f"{most} idle partitions, share of a core beyond {least}",
        [found[most][0] - found[least][0]],
        "",
        Goal(at_most=IDLE_SHARE_MAX),
    )
    suite.bound(
        f"the probe of {most} idle partitions, share of a core",
        [b - a for a, b in zip(without, probed, strict=True)],
        "",
        Goal(at_most=PROBE_SHARE_MAX),
    )
    suite.bound(
        f"memory beside the tables, flooded, {most} partitions",
        [found[most][2]],
        "MB",
        Goal(at_most=MEMORY_MB_MAX),
    )
    name = f"{least} partitions"
    suite.line(f"flood, {most} partitions", [found[most][3]], name, [found[least][3]], "updates/s")
    suite.line("two workers", [rates[2]], "one worker", [rates[1]], "updates/s")
    if not suite.quick:
        draw(suite, found, rates)


def draw(
    suite: Suite, found: dict[int, tuple[float, float, float, float]], rates: dict[int, float]
) -> None:
    """Idle cost, memory and rate over partitions; rate over workers."""
    figure, axes = picture.figure("one worker, more partitions; more workers", 4, width=14)
    counts = sorted(found)
    axes[0].plot(counts, [100 * found[n][0] for n in counts], "o-", color=picture.BLUE)
    axes[0].set_ylabel("idle, % of a core")
    axes[1].plot(counts, [found[n][1] for n in counts], "o-", color=picture.GREEN, label="idle")
    axes[1].plot(counts, [found[n][2] for n in counts], "o-", color=picture.RED, label="flooded")
    axes[1].set_ylabel("memory beside the tables, MB")
    axes[1].legend(frameon=False, labelcolor=picture.INK)
    axes[2].plot(counts, [found[n][3] for n in counts], "o-", color=picture.BLUE)
    axes[2].set_ylabel("flood, updates/s to the last commit")
    axes[3].plot(list(rates), list(rates.values()), "o-", color=picture.BLUE)
    axes[3].set_ylabel("backlog, updates/s to the last commit")
    for axis in axes[:3]:
        axis.set_xscale("log", base=2)
        axis.set_xlabel("partitions")
    axes[3].set_xlabel("workers")
    for axis in axes:
        axis.set_ylim(bottom=0)
    figure.tight_layout()
    picture.save(suite, figure, "scale")
