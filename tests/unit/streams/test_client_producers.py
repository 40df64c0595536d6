"""The client's two producers: an update must not be doubled, a query must not wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from readstates.streams.client import Client, connection


class Recorder:
    """In place of a producer: keeps its settings, and what it was given."""

    made: list[Recorder]

    def __init__(self, config: dict[str, Any]) -> None:
        self.config, self.topics = config, list[str]()
        self.made.append(self)

    def produce(
        self, topic: str, *_args: Any, on_delivery: Callable[..., None] | None = None, **_more: Any
    ) -> None:
        self.topics.append(topic)
        if on_delivery is not None:
            on_delivery(None, SimpleNamespace(offset=lambda: 7))

    def poll(self, _timeout: float) -> int:
        return 0

    def flush(self, _timeout: float) -> int:
        return 0


async def test_queries_and_updates_have_a_producer_each(monkeypatch: pytest.MonkeyPatch) -> None:
    Recorder.made = []
    monkeypatch.setattr(connection, "Producer", Recorder)
    consumer = SimpleNamespace(poll=lambda _s: None, consume=lambda *_: [], close=lambda: None)
    monkeypatch.setattr(
        connection.Connection, "_connect", lambda self: setattr(self, "_consumer", consumer)
    )
    async with Client("127.0.0.1:1", "replies", config={"client.id": "mine"}) as client:
        assert await client.ack(1, 2, 3) == 7
        with pytest.raises(TimeoutError):
            await client.get(1, deadline_s=0.01)
        await asyncio.sleep(0)
    updates, queries = Recorder.made
    assert (updates.topics, queries.topics) == (["read-states.updates"], ["read-states.queries"])
    assert updates.config["enable.idempotence"] is True
    assert queries.config["linger.ms"] == 0
    assert not queries.config.get("enable.idempotence")
    for producer in (updates, queries):
        assert producer.config["client.id"] == "mine"
        assert producer.config["partitioner"] == "murmur2_random"
