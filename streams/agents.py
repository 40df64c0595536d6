"""The two Faust agents: one passes updates to partitions, and one passes queries to the intake.

An event is a queue of everything that the reader has delivered since the previous event. Each item
is the result of a poll: a list of (partition, token, batch). The token is the incarnation, which
identifies one opening of the partition by one process. A batch for an earlier incarnation is
dropped, because its records are read again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from .errors import BatchGapError
from .partition.batch import Batch
from .worker.partitions import Partitions

Take = Callable[[int, int, Batch], None]


def define(app: Any, partitions: Partitions) -> None:
    """Attach the agents to the channels of updates and queries."""

    async def take_all(stream: Any, take: Take) -> None:
        async for waiting in stream.noack():
            while waiting:
                for number, token, batch in waiting.popleft():
                    try:
                        take(number, token, batch)
                    except BatchGapError as exc:
                        app.refuse(exc)
                await asyncio.sleep(0)  # Let other tasks run: a poll may take a millisecond.

    @app.agent(app.updates, name="updates")  # type: ignore[untyped-decorator]
    async def take_updates(stream: Any) -> None:
        await take_all(stream, partitions.take_updates)

    @app.agent(app.queries, name="queries")  # type: ignore[untyped-decorator]
    async def take_queries(stream: Any) -> None:
        await take_all(stream, partitions.queries.take_queries)
