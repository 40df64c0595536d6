"""One curve of the graph, in a process of its own: the service's code on a timetable.

    python -m readstates.ops.bench.graph_curve KIND FREEZE STATES FLUSH_S CORE FOLDER

KIND is `ours` or `heap`, FREEZE is `start`, `never` or `full`, and CORE is a number or `any`. The
table's file is created in FOLDER, which is removed once the table is open. Orders arrive on
standard input; each is answered with one line of JSON:
    fill        fill the table with users, and force full collections when it is an eighth, a
                quarter, half and completely full
    run S       run S seconds of the timetable

In each millisecond of the timetable there are updates and queries of resident users, and queries of
users who come online and are loaded; each arrival evicts the coldest user. Four times per second a
message mentions a crowd, all at once. The fold, the queries, the loader and the write-behind are
the worker's (`Partitions`, `BackgroundLoops`), on an asyncio loop. Lists stand in for Kafka. The
stand-in for Cassandra answers after two milliseconds, with rows that are made while no work is due
(`graph_traffic.py`).

A query's latency counts from the moment when it was due, so it includes a wait behind a pause.
Until the next work is due, the same thread runs the no-op loop, which only reads the clock. The
largest step between two readings shows for how long the machine held up this process.

`start`: the collector is set as the worker sets it, before there is anything in the table; `never`:
nothing is frozen, and the thresholds are CPython's; `full`: the heap is frozen once the table is
full.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import shutil
import sys
import time
from array import array
from collections import deque
from pathlib import Path
from typing import Any

import orjson

from readstates.cache import layout
from readstates.cache.tablefile import TableIdentity, open_table
from readstates.schemas.headers import HEADER_CORRELATION_ID, HEADER_REPLY_TOPIC
from readstates.schemas.queries import Get, encode_query
from readstates.schemas.version import EPOCH_FIRST
from readstates.streams.config import Settings
from readstates.streams.partition.batch import Batch
from readstates.streams.partition.decode_buffer import DecodeBuffer
from readstates.streams.partition.partition import Partition
from readstates.streams.partition.watermark import Watermark
from readstates.streams.priorities import GIL_SWITCH_S
from readstates.streams.worker.commits import Commits
from readstates.streams.worker.loops import BackgroundLoops
from readstates.streams.worker.owned import OwnedPartition
from readstates.streams.worker.partitions import Partitions
from readstates.streams.worker.service import freeze_heap

from .graph_traffic import STATES_A_USER, Output, Record, Store, channel_id, rows_of, user_id
from .heap_table import HeapTable

TICK_S = 0.001
UPDATES, ASKED, ARRIVALS = 10, 2, 2  # per tick: updates, queries of residents, users coming online
CROWD, CROWD_TICKS = 2500, 250  # users that one message mentions; ticks between such messages
HOT_SHARE = 0.5  # of the residents: the users who have updates and queries
LOADED_BEFORE = 100  # how many of the last users to come online may not be loaded yet
COMMIT_TICKS = 1000
START = 10**10  # the log's position at the beginning; rows of the database are older
WALL_MS = 1_800_000_000_000
PAUSE_S = 0.0002  # shorter pauses are only counted
COLLECTIONS = 3  # how many are forced at each size

clock = time.perf_counter


class Measured:
    """The measurements of one `run` order."""

    def __init__(self) -> None:
        self.queries, self.query_ticks = array("d"), array("q")  # latencies of residents' queries
        self.updates = array("d")  # latencies of the last update of each batch
        self.noop = array("d")  # the slowest no-op of each tick
        self.idle_s = 0.0
        self.turn = (0.0, 0.0)  # the longest turn of the loop: wall clock, CPU


class Curve:
    """See the module."""

    def __init__(self, kind: str, states: int, flush_delay_s: float, folder: Path) -> None:
        settings = Settings.load({}, cache_states=states, flush_delay_s=flush_delay_s)
        most = settings.user_states_max
        if kind == "ours":
            identity = TableIdentity(bytes(16), EPOCH_FIRST, 0, "bench")
            self.table: Any = open_table(folder / "graph.table", identity, states, most).table
        else:
            self.table = HeapTable(layout.slots_for(states), most)
        self.states = states
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.store, self.output = Store(), Output()
        store: Any = self.store
        output: Any = self.output
        self.partitions = Partitions(settings, store, output, output, now_ms=self.now_ms)
        self.partition = Partition(
            0,
            table=self.table,
            position=START,
            committed=START,
            catch_up_to=START,
            epoch=EPOCH_FIRST,
            partitions=1,
            incarnation=1,
            parked_max=settings.parked_max,
            parked_bytes_max=settings.parked_bytes_max,
            inbox_max=settings.inbox_max,
            inbox_bytes_max=settings.inbox_bytes_max,
            reader=DecodeBuffer(),
            effects=self.partitions,
        )
        self.partition.note_live_commit()
        no_file: Any = None
        self.partitions.owned[0] = OwnedPartition(self.partition, no_file, 0, Watermark(0))
        no_member: Any = None
        loops = BackgroundLoops(self.partitions, Commits(settings, no_member, ""), store)
        self.tasks = [
            self.loop.create_task(endless)
            for endless in (loops.fold(), loops.write_out(), loops.expire())
        ]
        self.online = 0  # users who have come online so far
        self.offset, self.asked, self.messages = START, 0, 0
        self.crowd: list[Record] = []
        self.folding: deque[tuple[int, float]] = deque()  # batches: end, and when they were due
        self.ticks = 0
        self.random = random.Random(1)
        self.origin = 0.0  # of this process's own time, which stops between two runs
        self.pauses: list[tuple[float, int, float]] = []  # at, generation, seconds
        self._collecting = 0.0
        self.measured = Measured()
        self.output.replied = self._replied

    def now_ms(self) -> int:
        return WALL_MS + int((clock() - self.origin) * 1000)

    def on_collection(self, phase: str, info: dict[str, int]) -> None:
        """Note that CPython's collector begins or ends."""
        if phase == "start":
            self._collecting = clock()
        else:
            now = clock()
            self.pauses.append((now - self.origin, info["generation"], now - self._collecting))

    # -- filling ------------------------------------------------------------------------------

    def fill(self) -> dict[str, Any]:
        """Fill the table; returns the pauses of full collections, by number of resident states."""
        pauses: dict[int, list[float]] = {}
        sizes = [self.states // part for part in (8, 4, 2, 1)]
        table, slots = self.table, 1 + STATES_A_USER
        begin = clock()
        while table.free >= slots:
            table.insert(user_id(self.online), 0, False, rows_of(self.online))
            self.online += 1
            if sizes and table.resident_states >= sizes[0]:
                pauses[sizes.pop(0)] = [_collect() for _ in range(COLLECTIONS)]
        return {"fill_s": clock() - begin, "states": table.resident_states, "collections": pauses}

    # -- the timetable ------------------------------------------------------------------------

    def run(self, seconds: float) -> dict[str, Any]:
        """Run some seconds of the timetable."""
        self.measured = measured = Measured()
        self.pauses = []
        first, evicted = self.ticks, self.table.evictions
        written = self.store.rows_written
        begin = clock()
        # Callbacks that the last run left behind still run, and read `origin`: set it first.
        self.origin = begin + 0.01 - self.ticks * TICK_S
        self.loop.run_until_complete(self._drive(int(seconds / TICK_S)))
        took_s = clock() - begin
        for task in self.tasks:
            if task.done():
                task.result()
        queries, updates = sorted(measured.queries), sorted(measured.updates)
        return {
            "seconds": _seconds(measured, first),
            "p999_ms": 1000 * _quantile(queries, 0.999),
            "slowest_ms": 1000 * queries[-1],
            "noop_ms": 1000 * max(measured.noop),
            "turn_ms": [1000 * seconds for seconds in measured.turn],
            "update_ms": [1000 * _quantile(updates, share) for share in (0.5, 0.99, 1)],
            "busy": 1 - measured.idle_s / took_s,
            "late_s": took_s - seconds,
            "pauses": [pause for pause in self.pauses if pause[2] > PAUSE_S],
            "collections": [sum(p[1] == number for p in self.pauses) for number in range(3)],
            "states": self.table.resident_states,
            "evictions": self.table.evictions - evicted,
            "rows_written": self.store.rows_written - written,
            "errors": self.output.errors,
        }

    async def _drive(self, ticks: int) -> None:
        measured, noops = self.measured, self.measured.noop
        partition, partitions = self.partition, self.partitions
        for tick in range(self.ticks, self.ticks + ticks):
            self.ticks = self.store.tick = tick
            self.store.answer(self.loop)
            if tick % COMMIT_TICKS == 0:
                self.loop.call_soon(partition.progress.committable)
            batch, queries = self._records()
            due = self.origin + tick * TICK_S
            while partition.inbox and clock() < due:
                await self._turn(measured)
            began = before = clock()
            slowest = 0.0
            while before < due:  # the no-op loop
                now = clock()
                if now - before > slowest:
                    slowest = now - before
                before = now
            noops.append(slowest)
            measured.idle_s += before - began
            self.folding.append((batch.end, due))
            partitions.take_updates(0, partition.incarnation, batch)
            partitions.queries.take_queries(0, partition.incarnation, queries)
            await self._turn(measured)
        self.ticks += 1

    async def _turn(self, measured: Measured) -> None:
        """Run once whatever is ready, and time it, because a query may have to wait that long."""
        cpu, began = time.thread_time(), clock()
        await asyncio.sleep(0)
        ended = clock()
        if ended - began > measured.turn[0]:
            measured.turn = ended - began, time.thread_time() - cpu
        while self.folding and self.folding[0][0] <= self.partition.position:
            measured.updates.append(ended - self.folding.popleft()[1])

    def _records(self) -> tuple[Batch, Batch]:
        """The updates and queries that are due next."""
        ms = WALL_MS + self.ticks
        updates = [self._update(False, ms) for _ in range(UPDATES)]
        self.crowd += [self._update(True, ms) for _ in range(CROWD // CROWD_TICKS)]
        if len(self.crowd) >= CROWD:
            updates += self.crowd
            self.crowd = []
        begin = self.offset
        for record in updates:
            record.offset = self.offset
            self.offset += 1
        queries = []
        for place in range(ASKED):
            number = self._resident()
            some = (channel_id(number, 0),) if place % 2 else None
            queries.append(self._query(Get(user_id(number), some), self.ticks, ms))
        for _ in range(ARRIVALS):
            queries.append(self._query(Get(user_id(self.online)), -1, ms))
            self.online += 1
        return Batch(begin, updates, self.offset), Batch(
            self.asked - len(queries), queries, self.asked
        )

    def _resident(self) -> int:
        """One of the users who came online last and are loaded."""
        newest = self.online - LOADED_BEFORE
        return newest - int(self.random.random() * self.states / STATES_A_USER * HOT_SHARE)

    def _update(self, mention: bool, ms: int) -> Record:
        number = self._resident()
        user = user_id(number)
        self.messages += 1
        event = {
            "type": "mention" if mention else "ack",
            "user_id": user,
            "channel_id": channel_id(number, int(self.random.random() * STATES_A_USER)),
            "message_id": 2 * 10**18 + self.messages,
        }
        return Record("updates", 0, b"%d" % user, orjson.dumps(event), ms)

    def _query(self, get: Get, correlation: int, ms: int) -> Record:
        headers = (
            (HEADER_REPLY_TOPIC, b"read-states.replies.bench"),
            (HEADER_CORRELATION_ID, b"%d" % correlation),
        )
        self.asked += 1
        key = b"%d" % get.user_id
        return Record("queries", self.asked - 1, key, encode_query(get), ms, headers)

    def _replied(self, tick: int) -> None:
        """Note a reply to a resident. Others had to wait for the database, and are not noted."""
        if tick >= 0:
            self.measured.queries.append(clock() - self.origin - tick * TICK_S)
            self.measured.query_ticks.append(tick)


def _collect() -> float:
    begin = clock()
    gc.collect()
    return clock() - begin


def _quantile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _seconds(measured: Measured, first: int) -> list[list[float]]:
    """A line per second: second, p50, p99, slowest query, slowest no-op; in ms."""
    by_second: dict[int, list[float]] = {}
    noops: dict[int, float] = {}
    for tick, latency in zip(measured.query_ticks, measured.queries, strict=True):
        by_second.setdefault(int(tick * TICK_S), []).append(1000 * latency)
    for tick, noop in enumerate(measured.noop, first):
        second = int(tick * TICK_S)
        noops[second] = max(noops.get(second, 0), 1000 * noop)
    lines = []
    for second, latencies in sorted(by_second.items()):
        latencies.sort()
        p50, p99 = _quantile(latencies, 0.5), _quantile(latencies, 0.99)
        lines.append([second, p50, p99, latencies[-1], noops[second]])
    return lines


def main() -> None:
    """Obey orders until the input ends."""
    kind, freeze, states, flush_delay_s, core, folder = sys.argv[1:7]
    if core != "any":
        os.sched_setaffinity(0, {int(core)})
    sys.setswitchinterval(GIL_SWITCH_S)
    if freeze == "start":
        freeze_heap()
    curve = Curve(kind, int(states), float(flush_delay_s), Path(folder))
    shutil.rmtree(folder)  # the table needs no name: it disappears with this process
    for order in sys.stdin:
        what, *args = order.split()
        if what == "fill":
            answer = curve.fill()
            if freeze == "full":
                freeze_heap()
            gc.callbacks.append(curve.on_collection)
        else:
            answer = curve.run(float(args[0]))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
