"""One worker: the real `Handover` and `Turns` on a loop of its own, amid the fakes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from readstates.cache.tablefile import TableFile
from readstates.ops.demo.oracle import EPOCH
from readstates.streams.rebalance import Handover
from readstates.streams.turns import Turns

from .database import Store
from .kafka import Consumer
from .loop import Killed, Loop
from .output import Output

if TYPE_CHECKING:
    from .world import World


class Worker:
    """See the module. `name` is for the trace."""

    def __init__(self, world: World, name: int) -> None:
        self.name = name
        self.loop = Loop(world.clock, self._failed, self._died)
        self._world = world
        self._fuse = -1  # effects until it dies in the middle of one; negative: it does not
        self.store = Store(world, self)
        self.consumer = Consumer(world, self)
        self.partitions = Handover(
            world.plan.settings, self.store, Output(world, self), EPOCH, now_ms=world.now_ms
        )
        self.partitions.partition_count = world.partitions
        self.partitions.first_offsets = world.first_offsets
        self.partitions.cache_dir = world.folder
        turns = Turns(self.partitions, self.store, lambda: self.consumer)  # type: ignore[arg-type]
        for endless in (
            turns.fold(),
            turns.write_out(),
            turns.expire(),
            turns.commit(),
            self.consumer.coordinate(),
            self.consumer.recover(),
            self.consumer.fetch(),
        ):
            self.loop.create_task(endless).add_done_callback(self._ended)

    def __repr__(self) -> str:
        return f"w{self.name}"

    def may_die(self) -> None:
        """Called by the fakes, so in the middle of the real code."""
        if self._fuse == 0:
            self.loop.dead = True
            raise Killed
        self._fuse -= 1

    def die_within(self, effects: int) -> None:
        self._fuse = effects

    def stop(self) -> None:
        """SIGTERM: write out, hand over, leave the group, end."""
        self.consumer.leaving = True
        self.loop.create_task(self._stop())

    async def _stop(self) -> None:
        await self.partitions.write_out_first()
        self.consumer.flow = False
        await self.partitions.hand_over(self.consumer, shutdown=True)
        self._world.stopped(self)

    def files(self) -> list[TableFile]:
        return [owned.file for owned in self.partitions.owned.values()]

    def _ended(self, task: asyncio.Task[Any]) -> None:
        if not self.loop.dead:
            exc = None if task.cancelled() else task.exception()
            self._failed(f"a task ended: {exc!r}", exc)

    def _failed(self, text: str, exc: BaseException | None = None) -> None:
        self._world.fail(f"{self}: {text}", exc)

    def _died(self) -> None:
        self._world.died(self)
