"""Makes read states and operations on them from a seed, the same for every contender.

Each user has 10 read states. Numbers are made anew for each use (through `array`), as a decoder
makes them, because a dict finds a key that is its very own object without comparing it.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator
from itertools import accumulate

from readstates.schemas.read_state import Row

STATES_A_USER = 10
FIRST_VERSION = 8 << 48
FIRST_MESSAGE = 10**18
CHANNELS = 100_000  # shared by all users
MENTION_SHARE = 0.1  # of the read states have a mention


class Population:
    """Traffic of `users` users, who are there from the start; more can be made."""

    def __init__(self, users: int, states_a_user: int = STATES_A_USER) -> None:
        self.users = users
        self.states_a_user = states_a_user
        source = random.Random(1)
        self._channels = array("q", source.sample(range(10**17, 10**18), CHANNELS))
        self._order = list(range(users))  # users by popularity
        source.shuffle(self._order)
        self._weights: list[float] | None = None

    def user_id(self, number: int) -> int:
        """Scattered IDs, like those that come from several clocks; each number has its own."""
        return 10**17 + number * 0x9E3779B97F4A7C15 % (1 << 59)

    def channel(self, number: int, index: int) -> int:
        return self._channels[(number * 7919 + index) % CHANNELS]

    def rows(self, number: int) -> list[Row]:
        """The user's rows in the database, in its order: by channel."""
        channels = sorted(self.channel(number, index) for index in range(self.states_a_user))
        return [
            (
                0,
                channel,
                FIRST_MESSAGE + number,
                FIRST_MESSAGE + number + 1 if (number + index) % 10 == 0 else 0,
                1 if (number + index) % 10 == 0 else 0,
                0,
                0,
                3000,
                FIRST_VERSION + number,
                b"",
            )
            for index, channel in enumerate(channels)
        ]

    def everybody(self) -> Iterator[tuple[int, list[Row]]]:
        for number in range(self.users):
            yield self.user_id(number), self.rows(number)

    def drawn(self, zipf: bool, count: int, seed: int) -> list[int]:
        """Numbers of users, drawn evenly or by Zipf's law with exponent 1."""
        source = random.Random(seed)
        if not zipf:
            return [source.randrange(self.users) for _ in range(count)]
        if self._weights is None:
            self._weights = list(accumulate(1 / rank for rank in range(1, self.users + 1)))
        return source.choices(self._order, cum_weights=self._weights, k=count)

    def pairs(self, zipf: bool, count: int, seed: int) -> tuple[list[int], list[int]]:
        """User IDs and channel IDs of `count` operations; each pair is a read state that exists."""
        numbers = self.drawn(zipf, count, seed)
        source = random.Random(seed)
        many = self.states_a_user
        users = array("q", map(self.user_id, numbers))
        channels = array("q", [self.channel(n, source.randrange(many)) for n in numbers])
        return users.tolist(), channels.tolist()

    def strangers(self, count: int, round_: int) -> list[tuple[int, list[Row]]]:
        """Users who were never there, with their rows."""
        begin = self.users + round_ * count
        return [(self.user_id(n), self.rows(n)) for n in range(begin, begin + count)]
