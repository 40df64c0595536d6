"""One Kafka partition of read states: the fold of its log, its residents, its waiting queries.

Pure: no Kafka, no Cassandra, no asyncio, no clock of its own. What it wants done it says through
`Effects`; what came of it comes back by a method call. A simulation drives the same code.

How it works. Batches join the inbox; `run` takes a slice of updates from it. A slice decodes each
record and folds it into the table if its user is resident. Otherwise the update is parked with its
user, and the user is loaded, once; when the rows arrive (`loaded`), the parked updates are folded
in order and the user's queries answered. Changed users wait in the table's dirty queue until
`take_writes` hands them out and `written` reports them durable. Whatever is not finished holds its
offset in the watermark.

P1: records are taken in the order of the log, each exactly once, without an unexplained gap.
P2: while a user has parked updates, later updates of that user are parked behind them.
P3: a held offset is released when, and only when, its update needs no more work: it changed
    nothing, or its change is in Cassandra, or its dead letter was acknowledged.
P4: a query is answered only when the partition has passed `catch_up_to` and the query's
    `after_offset`, from a resident user with nothing parked.
P5: what comes back with another incarnation is dropped.
P6: the position in the table never passes an update that must be folded again after a crash:
    parked, or with a dead letter that is not acknowledged. It is never behind a commit.
P7: the users found dirty at the start hold the committed offset until each of them was written.
P8: nothing is answered and nothing written out before the group knows that this owner is at work:
    whoever comes after it must know that the database may be ahead of the owner before.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from readstates.cache.table import (
    ABSENT,
    CHANGED,
    DIRTIED,
    DUPLICATE,
    NO_ROOM,
    REPLAYED,
    STALE,
    TOO_MANY,
    Table,
)
from readstates.schemas import plain
from readstates.schemas.events import (
    Ack,
    BulkAck,
    Delete,
    DeleteUser,
    MarkUnread,
    Mention,
    PinsAck,
    RetractMention,
    Update,
)
from readstates.schemas.partitioner import partition_of
from readstates.schemas.replies import ReadState
from readstates.schemas.wire import DecodeError, decode_update
from readstates.streams.batch import Batch, UnreadBatch
from readstates.streams.errors import BatchGapError
from readstates.streams.queries import Query
from readstates.streams.version import OFFSET_BITS, offset_of
from readstates.streams.watermark import Watermark

OTHER_COUNTS = 10  # what is not plain, or parked, costs as many: a query waits for a slice's end
LETTERS_WAITING_MAX = 10_000  # dead letters of a partition on their way to the broker
LETTERS_BYTES_MAX = 8 << 20  # the bytes of these; the one that reaches it is the last
EVICT_SCAN_MAX = 512  # users looked at from the cold end to make room once
COLD_USERS_AT_ONCE = 16  # written out together when the table has no room
PLAIN_MAX = 256  # plain updates read and folded together …
PLAIN_PARKED_MAX = 16  # … and while many of their users are not resident
COLD = (Mention, RetractMention, Delete, DeleteUser)  # events that do not warm a user up


# what one call reads and folds; nothing of it is needed afterwards, so all partitions share it
_numbers = memoryview(array("q", bytes(8 * plain.NUMBERS * PLAIN_MAX)))
_codes = bytearray(PLAIN_MAX)
_reader = plain.Reader(_numbers)


class Effects(Protocol):
    """What a partition asks of the world."""

    def load(self, partition: Partition, user_id: int, ticket: int) -> None: ...
    def dead_letter(self, partition: Partition, record: Any, reason: str, text: str) -> None: ...
    def answer(
        self, query: Query, version: int, full: bool, rows: list[ReadState], hit: bool
    ) -> None: ...
    def refuse(self, query: Query, code: str, text: str) -> None: ...


class Kept(NamedTuple):
    """What a record is of which only the value was kept."""

    offset: int
    key: bytes
    value: bytes


@dataclass(slots=True)
class Parked:
    """A user being loaded, with what waits for the rows.

    In a storm of mentions there are hundreds of thousands: each is as small as may be, and its
    updates are tuples of what the collector need not look at.
    """

    updates: list[tuple[int, bytes]] = field(default_factory=list)  # (offset, value)
    ticket: int = 0  # of the load that is asked for: rows of an earlier one are stale
    queries: dict[Query, None] = field(default_factory=dict)  # in the order of their arrival
    warm: bool = False  # enters at the warm end of the LRU
    rows: list[ReadState] | None = None  # arrived, waiting for room in the table
    resident: bool = False  # in the table, but not all updates have found room there


@dataclass(slots=True, eq=False)
class Write:
    """One user's changes on their way to Cassandra; compared by identity."""

    partition: Partition
    incarnation: int
    user: int
    user_id: int
    first_version: int
    delete_version: int
    rows: list[tuple[bool, ReadState]]  # (deleted, the read state)
    since_ms: int = 0  # of the oldest of these changes, modulo 2^32
    pending: int = 0  # batches not yet answered
    failed: bool = False


