"""How a worker gives its partitions back: at a rebalance, at a loss, and at a shutdown."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from readstates.cache.tablefile import TableFile
from readstates.streams.config import Settings
from readstates.streams.errors import BatchGapError
from readstates.streams.partition.batch import Batch
from readstates.streams.worker import rebalance
from tests.support.rebalancing import DATABASE_ID, QUERIES, UPDATES, DeafStore, Store, Worker, until
from tests.support.small_world import event


def small(folder: Path, store: Any = None, partition_count: int = 1, **settings: Any) -> Worker:
    """A worker with small tables; its logs hold 5 … 19."""
    given = {"cache_states": 100, "user_states_max": 50, "flush_delay_s": 60.0} | settings
    return Worker(Settings(**given), folder, store=store, partition_count=partition_count)


def noting_close(worker: Worker, number: int = 0) -> TableFile:
    """The partition's file, whose closing the worker's member notes."""
    file = worker.owned[number].file
    close = file.close

    def noted(clean: bool) -> None:
        close(clean)
        worker.member.calls.append(f"close, clean={clean}")

    file.close = noted  # type: ignore[method-assign]
    return file


async def test_a_revocation_writes_commits_closes_and_lets_go_in_this_order(tmp_path: Path) -> None:
    class Noting(Store):
        def write(self, changes: list[Any], done: Any) -> None:
            worker.member.calls.append("write")
            super().write(changes, done)

    worker = small(tmp_path, Noting())
    async with worker:
        await worker.own(0)
        worker.feed(event(5, 1, channel_id=1, message_id=5))
        await until(lambda: worker.owned[0].partition.position == 6)
        noting_close(worker)
        worker.member.calls.clear()
        worker.rebalancer.revoked({0})
        await until(lambda: worker.member.released)
    calls = worker.member.calls
    assert calls.index("write") < calls.index("commit")
    calls.remove("write")
    assert calls == [
        "stop updates", "stop queries", "commit", "close, clean=True", "release",
    ]  # fmt: skip
    assert worker.member.commits[-1] == {
        UPDATES: (6, f"clean:20;8@{DATABASE_ID};"),
        QUERIES: (5, ""),
    }
    assert not worker.owned


async def test_while_a_partition_leaves_it_goes_on(tmp_path: Path) -> None:
    """It folds what arrives, and it is answered from, until it is let go."""
    worker = small(tmp_path)
    worker.rebalancer.let_go_after_s = 60
    async with worker:
        await worker.own(0)
        worker.rebalancer.revoked({0})
        await asyncio.sleep(0.05)
        worker.feed(event(5, 1, channel_id=1, message_id=5))
        partition = worker.owned[0].partition
        await until(lambda: partition.position == 6)
        await until(lambda: partition.all_durable)  # without waiting for FLUSH_DELAY_S
        assert not partition.closing
        assert not worker.member.released


async def test_the_partitions_that_stay_are_not_touched(tmp_path: Path) -> None:
    worker = small(tmp_path, partition_count=2)
    async with worker:
        await worker.own(0, 1)
        stays, place = worker.owned[1], worker.updates.places[1]
        worker.rebalancer.revoked({0})
        await until(lambda: worker.member.released == {0})
        assert worker.owned == {1: stays}
        assert worker.updates.places == {1: place}
        assert not stays.partition.closing


async def test_what_is_given_back_before_its_release_is_kept(tmp_path: Path) -> None:
    worker = small(tmp_path)
    worker.rebalancer.let_go_after_s = 60
    async with worker:
        await worker.own(0)
        owned, place = worker.owned[0], worker.updates.places[0]
        worker.rebalancer.revoked({0})
        await until(lambda: owned.partition.write_out.everything)
        worker.rebalancer.assigned({0})
        await until(lambda: not owned.partition.write_out.everything)
        assert worker.owned[0] is owned
        assert worker.updates.places[0] == place
        assert not worker.member.released
    assert all(text.startswith("live") for text in worker.metadata())


async def test_what_is_given_back_while_it_closes_is_opened_anew(tmp_path: Path) -> None:
    worker = small(tmp_path)
    async with worker:
        await worker.own(0)
        before = worker.owned[0].partition
        worker.member.accepts.clear()
        worker.rebalancer.revoked({0})
        await until(lambda: before.closing)
        worker.rebalancer.assigned({0})
        worker.member.accepts.set()
        await until(lambda: worker.is_live() and worker.owned[0].partition is not before)
        assert worker.member.released == set(), "it would go to another owner"
        assert worker.member.look_ups == 2
        assert worker.owned[0].partition.incarnation == 2
    assert [text.partition(":")[0] for text in worker.metadata()] == ["live", "clean", "live"]


async def test_what_is_lost_is_closed_without_a_commit(tmp_path: Path) -> None:
    worker = small(tmp_path)
    async with worker:
        await worker.own(0)
        partition, file = worker.owned[0].partition, noting_close(worker)
        worker.feed(event(5, 1, channel_id=1, message_id=5))
        worker.member.calls.clear()
        worker.rebalancer.lost({0})
        assert not worker.owned
        assert partition.incarnation < 0, "what comes back from the database is dropped"
        assert not worker.updates.places
        await until(lambda: "close, clean=True" in worker.member.calls)
        assert "commit" not in worker.member.calls
    file.close(clean=False)


async def test_what_is_lost_while_its_commit_waits_for_its_turn_is_not_committed(
    tmp_path: Path,
) -> None:
    worker = small(tmp_path, partition_count=2)
    async with worker:
        await worker.own(0, 1)
        worker.member.accepts.clear()
        tasks = []
        for number in (1, 0):
            commit = worker.rebalancer.commits.commit([worker.owned[number]], clean=True)
            tasks.append(asyncio.create_task(commit))
            await asyncio.sleep(0)
        worker.rebalancer.lost({0})
        worker.member.accepts.set()
        await asyncio.gather(*tasks)
    assert all(text.startswith("live") for text in worker.metadata())


async def test_what_is_lost_while_its_release_is_pending_is_not_committed(tmp_path: Path) -> None:
    worker = small(tmp_path)
    async with worker:
        await worker.own(0)
        worker.rebalancer.revoked({0})
        await asyncio.sleep(0)
        worker.rebalancer.lost({0})
        await until(lambda: "release" in worker.member.calls)  # and the group ignores it
    assert all(text.startswith("live") for text in worker.metadata())


async def test_what_is_lost_and_assigned_again_is_looked_up_again(tmp_path: Path) -> None:
    """Another owner may have committed meanwhile: an earlier position would go back behind it."""
    worker = small(tmp_path)
    async with worker:
        await worker.own(0)
        worker.member.known = {0: 9}
        worker.rebalancer.lost({0})
        worker.rebalancer.assigned({0})
        await until(worker.is_live)
        assert worker.owned[0].partition.position == 9
        assert worker.updates.places[0] == (9, 2)


async def test_what_is_lost_while_its_table_is_opened_is_not_owned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = small(tmp_path)
    opener = worker.rebalancer.opener
    open_file = opener._open_file

    def slow(number: int, *arguments: Any) -> Any:
        found = open_file(number, *arguments)
        loop.call_soon_threadsafe(worker.rebalancer.lost, {number})
        loop.call_soon_threadsafe(worker.rebalancer.assigned, {number})
        monkeypatch.undo()
        return found

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(opener, "_open_file", slow)
    async with worker:
        worker.rebalancer.assigned({0})
        await until(worker.is_live)
        assert worker.member.look_ups == 2
        assert worker.owned[0].partition.incarnation == 2
        assert len(worker.metadata()) == 1


async def test_what_is_revoked_before_it_is_open_is_let_go(tmp_path: Path) -> None:
    worker = small(tmp_path)
    worker.member.look_up_fails = 10**6
    async with worker:
        worker.rebalancer.assigned({0})
        await until(lambda: worker.member.look_ups)
        assert worker.rebalancer.ready() == (False, "opening: 0")
        worker.rebalancer.revoked({0})
        await until(lambda: worker.member.released == {0})
        assert worker.rebalancer.ready() == (False, "no partition is assigned to this worker")
    assert not worker.member.commits


async def test_a_batch_for_an_earlier_incarnation_is_dropped(tmp_path: Path) -> None:
    worker = small(tmp_path)
    async with worker:
        await worker.own(0)
        _, token = worker.updates.places[0]
        worker.rebalancer.lost({0})
        worker.rebalancer.assigned({0})
        await until(worker.is_live)
        worker.feed(event(15, 1, channel_id=1, message_id=5), token=token)
        with pytest.raises(BatchGapError):
            worker.feed(event(15, 1, channel_id=1, message_id=5))
        late = Batch(15, [], 16)
        worker.partitions.queries.take_queries(0, token, late)
        with pytest.raises(BatchGapError):
            worker.partitions.queries.take_queries(0, worker.queries.places[0][1], late)


@pytest.mark.parametrize("finishes", [True, False])
async def test_what_leaves_together_is_served_until_the_last_is_done(
    tmp_path: Path, finishes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The group lets go all of it at once: a partition closed before would have no owner."""
    monkeypatch.setattr(rebalance, "REVOKED_DRAIN_S", 60 if finishes else 0.5)
    waiting: list[Any] = []

    class Slow(DeafStore):
        def write(self, changes: list[Any], done: Any) -> None:
            waiting.append(done)

    worker = small(tmp_path, Slow(), partition_count=2)
    async with worker:
        await worker.own(0, 1)
        worker.feed(event(5, 2, channel_id=1, message_id=5))
        await until(lambda: worker.owned[0].partition.position == 6)
        slow, fast = (worker.owned[number].partition for number in (0, 1))
        worker.rebalancer.revoked({0, 1})
        await until(lambda: not worker.updates.places)
        assert not fast.closing
        assert not slow.closing
        await until(lambda: waiting)
        assert not fast.closing
        if finishes:
            waiting.pop()(True)
        await until(lambda: worker.member.released == {0, 1})
    commits = [commit[UPDATES] for commit in worker.member.commits if UPDATES in commit]
    assert commits[-1] == (6 if finishes else 5, f"clean:20;8@{DATABASE_ID};")


