"""Loads users who are not resident, with one request for each user or one for several users.

A single miss is requested at once and alone. At most LOADS_IN_FLIGHT_MAX requests are under way.
When more users wait than requests are free, up to LOAD_BATCH_USERS share a request, so that each
user costs less when many of them are not resident.

One message that mentions a crowd makes thousands of loads for which only updates wait. Users whom a
query waits for are loaded before them and find a request free: the others get three quarters of the
requests, and one quarter while a query's user is being loaded, because the database would otherwise
answer that load last. That quarter is reserved, so that queries do not hold up updates for ever.

A few users have very many rows, and these are Python objects until the table has them. So a usual
request ends once it has too many rows (`Store.load`). Its users are then loaded one by one, at most
LARGE_IN_FLIGHT_MAX at a time, and only while their table has room.

After a failure all loads pause, because others would fail, too. But if the database has answered
others meanwhile, it may be one user whose rows it cannot read: they have too many tombstones, for
instance. The users of such a request are then loaded alone, so that only that one waits. It is
tried again after a pause of its own, which doubles.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from readstates.schemas.read_state import Row

from .. import metrics
from ..config import Settings
from ..partition.partition import Partition
from ..priorities import UPDATES_SHARE, UPDATES_SHARE_BESIDE_QUERIES
from .store import Store

log = logging.getLogger(__name__)

LARGE_IN_FLIGHT_MAX = 1  # requests for a user who may have very many rows
ALONE_RETRY_MAX_S = 30.0  # the longest pause of a user who cannot be loaded though others can
ALONE_LOG_S = 60.0  # between two log lines about such users

Wanted = tuple[Partition, int, int, int]  # partition, its incarnation, user, ticket


class Failure(NamedTuple):
    """The last failure of a user's load."""

    answered: int  # how many requests had been answered by then
    retry_s: float  # its own pause; 0: the user is not suspected of being the cause


