"""One worker: the real `Rebalancer` and `BackgroundLoops` on a loop of its own, amid the fakes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from readstates.cache.tablefile import TableFile
from readstates.ops.proof.oracle import EPOCH
from readstates.streams.cassandra.epochs import Log
from readstates.streams.worker.loops import BackgroundLoops
from readstates.streams.worker.partitions import Partitions
from readstates.streams.worker.rebalance import Rebalancer
from readstates.streams.worker.tables import Tables

from .database import Store
from .kafka import Consumer
from .loop import Killed, Loop
from .output import DeadLetters, Replies

if TYPE_CHECKING:
    from .world import World


TOPIC_ID = bytes(16)


class Worker:
    """See the module. `name` is for the trace."""

    def __init__(self, world: World, name: int) -> None:
        self.name = name
        # abstract to mypy alone: in asyncio, what `Loop` leaves out raises NotImplementedError
        self.loop = Loop(  # type: ignore[abstract]
            world.clock, self._failed, self._died, self._check
        )
        self._world = world
        self._fuse = -1  # effects until it dies in the middle of one; negative: it does not
        self.store = Store(world, self)
        self.consumer = Consumer(world, self)
        settings, store = world.plan.settings, cast(Any, self.store)
        replies, dead_letters = cast(Any, Replies(world, self)), cast(Any, DeadLetters(world, self))
        self.partitions = Partitions(settings, store, replies, dead_letters, now_ms=world.now_ms)
        tables = Tables(settings, world.folder, TOPIC_ID, EPOCH)
        epoch = Log(EPOCH, UUID(bytes=TOPIC_ID), world.partitions, tuple(world.first_offsets), 0)
        self.rebalancer = Rebalancer(self.partitions, tables, epoch)
        loops = BackgroundLoops(
            self.partitions, self.rebalancer.commits, store, lambda: self.consumer
        )
        for endless in (
            loops.fold(),
            loops.write_out(),
            loops.expire(),
            loops.commit(),
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
        await self.rebalancer.shut_down(self.consumer)
        self._world.stopped(self)

    def files(self) -> list[TableFile]:
        return [owned.file for owned in self.partitions.owned.values()]

    def _ended(self, task: asyncio.Task[Any]) -> None:
        if not self.loop.dead:
            exc = None if task.cancelled() else task.exception()
            self._failed(f"a task ended: {exc!r}", exc)

    def _check(self) -> None:
        """After every step: what a partition can see of its invariants holds."""
        for owned in self.partitions.owned.values():
            try:
                owned.partition.check()
            except AssertionError as exc:
                self._failed(f"partition {owned.partition.number}: {exc}", exc)

    def _failed(self, text: str, exc: BaseException | None = None) -> None:
        self._world.fail(f"{self}: {text}", exc)

    def _died(self) -> None:
        self._world.died(self)
