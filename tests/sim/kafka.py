"""The partitions of topics, and what a worker reads of them. The group is in `group.py`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from readstates.streams.kafka.group_consumer import TopicPartition
from readstates.streams.partition.batch import Batch

if TYPE_CHECKING:
    from .worker import Worker
    from .world import World

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


class Reader:
    """A `Reading` of one topic. What was read arrives a little later, even after a `stop`.

    `first` is called at once, like in a reader's thread, and leaves what is to arrive. More may be
    read meanwhile.
    """

    missing = ""

    def __init__(
        self,
        world: World,
        worker: Worker,
        topic: str,
        wants: Callable[[int], int],
        take: Callable[[int, int, Batch], None],
        first: Callable[[int, int, Batch], Batch | None] | None = None,
    ) -> None:
        self._world = world
        self._worker = worker
        self._topic = topic
        self._wants, self._take, self._first = wants, take, first
        self._on_the_way: deque[tuple[int, int, Batch]] = deque()
        self._places: dict[int, tuple[int, int]] = {}  # partition: position and token

    def start(self, number: int, position: int, token: int) -> None:
        self._places[number] = (position, token)

    def stop(self, number: int) -> None:
        self._places.pop(number, None)

    def end(self, number: int) -> int:
        return self._world.logs[TopicPartition(self._topic, number)].end

    def high_watermark(self, number: int) -> int:
        return self.end(number)

    def open_transaction_s(self, _number: int) -> float:
        return 0.0

    def begin_anew(self, _number: int) -> None:
        """No topic is made anew here."""

    def look(self) -> None:
        """It asks often enough."""

    def close(self) -> None:
        self._places.clear()

    async def fetch(self) -> None:
        """Poll, again and again."""
        world = self._world
        while True:
            await asyncio.sleep(POLL_S * (0.5 + world.noise.random()))
            poll: list[tuple[int, int, Batch]] = []
            for number, (position, token) in self._places.items():
                log = world.logs[TopicPartition(self._topic, number)]
                if position < log.end and self._wants(number):
                    count = world.noise.randint(1, world.plan.poll_records)
                    batch = log.read(position, count, world.noise.choice((0.0, 0.5, 1.0)))
                    poll.append((number, token, batch))
            for number, token, batch in poll:
                self._places[number] = (batch.end, token)
            if self._first is not None:
                self._answer_first(poll)
                continue
            if poll:
                await asyncio.sleep(world.delay())
            for number, token, batch in poll:
                self._take(number, token, batch)

    def _answer_first(self, poll: list[tuple[int, int, Batch]]) -> None:
        assert self._first is not None
        for number, token, batch in poll:
            rest = self._first(number, token, batch)
            if rest is not None:
                self._on_the_way.append((number, token, rest))
                self._worker.loop.call_later(self._world.delay(), self._arrive)

    def _arrive(self) -> None:
        self._take(*self._on_the_way.popleft())
