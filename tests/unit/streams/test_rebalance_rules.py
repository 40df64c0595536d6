"""What is committed with the offset, and what a new owner makes of it."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest

from readstates.cache.table import Table
from readstates.streams.cassandra.epochs import Log
from readstates.streams.config import Settings
from readstates.streams.errors import ConfigError, DataLossError, EarlierEpochError, EpochError
from readstates.streams.kafka.group_consumer import Committed, TopicPartition
from readstates.streams.partition.partition import Partition
from readstates.streams.partition.watermark import Watermark
from readstates.streams.worker import rebalance
from readstates.streams.worker.commits import catch_up_target, metadata_of
from readstates.streams.worker.owned import OwnedPartition
from readstates.streams.worker.partitions import Partitions, wall_clock_ms
from readstates.streams.worker.rebalance import (
    REVOKED_WRITE_OUT_S,
    WRITE_OUT_DELAY_AFTER_OPEN_S,
    Rebalancer,
    check_commit,
    check_epoch,
)
from readstates.streams.worker.tables import Tables
from tests.support.small_world import READER, World, event, version
from tests.support.table_builds import verify

UPDATES = TopicPartition("read-states.updates", 0)
QUERIES = TopicPartition("read-states.queries", 0)


@pytest.mark.parametrize(
    ("metadata", "target"),
    [
        (metadata_of(40, clean=True), 40),
        (metadata_of(100, clean=True), 90),  # never past the log's end
        (metadata_of(0, clean=True), 0),
        (metadata_of(40, clean=False), 90),
        ("", 90),
        ("clean:", 90),
        ("clean:-1", 90),
        ("clean:4x", 90),
        ("40", 90),
        ("from another program", 90),
    ],
)
def test_only_a_clean_position_is_believed(metadata: str, target: int) -> None:
    assert catch_up_target(metadata, 90) == target


@pytest.mark.parametrize("committed", [10, 15, 20])
def test_a_commit_inside_the_log_is_right(committed: int) -> None:
    check_commit(UPDATES, committed, 10, 20)


@pytest.mark.parametrize(
    ("committed", "said"), [(9, "records 9 … 9 are gone"), (21, "the log ends at 20")]
)
def test_a_commit_outside_the_log_is_data_loss(committed: int, said: str) -> None:
    with pytest.raises(DataLossError, match=said):
        check_commit(UPDATES, committed, 10, 20)


@pytest.mark.parametrize("committed", [9, 10])
def test_a_commit_in_the_epoch_is_right(committed: int) -> None:
    check_epoch(UPDATES, committed, 9, 9)


def test_a_commit_before_the_epoch_is_refused() -> None:
    with pytest.raises(
        EarlierEpochError, match=r"partition 0: commit before the epoch: .* is 3"
    ) as e:
        check_epoch(UPDATES, 3, 9, 9)
    assert "Records 3 … 8 " in str(e.value)
    assert "readstates rewind --to-epoch-start" in str(e.value)


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


async def test_partitions_added_under_way_are_refused() -> None:
    """Their users' earlier updates are in other partitions."""
    worker = rebalancer(Settings(), partition_count=4)
    broker = Broker({TopicPartition("read-states.updates", number) for number in (0, 4)})
    with pytest.raises(EpochError, match="more partitions than 4"):
        await worker.open(broker)
    assert not worker._owned


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


