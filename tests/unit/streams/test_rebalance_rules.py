"""What is committed with the offset, and what a new owner makes of it."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path
from typing import Any

import pytest

from readstates.streams import metrics
from readstates.streams.config import Settings
from readstates.streams.errors import (
    ConfigError,
    DataLossError,
    EarlierEpochError,
    EpochError,
    RolloutError,
)
from readstates.streams.kafka.group_consumer import TopicPartition
from readstates.streams.worker.commits import catch_up_target, metadata_of, run_in, written_to
from readstates.streams.worker.opening import (
    WRITE_OUT_DELAY_AFTER_OPEN_S,
    Place,
    check_commit,
    check_epoch,
    check_run,
)
from readstates.streams.worker.owned import OwnedPartition
from readstates.streams.worker.partitions import wall_clock_ms
from tests.support.rebalancing import DATABASE_ID, UPDATES, Store, Worker, one_epoch, until
from tests.support.small_world import event, query, version


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


RUN, OTHER_RUN = "0123456789abcdef", "f" * 16


def of_candidate(run: str) -> str:
    return metadata_of(40, False, written_to("8@" + "0" * 36, run))


def test_a_candidates_commit_says_which_run_made_it() -> None:
    assert run_in(of_candidate(RUN)) == RUN
    assert run_in(of_candidate(RUN) + "live:7;") == RUN, "read beyond its end"
    assert run_in(of_candidate("")) == ""
    assert run_in(metadata_of(40, True, "8@x", told_to=4)) == ""
    assert catch_up_target(metadata_of(40, True, written_to("8@x", RUN)), 90) == 40


@pytest.mark.parametrize(
    ("committed", "run", "said"),
    [
        (of_candidate(RUN), RUN, ""),
        (of_candidate(""), "", ""),
        ("", "", ""),
        (of_candidate(RUN), "", "is a candidate's .* ROLE=live"),
        (of_candidate(RUN), OTHER_RUN, "is of the run 0123456789abcdef"),
        (of_candidate(""), RUN, "is of no candidate"),
        ("", RUN, "is of no candidate"),
    ],
)
def test_only_the_run_that_made_a_commit_goes_on_from_it(
    committed: str, run: str, said: str
) -> None:
    if not said:
        check_run(UPDATES, committed, run, "g")
        return
    with pytest.raises(RolloutError, match=said):
        check_run(UPDATES, committed, run, "g")


async def test_partitions_added_under_way_are_refused() -> None:
    """Their users' earlier updates are in other partitions."""
    worker = Worker(Settings(), partition_count=4)
    worker.rebalancer.assigned({0, 4})
    await asyncio.sleep(0)
    (error,) = worker.refused
    assert isinstance(error, EpochError)
    assert "more partitions than 4" in str(error)
    assert not worker.member.look_ups


def in_epoch(folder: Path, epoch: int = 9, first_offset: int = 9) -> Worker:
    """A worker of two partitions in an epoch that begins at this offset of each."""
    settings = Settings(cache_states=100, user_states_max=50)
    return Worker(settings, folder, epoch=one_epoch(2, epoch, first_offset))


@pytest.mark.parametrize(
    ("first", "begins"), [(9, 9), (0, 5), (5, 5)], ids=["above", "none", "equal"]
)
async def test_without_a_commit_a_partition_begins_with_the_epoch(
    tmp_path: Path, first: int, begins: int
) -> None:
    async with in_epoch(tmp_path, first_offset=first) as worker:
        worker.member.known = {0: 12}
        await worker.own(0, 1)
        assert [worker.updates.places[number][0] for number in (0, 1)] == [12, begins]
        place = TopicPartition("read-states.updates", 1)
        assert (begins, f"live:20;9@{DATABASE_ID};") in [
            commit.get(place) for commit in worker.member.commits
        ]
        assert worker.member.look_ups == 1, "one for all that are assigned together"


async def test_one_commit_before_the_epoch_opens_nothing(tmp_path: Path) -> None:
    async with in_epoch(tmp_path) as worker:
        worker.member.known = {0: 12, 1: 8}
        worker.rebalancer.assigned({0, 1})
        await until(lambda: len(worker.refused) == 2)
        for error in worker.refused:
            assert isinstance(error, EarlierEpochError)
            assert "partition 1" in str(error)
        assert not worker.owned
        assert worker.member.commits == []
        assert not os.listdir(tmp_path), "no table was made"


async def test_before_a_live_commit_nothing_is_written_out_or_answered(tmp_path: Path) -> None:
    """R2: if this owner died first, nobody would know that the database may be ahead."""
    writes: list[bool] = []

    class Noting(Store):
        def write(self, changes: list[Any], done: Any) -> None:
            writes.append(worker.is_live())
            super().write(changes, done)

    settings = Settings(cache_states=100, user_states_max=50, flush_delay_s=0.01)
    async with Worker(settings, tmp_path, store=Noting()) as worker:
        worker.member.commit_fails = 5
        worker.member.known = {0: 5}
        worker.member.ends = 5
        worker.rebalancer.assigned({0})
        await until(lambda: worker.owned)
        asked = query(2)
        asked.incarnation = worker.owned[0].partition.incarnation
        worker.owned[0].query_mark.hold(asked.offset)
        worker.owned[0].partition.queries.ask(asked)
        worker.feed(event(5, 1, channel_id=1, message_id=5))
        partition = worker.owned[0].partition
        await until(lambda: partition.table.dirty_users)
        assert not worker.is_live()
        await until(lambda: writes and worker.replies)
    assert writes == [True]
    assert worker.replies == [True]


