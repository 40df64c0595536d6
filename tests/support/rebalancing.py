"""A worker that takes partitions and gives them back, with a consumer and a database made up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from readstates.streams.cassandra.epochs import Log
from readstates.streams.config import Settings
from readstates.streams.kafka.group_consumer import Committed, TopicPartition
from readstates.streams.worker.partitions import Partitions, wall_clock_ms
from readstates.streams.worker.rebalance import Rebalancer
from readstates.streams.worker.tables import Tables

UPDATES = TopicPartition("read-states.updates", 0)
QUERIES = TopicPartition("read-states.queries", 0)


class Broker:
    """A consumer that commits, slowly, and notes in which order it is told to stop."""

    generation, rebalancing = 1, False

    def __init__(self, assigned: set[TopicPartition] | None = None) -> None:
        self.commits: list[Mapping[TopicPartition, Committed]] = []
        self.calls: list[str] = []
        self._assigned = assigned or set()

    def assigned(self) -> set[TopicPartition]:
        return self._assigned

    async def commit_offsets(self, offsets: Mapping[TopicPartition, Committed]) -> bool:
        self.calls.append("commit")
        await asyncio.sleep(0.01)
        self.commits.append(offsets)
        return True

    def stop_delivery(self) -> None:
        self.calls.append("stop_delivery")

    def close_queries(self) -> None:
        self.calls.append("close_queries")

    committed = log_starts = log_ends = updates_end = queries_end = cast(Any, None)


class Store:
    """A database that acknowledges at once."""

    def group_of(self, _user_id: int) -> None: ...

    def write(self, changes: list[Any], done: Any) -> None:
        asyncio.get_running_loop().call_soon(done, True)


class DeafStore:
    """A database that never answers."""

    def group_of(self, _user_id: int) -> None: ...

    def write(self, changes: list[Any], done: Any) -> None:
        pass


def rebalancer(
    settings: Settings,
    folder: Path = Path(),
    *,
    partition_count: int = 1,
    store: Any = None,
    now_ms: Callable[[], int] = wall_clock_ms,
    epoch: Log | None = None,
) -> Rebalancer:
    """A worker that owns nothing yet."""
    store = store or Store()
    partitions = Partitions(settings, store, cast(Any, None), cast(Any, None), now_ms=now_ms)
    tables = Tables(settings, folder, bytes(16), epoch.epoch if epoch else 8)
    return Rebalancer(partitions, tables, epoch or one_epoch(partition_count))


def one_epoch(partitions: int, epoch: int = 8, first_offset: int = 0) -> Log:
    """An epoch that begins at the same offset of each partition."""
    return Log(epoch, UUID(int=0), partitions, (first_offset,) * partitions, 0)
