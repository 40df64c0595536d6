"""The requests of a partition to the world, its counts, and its dead letters."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from readstates.cache.table import CHANGED, DUPLICATE, REPLAYED, STALE, TOO_MANY
from readstates.schemas.replies import Answer

from .batch import Record, UnreadBatch
from .fold import DELETED_USER
from .progress import Progress
from .query import Query

if TYPE_CHECKING:
    from .partition import Partition

DEAD_LETTERS_PENDING_MAX = 10_000  # of a partition, not yet acknowledged by the broker
DEAD_LETTERS_BYTES_MAX = 8 << 20  # of keys and values; the letter that reaches this is the last


class KeptRecord(NamedTuple):
    """The parts of a parked record that are kept; its key is made again from the user's ID."""

    offset: int
    key: bytes
    value: bytes


class Effects(Protocol):
    """The requests of a partition to the world.

    An answer is a later call of a partition's method, never within the call that asks for it.
    """

    def load(self, partition: Partition, user_id: int, ticket: int, asked: bool) -> None:
        """Load a user's rows: `Partition.loaded`.

        `asked`: a query waits for them. A user may first be loaded for updates, then for a query.
        """

    def dead_letter(
        self, partition: Partition, record: Record | KeptRecord, reason: str, text: str
    ) -> None:
        """Keep a record that cannot be applied: `Partition.dead_letter_kept`."""

    def answer(self, query: Query, answer: Answer, hit: bool) -> None:
        """Reply to a query, whose user was resident if `hit`."""


class OwnEffects:
    """The effects of one partition, for its parts.

    The reference to the partition is weak: a cycle would keep the parked updates of a partition
    that was handed over in memory until the next collection.
    """

    def __init__(self, partition: Partition, effects: Effects) -> None:
        self._partition = weakref.ref(partition)
        self._effects = effects

    def load(self, user_id: int, ticket: int, asked: bool) -> None:
        """See Effects."""
        self._effects.load(self._own(), user_id, ticket, asked)

    def dead_letter(self, record: Record | KeptRecord, reason: str, text: str) -> None:
        """See Effects."""
        self._effects.dead_letter(self._own(), record, reason, text)

    def ask_again(self, query: Query) -> None:
        """Keep a query whose user is resident until the partition is far enough to answer it."""
        self._own().queries.ask(query)

    def _own(self) -> Partition:
        partition = self._partition()
        assert partition is not None  # only the partition itself uses its parts
        return partition


@dataclass(slots=True)
class Counts:
    """The outcomes of the records of a slice; the metrics add them up now and then."""

    applied: int = 0
    replayed: int = 0
    stale: int = 0
    duplicate: int = 0
    deleted_user: int = 0


class Outcomes:
    """Counts the outcome of each record, and makes dead letters of those that cannot be applied."""

    def __init__(self, progress: Progress, effects: OwnEffects, user_states_max: int) -> None:
        self._progress = progress
        self._effects = effects
        self._user_states_max = user_states_max
        self.counts = Counts()
        self.dead_letters_pending: dict[int, int] = {}  # offset → bytes that are kept
        self.dead_letters_bytes = 0  # of all of them

    def count(self, code: int, record: Record | KeptRecord) -> None:
        """Count a record that was folded; `code` is the result of `fold`."""
        counts = self.counts
        if code & CHANGED:
            counts.applied += 1
        elif code & TOO_MANY:
            self.reject(
                record,
                "too_many_states",
                f"the user has {self._user_states_max} read states, the most allowed, or no slot "
                "left for what a read state must remember; see the runbook for large accounts",
            )
        elif code & REPLAYED:
            counts.replayed += 1
        elif code & DUPLICATE:
            counts.duplicate += 1
        elif code & STALE:
            counts.stale += 1
        elif code & DELETED_USER:
            counts.deleted_user += 1

    def reject(self, record: Record | KeptRecord, reason: str, text: str) -> None:
        """Make a dead letter of a record; it holds its offset until the broker has the letter."""
        self._progress.hold(record.offset)
        kept = record.raw if isinstance(record, UnreadBatch) else record.value
        size = len(kept or b"") + len(record.key or b"")
        self.dead_letters_pending[record.offset] = size
        self.dead_letters_bytes += size
        self._effects.dead_letter(record, reason, text)

    def dead_letter_kept(self, offset: int) -> None:
        """Note that the broker has the dead letter of the record at `offset`."""
        self.dead_letters_bytes -= self.dead_letters_pending.pop(offset)
        self._progress.release(offset)  # P3: its dead letter was acknowledged

    @property
    def too_many_pending(self) -> bool:
        """True while so many dead letters wait for the broker that no record may follow them."""
        return (
            len(self.dead_letters_pending) >= DEAD_LETTERS_PENDING_MAX
            or self.dead_letters_bytes >= DEAD_LETTERS_BYTES_MAX
        )

    def check(self) -> None:
        """Assert the count of bytes."""
        size = sum(self.dead_letters_pending.values())
        assert self.dead_letters_bytes == size, (
            f"{self.dead_letters_bytes} bytes counted, dead letters of {size} are pending"
        )
