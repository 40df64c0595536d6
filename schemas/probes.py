"""Probes: the queries that a worker sends to itself, from users that no client can have.

The user ID of a probe is below 0. Clients' IDs begin at 1, so an ID below 0 gets `invalid_query`,
unless the query has the header HEADER_PROBE and names the probes' own reply topic; that topic takes
no other replies. The key is the user ID in decimal, as for any query, and so the producer's
partitioner decides on the partition, as it does for the clients' queries.
"""

from __future__ import annotations

from .events import SNOWFLAKE_MAX
from .fields import read_id, read_object, wrong
from .partitioner import partition_of
from .queries import Get, encode_query

HEADER_PROBE = "read-states-probe"
USERS_OF_PARTITION = 16  # on average; a changed partition count moves some, and leaves others


def probe_mark(candidate: str) -> bytes:
    """The value of HEADER_PROBE. `candidate`: the group, if the worker is of one; otherwise empty.

    A worker answers the probes of its own group, and leaves the others to those who sent them.
    """
    return candidate.encode()


def probe_users(partitions: int) -> list[list[int]]:
    """Users for probes by partition: at least one, and about USERS_OF_PARTITION, for each."""
    users: list[list[int]] = [[] for _ in range(partitions)]
    missing, user_id = partitions, 0
    while missing or -user_id < USERS_OF_PARTITION * partitions:
        user_id -= 1
        found = users[partition_of(b"%d" % user_id, partitions)]
        missing -= not found
        found.append(user_id)
    return users


def encode_probe(user_id: int, after_offset: int | None) -> bytes:
    """The value of a probe. `after_offset`: of the last update that the answer must know."""
    return encode_query(Get(user_id, after_offset=after_offset))


def decode_probe(value: bytes | None) -> Get:
    """A probe. Raises only DecodeError, whatever the bytes."""
    body = read_object(value)
    text = body.get("user_id")
    try:
        user_id = int(text) if isinstance(text, str) else 0
    except ValueError:
        user_id = 0
    if not -SNOWFLAKE_MAX <= user_id < 0:
        raise wrong("user_id", "an integer below 0 as a string", text)
    after = read_id(body, "after_offset", low=0) if "after_offset" in body else None
    return Get(user_id, after_offset=after)
