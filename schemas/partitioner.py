"""The partition of a key, by the Java client's default partitioner, murmur2."""

from __future__ import annotations

_SEED = 0x9747B28C
_M = 0x5BD1E995
_MASK = 0xFFFFFFFF


def murmur2(key: bytes) -> int:
    """The 32-bit hash of Kafka's Java client, unsigned. A few µs for a 19-digit key."""
    length = len(key)
    hashed = _SEED ^ length
    whole = length & ~3
    for index in range(0, whole, 4):
        k = int.from_bytes(key[index : index + 4], "little") * _M & _MASK
        k = (k ^ (k >> 24)) * _M & _MASK
        hashed = (hashed * _M & _MASK) ^ k
    if whole < length:
        hashed = (hashed ^ int.from_bytes(key[whole:], "little")) * _M & _MASK
    hashed = (hashed ^ (hashed >> 13)) * _M & _MASK
    return hashed ^ (hashed >> 15)


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a key among `partitions`."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def misrouted(user_id: int, here: int, right: int) -> str:
    """What is wrong with a record of this user in partition `here`, and what to do about it."""
    return (
        f"the record of user {user_id} is in partition {here} and belongs in partition {right}: "
        "set the Java client's partitioner in the producer (librdkafka: "
        "partitioner=murmur2_random; schemas/README.md has the setting of each client)"
    )
