# cython: language_level=3, boundscheck=True, wraparound=False, initializedcheck=False
# mypy: disable-error-code="untyped-decorator, misc, valid-type, no-any-return, type-arg, return"
#   (Cython publishes no types: its decorators are untyped, its C types count as Any)
"""The marks of a read state, which is what the service knows about one user in one channel.

A *mark* says whether one unread message mentions the user. A read state has at most MARKS_MAX
marks. If it gets one more, it *gives up* the mark with the smallest message ID. From then on,
mentions in that message and in earlier ones are only counted.

How it works. A read state with no mark, or with one mention, takes one slot (`layout.py`). Anything
more is stored as *entries* in extension slots. To apply an event, the table reads the entries into
a `Marks`, calls the method for the event, and writes the entries back. This takes O(MARKS_MAX).

An entry is two numbers: `value` and `info`, where `info` is `tag << 40 | payload`. By tag:
    MARK         value: the message ID; payload: the rank
    UNCOUNTED    value: `uncounted_up_to`, a message ID; payload: mentions up to it without a mark
    UNREAD       `unread_version`, the version of the last “mark as unread” event; payload: 0
    DELETED      `deleted_up_to`, the message ID up to which the read state was deleted; payload: 0

A rank is `edit << 1 | retracted`, and `edit` is the revision of the message. If two events concern
the same message, the larger rank wins. FOR_GOOD, the rank of a deleted message, is the largest.

Invariants:
    M1  (C1 in ARCHITECTURE.md) Mentions, retractions and plain acks of at most MARKS_MAX messages
        give the same result in any order and with any repetition. The result is the largest ack,
        and the largest rank of each message above it.
    M2  Each mark is above the last read message, `uncounted_up_to` and `deleted_up_to`.
    M3  Entries are sorted by tag and value. A read state with just one mention of rank 0 has none.
    M4  If `deleted_up_to` is set, every field that a reply shows is 0.
"""

import cython  # type: ignore[import-untyped]  # Cython publishes no types
from cython import longlong as i64

COMPILED: bool = cython.compiled

MARKS_MAX = 64
ENTRIES_MAX = MARKS_MAX + 3
FOR_GOOD = 1 << 33 | 1
MARK, UNCOUNTED, UNREAD, DELETED = 0, 1, 2, 3
TAG_SHIFT = 40

_MARKS_MAX = cython.declare(i64, MARKS_MAX)
_FOR_GOOD = cython.declare(i64, FOR_GOOD)
_U32_MAX = cython.declare(i64, 0xFFFFFFFF)


