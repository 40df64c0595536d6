"""Probes: users that no client can have, in every partition."""

from __future__ import annotations

import pytest

from readstates.schemas.fields import DecodeError
from readstates.schemas.partitioner import partition_of
from readstates.schemas.probes import decode_probe, encode_probe, probe_users
from readstates.schemas.queries import Get, decode_query


@pytest.mark.parametrize("partitions", [1, 2, 3, 8, 100])
def test_each_partition_has_users_of_its_own(partitions: int) -> None:
    users = probe_users(partitions)
    assert len(users) == partitions
    for number, found in enumerate(users):
        assert found
        assert {partition_of(b"%d" % user, partitions) for user in found} == {number}
    everyone = [user for found in users for user in found]
    assert len(set(everyone)) == len(everyone)
    assert max(everyone) < 0


@pytest.mark.parametrize(("partitions", "raised"), [(1, 2), (4, 5), (8, 12), (8, 9)])
def test_some_users_move_if_partitions_are_added(partitions: int, raised: int) -> None:
    for number, found in enumerate(probe_users(partitions)):
        if len(found) >= 8:
            assert any(partition_of(b"%d" % user, raised) != number for user in found)


@pytest.mark.parametrize("after_offset", [None, 0, 17])
def test_what_is_encoded_is_decoded(after_offset: int | None) -> None:
    found = decode_probe(encode_probe(-5, after_offset))
    assert found == Get(-5, after_offset=after_offset)


def test_no_client_has_such_a_user() -> None:
    with pytest.raises(DecodeError, match="user_id"):
        decode_query(encode_probe(-5, None))


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"[]",
        b"{}",
        b'{"user_id": "0"}',
        b'{"user_id": "5"}',
        b'{"user_id": -5}',
        b'{"user_id": "x"}',
        b'{"user_id": "-9223372036854775808"}',
        b'{"user_id": "-5", "after_offset": "-1"}',
    ],
)
def test_what_is_no_probe_is_refused(value: bytes | None) -> None:
    with pytest.raises(DecodeError):
        decode_probe(value)
