"""The records of the history of epochs, and what comes of two histories."""

from __future__ import annotations

import uuid

import pytest

from readstates.schemas.epoch_history import (
    Epoch,
    HistoryError,
    decode_epoch,
    encode_epoch,
    key_of,
    merged,
)

EPOCH = Epoch(9, "p.updates", uuid.UUID(int=7), 3, (5, 2**40, 0), 1_800_000_000_999_999)


def test_a_record() -> None:
    key = key_of("k_2", 9)
    assert key == b"k_2/9"
    assert decode_epoch(key, encode_epoch(EPOCH), "k_2") == EPOCH
    assert decode_epoch(key, encode_epoch(EPOCH), "k") is None, "another keyspace's"
    assert b'"first_offsets":["5","1099511627776","0"]' in encode_epoch(EPOCH)
    assert EPOCH.said.endswith("3 partitions, since 2027-01-15T08:00:00 UTC)")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"k/9", b"{"),
        (b"k/9", b"{}"),
        (b"k/9", b"null"),
        (b"k/8", encode_epoch(EPOCH)),  # it says another number
        (b"k/9", encode_epoch(EPOCH._replace(partitions=4))),  # a partition without a first offset
    ],
)
def test_a_record_that_is_none(key: bytes, value: bytes) -> None:
    with pytest.raises(HistoryError, match="is not an epoch"):
        decode_epoch(key, value, "k")


def test_two_histories() -> None:
    first = EPOCH._replace(epoch=8)
    later = EPOCH._replace(began_us=EPOCH.began_us + 1)
    assert merged({}, {}) == {}
    assert list(merged({9: EPOCH}, {8: first, 9: later}).items()) == [(8, first), (9, EPOCH)]
    with pytest.raises(HistoryError, match="is also epoch 9"):
        merged({9: EPOCH}, {9: EPOCH._replace(topic_id=uuid.UUID(int=8))})
