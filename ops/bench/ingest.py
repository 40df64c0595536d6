"""Ingest: folds a backlog of updates of resident users and writes it out, up to the last commit.

    make bench BENCHES=ingest

These contenders take turns in one run, from the same offsets of the same topic and broker:

- ours with every user resident: a worker has folded the warm part (`backlog.py`) and stopped; a
  round begins with a copy of its tables. The bench checks that no user was loaded.
- ours with every user cold: no tables, and the rows of the warm part in Cassandra. No goal is set.
- stock Faust with a dict, quixstreams (RocksDB, changelog), Kafka Streams (one thread, RocksDB,
  changelog), each with the same fold; a consumer that counts in Redis, without the fold's rules;
  and the limit: a bare consumer that only decodes.

Ours is timed from the log line that says that the partitions were opened, to two moments: readers
have seen the last update of every partition (queries with `after_offset`, sent at the start), and
the committed offsets are the log's ends. Every change is then in Cassandra, which shares the two
cores and is busy for most of that time (its CPU seconds are in the JSON). The peers are timed from
their first event to their last, without waiting for commits and changelogs, and write nothing to a
database; their stores are empty at the start. Each of these differences is in the peers' favour.

In the full form FLUSH_DELAY_S is 30, its default. A backlog younger than that would hold its last
changes back that long. An older one is written out once it is folded (`Partition.take_writes`),
because its changes have waited long enough. Ours is older, since the peers take their turns first.
The quick form ends too early for that, and sets 1 s. `rows_written` says how many rows the backlog
became: the longer the delay compared with the time of the fold, the fewer. A worker that gets the
same updates in real time writes more rows.

CPU seconds are those of the process that folds, and of Redis where that has the states. The
broker's and Cassandra's are not included, although all share the machine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click

from readstates.schemas.partitioner import partition_of
from readstates.schemas.wire import key_bytes
from readstates.streams.cassandra.store import Store
from readstates.streams.config import Settings
from readstates.streams.kafka import topics

from ..local.cluster import CASSANDRA
from ..local.java import find_java
from ..local.stack import Stack
from ..local.worker import WorkerProcess
from ..proof.traffic import Traffic
from . import asking
from .backlog import PARTITIONS, SEED, Log, backlog, produce, warm_part
from .cpu import cpu_s_of
from .suite import Goal, Suite

TIMEOUT_S = 600.0
POLL_S = 0.05
SEEN_S = 50.0  # a query may wait a minute at most
RESIDENT, COLD = "ours, resident", "ours, cold"
STOCK, QUIX, STREAMS, LIMIT = "stock Faust", "quixstreams", "Kafka Streams", "the limit"
REDIS = "a consumer with Redis"
# At least so many times as fast until readers see all, and at most so much CPU per update.
SEEN_GOALS = {STOCK: 20, QUIX: 8, STREAMS: 2}
CPU_GOALS = {STOCK: 1 / 20, QUIX: 1 / 8, STREAMS: 1 / 3}
USERS, USERS_QUICK = 50_000, 10_000
SIZES = {  # updates in the full form, and in the quick form
    RESIDENT: (2_000_000, 200_000),
    COLD: (2_000_000, 200_000),
    STOCK: (200_000, 20_000),
    QUIX: (400_000, 40_000),
    REDIS: (400_000, 40_000),
    STREAMS: (2_000_000, 200_000),
    LIMIT: (2_000_000, 200_000),
}


class Bench:
    """One stack with the log, and the runners.

    `cpu_s` (CPU seconds per million updates) and `seen` (updates per second until readers see all)
    are kept by contender and round.
    """

    def __init__(self, suite: Suite, stack: Stack) -> None:
        self._suite = suite
        self._tables = suite.scratch / "tables"
        self._env = {
            **stack.env(),
            "READ_STATES_CACHE_DIR": str(self._tables),
            "READ_STATES_FLUSH_DELAY_S": "1" if suite.quick else "30",
        }
        self._settings = Settings.load(self._env)
        processes = stack.status().processes
        self._cassandra = next(one.pid or 0 for one in processes if one.role == CASSANDRA)
        self.cassandra_cpu_s: dict[str, list[float]] = {RESIDENT: [], COLD: []}
        self.cpu_s: dict[str, list[float]] = {name: [] for name in SIZES}
        self.rows: dict[str, list[float]] = {RESIDENT: [], COLD: []}
        self.seen: dict[str, list[float]] = {RESIDENT: [], COLD: []}
        self._readers: dict[int, int] = {}  # a user of each partition
        self._begin: list[int] = []  # where the backlog begins
        self._end: list[int] = []

    def prepare(self) -> None:
        """Make the log, a keyspace and tables with the warm part, and a keyspace per cold round."""
        suite, updates = self._suite, self._size(RESIDENT)
        topics.create(self._settings, PARTITIONS, 1)
        traffic = Traffic(SEED, USERS_QUICK if suite.quick else USERS)
        suite.say(f"filling the log: {updates:,} updates of {len(traffic.user_ids):,} users")
        produce(self._settings, warm_part(traffic))
        for keyspace in ["resident", *(f"cold_{number}" for number in range(suite.rounds))]:
            self._warm(keyspace)
        self._readers = {partition_of(key_bytes(u), PARTITIONS): u for u in traffic.user_ids}
        self._begin = self._ends()
        produce(self._settings, backlog(traffic, updates))
        self._end = self._ends()

    def _size(self, name: str) -> int:
        return SIZES[name][self._suite.quick]

    def _ends(self) -> list[int]:
        log = Log(self._settings, "bench-ends")
        try:
            return log.ends()
        finally:
            log.close()

    def _warm(self, keyspace: str) -> None:
        """Let a worker of the group and keyspace of this name fold the whole log, and stop it."""
        env = self._env | {
            "READ_STATES_KAFKA_GROUP": keyspace,
            "READ_STATES_CASSANDRA_KEYSPACE": keyspace,
            "READ_STATES_FLUSH_DELAY_S": "1",
        }
        store = Store(Settings.load(env))
        store.create_schema()
        store.close()
        worker, log = self._worker(env, keyspace), Log(self._settings, keyspace)
        try:
            self._until_committed(worker, log, log.ends())
        finally:
            worker.stop()
            log.close()

    def _worker(self, env: dict[str, str], name: str) -> WorkerProcess:
        return WorkerProcess(env, self._suite.scratch / f"worker-{name}.log").start()

    def _until(self, worker: WorkerProcess, what: Callable[[], bool], poll_s: float) -> None:
        start = time.monotonic()
        while not what():
            if worker.returncode is not None or time.monotonic() - start > TIMEOUT_S:
                raise click.ClickException(f"the worker ended or hung: {worker.output()[-2000:]}")
            time.sleep(poll_s)

    def _until_committed(self, worker: WorkerProcess, log: Log, ends: list[int]) -> None:
        self._until(worker, lambda: log.committed() == ends, POLL_S)

    def ours(self, name: str, number: int) -> float:
        """Updates per second to the last commit."""
        resident = name == RESIDENT
        keyspace = "resident" if resident else f"cold_{number}"
        group = f"{'resident' if resident else 'cold'}-{number}"
        log = Log(self._settings, group)
        log.begin_at(self._begin)
        if resident:
            for path in self._tables.glob(f"{self._settings.topic_prefix}-resident-?.table"):
                shutil.copy(path, path.with_name(path.name.replace("-resident-", f"-{group}-")))
        env = self._env | {
            "READ_STATES_KAFKA_GROUP": group,
            "READ_STATES_CASSANDRA_KEYSPACE": keyspace,
        }
        worker = self._worker(env, group)
        try:
            with asking.shell(self._settings) as client, ThreadPoolExecutor(PARTITIONS) as threads:

                def seen(partition: int) -> float:
                    last = self._end[partition] - 1
                    user_id = self._readers[partition]
                    client.get(user_id, (), after_offset=last, deadline_s=SEEN_S)
                    return time.monotonic()

                self._until(worker, lambda: "opened partition=" in worker.output(), 0.005)
                start, start_cpu = time.monotonic(), cpu_s_of(worker.pid)
                start_cassandra = cpu_s_of(self._cassandra)
                sights = threads.map(seen, range(PARTITIONS))
                self._until_committed(worker, log, self._end)
                took_s, took_cpu_s = time.monotonic() - start, cpu_s_of(worker.pid) - start_cpu
                seen_s = max(sights) - start
            found = worker.metrics()
        finally:
            worker.stop()
            log.close()
        loads = found.get("read_states_cassandra_loads_total", 0)
        if bool(loads) is resident:
            raise click.ClickException(f"{name}: {loads} users were loaded: {worker.log}")
        for path in self._tables.glob(f"*-{group}-?.table"):
            path.unlink()
        self.seen[name].append(self._size(name) / seen_s)
        cassandra_cpu_s = cpu_s_of(self._cassandra) - start_cassandra
        self.cassandra_cpu_s[name].append(cassandra_cpu_s / self._size(name) * 1e6)
        self.rows[name].append(found["read_states_cassandra_rows_written_total"])
        self.cpu_s[name].append(took_cpu_s / self._size(name) * 1e6)
        return self._size(name) / took_s

    def peer(self, name: str, argv: list[str], number: int, env: dict[str, str]) -> float:
        """Updates per second of a peer; its arguments: broker, topic, group, count, folder."""
        count, group = self._size(name), f"{name.replace(' ', '-')}-{number}"
        log = Log(self._settings, group)
        log.begin_at(self._begin)
        log.close()
        state = self._suite.scratch / group
        arguments = [self._settings.kafka_bootstrap, self._settings.updates_topic, group]
        done = subprocess.run(
            [*argv, *arguments, str(count), str(state)],
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        if state.exists():  # the next peer may need the room
            shutil.rmtree(state)
        if done.returncode:
            raise click.ClickException(f"{name} failed: {done.stderr[-2000:]}")
        seen, took_s, took_cpu_s = map(float, done.stdout.split()[-3:])
        self.cpu_s[name].append(took_cpu_s / seen * 1e6)
        return seen / took_s

    def runners(self, peers: Path) -> dict[str, Callable[[int], float]]:
        """All runners, in the order of a round."""
        here = Path(__file__).parent
        module = [sys.executable, "-m"]
        java = [find_java(), "-Xmx1g", f"-Djava.io.tmpdir={self._suite.scratch}"]
        java += ["-cp", f"{peers}/streams/lib/*:{peers}/streams", "Fold"]
        quix = [sys.executable, str(here / "quix_fold.py")]
        quix_env = {"PYTHONPATH": str(peers / "quix")}
        stock = [*module, "readstates.ops.bench.stock_faust"]
        redis = [*module, "readstates.ops.bench.redis_fold"]
        bare = [*module, "readstates.ops.bench.bare_consumer"]
        return {
            LIMIT: lambda n: self.peer(LIMIT, bare, n, {}),
            STOCK: lambda n: self.peer(STOCK, stock, n, {}),
            QUIX: lambda n: self.peer(QUIX, quix, n, quix_env),
            REDIS: lambda n: self.peer(REDIS, redis, n, {}),
            STREAMS: lambda n: self.peer(STREAMS, java, n, {}),
            RESIDENT: lambda n: self.ours(RESIDENT, n),
            COLD: lambda n: self.ours(COLD, n),
        }


def picture(path: Path, rates: dict[str, list[float]], cpu_s: dict[str, list[float]]) -> None:
    """Draw two bars per contender: medians of updates per second and of CPU s per million."""
    import statistics

    import matplotlib  # type: ignore[import-not-found]  # installed by peers.sh

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(rates)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), sharey=True)
    shown: list[tuple[Any, dict[str, list[float]], str]] = [
        (left, rates, "updates per second"),
        (right, cpu_s, "CPU seconds per million updates"),
    ]
    for axes, values, title in shown:
        medians = [statistics.median(values[name]) for name in names]
        colours = ["tab:green" if name.startswith("ours") else "tab:grey" for name in names]
        bars = axes.barh(names, medians, color=colours)
        axes.bar_label(
            bars, [f"{value:,.3g}" if value < 100 else f"{value:,.0f}" for value in medians]
        )
        axes.set_title(title)
        axes.margins(x=0.18)
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def run(suite: Suite) -> None:
    """Run all contenders in turn, in several rounds."""
    peers = Path(os.environ["PEERS"]).resolve()
    bench = Bench(suite, suite.owner.stack(progress=suite.say))
    bench.prepare()
    rates = suite.in_turn(bench.runners(peers))
    suite.measured["updates_a_second"] = rates
    suite.measured["cpu_seconds_per_million_updates"] = bench.cpu_s
    suite.measured["cassandra_cpu_seconds_per_million_updates"] = bench.cassandra_cpu_s
    suite.measured["rows_written"] = bench.rows
    suite.measured["updates_a_second_until_seen"] = bench.seen
    for peer in (STOCK, QUIX, REDIS, STREAMS, LIMIT):
        ours, theirs = bench.seen[RESIDENT], rates[peer]
        what, goal = "resident users, until readers see all", Goal(SEEN_GOALS.get(peer))
        suite.line(what, ours, peer, theirs, "updates/s", goal)
        what, ours = "resident users, to the last commit", rates[RESIDENT]
        suite.line(what, ours, peer, theirs, "updates/s")
        what, goal = "CPU s per 10^6 updates", Goal(at_most=CPU_GOALS.get(peer))
        suite.line(what, bench.cpu_s[RESIDENT], peer, bench.cpu_s[peer], "s", goal)
    suite.line("cold users, to the last commit", rates[COLD], LIMIT, rates[LIMIT], "updates/s")
    cassandra = bench.cassandra_cpu_s[RESIDENT]
    suite.bound("Cassandra's own CPU s per 10^6 updates", cassandra, "s", Goal())
    suite.leave_out("event forms other than plain acks and mentions; peers' commits and changelogs")
    suite.folder.mkdir(parents=True, exist_ok=True)
    picture(suite.folder / f"{suite.bench}.png", rates, bench.cpu_s)
