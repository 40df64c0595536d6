"""Topics, the consumer group with its generations, and the consumer as a worker sees it.

The group is eager, as aiokafka's is: at a rebalance every member hands over all it has, then joins.
A member that does not join in time is out of the group and does not know it. Only a commit of a
member of the present generation counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from readstates.streams.kafka.group_consumer import Committed, TopicPartition
from readstates.streams.partition.batch import Batch

if TYPE_CHECKING:
    from .worker import Worker
    from .world import World

REBALANCE_TIMEOUT_S = 1.0
COMMIT_TIMEOUT_S = 0.4
POLL_S = 0.02


@dataclass
class Log:
    """One partition of a topic. Between two records there may be offsets without one."""

    start: int = 0
    end: int = 0
    records: list[Any] = field(default_factory=list)

    def append(self, skip: int, **fields: Any) -> Any:
        """A record, after `skip` offsets of control records or aborted transactions."""
        record = SimpleNamespace(offset=self.end + skip, **fields)
        self.records.append(record)
        self.end = record.offset + 1
        return record

    def read(self, position: int, count: int, choose: float) -> Batch:
        """Up to `count` records from `position` on, and perhaps some of the gap after them."""
        at = self._index(position)
        records = self.records[at : at + count]
        low = records[-1].offset + 1 if records else position
        after = at + len(records)
        high = self.records[after].offset if after < len(self.records) else self.end
        end = low + int((high - low) * choose)
        size = sum(len(record.value or b"") for record in records)
        return Batch(position, records, end, last=end >= self.end, size_bytes=size)

    def _index(self, position: int) -> int:
        low, high = 0, len(self.records)
        while low < high:
            middle = (low + high) // 2
            if self.records[middle].offset < position:
                low = middle + 1
            else:
                high = middle
        return low


class Group:
    """The owners of the partitions, and the commits."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.members: list[Worker] = []
        self.joined: dict[Worker, asyncio.Future[Any]] = {}
        self.generation = 0
        self.rebalancing = False
        self.again = False
        self.owner: dict[int, Worker] = {}
        self.committed: dict[TopicPartition, Committed] = {}

    def owns(self, worker: Worker, partition: int) -> bool:
        return self.owner.get(partition) is worker

    def join(self, worker: Worker) -> asyncio.Future[Any]:
        """JoinGroup: the future gets (generation, partitions)."""
        future = worker.loop.create_future()
        self.joined[worker] = future
        if worker not in self.members:
            self.members.append(worker)
        if self.rebalancing:
            self._complete_if_all()
        else:
            self.rebalance()
        return future

    def leave(self, worker: Worker) -> None:
        """LeaveGroup, or the session is over."""
        self.joined.pop(worker, None)
        if worker in self.members:
            self.members.remove(worker)
            for number in [n for n, owner in self.owner.items() if owner is worker]:
                del self.owner[number]
            if self.members:
                self.rebalance()

    def rebalance(self) -> None:
        """Ask every member to hand over and join."""
        if self.rebalancing:
            self._complete_if_all()
            return
        self.rebalancing = True
        self._world.disturbed(REBALANCE_TIMEOUT_S)
        for member in self.members:
            if member not in self.joined:
                self._world.clock.later(self._world.delay(), member.consumer.revoke)
        generation = self.generation
        self._world.clock.later(REBALANCE_TIMEOUT_S, lambda: self._over(generation))
        self._complete_if_all()

    def _over(self, generation: int) -> None:
        if self.rebalancing and generation == self.generation and self.joined:
            self._complete()
        elif self.rebalancing and generation == self.generation:
            self._world.clock.later(REBALANCE_TIMEOUT_S, lambda: self._over(generation))

    def _complete_if_all(self) -> None:
        if self.joined and all(member in self.joined for member in self.members):
            self._complete()

    def _complete(self) -> None:
        self.rebalancing = False
        self.generation += 1
        self.members = [member for member in self.members if member in self.joined]
        joined, self.joined = self.joined, {}
        members = list(joined)
        self._world.noise.shuffle(members)
        self.owner = {
            number: members[number % len(members)] for number in range(self._world.partitions)
        }
        for member, future in joined.items():
            mine = sorted(n for n, owner in self.owner.items() if owner is member)
            self._world.clock.later(self._world.delay(), answer(member, future, mine, self))

    def commit(
        self, worker: Worker, generation: int, offsets: dict[TopicPartition, Committed]
    ) -> bool:
        """A commit at the broker. False: fenced."""
        fenced = worker not in self.members or generation != self.generation
        self._world.note(f"{worker} commits {said(offsets)}{' and is fenced' * fenced}")
        if fenced:
            return False
        for tp, value in offsets.items():
            self.committed[tp] = value
        self._world.checks.committed(worker, offsets)
        return True


def said(offsets: dict[TopicPartition, Committed]) -> str:
    """A commit in few words."""
    return " ".join(
        f"{tp.topic.rpartition('.')[2]}-{tp.partition}:{offset} {text}".strip()
        for tp, (offset, text) in offsets.items()
    )


def answer(member: Worker, future: asyncio.Future[Any], mine: list[int], group: Group) -> Any:
    """The broker's answer to a JoinGroup, as it was at that moment."""
    assignment = (group.generation, mine)

    def arrive() -> None:
        if not member.loop.dead and not future.done():
            member.loop.call_soon(settle)

    def settle() -> None:
        if not future.done():
            future.set_result(assignment)

    return arrive


