"""What is committed with the offset, and what a new owner makes of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP
from readstates.cache.table import Table
from readstates.streams import rebalance
from readstates.streams.config import Settings
from readstates.streams.errors import DataLossError, EpochError
from readstates.streams.partition import Partition
from readstates.streams.rebalance import (
    CALM_S,
    REVOKED_WRITE_OUT_S,
    Handover,
    catch_up_target,
    check_commit,
    metadata_of,
)
from readstates.streams.watermark import Watermark
from readstates.streams.worker import Owned
from small_world import World, event, version

UPDATES = TP("read-states.updates", 0)


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


class Broker:
    """A consumer that only commits, slowly."""

    def __init__(self) -> None:
        self.commits: list[dict[TP, tuple[int, str]]] = []

    async def commit_offsets(self, offsets: dict[TP, tuple[int, str]]) -> bool:
        await asyncio.sleep(0.01)
        self.commits.append(offsets)
        return True


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
    worker = Handover(Settings(), Store(), None, 8)
    worker.partition_count = 4
    assigned = {TP("read-states.updates", number) for number in (0, 4)}
    consumer: Any = SimpleNamespace(assignment=lambda: assigned)
    with pytest.raises(EpochError, match="more partitions than 4"):
        await worker.open(consumer)
    assert not worker.owned


def handover(world: World, store: Any = None) -> tuple[Handover, list[bool]]:
    """A worker that owns the world's partition; the list gets how its file was closed."""
    settings = Settings(handover_timeout_s=0.1)
    worker = Handover(settings, store or Store(), None, 8, now_ms=lambda: world.now_ms)
    closed: list[bool] = []
    file: Any = SimpleNamespace(table=world.partition.table)

    def close(clean: bool) -> None:
        closed.append(clean)
        world.partition.table.close()

    file.close = close
    worker.owned[0] = Owned(world.partition, file, 3, Watermark(3))
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
    assert broker.commits == [{UPDATES: (1, "clean:1"), TP("read-states.queries", 0): (3, "")}]
    assert not worker.owned


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
    table.verify()
    assert table.position <= 1
    partition = Partition(
        0, table=table, position=table.position, committed=0, catch_up_to=3, epoch=8, partitions=1,
        incarnation=2, parked_max=9, parked_bytes_max=999, inbox_max=9, inbox_bytes_max=999,
        effects=world,
    )  # fmt: skip
    assert table.first_version(table.find(1)) == version(0)
    partition.position = partition.next_arrival = 3
    partition.announce()
    assert partition.watermark_position() == 0
    for write in partition.take_writes(0, 0, 9, 9):
        assert len(write.rows) == 2
        partition.written(write)
    assert partition.watermark_position() == 3


@pytest.mark.parametrize(
    ("committed", "start", "end", "warm"),
    [(0, 0, 9, True), (5, 0, 9, True), (5, 5, 5, True), (6, 0, 9, False), (0, 6, 9, False),
     (0, 0, 4, False)],
)  # fmt: skip
def test_a_table_is_used_where_it_stands_inside_the_log(
    tmp_path: Path, committed: int, start: int, end: int, warm: bool
) -> None:
    worker = Handover(Settings(cache_states=1000, user_states_max=500), Store(), None, 8)
    worker.cache_dir, worker.partition_count = tmp_path, 1
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
    assert partition.catch_up_to == max(partition.position, end)
    assert len(partition.watermark) == warm
    assert partition.watermark_position() <= committed
    partition.announce()
    delay_ms = int(worker.settings.flush_delay_s * 1000)
    assert not partition.take_writes(worker.now_ms(), delay_ms, 9, 10**6), "others catch up"
    soon_ms = worker.now_ms() + int(CALM_S * 1000)
    due = partition.take_writes(soon_ms, delay_ms, 9, 10**6)
    assert len(due) == warm, "what was dirty has waited before, and waits not much longer"
    owned.file.close(clean=True)


async def test_before_a_shutdown_all_is_written_out_while_all_goes_on() -> None:
    world = applied()
    worker, closed = handover(world)
    await worker.write_out_first()
    assert world.partition.settled
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
    assert not world.partition.settled
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
    worker, _ = handover(applied())
    worker.settings = Settings(handover_timeout_s=5.0)
    await worker.hand_over(Broker(), shutdown=shutdown)
    assert given == [timeout_s]


@pytest.mark.parametrize(("partitions", "parked"), [(1, 800), (8, 800), (16, 400), (100_000, 1)])
def test_more_partitions_share_what_a_worker_may_hold_back(
    tmp_path: Path, partitions: int, parked: int
) -> None:
    worker = Handover(Settings(cache_states=100, user_states_max=50, parked_max=800), None, None, 8)
    worker.cache_dir, worker.partition_count = tmp_path, partitions
    owned = worker._open_one(0, 0, "", 0, 0, 0)
    assert owned.partition._parked_max == parked
    assert owned.partition._inbox_max == max(1, min(2000, 16_000 // partitions))
    assert owned.partition._inbox_bytes_max == min(8 << 20, (64 << 20) // partitions)
    assert owned.partition._parked_bytes_max == min(32 << 20, (256 << 20) // partitions)
    owned.file.close(clean=False)


async def test_two_handovers_at_once_are_one() -> None:
    """A SIGTERM while a rebalance takes the partitions away."""
    worker, closed = handover(applied())
    broker = Broker()
    await asyncio.gather(worker.hand_over(broker), worker.hand_over(broker))
    assert closed == [True]
    assert not worker.owned


async def test_who_leaves_before_it_has_caught_up_hands_on_how_far_it_had_to() -> None:
    """Or the next owner would answer from before what the last but one had shown."""
    world = applied()
    world.partition.catch_up_to = 7
    worker, _ = handover(world)
    broker = Broker()
    assert await worker.hand_over(broker)
    assert broker.commits[-1][UPDATES] == (1, "clean:7")
