"""Finds out which partitioner a producer used, from the partitions that its records are in.

A partitioner is a function of the key and the number of partitions, so the right guess explains
where each record is. A single record proves little: with N partitions, a wrong guess explains one
record in N, too. Twenty users are proof.
"""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import NamedTuple

from .partitioner import murmur2, partition_of

_FNV_START = 0x811C9DC5
_FNV_PRIME = 0x01000193
_MASK = 0xFFFFFFFF


class Partitioner(NamedTuple):
    """A partitioner that is not the Java client's. `remedy`: who has it, and what to set."""

    name: str
    remedy: str
    choose: Callable[[bytes, int], int]


def _fnv1a(key: bytes) -> int:
    hashed = _FNV_START
    for byte in key:
        hashed = (hashed ^ byte) * _FNV_PRIME & _MASK
    return hashed


def _signed(hashed: int) -> int:
    return hashed - (1 << 32) if hashed >> 31 else hashed


# A client that leaves out Java's mask makes a partition of the hash in one of three ways. Where the
# number of partitions is a power of two, all of them but the absolute value are right by chance.
_MASKLESS = "murmur2 without `& 0x7fffffff`: set the client's Java-compatible partitioner"
_FNV = "sarama, kafka-go's Hash, librdkafka's fnv1a: set the client's murmur2"
PARTITIONERS = (
    Partitioner(
        "crc32",
        "librdkafka's default: set partitioner=murmur2_random",
        lambda key, count: zlib.crc32(key) % count,
    ),
    Partitioner("fnv1a", _FNV, lambda key, count: abs(_signed(_fnv1a(key))) % count),
    Partitioner("fnv1a masked", _FNV, lambda key, count: (_fnv1a(key) & 0x7FFFFFFF) % count),
    Partitioner("murmur2 unsigned", _MASKLESS, lambda key, count: murmur2(key) % count),
    Partitioner("murmur2 abs", _MASKLESS, lambda key, count: abs(_signed(murmur2(key))) % count),
    Partitioner("murmur2 signed", _MASKLESS, lambda key, count: _signed(murmur2(key)) % count),
)
NOT_BY_KEY = "not by the key"
_NOT_BY_KEY_REMEDY = "round robin, random or by hand: set the client's murmur2"
_FEWER_REMEDY = "it has not seen the new partitions: restart the producer"


class Explained(NamedTuple):
    """How many users' places a partitioner explains."""

    users: int
    name: str
    remedy: str


def explain(places: Iterable[tuple[bytes, int]], partitions: int) -> list[Explained]:
    """Which partitioners put these misrouted records where they are; the likeliest is first.

    `places`: key and partition of each record. A user counts once, if all of the user's records
    are explained. Of the smaller numbers of partitions only the likeliest is named.
    """
    of: defaultdict[bytes, set[int]] = defaultdict(set)
    for key, partition in places:
        of[key].add(partition)
    users: Counter[tuple[str, str]] = Counter()
    fewer: Counter[int] = Counter()
    for key, where in of.items():
        if len(where) > 1:
            users[NOT_BY_KEY, _NOT_BY_KEY_REMEDY] += 1
            continue
        for one in PARTITIONERS:
            users[one.name, one.remedy] += {one.choose(key, partitions)} == where
        for count in range(1, partitions):
            fewer[count] += {partition_of(key, count)} == where
    for count, explained in fewer.most_common(1):
        users[f"murmur2 of {count} partitions", _FEWER_REMEDY] = explained
    return [Explained(count, *named) for named, count in users.most_common() if count]