async def test_what_was_not_written_out_stays_dirty_in_the_file_and_before_the_commit(
    tmp_path: Path,
) -> None:
    worker = small(tmp_path, DeafStore())
    async with worker:
        await worker.own(0)
        worker.feed(event(5, 1, channel_id=1, message_id=5))
        await until(lambda: worker.owned[0].partition.position == 6)
        worker.rebalancer.revoked({0})
        await until(lambda: worker.member.released)
        assert worker.member.commits[-1][UPDATES] == (5, f"clean:20;8@{DATABASE_ID};")
        worker.member.known = {0: 5}
        await worker.own(0)
        owned = worker.owned[0]
        assert owned.file.warm
        assert owned.partition.position == 6
        assert owned.partition.table.dirty_users == 1
        assert owned.partition.progress.committable() == 5


@pytest.mark.parametrize("write_out", [True, False])
async def test_the_order_of_a_shutdown(tmp_path: Path, write_out: bool) -> None:
    """What can be written out while everything goes on is; then all leave together."""
    updates_stopped: list[bool] = []

    class Noting(Store):
        def write(self, changes: list[Any], done: Any) -> None:
            worker.member.calls.append("write")
            updates_stopped.append(not worker.updates.places)
            super().write(changes, done)

    worker = small(tmp_path, Noting(), handover_timeout_s=5.0)
    async with worker:
        await worker.own(0)
        worker.feed(event(5, 1, channel_id=1, message_id=5))
        await until(lambda: worker.owned[0].partition.position == 6)
        await asyncio.sleep(rebalance.EARLY_WRITE_OUT_UNTIL_AGE_S)
        noting_close(worker)
        worker.member.calls.clear()
        await worker.rebalancer.shut_down(write_out=write_out)
    assert updates_stopped == ([False] if write_out else [])
    left = ["stop updates", "stop queries", "commit", "close, clean=True", "release"]
    closed = ["close updates", "close queries", "leave"]
    assert worker.member.calls == [*(["write"] if write_out else []), *left, *closed]


