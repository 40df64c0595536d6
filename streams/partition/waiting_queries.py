"""Keeps queries from their arrival to their answer.

A query that can be answered is answered at once. One that is too early waits until the partition
has reached the query's position. One whose user is not resident waits with the user (loading.py).

P4: a query is answered only when the partition has passed `catch_up_to` and the query's
    `after_offset`, from a resident user with nothing parked. A candidate's partition must also have
    passed the newest row that the user was loaded with (`Loading.ahead`).
"""

from __future__ import annotations

from collections.abc import Iterator

from readstates.cache.table import Table
from readstates.schemas.queries import Get

from .answer import answer
from .effects import Effects
from .loading import Loading
from .progress import Progress
from .query import Query


class WaitingQueries:
    """See the module."""

    def __init__(
        self, table: Table, progress: Progress, loading: Loading, effects: Effects
    ) -> None:
        self._table = table
        self._progress = progress
        self._loading = loading
        self._pending_users = loading.users
        self._effects = effects
        self._waiting_for_position: dict[Query, None] = {}
        self._next_wakeup = 0  # the smallest position that one of them waits for, or less

    def ask(self, query: Query) -> None:
        """Answer a query now, or keep it until it can be answered."""
        progress = self._progress
        required = self._required_position(query.get)
        if progress.position < required or not progress.live_committed:  # P4, P8
            waiting = self._waiting_for_position
            self._next_wakeup = min(self._next_wakeup, required) if waiting else required
            waiting[query] = None
            return
        user_id = query.get.user_id
        pending = self._pending_users.get(user_id)
        user = self._table.find(user_id)
        if user and pending is None:  # P4: nothing parked
            self._table.touch(user)
            answer(self._effects, self._table, progress, query, user, hit=True)
            return
        self._loading.ask(query)

    def is_ready(self, get: Get) -> bool:
        """True if `ask` would answer at once."""
        progress, user_id = self._progress, get.user_id
        return (
            progress.live_committed  # P8
            and progress.position >= self._required_position(get)  # P4
            and user_id not in self._pending_users
            and self._table.find(user_id) != 0
        )

    def _required_position(self, get: Get) -> int:
        """The position at which a query may be answered (P4)."""
        required, after, ahead = self._progress.catch_up_to, get.after_offset, self._loading.ahead
        if ahead:
            required = max(required, ahead.get(get.user_id, 0))
        return required if after is None else max(required, after + 1)

    def wake(self) -> None:
        """Ask again the queries whose position was reached. O(1), or O(waiting) if there is one."""
        waiting, required = self._waiting_for_position, self._required_position
        position = self._progress.position
        if not waiting or position < self._next_wakeup or not self._progress.live_committed:
            return
        ready = [query for query in waiting if required(query.get) <= position]
        for query in ready:
            del waiting[query]
        self._next_wakeup = min((required(query.get) for query in waiting), default=0)
        for query in ready:
            self.ask(query)

    def forget(self, query: Query) -> None:
        """Remove a query whose time is up."""
        if not self._loading.forget(query):
            self._waiting_for_position.pop(query, None)

    def unanswered(self) -> Iterator[Query]:
        """The queries not answered here; the next owner reads them again."""
        yield from self._waiting_for_position
        yield from self._loading.queries()

    def check(self) -> None:
        """Assert P4 and P8 of the queries that wait."""
        progress = self._progress
        for query in self._waiting_for_position:
            required = self._required_position(query.get)
            assert self._next_wakeup <= required, f"P4: would wake at {self._next_wakeup} only"
            assert not progress.live_committed or progress.position < required, (
                f"P4: a query waits for {required}, which is reached"
            )
        for query in self._loading.queries():
            assert progress.live_committed, "P8: a user is loaded for a query too early"
            assert progress.position >= self._required_position(query.get), "P4: loaded too early"
            assert query.waits_for_store
