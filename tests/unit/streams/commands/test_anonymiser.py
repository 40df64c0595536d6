"""Other IDs, and the same read states; nothing of what was not understood."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from readstates.ops.proof.oracle import Oracle
from readstates.ops.proof.oracle_state import State
from readstates.schemas.events import SNOWFLAKE_MAX
from readstates.streams.commands import anonymiser as module
from readstates.streams.commands.anonymiser import Anonymiser
from readstates.streams.commands.id_permutation import (
    SHIFT_MAX,
    IdPermutation,
    NewIds,
    TooLargeIdError,
)
from readstates.streams.commands.recording import QUERIES, REPLIES, UPDATES, Recorded, encode
from tests.support.events import anything
from tests.support.wire import murmur2

KEY = bytes(range(32))
PARTITIONS = 4
CHANNELS = (5, 40, 2**62)
OLD = (5, 40, 41, 42, 43)  # channels of a reply
Headers = list[tuple[str, bytes | None]]


@pytest.mark.parametrize("bits", [2, 3, 8, 9, 13])
def test_a_permutation_gives_each_id_once(bits: int) -> None:
    everything = range(1, 1 << bits)
    made = [IdPermutation(KEY, b"user", bits)(number) for number in everything]
    assert sorted(made) == list(everything)
    other = [IdPermutation(KEY[1:], b"user", bits)(number) for number in everything]
    third = [IdPermutation(KEY, b"channel", bits)(number) for number in everything]
    if bits > 8:
        assert len({tuple(made), tuple(other), tuple(third), tuple(everything)}) == 4


def partition_of(user: int, partitions: int = PARTITIONS) -> int:
    return (murmur2(str(user).encode()) & 0x7FFFFFFF) % partitions


def test_users_stay_in_their_partitions() -> None:
    ids = NewIds(KEY, PARTITIONS)
    users = [*range(1, 500), SNOWFLAKE_MAX, SNOWFLAKE_MAX - 1]
    made = [ids.user(user) for user in users]
    assert len(set(made)) == len(users)
    assert all(1 <= user <= SNOWFLAKE_MAX for user in made)
    assert [partition_of(user) for user in made] == [partition_of(user) for user in users]
    assert not set(made) & set(users)


def test_messages_keep_their_order_and_their_time() -> None:
    ids, rand = NewIds(KEY, PARTITIONS), random.Random(1)
    for channel in (1, 7, SNOWFLAKE_MAX):
        old = sorted({rand.randrange(1, 2**62) for _ in range(200)} | {1, 2, 3})
        new = [ids.message(channel, message) for message in old]
        assert new == sorted(set(new))
        assert all(0 < b - a < SHIFT_MAX for a, b in zip(old, new, strict=True))
        assert ids.message(channel, 0) == 0
    assert ids.message(1, 5) != ids.message(2, 5)
    assert NewIds(KEY[1:], PARTITIONS).message(1, 5) != ids.message(1, 5)
    with pytest.raises(TooLargeIdError):
        ids.message(1, SNOWFLAKE_MAX)


def update(user: int, event: dict[str, Any], **more: Any) -> Recorded:
    value = json.dumps({**event, "user_id": str(user), **more}).encode()
    return Recorded(1, UPDATES, partition_of(user), str(user).encode(), value, [("x", b"secret")])


def permuted(ids: NewIds, channel: int, state: State) -> State:
    def new(message: int) -> int:
        return ids.message(channel, message)

    return State(
        new(state.last_message_id),
        state.last_pin_timestamp,
        state.flags,
        state.last_viewed,
        {new(message): mark for message, mark in state.marks.items()},
        state.uncounted,
        new(state.uncounted_up_to),
        state.unread_version,
        new(state.deleted_up_to),
        state.version,
    )


@pytest.mark.parametrize("seed", range(20))
def test_the_fold_is_that_of_the_original_with_other_ids(seed: int) -> None:
    rand, ids = random.Random(seed), NewIds(KEY, PARTITIONS)
    anonymise = Anonymiser(ids)
    before, after, users = Oracle(), Oracle(), (3, 4, 2**61)
    for offset in range(300):
        record = update(rand.choice(users), anything(rand, (1, 90), CHANNELS, reads=seed % 2 == 0))
        before.apply(record.key, record.value, offset)
        made = anonymise(record)
        assert made is not None
        assert made.partition == partition_of(int(made.key or b""))
        after.apply(made.key, made.value, offset)
    assert after.bad == before.bad == anonymise.left_out == 0
    assert after.users == {
        ids.user(user): {
            (kind, ids.channel(channel)): permuted(ids, channel, state)
            for (kind, channel), state in states.items()
        }
        for user, states in before.users.items()
    }
    assert sum(len(states) for states in after.users.values()) > 2


def test_only_what_is_known_is_kept() -> None:
    anonymise = Anonymiser(NewIds(KEY, PARTITIONS))
    event = {"type": "mention", "channel_id": "77777", "message_id": "88888", "text": "secret"}
    made = anonymise(update(66666, event, ts=123))
    assert made is not None
    line = encode(made)
    for part in (b"secret", b"66666", b"77777", b"88888"):
        assert part not in line
    assert set(json.loads(made.value or b"")) == {"type", "user_id", "channel_id", "message_id"}


@pytest.mark.parametrize(
    "record",
    [
        update(1, {"type": "secret"}),
        update(1, {"type": "ack", "channel_id": "1", "message_id": str(SNOWFLAKE_MAX)}),
        update(1, {"type": "ack", "channel_id": "x", "message_id": "1"}),
        update(1, {"type": "delete_user"})._replace(key=b"2"),
        update(1, {"type": "delete_user"})._replace(key=None),
        update(1, {"type": "delete_user"})._replace(value=None),
        update(1, {"type": "delete_user"})._replace(value=b"\xff"),
        Recorded(1, QUERIES, 0, b"1", b'{"type":"get","user_id":"1"}', []),
        Recorded(1, QUERIES, 0, b"1", b'{"type":"get"}', [("kafka_replyTopic", b"t")]),
        Recorded(1, REPLIES, 0, b"1", b"{}", []),
        Recorded(
            1, REPLIES, 0, b"1", b"{}", [("kafka_replyTopic", b"t"), ("kafka_correlationId", b"?")]
        ),
    ],
)
def test_what_cannot_be_read_is_left_out(record: Recorded) -> None:
    anonymise = Anonymiser(NewIds(KEY, PARTITIONS))
    assert anonymise(record) is None
    assert anonymise.left_out == 1


def asked(correlation_id: bytes, **more: Any) -> Recorded:
    headers: Headers = [
        ("kafka_replyTopic", b"p.replies.secret"), ("kafka_correlationId", correlation_id),
        ("read-states-deadline", b"12"), ("cookie", b"secret"),
    ]  # fmt: skip
    value = json.dumps({"type": "get", "user_id": "9", **more, "x": "secret"}).encode()
    return Recorded(1, QUERIES, 2, b"9", value, headers)


def replied(correlation_id: bytes, body: Any, *more: tuple[str, bytes]) -> Recorded:
    headers = [
        ("kafka_replyTopic", b"p.replies.secret"), ("kafka_correlationId", correlation_id), *more
    ]  # fmt: skip
    return Recorded(1, REPLIES, 2, b"9", json.dumps(body).encode(), list(headers))


def test_a_query_and_its_reply_still_belong_together() -> None:
    ids = NewIds(KEY, PARTITIONS)
    assert sorted(OLD, key=ids.channel) != list(OLD), "or the order would prove nothing"
    anonymise = Anonymiser(ids)
    query = anonymise(asked(b"secret 1", channel_ids=["5", "40"], since_version="8", mentions=True))
    assert query is not None
    assert json.loads(query.value or b"") == {
        "type": "get", "user_id": str(ids.user(9)), "since_version": "8", "mentions": True,
        "channel_ids": [str(ids.channel(5)), str(ids.channel(40))],
    }  # fmt: skip
    numbers = {"mention_count": 2, "last_pin_timestamp": 3, "flags": 4, "last_viewed": 5}
    states = [
        {"channel_id": str(channel), "read_state_type": 0, "last_message_id": "0",
         "last_mention_id": "12", "version": "7", "mentions": ["11", "12"], **numbers}
        for channel in OLD
    ]  # fmt: skip
    totals = {"read_states": 2, "mentioned": 2, "mentions": 4}
    body = {"user_id": "9", "version": "9", "full": False, "read_states": states, "x": "secret"}
    reply = anonymise(replied(b"secret 1", {**body, "totals": totals}, ("cookie", b"secret")))
    assert reply is not None
    names = [name for name, _ in reply.headers]
    assert names == ["kafka_replyTopic", "kafka_correlationId"]
    assert set(reply.headers) < set(query.headers)
    found = json.loads(reply.value or b"")
    assert found["totals"] == totals
    assert [state["channel_id"] for state in found["read_states"]] == [
        str(channel) for channel in sorted(map(ids.channel, OLD))
    ]
    for state, old in zip(found["read_states"], sorted(OLD, key=ids.channel), strict=True):
        messages = [ids.message(old, message) for message in (11, 12)]
        assert state["mentions"] == list(map(str, messages))
        assert (state["last_message_id"], state["last_mention_id"]) == ("0", str(messages[1]))
        assert numbers.items() <= state.items()
    for each in (query, reply):
        assert b"secret" not in encode(each)


def test_an_error_keeps_its_code_and_loses_its_text() -> None:
    ids = NewIds(KEY, PARTITIONS)
    anonymise = Anonymiser(ids)
    assert anonymise(asked(b"1")) is not None
    error = {"code": "reply_too_large", "message": "secret", "limit": 5}
    header = ("read-states-error", b"reply_too_large")
    reply = anonymise(replied(b"1", {"user_id": "9", "error": error}, header))
    assert reply is not None
    assert json.loads(reply.value or b"") == {
        "user_id": str(ids.user(9)),
        "error": {"code": "reply_too_large", "message": "", "limit": 5},
    }
    assert header in reply.headers


def test_replies_of_pages_and_of_unknown_queries_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "ASKED_MAX", 2)
    anonymise = Anonymiser(NewIds(KEY, PARTITIONS))
    body = {"user_id": "9", "version": "9", "full": True, "read_states": []}
    after = {"read_state_type": 0, "channel_id": "5"}
    kinds: list[dict[str, Any]] = [{"limit": 5}, {"after": after}, {}, {}, {}]
    for number, more in enumerate(kinds):
        assert anonymise(asked(b"%d" % number, **more)) is not None
        if number < 2:
            assert anonymise(replied(b"%d" % number, body)) is None
    assert anonymise(replied(b"2", body)) is None, "two later ones are remembered"
    assert anonymise(replied(b"3", body)) is not None
    assert anonymise(replied(b"3", body)) is None, "a second time"
    assert anonymise.left_out == 4


def test_the_faust_dialect_stays_what_it_is() -> None:
    anonymise = Anonymiser(NewIds(KEY, PARTITIONS))
    headers: Headers = [("Faust-Ag-ReplyTo", b"f-reply-1"), ("Faust-Ag-CorrelationId", b"7")]
    made = anonymise(asked(b"1")._replace(headers=[*headers, ("read-states-deadline", b"soon")]))
    assert made is not None
    assert [name for name, _ in made.headers] == [
        "Faust-Ag-ReplyTo", "Faust-Ag-CorrelationId", "read-states-deadline"
    ]  # fmt: skip
    assert dict(made.headers)["read-states-deadline"] == b"wrong"
