# cython: language_level=3, boundscheck=True, wraparound=False, initializedcheck=False
# mypy: disable-error-code="untyped-decorator, misc, valid-type, no-any-return, type-arg, return"
#   (Cython publishes no types: its decorators are untyped, its C types count as Any)
"""What a read state remembers of individual messages, and the rules by which events change it.

A *mark* says of one unread message that it mentions the user, or that it no longer does. A counter
is not enough: when half of the mentions are read, or a message is deleted, it matters which ones.

How it works. The table keeps a read state with no mark, or with one unread mention, in one slot.
Anything more is kept as *entries*, in their own slots. The table reads them into a `Marks`, calls
the event's method, and writes them anew if something changed. All of this takes O(MARKS_MAX).

An entry is a value and an info; the info holds a tag and a payload (`tag << 40 | payload`):
    MARK         a message ID; its rank
    UNCOUNTED    the largest message that was given up; how many mentions are only counted
    UNREAD       the version of the last manual ack
    DELETED      the message up to which the read state was deleted

A rank is `edit << 1 | retracted`. Of two events about one message, the one with the larger rank
wins: the later edit, or at the same edit the retraction. FOR_GOOD (a deleted message) always wins.

Invariants:
    M1  (C1 of the interface) while mentions, retractions and plain acks name at most MARKS_MAX
        messages, neither their order nor repetitions change the result: the largest rank of each
        message is kept, and the largest ack; what is at or below that ack is forgotten.
    M2  each mark is above the last message, above `uncounted_up_to` and above `deleted_up_to`.
    M3  there is one form for each content: entries are sorted by tag and value, and a read state
        whose only entry would be a mention of rank 0 has none.
    M4  in a read state with a `deleted_up_to`, all fields are zero.
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
    """The marks of one read state, between `read` and `write`.

    `entries`, two 64-bit numbers each: put there by the caller for `read`, and by `write` for it.
    """

    entries = cython.declare(object, visibility="readonly")
    _entries: i64[:]
    _ids: i64[:]  # message IDs, ascending; there is room for one more than MARKS_MAX
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
        """Set this to a read state with `count` entries. Raises ValueError if M2-M4 are broken."""
        index: i64
        above: i64 = last_message_id
        self.last_message_id = last_message_id
        self.count = self.uncounted = self.uncounted_up_to = 0
        self.unread_version = self.deleted_up_to = 0
        tag: i64 = 0
        for index in range(count):
            if self._entries[2 * index + 1] >> 40 < tag:
                raise ValueError(f"M3: an entry of tag {tag} is out of order")
            tag = self._entries[2 * index + 1] >> 40
            self._read_entry(self._entries[2 * index], self._entries[2 * index + 1])
        above = max(above, self.uncounted_up_to, self.deleted_up_to)
        if self.count and self._ids[0] <= above:
            raise ValueError(f"M2: a mark of message {self._ids[0]}, which is not above {above}")
        if self.deleted_up_to and (last_message_id or self.mention_count()):
            raise ValueError(f"M4: deleted up to {self.deleted_up_to}, and not all zero")
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _read_entry(self, value: i64, info: i64) -> cython.int:
        tag: i64 = info >> 40
        payload: i64 = info & 0xFFFFFFFFFF
        if value <= 0 or tag < 0:
            raise ValueError(f"M3: no entry is {value}, {info}")
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
            raise ValueError(f"M3: no entry is {value}, {info}")
        return 0

    @cython.ccall
    @cython.exceptval(-1)
    def write(self) -> i64:
        """Put the entries into `entries`, in their order (M3); returns how many."""
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
        """`read` the entries in `extra`, 16 bytes each; returns how many. Raises ValueError."""
        count, rest = divmod(len(extra), 16)
        if rest or count > ENTRIES_MAX:
            raise ValueError(f"M3: {len(extra)} bytes are no entries")
        self.entries[: 2 * count] = memoryview(extra).cast("q")
        self.read(last_message_id, count)
        return count

    def extra(self, count: int) -> bytes:
        """The first `count` of `entries` as bytes."""
        return self.entries[: 2 * count].tobytes()

    @property
    def mentions(self) -> list:
        """Message IDs of the mentioned marks, ascending."""
        return [self._ids[i] for i in range(self.count) if not self._ranks[i] & 1]

    @cython.ccall
    @cython.exceptval(-1)
    def mentioned(self) -> i64:
        """How many marks say *mentioned*."""
        index: i64
        found: i64 = 0
        for index in range(self.count):
            found += 1 - (self._ranks[index] & 1)
        return found

    @cython.ccall
    @cython.exceptval(-1)
    def mention_count(self) -> i64:
        """The read state's mention count: mentioned marks, and mentions that are only counted."""
        return min(self.mentioned() + self.uncounted, _U32_MAX)

    @cython.ccall
    @cython.exceptval(-1)
    def last_mention_id(self) -> i64:
        """The largest mentioned mark, or 0."""
        index: i64 = self.count - 1
        while index >= 0:
            if not self._ranks[index] & 1:
                return self._ids[index]
            index -= 1
        return 0

    # -- events: each returns True if something changed ---------------------------------------

    @cython.ccall
    @cython.exceptval(-1)
    def ack(self, message_id: i64) -> cython.bint:
        """Fold an ack of a message that is neither older than the last one nor deleted."""
        changed: cython.bint = self._read_up_to(message_id)
        if self.uncounted_up_to and message_id >= self.uncounted_up_to:
            self.uncounted = self.uncounted_up_to = 0
            changed = True
        return changed

    @cython.ccall
    @cython.exceptval(-1)
    def mark(self, message_id: i64, rank: i64) -> cython.bint:
        """Fold a mention or a retraction of a message above the last one and the deleted ones.

        A newer mention brings a deleted read state back even if its retraction came first.
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
        """Fold a manual ack of a message that is not deleted. `mention_ids` may be None.

        `mention_count`: -1 if it is not given. If this returns True, or another field changed, the
        caller calls `note_unread` next.
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
        """Mark a message as mentioned with rank 0, whatever was known of it."""
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
        """Note that the event of this version marked the read state unread."""
        self.unread_version = version

    def merge(self, last_message_id: i64, mention_ids: object, mention_count: i64) -> bool:
        """Fold what an import knows: a larger last message, more mentions, or a larger count.

        `mention_count`: -1 if it is not given. True if something changed.
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
        """Delete the read state: messages up to this one no longer change anything.

        If it was deleted before, what is known of newer messages stays.
        """
        if not self.deleted_up_to:
            self.read(0, 0)
        self.last_message_id = 0
        self.deleted_up_to = max(self.deleted_up_to, up_to)
        self._forget_up_to(self.deleted_up_to)

    @cython.ccall
    @cython.exceptval(-1)
    def come_back(self) -> cython.int:
        """A newer message brings a deleted read state back, read up to where it was deleted."""
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
        """Drop all mentioned marks but the newest `most`."""
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
        """Fold a message at or below `uncounted_up_to`: there, mentions are only counted."""
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
        """Give up the smallest mark (M2): it is only counted from now on."""
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
        """The index of the first mark that is not below a message."""
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
