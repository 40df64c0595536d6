"""Members of a group on a real broker, each with an owner that notes what it is told."""

from __future__ import annotations

import asyncio
import subprocess
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Set
from typing import Any, TypeVar

from readstates.ops.local.stack import Stack
from readstates.streams.config import Settings
from readstates.streams.kafka import topics
from readstates.streams.kafka.group import Group
from readstates.streams.kafka.group_consumer import TopicPartition

from .waiting import WAIT_S

PARTITIONS = 8
ALL = frozenset(range(PARTITIONS))
SESSION_S = 6.0  # the least that brokers allow
LONG_SESSION_S = 120.0  # longer than any test waits

T = TypeVar("T")


async def eventually(look: Callable[[], Any], what: str, timeout_s: float = WAIT_S) -> Any:
    """Asks again until the answer is truthy, and returns it; the event loop goes on."""
    end = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < end, f"not within {timeout_s} s: {what}; last: {found!r}"
        await asyncio.sleep(0.02)
    return found


async def told(ask: Callable[[], Awaitable[T]]) -> T:
    """What Kafka says; it does not say at once, for example of a topic that was just made."""
    end = time.monotonic() + WAIT_S
    while True:
        try:
            return await ask()
        except TimeoutError:
            assert time.monotonic() < end
            await asyncio.sleep(0.1)


class Holder:
    """An owner that notes what it is told. It releases at once unless `holds` is set."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.group = Group(settings, settings.instance_id, self._refused)
        self.owned: set[int] = set()
        self.pending: set[int] = set()
        self.told: list[tuple[str, frozenset[int]]] = []
        self.refusals: list[str] = []
        self.holds = False

    def start(self) -> Holder:
        self.group.start(self)
        return self

    def _refused(self, exc: Exception) -> None:
        self.refusals.append(str(exc))

    def assigned(self, numbers: Set[int]) -> None:
        self.told.append(("assigned", frozenset(numbers)))
        self.pending -= numbers
        self.owned |= numbers

    def revoked(self, numbers: Set[int]) -> None:
        self.told.append(("revoked", frozenset(numbers)))
        self.pending |= numbers
        if not self.holds:
            self.release(numbers)

    def lost(self, numbers: Set[int]) -> None:
        self.told.append(("lost", frozenset(numbers)))
        self.owned -= numbers
        self.pending -= numbers

    def release(self, numbers: Iterable[int]) -> None:
        """Let go what was revoked."""
        numbers = set(numbers)
        self.owned -= numbers
        self.pending -= numbers
        self.group.release(numbers)

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.told]

    async def commit(self, offset: int, *numbers: int, metadata: str = "live:1;") -> bool:
        """Commit the same offset for these partitions of updates."""
        places = [TopicPartition(self.settings.updates_topic, number) for number in numbers]
        return await self.group.commit_offsets(dict.fromkeys(places, (offset, metadata)))

    async def committed(self, number: int) -> tuple[int, str] | None:
        place = TopicPartition(self.settings.updates_topic, number)
        return (await told(lambda: self.group.committed([place]))).get(place)


Joins = Callable[..., Holder]


def fresh(stack: Stack, protocol: str) -> Settings:
    """A group and topics of one's own."""
    name = f"group-{uuid.uuid4().hex[:8]}"
    settings = Settings.load(
        stack.env(),
        topic_prefix=name,
        kafka_group=name,
        group_protocol=protocol,
        session_timeout_s=SESSION_S,
        handover_timeout_s=1.0,
    )
    topics.create(settings, PARTITIONS, 1)
    return settings


async def owning_all(holder: Holder) -> Holder:
    await eventually(lambda: holder.owned == ALL, "it owns all")
    return holder


async def shared(joins: Joins, settings: Settings) -> tuple[Holder, Holder]:
    """Two members; the first one has been asked for some of its partitions, and holds them."""
    first = await owning_all(joins(settings))
    first.holds = True
    second = joins(settings)
    await eventually(lambda: first.pending, "some are revoked")
    return first, second


async def partitions_of(process: subprocess.Popen[str]) -> int:
    """How many partitions a process has, once it has any."""
    assert process.stdout is not None
    line = await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), 60)
    return int(line)


def member_id(holder: Holder) -> str:
    member: Any = holder.group._member
    return str(member._id)
