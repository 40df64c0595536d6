"""The consumer group, and what a worker sees of it: its membership.

The group is incremental. It asks a member for single partitions, waits for their release, and then
assigns them to another; a member that does not release in time is expelled without being told. Each
time a member joins it gets another ID; a commit counts if its ID is one of the present members', of
whatever partition it is. A static member that joins again takes the place of the one before.

Messages between the group and a member take their time and keep their order. What the group tells a
member arrives in the member's thread, and on its loop a little later; a command of the loop that
crosses such a message is ignored (`streams/kafka/group_consumer.py`).
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Set
from typing import TYPE_CHECKING

from readstates.streams.errors import GroupError
from readstates.streams.kafka.group_consumer import Committed, Owner, TopicPartition

if TYPE_CHECKING:
    from .worker import Worker
    from .world import World

REBALANCE_TIMEOUT_S = 1.2
ANSWER_TIMEOUT_S = 0.4
HEARTBEAT_S = 0.1


class Group:
    """The coordinator: who owns what, who is asked for what, and the commits."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._ids = itertools.count(1)
        self._revisions = itertools.count(1)
        self.members: dict[int, Member] = {}  # by ID, in the order in which they joined
        self.owner: dict[int, int] = {}  # partition: the ID of its owner
        self.target: dict[int, int] = {}  # partition: whose it is to be
        self.asked: dict[int, int] = {}  # partition: the revision in which its owner was asked
        self.committed: dict[TopicPartition, Committed] = {}

    def owner_of(self, number: int) -> Worker | None:
        """Whom the group takes for the owner."""
        member = self.members.get(self.owner.get(number, 0))
        return member.worker if member else None

    def owns(self, worker: Worker, number: int) -> bool:
        return self.owner_of(number) is worker

    def numbers_of(self, worker: Worker) -> set[int]:
        """The partitions that a worker owns."""
        return {number for number in self.owner if self.owns(worker, number)}

    # -- requests of the members --------------------------------------------------------------

    def join(self, member: Member) -> None:
        """A member joins, as a new one or in the place of a static one, and gets an ID."""
        new = next(self._ids)
        instance = member.worker.instance
        before = [i for i, m in self.members.items() if instance and m.worker.instance == instance]
        self.members[new] = member
        member.id = new
        for old in before:
            del self.members[old]
            for number in [n for n, owner in self.owner.items() if owner == old]:
                self.owner[number] = self.target[number] = new
                self.asked.pop(number, None)
                self._world.disturbed({number})
                member.tell("assigned", number)
        self._world.note(f"{member.worker} joins as member {new}")
        self._reassign()

    def remove(self, old: int) -> None:
        """A member leaves, or is expelled, or its session is over."""
        if self.members.pop(old, None) is None:
            return
        for number in [number for number, owner in self.owner.items() if owner == old]:
            del self.owner[number]
            self.asked.pop(number, None)
            self._world.disturbed({number})
        self._reassign()

    def release(self, member_id: int, number: int, revision: int) -> None:
        """A member lets go what it was asked for."""
        if self.owner.get(number) == member_id and self.asked.get(number) == revision:
            del self.owner[number], self.asked[number]
            self._world.disturbed({number})
            self._carry_on()

    def commit(self, member_id: int, offsets: Mapping[TopicPartition, Committed]) -> bool:
        """A commit at the broker; False: the group does not know this member."""
        known = member_id in self.members
        self._world.note(f"member {member_id} commits {said(offsets)}{' unknown' * (not known)}")
        if not known:
            return False
        worker = self.members[member_id].worker
        for tp, value in offsets.items():
            self._world.checks.commits_what_it_owns(worker, tp.partition)
            self.committed[tp] = value
        self._world.checks.committed(worker, dict(offsets))
        return True

    # -- who is to own what -------------------------------------------------------------------

    def move(self, number: int) -> Callable[[], None]:
        """Give a partition to another member; returns what takes that back."""
        before = self.target.get(number, 0)
        others = [i for i in self.members if i != before]
        if others:
            self.target[number] = self._world.noise.choice(others)
            self._carry_on()

        def back() -> None:
            if before in self.members:
                self.target[number] = before
                self._carry_on()

        return back

    def _reassign(self) -> None:
        """Move no more than the members' equal shares need."""
        most = -(-self._world.partitions // max(1, len(self.members)))
        load = Counter(i for i in self.target.values() if i in self.members)
        for number in range(self._world.partitions):
            now = self.target.get(number, 0)
            if self.members and (now not in self.members or load[now] > most):
                least = min(load[i] for i in self.members)
                free = [i for i in self.members if load[i] == least and i != now]
                load[now] -= 1
                self.target[number] = self._world.noise.choice(free or list(self.members))
                load[self.target[number]] += 1
        self._carry_on()

    def _carry_on(self) -> None:
        """Ask for what is to move, assign what is free, give back what is to stay after all."""
        for number, target in self.target.items():
            owner = self.owner.get(number)
            if target not in self.members:
                continue
            if owner is None:
                self.owner[number] = target
                self._world.disturbed({number})
                self.members[target].tell("assigned", number)
            elif owner == target and self.asked.pop(number, None) is not None:
                self._world.note(f"partition {number} stays with {self.members[owner].worker}")
                self._world.disturbed({number})
                self.members[owner].tell("assigned", number)
            elif owner != target and number not in self.asked:
                self._ask(number, owner)

    def _ask(self, number: int, owner: int) -> None:
        revision = self.asked[number] = next(self._revisions)
        self.members[owner].tell("revoked", number, revision)

        def in_time() -> None:
            if self.asked.get(number) == revision and owner in self.members:
                self._world.note(f"{self.members[owner].worker} is expelled, asked for {number}")
                self.remove(owner)

        self._world.clock.later(REBALANCE_TIMEOUT_S, in_time)


def said(offsets: Mapping[TopicPartition, Committed]) -> str:
    """A commit in few words."""
    return " ".join(
        f"{tp.topic.rpartition('.')[2]}-{tp.partition}:{offset} {text}".strip()
        for tp, (offset, text) in offsets.items()
    )


class Member:
    """A `Membership` of the simulated group: its thread, and the requests that it makes."""

    def __init__(self, world: World, worker: Worker) -> None:
        self._world = world
        self.worker = worker
        self.id = 0  # 0: in no group
        self.leaving = False
        self.cut_until = 0.0  # the coordinator is out of reach
        # when the last message came to the coordinator, from it, and to the loop
        self._arrives = self._comes = self._says = 0.0
        self._mine: dict[int, int] = {}  # partition: the revision asked for it, or 0
        self._sent: Counter[int] = Counter()  # events of a partition that the thread noted …
        self._told: Counter[int] = Counter()  # … and that the loop was told
        self._turned: Counter[int] = Counter()  # `_sent` at the last beginning of an ownership
        self._owner: Owner

    # -- as a Membership, on the loop ---------------------------------------------------------

    def start(self, owner: Owner) -> None:
        self._owner = owner
        self._join()
        self._later(HEARTBEAT_S, self._heartbeat)

    def release(self, numbers: Set[int]) -> None:
        self.worker.may_die()
        stamps = {number: self._told[number] for number in numbers}
        self._later(self._world.delay() / 10, lambda: self._release(stamps))

    async def committed(self, places: Iterable[TopicPartition]) -> dict[TopicPartition, Committed]:
        await self._answer()
        known = self._world.group.committed
        return {place: known[place] for place in places if place in known}

    async def log_ranges(
        self, places: Iterable[TopicPartition]
    ) -> dict[TopicPartition, tuple[int, int]]:
        await self._answer()
        logs = self._world.logs
        return {place: (logs[place].start, logs[place].end) for place in places}

    async def commit_offsets(self, offsets: Mapping[TopicPartition, Committed]) -> bool:
        """Lost before the broker, applied and not answered, from an unknown member, or done."""
        self.worker.may_die()
        world, stamps = self._world, dict(self._told)
        live = any(text.startswith("live") for _, text in offsets.values())
        share = world.plan.live_fails if live else world.plan.commit_fails
        dice = world.noise.random() if world.faulty else 1.0
        numbers = {tp.partition for tp in offsets}
        await asyncio.sleep(world.delay() / 10)
        ours = {
            tp: value
            for tp, value in offsets.items()
            if tp.partition in self._mine
            and self._turned[tp.partition] <= stamps.get(tp.partition, 0)
        }
        if not ours:
            return False
        if dice < share:  # until one is answered, the owner may be as good as none (P8)
            world.disturbed(numbers)
        if world.clock.now < self.cut_until or dice < share / 2:
            await asyncio.sleep(ANSWER_TIMEOUT_S)
            return False
        member_id, answered = self.id, self.worker.loop.create_future()

        def arrive() -> None:
            done = world.group.commit(member_id, ours)
            if dice >= share:
                self._deliver(lambda: self._committed(answered, member_id, done))

        self._send(arrive)
        try:
            done = bool(await asyncio.wait_for(answered, ANSWER_TIMEOUT_S))
        except TimeoutError:
            done = False
        self.worker.may_die()
        return done

    async def leave(self) -> None:
        self.leaving = True

    async def _answer(self) -> None:
        await asyncio.sleep(self._world.delay())
        if self._world.clock.now < self.cut_until:
            await asyncio.sleep(ANSWER_TIMEOUT_S)
            raise TimeoutError

    # -- its thread ---------------------------------------------------------------------------

    def _later(self, delay_s: float, what: Callable[[], None]) -> None:
        """The thread does something, unless its process has died; a stopped one does it later."""
        loop = self.worker.loop

        def run() -> None:
            if loop.frozen_until > self._world.clock.now:
                self._world.clock.push(loop.frozen_until, None, run)
            elif not loop.dead:
                what()

        self._world.clock.later(delay_s, run)

    def _send(self, what: Callable[[], None]) -> None:
        """A request to the coordinator, after those before it."""
        now = self._world.clock.now
        self._arrives = max(self._arrives, now + self._world.delay(), self.cut_until)
        self._world.clock.push(self._arrives, None, what)

    def _deliver(self, what: Callable[[], None]) -> None:
        """A message of the coordinator to the thread, after those before it."""
        now = self._world.clock.now
        self._comes = max(self._comes, now + self._world.delay(), self.cut_until)
        self._later(self._comes - now, what)

    def _join(self) -> None:
        def arrive() -> None:
            if not self.worker.loop.dead and not self.leaving:
                self._world.group.join(self)

        self.id = 0
        self._send(arrive)

    def tell(self, what: str, number: int, revision: int = 0) -> None:
        """The coordinator says `assigned` or `revoked`, to the member as it is in the group now."""
        member_id = self.id

        def hear() -> None:
            if member_id == self.id:
                self._note(what, number, revision)

        self._deliver(hear)

    def _note(self, what: str, number: int, revision: int = 0) -> None:
        """An event in the thread; the loop is told a little later."""
        self._sent[number] += 1
        if what == "lost":
            self._mine.pop(number, None)
        else:
            self._mine[number] = revision
            self._world.checks.let_go.discard((self.worker, number))
        if what != "revoked":
            self._turned[number] = self._sent[number]
        self._world.note(f"{self.worker} hears {what} {number}")

        def say() -> None:
            self._told[number] += 1
            getattr(self._owner, what)({number})

        now = self._world.clock.now
        self._says = max(self._says, now + self._world.noise.random() * 0.002)
        self.worker.loop.call_at(self._says, say)

    def _release(self, stamps: dict[int, int]) -> None:
        for number, stamp in stamps.items():
            revision = self._mine.get(number, 0)
            if not revision or self._sent[number] != stamp:
                continue
            del self._mine[number]
            self._world.note(f"{self.worker} releases {number}")
            self._world.checks.let_go.add((self.worker, number))
            self._ask_to_release(number, revision)

    def _ask_to_release(self, number: int, revision: int) -> None:
        member_id = self.id
        self._send(lambda: self._world.group.release(member_id, number, revision))

    def _committed(self, answered: asyncio.Future[bool], member_id: int, done: bool) -> None:
        def answer() -> None:
            if not answered.done():
                answered.set_result(done)

        self.worker.loop.call_soon(answer)
        if not done and member_id == self.id:
            self._unknown()

    def _heartbeat(self) -> None:
        """It says whether the group has this member still; not while a release is pending."""
        world = self._world
        pending = any(self._mine.values())
        reached = world.clock.now >= self.cut_until and not pending
        if self.id and reached and self.id not in world.group.members:
            self._unknown()
        self._later(HEARTBEAT_S, self._heartbeat)

    def _unknown(self) -> None:
        """The group does not know this member: all is lost; a static one has been replaced."""
        for number in list(self._mine):
            self._note("lost", number)
        instance = self.worker.instance
        others = self._world.group.members.values()
        if instance and any(member.worker.instance == instance for member in others):
            self.id = 0
            error = GroupError(f"another worker has the INSTANCE_ID {instance}")
            self.worker.loop.call_soon(self.worker.refuse, error)
        elif not self.leaving:
            self._join()
