"""Misses: users per second, and latency, of users who must be loaded from Cassandra.

Ours: a query for each user is put to a real partition, which asks the loader; it ends when the user
is resident and the query answered. The peer: a bare `execute_async` of the same prepared SELECT,
which fetches the rows and does nothing with them. Both run in the same process with the same rows
(ten per user), every user once.
- A crowd: all users are wanted as fast as possible. Ours asks for LOAD_BATCH_USERS users in one
  SELECT and has LOADS_IN_FLIGHT_MAX under way; so does the peer. A second peer asks for one user
  in each SELECT and has as many users under way.
- One by one: LOADS_IN_FLIGHT_MAX users are under way, and the next one follows when one has come.
  This measures latencies.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from readstates.schemas.headers import ReplyAddress
from readstates.schemas.queries import Get
from readstates.schemas.replies import Answer
from readstates.streams.cassandra.loader import Loader
from readstates.streams.cassandra.row_bytes import Change
from readstates.streams.cassandra.store import Store
from readstates.streams.config import Settings
from readstates.streams.partition.partition import Partition
from readstates.streams.partition.query import Query

from . import picture
from .in_process import EPOCH, Local, World, cassandra
from .suite import Goal, Suite

STATES_A_USER = 10
FIRST_USER = 10**17
FILL_IN_FLIGHT = 64
BATCH_ROWS = 30


async def fill(store: Store, users: int) -> None:
    """Write the rows of `users` users, ten each."""
    room = asyncio.Semaphore(FILL_IN_FLIGHT)
    version = (EPOCH << 48) | 1
    rows: Iterator[Change] = (
        (user, version, (0, 10**17 + place, 10**18, 0, 0, 0, 0, 0, version, b""))
        for user in range(FIRST_USER, FIRST_USER + users)
        for place in range(STATES_A_USER)
    )

    def done(acknowledged: bool | None) -> None:
        assert acknowledged
        room.release()

    while batch := list(itertools.islice(rows, BATCH_ROWS)):
        await room.acquire()
        store.write(batch, done)
    for _ in range(FILL_IN_FLIGHT):
        await room.acquire()


class Asking(World):
    """Asks a partition for users, so many at a time; notes when each was answered."""

    def __init__(self, store: Store, settings: Settings, under_way: int) -> None:
        super().__init__()
        self.loader = Loader(store, settings, lambda: None)
        self.under_way = under_way
        self.took_s: list[float] = []
        self._begun: dict[int, float] = {}
        self._all = asyncio.Event()

    def load(self, partition: Partition, user_id: int, ticket: int, asked: bool) -> None:
        self.loader.want(partition, user_id, ticket, asked=asked)

    def answer(self, query: Query, answer: Answer, hit: bool) -> None:
        assert len(answer.rows) == STATES_A_USER
        self.took_s.append(time.perf_counter() - self._begun.pop(query.get.user_id))
        self._next()

    def _next(self) -> None:
        for user_id in itertools.islice(self._users, 1):
            self._begun[user_id] = time.perf_counter()
            self._partition.queries.ask(_query(user_id))
        if not self._begun:
            self._all.set()

    async def run(self, partition: Partition, user_ids: Sequence[int]) -> None:
        self._partition, self._users = partition, iter(user_ids)
        for _ in range(self.under_way):
            self._next()
        await self._all.wait()


def _query(user_id: int) -> Query:
    return Query(
        Get(user_id),
        ReplyAddress("replies", None, None, "plain"),
        key=b"%d" % user_id,
        partition=0,
        incarnation=1,
        offset=0,
        timestamp_ms=0,
        deadline_ms=10**15,
        taken_ns=0,
    )


def bare(store: Store, user_ids: Sequence[int], under_way: int, together: int) -> list[float]:
    """Seconds of each SELECT: `under_way` of them at once, with `together` users each."""
    # The bench asks past the store, on its own session and with its own statement.
    session, select = store._session, store._select  # noqa: SLF001
    room = threading.Semaphore(under_way)
    took_s: list[float] = []
    failures: list[Any] = []

    def done(rows: Any, begun: float, count: int) -> None:
        assert len(list(rows)) == count * STATES_A_USER
        took_s.append(time.perf_counter() - begun)
        room.release()

    def failed(exc: Any, _begun: float, _count: int) -> None:
        failures.append(exc)
        room.release()

    for at in range(0, len(user_ids), together):
        room.acquire()
        users = list(user_ids[at : at + together])
        about = (time.perf_counter(), len(users))
        future = session.execute_async(select, (users,))
        future.add_callbacks(done, failed, callback_args=about, errback_args=about)
    for _ in range(under_way):
        room.acquire()
    if failures:
        raise failures[0]
    return took_s


class Bench:
    """Asks for every user once per call; keeps the latencies of each kind's last call."""

    def __init__(self, suite: Suite, settings: Settings, store: Store, users: int) -> None:
        self.suite, self.settings, self.store = suite, settings, store
        self.user_ids = list(range(FIRST_USER, FIRST_USER + users))
        self.latency_s: dict[str, list[list[float]]] = {}

    def users(self, round_: int) -> list[int]:
        return random.Random(round_).sample(self.user_ids, len(self.user_ids))

    def ours(self, name: str, under_way: int, round_: int) -> float:
        begin = time.perf_counter()

        async def ask() -> list[float]:
            world = Asking(self.store, self.settings, under_way)
            states = int(1.2 * len(self.user_ids) * (STATES_A_USER + 1))
            local = Local(self.suite.scratch / "tables", states, world)
            nonlocal begin
            begin = time.perf_counter()
            await world.run(local.partition, self.users(round_))
            self._note(name, world.took_s)
            took_s = time.perf_counter() - begin
            local.close()
            return [took_s]

        return len(self.user_ids) / asyncio.run(ask())[0]

    def peer(self, name: str, under_way: int, together: int, round_: int) -> float:
        users = self.users(round_)
        begin = time.perf_counter()
        self._note(name, bare(self.store, users, under_way, together))
        return len(users) / (time.perf_counter() - begin)

    def _note(self, name: str, took_s: list[float]) -> None:
        self.latency_s.setdefault(name, []).append(sorted(took_s))

    def quantile_ms(self, name: str, share: float) -> list[float]:
        """One figure per round."""
        return [1000 * took[int(share * (len(took) - 1))] for took in self.latency_s[name]]