class Consumer:
    """A `GroupConsumer` of the simulated group, with its coordinator and its fetches."""

    def __init__(self, world: World, worker: Worker) -> None:
        self._world = world
        self._worker = worker
        self.generation = 0
        self.rebalancing = False
        self.flow = False
        self.leaving = False
        self.cut_until = 0.0  # the coordinator is out of reach
        self._mine: list[int] = []
        self._revoked = asyncio.Event()
        self._assigned = asyncio.Event()
        self._positions: dict[TopicPartition, int] = {}

    # -- as a GroupConsumer -------------------------------------------------------------------

    def assigned(self) -> set[TopicPartition]:
        settings = self._world.plan.settings
        topics = (settings.updates_topic, settings.queries_topic)
        return {TopicPartition(topic, number) for topic in topics for number in self._mine}

    async def committed(self, places: Iterable[TopicPartition]) -> dict[TopicPartition, Committed]:
        await self._reach()
        known = self._world.group.committed
        return {place: known[place] for place in places if place in known}

    async def log_starts(self, places: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        await asyncio.sleep(self._world.delay())
        return {place: self._world.logs[place].start for place in places}

    async def log_ends(self, places: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        await asyncio.sleep(self._world.delay())
        return {place: self._world.logs[place].end for place in places}

    async def commit_offsets(self, offsets: Mapping[TopicPartition, Committed]) -> bool:
        """Lost before the broker, applied and not answered, fenced, or done."""
        self._worker.may_die()
        world = self._world
        mine = {tp: value for tp, value in offsets.items() if tp.partition in self._mine}
        if not mine:
            return False
        generation = self.generation
        live = any(text.startswith("live") for _, text in mine.values())
        share = world.plan.live_fails if live else world.plan.commit_fails
        dice = world.noise.random() if world.faulty else 1.0
        await asyncio.sleep(world.delay())
        if dice < share:  # until one is answered, the owner may be as good as none (P8)
            world.disturbed()
        if world.clock.now < self.cut_until or dice < share / 2:
            await asyncio.sleep(COMMIT_TIMEOUT_S)
            return False
        done = world.group.commit(self._worker, generation, mine)
        if dice < share:
            await asyncio.sleep(COMMIT_TIMEOUT_S)
            return False
        self._worker.may_die()
        await asyncio.sleep(world.delay())
        return done

    def updates_end(self, number: int) -> int:
        return self._world.logs[TopicPartition(self._world.plan.settings.updates_topic, number)].end

    def queries_end(self, number: int) -> int:
        return self._world.logs[TopicPartition(self._world.plan.settings.queries_topic, number)].end

    def stop_delivery(self) -> None:
        self.flow = False

    def close_queries(self) -> None:
        """Nothing is open: queries come with the updates."""

    async def _reach(self) -> None:
        await asyncio.sleep(self._world.delay())
        while self._world.clock.now < self.cut_until:  # noqa: ASYNC110 (it is put off, or healed)
            await asyncio.sleep(0.05)

    # -- the coordinator's side ---------------------------------------------------------------

    def revoke(self) -> None:
        """The broker wants the partitions back; it is heard at the next heartbeat."""
        loop = self._worker.loop
        if not loop.dead:
            loop.call_at(max(self.cut_until, self._world.clock.now), self._revoked.set)

    async def coordinate(self) -> None:
        """Join, get partitions, hand them over, again and again."""
        while True:
            await self._reach()
            self._revoked.clear()
            generation, self._mine = await self._world.group.join(self._worker)
            self._world.note(f"{self._worker} has {self._mine} in generation {generation}")
            self.generation = generation
            self.rebalancing = self.flow = False
            self._assigned.set()
            await self._until_revoked(generation)
            self.rebalancing, self.flow = True, False
            if self._mine:
                await self._worker.rebalancer.hand_over(self)

    async def _until_revoked(self, generation: int) -> None:
        """Until the group rebalances, or a heartbeat says that it went on without this member."""
        group = self._world.group
        while not self._revoked.is_set():
            await asyncio.sleep(0.1)
            if self._world.clock.now < self.cut_until or self.leaving:
                continue
            if self._worker not in group.members or group.generation != generation:
                return

    async def recover(self) -> None:
        """The barrier before the flow: open the tables, seek, start."""
        while True:
            await self._assigned.wait()
            self._assigned.clear()
            generation = self.generation
            while not self.rebalancing and generation == self.generation:
                opening = self._worker.rebalancer.open
                if self._world.noise.random() < 0.3:  # Faust may seek from two places at once
                    await asyncio.gather(opening(self), opening(self))
                positions = await opening(self)
                if self.rebalancing or generation != self.generation:
                    break
                self._positions = positions
                self.flow = not self.leaving
                break

    async def fetch(self) -> None:
        """Polls: what each brought arrives a little later, queries first, as one event a topic."""
        world, settings = self._world, self._world.plan.settings
        while True:
            await asyncio.sleep(POLL_S * (0.5 + world.noise.random()))
            if not self.flow:
                continue
            generation = self.generation
            polls: list[tuple[TopicPartition, Batch]] = []
            for tp, position in list(self._positions.items()):
                if self._worker.partitions.wants(tp.topic, tp.partition):
                    log = world.logs[tp]
                    if position < log.end:
                        count = world.noise.randint(1, world.plan.poll_records)
                        batch = log.read(position, count, world.noise.choice((0.0, 0.5, 1.0)))
                        self._positions[tp] = batch.end
                        if tp.topic == settings.updates_topic:
                            self._worker.partitions.pulled(tp.partition, batch.size_bytes)
                        polls.append((tp, batch))
            if not polls:
                continue
            await asyncio.sleep(world.delay())
            polls.sort(key=lambda poll: poll[0])
            for tp, batch in polls:
                if not self.flow or generation != self.generation:
                    break
                if tp.topic == settings.updates_topic:
                    self._worker.partitions.take_updates(tp.partition, batch)
                else:
                    for record in batch.records:
                        world.checks.arrived(tp.partition, record.offset)
                    self._worker.partitions.queries.take_queries(tp.partition, batch)