class Loader:
    """`want` a user; the rows arrive at its partition's `loaded`, and `woken` is called."""

    def __init__(self, store: Store, settings: Settings, woken: Callable[[], None]) -> None:
        self._store = store
        self._settings = settings
        self._woken = woken
        self._asked: deque[Wanted] = deque()  # a query waits for each of them
        self._waiting: deque[Wanted] = deque()  # some are in `_asked`, too
        self._large: deque[Wanted] = deque()  # each was in a request that had too many rows
        self._large_in_flight = 0
        self._looks_again = False  # soon, whether the table of a large user has room
        self._under_way: set[tuple[int, int]] = set()  # incarnation and ticket of each
        self._in_flight = 0  # requests, of both kinds
        self._asked_in_flight = 0
        self._scheduled = False
        self._answered = 0  # requests, with rows
        self._failures: dict[tuple[int, int], Failure] = {}  # by incarnation and ticket
        self._later: set[tuple[int, int]] = set()  # of these, those in a pause of their own
        self._alone_logged = -ALONE_LOG_S
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
            if self._may_load_large():
                queue = self._large
            elif self._asked and self._asked_in_flight < self._asked_max():
                queue = self._asked
            elif self._waiting and self._in_flight - self._asked_in_flight < self._updates_max():
                queue = self._waiting
            else:
                break
            batch = self._take(queue)
            if batch:
                self._load(batch, queue)

    def _may_load_large(self) -> bool:
        if not self._large or self._large_in_flight >= LARGE_IN_FLIGHT_MAX:
            return False
        partition, incarnation, _, _ = self._large[0]
        if partition.incarnation != incarnation or not partition.room.stalled:
            return True
        self._large.rotate(-1)  # the next one may be of another partition
        if not self._looks_again:
            self._looks_again = True
            asyncio.get_running_loop().call_later(self._settings.load_retry_s, self._look_again)
        return False

    def _look_again(self) -> None:
        self._looks_again = False
        self._start()

    def _asked_max(self) -> int:
        """How many requests may be under way for users whom a query waits for."""
        most = self._settings.loads_in_flight_max
        return max(1, most - int(most * UPDATES_SHARE_BESIDE_QUERIES)) if self._waiting else most

    def _updates_max(self) -> int:
        """How many requests may be under way for users for whom only updates wait."""
        share = UPDATES_SHARE_BESIDE_QUERIES if self._asked_in_flight else UPDATES_SHARE
        return max(1, int(self._settings.loads_in_flight_max * share))

    def _take(self, queue: deque[Wanted]) -> list[Wanted]:
        """The next users of a queue who are still wanted and not under way, for one request.

        A user who is suspected of making requests fail is alone in one, and so is a large one.
        """
        batch: list[Wanted] = []
        most = 1 if queue is self._large else self._settings.load_batch_users
        while queue and len(batch) < most:
            wanted = queue.popleft()
            partition, incarnation, user_id, ticket = wanted
            key = (incarnation, ticket)
            if key in self._under_way:
                continue
            if not partition.wants_load(incarnation, user_id, ticket):
                self._failures.pop(key, None)
                continue
            failure = self._failures.get(key)
            is_suspect = failure is not None and failure.retry_s > 0
            if is_suspect and batch:
                queue.appendleft(wanted)
                break
            self._under_way.add(key)
            batch.append(wanted)
            if is_suspect:
                break
        return batch

    def _load(self, batch: list[Wanted], queue: deque[Wanted]) -> None:
        """Request a batch; after a failure it goes back into its queue, before the others."""
        asked, large = int(queue is self._asked), int(queue is self._large)
        self._in_flight += 1
        self._asked_in_flight += asked
        self._large_in_flight += large
        started = time.perf_counter()

        def done(rows: dict[int, list[Row]] | None) -> None:
            self._in_flight -= 1
            self._asked_in_flight -= asked
            self._large_in_flight -= large
            metrics.LOAD_SECONDS.observe(time.perf_counter() - started)
            self._under_way.difference_update((wanted[1], wanted[3]) for wanted in batch)
            if rows is None:
                metrics.LOADS.labels("failed").inc(len(batch))
                self._note_failure(batch, queue)
            elif not rows:  # too many for such a request
                queries_first = self._large.extendleft if asked else self._large.extend
                queries_first(reversed(batch) if asked else batch)
            else:
                self._answered += 1
                metrics.LOADS.labels("loaded").inc(len(batch))
                for partition, incarnation, user_id, ticket in batch:
                    self._failures.pop((incarnation, ticket), None)
                    partition.loaded(incarnation, user_id, ticket, rows[user_id])
                self._woken()
            self._start()

        load = self._store.load_large if large else self._store.load
        load([user_id for _, _, user_id, _ in batch], done)

    def _note_failure(self, batch: list[Wanted], queue: deque[Wanted]) -> None:
        """Put a batch that failed back, or its only user aside if it alone is the cause."""
        for _, incarnation, _, ticket in batch:
            before = self._failures.get((incarnation, ticket), Failure(self._answered, 0.0))
            retry_s = before.retry_s
            if self._answered > before.answered:  # the database answers others
                retry_s = min(max(2 * retry_s, self._settings.load_retry_s), ALONE_RETRY_MAX_S)
            self._failures[incarnation, ticket] = Failure(self._answered, retry_s)
        if len(batch) > 1 or not retry_s:
            queue.extendleft(reversed(batch))
            self._pause()
            return
        ((partition, incarnation, user_id, ticket),) = batch
        self._note_alone(partition.number, user_id)
        key = (incarnation, ticket)
        if key not in self._later:
            self._later.add(key)
            asyncio.get_running_loop().call_later(retry_s, self._again, batch[0], queue)

    def _again(self, wanted: Wanted, queue: deque[Wanted]) -> None:
        """Try a user again after its own pause."""
        self._later.discard((wanted[1], wanted[3]))
        queue.append(wanted)
        self._start()

    def _note_alone(self, number: int, user_id: int) -> None:
        log.debug("load_fails_alone partition=%d user_id=%d", number, user_id)
        if time.monotonic() - self._alone_logged > ALONE_LOG_S:
            self._alone_logged = time.monotonic()
            log.error(
                "load_fails_alone partition=%d: Cassandra cannot load a user, though it loads "
                "others. The user's queries get store_unavailable, and its updates wait and hold "
                "the commits of the partition. See ReadStatesCassandraLoadsFail.md. The level "
                "DEBUG names the user",
                number,
            )

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            loop = asyncio.get_running_loop()
            loop.call_later(self._settings.load_retry_s, self._go_on)

    def _go_on(self) -> None:
        self._paused = False
        self._start()
