"""What is committed with the offset, and what a new owner makes of it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from readstates.streams.config import Settings
from readstates.streams.errors import ConfigError, DataLossError, EarlierEpochError, EpochError
from readstates.streams.kafka.group_consumer import Committed, TopicPartition
from readstates.streams.worker.commits import catch_up_target, metadata_of
from readstates.streams.worker.partitions import wall_clock_ms
from readstates.streams.worker.rebalance import (
    WRITE_OUT_DELAY_AFTER_OPEN_S,
    Rebalancer,
    check_commit,
    check_epoch,
)
from tests.support.rebalancing import UPDATES, Broker, one_epoch, rebalancer
from tests.support.small_world import version


@pytest.mark.parametrize(
    ("metadata", "target"),
    [
        (metadata_of(40, clean=True), 40),
        (metadata_of(100, clean=True), 90),  # never past the log's end
        (metadata_of(0, clean=True), 0),
        (metadata_of(40, clean=False), 90),
        ("", 90),
        (metadata_of(40, clean=True) + "5", 40),  # read beyond its end
        (metadata_of(40, clean=True) + "\x00live:7;", 40),
        ("clean:40", 90),  # of an earlier version: the digits may not all be its own
        ("clean:;", 90),
        ("clean:-1;", 90),
        ("clean:4x;", 90),
        ("40;", 90),
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


async def test_partitions_added_under_way_are_refused() -> None:
    """Their users' earlier updates are in other partitions."""
    worker = rebalancer(Settings(), partition_count=4)
    broker = Broker({TopicPartition("read-states.updates", number) for number in (0, 4)})
    with pytest.raises(EpochError, match="more partitions than 4"):
        await worker.open(broker)
    assert not worker._owned


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
    assert broker.commits[0][updates[1]] == (begins, "live:20;")
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


@pytest.mark.parametrize(("partitions", "parked"), [(1, 800), (8, 800), (16, 400), (100_000, 1)])
def test_more_partitions_share_what_a_worker_may_hold_back(
    tmp_path: Path, partitions: int, parked: int
) -> None:
    settings = Settings(cache_states=100, user_states_max=50, parked_max=800)
    worker = rebalancer(settings, tmp_path, partition_count=partitions)
    owned = worker._open_one(0, 0, "", 0, 0, 0)
    assert owned.partition._parked_max == parked
    assert owned.partition._inbox_max == max(1, min(2000, 16_000 // partitions))
    assert owned.partition._inbox_bytes_max == min(8 << 20, (64 << 20) // partitions)
    assert owned.partition._parked_bytes_max == min(32 << 20, (256 << 20) // partitions)
    owned.file.close(clean=False)
