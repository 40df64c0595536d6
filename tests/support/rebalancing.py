"""A worker that takes partitions and gives them back; its group, readers and database are fakes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Set
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

from readstates.streams.cassandra.epochs import Log
from readstates.streams.config import Settings
from readstates.streams.kafka.group_consumer import Committed, Owner, TopicPartition
from readstates.streams.partition.batch import Batch
from readstates.streams.worker.loops import BackgroundLoops
from readstates.streams.worker.partitions import Partitions, wall_clock_ms
from readstates.streams.worker.rebalance import Rebalancer
from readstates.streams.worker.tables import Tables

UPDATES = TopicPartition("read-states.updates", 0)
QUERIES = TopicPartition("read-states.queries", 0)
LOG_START, LOG_END = 5, 20
DATABASE_ID = UUID(int=1)


class Member:
    """A member that commits, slowly, and notes what it is told; so do its readers."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.commits: list[Mapping[TopicPartition, Committed]] = []
        self.released: set[int] = set()
        self.known: dict[int, int] = {}  # partition of updates: what is committed
        self.ends = LOG_END  # of the logs
        self.look_ups = 0
        self.look_up_fails = self.commit_fails = 0  # the next so many
        self.accepts = asyncio.Event()  # commits wait for this
        self.accepts.set()

    def start(self, _owner: Owner) -> None: ...

    def release(self, numbers: Set[int]) -> None:
        self.calls.append("release")
        self.released |= numbers

    async def committed(
        self, _places: Iterable[TopicPartition]
    ) -> Mapping[TopicPartition, Committed]:
        self.look_ups += 1
        if self.look_up_fails:
            self.look_up_fails -= 1
            raise TimeoutError
        topic = UPDATES.topic
        return {TopicPartition(topic, n): (at, f"live:{at};") for n, at in self.known.items()}

    async def log_ranges(
        self, places: Iterable[TopicPartition]
    ) -> Mapping[TopicPartition, tuple[int, int]]:
        return dict.fromkeys(places, (LOG_START, self.ends))

    async def commit_offsets(self, offsets: Mapping[TopicPartition, Committed]) -> bool:
        self.calls.append("commit")
        await asyncio.sleep(0.01)
        await self.accepts.wait()
        if self.commit_fails:
            self.commit_fails -= 1
            return False
        self.commits.append(offsets)
        return True

    async def leave(self) -> None:
        self.calls.append("leave")


class Reader:
    """A reader that reads nothing; `places`: position and token of each partition it is to read."""

    missing = ""

    def __init__(self, topic: str, calls: list[str]) -> None:
        self.places: dict[int, tuple[int, int]] = {}
        self._topic, self._calls = topic, calls

    def start(self, number: int, position: int, token: int) -> None:
        self.places[number] = (position, token)

    def stop(self, number: int) -> None:
        if self.places.pop(number, None):
            self._calls.append(f"stop {self._topic}")

    def end(self, _number: int) -> int | None:
        return LOG_END

    def high_watermark(self, _number: int) -> int | None:
        return LOG_END

    def open_transaction_s(self, _number: int) -> float:
        return 0.0

    def begin_anew(self, _number: int) -> None: ...

    def look(self) -> None: ...

    def close(self) -> None:
        self._calls.append(f"close {self._topic}")


class Store:
    """A database that acknowledges at once."""

    def group_of(self, _user_id: int) -> None: ...

    def expire(self) -> None: ...

    def load(self, user_ids: list[int], done: Any) -> None:
        asyncio.get_running_loop().call_soon(done, {user_id: [] for user_id in user_ids})

    def write(self, changes: list[Any], done: Any) -> None:
        asyncio.get_running_loop().call_soon(done, True)


class DeafStore(Store):
    """A database that never answers."""

    def write(self, changes: list[Any], done: Any) -> None:
        pass


class Worker:
    """A worker that owns nothing yet. `refused` has the errors that would end it."""

    def __init__(
        self,
        settings: Settings,
        folder: Path = Path(),
        *,
        partition_count: int = 1,
        store: Any = None,
        now_ms: Callable[[], int] = wall_clock_ms,
        epoch: Log | None = None,
    ) -> None:
        self.member = Member()
        self.updates = Reader("updates", self.member.calls)
        self.queries = Reader("queries", self.member.calls)
        self.refused: list[Exception] = []
        self._store = cast(Any, store or Store())
        self.replies: list[bool] = []  # of each: whether the first partition was live
        producer: Any = SimpleNamespace(reply=lambda *_: self.replies.append(self.is_live()))
        nobody: Any = None
        self.partitions = Partitions(settings, self._store, producer, nobody, now_ms=now_ms)
        self.rebalancer = Rebalancer(
            self.partitions,
            Tables(settings, folder, bytes(16), epoch.epoch if epoch else 8),
            epoch or one_epoch(partition_count),
            self.member,
            self.updates,
            self.queries,
            self.refused.append,
        )
        self.rebalancer.let_go_after_s = 0.05
        self.owned = self.partitions.owned

    async def __aenter__(self) -> Worker:
        """Fold and write out, as the service does."""
        loops = BackgroundLoops(self.partitions, self.rebalancer.commits, self._store)
        self._tasks = [asyncio.create_task(each) for each in (loops.fold(), loops.write_out())]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        for owned in self.owned.values():
            owned.file.close(clean=False)

    async def own(self, *numbers: int) -> None:
        """Have these partitions assigned, and wait until they are open for queries."""
        self.rebalancer.assigned(set(numbers))
        await until(lambda: all(self.is_live(number) for number in numbers))

    def is_live(self, number: int = 0) -> bool:
        owned = self.owned.get(number)
        return owned is not None and owned.partition.progress.live_committed

    def feed(self, *records: Any, number: int = 0, token: int | None = None) -> None:
        """One batch of updates, as its reader delivers it."""
        _, current = self.updates.places[number]
        batch = Batch(records[0].offset, list(records), records[-1].offset + 1)
        self.partitions.take_updates(number, current if token is None else token, batch)

    def metadata(self) -> list[str]:
        """Of the commits of the first partition of updates."""
        return [commit[UPDATES][1] for commit in self.member.commits if UPDATES in commit]


async def until(what: Callable[[], object]) -> None:
    """Wait for something that comes soon; fails if it does not come."""
    async with asyncio.timeout(10):
        while not what():  # noqa: ASYNC110 (anything may be waited for)
            await asyncio.sleep(0.005)


def one_epoch(partitions: int, epoch: int = 8, first_offset: int = 0) -> Log:
    """An epoch that begins at the same offset of each partition."""
    return Log(epoch, UUID(int=0), partitions, (first_offset,) * partitions, 0, DATABASE_ID)
