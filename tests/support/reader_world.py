"""A reader in front of brokers that fail when they are told to, and what it delivered."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

from readstates.streams.config import Settings
from readstates.streams.kafka.reader import Poll, Reader
from readstates.streams.kafka.reading import UPDATES, Gather, Limits
from readstates.streams.partition.batch import Batch
from tests.support.fake_broker import Asked, FakeCluster

WAIT_S = 20.0
LONG = Gather(60_000, 1)
NOT_LEADER, UNKNOWN_TOPIC, NOT_ALLOWED, STORAGE = 6, 3, 29, 56


class World:
    """A cluster, a reader of its topic, and what it delivered."""

    def __init__(
        self, limits: Limits = UPDATES, partitions: int = 1, brokers: int = 1, missing: str = "stop"
    ) -> None:
        self.cluster = FakeCluster(partitions, brokers)
        self.broker = self.cluster.brokers[0]
        settings = Settings(kafka_bootstrap=self.cluster.bootstrap, missing_updates=missing)
        self.room: dict[int, int] = {}
        self.polls: list[Poll] = []
        self.refused: list[Exception] = []
        self.reader = Reader(settings, "t", limits, self.put, self.refused.append, self.wants)

    def put(self, poll: Poll) -> None:
        self.polls.append(poll)
        for number, _token, batch in poll:
            if number in self.room:
                self.room[number] -= batch.size_bytes

    def wants(self, number: int) -> int:
        return self.room.get(number, 1 << 30)

    def batches(self, number: int = 0, token: int | None = None) -> list[Batch]:
        found = [
            batch
            for poll in self.polls
            for at, its, batch in poll
            if at == number and token in (None, its)
        ]
        for before, after in itertools.pairwise(found):
            if token is not None:
                assert before.end == after.start  # B1
        return found

    def offsets(self, number: int = 0, token: int | None = None) -> list[int]:
        return [r.offset for batch in self.batches(number, token) for r in batch.records]

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not condition():  # noqa: ASYNC110 (another thread changes it)
                await asyncio.sleep(0.002)

    async def read(self, number: int, end: int, token: int | None = None) -> list[int]:
        """The offsets of what was read, once the partition was read up to `end`."""
        await self.until(lambda: any(b.end >= end for b in self.batches(number, token)))
        return self.offsets(number, token)

    async def asked(self, condition: Callable[[Asked], bool], since: int = 0) -> Asked:
        """The first fetch of that kind."""
        await self.until(lambda: any(map(condition, self.broker.asked[since:])))
        return next(filter(condition, self.broker.asked[since:]))

    def close(self) -> None:
        self.reader.close()
        self.cluster.close()


def waiting(limits: Limits = UPDATES) -> Limits:
    """Fetches wait a minute at the broker: whoever waits for one fails its test."""
    return limits._replace(idle=LONG, busy=LONG)
