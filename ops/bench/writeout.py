"""Write-out: rows per second, the client's CPU per row, and how many rows an update becomes.

Rows: users with ten changed read states each wait in a table; ours writes them out as at a handover
(it takes them from the table, packs them, sends the batches, and waits for every acknowledgement).
The peer writes the same rows from a list: one prepared INSERT per row by `execute_async`, with as
many under way as suits it. Both take turns in the same process with the same Cassandra; CPU is that
of the whole process, driver included.

Coalescing: the demo's traffic goes through a partition whose clock is the traffic's own, so that a
change waits for FLUSH_DELAY_S of that time. The peer is one INSERT for each read state that an
update names (a bulk_ack names several). How much is saved depends on how often a read state changes
within the delay, and so on the rate, as the curve shows; the goal is for the rate of one worker.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Sequence
from typing import Any

import orjson

from readstates.schemas.events import BulkAck
from readstates.schemas.fields import DecodeError
from readstates.schemas.wire import decode_update
from readstates.streams.cassandra.store import Store
from readstates.streams.config import Settings
from readstates.streams.partition.partition import Partition

from ..proof.traffic import Record, Traffic
from . import picture
from .in_process import Local, cassandra, write_all
from .suite import Goal, Suite

STATES_A_USER = 10
UNDER_WAY = 256  # of the peer, at once
USERS = 30_000  # as the demo
WORKER_RATE = 50_000  # updates/s: an assumption
RATES = (1_000, 5_000, 12_000, WORKER_RATE)
STEP_MS = 100
INSERT_US_MAX = 10.0


def changed(users: int, round_: int) -> list[Record]:
    """One event per user, which changes its ten read states in another way each round."""
    records = []
    for number in range(users):
        user_id = 10**17 + number
        acks = [
            {"channel_id": 10**17 + number % 1000 + place, "message_id": 10**18 + round_}
            for place in range(STATES_A_USER)
        ]
        event = {"type": "bulk_ack", "user_id": user_id, "acks": acks}
        records.append(Record(b"%d" % user_id, orjson.dumps(event)))
    return records


def bare(store: Store, rows: Sequence[tuple[Any, ...]]) -> None:
    """Send one prepared INSERT per row, UNDER_WAY at once; returns when all are acknowledged."""
    # The bench writes past the store, on its own session and with its own statement.
    session, insert = store._session, store._insert  # noqa: SLF001
    room = threading.Semaphore(UNDER_WAY)
    failures: list[Any] = []

    def done(_rows: Any) -> None:
        room.release()

    def failed(exc: Any) -> None:
        failures.append(exc)
        room.release()

    for row in rows:
        room.acquire()
        session.execute_async(insert, row).add_callbacks(done, failed)
    for _ in range(UNDER_WAY):
        room.acquire()
    if failures:
        raise failures[0]


class Rows:
    """Both ways to write the same rows, and their costs by round."""

    def __init__(self, suite: Suite, settings: Settings, store: Store, users: int) -> None:
        self.settings, self.store = settings, store
        self.users, self.rows = users, users * STATES_A_USER
        self.local = Local(suite.scratch / "tables", int(1.2 * (self.rows + users)))
        self.cpu_us: dict[str, list[float]] = {"ours": [], "peer": []}

    def ours(self, round_: int) -> float:
        self.local.feed(changed(self.users, round_))
        assert self.local.partition.table.dirty_states == self.rows
        begin, cpu = time.perf_counter(), time.process_time()
        asyncio.run(write_all(self.store, self.settings, self.local.partition))
        return self._took("ours", begin, cpu)

    def peer(self, round_: int) -> float:
        version = (8 << 48) | (10**9 + round_)
        rows = [
            (10**16 + row // 10, 0, 10**17 + row % 10, 10**18, 0, 0, 0, 0, 0, version, version)
            for row in range(self.rows)
        ]
        begin, cpu = time.perf_counter(), time.process_time()
        bare(self.store, rows)
        return self._took("peer", begin, cpu)

    def _took(self, who: str, begin: float, cpu: float) -> float:
        self.cpu_us[who].append((time.process_time() - cpu) * 1e6 / self.rows)
        return self.rows / (time.perf_counter() - begin)


def inserts(records: Sequence[Record]) -> int:
    """How many INSERTs a service would need that writes each change of these updates."""
    count = 0
    for record in records:
        try:
            event = decode_update(record.value)
        except DecodeError:
            continue
        count += len(event.acks) if isinstance(event, BulkAck) else 1
    return count


def coalescing(suite: Suite, rate: int, seconds: int, flush_delay_s: float) -> float:
    """INSERTs of such a service for one row of ours, at so many updates/s."""
    local = Local(suite.scratch / "tables", 400_000)
    partition = local.partition
    traffic = Traffic(1, USERS).updates(rate * seconds)
    rows = named = 0
    delay_ms = int(flush_delay_s * 1000)
    for now_ms in range(STEP_MS, seconds * 1000 + 1, STEP_MS):
        records = list(itertools.islice(traffic, rate * STEP_MS // 1000))
        named += inserts(records)
        local.feed(records, now_ms)
        rows += write_due(partition, now_ms, delay_ms)
    rows += write_due(partition, now_ms + delay_ms, delay_ms)  # the rest counts, too
    local.close()
    return named / rows


def write_due(partition: Partition, now_ms: int, delay_ms: int) -> int:
    """Take what is due as if it were written at once; returns how many rows."""
    rows = 0
    while writes := partition.take_writes(now_ms, delay_ms, 1000, 10**9):
        for write in writes:
            rows += len(write.rows) + bool(write.delete_version)
            partition.written(write)
    return rows


def run(suite: Suite) -> None:
    """Write rows in turn, then measure the coalescing, which is the same on every machine."""
    users = 1_000 if suite.quick else 10_000
    with cassandra(suite, "bench_writeout") as (settings, store):
        rows = Rows(suite, settings, store, users)
        rows.ours(-1), rows.peer(-1)  # both warm: connections, Cassandra's compiler
        rows.cpu_us = {"ours": [], "peer": []}
        peer, ours = suite.in_turn(
            {"an INSERT a row, rows/s": rows.peer, "ours, rows/s": rows.ours}
        ).values()
        rows.local.close()
    suite.line("rows", ours, "INSERT an update", peer, "rows/s", Goal(at_least=5))
    cpu = rows.cpu_us
    suite.line("client CPU a row", cpu["ours"], "INSERT an update", cpu["peer"], "µs")
    suite.bound("client CPU a row", cpu["ours"], "µs", Goal(at_most=INSERT_US_MAX))
    seconds = 5 if suite.quick else 90
    if suite.quick:
        suite.leave_out(f"coalescing over {90} s at 30 s of delay: {seconds} s at a sixth of it")
    delay_s = settings.flush_delay_s / (6 if suite.quick else 1)
    rates = (5_000,) if suite.quick else RATES
    saved = {rate: coalescing(suite, rate, seconds, delay_s) for rate in rates}
    suite.measured["coalescing"] = saved
    for rate, ratio in saved.items():
        goal = Goal(at_least=10) if rate == WORKER_RATE else Goal()
        suite.bound(f"INSERTs for a row of ours at {rate:,} updates/s", [ratio], "", goal)
    if not suite.quick:
        draw(suite, saved)


def draw(suite: Suite, saved: dict[int, float]) -> None:
    """Draw the rows saved, by rate."""
    figure, (axis,) = picture.figure("coalescing of the demo's traffic", 1, width=6)
    axis.plot(list(saved), list(saved.values()), "o-", color=picture.BLUE)
    axis.set_xscale("log")
    axis.set_xlabel("updates per second")
    axis.set_ylabel("INSERTs an update each, for one row of ours")
    axis.set_ylim(bottom=0)
    picture.save(suite, figure, "writeout")
