"""The interface of a worker's membership in the consumer group.

`streams/kafka/transport.py` implements it on Faust and aiokafka, and the simulation on a simulated
group. All methods are called on the event loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import NamedTuple, Protocol


class TopicPartition(NamedTuple):
    """A partition of a topic; each client library has a type of its own for it."""

    topic: str
    partition: int


Committed = tuple[int, str]  # an offset, and the metadata stored with it


class GroupConsumer(Protocol):
    """A member of the consumer group, which reads updates and queries."""

    @property
    def generation(self) -> int:
        """The group's generation that this member is in; it changes with every assignment."""
        ...

    @property
    def rebalancing(self) -> bool:
        """True from a revocation until the next assignment."""
        ...

    def assigned(self) -> Set[TopicPartition]:
        """The partitions of this member, of both topics."""
        ...

    async def committed(
        self, places: Iterable[TopicPartition]
    ) -> Mapping[TopicPartition, Committed]:
        """What the group has committed; partitions without a commit are left out."""
        ...

    async def log_starts(self, places: Iterable[TopicPartition]) -> Mapping[TopicPartition, int]:
        """The first offset that the log still holds."""
        ...

    async def log_ends(self, places: Iterable[TopicPartition]) -> Mapping[TopicPartition, int]:
        """The offset after the last record, as the broker reports it."""
        ...

    async def commit_offsets(self, offsets: Mapping[TopicPartition, Committed]) -> bool:
        """Commit in one request; False if nothing was committed or that is unknown: try again."""
        ...

    def updates_end(self, number: int) -> int | None:
        """The end of a partition of updates as far as it may be read; None if not known yet."""
        ...

    def queries_end(self, number: int) -> int | None:
        """The end of a partition of queries; None if it is not known yet."""
        ...

    def stop_delivery(self) -> None:
        """Stop delivering updates and queries, until the next assignment."""
        ...

    def close_queries(self) -> None:
        """Stop reading queries for good."""
        ...