def run(suite: Suite) -> None:
    users = 5_000 if suite.quick else 40_000
    with cassandra(suite, "bench_misses") as (settings, store):
        asyncio.run(fill(store, users))
        bench = Bench(suite, settings, store, users)
        flights, batch = settings.loads_in_flight_max, settings.load_batch_users
        bench.ours("warm-up", flights, 0)
        crowd = suite.in_turn(
            {
                "crowd: same SELECT, users/s": lambda n: bench.peer("crowd", flights, batch, n),
                "crowd: one a SELECT, users/s": lambda n: bench.peer("1", flights * batch, 1, n),
                "crowd: ours, users/s": lambda n: bench.ours("crowd, ours", 4 * flights * batch, n),
            }
        )
        single = suite.in_turn(
            {
                "one by one: SELECT, users/s": lambda n: bench.peer("peer", flights, 1, n),
                "one by one: ours, users/s": lambda n: bench.ours("ours", flights, n),
            }
        )
    same, alone, ours = crowd.values()
    suite.line("a crowd", ours, "the same SELECT", same, "users/s", Goal(at_least=0.7))
    suite.line("a crowd", ours, "one user a SELECT", alone, "users/s", Goal(at_least=0.7))
    bare_one, ours_one = single.values()
    what = f"one by one, {flights} under way"
    suite.line(what, ours_one, "SELECT", bare_one, "users/s", Goal(at_least=0.7))
    for share in (0.5, 0.99):
        mine, theirs = bench.quantile_ms("ours", share), bench.quantile_ms("peer", share)
        goal = Goal(at_most=1.5) if share == 0.99 else Goal()
        suite.line(f"{what}, p{100 * share:g}", mine, "SELECT", theirs, "ms", goal)
    suite.measured["latency_ms"] = {
        name: {f"p{100 * q:g}": statistics.median(bench.quantile_ms(name, q)) for q in QUANTILES}
        for name in bench.latency_s
    }
    if not suite.quick:
        draw(suite, bench)


QUANTILES = (0.5, 0.9, 0.99, 0.999)


def draw(suite: Suite, bench: Bench) -> None:
    """Draw the latencies of the last round, as quantiles."""
    figure, (axis,) = picture.figure("a user loaded, one by one", 1, width=6)
    for name, label, colour in (
        ("ours", "ours, to the answer", picture.BLUE),
        ("peer", "bare SELECT", picture.ORANGE),
    ):
        took = bench.latency_s[name][-1]
        shares = [place / len(took) for place in range(len(took))]
        axis.plot([1000 * s for s in took], shares, color=colour, label=label)
    axis.set_xscale("log")
    axis.set_xlabel("ms")
    axis.set_ylabel("share of users")
    axis.legend(frameon=False, labelcolor=picture.INK)
    picture.save(suite, figure, "misses")
