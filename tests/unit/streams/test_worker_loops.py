"""How the work of a worker takes turns on its event loop."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from readstates.schemas.partitioner import partition_of
from readstates.schemas.queries import Get
from readstates.schemas.replies import NOT_CAUGHT_UP
from readstates.streams.config import Settings
from readstates.streams.worker.loops import BackgroundLoops
from tests.support.rebalancing import LOG_START, Worker, until
from tests.support.small_world import event, query

PARTITIONS = range(3)


@pytest.mark.parametrize(("slice_updates", "moments"), [(200, 2), (1, 4)])
async def test_partitions_with_few_updates_share_a_slice(
    tmp_path: Path, slice_updates: int, moments: int
) -> None:
    settings = Settings(cache_states=100, user_states_max=50, slice_updates=slice_updates)
    worker = Worker(settings, tmp_path, partition_count=len(PARTITIONS))
    worker.member.ends = LOG_START
    async with worker:
        await worker.own(*PARTITIONS)
        for number in PARTITIONS:
            user = next(u for u in range(1, 99) if partition_of(b"%d" % u, 3) == number)
            worker.feed(event(LOG_START, user, channel_id=1, message_id=1), number=number)
        seen = set()
        for _ in range(10):
            seen.add(tuple(worker.owned[number].partition.position for number in PARTITIONS))
            await asyncio.sleep(0)
    assert max(seen) == (LOG_START + 1,) * len(PARTITIONS)
    assert len(seen) == moments


async def test_deadlines_are_looked_at_while_queries_wait(tmp_path: Path) -> None:
    now = [0]
    settings = Settings(cache_states=100, user_states_max=50)
    worker = Worker(settings, tmp_path, now_ms=lambda: now[0])
    worker.member.ends = LOG_START
    refused: list[Any] = []
    intake = worker.partitions.queries
    intake._replies = SimpleNamespace(  # type: ignore[assignment]
        exists=lambda *_: True, error=lambda *error: refused.append(error[3])
    )
    loops = BackgroundLoops(worker.partitions, worker.rebalancer.commits, worker._store)
    async with worker:
        await worker.own(0)
        expiring = asyncio.create_task(loops.expire())
        made, owned = query(1, after_offset=LOG_START + 5), worker.owned[0]
        asked = _record(made.get)
        with owned.partition.exclusive("other"):
            intake._take_query(owned, asked, 0)
        assert intake.waiting == 1
        await asyncio.sleep(0.05)
        assert not refused
        now[0] = 4_900  # of the 5,000 that it has
        await until(lambda: refused == [NOT_CAUGHT_UP])
        await until(lambda: not intake.some_wait.is_set())
        expiring.cancel()


def _record(get: Get) -> Any:
    value = b'{"type":"get","user_id":%d,"after_offset":%d}' % (get.user_id, get.after_offset or 0)
    headers = [("kafka_replyTopic", b"known")]
    return SimpleNamespace(offset=LOG_START, key=b"1", value=value, timestamp=0, headers=headers)
