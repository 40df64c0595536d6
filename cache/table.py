# cython: language_level=3, boundscheck=True, wraparound=False, initializedcheck=False
# mypy: disable-error-code="untyped-decorator, misc, valid-type, no-any-return, type-arg, return"
#   (Cython publishes no types: its decorators are untyped, its C types count as Any)
"""The table of one partition: its resident users, with all their read states, in a mapped buffer.

`Table` is one class in four modules. Each module adds methods to the class of the module before it:
    kernel.py       Kernel      index, slots and lists; plain acks and first mentions; reading
    marked.py       Marked      events with marks
    deletions.py    Deletions   deletions of read states and of users
    table.py        Table       the life of a change, until the database has it
Code outside of `cache/` imports from this module only. `kernel.py` says how the table works, and
why it is divided in this way.

A "user" in this interface is its slot number, valid until the user is evicted. Fold methods return
a set of bits: those from CHANGED to ABSENT in `kernel.py`. Costs are O(1) unless stated otherwise.
Damage raises IndexError or TableDamaged: bounds are checked, checksums are checked where a state is
read or folded into, and no walk is longer than the table.

Other modules work on the file of a table: `rebuild.py` repairs it if its process died, `verify.py`
checks it, `tablefile.py` opens and closes it, and `fsck.py` is a second, independent reader.

The life of a change. A fold method marks the state DIRTY and queues its user. `take` gives the
user's dirty rows to the caller, who writes them; the user is then IN_FLIGHT. `written` clears DIRTY
if the version is still the one that was written, and frees tombstones. If a change was made
meanwhile, the user is queued again.
"""

import cython  # type: ignore[import-untyped]  # Cython publishes no types
from cython import longlong as i64

from . import layout
from .deletions import Deletions
from .kernel import (
    ABSENT,
    CHANGED,
    DIRTIED,
    DUPLICATE,
    KEEP,
    NO_ROOM,
    REPLAYED,
    STALE,
    TOO_MANY,
    TableFull,
)
from .layout import TableDamaged
from .slots import give_way

__all__ = [
    "ABSENT", "CHANGED", "COMPILED", "DIRTIED", "DUPLICATE", "KEEP", "NO_ROOM", "REPLAYED", "STALE",
    "TOO_MANY", "Table", "TableFull",
]

COMPILED: bool = cython.compiled

