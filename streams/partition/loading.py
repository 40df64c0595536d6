"""Loads users from Cassandra into the table, and holds the updates and queries that wait for them.

A user is *resident* when the table has all of the user's read states, and no update waits. Until
then, updates for this user are *parked* (held back). A user being loaded has one of three states:

    (absent) ──load──► LOADING ──rows──► LOADED ──room──► ADMITTED ──all folded──► (resident)
                          ▲                                  │
                          └────────────── evicted ───────────┘

  LOADING   The rows have been requested. Each request has its own number, the ticket. Rows from any
            request but the user's last one are dropped, because newer rows may exist by now.
  LOADED    The rows have arrived, but the table has no room for them yet.
  ADMITTED  The rows are in the table, but it has no room for some of the parked updates yet.

Most users go from LOADING to resident in one step. The users in LOADED or ADMITTED are in
`waiting_for_room`, and each write to Cassandra may make room for them. If an ADMITTED user has no
unwritten changes, the table may evict this user to make room for another. Then the service loads
the evicted user again.

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
    """The state of a pending user; see the module docstring."""

    LOADING = "the rows have been requested"
    LOADED = "the rows wait for room in the table"
    ADMITTED = "the rows are in the table, and updates wait for room"


@dataclass(slots=True)
class PendingUser:
    """A user who is being loaded, with the updates and queries that wait.

    Messages that mention many users can create hundreds of thousands of these objects, so each one
    is small. An update is a tuple that the garbage collector does not track.
    """

    state: State = State.LOADING
    ticket: int = 0  # the number of the last request
    updates: list[tuple[int, bytes]] = field(default_factory=list)  # (offset, value)
    queries: dict[Query, None] = field(default_factory=dict)  # in the order of arrival
    warm: bool = False  # True: the LRU treats the user as recently used
    told: bool = False  # True: the change feed waits for the user
    rows: Sequence[Row] = ()  # only in the state LOADED


class Loading:
    """See the module docstring."""

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
        self.parked_updates = 0  # number of parked updates
        self.parked_bytes = 0  # total size of their values
        self.waiting_for_room: dict[int, PendingUser] = {}
        # With a change feed, `Changes` replaces `fold` and sets `admitted`, which is called for
        # each user who becomes resident. `newest` is then the largest version of all loaded rows.
        self.fold = fold
        self.admitted: Callable[[int, int], None] | None = None
        self.newest = 0
        # A candidate sets `notes_ahead`. Its partition may load rows that are newer than its
        # position. `ahead` gives the position from which such a user's queries may be answered.
        self.notes_ahead = False
        self.ahead: dict[int, int] = {}

    def ask(self, query: Query) -> None:
        """Keep a query until its user has been loaded."""
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
                # This request moves the user ahead of users for whom only updates wait.
                self._own.load(user_id, pending.ticket, asked=True)
        pending.warm = True
        query.waits_for_store = True

    def _request(self, user_id: int, pending: PendingUser) -> None:
        self._tickets += 1
        pending.state, pending.ticket = State.LOADING, self._tickets
        self._own.load(user_id, pending.ticket, asked=bool(pending.queries))

    def park(self, user_id: int, offset: int, value: bytes, *, warm: bool) -> None:
        """Keep an update until its user has been loaded."""
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
        """Load a user for the change feed. `admitted` is called when the user is resident."""
        pending = self.users.get(user_id)
        if pending is None:
            pending = self.users[user_id] = PendingUser()
            self._request(user_id, pending)
        pending.told = True

    def wants(self, user_id: int, ticket: int) -> bool:
        """True while an update, a query or the change feed waits for this load."""
        pending = self.users.get(user_id)
        return (
            pending is not None
            and pending.ticket == ticket
            and pending.state is State.LOADING
            and bool(pending.updates or pending.queries or pending.told)
        )

    def loaded(self, user_id: int, ticket: int, rows: Sequence[Row]) -> None:
        """Take the rows of a user from Cassandra. A new user has no rows."""
        pending = self.users.get(user_id)
        if pending is None or pending.ticket != ticket or pending.state is not State.LOADING:
            return
        if user_id < 0:  # This is a probe. It tests the database, and its user is never resident.
            del self.users[user_id]
            for query in pending.queries:
                self._effects.answer(query, Answer(self._progress.version, True, []), hit=False)
            return
        pending.state, pending.rows = State.LOADED, rows
        self._admit(user_id, pending)

    def retry(self) -> None:
        """After a write to Cassandra, try again to make room for the users who wait for it."""
        if not self._room.stalled:
            return
        self._room.end_stall()
        while self.waiting_for_room and not self._room.stalled:
            user_id = next(iter(self.waiting_for_room))
            self._admit(user_id, self.waiting_for_room.pop(user_id))

    def _admit(self, user_id: int, pending: PendingUser) -> None:
        """Put a user's rows into the table, fold the parked updates, and answer the queries.

        If the table has no room, the user waits for room.
        """
        table = self._table
        user = table.find(user_id)
        if user == 0 and pending.state is State.ADMITTED:  # The table has evicted the user.
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
        """Note that the live workers have written newer rows, so queries must wait (Q3).

        This also forgets the oldest users whose position has been reached. O(1) for each.
        """
        progress, ahead = self._progress, self.ahead
        while ahead and next(iter(ahead.values())) <= progress.position:
            del ahead[next(iter(ahead))]
        ahead.pop(user_id, None)
        if newest > progress.version:
            ahead[user_id] = offset_of(newest) + 1

    def _fold_parked(self, user: int, user_id: int, pending: PendingUser) -> bool:
        """Fold a user's parked updates; False if the table has no room for all of them."""
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
            progress.release(offset)  # P3: a change or a dead letter has its own hold
            self.parked_updates -= 1
            self.parked_bytes -= len(value)
        return True

    def forget(self, query: Query) -> bool:
        """Stop keeping a query whose time is up; True if it was kept here."""
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
        """All queries that wait for their users to be loaded."""
        for pending in self.users.values():
            yield from pending.queries

    def check(self) -> None:
        """Assert P2, and that each user's state agrees with the table and `waiting_for_room`."""
        parked = sum(len(pending.updates) for pending in self.users.values())
        assert self.parked_updates == parked, f"P2: {parked} parked, {self.parked_updates} counted"
        size = sum(len(value) for one in self.users.values() for _, value in one.updates)
        assert self.parked_bytes == size, f"{size} bytes parked, {self.parked_bytes} counted"
        tickets = {pending.ticket for pending in self.users.values()}
        assert len(tickets) == len(self.users), "two users have the same ticket"
        assert max(tickets, default=0) <= self._tickets, "a ticket was never issued"
        for user_id, pending in self.users.items():
            self._check_user(user_id, pending)
        assert self.waiting_for_room.keys() <= self.users.keys(), "a resident user waits for room"
        assert not self.waiting_for_room or self._room.stalled, "a user waits without a stall"

    def _check_user(self, user_id: int, pending: PendingUser) -> None:
        state, name = pending.state, f"user {user_id}, {pending.state.name}"
        in_table = bool(self._table.find(user_id))
        assert state is State.ADMITTED or not in_table, f"{name}: is in the table"
        waits = self.waiting_for_room.get(user_id) is pending
        assert waits == (state is not State.LOADING), f"{name}: in waiting_for_room: {waits}"
        assert state is State.LOADED or not pending.rows, f"{name}: has rows"
        others = (pending.queries or pending.told) and state is not State.ADMITTED
        assert pending.updates or others, f"{name}: nothing waits for this user"
        offsets = [offset for offset, _ in pending.updates]
        assert offsets == sorted(set(offsets)), f"P2: {name}: the updates are out of order"
        assert not offsets or offsets[-1] < self._progress.position, f"P1: {name}: parked too early"