async def test_look_ups_that_fail_are_repeated(tmp_path: Path) -> None:
    async with in_epoch(tmp_path, first_offset=5) as worker:
        worker.member.look_up_fails = 1
        await worker.own(0, 1)
        assert worker.member.look_ups == 2
        assert not worker.refused


async def test_what_asks_while_a_commit_is_under_way_shares_the_next(tmp_path: Path) -> None:
    async with in_epoch(tmp_path, first_offset=5) as worker:
        worker.member.accepts.clear()
        worker.rebalancer.assigned({0})
        await until(lambda: worker.member.calls.count("commit") == 1)
        worker.rebalancer.assigned({1})
        await until(lambda: 1 in worker.owned)
        clean = worker.rebalancer.commits.commit(list(worker.owned.values()), clean=True)
        task = asyncio.create_task(clean)
        await asyncio.sleep(0.05)
        worker.member.accepts.set()
        assert await task
        assert len(worker.member.commits) == 2
        assert len(worker.member.commits[1]) == 4


def open_one(
    worker: Worker, committed: int, start: int, end: int, metadata: str = "live:0;"
) -> OwnedPartition:
    """Steps 3 to 5 for partition 0, by default after a commit of a worker."""
    opener, place = worker.rebalancer.opener, Place(committed, metadata, start, end, 0)
    waited_s = worker.partitions.settings.flush_delay_s - WRITE_OUT_DELAY_AFTER_OPEN_S
    since_ms = wall_clock_ms() - int(max(0.0, waited_s) * 1000)
    return opener._make(0, place, *opener._open_file(0, place, since_ms))


@pytest.mark.parametrize("metadata", ["", "from another program", "live:", "clean:9"])
def test_updates_that_another_program_passed_over(tmp_path: Path, metadata: str) -> None:
    """A consumer that is no worker had the partition for a while, and committed what it read."""
    stopped = Worker(Settings(), tmp_path)
    owned = open_one(stopped, 3, 0, 9)
    owned.file.close(clean=True)
    with pytest.raises(DataLossError, match="updates 3 … 6 were passed over") as found:
        open_one(stopped, 7, 0, 9, metadata)
    assert "readstates rewind --partition 0 --to-offset 3" in str(found.value)
    for offset, said in ((3, metadata), (2, metadata), (3, metadata_of(9, clean=False))):
        owned = open_one(stopped, offset, 0, 9, said)
        assert (owned.file.warm, owned.partition.position) == (True, 3)
        owned.file.close(clean=True)
    accepting = Worker(Settings(missing_updates="count"), tmp_path)
    before = metrics.UPDATES_MISSING._value.get()
    owned = open_one(accepting, 7, 0, 9, metadata)
    assert (owned.file.warm, owned.partition.position) == (False, 7)
    assert metrics.UPDATES_MISSING._value.get() == before + 4
    owned.file.close(clean=True)
    owned = open_one(stopped, 8, 0, 9, metadata_of(8, clean=False))
    assert owned.partition.position == 8, "another worker was there meanwhile"
    owned.file.close(clean=True)


async def test_a_table_from_before_the_epoch_is_dropped(tmp_path: Path) -> None:
    """Its file is of another epoch; and of this one none may stand below its first offset."""
    for epoch in (8, 9):
        left = open_one(in_epoch(tmp_path, epoch), 6, 5, 20)
        assert not left.file.warm
        left.file.table.insert(1, 0, False)
        left.file.close(clean=True)

        async with in_epoch(tmp_path) as worker:
            worker.member.known = {0: 9}
            await worker.own(0)
            assert worker.owned[0].partition.position == 9
            assert worker.owned[0].file.table.resident_users == 0


@pytest.mark.parametrize(
    ("committed", "start", "end", "warm"),
    [(0, 0, 9, True), (5, 0, 9, True), (5, 5, 5, True), (6, 0, 9, False), (0, 6, 9, False),
     (0, 0, 4, False)],
)  # fmt: skip
def test_a_table_is_used_where_it_stands_inside_the_log(
    tmp_path: Path, committed: int, start: int, end: int, warm: bool
) -> None:
    settings = Settings(cache_states=1000, user_states_max=500)
    worker, now_ms = Worker(settings, tmp_path), wall_clock_ms
    owned = open_one(worker, 0, 0, 9)
    table = owned.file.table
    user = table.insert(1, 0, False)
    table.ack(user, 0, 1, 5, -1, -1, version(3))
    table.position = 5
    table.save()
    path = owned.file.path
    left = path.read_bytes()
    owned.file.close(clean=False)
    path.write_bytes(left)  # as if the process had died

    owned = open_one(worker, committed, start, end)
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

    def full(file: int, at: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    worker = Worker(Settings(cache_states=1000, user_states_max=500), tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(ConfigError, match=f"CACHE_DIR: {tmp_path}.*: no room for a table"):
            open_one(worker, 0, 0, 9)


@pytest.mark.parametrize(("partitions", "parked"), [(1, 800), (8, 800), (16, 400), (100_000, 1)])
def test_more_partitions_share_what_a_worker_may_hold_back(
    tmp_path: Path, partitions: int, parked: int
) -> None:
    settings = Settings(cache_states=100, user_states_max=50, parked_max=800)
    owned = open_one(Worker(settings, tmp_path, partition_count=partitions), 0, 0, 0)
    assert owned.partition._parked_max == parked
    assert owned.partition._inbox_max == max(1, min(2000, 16_000 // partitions))
    assert owned.partition._inbox_bytes_max == min(8 << 20, (64 << 20) // partitions)
    assert owned.partition._parked_bytes_max == min(32 << 20, (256 << 20) // partitions)
    owned.file.close(clean=False)