_USER = cython.declare(cython.int, layout.USER)
_DIRTY = cython.declare(cython.int, layout.DIRTY)
_TOMBSTONE = cython.declare(cython.int, layout.TOMBSTONE)
_QUEUED = cython.declare(cython.int, layout.QUEUED)
_IN_FLIGHT = cython.declare(cython.int, layout.IN_FLIGHT)
_EXTENSION = cython.declare(cython.int, layout.EXTENSION)
_WARM = cython.declare(i64, layout.FIELDS["colder"].byte_offset // 4)
_COLD = cython.declare(i64, layout.FIELDS["warmer"].byte_offset // 4)
_OLDEST = cython.declare(i64, layout.FIELDS["younger"].byte_offset // 4)
_YOUNGEST = cython.declare(i64, layout.FIELDS["older"].byte_offset // 4)
_TURN = cython.declare(i64, 1023)  # a mask, as in slots.py
_U32_MAX = cython.declare(i64, 0xFFFFFFFF)


@cython.final
@cython.cclass
class Table(Deletions):
    """See the module. `buffer`: a writable table file, formatted as layout.py describes."""

    def dirty_head(self) -> int:
        """The user that has waited longest to be written out, or 0."""
        return self._ends[_OLDEST]

    def cold_dirty(self, limit: i64) -> list:
        """Up to `limit` queued users among the 4 * limit coldest, the coldest first."""
        users: list = []
        user: i64 = self._ends[_COLD]
        looked: i64 = 0
        while user and looked < 4 * limit and len(users) < limit:
            if self._status[user] & _QUEUED:
                users.append(user)
            user = self._warmer[user]
            looked += 1
        return users

    def dirty_since_ms(self, user: i64) -> int:
        """`now_ms` at the user's first unwritten change, modulo 2^32."""
        return self._dirty_since[user]

    def first_version(self, user: i64) -> int:
        """The version of the user's first change that no write has taken, or 0."""
        return self._first_version[user]

    def take(self, user: i64) -> tuple:
        """Take a queued user's changes for writing: (first_version, delete_version, rows).

        `rows`: (deleted, ReadState) for each dirty read state, which stays dirty until `written`.
        O(read states of the user).
        """
        if not self._status[user] & _QUEUED:
            raise TableDamaged("I5: the user is not queued")
        self._check(user)
        self._unlink(user, _OLDEST)
        self._status[user] = (self._status[user] & ~_QUEUED) | _IN_FLIGHT
        self.dirty_users -= 1
        first_version: i64 = self._first_version[user]
        self._first_version[user] = 0
        self._seal(user)
        rows: list = []
        slot: i64 = self._first_state[user]
        steps: i64 = 0
        while slot:
            status: cython.int = self._status[slot]
            if status & _DIRTY:
                rows.append((bool(status & _TOMBSTONE), self._row(slot)))
            slot = self._after(slot, steps)
            steps += 1
        return first_version, self._delete_version[user], rows

    def written(self, user: i64, delete_version: i64, rows: list) -> None:
        """Note that the rows of `take` are in the database: those unchanged since become clean."""
        if not self._status[user] & _IN_FLIGHT:
            raise ValueError(f"no write of slot {user} is under way")
        for deleted, row in rows:
            slot: i64 = self._find_state(user, row[0], row[1])
            if not slot or self._version[slot] != row[8] or not self._status[slot] & _DIRTY:
                continue
            self.dirty_states -= 1
            if deleted:
                self._drop_state(user, slot)
            else:
                self._status[slot] &= ~_DIRTY & 0xFF
                self._seal(slot)
        if delete_version and self._delete_version[user] == delete_version:
            self._delete_version[user] = 0
        self._status[user] &= ~_IN_FLIGHT & 0xFF
        self._seal(user)
        if self._first_version[user]:
            self._queue_add(user, _YOUNGEST)

    def write_failed(self, user: i64, first_version: i64, since_ms: i64) -> None:
        """The rows of `take` must be written again: put the user at the head of the queue.

        `first_version`, `since_ms`: the values at `take`; they are older than any change since.
        """
        if not self._status[user] & _IN_FLIGHT:
            raise ValueError(f"no write of slot {user} is under way")
        self._status[user] &= ~_IN_FLIGHT & 0xFF
        self._first_version[user] = first_version
        self._dirty_since[user] = since_ms & _U32_MAX
        self._seal(user)
        self._queue_add(user, _OLDEST)

    def recover(self, first_version: i64) -> int:
        """After opening a used file: queue every user whose changes may not be in the database.

        `first_version`: the version of the committed offset. The first versions of writes that were
        under way are lost, but none is below this one. Each user's wait starts at `now_ms`. Returns
        how many users are queued: each of them holds back the commit. O(users).
        """
        user: i64 = self._ends[_WARM]
        steps: i64 = 0
        while user:
            status: cython.int = self._status[user]
            if status & (_QUEUED | _IN_FLIGHT):
                self._status[user] &= ~_IN_FLIGHT & 0xFF
                self._dirty_since[user] = self.now_ms & _U32_MAX
                self._first_version[user] = first_version
                self._seal(user)
                if not status & _QUEUED:
                    self._queue_add(user, _OLDEST)
            user = self._colder[user]
            steps += 1
            if steps & _TURN == 0:
                give_way()
            if steps > self.slots:
                raise TableDamaged("I4: the LRU does not end")
        return self.dirty_users

    def newest(self) -> int:
        """The largest version in the table, deletions included; 0 if it is empty. O(slots)."""
        slot: i64
        newest: i64 = 0
        for slot in range(1, self._used):
            if slot & _TURN == 0:
                give_way()
            if self._status[slot] == _EXTENSION:
                continue
            version: i64 = self._floor[slot] if self._status[slot] & _USER else self._version[slot]
            if self._status[slot] and version > newest:
                newest = version
        return newest
