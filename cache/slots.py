# cython: language_level=3, boundscheck=True, wraparound=False, initializedcheck=False
# mypy: disable-error-code="untyped-decorator, misc, valid-type, no-any-return, type-arg, return"
#   (Cython publishes no types: its decorators are untyped, its C types count as Any)
"""The passes over a table's slots that need no index, for `rebuild.py` and `verify.py`.

They check each slot by itself: its status (I1) and its checksum (I9). They also make anew
(`rebuild`) or check (`verify`) the lists that lead through all slots: LRU, dirty queue, free list.

This is plain Python that Cython compiles unchanged, like `table.py`, because a start looks at
millions of slots. The checksum is a copy of the table's, because calls between two compiled modules
are not inlined; `tests/unit/cache/test_definitions.py` checks that both have the same text.
"""

import cython  # type: ignore[import-untyped]  # Cython publishes no types
from cython import longlong as i64
from cython import ulonglong as u64

from . import layout
from .layout import TableDamaged

COMPILED: bool = cython.compiled

_USER = cython.declare(cython.int, layout.USER)
_STATE = cython.declare(cython.int, layout.STATE)
_DIRTY = cython.declare(cython.int, layout.DIRTY)
_TOMBSTONE = cython.declare(cython.int, layout.TOMBSTONE)
_QUEUED = cython.declare(cython.int, layout.QUEUED)
_IN_FLIGHT = cython.declare(cython.int, layout.IN_FLIGHT)
_PARTIAL = cython.declare(cython.int, layout.PARTIAL)
_FINAL = cython.declare(cython.int, layout.FINAL)
_EXTENDED = cython.declare(cython.int, layout.EXTENDED)
_HIDDEN = cython.declare(cython.int, layout.HIDDEN)
_EXTENSION = cython.declare(cython.int, layout.EXTENSION)
_ENTRIES = cython.declare(i64, layout.EXTENSION_ENTRIES)

