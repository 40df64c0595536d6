"""The holders of read states: our table, and LRUs and dicts as a competent user would fill them.

Each method is a loop of one operation, written as that user would write it, and nothing else: the
caller times it. Peers leave the type of a read state out of their keys. Shapes of a peer:

    pairs    (user_id, channel_id) → object with slots     an update changes the object
    objects  user_id → {channel_id: object with slots}     the same
    tuples   user_id → {channel_id: tuple}                 an update puts a new tuple

Only the last two can list all of a user's read states without a second index. The capacity of an
LRU of users is counted in users.
"""

from __future__ import annotations

import importlib
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from readstates.cache.table import KEEP
from readstates.cache.tablefile import TableFile, TableIdentity, open_table
from readstates.schemas.fast_decoder import NUMBERS
from readstates.schemas.read_state import Row

People = Iterable[tuple[int, list[Row]]]
SHAPES = ("pairs", "objects", "tuples")
SCAN_MAX = 512  # users that one search for room may look at; the service's limit


class State:
    """A read state as an object."""

    __slots__ = (
        "channel_id", "extra", "flags", "kind", "last_mention_id", "last_message_id",
        "last_pin_timestamp", "last_viewed", "mention_count", "version",
    )  # fmt: skip

    def __init__(
        self, kind: int, channel_id: int, last_message_id: int, last_mention_id: int,
        mention_count: int, last_pin_timestamp: int, flags: int, last_viewed: int, version: int,
        extra: bytes,
    ) -> None:  # fmt: skip
        self.kind = kind
        self.channel_id = channel_id
        self.last_message_id = last_message_id
        self.last_mention_id = last_mention_id
        self.mention_count = mention_count
        self.last_pin_timestamp = last_pin_timestamp
        self.flags = flags
        self.last_viewed = last_viewed
        self.version = version
        self.extra = extra


class Holder(Protocol):
    def insert(self, people: People) -> None: ...
    def get(self, users: list[int], channels: list[int]) -> None: ...
    def update(self, users: list[int], channels: list[int], number: int) -> None: ...
    def all_of(self, users: list[int]) -> None: ...


