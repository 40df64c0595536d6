# cython: language_level=3, boundscheck=True, wraparound=False, initializedcheck=False
# mypy: disable-error-code="untyped-decorator, misc, valid-type, no-any-return, type-arg, return"
#   (Cython publishes no types: its decorators are untyped, its C types count as Any)
"""The two passes over all slots of a table file, before a `Table` works on it.

`rebuild`: make index, lists and counts anew from the slots of a table whose process died; what was
under way is finished or undone (layout.py, "After a death").
`verify`: check the invariants I1-I13 of layout.py.

Plain Python that Cython compiles as it stands, like `table.py`: a start looks at every slot of
millions. It works on the buffer alone, the counts and list ends in its header included. Hash,
checksum and look-ups are the table's, in a copy of their own, since calls between two compiled
modules are not inlined; `tests/unit/cache/test_definitions.py` holds both to the same text.
"""

import cython  # type: ignore[import-untyped]  # it publishes none
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

# the two lists of users: the words of a slot (32 bits each) that lead away from their heads
_WARM = cython.declare(i64, layout.FIELDS["colder"].byte_offset // 4)
_OLDEST = cython.declare(i64, layout.FIELDS["younger"].byte_offset // 4)
_BROKEN = cython.declare(i64, -1)  # of `_walk`

_MASK = cython.declare(u64, 0xFFFFFFFFFFFFFFFF)
_C1 = cython.declare(u64, 0x9E3779B97F4A7C15)
_C2 = cython.declare(u64, 0xC2B2AE3D27D4EB4F)
_C3 = cython.declare(u64, 0x165667B19E3779F9)
_C4 = cython.declare(u64, 0xD6E8FEB86659FD93)
_C5 = cython.declare(u64, 0xA0761D6478BD642F)
_C6 = cython.declare(u64, 0xE7037ED1A0B428DB)
_C7 = cython.declare(u64, 0x8EBC6AF09C88C6E3)


def rebuild(buffer: object) -> None:
    """Make the table of a process that died whole again; `verify` and `Table.recover` come next.

    Raises TableDamaged where a slot is not right: drop the file. O(slots).
    """
    passes = Passes(buffer)
    try:
        passes.rebuild()
    finally:
        passes.close()


def verify(buffer: object) -> None:
    """Raises TableDamaged, which names the invariant that does not hold: drop the file. O(slots).

    Counts and list ends are those of the header: of a table in use call `Table.save` first.
    """
    passes = Passes(buffer)
    try:
        passes.verify()
    finally:
        passes.close()


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def _mix(a: u64, b: u64) -> u64:
    x: u64 = (a * _C1) & _MASK
    x = (x ^ (x >> 32) ^ b) & _MASK
    x = (x * _C2) & _MASK
    x = x ^ (x >> 29)
    return (x * _C3) & _MASK


@cython.final
@cython.cclass
class Passes:
    """The views of one buffer, and the counts of a pass."""

    _words: i64[:]  # all slots as numbers of 64 bits, eight each
    _links: cython.uint[:]  # all slots as numbers of 32 bits, sixteen each
    _status: cython.uchar[:]
    _checksum: cython.ushort[:]
    # of a user
    _user_id: i64[:]
    _first_version: i64[:]
    _delete_version: i64[:]
    _first_state: cython.uint[:]
    _live_states: cython.uint[:]
    # of a state
    _channel_id: i64[:]
    _version: i64[:]
    _owner: cython.uint[:]
    _next: cython.uint[:]
    _previous: cython.uint[:]
    _type: cython.uchar[:]

    _index: cython.uint[:]
    _header: i64[:]
    _views: dict
    _entries: i64
    slots: i64
    _used: i64
    _users: i64
    _live: i64  # read states, tombstones not counted
    _dirty: i64  # read states
    _free: i64
    _lru_head: i64

    def __init__(self, buffer: object) -> None:
        self._attach(layout.views(buffer))
        self.slots = self._header[layout.AT_SLOTS // 8]
        self._entries = self._header[layout.AT_INDEX // 8]
        self._used = self._header[layout.AT_USED // 8]
        self._users = self._live = self._dirty = self._free = self._lru_head = 0

    def _attach(self, views: dict) -> None:
        v = self._views = views
        self._words, self._index, self._header = v["words"], v["index"], v["header"]
        self._status, self._type, self._checksum = v["status"], v["type"], v["checksum"]
        self._user_id, self._links = v["user_id"], v["links"]
        self._first_version, self._delete_version = v["first_version"], v["delete_version"]
        self._first_state, self._live_states = v["first_state"], v["live_states"]
        self._channel_id, self._version, self._owner = v["channel_id"], v["version"], v["owner"]
        self._next, self._previous = v["next"], v["previous"]

    def close(self) -> None:
        """Let go of the buffer."""
        views = self._views
        self._attach(layout.no_views())
        for view in views.values():
            view.release()

    # -- as in table.py -----------------------------------------------------------------------

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def _place(self, hashed: u64) -> i64:
        return ((hashed >> 32) * self._entries) >> 32

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def _place_of_state(self, user: i64, kind: i64, channel_id: i64) -> i64:
        return self._place(_mix(channel_id, ((user << 8) | kind) + 1))

    @cython.cfunc
    @cython.inline
    @cython.exceptval(-1)
    def _place_of(self, slot: i64) -> i64:
        """Where a slot's entry would be if no other one were in its way."""
        if self._status[slot] & _USER:
            return self._place(_mix(self._user_id[slot], 0))
        return self._place_of_state(self._owner[slot], self._type[slot], self._channel_id[slot])

    @cython.cfunc
    @cython.exceptval(-1)
    def _index_add(self, slot: i64) -> cython.int:
        place: i64 = self._place_of(slot)
        steps: i64 = 0
        while self._index[place]:
            place += 1
            if place == self._entries:
                place = 0
            steps += 1
            if steps > self._entries:
                raise TableDamaged("I2: the index is full")
        self._index[place] = slot

    @cython.ccall
    @cython.exceptval(-1)
    def find(self, user_id: i64) -> i64:
        """The user's slot, or 0 if it is not resident."""
        place: i64 = self._place(_mix(user_id, 0))
        steps: i64 = 0
        while True:
            slot: i64 = self._index[place]
            if slot == 0:
                return 0
            if self._user_id[slot] == user_id and self._status[slot] & _USER:
                return slot
            place += 1
            if place == self._entries:
                place = 0
            steps += 1
            if steps > self._entries:
                raise TableDamaged("I2: the index has no empty entry")

    @cython.cfunc
    @cython.exceptval(-1)
    def _find_state(self, user: i64, kind: i64, channel_id: i64) -> i64:
        """The slot of a state or tombstone, or 0."""
        place: i64 = self._place_of_state(user, kind, channel_id)
        steps: i64 = 0
        while True:
            slot: i64 = self._index[place]
            if slot == 0:
                return 0
            if (
                self._channel_id[slot] == channel_id and self._owner[slot] == user
                and self._status[slot] & _STATE and self._type[slot] == kind
            ):
                return slot
            place += 1
            if place == self._entries:
                place = 0
            steps += 1
            if steps > self._entries:
                raise TableDamaged("I2: the index has no empty entry")

    @cython.cfunc
    @cython.exceptval(-1)
    def _sum_of(self, slot: i64) -> i64:
        """The checksum that a slot should have."""
        base: i64 = slot * 8
        status: u64 = self._status[slot]
        tail: u64 = self._type[slot]
        x: u64 = (
            self._words[base] * _C1 + self._words[base + 1] * _C2
            + self._words[base + 2] * _C3 + self._words[base + 3] * _C4
        )
        if status & _USER:
            x = (x + ((tail << 8) | (status & (_USER | _PARTIAL))) * _C7) & _MASK
        else:
            owner: u64 = self._owner[slot]
            tail = (owner << 16) | (tail << 8) | status
            x = (
                x + self._words[base + 4] * _C5 + self._words[base + 5] * _C6 + tail * _C7
            ) & _MASK
        return (((x ^ (x >> 32)) * _C1) & _MASK) >> 48

    @cython.cfunc
    @cython.inline
    @cython.exceptval(-1)
    def _check(self, slot: i64) -> cython.int:
        if self._checksum[slot] != self._sum_of(slot):
            raise TableDamaged(f"I9: the checksum of slot {slot} is wrong")

    @cython.cfunc
    @cython.inline
    @cython.exceptval(-1)
    def _after(self, slot: i64, steps: i64) -> i64:
        """What follows a state on its user's list, `steps` from the list's head, or 0."""
        if steps >= self.slots:
            raise TableDamaged("I3: a user's list does not end")
        return self._next[slot]

    # -- both passes --------------------------------------------------------------------------

    @cython.cfunc
    @cython.exceptval(-1)
    def _check_status(self, slot: i64) -> cython.int:
        """I1 of one slot: returns its status."""
        word: i64
        status: cython.int = self._status[slot]
        if status == 0:
            for word in range(8):
                if word != 6 and self._words[slot * 8 + word]:
                    raise TableDamaged(f"I1: the free slot {slot} is not zero")
            if self._owner[slot]:  # the other half of word 6 is the next free slot
                raise TableDamaged(f"I1: the free slot {slot} is not zero")
        elif status & _STATE:
            if status & ~(_STATE | _DIRTY | _TOMBSTONE):
                raise TableDamaged(f"I1: slot {slot} has status {status}")
        elif not status & _USER or status & ~(_USER | _QUEUED | _IN_FLIGHT | _PARTIAL):
            raise TableDamaged(f"I1: slot {slot} has status {status}")
        return status

    @cython.cfunc
    @cython.exceptval(-2)
    def _walk(self, word: i64, user: i64, expected: i64, member: cython.int) -> i64:
        """The last one of a list of users, by their links; 0 if it is empty.

        `word`: that of the links; `user`: the head. _BROKEN where the list does not hold `expected`
        users, each with the status bit `member`, linked there and back.
        """
        before: i64 = 0
        steps: i64 = 0
        while user and steps <= expected:
            if user >= self._used or not self._status[user] & member:
                return _BROKEN
            if self._links[user * 16 + (word ^ 1)] != before:
                return _BROKEN
            before = user
            user = self._links[user * 16 + word]
            steps += 1
        return before if steps == expected else _BROKEN

    # -- rebuild ------------------------------------------------------------------------------

    def rebuild(self) -> None:
        """See the module's `rebuild`."""
        try:
            self._check_slots()
            self._wipe_states()
            self._find_lru()
            self._wipe_users()
            self._fill_index()
            self._count_again()
            self._fill_free_list()
        except (IndexError, ValueError) as exc:
            raise TableDamaged(f"a link leads out of the file: {exc}") from exc
        self._header[layout.AT_USERS // 8] = self._users
        self._header[layout.AT_STATES // 8] = self._live
        self._header[layout.AT_DIRTY_STATES // 8] = self._dirty
        self._header[layout.AT_DIRTY_USERS // 8] = 0  # `Table.recover` queues them
        self._header[layout.AT_DIRTY_HEAD // 8] = 0
        self._header[layout.AT_DIRTY_TAIL // 8] = 0
        self._header[layout.AT_FREE // 8] = self._free
        self._header[layout.AT_USED // 8] = self._used

    @cython.cfunc
    @cython.exceptval(-1)
    def _check_slots(self) -> cython.int:
        """Check every slot; take from each user what is not believed."""
        slot: i64
        status: cython.int
        self._used = 1
        for slot in range(1, self.slots):
            status = self._check_status(slot)
            if status == 0:
                continue
            self._used = slot + 1
            self._check(slot)
            if status & _STATE:
                continue
            status &= _USER | _PARTIAL
            if self._first_version[slot] or self._delete_version[slot]:
                if status & _PARTIAL:
                    raise TableDamaged(f"I11: the user in slot {slot} is PARTIAL and dirty")
                status |= _IN_FLIGHT
            self._status[slot] = status
            self._first_state[slot] = 0
            self._users += 1

    @cython.cfunc
    @cython.exceptval(-1)
    def _wipe_states(self) -> cython.int:
        """A read state goes with its user, if that is PARTIAL, or with the user's deletion."""
        slot: i64
        status: cython.int
        owner: i64
        for slot in range(1, self._used):
            status = self._status[slot]
            if not status & _STATE:
                continue
            owner = self._owner[slot]
            if not self._status[owner] & _USER:
                raise TableDamaged(f"I3: the state in slot {slot} has no user")
            if self._status[owner] & _PARTIAL:
                if status & _DIRTY:
                    raise TableDamaged(f"I11: slot {slot} is dirty, its user is PARTIAL")
                self._wipe(slot)
            elif self._version[slot] < self._delete_version[owner]:
                self._wipe(slot)

    @cython.cfunc
    @cython.exceptval(-1)
    def _wipe(self, slot: i64) -> cython.int:
        word: i64
        for word in range(slot * 8, slot * 8 + 8):
            self._words[word] = 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _find_lru(self) -> cython.int:
        """Find the warm end of the LRU; where the list is not whole, make one by slot number."""
        user: i64
        for user in range(1, self._used):
            if self._status[user] & _USER and self._links[user * 16 + (_WARM ^ 1)] == 0:
                self._lru_head = user
        if self._walk(_WARM, self._lru_head, self._users, _USER) == _BROKEN:
            self._lru_head = 0
            for user in range(1, self._used):
                if self._status[user] & _USER:
                    self._links[user * 16 + _WARM] = self._lru_head
                    self._lru_head = user

    @cython.cfunc
    @cython.exceptval(-1)
    def _wipe_users(self) -> cython.int:
        """PARTIAL users go; the others are linked in the order of the LRU."""
        user: i64 = self._lru_head
        last: i64 = 0
        self._lru_head = 0
        while user:
            colder: i64 = self._links[user * 16 + _WARM]
            if self._status[user] & _PARTIAL:
                self._wipe(user)
                self._users -= 1
            else:
                self._links[user * 16 + _WARM] = 0
                self._links[user * 16 + (_WARM ^ 1)] = last
                if last:
                    self._links[last * 16 + _WARM] = user
                else:
                    self._lru_head = user
                last = user
            user = colder
        self._header[layout.AT_LRU_HEAD // 8] = self._lru_head
        self._header[layout.AT_LRU_TAIL // 8] = last

    @cython.cfunc
    @cython.exceptval(-1)
    def _fill_index(self) -> cython.int:
        """Users first, for states are put on their lists as they come."""
        place: i64
        slot: i64
        for place in range(self._entries):
            self._index[place] = 0
        for slot in range(1, self._used):
            if not self._status[slot] & _USER:
                continue
            if self.find(self._user_id[slot]):
                raise TableDamaged(f"I2: the user in slot {slot} is there twice")
            self._index_add(slot)
        for slot in range(1, self._used):
            if self._status[slot] & _STATE:
                self._list_state(slot)

    @cython.cfunc
    @cython.exceptval(-1)
    def _list_state(self, slot: i64) -> cython.int:
        status: cython.int = self._status[slot]
        owner: i64 = self._owner[slot]
        if self._find_state(owner, self._type[slot], self._channel_id[slot]):
            raise TableDamaged(f"I2: the state in slot {slot} is there twice")
        self._index_add(slot)
        head: i64 = self._first_state[owner]
        self._next[slot] = head
        self._previous[slot] = 0
        if head:
            self._previous[head] = slot
        self._first_state[owner] = slot
        if not status & _TOMBSTONE:
            self._live += 1
        if status & _DIRTY:
            self._dirty += 1
            self._status[owner] |= _IN_FLIGHT

    @cython.cfunc
    @cython.exceptval(-1)
    def _count_again(self) -> cython.int:
        """The read states of users whose deletion may have been cut short."""
        user: i64
        for user in range(1, self._used):
            if self._status[user] & _USER and self._delete_version[user]:
                self._live_states[user] = self._count_live(user)

    @cython.cfunc
    @cython.exceptval(-1)
    def _count_live(self, user: i64) -> i64:
        slot: i64 = self._first_state[user]
        live: i64 = 0
        steps: i64 = 0
        while slot:
            if not self._status[slot] & _TOMBSTONE:
                live += 1
            slot = self._after(slot, steps)
            steps += 1
        return live

    @cython.cfunc
    @cython.exceptval(-1)
    def _fill_free_list(self) -> cython.int:
        slot: i64
        head: i64 = 0
        self._free = self.slots - self._used
        for slot in range(self._used - 1, 0, -1):
            if self._status[slot] == 0:
                self._next[slot] = head
                head = slot
                self._free += 1
        self._header[layout.AT_FREE_HEAD // 8] = head

    # -- verify -------------------------------------------------------------------------------

    def verify(self) -> None:
        """See the module's `verify`."""
        position: i64 = self._header[layout.AT_POSITION // 8]
        if self._header[layout.AT_POSITION_INVERTED // 8] != ~position:
            raise TableDamaged("I13: the position and its inverse do not agree")
        self._users = self._header[layout.AT_USERS // 8]
        try:
            self._verify_slots()
            self._verify_free_list()
            self._verify_lists()
        except (IndexError, ValueError) as exc:
            raise TableDamaged(f"a link leads out of the file: {exc}") from exc

    @cython.cfunc
    @cython.exceptval(-1)
    def _verify_slots(self) -> cython.int:
        slot: i64
        status: cython.int
        listed: i64 = 0
        users: i64 = 0
        states: i64 = 0
        queued: i64 = 0
        self._live = self._dirty = 0
        if self._used < 1 or self._used > self.slots:
            raise TableDamaged("I1: more slots were used than there are")
        for slot in range(1, self._used):
            status = self._check_status(slot)
            if status == 0:
                continue
            self._check(slot)
            if status & _USER:
                users += 1
                if status & _QUEUED:
                    queued += 1
                listed += self._verify_user(slot, status)
            else:
                states += 1
                self._verify_state(slot, status)
        for slot in range(self._used, self.slots):
            if self._check_status(slot):
                raise TableDamaged(f"I1: slot {slot} was never used and has a status")
        if (users, self._live, self._dirty, queued, self.slots - 1 - users - states) != (
            self._header[layout.AT_USERS // 8],
            self._header[layout.AT_STATES // 8],
            self._header[layout.AT_DIRTY_STATES // 8],
            self._header[layout.AT_DIRTY_USERS // 8],
            self._header[layout.AT_FREE // 8],
        ):
            raise TableDamaged("I8: the header's counts are not those of the slots")
        if listed != states:
            raise TableDamaged("I3: a state is not on its user's list")
        self._verify_index(users + states)

    @cython.cfunc
    @cython.exceptval(-1)
    def _verify_state(self, slot: i64, status: cython.int) -> cython.int:
        """I2, I3, I6, I7 and I12 of one read state, which is counted."""
        owner: i64 = self._owner[slot]
        if not self._status[owner] & _USER:
            raise TableDamaged(f"I3: the state in slot {slot} has no user")
        if self._find_state(owner, self._type[slot], self._channel_id[slot]) != slot:
            raise TableDamaged(f"I2: the state in slot {slot} is not found")
        if self._version[slot] < self._delete_version[owner]:
            raise TableDamaged(f"I12: slot {slot} is older than its user's deletion")
        if status & _DIRTY:
            self._dirty += 1
            if not self._status[owner] & (_QUEUED | _IN_FLIGHT):
                raise TableDamaged(f"I6: slot {slot} is dirty, its user is not")
        elif status & _TOMBSTONE:
            raise TableDamaged(f"I7: the tombstone in slot {slot} is clean")
        if not status & _TOMBSTONE:
            self._live += 1

    @cython.cfunc
    @cython.exceptval(-1)
    def _verify_user(self, user: i64, status: cython.int) -> i64:
        """I2, I3, I5, I6, I10 and I11 of one user; returns the length of its list."""
        slot: i64 = self._first_state[user]
        before: i64 = 0
        live: i64 = 0
        steps: i64 = 0
        if self.find(self._user_id[user]) != user:
            raise TableDamaged(f"I2: the user in slot {user} is not found")
        while slot:
            if self._owner[slot] != user or self._previous[slot] != before:
                raise TableDamaged(f"I3: slot {slot} is on the list of another user")
            if not self._status[slot] & _TOMBSTONE:
                live += 1
            before = slot
            slot = self._after(slot, steps)
            steps += 1
        if live != self._live_states[user]:
            raise TableDamaged(f"I10: the user in slot {user} counts wrong")
        if status & _PARTIAL:
            raise TableDamaged(f"I11: the user in slot {user} is PARTIAL")
        if self._delete_version[user] and not status & (_QUEUED | _IN_FLIGHT):
            raise TableDamaged(f"I6: the user in slot {user} has a deletion to write")
        if status & _QUEUED and not (self._first_version[user] and not status & _IN_FLIGHT):
            raise TableDamaged(f"I5: the user in slot {user} is queued with nothing to write")
        return steps

    @cython.cfunc
    @cython.exceptval(-1)
    def _verify_index(self, expected: i64) -> cython.int:
        place: i64
        held: i64 = 0
        for place in range(self._entries):
            if self._index[place]:
                held += 1
        if held != expected:
            raise TableDamaged(f"I2: the index holds {held} slots of {expected}")

    @cython.cfunc
    @cython.exceptval(-1)
    def _verify_free_list(self) -> cython.int:
        slot: i64 = self._header[layout.AT_FREE_HEAD // 8]
        steps: i64 = self.slots - self._used
        while slot:
            if self._status[slot] or slot >= self._used:
                raise TableDamaged(f"I1: slot {slot} on the free list is not free")
            slot = self._next[slot]
            steps += 1
            if steps > self.slots:
                raise TableDamaged("I1: the free list does not end")
        if steps != self._header[layout.AT_FREE // 8]:
            raise TableDamaged("I1: a free slot is not on the free list")

    @cython.cfunc
    @cython.exceptval(-1)
    def _verify_lists(self) -> cython.int:
        """I4 and I5."""
        header: i64[:] = self._header
        last: i64 = self._walk(_WARM, header[layout.AT_LRU_HEAD // 8], self._users, _USER)
        if last == _BROKEN or last != header[layout.AT_LRU_TAIL // 8]:
            raise TableDamaged("I4: the LRU does not hold every user once, there and back")
        queued: i64 = header[layout.AT_DIRTY_USERS // 8]
        last = self._walk(_OLDEST, header[layout.AT_DIRTY_HEAD // 8], queued, _QUEUED)
        if last == _BROKEN or last != header[layout.AT_DIRTY_TAIL // 8]:
            raise TableDamaged("I5: the dirty queue does not hold every queued user once")
