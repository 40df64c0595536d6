"""The two Faust agents: one hands updates to their partitions, one queries.

Both see what polls brought of their topic, a batch a partition, as one event. They drop what
belongs to an earlier generation of the group, or an earlier reading of the queries: its partitions
are with somebody else, or were opened anew and are read again from their position.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .errors import BatchGapError
from .partition.batch import Batch, Poll
from .worker.rebalance import Handover


def define(app: Any, partitions: Handover, updates: Any, queries: Any) -> None:
    """Attach the agents to the updates' topic and the queries' channel."""

    def take(each: Callable[[int, Batch], None], poll: Poll) -> None:
        for number, batch in poll:
            try:
                each(number, batch)
            except BatchGapError as exc:
                app.refuse(exc)

    @app.agent(updates, name="updates")  # type: ignore[untyped-decorator]
    async def take_updates(stream: Any) -> None:
        async for event in stream.noack().events():
            current = event.message.generation_id == app.consumer_generation_id
            if current and app.consumer.flow_active:
                take(partitions.take_updates, event.value)

    @app.agent(queries, name="queries")  # type: ignore[untyped-decorator]
    async def take_queries(stream: Any) -> None:
        async for waiting in stream.noack():
            while waiting:
                reading, poll = waiting.popleft()
                if reading is app.consumer.queries.reading:
                    take(partitions.take_queries, poll)
                reading.room.release()