class Ours:
    """The table, in a file as the worker opens it; each operation makes the service's calls."""

    def __init__(self, states: int, folder: Path) -> None:
        identity = TableIdentity(bytes(16), 8, 0, "bench")
        self.file: TableFile = open_table(folder / "bench.table", identity, states, states // 2)
        self.table: Any = self.file.table

    def insert(self, people: People) -> None:
        evict, insert = self.table.evict, self.table.insert
        for user_id, rows in people:
            if evict(1 + len(rows), SCAN_MAX):
                insert(user_id, 0, False, rows)

    def get(self, users: list[int], channels: list[int]) -> None:
        find, touch, get_some = self.table.find, self.table.touch, self.table.get_some
        for user_id, channel_id in zip(users, channels, strict=True):
            user = find(user_id)
            touch(user)
            state = get_some(user, 0, (channel_id,))[0]
            _ = state[2], state[3], state[4]

    def update(self, users: list[int], channels: list[int], number: int) -> None:
        find, touch, ack = self.table.find, self.table.touch, self.table.ack
        for user_id, channel_id in zip(users, channels, strict=True):
            number += 1
            user = find(user_id)
            touch(user)
            ack(user, 0, channel_id, number, KEEP, KEEP, number)

    def all_of(self, users: list[int]) -> None:
        find, touch, states = self.table.find, self.table.touch, self.table.states
        for user_id in users:
            user = find(user_id)
            touch(user)
            for row in states(user):
                _kind, _channel, _last, _mention, _count, _pins, _flags, _viewed, _, _ = row

    def batch(self, users: list[int], channels: list[int], number: int) -> tuple[Any, bytearray]:
        """Put the same acks into the form of the batch entry, which a decoder fills; not timed."""
        numbers = array("q", bytes(8 * NUMBERS * len(users)))
        for index, (user_id, channel_id) in enumerate(zip(users, channels, strict=True)):
            at, version = index * NUMBERS, number + index + 1
            ack = (user_id, 0, channel_id, version, KEEP, KEEP, version, 0)
            numbers[at : at + NUMBERS] = array("q", ack)
        return numbers, bytearray(len(users))

    def update_batch(self, numbers: Any, codes: bytearray, size: int) -> None:
        """Fold acks in batches of `size`."""
        fold = self.table.fold_run
        with memoryview(numbers) as acks, memoryview(codes) as room:
            for begin in range(0, len(codes), size):
                end = min(begin + size, len(codes))
                fold(acks[begin * NUMBERS : end * NUMBERS], end - begin, room[begin:end])

    def write_out(self) -> None:
        """Write out everything dirty, because dirty users are not evicted; not timed."""
        table = self.table
        while user := table.dirty_head():
            _, deleted, rows = table.take(user)
            table.written(user, deleted, rows)

    def close(self) -> None:
        self.file.close(clean=False)


class Pairs:
    """Shape `pairs`."""

    def __init__(self, cache: Any) -> None:
        self.cache = cache

    def insert(self, people: People) -> None:
        cache = self.cache
        for user_id, rows in people:
            for row in rows:
                cache[user_id, row[1]] = State(*row)

    def get(self, users: list[int], channels: list[int]) -> None:
        cache = self.cache
        for user_id, channel_id in zip(users, channels, strict=True):
            state = cache[user_id, channel_id]
            _ = state.last_message_id, state.last_mention_id, state.mention_count

    def update(self, users: list[int], channels: list[int], number: int) -> None:
        cache = self.cache
        for user_id, channel_id in zip(users, channels, strict=True):
            number += 1
            state = cache[user_id, channel_id]
            if number > state.version and number >= state.last_message_id:
                state.last_message_id = number
                state.version = number
                if number >= state.last_mention_id:
                    state.last_mention_id, state.mention_count, state.extra = 0, 0, b""


class Objects(Pairs):
    """Shape `objects`."""

    def insert(self, people: People) -> None:
        cache = self.cache
        for user_id, rows in people:
            cache[user_id] = {row[1]: State(*row) for row in rows}

    def get(self, users: list[int], channels: list[int]) -> None:
        cache = self.cache
        for user_id, channel_id in zip(users, channels, strict=True):
            state = cache[user_id][channel_id]
            _ = state.last_message_id, state.last_mention_id, state.mention_count

    def update(self, users: list[int], channels: list[int], number: int) -> None:
        cache = self.cache
        for user_id, channel_id in zip(users, channels, strict=True):
            number += 1
            state = cache[user_id][channel_id]
            if number > state.version and number >= state.last_message_id:
                state.last_message_id = number
                state.version = number
                if number >= state.last_mention_id:
                    state.last_mention_id, state.mention_count, state.extra = 0, 0, b""

    def all_of(self, users: list[int]) -> None:
        cache = self.cache
        for user_id in users:
            states = cache[user_id]
            for channel_id in sorted(states):
                s = states[channel_id]
                _ = (
                    s.kind, s.channel_id, s.last_message_id, s.last_mention_id, s.mention_count,
                    s.last_pin_timestamp, s.flags, s.last_viewed, s.version,
                    s.extra,
                )  # fmt: skip


class Tuples(Pairs):
    """Shape `tuples`. `stored`: the cache keeps a copy, so a changed user must be put again."""

    def __init__(self, cache: Any, stored: bool) -> None:
        super().__init__(cache)
        self.stored = stored

    def insert(self, people: People) -> None:
        cache = self.cache
        for user_id, rows in people:
            cache[user_id] = {row[1]: row for row in rows}

    def get(self, users: list[int], channels: list[int]) -> None:
        cache = self.cache
        for user_id, channel_id in zip(users, channels, strict=True):
            state = cache[user_id][channel_id]
            _ = state[2], state[3], state[4]

    def update(self, users: list[int], channels: list[int], number: int) -> None:
        cache, stored = self.cache, self.stored
        for user_id, channel_id in zip(users, channels, strict=True):
            number += 1
            states = cache[user_id]
            kind, _, last, mention, count, pins, flags, viewed, version, extra = states[channel_id]
            if number > version and number >= last:
                if number >= mention:
                    mention, count, extra = 0, 0, b""
                states[channel_id] = (
                    kind, channel_id, number, mention, count, pins, flags, viewed, number,
                    extra,
                )  # fmt: skip
                if stored:
                    cache[user_id] = states

    def all_of(self, users: list[int]) -> None:
        cache = self.cache
        for user_id in users:
            states = cache[user_id]
            for channel_id in sorted(states):
                _kind, _channel, _last, _mention, _count, _pins, _flags, _viewed, _, _ = states[
                    channel_id
                ]


def peer(name: str, shape: str, states: int, users: int, folder: Path) -> Pairs:
    """A peer that holds `states` read states of `users` users and no more (a dict: all)."""
    capacity = states if shape == "pairs" else users
    cache: Any
    if name == "dict":
        cache = {}
    elif name == "cachetools":
        cache = importlib.import_module("cachetools").LRUCache(capacity)
    elif name == "cachebox":
        cache = importlib.import_module("cachebox").LRUCache(capacity)
    elif name == "lru-dict":
        cache = importlib.import_module("lru").LRU(capacity)
    else:  # as it counts: about 1 KiB per object, 2 KiB per user with its tuples
        room = states * 1024 if shape == "pairs" else users * 2048
        cache = importlib.import_module("diskcache").Cache(
            str(folder / "disk"), eviction_policy="least-recently-used", size_limit=room
        )
    if shape == "pairs":
        return Pairs(cache)
    return Objects(cache) if shape == "objects" else Tuples(cache, stored=name == "diskcache")
