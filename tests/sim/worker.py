"""One worker: the real `Rebalancer` and `BackgroundLoops` on a loop of its own, amid the fakes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from readstates.cache.tablefile import TableFile
from readstates.ops.proof.oracle import EPOCH
from readstates.streams.cassandra.epochs import Log
from readstates.streams.errors import BatchGapError, GroupError
from readstates.streams.kafka.no_dead_letters import NoDeadLetters
from readstates.streams.partition.batch import Batch
from readstates.streams.worker.loops import BackgroundLoops
from readstates.streams.worker.partitions import Partitions
from readstates.streams.worker.rebalance import Rebalancer
from readstates.streams.worker.tables import Tables

from .database import Store
from .feed import ChangeProducer
from .group import Member
from .kafka import Reader
from .live import RUN
from .loop import Killed, Loop
from .output import DeadLetters, Replies

if TYPE_CHECKING:
    from .world import World


TOPIC_ID = bytes(16)


class KnownTables(Tables):
    """Remembers the files that it opened, also those still on their way to the loop."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.files: list[TableFile] = []

    def open(self, *args: Any, **fields: Any) -> TableFile:
        file = super().open(*args, **fields)
        self.files.append(file)
        return file


class Worker:
    """See the module. `name` is for the trace; `instance` is its INSTANCE_ID, or empty."""

    def __init__(self, world: World, name: int, instance: str) -> None:
        self.name, self.instance = name, instance
        # abstract to mypy alone: in asyncio, what `Loop` leaves out raises NotImplementedError
        self.loop = Loop(  # type: ignore[abstract]
            world.clock, self._failed, self._died, self._check, world.delay
        )
        self._world = world
        self._fuse = -1  # effects until it dies in the middle of one; negative: it does not
        self.store = Store(world, self)
        self.member = Member(world, self)
        settings, store = world.plan.settings, cast(Any, self.store)
        replies, dead_letters = cast(Any, Replies(world, self)), cast(Any, DeadLetters(world, self))
        run = RUN if settings.is_candidate else ""
        if run:
            dead_letters = cast(Any, NoDeadLetters())
        changes = cast(Any, ChangeProducer(world, self)) if settings.tells_changes else None
        self.partitions = Partitions(
            settings, store, replies, dead_letters, changes=changes, now_ms=world.now_ms
        )
        self.updates = Reader(
            world, self, settings.updates_topic, self.partitions.wants_updates, self._take_updates
        )
        self.queries = Reader(
            world,
            self,
            settings.queries_topic,
            self.partitions.wants_queries,
            self._take_queries,
            self._answer_now,
        )
        self.feed = self.partitions.feed
        if self.feed is not None:
            self.feed.retelling = Reader(
                world, self, settings.updates_topic, self.feed.wants, self._retell
            )
        self._tables = KnownTables(settings, world.folder, TOPIC_ID, EPOCH, run)
        firsts = tuple(world.first_offsets)
        epoch = Log(EPOCH, UUID(bytes=TOPIC_ID), world.partitions, firsts, 0, UUID(int=1))
        self.rebalancer = Rebalancer(
            self.partitions,
            self._tables,
            epoch,
            self.member,
            self.updates,
            self.queries,
            self.refuse,
            run,
        )
        self.rebalancer.let_go_after_s = world.plan.let_go_after_s
        loops = BackgroundLoops(self.partitions, self.rebalancer.commits, store)
        if self.feed is not None:
            for feeding in (loops.tell(), cast(Reader, self.feed.retelling).fetch()):
                self.loop.create_task(feeding).add_done_callback(self._ended)
        for endless in (
            loops.fold(),
            loops.write_out(),
            loops.expire(),
            loops.commit(),
            self.updates.fetch(),
            self.queries.fetch(),
        ):
            self.loop.create_task(endless).add_done_callback(self._ended)
        self.loop.call_soon(self.member.start, self.rebalancer)

    stopping = False

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

    def stop(self, *, write_out: bool = True) -> None:
        """SIGTERM: write out, hand over, leave the group, end."""
        if not self.stopping:
            self.stopping = True
            self.loop.create_task(self._stop(write_out))

    async def _stop(self, write_out: bool) -> None:
        await self.rebalancer.shut_down(write_out=write_out)
        self._world.stopped(self)

    def refuse(self, exc: Exception) -> None:
        """Something that ends the worker; only a twin of it may be the reason."""
        if not isinstance(exc, GroupError):
            self._failed(f"refuses to go on: {exc!r}", exc)
        self._world.note(f"{self} ends: {exc}")
        self.stop(write_out=False)

    def files(self) -> list[TableFile]:
        """All table files that it has not closed."""
        return [file for file in self._tables.files if not file.closed]

    def _take_updates(self, number: int, token: int, batch: Batch) -> None:
        self._taken(self.partitions.take_updates, number, token, batch)

    def _retell(self, number: int, token: int, batch: Batch) -> None:
        assert self.feed is not None
        self.feed.retell([(number, token, batch)])

    def _answer_now(self, number: int, token: int, batch: Batch) -> Batch | None:
        rest = self.partitions.queries.answer_now(number, token, batch)
        for record in batch.records[: len(batch.records) - len(rest.records if rest else ())]:
            self._world.checks.arrived(number, record.offset)
        return rest

    def _take_queries(self, number: int, token: int, batch: Batch) -> None:
        for record in batch.records:
            self._world.checks.arrived(number, record.offset)
        self._taken(self.partitions.queries.take_queries, number, token, batch)

    def _taken(self, take: Callable[[int, int, Batch], None], *poll: Any) -> None:
        try:
            take(*poll)
        except BatchGapError as exc:
            self.refuse(exc)

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