class Assigned(Broker):
    """A consumer with two partitions, their logs 5 … 20."""

    def __init__(self, committed: dict[int, int]) -> None:
        topics = ("read-states.updates", "read-states.queries")
        super().__init__({TopicPartition(topic, n) for topic in topics for n in (0, 1)})
        self._committed = committed

    async def committed(
        self, places: Iterable[TopicPartition]
    ) -> Mapping[TopicPartition, Committed]:
        return {
            TopicPartition("read-states.updates", number): (offset, "")
            for number, offset in self._committed.items()
        }

    async def log_starts(self, places: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(places, 5)

    async def log_ends(self, places: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(places, 20)


def in_epoch(folder: Path, epoch: int = 9, first_offset: int = 9) -> Rebalancer:
    """A worker of two partitions in an epoch that begins at this offset of each."""
    settings = Settings(cache_states=100, user_states_max=50)
    return rebalancer(settings, folder, epoch=one_epoch(2, epoch, first_offset))


@pytest.mark.parametrize(
    ("first", "begins"), [(9, 9), (0, 5), (5, 5)], ids=["above", "none", "equal"]
)
async def test_without_a_commit_a_partition_begins_with_the_epoch(
    tmp_path: Path, first: int, begins: int
) -> None:
    worker, broker = in_epoch(tmp_path, first_offset=first), Assigned({0: 12})
    positions = await worker.open(broker)
    updates = [TopicPartition("read-states.updates", number) for number in (0, 1)]
    assert [positions[place] for place in updates] == [12, begins]
    assert broker.commits[0][updates[1]] == (begins, "live:20")
    for owned in worker._owned.values():
        owned.file.close(clean=False)


async def test_one_commit_before_the_epoch_opens_nothing(tmp_path: Path) -> None:
    worker, broker = in_epoch(tmp_path), Assigned({0: 12, 1: 8})
    with pytest.raises(EarlierEpochError, match="partition 1"):
        await worker.open(broker)
    assert not worker._owned
    assert broker.commits == []
    assert not os.listdir(tmp_path), "no table was made"


async def test_a_table_from_before_the_epoch_is_dropped(tmp_path: Path) -> None:
    """Its file is of another epoch; and of this one none may stand below its first offset."""
    for epoch in (8, 9):
        worker = in_epoch(tmp_path, epoch)
        left = worker._open_one(0, 6, "", 5, 20, 0)
        assert not left.file.warm
        left.file.table.insert(1, 0, False)
        left.file.close(clean=True)

        worker = in_epoch(tmp_path)
        await worker.open(Assigned({0: 9}))
        assert worker._owned[0].partition.position == 9
        assert worker._owned[0].file.table.resident_users == 0
        for owned in worker._owned.values():
            owned.file.close(clean=False)


def handover(
    world: World, store: Any = None, handover_timeout_s: float = 0.1
) -> tuple[Rebalancer, list[bool]]:
    """A worker that owns the world's partition; the list gets how its file was closed."""
    settings = Settings(handover_timeout_s=handover_timeout_s)
    worker = rebalancer(settings, store=store, now_ms=lambda: world.now_ms)
    closed: list[bool] = []
    file: Any = SimpleNamespace(table=world.partition.table)

    def close(clean: bool) -> None:
        closed.append(clean)
        world.partition.table.close()

    file.close = close
    worker._owned[0] = OwnedPartition(world.partition, file, 3, Watermark(3))
    return worker, closed


def applied() -> World:
    """A partition with an update that is not in the database."""
    world = World()
    world.feed(event(0, 1, channel_id=1, message_id=5))
    world.load_next()
    return world


async def test_a_handover_writes_commits_and_closes_clean() -> None:
    worker, closed = handover(applied())
    broker = Broker()
    assert await worker.hand_over(broker)
    assert closed == [True]
    assert broker.commits == [{UPDATES: (1, "clean:1"), QUERIES: (3, "")}]
    assert not worker._owned


async def test_what_was_not_written_out_stays_dirty_in_the_file_and_before_the_commit() -> None:
    world = applied()
    world.feed(event(1, 2, channel_id=1, message_id=5))  # its load does not come back
    world.feed(event(2, 1, channel_id=2, message_id=5))
    worker, closed = handover(world, DeafStore())
    broker = Broker()
    assert not await worker.hand_over(broker)
    assert closed == [True]
    assert broker.commits[0][UPDATES] == (0, "clean:3")

    table = Table(world.buffer, 15)
    verify(table)
    assert table.position <= 1
    partition = Partition(
        0, table=table, position=table.position, committed=0, catch_up_to=3, epoch=8, partitions=1,
        incarnation=2, parked_max=9, inbox_max=9, reader=READER, effects=world,
    )  # fmt: skip
    assert table.first_version(table.find(1)) == version(0)
    partition.progress.position = partition.inbox.next_arrival = 3
    partition.note_live_commit()
    assert partition.progress.committable() == 0
    for write in partition.take_writes(0, 0, 9, 9):
        assert len(write.rows) == 2
        partition.written(write)
    assert partition.progress.committable() == 3


@pytest.mark.parametrize(
    ("committed", "start", "end", "warm"),
    [(0, 0, 9, True), (5, 0, 9, True), (5, 5, 5, True), (6, 0, 9, False), (0, 6, 9, False),
     (0, 0, 4, False)],
)  # fmt: skip
def test_a_table_is_used_where_it_stands_inside_the_log(
    tmp_path: Path, committed: int, start: int, end: int, warm: bool
) -> None:
    settings = Settings(cache_states=1000, user_states_max=500)
    worker, now_ms = rebalancer(settings, tmp_path), wall_clock_ms
    owned = worker._open_one(0, 0, "", 0, 9, 0)
    table = owned.file.table
    user = table.insert(1, 0, False)
    table.ack(user, 0, 1, 5, -1, -1, version(3))
    table.position = 5
    table.save()
    path = owned.file.path
    left = path.read_bytes()
    owned.file.close(clean=False)
    path.write_bytes(left)  # as if the process had died

    owned = worker._open_one(0, committed, "", start, end, 0)
    partition, table = owned.partition, owned.file.table
    assert owned.file.warm == warm
    assert table.resident_users == warm
    assert partition.position == (5 if warm else committed)
    assert partition.progress.catch_up_to == max(partition.position, end)
    assert len(partition.watermark) == warm
    assert partition.progress.committable() <= committed
    partition.note_live_commit()
    delay_ms = int(settings.flush_delay_s * 1000)
    assert not partition.take_writes(now_ms(), delay_ms, 9, 10**6), "others catch up"
    soon_ms = now_ms() + int(WRITE_OUT_DELAY_AFTER_OPEN_S * 1000)
    due = partition.take_writes(soon_ms, delay_ms, 9, 10**6)
    assert len(due) == warm, "what was dirty has waited before, and waits not much longer"
    owned.file.close(clean=True)


def test_a_folder_without_room_is_an_error_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transport stops the worker over those, and over no other."""

    def full(file: int, at: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    worker = rebalancer(Settings(cache_states=1000, user_states_max=500), tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(ConfigError, match=f"CACHE_DIR: {tmp_path}.*: no room for a table"):
            worker._open_one(0, 0, "", 0, 9, 0)


@pytest.mark.parametrize("write_out", [True, False])
async def test_the_order_of_a_shutdown(write_out: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can be written out while everything goes on is; nothing arrives while tables close."""
    broker = Broker()

    class Noting(Store):
        def write(self, changes: list[Any], done: Any) -> None:
            broker.calls.append("write")
            super().write(changes, done)

    worker, _ = handover(applied(), Noting())
    file = worker._owned[0].file
    monkeypatch.setattr(file, "close", lambda clean: broker.calls.append("close"))
    await worker.shut_down(broker, write_out=write_out)
    first = ["write", "stop_delivery"] if write_out else ["stop_delivery", "write"]
    assert broker.calls == [*first, "commit", "close", "close_queries"]


async def test_before_a_shutdown_all_is_written_out_while_all_goes_on() -> None:
    world = applied()
    worker, closed = handover(world)
    await worker.write_out_first()
    assert world.partition.all_durable
    assert not world.partition.closing
    assert not closed


@pytest.mark.parametrize("answer", [None, "never"])
async def test_a_shutdown_does_not_wait_for_a_database_that_is_away(answer: str | None) -> None:
    class Away(DeafStore):
        def write(self, changes: list[Any], done: Any) -> None:
            if answer is None:
                asyncio.get_running_loop().call_soon(done, None)

    world = applied()
    worker, closed = handover(world, Away())
    await worker.write_out_first()
    assert not world.partition.all_durable
    assert not closed


@pytest.mark.parametrize(("shutdown", "timeout_s"), [(True, 5.0), (False, REVOKED_WRITE_OUT_S)])
async def test_at_a_revocation_little_time_is_spent(
    monkeypatch: pytest.MonkeyPatch, shutdown: bool, timeout_s: float
) -> None:
    """All of the group stands until the last one is ready."""
    given: list[float] = []

    async def drain(*arguments: Any) -> bool:
        given.append(arguments[-1])
        return True

    monkeypatch.setattr(rebalance, "drain", drain)
    worker, _ = handover(applied(), handover_timeout_s=5.0)
    await worker.hand_over(Broker(), shutdown=shutdown)
    assert given == [timeout_s]


@pytest.mark.parametrize(("partitions", "parked"), [(1, 800), (8, 800), (16, 400), (100_000, 1)])
def test_more_partitions_share_what_a_worker_may_hold_back(
    tmp_path: Path, partitions: int, parked: int
) -> None:
    settings = Settings(cache_states=100, user_states_max=50, parked_max=800)
    worker = rebalancer(settings, tmp_path, partition_count=partitions)
    owned = worker._open_one(0, 0, "", 0, 0, 0)
    assert owned.partition._parked_max == parked
    assert owned.partition._inbox_max == max(1, min(2000, 16_000 // partitions))
    owned.file.close(clean=False)


async def test_two_handovers_at_once_are_one() -> None:
    """A SIGTERM while a rebalance takes the partitions away."""
    worker, closed = handover(applied())
    broker = Broker()
    await asyncio.gather(worker.hand_over(broker), worker.hand_over(broker))
    assert closed == [True]
    assert not worker._owned


async def test_who_leaves_before_it_has_caught_up_hands_on_how_far_it_had_to() -> None:
    """Or the next owner would answer from before what the last but one had shown."""
    world = applied()
    world.partition.progress.catch_up_to = 7
    worker, _ = handover(world)
    broker = Broker()
    assert await worker.hand_over(broker)
    assert broker.commits[-1][UPDATES] == (1, "clean:7")
