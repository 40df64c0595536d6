"""The records of the topic of candidates, and the buckets of users."""

from __future__ import annotations

import orjson
import pytest

from readstates.schemas.rollout import (
    SHARE_MAX,
    Accepted,
    Beat,
    Candidate,
    RolloutRecordError,
    beat_key,
    bucket_of,
    decode_rollout,
    encode_beat,
    encode_candidate,
    names_in,
    rollout_topic,
    shadow_topic,
)
from tests.support.wire import murmur2

CANDIDATE = Candidate("new", 2500, True, "0123456789abcdef", 1_800_000_000_000)
BEAT = Beat("new", "host-1", 12, frozenset({3, 0}))


def test_the_record_of_a_candidate() -> None:
    key, value = encode_candidate(CANDIDATE)
    assert key == b"new"
    assert orjson.loads(value) == {
        "share": 2500,
        "compares": True,
        "run": "0123456789abcdef",
        "since_ms": 1_800_000_000_000,
        "started_ms": 0,
        "finishing_ms": 0,
        "accepted": [],
    }
    assert decode_rollout(key, value) == CANDIDATE


def test_what_was_accepted_is_in_the_record() -> None:
    accepted = Accepted("pins are kept now", 3, 5), Accepted("and order", 7, 9)
    candidate = CANDIDATE._replace(started_ms=1, finishing_ms=2, accepted=accepted)
    assert decode_rollout(*encode_candidate(candidate)) == candidate
    assert (CANDIDATE.differences, candidate.differences) == (0, 7)


def test_the_record_of_an_earlier_version() -> None:
    """It has neither the newer times nor what was accepted."""
    value = b'{"share":2500,"compares":true,"run":"0123456789abcdef","since_ms":1800000000000}'
    assert decode_rollout(b"new", value) == CANDIDATE


def test_a_beat() -> None:
    key, value = encode_beat(BEAT)
    assert key == b"new/host-1" == beat_key("new", "host-1")
    assert value == b'{"follows":"12","partitions":[0,3]}'
    assert decode_rollout(key, value) == BEAT
    assert names_in(key) == ("new", "host-1")
    assert names_in(b"new") == ("new", "")


def test_unknown_fields_are_ignored() -> None:
    key, value = encode_candidate(CANDIDATE)
    assert decode_rollout(key, orjson.dumps(orjson.loads(value) | {"later": 1})) == CANDIDATE


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"[]",
        b"{}",
        b'{"share":-1,"compares":true,"run":"0123456789abcdef"}',
        b'{"share":10001,"compares":true,"run":"0123456789abcdef"}',
        b'{"share":null,"compares":true,"run":"0123456789abcdef"}',
        b'{"share":1,"compares":true,"run":"\' OR"}',
        b'{"share":1,"compares":true,"run":"0123456789abcdef","accepted":[1]}',
        b'{"share":1,"compares":true,"run":"0123456789abcdef","started_ms":null}',
    ],
)
@pytest.mark.parametrize("key", [b"new", b"new/w", b"\xff"])
def test_anything_else_is_refused(key: bytes, value: bytes) -> None:
    with pytest.raises(RolloutRecordError):
        decode_rollout(key, value)


def test_the_bucket_is_what_the_interface_says() -> None:
    """By the tests' own murmur2."""
    for user in (1, 42, 2**53, 2**63 - 1):
        expected = (murmur2(b"%d/new" % user) & 0x7FFFFFFF) % 10000
        assert bucket_of(b"%d" % user, "new") == expected
    buckets = [bucket_of(b"%d" % user, "new") for user in range(10_000, 14_000)]
    assert 0.45 < sum(bucket < SHARE_MAX // 2 for bucket in buckets) / 4000 < 0.55


def test_the_names_of_the_topics() -> None:
    assert rollout_topic("p") == "p.rollout"
    assert shadow_topic("p", "new") == "p.shadow.new"
