"""The two Faust agents: one hands updates to their partitions, the other queries to the intake.

An event is the result of one poll of a topic: a list of (partition, batch). The agents drop events
of an earlier generation of the group, or of an earlier assignment of queries: their partitions have
another owner, or have been opened again and are read from their position.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .errors import BatchGapError
from .partition.batch import Batch, Poll
from .worker.partitions import Partitions


def define(app: Any, partitions: Partitions, updates: Any, queries: Any) -> None:
    """Attach the agents to the updates' topic and the queries' channel."""

    def take(take_batch: Callable[[int, Batch], None], poll: Poll) -> None:
        for number, batch in poll:
            try:
                take_batch(number, batch)
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
                assignment, poll = waiting.popleft()
                if assignment is app.consumer.queries.assignment:
                    take(partitions.queries.take_queries, poll)
                assignment.room.release()