@cython.final
@cython.cclass
class Marks:
    """The marks of one read state.

    `entries` has two 64-bit numbers for each entry. Fill it before `read`; use it after `write`.
    """

    entries = cython.declare(object, visibility="readonly")
    _entries: i64[:]
    _ids: i64[:]  # message IDs in ascending order, at most MARKS_MAX + 1
    _ranks: i64[:]
    count = cython.declare(i64, visibility="readonly")
    last_message_id = cython.declare(i64, visibility="readonly")
    uncounted = cython.declare(i64, visibility="readonly")
    uncounted_up_to = cython.declare(i64, visibility="readonly")
    unread_version = cython.declare(i64, visibility="readonly")
    deleted_up_to = cython.declare(i64, visibility="readonly")

    def __init__(self) -> None:
        self.entries = memoryview(bytearray(16 * ENTRIES_MAX)).cast("q")
        self._entries = self.entries
        self._ids = memoryview(bytearray(8 * (MARKS_MAX + 1))).cast("q")
        self._ranks = memoryview(bytearray(8 * (MARKS_MAX + 1))).cast("q")
        self.read(0, 0)

    # -- reading and writing ------------------------------------------------------------------

    @cython.ccall
    @cython.exceptval(-1)
    def read(self, last_message_id: i64, count: i64) -> cython.int:
        """Read the marks from `count` entries. Raises ValueError if they violate M2, M3 or M4."""
        index: i64
        above: i64 = last_message_id
        self.last_message_id = last_message_id
        self.count = self.uncounted = self.uncounted_up_to = 0
        self.unread_version = self.deleted_up_to = 0
        tag: i64 = 0
        for index in range(count):
            if self._entries[2 * index + 1] >> 40 < tag:
                raise ValueError(f"M3: a smaller tag follows tag {tag}")
            tag = self._entries[2 * index + 1] >> 40
            self._read_entry(self._entries[2 * index], self._entries[2 * index + 1])
        above = max(above, self.uncounted_up_to, self.deleted_up_to)
        if self.count and self._ids[0] <= above:
            raise ValueError(f"M2: the mark of message {self._ids[0]} is not above {above}")
        if self.deleted_up_to and (last_message_id or self.mention_count()):
            raise ValueError(f"M4: deleted up to {self.deleted_up_to}, but other fields are set")
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _read_entry(self, value: i64, info: i64) -> cython.int:
        tag: i64 = info >> 40
        payload: i64 = info & 0xFFFFFFFFFF
        if value <= 0 or tag < 0:
            raise ValueError(f"M3: ({value}, {info}) is not a valid entry")
        if tag == 0 and self.count < _MARKS_MAX and payload <= _FOR_GOOD:
            if self.count and self._ids[self.count - 1] >= value:
                raise ValueError(f"M3: the mark of message {value} is out of order")
            self._ids[self.count] = value
            self._ranks[self.count] = payload
            self.count += 1
        elif tag == 1 and payload <= _U32_MAX and not self.uncounted_up_to:
            self.uncounted_up_to = value
            self.uncounted = payload
        elif tag == 2 and payload == 0 and not self.unread_version:
            self.unread_version = value
        elif tag == 3 and payload == 0 and not self.deleted_up_to:
            self.deleted_up_to = value
        else:
            raise ValueError(f"M3: ({value}, {info}) is not a valid entry")
        return 0

    @cython.ccall
    @cython.exceptval(-1)
    def write(self) -> i64:
        """Put the sorted entries into `entries`; returns their number (M3)."""
        index: i64
        for index in range(self.count):
            self._entries[2 * index] = self._ids[index]
            self._entries[2 * index + 1] = self._ranks[index]
        count: i64 = self.count
        count = self._write_entry(count, self.uncounted_up_to, 1 << 40 | self.uncounted)
        count = self._write_entry(count, self.unread_version, 2 << 40)
        count = self._write_entry(count, self.deleted_up_to, 3 << 40)
        return 0 if count == 1 and self.count and self._ranks[0] == 0 else count

    @cython.cfunc
    @cython.inline
    @cython.exceptval(-1)
    def _write_entry(self, count: i64, value: i64, info: i64) -> i64:
        if value == 0:
            return count
        self._entries[2 * count] = value
        self._entries[2 * count + 1] = info
        return count + 1

    def read_extra(self, last_message_id: int, extra: bytes) -> int:
        """Add entries of 16 bytes each from `extra`; returns their number. Raises ValueError."""
        count, rest = divmod(len(extra), 16)
        if rest or count > ENTRIES_MAX:
            raise ValueError(f"M3: {len(extra)} bytes cannot be entries")
        self.entries[: 2 * count] = memoryview(extra).cast("q")
        self.read(last_message_id, count)
        return count

    def extra(self, count: int) -> bytes:
        """The first `count` entries as bytes."""
        return self.entries[: 2 * count].tobytes()

    @property
    def mentions(self) -> list:
        """The IDs of the messages that mention the user, in ascending order."""
        return [self._ids[i] for i in range(self.count) if not self._ranks[i] & 1]

    @cython.ccall
    @cython.exceptval(-1)
    def mentioned(self) -> i64:
        """The number of marks whose message mentions the user."""
        index: i64
        found: i64 = 0
        for index in range(self.count):
            found += 1 - (self._ranks[index] & 1)
        return found

    @cython.ccall
    @cython.exceptval(-1)
    def mention_count(self) -> i64:
        """The mention count that replies show: `mentioned` plus `uncounted`."""
        return min(self.mentioned() + self.uncounted, _U32_MAX)

    @cython.ccall
    @cython.exceptval(-1)
    def last_mention_id(self) -> i64:
        """The ID of the last message that mentions the user, or 0."""
        index: i64 = self.count - 1
        while index >= 0:
            if not self._ranks[index] & 1:
                return self._ids[index]
            index -= 1
        return 0

    # -- events; a method returns True if something changed -----------------------------------

    @cython.ccall
    @cython.exceptval(-1)
    def ack(self, message_id: i64) -> cython.bint:
        """Apply an ack of a message above `deleted_up_to` and not older than the last read one."""
        changed: cython.bint = self._read_up_to(message_id)
        if self.uncounted_up_to and message_id >= self.uncounted_up_to:
            self.uncounted = self.uncounted_up_to = 0
            changed = True
        return changed

    @cython.ccall
    @cython.exceptval(-1)
    def mark(self, message_id: i64, rank: i64) -> cython.bint:
        """Apply a mention or retraction of a message above `last_message_id` and `deleted_up_to`.

        A mention brings back a deleted read state, even if the mention's retraction arrived first.
        """
        back: cython.bint = self.deleted_up_to != 0 and not rank & 1
        if back:
            self.come_back()
        if message_id <= self.uncounted_up_to:
            return self._count_only(rank & 1) or back
        place: i64 = self._place_of(message_id)
        if place < self.count and self._ids[place] == message_id:
            if self._ranks[place] >= rank:
                return back
        else:
            self._insert(place, message_id)
        self._ranks[place] = rank
        if self.count > _MARKS_MAX:
            self.give_up()
        return True

    def mark_unread(self, message_id: i64, mention_ids: object, mention_count: i64) -> bool:
        """Apply a manual ack (“mark as unread”) of a message above `deleted_up_to`.

        `mention_ids` is None and `mention_count` is -1 if the event lacks them. If this returns
        True, or if another field of the read state changed, call `note_unread` next.
        """
        before: tuple = self._content()
        highest: i64 = max(self.last_message_id, self.deleted_up_to, message_id)
        self._read_up_to(message_id)
        self.uncounted = self.uncounted_up_to = 0
        if mention_ids is not None:
            self._keep_mentions(0)
            for each in sorted(mention_ids):  # type: ignore[call-overload]  # a tuple of ints
                self.mark_again(each)
        elif mention_count >= 0:
            self._keep_mentions(mention_count)
            left: i64 = mention_count - self.mentioned()
            if left > 0:
                self.uncounted = left
                self.uncounted_up_to = highest
        return before != self._content()

    @cython.cfunc
    def _content(self) -> tuple:
        count: i64 = self.count
        marks: list = [(self._ids[index], self._ranks[index]) for index in range(count)]
        numbers = self.last_message_id, self.uncounted, self.uncounted_up_to, self.deleted_up_to
        return (*numbers, marks)

    @cython.ccall
    @cython.exceptval(-1)
    def mark_again(self, message_id: i64) -> cython.int:
        """Set the mark of a message to a mention of rank 0, even if its rank was larger."""
        if message_id <= self.uncounted_up_to:
            self._count_only(0)
            return 0
        place: i64 = self._place_of(message_id)
        if place == self.count or self._ids[place] != message_id:
            self._insert(place, message_id)
        self._ranks[place] = 0
        if self.count > _MARKS_MAX:
            self.give_up()
        return 0

    def note_unread(self, version: i64) -> None:
        """Store the version of the “mark as unread” event."""
        self.unread_version = version

    def merge(self, last_message_id: i64, mention_ids: object, mention_count: i64) -> bool:
        """Apply imported data: a larger `last_message_id`, more mentions or a larger count.

        `mention_count` is -1 if the event lacks it. Returns True if something changed.
        """
        changed: bool = False
        newer: cython.bint = last_message_id > self.last_message_id
        if newer:
            changed = self.ack(last_message_id)
        for each in mention_ids:  # type: ignore[attr-defined]  # a tuple of ints
            if each > self.last_message_id:
                changed = bool(self.mark(each, 0)) or changed
        if newer and mention_count > self.mention_count():
            self.uncounted = mention_count - self.mentioned()
            self.uncounted_up_to = max(self.uncounted_up_to, last_message_id)
            changed = True
        return changed

    def delete(self, up_to: i64) -> None:
        """Delete the read state. Later events about messages up to `up_to` have no effect.

        If the read state is deleted already, it keeps the marks above `up_to`.
        """
        if not self.deleted_up_to:
            self.read(0, 0)
        self.last_message_id = 0
        self.deleted_up_to = max(self.deleted_up_to, up_to)
        self._forget_up_to(self.deleted_up_to)

    @cython.ccall
    @cython.exceptval(-1)
    def come_back(self) -> cython.int:
        """End the deletion. Messages up to `deleted_up_to` then count as read."""
        self.last_message_id = self.deleted_up_to
        self.deleted_up_to = 0
        return 0

    # -- parts of events ----------------------------------------------------------------------

    @cython.cfunc
    @cython.exceptval(-1)
    def _read_up_to(self, message_id: i64) -> cython.bint:
        changed: cython.bint = message_id != self.last_message_id or self.deleted_up_to != 0
        self.last_message_id = message_id
        self.deleted_up_to = 0
        return self._forget_up_to(message_id) or changed

    @cython.cfunc
    @cython.exceptval(-1)
    def _forget_up_to(self, message_id: i64) -> cython.bint:
        gone: i64 = self._place_of(message_id)
        if gone < self.count and self._ids[gone] == message_id:
            gone += 1
        index: i64
        for index in range(gone, self.count):
            self._ids[index - gone] = self._ids[index]
            self._ranks[index - gone] = self._ranks[index]
        self.count -= gone
        return gone != 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _keep_mentions(self, most: i64) -> cython.int:
        """Keep only the `most` latest mentions. Retractions stay."""
        drop: i64 = self.mentioned() - most
        kept: i64 = 0
        index: i64
        for index in range(self.count):
            if drop > 0 and not self._ranks[index] & 1:
                drop -= 1
                continue
            self._ids[kept] = self._ids[index]
            self._ranks[kept] = self._ranks[index]
            kept += 1
        self.count = kept
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _count_only(self, retracted: i64) -> cython.bint:
        """Add one to `uncounted`, or subtract one if `retracted`. True if `uncounted` changed."""
        if retracted and self.uncounted > 0:
            self.uncounted -= 1
            return True
        if not retracted and self.uncounted < _U32_MAX:
            self.uncounted += 1
            return True
        return False

    @cython.ccall
    @cython.exceptval(-1)
    def give_up(self) -> cython.int:
        """Give up the mark with the smallest message ID (M2). If it is a mention, count it."""
        smallest: i64 = self._ids[0]
        retracted: i64 = self._ranks[0] & 1
        self._forget_up_to(smallest)
        self.uncounted_up_to = smallest
        if not retracted:
            self._count_only(0)
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _place_of(self, message_id: i64) -> i64:
        """The index of the first mark at or above a message."""
        low: i64 = 0
        high: i64 = self.count
        while low < high:
            middle: i64 = (low + high) >> 1
            if self._ids[middle] < message_id:
                low = middle + 1
            else:
                high = middle
        return low

    @cython.cfunc
    @cython.exceptval(-1)
    def _insert(self, place: i64, message_id: i64) -> cython.int:
        index: i64 = self.count
        while index > place:
            self._ids[index] = self._ids[index - 1]
            self._ranks[index] = self._ranks[index - 1]
            index -= 1
        self._ids[place] = message_id
        self._ranks[place] = 0
        self.count += 1
        return 0
