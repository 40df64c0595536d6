"""The input of a curve of the graph: records, users, and stand-ins for Cassandra and Kafka.

The stand-in for Cassandra answers LOAD_TICKS ticks after a request, with rows that it makes then.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from readstates.schemas.version import version_of

STATES_A_USER = 10
LOAD_TICKS = 2  # until Cassandra's stand-in answers
SCATTER = 0x9E3779B97F4A7C15


class Record:
    """A record as the consumer gives it."""

    __slots__ = ("headers", "key", "offset", "partition", "timestamp", "topic", "value")

    def __init__(
        self, topic: str, offset: int, key: bytes, value: bytes, ms: int, headers: Any = ()
    ) -> None:
        self.topic, self.partition, self.offset = topic, 0, offset
        self.key, self.value, self.timestamp, self.headers = key, value, ms, headers


def user_id(number: int) -> int:
    """The user who is the `number`th to come online: scattered, each once."""
    return 10**17 + number * SCATTER % 2**58


def number_of(user_id: int) -> int:
    """The number of a user: the inverse of `user_id`."""
    return (user_id - 10**17) * pow(SCATTER, -1, 2**58) % 2**58


def channel_id(number: int, place: int) -> int:
    return 10**17 + (number * 31 + place * 7919) % 1_000_003


def rows_of(number: int) -> Any:
    """The user's rows in the database: Rows, as the driver gives them."""
    first = number * STATES_A_USER
    return [
        (0, channel_id(number, k), 10**18 + first + k, 0, 0, 0, 0, 0, version_of(8, first + k), b"")
        for k in range(STATES_A_USER)
    ]


class Store:
    """Like `readstates.streams.cassandra.Store`: takes requests, and answers them ticks later."""

    def __init__(self) -> None:
        self.tick = 0
        self.rows_written = 0
        self._answers: deque[tuple[int, Callable[[Any], None], Any]] = deque()

    def group_of(self, user_id: int) -> object:
        return None

    def expire(self) -> None:
        """Do nothing: no request takes too long here."""

    def load(self, user_ids: list[int], done: Callable[[Any], None]) -> None:
        self._answers.append((self.tick + LOAD_TICKS, done, user_ids))

    def write(self, changes: list[Any], done: Callable[[Any], None]) -> None:
        self.rows_written += len(changes)
        self._answers.append((self.tick + LOAD_TICKS, done, None))

    def answer(self, loop: asyncio.AbstractEventLoop) -> None:
        """Hand the answers that are due to the loop."""
        while self._answers and self._answers[0][0] <= self.tick:
            _, done, asked = self._answers.popleft()
            found = asked and {user: rows_of(number_of(user)) for user in asked}
            loop.call_soon(done, True if found is None else found)


class Output:
    """Like the two producers of `readstates.streams.kafka`; notes when a reply was handed over."""

    def __init__(self) -> None:
        self.replied: Callable[[int], None] = lambda _: None
        self.errors = 0

    def allowed(self, topic: str, is_probe: bool = False) -> bool:
        return True

    def exists(self, address: Any, is_probe: bool = False) -> bool:
        return True

    def reply(self, address: Any, key: bytes | None, body: bytes, deadline_ms: int, _: int) -> None:
        self.replied(int(address.correlation_id))

    def error(self, *_: Any) -> None:
        self.errors += 1

    def send(self, *about: Any) -> None:
        self.errors += 1
        about[-1]()