@dataclass(slots=True)
class Counts:
    """What a slice did; the metrics add it up once a slice, not once a record."""

    applied: int = 0
    replayed: int = 0
    stale: int = 0
    duplicate: int = 0


class Partition:
    """See the module. `position` is the next offset to take, `epoch` that of the log."""

    def __init__(
        self,
        number: int,
        *,
        table: Table,
        position: int,
        committed: int,
        catch_up_to: int,
        epoch: int,
        partitions: int,
        incarnation: int,
        parked_max: int,
        parked_bytes_max: int,
        inbox_max: int,
        inbox_bytes_max: int,
        effects: Effects,
    ) -> None:
        self.number = number
        self.table = table
        self.position = position
        self.catch_up_to = catch_up_to
        self.incarnation = incarnation
        self.watermark = Watermark(committed)
        self._unfolded = Watermark(committed)  # P6: what a later run of this table must see again
        self.inbox: deque[Batch] = deque()
        self.inbox_records = 0
        self.inbox_bytes = 0
        self.arrived_bytes = 0  # of all batches that came into the inbox
        self.parked: dict[int, Parked] = {}
        self.parked_updates = 0
        self.parked_bytes = 0
        self.letters: dict[int, int] = {}  # not acknowledged yet: offset → bytes
        self.letters_bytes = 0
        self.ahead: dict[Query, None] = {}  # queries whose after_offset or catch-up is not reached
        self._ahead_at = 0  # no query of `ahead` can be answered below this position
        self._no_room: dict[int, Parked] = {}  # loaded users that wait for room in the table
        self._writes: dict[Write, None] = {}  # under way, the oldest first
        self.stalled = False  # no room in the table until something was written out
        self.closing = False
        self.announced = False
        self.counts = Counts()
        self._tickets = 0
        self._epoch_bits = epoch << OFFSET_BITS
        self.partitions = partitions
        self._parked_max = parked_max
        self._parked_bytes_max = parked_bytes_max
        self._inbox_max = inbox_max
        self._inbox_bytes_max = inbox_bytes_max
        self._effects = effects
        self.next_arrival = position
        self._index = 0  # into the first batch of the inbox
        self._plain_max = PLAIN_MAX
        self._left = 0  # of the slice, see `run`
        self._behind_ms = 0  # age of the last record taken, when it was taken
        self._at_end = False  # the last batch taken whole reached the log's end
        self._late_ms: int | None = None  # `now_ms` of the last slice that was FLUSH_DELAY_S behind
        for _ in range(table.recover(self._epoch_bits | (committed + 1))):  # P7
            self.watermark.hold(committed)

    # -- Kafka's side -------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """How far the partition has been applied, as a version."""
        return self._epoch_bits | self.position

    @property
    def caught_up(self) -> bool:
        """True once the last owner's position has been passed: queries may be answered."""
        return self.announced and self.position >= self.catch_up_to

    def announce(self) -> None:
        """The group knows by a commit that this owner is at work: queries may be answered (P8).

        Before that, a crash would leave the clean position of the owner before in the metadata.
        """
        if not self.announced:
            self.announced = True
            self._release_ahead()

    @property
    def wants_records(self) -> bool:
        """False while enough waits in the inbox: the next fetch leaves this partition out."""
        return self.wants_after(self.arrived_bytes)

    def wants_after(self, pulled_bytes: int) -> bool:
        """The same, where batches of so many bytes were sent here, and may be on their way."""
        coming = pulled_bytes - self.arrived_bytes
        return (
            self.inbox_records < self._inbox_max
            and self.inbox_bytes + coming < self._inbox_bytes_max
            and not self.closing
        )

    @property
    def held_back(self) -> bool:
        """True while it waits for Cassandra, or for the broker to take dead letters."""
        return (
            self.stalled
            or self.parked_updates >= self._parked_max
            or self.parked_bytes >= self._parked_bytes_max
            or len(self.letters) >= LETTERS_WAITING_MAX
            or self.letters_bytes >= LETTERS_BYTES_MAX
        )

    @property
    def can_run(self) -> bool:
        """True if a slice would make progress now."""
        return bool(self.inbox) and not self.held_back

    def take(self, batch: Batch) -> None:
        """Put a batch into the inbox. Raises BatchGapError where it is not the next one (P1)."""
        if batch.start != self.next_arrival:
            raise BatchGapError(
                f"partition {self.number}: a batch begins at offset {batch.start}, expected "
                f"{self.next_arrival}: records between Kafka and here were lost or repeated. "
                "The worker stops; a restart replays from the committed offset."
            )
        self.next_arrival = batch.end
        self.inbox.append(batch)
        self.inbox_records += len(batch.records)
        self.inbox_bytes += batch.size_bytes
        self.arrived_bytes += batch.size_bytes  # after it: another thread reads these two

    def store_position(self) -> None:
        """Note in the table where a later run may take it up (P6)."""
        self.table.position = self._unfolded.position(self.position)

    @property
    def settled(self) -> bool:
        """True if all that is applied is durable: only parked updates still hold offsets."""
        return len(self.watermark) == self.parked_updates

    def watermark_position(self) -> int:
        """The offset that may be committed for the updates topic."""
        self.store_position()
        return self.watermark.position(self.position)

    # -- the fold -----------------------------------------------------------------------------

    def run(self, limit: int, now_ms: int) -> int:
        """Apply updates from the inbox; returns how many were taken.

        Up to `limit` plain ones; any other counts as OTHER_COUNTS. Stops early when the table has
        no room (`stalled`) or too much is parked.
        """
        table = self.table
        table.now_ms = now_ms & 0xFFFFFFFF
        taken, before = 0, self.position
        record = None
        self._left = limit
        while self._left > 0 and self.can_run:
            batch = self.inbox[0]
            records = batch.records
            begin = self._index
            self._index = self._apply(records, begin)
            taken += self._index - begin
            if self._index > begin:
                record = records[self._index - 1]
            if self._index == len(records):
                self.inbox.popleft()
                self.inbox_bytes -= batch.size_bytes
                self._index = 0
                self.position = batch.end
                self._at_end = batch.last
        if record is not None:
            self._behind_ms = now_ms - record.timestamp
        self.inbox_records -= taken
        self.store_position()
        if self.ahead and self.position != before:  # also where only control records passed
            self._release_ahead()
        return taken

    def _apply(self, records: list[Any], begin: int) -> int:
        """Fold records from `begin` on, as the slice has room; the index of the first not taken.

        The hot path are runs of plain updates, each in two calls; the others come one by one.
        """
        index = begin
        while index < len(records) and self._left > 0:
            run = 0
            if plain.COMPILED and not self._no_room:  # P2: all residents have nothing parked
                most = min(self._plain_max, self._parked_max - self.parked_updates, self._left)
                stop = min(len(records), index + most)
                run = _reader.read(records, index, stop, self._epoch_bits)
            if run:
                before = self.parked_updates
                taken = self._apply_plain(records, index, run)
                parked = self.parked_updates - before
                self._left -= taken + (OTHER_COUNTS - 1) * parked
                self._plain_max = PLAIN_PARKED_MAX if 4 * parked > taken else PLAIN_MAX
            else:
                taken = self._apply_one(records[index])
                self._left -= OTHER_COUNTS * taken
            index += taken
            if taken < (run or 1):
                break
        return index

    def _apply_plain(self, records: list[Any], begin: int, count: int) -> int:
        """Fold the plain updates that were read; returns how many were taken."""
        table, counts = self.table, self.counts
        taken: int = table.fold_plain(_numbers, count, _codes)
        codes = bytes(_codes[:taken])
        applied, stale = codes.count(CHANGED), codes.count(STALE)
        duplicate, replayed = codes.count(DUPLICATE), codes.count(REPLAYED)
        counts.applied += applied
        counts.stale += stale
        counts.duplicate += duplicate
        counts.replayed += replayed
        if applied + stale + duplicate + replayed < taken:
            for index, code in enumerate(codes, begin):
                if code & (DIRTIED | ABSENT | TOO_MANY):
                    record = records[index]
                    if code & ABSENT:
                        at = (index - begin) * plain.NUMBERS
                        self._park(record, _numbers[at], warm=not _numbers[at + 7])
                    else:
                        if code & DIRTIED:
                            self.watermark.hold(record.offset)
                        self._count(code, record)
        if taken:
            self.position = records[begin + taken - 1].offset + 1
        if taken < count:
            user = table.find(_numbers[taken * plain.NUMBERS])
            self.stalled = not self._make_room(1, user)
        return taken

    def _apply_one(self, record: Any) -> int:
        """Fold one record; returns how many were taken, 1 or 0."""
        table, offset = self.table, record.offset
        event, refused = None, ("", "")
        try:
            event = decode_update(record.value)
        except DecodeError as exc:
            refused = exc.reason, str(exc)
        if event is None:  # out of the handler: what fails there keeps this error, and its record
            if isinstance(record, UnreadBatch):
                refused = record.reason, record.text
            self._reject(record, *refused)
            self.position = offset + 1
            return 1
        user_id = event.user_id
        if record.key != b"%d" % user_id:
            self._reject(record, "key_mismatch", f"key {record.key!r:.80} is not {user_id}")
            self.position = offset + 1
            return 1
        user = table.find(user_id)
        if user == 0 or (self.parked and user_id in self.parked):
            if self.parked_bytes >= self._parked_bytes_max:  # plain ones have no room to be large
                return 0
            if not self._park(record, user_id, warm=not isinstance(event, COLD)):
                return 0
            self.position = offset + 1
            return 1
        if not isinstance(event, COLD):
            table.touch(user)
        code = self._fold(user, event, self._epoch_bits | (offset + 1))
        if code & NO_ROOM:
            self.stalled = not self._make_room(self._slots_for(user, event), user)
            return 0  # the same record again, with room
        if code & DIRTIED:
            self.watermark.hold(offset)
        self._count(code, record)
        self.position = offset + 1
        return 1

    def _fold(self, user: int, event: Update, version: int) -> int:
        """Apply one event to a resident user; returns the table's code."""
        table = self.table
        match event:
            case Ack():
                return table.ack(
                    user,
                    event.read_state_type,
                    event.channel_id,
                    event.message_id,
                    event.flags,
                    event.last_viewed,
                    version,
                )
            case Mention():
                return table.mention(
                    user, event.read_state_type, event.channel_id, event.message_id, version
                )
            case RetractMention():
                return table.retract(
                    user, event.read_state_type, event.channel_id, event.message_id, version
                )
            case PinsAck():
                return table.pins_ack(
                    user, event.read_state_type, event.channel_id, event.timestamp, version
                )
            case MarkUnread():
                return table.mark_unread(
                    user,
                    event.read_state_type,
                    event.channel_id,
                    event.message_id,
                    event.mention_count,
                    event.flags,
                    event.last_viewed,
                    version,
                )
            case BulkAck():
                return self._fold_bulk(user, event, version)
            case Delete():
                return table.delete(user, event.read_state_type, event.channel_id, version)
            case DeleteUser():
                return table.delete_user(user, version)

    def _fold_bulk(self, user: int, event: BulkAck, version: int) -> int:
        """All or none: room and the user's limit are settled before the first entry."""
        table = self.table
        new = sum(not table.has(user, kind, channel) for kind, channel, _ in event.acks)
        if new and table.count(user) + new > table.user_states_max:
            return TOO_MANY
        if new > table.free:
            return NO_ROOM
        total = 0
        for kind, channel, message in event.acks:
            total |= table.ack(user, kind, channel, message, -1, -1, version)
        if total & CHANGED:
            total &= CHANGED | DIRTIED
        return total

    def _slots_for(self, user: int, event: Update) -> int:
        if not isinstance(event, BulkAck):
            return 1
        return sum(not self.table.has(user, kind, channel) for kind, channel, _ in event.acks)

    def _count(self, code: int, record: Any) -> None:
        counts = self.counts
        if code & CHANGED:
            counts.applied += 1
        elif code & TOO_MANY:
            self._reject(
                record,
                "too_many_states",
                f"the user has {self.table.user_states_max} read states, the most allowed",
            )
        elif code & REPLAYED:
            counts.replayed += 1
        elif code & DUPLICATE:
            counts.duplicate += 1
        elif code & STALE:
            counts.stale += 1

    def _reject(self, record: Any, reason: str, text: str) -> None:
        """Keep a record that cannot be applied; it holds its offset until that is done."""
        self._hold(record.offset)
        kept = record.raw if isinstance(record, UnreadBatch) else record.value
        size = len(kept or b"")
        self.letters[record.offset] = size
        self.letters_bytes += size
        self._effects.dead_letter(self, record, reason, text)

    def dead_letter_kept(self, incarnation: int, offset: int) -> None:
        """The broker has the dead letter of `offset`."""
        if incarnation == self.incarnation:
            self.letters_bytes -= self.letters.pop(offset)
            self._release(offset)

    def _hold(self, offset: int) -> None:
        """The record at `offset` is not in the table and not done with."""
        self.watermark.hold(offset)
        self._unfolded.hold(offset)

    def _release(self, offset: int) -> None:
        self.watermark.release(offset)
        self._unfolded.release(offset)

    # -- residents, misses, parking -----------------------------------------------------------

    def _park(self, record: Any, user_id: int, *, warm: bool) -> bool:
        """Hold an update back until its user is resident. False: too much is parked already."""
        if self.parked_updates >= self._parked_max:
            return False
        waiting = self.parked.get(user_id)
        if waiting is None:
            if partition_of(record.key, self.partitions) != self.number:
                self._reject(
                    record,
                    "misrouted",
                    f"key {user_id} belongs to partition "
                    f"{partition_of(record.key, self.partitions)}, not {self.number}: "
                    "use the murmur2 partitioner (librdkafka: partitioner=murmur2_random)",
                )
                return True
            waiting = self._load(user_id)
        waiting.updates.append((record.offset, record.value))
        waiting.warm = waiting.warm or warm
        self.parked_updates += 1
        self.parked_bytes += len(record.value)
        self._hold(record.offset)
        return True

    def _load(self, user_id: int) -> Parked:
        waiting = self.parked[user_id] = Parked()
        self._request(user_id, waiting)
        return waiting

    def _request(self, user_id: int, waiting: Parked) -> None:
        self._tickets += 1
        waiting.ticket = self._tickets
        self._effects.load(self, user_id, waiting.ticket)

    def loaded(self, incarnation: int, user_id: int, ticket: int, rows: list[ReadState]) -> None:
        """A user's rows came from Cassandra (none: the user is new)."""
        waiting = self.parked.get(user_id)
        if incarnation != self.incarnation or waiting is None or waiting.ticket != ticket:  # P5
            return
        waiting.rows = rows
        self._settle(user_id, waiting)

    def _settle(self, user_id: int, waiting: Parked) -> bool:
        """Make a loaded user resident, fold what was parked, answer. False: no room yet."""
        table = self.table
        user = table.find(user_id)
        if user == 0 and waiting.resident:  # written out and evicted before its updates had room
            waiting.resident = False
            self._request(user_id, waiting)
            return True
        if user == 0:
            rows = waiting.rows or []
            if not self._make_room(1 + len(rows), 0):
                self.stalled = True
                self._no_room[user_id] = waiting
                return False
            user = table.insert(user_id, self.version, not waiting.warm, rows)
            waiting.rows, waiting.resident = None, True
        if not self._fold_parked(user, user_id, waiting):
            self.stalled = True
            self._no_room[user_id] = waiting
            return False
        del self.parked[user_id]
        for query in waiting.queries:
            self._reply(query, user, hit=False)
        return True

    def _fold_parked(self, user: int, user_id: int, waiting: Parked) -> bool:
        """Fold what was parked with a user who is resident now. False: no room for the rest."""
        for folded, (offset, value) in enumerate(waiting.updates):
            event = decode_update(value)
            version = self._epoch_bits | (offset + 1)
            while (code := self._fold(user, event, version)) & NO_ROOM:
                if not self._make_room(self._slots_for(user, event), user):
                    del waiting.updates[:folded]
                    return False
            if code & DIRTIED:
                self.watermark.hold(offset)
            self._count(code, Kept(offset, b"%d" % user_id, value))
            self._release(offset)
            self.parked_updates -= 1
            self.parked_bytes -= len(value)
        return True

    def wants_load(self, incarnation: int, user_id: int, ticket: int) -> bool:
        """True while a load of this user still has something waiting for it."""
        waiting = self.parked.get(user_id)
        return (
            incarnation == self.incarnation
            and waiting is not None
            and waiting.ticket == ticket
            and waiting.rows is None
            and not waiting.resident
            and bool(waiting.updates or waiting.queries)
        )

    def _make_room(self, slots: int, keep: int) -> bool:
        """Evict until `slots` are free. False: the coldest users wait to be written out.

        Goes on while it helps: a stall with nothing to write would never end.
        """
        table, before = self.table, -1
        while table.free > before:
            before = table.free
            if table.evict(slots, EVICT_SCAN_MAX, keep):
                return True
        return False

    def retry_stalled(self) -> None:
        """Something was written out: try again whatever waited for room."""
        if not self.stalled:
            return
        self.stalled = False
        while self._no_room and not self.stalled:
            user_id = next(iter(self._no_room))
            self._settle(user_id, self._no_room.pop(user_id))

    # -- write-behind -------------------------------------------------------------------------

    def take_writes(self, now_ms: int, delay_ms: int, rows_max: int, dirty_max: int) -> list[Write]:
        """Users to write out now: those that waited `delay_ms`, and as pressure asks, more.

        Together they have `rows_max` rows or a few more: a user is not divided.
        """
        table, now = self.table, now_ms & 0xFFFFFFFF
        writes: list[Write] = []
        if not self.announced:  # P8
            return writes
        if self.stalled:
            writes = [self._write(user) for user in table.cold_dirty(COLD_USERS_AT_ONCE)]
        delay_ms = self._wait_ms(now, delay_ms)
        rows = sum(len(write.rows) for write in writes)
        while rows < rows_max and (user := table.dirty_head()):
            age_ms = (now - table.dirty_since_ms(user)) & 0xFFFFFFFF
            if age_ms < delay_ms and table.dirty_states < dirty_max and not self.stalled:
                break
            write = self._write(user)
            rows += len(write.rows) or 1
            writes.append(write)
        return writes

    def pressed(self, now_ms: int, delay_ms: int, dirty_max: int) -> bool:
        """Is what is dirty waited for: by updates that find no room, or by commits?

        By commits where it is what is left of a backlog, or has waited twice as long as it should.
        """
        table, now = self.table, now_ms & 0xFFFFFFFF
        if self.stalled or table.dirty_states >= dirty_max:
            return True
        wait_ms = self._wait_ms(now, delay_ms)
        longest_ms = wait_ms if wait_ms < delay_ms else 2 * delay_ms
        user = table.dirty_head()
        return user != 0 and (now - table.dirty_since_ms(user)) & 0xFFFFFFFF >= longest_ms

    def _wait_ms(self, now: int, delay_ms: int) -> int:
        """How long a change waits to be coalesced with others.

        `delay_ms` from when it was applied, while the partition is as much behind its producers;
        once it is not, or the log has ended, what was applied until then has waited long enough.
        """
        late = self._behind_ms >= delay_ms
        if late:
            self._late_ms = self.table.now_ms
        if self._late_ms is not None and (not late or (self._at_end and not self.inbox)):
            return min(delay_ms, (now - self._late_ms) & 0xFFFFFFFF)
        return delay_ms

    def oldest_change_s(self, now_ms: int) -> float:
        """Age of the oldest change that is not yet in Cassandra, in seconds."""
        user = self.table.dirty_head()
        since = [self.table.dirty_since_ms(user)] if user else []
        if self._writes:
            since.append(next(iter(self._writes)).since_ms)
        return max(((now_ms - ms) & 0xFFFFFFFF for ms in since), default=0) / 1000

    def _write(self, user: int) -> Write:
        since_ms = self.table.dirty_since_ms(user)
        first_version, delete_version, rows = self.table.take(user)
        write = Write(
            self,
            self.incarnation,
            user,
            self.table.user_id(user),
            first_version,
            delete_version,
            rows,
            since_ms,
        )
        self._writes[write] = None
        return write

    def written(self, write: Write) -> None:
        """All rows of `write` are in Cassandra, or (if `failed`) must be written again."""
        if write.incarnation != self.incarnation:  # P5
            return
        del self._writes[write]
        if write.failed:
            table = self.table
            again = table.first_version(write.user)
            table.write_failed(write.user, write.first_version, write.since_ms)
            if again:  # the older hold covers the newer change
                self.watermark.release(offset_of(again))
            return
        self.table.written(write.user, write.delete_version, write.rows)
        self.watermark.release(offset_of(write.first_version))
        self.retry_stalled()

    # -- queries ------------------------------------------------------------------------------

    def ask(self, query: Query) -> None:
        """Answer a query now, or keep it until it can be answered (P4)."""
        needs = self._needs(query)
        if self.position < needs or not self.announced:  # P4, P8
            self._ahead_at = min(self._ahead_at, needs) if self.ahead else needs
            self.ahead[query] = None
            return
        user_id = query.get.user_id
        waiting = self.parked.get(user_id)
        user = self.table.find(user_id)
        if user and waiting is None:
            self.table.touch(user)
            self._reply(query, user, hit=True)
            return
        if waiting is None:
            waiting = self._load(user_id)
        waiting.warm = True
        waiting.queries[query] = None
        query.waits_for_store = True

    def _needs(self, query: Query) -> int:
        """The position from which on a query may be answered (P4)."""
        after = query.get.after_offset
        return self.catch_up_to if after is None else max(self.catch_up_to, after + 1)

    def _release_ahead(self) -> None:
        """Ask again what the position has reached. O(1), or O(waiting) where it has any."""
        if self.position < self._ahead_at or not self.announced:
            return
        ready = [query for query in self.ahead if self._needs(query) <= self.position]
        for query in ready:
            del self.ahead[query]
        self._ahead_at = min(map(self._needs, self.ahead), default=0)
        for query in ready:
            self.ask(query)

    def forget(self, query: Query) -> None:
        """A query's time is over: it waits no longer."""
        waiting = self.parked.get(query.get.user_id)
        if waiting is not None and query in waiting.queries:
            del waiting.queries[query]
            if not waiting.queries and not waiting.updates and not waiting.resident:
                del self.parked[query.get.user_id]
                self._no_room.pop(query.get.user_id, None)
        else:
            self.ahead.pop(query, None)

    def leave_queries(self) -> Iterator[Query]:
        """The queries not answered here; the next owner reads them again."""
        yield from self.ahead
        for waiting in self.parked.values():
            yield from waiting.queries

    def _reply(self, query: Query, user: int, hit: bool) -> None:
        table, get = self.table, query.get
        since, version = get.since_version, self.version
        full = since is None or since < table.floor(user) or since > version  # Q3
        kind = get.read_state_type
        if get.channel_ids is None:
            rows = table.states(user)
            if kind is not None:
                rows = [row for row in rows if row[0] == kind]
        else:
            rows = table.get_some(user, kind or 0, get.channel_ids)
        if since is not None and not full:
            rows = [row for row in rows if row[8] > since]
        self._effects.answer(query, version, full, rows, hit)
