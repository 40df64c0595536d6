"""Users who are being loaded, with the updates and queries that wait for them.

The life of such a user:

    (absent) ──load──► LOADING ──rows──► LOADED ──room──► ADMITTED ──all folded──► (resident)
                          ▲                                  │
                          └────────────── evicted ───────────┘

  LOADING   The rows are asked for. Tickets number the requests: rows of any request but the user's
            last one may be older than what was written since, and are dropped.
  LOADED    The rows are here. The table has no room for them yet.
  ADMITTED  The rows are in the table. Some parked updates have found no room there yet.

Most users pass from LOADING to resident in one step. A user that is LOADED or ADMITTED is in
`waiting_for_room`, and is tried again after each write-out. An ADMITTED user may be clean, so it
may be evicted to make room for another user; it is then loaded again.

P2: while a user has parked updates, later updates of that user are parked behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

from readstates.cache.table import DIRTIED, NO_ROOM, Table
from readstates.schemas.read_state import Row
from readstates.schemas.replies import Answer
from readstates.schemas.version import offset_of
from readstates.schemas.wire import decode_update

from .answer import answer
from .effects import Effects, KeptRecord, Outcomes, OwnEffects
from .fold import fold, slots_needed
from .progress import Progress
from .query import Query
from .room import Room
from .rows import floor_of, newest_of, slots_of, without_unfinished_mark


class State(Enum):
    """The state of a pending user; see the module."""

    LOADING = "the rows are asked for"
    LOADED = "the rows wait for room"
    ADMITTED = "in the table, updates wait for room"


@dataclass(slots=True)
class PendingUser:
    """A user being loaded, with what waits for it.

    A mention of many users can make hundreds of thousands of these, so each is as small as
    possible, and its updates are tuples of objects that the collector does not track.
    """

    state: State = State.LOADING
    ticket: int = 0  # of the last load that was asked for
    updates: list[tuple[int, bytes]] = field(default_factory=list)  # (offset, value)
    queries: dict[Query, None] = field(default_factory=dict)  # in the order of their arrival
    warm: bool = False  # enters at the warm end of the LRU
    told: bool = False  # the change feed waits for it
    rows: Sequence[Row] = ()  # of a LOADED user


class Loading:
    """See the module."""

    def __init__(
        self,
        table: Table,
        room: Room,
        progress: Progress,
        outcomes: Outcomes,
        own: OwnEffects,
        effects: Effects,
    ) -> None:
        self._table = table
        self._room = room
        self._progress = progress
        self._outcomes = outcomes
        self._own = own
        self._effects = effects
        self._tickets = 0
        self.users: dict[int, PendingUser] = {}
        self.parked_updates = 0  # of all users
        self.parked_bytes = 0  # of their values
        self.waiting_for_room: dict[int, PendingUser] = {}
        self.fold = fold  # the change feed notes what it does …
        self.admitted: Callable[[int, int], None] | None = None  # … and a user's being resident
        self.newest = 0  # version of all rows that were loaded, for the change feed
        # A candidate's: users who were loaded with rows newer than the position, and the position
        # from which they may be answered.
        self.notes_ahead = False
        self.ahead: dict[int, int] = {}

    def ask(self, query: Query) -> None:
        """Keep a query until its user, who is not resident, has been loaded."""
        user_id = query.get.user_id
        pending = self.users.get(user_id)
        if pending is None:
            pending = self.users[user_id] = PendingUser()
            pending.queries[query] = None
            self._request(user_id, pending)
        else:
            is_first = not pending.queries
            pending.queries[query] = None
            if is_first and pending.state is State.LOADING:
                # Ask again: this user is then loaded before those for whom only updates wait.
                self._own.load(user_id, pending.ticket, asked=True)
        pending.warm = True
        query.waits_for_store = True

    def _request(self, user_id: int, pending: PendingUser) -> None:
        self._tickets += 1
        pending.state, pending.ticket = State.LOADING, self._tickets
        self._own.load(user_id, pending.ticket, asked=bool(pending.queries))

    def park(self, user_id: int, offset: int, value: bytes, *, warm: bool) -> None:
        """Hold an update back until its user is resident."""
        pending = self.users.get(user_id)
        if pending is None:
            pending = self.users[user_id] = PendingUser()
            self._request(user_id, pending)
        pending.updates.append((offset, value))  # P2
        pending.warm = pending.warm or warm
        self.parked_updates += 1
        self.parked_bytes += len(value)
        self._progress.hold(offset)

    def want(self, user_id: int) -> None:
        """Have the user resident, for the change feed: `admitted` is called then."""
        pending = self.users.get(user_id)
        if pending is None:
            pending = self.users[user_id] = PendingUser()
            self._request(user_id, pending)
        pending.told = True

    def wants(self, user_id: int, ticket: int) -> bool:
        """True while this load of the user still has something waiting for it."""
        pending = self.users.get(user_id)
        return (
            pending is not None
            and pending.ticket == ticket
            and pending.state is State.LOADING
            and bool(pending.updates or pending.queries or pending.told)
        )

    def loaded(self, user_id: int, ticket: int, rows: Sequence[Row]) -> None:
        """Take a user's rows from Cassandra; no rows mean that the user is new."""
        pending = self.users.get(user_id)
        if pending is None or pending.ticket != ticket or pending.state is not State.LOADING:
            return
        if user_id < 0:  # a probe: the database answers, and nobody of that ID is ever resident
            del self.users[user_id]
            for query in pending.queries:
                self._effects.answer(query, Answer(self._progress.version, True, []), hit=False)
            return
        pending.state, pending.rows = State.LOADED, rows
        self._admit(user_id, pending)

    def retry(self) -> None:
        """Try again whatever waits for room, after something was written out."""
        if not self._room.stalled:
            return
        self._room.end_stall()
        while self.waiting_for_room and not self._room.stalled:
            user_id = next(iter(self.waiting_for_room))
            self._admit(user_id, self.waiting_for_room.pop(user_id))

    def _admit(self, user_id: int, pending: PendingUser) -> None:
        """Make the user resident, fold its parked updates and answer, as far as there is room."""
        table = self._table
        user = table.find(user_id)
        if user == 0 and pending.state is State.ADMITTED:  # evicted before its updates had room
            self._request(user_id, pending)
            return
        if user == 0:
            pending.rows = without_unfinished_mark(pending.rows)
            if not self._room.make(slots_of(pending.rows), 0):
                self.waiting_for_room[user_id] = pending
                return
            if self.admitted is not None:
                self.newest = max(self.newest, newest_of(pending.rows))
            if self.notes_ahead:
                self._note_ahead(user_id, newest_of(pending.rows))
            floor = floor_of(pending.rows, self._progress.version)
            user = table.insert(user_id, floor, not pending.warm, pending.rows)
            pending.state, pending.rows = State.ADMITTED, ()
        if not self._fold_parked(user, user_id, pending):
            self.waiting_for_room[user_id] = pending
            return
        del self.users[user_id]
        for query in pending.queries:
            if user_id in self.ahead:
                query.waits_for_store = False
                self._own.ask_again(query)
            else:
                answer(self._effects, table, self._progress, query, user, hit=False)
        if self.admitted is not None:
            self.admitted(user_id, user)

    def _note_ahead(self, user_id: int, newest: int) -> None:
        """Another service has written the user's rows, and is ahead: nobody may see them yet (Q3).

        Those whose position was reached are dropped here, the oldest first. O(1) each.
        """
        progress, ahead = self._progress, self.ahead
        while ahead and next(iter(ahead.values())) <= progress.position:
            del ahead[next(iter(ahead))]
        ahead.pop(user_id, None)
        if newest > progress.version:
            ahead[user_id] = offset_of(newest) + 1

    def _fold_parked(self, user: int, user_id: int, pending: PendingUser) -> bool:
        """Fold the parked updates of a user who is resident; False if the rest has no room."""
        table, progress = self._table, self._progress
        for folded, (offset, value) in enumerate(pending.updates):
            event = decode_update(value)
            version = progress.epoch_bits | (offset + 1)
            while (code := self.fold(table, user, event, version)) & NO_ROOM:
                if not self._room.make_for_refused(slots_needed(table, user, event), user):
                    del pending.updates[:folded]
                    return False
            if code & DIRTIED:
                progress.watermark.hold(offset)
            self._outcomes.count(code, KeptRecord(offset, b"%d" % user_id, value))
            progress.release(offset)  # P3: a change or a dead letter holds it again
            self.parked_updates -= 1
            self.parked_bytes -= len(value)
        return True

    def forget(self, query: Query) -> bool:
        """End a query whose time is up; True if it was waiting here."""
        user_id = query.get.user_id
        pending = self.users.get(user_id)
        if pending is None or query not in pending.queries:
            return False
        del pending.queries[query]
        still_wanted = pending.queries or pending.updates or pending.told
        if not still_wanted and pending.state is not State.ADMITTED:
            del self.users[user_id]
            self.waiting_for_room.pop(user_id, None)
        return True

    def queries(self) -> Iterator[Query]:
        """The queries that wait for a user to be loaded."""
        for pending in self.users.values():
            yield from pending.queries

    def check(self) -> None:
        """Assert P2, and that each user's state is what the table and `waiting_for_room` say."""
        parked = sum(len(pending.updates) for pending in self.users.values())
        assert self.parked_updates == parked, f"P2: {parked} parked, {self.parked_updates} counted"
        size = sum(len(value) for one in self.users.values() for _, value in one.updates)
        assert self.parked_bytes == size, f"{size} bytes parked, {self.parked_bytes} counted"
        tickets = {pending.ticket for pending in self.users.values()}
        assert len(tickets) == len(self.users), "two users have one ticket"
        assert max(tickets, default=0) <= self._tickets, "a ticket was never given out"
        for user_id, pending in self.users.items():
            self._check_user(user_id, pending)
        assert self.waiting_for_room.keys() <= self.users.keys(), "one is resident and waits"
        assert not self.waiting_for_room or self._room.stalled, "one waits for room, unstalled"

    def _check_user(self, user_id: int, pending: PendingUser) -> None:
        state, name = pending.state, f"user {user_id}, {pending.state.name}"
        in_table = bool(self._table.find(user_id))
        assert state is State.ADMITTED or not in_table, f"{name}: is in the table"
        waits = self.waiting_for_room.get(user_id) is pending
        assert waits == (state is not State.LOADING), f"{name}: waits for room: {waits}"
        assert state is State.LOADED or not pending.rows, f"{name}: has rows"
        others = (pending.queries or pending.told) and state is not State.ADMITTED
        assert pending.updates or others, f"{name}: nothing waits for it"
        offsets = [offset for offset, _ in pending.updates]
        assert offsets == sorted(set(offsets)), f"P2: {name}: its updates are out of order"
        assert not offsets or offsets[-1] < self._progress.position, f"P1: {name}: not taken yet"
