"""Loads users who are not resident, with one request for each user or one for several users.

A single miss is requested at once and alone. At most LOADS_IN_FLIGHT_MAX requests are under way.
When more users wait than requests are free, up to LOAD_BATCH_USERS share a request, so that each
user costs less when many of them are not resident.
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
from .store import Store

Wanted = tuple[Partition, int, int, int]  # partition, its incarnation, user, ticket


class Loader:
    """`want` a user; the rows arrive at its partition's `loaded`, and `woken` is called."""

    def __init__(self, store: Store, settings: Settings, woken: Callable[[], None]) -> None:
        self._store = store
        self._settings = settings
        self._woken = woken
        self._waiting: deque[Wanted] = deque()
        self._in_flight = 0
        self._scheduled = False
        self._paused = False  # for LOAD_RETRY_S after a failure, because loads would fail again

    def want(self, partition: Partition, user_id: int, ticket: int) -> None:
        """Load a user; those wanted in one iteration of the event loop may share a request."""
        self._waiting.append((partition, partition.incarnation, user_id, ticket))
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._start)

    def _start(self) -> None:
        self._scheduled = False
        while (
            self._waiting
            and not self._paused
            and self._in_flight < self._settings.loads_in_flight_max
        ):
            batch: list[Wanted] = []
            while self._waiting and len(batch) < self._settings.load_batch_users:
                wanted = self._waiting.popleft()
                if wanted[0].wants_load(*wanted[1:]):
                    batch.append(wanted)
            if batch:
                self._load(batch)

    def _load(self, batch: list[Wanted]) -> None:
        self._in_flight += 1
        started = time.perf_counter()

        def done(rows: dict[int, list[Row]] | None) -> None:
            self._in_flight -= 1
            metrics.LOAD_SECONDS.observe(time.perf_counter() - started)
            if rows is None:
                metrics.LOADS.labels("failed").inc(len(batch))
                self._waiting.extendleft(reversed(batch))
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
