"""The interfaces between a worker and Kafka: its membership in the group, and its reading.

`group.py` and `reader.py` implement them, and the simulation implements them on a simulated group.
All methods are called on the event loop, unless they say otherwise.

Changes of ownership are told to the `Owner` in the order in which they happen. A command of the
owner (`release`, `commit_offsets`) may cross such a change on its way. It is then about an earlier
ownership of the partition, and the membership ignores it: a late `release` must not let go of what
was given back meanwhile, and a late commit must not count for what was lost and assigned again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import NamedTuple, Protocol


class TopicPartition(NamedTuple):
    """A partition of a topic; each client library has a type of its own for it."""

    topic: str
    partition: int


Committed = tuple[int, str]  # an offset, and the metadata stored with it


class Owner(Protocol):
    """Who is told which partitions this member owns: `worker.rebalance.Rebalancer`."""

    def assigned(self, numbers: Set[int]) -> None:
        """These belong to this member. Some may have been given back before their release."""
        ...

    def revoked(self, numbers: Set[int]) -> None:
        """The group wants these back: hand them over, then call `Membership.release`."""
        ...

    def lost(self, numbers: Set[int]) -> None:
        """These may have another owner already: close them without a commit."""
        ...


class Membership(Protocol):
    """A member of the consumer group. It reads nothing."""

    def start(self, owner: Owner) -> None:
        """Join the group."""
        ...

    def release(self, numbers: Set[int]) -> None:
        """Let go of revoked partitions; those that are not revoked, or no longer, are ignored."""
        ...

    async def committed(
        self, places: Iterable[TopicPartition]
    ) -> Mapping[TopicPartition, Committed]:
        """What the group has committed; partitions without a commit are left out.

        Raises TimeoutError if the brokers do not answer: ask again.
        """
        ...

    async def log_ranges(
        self, places: Iterable[TopicPartition]
    ) -> Mapping[TopicPartition, tuple[int, int]]:
        """The first offset that the log holds, and the one after its last record.

        The end is the high watermark. Raises TimeoutError if the brokers do not answer: ask again.
        """
        ...

    async def commit_offsets(self, offsets: Mapping[TopicPartition, Committed]) -> bool:
        """Commit in one request; False if it failed, or if its result is unknown: try again.

        Partitions that this member does not own are left out. If the group does not know
        this member, `Owner.lost` follows.
        """
        ...

    async def leave(self) -> None:
        """Leave the group, after everything was handed over; a static member stays in it."""
        ...


class Reading(Protocol):
    """Reads partitions of one topic, in a thread of its own.

    `missing` says what compaction took out of the log unread; empty: nothing, as far as is known.
    """

    missing: str

    def start(self, number: int, position: int, token: int) -> None:
        """Read a partition from `position` on; `token` comes back with each of its batches."""
        ...

    def stop(self, number: int) -> None:
        """Stop reading a partition. Its token identifies batches still on their way."""
        ...

    def end(self, number: int) -> int | None:
        """The offset up to which a partition may be read; None if it is not known yet."""
        ...

    def high_watermark(self, number: int) -> int | None:
        """The end of a partition's log, with open transactions; None if it is not known yet."""
        ...

    def open_transaction_s(self, number: int) -> float:
        """How long an open transaction has kept a partition from being read on; 0: none does."""
        ...

    def begin_anew(self, number: int) -> None:
        """The topic was made anew: read a partition from the beginning of its log."""
        ...

    def look(self) -> None:
        """Some partition has room again: ask at once how much it wants."""
        ...

    def close(self) -> None:
        """Stop reading for good."""
        ...
