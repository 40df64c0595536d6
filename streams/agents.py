"""The two Faust agents: one hands updates to their partitions, one queries.

Both see what one poll brought of their topic, a batch a partition, as one event. They drop what
belongs to an earlier generation of the group: its partitions are with somebody else, or were opened
anew and are read again from their position.
"""

from __future__ import annotations

from typing import Any

from readstates.streams.rebalance import Handover


def define(app: Any, partitions: Handover, updates: Any, queries: Any) -> None:
    """Attach the agents to their topics."""

    def current(event: Any) -> bool:
        return (
            app.consumer.flow_active and event.message.generation_id == app.consumer_generation_id
        )

    @app.agent(updates, name="updates")  # type: ignore[untyped-decorator]
    async def take_updates(stream: Any) -> None:
        async for event in stream.noack().events():
            if current(event):
                for number, batch in event.value:
                    partitions.take_updates(number, batch)

    @app.agent(queries, name="queries")  # type: ignore[untyped-decorator]
    async def take_queries(stream: Any) -> None:
        async for event in stream.noack().events():
            if current(event):
                for number, batch in event.value:
                    await partitions.take_queries(number, batch)