@pytest.mark.parametrize("answer", [None, "never"])
async def test_a_shutdown_does_not_wait_for_a_database_that_is_away(
    tmp_path: Path, answer: str | None
) -> None:
    class Away(DeafStore):
        def write(self, changes: list[Any], done: Any) -> None:
            if answer is None:
                asyncio.get_running_loop().call_soon(done, None)

    worker = small(tmp_path, Away(), handover_timeout_s=0.1)
    async with worker:
        await worker.own(0)
        worker.feed(event(5, 1, channel_id=1, message_id=5))
        async with asyncio.timeout(10):
            await worker.rebalancer.shut_down()
    assert worker.member.commits[-1][UPDATES] == (5, f"clean:20;8@{DATABASE_ID};")
    assert worker.member.calls[-1] == "leave"


async def test_after_the_beginning_of_a_shutdown_nothing_is_opened(tmp_path: Path) -> None:
    worker = small(tmp_path)
    async with worker:
        await worker.rebalancer.shut_down()
        worker.rebalancer.assigned({0})
        await asyncio.sleep(0.05)
    assert not worker.member.look_ups


async def test_who_leaves_before_it_has_caught_up_hands_on_how_far_it_had_to(
    tmp_path: Path,
) -> None:
    """Or the next owner would answer from before what the last but one had shown."""
    worker = small(tmp_path)
    async with worker:
        await worker.own(0)
        worker.rebalancer.revoked({0})
        await until(lambda: worker.member.released)
    assert worker.metadata() == [f"live:20;8@{DATABASE_ID};", f"clean:20;8@{DATABASE_ID};"]
