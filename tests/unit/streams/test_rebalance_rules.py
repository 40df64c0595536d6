"""What is committed with the offset, and what a new owner makes of it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP
from readstates.streams.config import Settings
from readstates.streams.errors import DataLossError
from readstates.streams.rebalance import Handover, catch_up_target, check_commit, metadata_of
from readstates.streams.watermark import Watermark
from readstates.streams.worker import Owned
from small_world import World, event

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

    def write(self, changes: list[Any], done: Any) -> None:
        asyncio.get_running_loop().call_soon(done, True)


def handover(world: World) -> tuple[Handover, list[bool]]:
    """A worker that owns the world's partition; the list gets how its file was closed."""
    worker = Handover(Settings(), Store(), None, 8)
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


async def test_two_handovers_at_once_are_one() -> None:
    """A SIGTERM while a rebalance takes the partitions away."""
    worker, closed = handover(applied())
    broker = Broker()
    await asyncio.gather(worker.hand_over(broker), worker.hand_over(broker))
    assert closed == [True]
    assert not worker.owned
