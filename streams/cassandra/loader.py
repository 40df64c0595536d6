"""Loads of users who are not resident: one flight a user, a bound on flights, many users a flight.

A single miss goes out at once, alone. When more users wait than flights are free, they share
them, up to LOAD_BATCH_USERS a request: under a crowd of cold users the cost a user falls.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any

from readstates.schemas.read_state import Row

from .. import metrics
from ..config import Settings
from ..partition.partition import Partition
from .store import Store

Wanted = tuple[Partition, int, int, int]  # partition, its incarnation, user, ticket


class Loader:
    """`want` a user; the rows arrive at its partition's `loaded`, and `woken` is called."""

    def __init__(self, store: Store, settings: Settings, woken: Any) -> None:
        self._store = store
        self._settings = settings
        self._woken = woken
        self._waiting: deque[Wanted] = deque()
        self._in_flight = 0
        self._scheduled = False
        self._paused = False  # after a failure: with the database gone, loads fail at once

    @property
    def backlog(self) -> int:
        """Users asked for and not yet under way."""
        return len(self._waiting)

    def want(self, partition: Partition, user_id: int, ticket: int) -> None:
        """Load a user; requests made in one turn of the loop may share a flight."""
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
            flight: list[Wanted] = []
            while self._waiting and len(flight) < self._settings.load_batch_users:
                wanted = self._waiting.popleft()
                if wanted[0].wants_load(*wanted[1:]):
                    flight.append(wanted)
            if flight:
                self._load(flight)

    def _load(self, flight: list[Wanted]) -> None:
        self._in_flight += 1
        started = time.perf_counter()

        def done(found: dict[int, list[Row]] | None) -> None:
            self._in_flight -= 1
            metrics.LOAD_SECONDS.observe(time.perf_counter() - started)
            if found is None:
                metrics.LOADS.labels("failed").inc(len(flight))
                self._waiting.extendleft(reversed(flight))
                self._pause()
            else:
                metrics.LOADS.labels("loaded").inc(len(flight))
                for partition, incarnation, user_id, ticket in flight:
                    partition.loaded(incarnation, user_id, ticket, found[user_id])
                self._woken()
            self._start()

        self._store.load([user_id for _, _, user_id, _ in flight], done)

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            loop = asyncio.get_running_loop()
            loop.call_later(self._settings.load_retry_s, self._go_on)

    def _go_on(self) -> None:
        self._paused = False
        self._start()
