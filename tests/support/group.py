"""Members of a group on a real broker, each with an owner that notes what it is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Set
from typing import Any, TypeVar

from readstates.streams.config import Settings
from readstates.streams.kafka.group import Group
from readstates.streams.kafka.group_consumer import TopicPartition

from .waiting import WAIT_S

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
