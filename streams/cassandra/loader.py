"""Loads users who are not resident, with one request for each user or one for several users.

A single miss is requested at once and alone. At most LOADS_IN_FLIGHT_MAX requests are under way.
When more users wait than requests are free, up to LOAD_BATCH_USERS share a request, so that each
user costs less when many of them are not resident.

One message that mentions a crowd makes thousands of loads for which only updates wait. Users whom a
query waits for are loaded before them and find a request free: the others get three quarters of the
requests, and one quarter while a query's user is being loaded, because the database would otherwise
answer that load last. That quarter is reserved, so that queries do not hold up updates for ever.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from readstates.schemas.read_state import Row

from .. import metrics
from ..config import Settings
from ..partition.partition import Partition
from ..priorities import UPDATES_SHARE, UPDATES_SHARE_BESIDE_QUERIES
from .store import Store

Wanted = tuple[Partition, int, int, int]  # partition, its incarnation, user, ticket


class Loader:
    """`want` a user; the rows arrive at its partition's `loaded`, and `woken` is called."""

    def __init__(self, store: Store, settings: Settings, woken: Callable[[], None]) -> None:
        self._store = store
        self._settings = settings
        self._woken = woken
        self._asked: deque[Wanted] = deque()  # a query waits for each of them
        self._waiting: deque[Wanted] = deque()  # some are in `_asked`, too
        self._under_way: set[tuple[int, int]] = set()  # incarnation and ticket of each
        self._in_flight = 0  # requests, of both kinds
        self._asked_in_flight = 0
        self._scheduled = False
        self._paused = False  # for LOAD_RETRY_S after a failure, because loads would fail again

    def want(self, partition: Partition, user_id: int, ticket: int, *, asked: bool) -> None:
        """Load a user; those wanted in one iteration of the event loop may share a request."""
        queue = self._asked if asked else self._waiting
        queue.append((partition, partition.incarnation, user_id, ticket))
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._start)

    def _start(self) -> None:
        self._scheduled = False
        while not self._paused and self._in_flight < self._settings.loads_in_flight_max:
            if self._asked and self._asked_in_flight < self._asked_max():
                queue = self._asked
            elif self._waiting and self._in_flight - self._asked_in_flight < self._updates_max():
                queue = self._waiting
            else:
                break
            batch = self._take(queue)
            if batch:
                self._load(batch, queue)

    def _asked_max(self) -> int:
        """How many requests may be under way for users whom a query waits for."""
        most = self._settings.loads_in_flight_max
        return max(1, most - int(most * UPDATES_SHARE_BESIDE_QUERIES)) if self._waiting else most

    def _updates_max(self) -> int:
        """How many requests may be under way for users for whom only updates wait."""
        share = UPDATES_SHARE_BESIDE_QUERIES if self._asked_in_flight else UPDATES_SHARE
        return max(1, int(self._settings.loads_in_flight_max * share))

    def _take(self, queue: deque[Wanted]) -> list[Wanted]:
        """The next users of a queue who are still wanted and not under way, for one request."""
        batch: list[Wanted] = []
        while queue and len(batch) < self._settings.load_batch_users:
            wanted = queue.popleft()
            partition, incarnation, user_id, ticket = wanted
            if (incarnation, ticket) in self._under_way:
                continue
            if partition.wants_load(incarnation, user_id, ticket):
                self._under_way.add((incarnation, ticket))
                batch.append(wanted)
        return batch

    def _load(self, batch: list[Wanted], queue: deque[Wanted]) -> None:
        """Request a batch; after a failure it goes back into its queue, before the others."""
        asked = int(queue is self._asked)
        self._in_flight += 1
        self._asked_in_flight += asked
        started = time.perf_counter()

        def done(rows: dict[int, list[Row]] | None) -> None:
            self._in_flight -= 1
            self._asked_in_flight -= asked
            metrics.LOAD_SECONDS.observe(time.perf_counter() - started)
            self._under_way.difference_update((wanted[1], wanted[3]) for wanted in batch)
            if rows is None:
                metrics.LOADS.labels("failed").inc(len(batch))
                queue.extendleft(reversed(batch))
                self._pause()
            else:
                metrics.LOADS.labels("loaded").inc(len(batch))
                for partition, incarnation, user_id, ticket in batch:
                    partition.loaded(incarnation, user_id, ticket, rows[user_id])
                self._woken()
            self._start()

        self._store.load([user_id for _, _, user_id, _ in batch], done)

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            loop = asyncio.get_running_loop()
            loop.call_later(self._settings.load_retry_s, self._go_on)

    def _go_on(self) -> None:
        self._paused = False
        self._start()