# the two lists of users: the words of a slot (32 bits each) that link away from the lists' heads
_WARM = cython.declare(i64, layout.FIELDS["colder"].byte_offset // 4)
_OLDEST = cython.declare(i64, layout.FIELDS["younger"].byte_offset // 4)
_BROKEN = cython.declare(i64, -1)  # of `_walk`
_TURN = cython.declare(i64, 1023)  # a mask: a pass gives way each time it has seen so many slots

_MASK = cython.declare(u64, 0xFFFFFFFFFFFFFFFF)
_C1 = cython.declare(u64, 0x9E3779B97F4A7C15)
_C2 = cython.declare(u64, 0xC2B2AE3D27D4EB4F)
_C3 = cython.declare(u64, 0x165667B19E3779F9)
_C4 = cython.declare(u64, 0xD6E8FEB86659FD93)
_C5 = cython.declare(u64, 0xA0761D6478BD642F)
_C6 = cython.declare(u64, 0xE7037ED1A0B428DB)
_C7 = cython.declare(u64, 0x8EBC6AF09C88C6E3)


def give_way() -> None:
    """Let the other threads of this process run. A pass over a table calls it again and again.

    A compiled pass would otherwise hold the interpreter lock to its end, so that every partition
    that is open would wait while one more is opened.
    """
    with cython.nogil:
        pass


@cython.final
@cython.cclass
class Slots:
    """The slots of one buffer. `views`: those of `layout.views`."""

    _words: i64[:]  # all slots as numbers of 64 bits, eight each
    _links: cython.uint[:]  # all slots as numbers of 32 bits, sixteen each
    _status: cython.uchar[:]
    _checksum: cython.ushort[:]
    _type: cython.uchar[:]
    _owner: cython.uint[:]
    _next: cython.uint[:]
    _header: i64[:]
    slots: i64
    _used: i64

    def __init__(self, views: dict) -> None:
        self._attach(views)
        self.slots = self._header[layout.AT_SLOTS // 8]
        self._used = self._header[layout.AT_USED // 8]

    def set_used(self, used: i64) -> None:
        """Correct the header: only slots before this one were ever used."""
        self._used = self._header[layout.AT_USED // 8] = used

    def _attach(self, v: dict) -> None:
        self._words, self._links, self._header = v["words"], v["links"], v["header"]
        self._status, self._type, self._checksum = v["status"], v["type"], v["checksum"]
        self._owner, self._next = v["owner"], v["next"]

    def close(self) -> None:
        """Let go of the views."""
        self._attach(layout.no_views())

    # -- each slot by itself ------------------------------------------------------------------

    def check(self) -> int:
        """Check I1 and I9 of every slot; returns the number after the last one that is not free."""
        slot: i64
        used: i64 = 1
        for slot in range(1, self.slots):
            if slot & _TURN == 0:
                give_way()
            if self._check_status(slot):
                self._check(slot)
                used = slot + 1
        return used

    @cython.cfunc
    @cython.exceptval(-1)
    def _check_status(self, slot: i64) -> cython.int:
        """Check I1 of one slot; returns its status."""
        word: i64
        status: cython.int = self._status[slot]
        if status == 0:
            for word in range(8):
                if word != 6 and self._words[slot * 8 + word]:
                    raise TableDamaged(f"I1: the free slot {slot} is not zero")
            if self._owner[slot]:  # the other half of word 6 is the next free slot
                raise TableDamaged(f"I1: the free slot {slot} is not zero")
        elif status & _STATE:
            if status & ~(_STATE | _DIRTY | _TOMBSTONE | _EXTENDED | _HIDDEN):
                raise TableDamaged(f"I1: slot {slot} has status {status}")
            if status & _TOMBSTONE and status & (_EXTENDED | _HIDDEN):
                raise TableDamaged(f"I1: slot {slot} has status {status}")
        elif status & _USER:
            if status & ~(_USER | _FINAL | _QUEUED | _IN_FLIGHT | _PARTIAL):
                raise TableDamaged(f"I1: slot {slot} has status {status}")
        elif status != _EXTENSION or not 0 < self._type[slot] <= _ENTRIES:
            raise TableDamaged(f"I1: slot {slot} has status {status}")
        return status

    @cython.cfunc
    @cython.exceptval(-1)
    def _sum_of(self, slot: i64) -> i64:
        """The checksum that a slot should have."""
        base: i64 = slot * 8
        status: u64 = self._status[slot]
        x: u64 = (
            self._words[base] * _C1 + self._words[base + 1] * _C2
            + self._words[base + 2] * _C3 + self._words[base + 3] * _C4
        )
        if status & _USER:
            x = (x + (status & (_USER | _PARTIAL)) * _C7) & _MASK
        else:
            owner: u64 = self._owner[slot]
            tail: u64 = self._type[slot]
            tail = (owner << 16) | (tail << 8) | status
            x = (
                x + self._words[base + 4] * _C5 + self._words[base + 5] * _C6 + tail * _C7
            ) & _MASK
            if status == _EXTENSION:
                following: u64 = self._next[slot]
                x = (x + following * _C1) & _MASK
        return (((x ^ (x >> 32)) * _C1) & _MASK) >> 48

    @cython.cfunc
    @cython.inline
    @cython.exceptval(-1)
    def _check(self, slot: i64) -> cython.int:
        if self._checksum[slot] != self._sum_of(slot):
            raise TableDamaged(f"I9: the checksum of slot {slot} is wrong")

    @cython.cfunc
    @cython.exceptval(-1)
    def _wipe(self, slot: i64) -> cython.int:
        word: i64
        for word in range(slot * 8, slot * 8 + 8):
            self._words[word] = 0

    # -- lists, made anew ---------------------------------------------------------------------

    def rebuild_lru(self, users: i64) -> int:
        """Link the users in LRU order, and remove PARTIAL ones; returns how many are left."""
        user: i64 = self._find_lru(users)
        head: i64 = 0
        last: i64 = 0
        steps: i64 = 0
        while user:
            steps += 1
            if steps & _TURN == 0:
                give_way()
            colder: i64 = self._links[user * 16 + _WARM]
            if self._status[user] & _PARTIAL:
                self._wipe(user)
                users -= 1
            else:
                self._links[user * 16 + _WARM] = 0
                self._links[user * 16 + (_WARM ^ 1)] = last
                if last:
                    self._links[last * 16 + _WARM] = user
                else:
                    head = user
                last = user
            user = colder
        self._header[layout.AT_LRU_HEAD // 8] = head
        self._header[layout.AT_LRU_TAIL // 8] = last
        return users

    @cython.cfunc
    @cython.exceptval(-1)
    def _find_lru(self, users: i64) -> i64:
        """The warm end of the LRU; if that list is broken, the head of a new one of all users."""
        user: i64
        head: i64 = 0
        for user in range(1, self._used):
            if user & _TURN == 0:
                give_way()
            if self._status[user] & _USER and self._links[user * 16 + (_WARM ^ 1)] == 0:
                head = user
        if self._walk(_WARM, head, users, _USER) == _BROKEN:
            head = 0
            for user in range(1, self._used):
                if user & _TURN == 0:
                    give_way()
                if self._status[user] & _USER:
                    self._links[user * 16 + _WARM] = head
                    head = user
        return head

    def rebuild_free_list(self) -> None:
        """Link the free slots among those that were ever used."""
        slot: i64
        head: i64 = 0
        free: i64 = self.slots - self._used
        for slot in range(self._used - 1, 0, -1):
            if slot & _TURN == 0:
                give_way()
            if self._status[slot] == 0:
                self._next[slot] = head
                head = slot
                free += 1
        self._header[layout.AT_FREE_HEAD // 8] = head
        self._header[layout.AT_FREE // 8] = free

    # -- lists, checked -----------------------------------------------------------------------

    @cython.cfunc
    @cython.exceptval(-2)
    def _walk(self, word: i64, user: i64, expected: i64, member: cython.int) -> i64:
        """The last user of a list, found by its links; 0 if the list is empty.

        `word`: the word of the links; `user`: the head. Returns _BROKEN if the list does not hold
        `expected` users, each with the status bit `member` and linked in both directions.
        """
        before: i64 = 0
        steps: i64 = 0
        while user and steps <= expected:
            if steps & _TURN == 0:
                give_way()
            if user >= self._used or not self._status[user] & member:
                return _BROKEN
            if self._links[user * 16 + (word ^ 1)] != before:
                return _BROKEN
            before = user
            user = self._links[user * 16 + word]
            steps += 1
        return before if steps == expected else _BROKEN

    def verify_free_list(self) -> None:
        """Check I1 of the free list."""
        slot: i64 = self._header[layout.AT_FREE_HEAD // 8]
        steps: i64 = self.slots - self._used
        while slot:
            if self._status[slot] or slot >= self._used:
                raise TableDamaged(f"I1: slot {slot} on the free list is not free")
            slot = self._next[slot]
            steps += 1
            if steps & _TURN == 0:
                give_way()
            if steps > self.slots:
                raise TableDamaged("I1: the free list does not end")
        if steps != self._header[layout.AT_FREE // 8]:
            raise TableDamaged("I1: a free slot is not on the free list")

    def verify_users_lists(self) -> None:
        """Check I4 and I5."""
        header: i64[:] = self._header
        users: i64 = header[layout.AT_USERS // 8]
        last: i64 = self._walk(_WARM, header[layout.AT_LRU_HEAD // 8], users, _USER)
        if last == _BROKEN or last != header[layout.AT_LRU_TAIL // 8]:
            raise TableDamaged("I4: the LRU does not hold every user once, linked both ways")
        queued: i64 = header[layout.AT_DIRTY_USERS // 8]
        last = self._walk(_OLDEST, header[layout.AT_DIRTY_HEAD // 8], queued, _QUEUED)
        if last == _BROKEN or last != header[layout.AT_DIRTY_TAIL // 8]:
            raise TableDamaged("I5: the dirty queue does not hold every queued user once")
