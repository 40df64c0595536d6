"""How a worker gives its partitions back: at a rebalance, at a shutdown, and without a database."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from readstates.cache.table import Table
from readstates.streams.config import Settings
from readstates.streams.partition.partition import Partition
from readstates.streams.partition.watermark import Watermark
from readstates.streams.worker import rebalance
from readstates.streams.worker.owned import OwnedPartition
from readstates.streams.worker.rebalance import REVOKED_WRITE_OUT_S, Rebalancer
from tests.support.rebalancing import QUERIES, UPDATES, Broker, DeafStore, Store, rebalancer
from tests.support.small_world import READER, World, event, version
from tests.support.table_builds import verify


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
    assert broker.commits == [{UPDATES: (1, "clean:1;"), QUERIES: (3, "")}]
    assert not worker._owned


async def test_what_was_not_written_out_stays_dirty_in_the_file_and_before_the_commit() -> None:
    world = applied()
    world.feed(event(1, 2, channel_id=1, message_id=5))  # its load does not come back
    world.feed(event(2, 1, channel_id=2, message_id=5))
    worker, closed = handover(world, DeafStore())
    broker = Broker()
    assert not await worker.hand_over(broker)
    assert closed == [True]
    assert broker.commits[0][UPDATES] == (0, "clean:3;")

    table = Table(world.buffer, 15)
    verify(table)
    assert table.position <= 1
    partition = Partition(
        0, table=table, position=table.position, committed=0, catch_up_to=3, epoch=8, partitions=1,
        incarnation=2, parked_max=9, parked_bytes_max=999, inbox_max=9, inbox_bytes_max=999,
        reader=READER, effects=world,
    )  # fmt: skip
    assert table.first_version(table.find(1)) == version(0)
    partition.progress.position = partition.inbox.next_arrival = 3
    partition.note_live_commit()
    assert partition.progress.committable() == 0
    for write in partition.take_writes(0, 0, 9, 9):
        assert len(write.rows) == 2
        partition.written(write)
    assert partition.progress.committable() == 3


@pytest.mark.parametrize("write_out", [True, False])
async def test_the_order_of_a_shutdown(write_out: bool) -> None:
    """What can be written out while everything goes on is; nothing arrives while tables close."""
    broker = Broker()

    class Noting(Store):
        def write(self, changes: list[Any], done: Any) -> None:
            broker.calls.append("write")
            super().write(changes, done)

    worker, _ = handover(applied(), Noting())
    file = worker._owned[0].file
    file.close = lambda clean: broker.calls.append("close")  # type: ignore[method-assign]
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
    assert broker.commits[-1][UPDATES] == (1, "clean:7;")
