"""Loads while the database is away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from readstates.streams.cassandra.loader import Loader
from readstates.streams.config import Settings
from tests.support.small_world import World, event


class Gone:
    """A database whose loads fail at once, until it is back."""

    def __init__(self) -> None:
        self.asked = 0
        self.back = False

    def load(self, user_ids: list[int], done: Callable[[Any], None]) -> None:
        self.asked += 1
        answer: dict[int, list[Any]] | None
        answer = {user_id: [] for user_id in user_ids} if self.back else None
        asyncio.get_running_loop().call_soon(done, answer)


async def test_loads_that_fail_at_once_pause_all_and_none_is_forgotten() -> None:
    world = World(slots=200, states_max=50)
    world.feed(*[event(n, n + 1, channel_id=1, message_id=5) for n in range(40)])
    store: Any = Gone()
    settings = Settings(load_retry_s=0.2, loads_in_flight_max=2, load_batch_users=2)
    loader = Loader(store, settings, lambda: None)
    for partition, _, user_id, ticket in world.loads:
        loader.want(partition, user_id, ticket)
    for _ in range(50):
        await asyncio.sleep(0)
    assert store.asked == 2, "what was under way when the first one failed, and no more"
    store.back = True
    for _ in range(100):
        await asyncio.sleep(0.01)
    assert world.partition.table.resident_users == 40
