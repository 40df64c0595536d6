"""Every rule of the event tables: what a reply says after each event, and what Cassandra holds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from confluent_kafka import Producer

from readstates.ops.proof.oracle import Oracle
from tests.support.event_rules import (
    CHANNEL,
    DELETE,
    DELETE_USER,
    RULES,
    WITHOUT_CHANNEL,
    Event,
    Step,
    ack,
    at,
    delete,
    mark,
    mention,
    merge,
    options,
    pins,
    retract,
)
from tests.support.load import Log
from tests.support.rows import COLUMNS, Row, rows_of
from tests.support.service import USER_STATES_MAX, Service
from tests.support.waiting import until
from tests.support.wire import Wire, encode, new_user

FOLDED: set[int] = set()  # this module's users
LEFT: dict[int, list[Row]] = {}  # what the rules leave in Cassandra of each of their users


@pytest.fixture
def user() -> int:
    made = new_user()
    FOLDED.add(made)
    return made


def run(wire: Wire, user: int, steps: list[Step], kind: int) -> None:
    """Each step's effect by a query, its version by the oracle; what it leaves, for the end."""
    oracle = Oracle()
    where = {} if kind == 0 else {"read_state_type": kind}
    for event, expected in steps:
        sent = dict(event)
        if sent["type"] == "bulk_ack":
            sent["acks"] = [{**entry, **where} for entry in sent["acks"]]
        elif sent["type"] not in WITHOUT_CHANNEL:
            sent = {**sent, "channel_id": str(CHANNEL), **where}
        offset = wire.produce_update(user, sent)
        oracle.apply(str(user).encode(), encode(user, sent), offset)
        reply = wire.get(user, after_offset=str(offset), mentions=True, totals=True)
        assert reply.value["full"] is True
        if expected is None:
            assert reply.states == [], sent
            assert reply.value["totals"] == {"read_states": 0, "mentioned": 0, "mentions": 0}
            continue
        (state,) = reply.states
        assert state["channel_id"] == str(CHANNEL)
        assert state["read_state_type"] == kind
        fields = {name: int(state[name]) for name in COLUMNS[2:-1]}
        whole = {**dict.fromkeys(fields, 0), "mentions": [], **expected}
        assert {**fields, "mentions": state["mentions"]} == whole, sent
        count = state["mention_count"]
        sums = {"read_states": 1, "mentioned": int(count > 0), "mentions": count}
        assert reply.value["totals"] == sums
        assert [int(state["version"])] == [row[8] for row in oracle.shown(user)], sent
    LEFT[user] = oracle.rows(user)


@pytest.mark.parametrize("name", RULES)
def test_rule(wire: Wire, user: int, name: str) -> None:
    run(wire, user, RULES[name], 0)


@pytest.mark.parametrize(
    "name",
    [
        "equal ack takes flags",
        "an ack of a device that has not heard of it does not undo a manual one",
        "manual with the mentions",
        "bulk ack and mentions",
        "the larger edit counts",
        "larger pins win",
        "set",
        "merge keeps what is newer",
        "delete up to a message",
    ],
)
def test_rule_of_another_type(wire: Wire, user: int, name: str) -> None:
    run(wire, user, RULES[name], 255)


def test_types_are_apart(wire: Wire, user: int) -> None:
    one = {"channel_id": CHANNEL}
    for kind in (0, 1, 255):
        where = {**one, "read_state_type": kind}
        wire.produce_update(user, {**mention(kind + 10), **where})
        wire.produce_update(user, {**mention(kind + 11), **where})
        wire.produce_update(user, {**pins(kind + 1), **where})
    wire.produce_update(user, {**retract(12), **one, "read_state_type": 1})
    acks = [{**one, "message_id": at(400)}, {**one, "message_id": at(1), "read_state_type": 255}]
    offset = wire.produce_update(user, {"type": "bulk_ack", "acks": acks})
    reply = wire.get(user, after_offset=offset)
    shown = [
        (s["read_state_type"], int(s["last_message_id"]), s["mention_count"]) for s in reply.states
    ]
    assert shown == [(0, at(400), 0), (1, 0, 1), (255, at(1), 2)]
    assert [s["last_pin_timestamp"] for s in reply.states] == [1, 2, 256]

    offset = wire.produce_update(user, {**DELETE, **one, "read_state_type": 1})
    reply = wire.get(user, after_offset=offset)
    assert [s["read_state_type"] for s in reply.states] == [0, 255]
    wire.rows.wait(user, rows_of(reply))

    offset = wire.produce_update(user, {**DELETE, **one})
    reply = wire.get(user, after_offset=offset)
    assert [s["read_state_type"] for s in reply.states] == [255]
    wire.rows.wait(user, rows_of(reply))


@pytest.mark.parametrize("codec", ["gzip", "lz4", "snappy", "zstd"])
def test_every_compression(wire: Wire, user: int, codec: str) -> None:
    """The producer's choice; with transactions or without is the broker's business too."""
    producer = Producer(
        {
            "bootstrap.servers": wire.bootstrap,
            "partitioner": "murmur2_random",
            "compression.type": codec,
            "linger.ms": 50,
        }
    )
    for channel in range(1, 31):
        event = {"type": "ack", "channel_id": channel, "message_id": 7}
        producer.produce(wire.updates, encode(user, event), str(user))
    assert producer.flush(30) == 0
    until(lambda: len(wire.get(user).states) == 30, f"all of a batch in {codec}")


def test_delete_user_takes_all_from_the_database(wire: Wire, user: int) -> None:
    other = new_user()
    FOLDED.add(other)
    for number in range(10):
        where = {"channel_id": str(CHANNEL + number), "read_state_type": number % 3}
        wire.produce_update(user, {**ack(number + 1), **where})
        offset = wire.produce_update(other, {**ack(number + 1), **where})
    kept = rows_of(wire.get(other, after_offset=offset))
    before = wire.get(user)
    assert len(before.states) == 10
    wire.rows.wait(user, rows_of(before))
    wire.rows.wait(other, kept)

    offset = wire.produce_update(user, DELETE_USER)
    after = wire.get(user, after_offset=offset)
    assert after.states == []
    assert int(after.value["version"]) > int(before.value["version"])
    wire.rows.wait(user, [])
    assert wire.rows.of(other) == kept
    assert rows_of(wire.get(other)) == kept

    offset = wire.produce_update(user, {**ack(1), "channel_id": str(CHANNEL)})
    wire.rows.wait(user, rows_of(wire.get(user, after_offset=offset)))
    assert len(wire.rows.of(user)) == 1


def test_deleted_and_made_again_before_it_is_written(wire: Wire, user: int) -> None:
    where = {"channel_id": str(CHANNEL)}
    wire.produce_update(user, {**ack(9, flags=3), **where})
    wire.produce_update(user, {**ack(9), "channel_id": str(CHANNEL + 1)})
    wire.produce_update(user, DELETE_USER)
    wire.produce_update(user, {**mention(3), **where})
    wire.produce_update(user, {**DELETE, **where})
    offset = wire.produce_update(user, {**pins(77), **where})
    reply = wire.get(user, after_offset=offset)
    (state,) = reply.states
    assert (state["last_message_id"], state["mention_count"], state["flags"]) == ("0", 0, 0)
    assert state["last_pin_timestamp"] == 77
    wire.rows.wait(user, rows_of(reply))


@pytest.mark.parametrize(
    "bad",
    [
        {"channel_id": "5", "message_id": "0"},
        {"channel_id": "5"},
        {"message_id": "5"},
        {"channel_id": "5", "message_id": 1.0},
        {"channel_id": "5", "message_id": "5", "read_state_type": 256},
        "5",
        None,
    ],
)
def test_bulk_all_or_none(wire: Wire, user: int, bad: object) -> None:
    first = wire.produce_update(user, {**ack(1), "channel_id": CHANNEL})
    before = wire.get(user, after_offset=first)
    good = [{"channel_id": CHANNEL + n, "message_id": at(5)} for n in range(3)]
    place = wire.produce(user, {"type": "bulk_ack", "acks": [*good, bad, *good]})
    assert wire.dead_letter(place).reason == "invalid_field"
    assert wire.get(user, after_offset=place.offset).states == before.states
    wire.rows.wait(user, rows_of(before))


def test_bulk_makes_and_moves(wire: Wire, user: int) -> None:
    wire.produce_update(user, {**ack(9), "channel_id": CHANNEL})
    acks = [{"channel_id": str(CHANNEL + n), "message_id": str(at(5))} for n in range(4)]
    offset = wire.produce_update(user, {"type": "bulk_ack", "acks": acks})
    reply = wire.get(user, after_offset=offset)
    assert [int(s["last_message_id"]) for s in reply.states] == [at(9), at(5), at(5), at(5)]
    assert len({s["version"] for s in reply.states[1:]}) == 1
    assert int(reply.states[0]["version"]) < int(reply.states[1]["version"])
    wire.rows.wait(user, rows_of(reply))


def test_the_last_of_a_repeated_key_counts(wire: Wire, user: int) -> None:
    value = (
        f'{{"type":"mention","type":"ack","user_id":"1","user_id":"{user}",'
        f'"channel_id":"7","channel_id":"{CHANNEL}","message_id":"x","message_id":"{at(3)}"}}'
    )
    offset = wire.produce_update(user, value.encode())
    (state,) = wire.get(user, after_offset=offset).states
    assert (state["channel_id"], state["last_message_id"]) == (str(CHANNEL), str(at(3)))


def test_too_many_states(wire: Wire, user: int) -> None:
    def bulk_of(first: int, count: int, number: int) -> Event:
        acks = [{"channel_id": str(c), "message_id": str(at(number))} for c in range(first, count)]
        return {"type": "bulk_ack", "acks": acks}

    offset = wire.produce_update(user, bulk_of(1, USER_STATES_MAX, 1))
    assert len(wire.get(user, after_offset=offset).states) == USER_STATES_MAX - 1

    # one that would make two more: nobody sees half of it
    place = wire.produce(user, bulk_of(USER_STATES_MAX - 1, USER_STATES_MAX + 2, 2))
    assert wire.dead_letter(place).reason == "too_many_states"
    reply = wire.get(user, after_offset=place.offset)
    assert {s["last_message_id"] for s in reply.states} == {str(at(1))}
    assert len(reply.states) == USER_STATES_MAX - 1

    wire.produce_update(user, {**ack(1), "channel_id": USER_STATES_MAX})
    makers = (ack(1), mark(1), mention(1), pins(1), options(flags=1), merge(None, 1))
    for event in (*makers, bulk_of(1, 2, 9)):
        where = {"channel_id": 1_000_000}
        if event["type"] == "bulk_ack":
            event = {"type": "bulk_ack", "acks": [*event["acks"], {**where, "message_id": 4}]}
        place = wire.produce(user, {**event, **where})
        found = wire.dead_letter(place)
        assert found.reason == "too_many_states", event
        assert found.key == str(user).encode()

    # what makes none is not refused, and what is there goes on
    for event in (retract(1), pins(0), options(flags=0), merge(), DELETE, delete(9)):
        place = wire.produce(user, {**event, "channel_id": 1_000_000})
    wire.produce_update(user, {**mention(5), "channel_id": 2})
    offset = wire.produce_update(user, bulk_of(1, 2, 9))
    reply = wire.get(user, after_offset=offset)
    assert len(reply.states) == USER_STATES_MAX
    assert reply.states[0]["last_message_id"] == str(at(9))
    assert reply.states[1]["mention_count"] == 1

    # room again after a delete
    wire.produce_update(user, {**DELETE, "channel_id": 3})
    offset = wire.produce_update(user, {**ack(10), "channel_id": 1_000_000})
    reply = wire.get(user, after_offset=offset)
    assert [int(s["channel_id"]) for s in reply.states][-2:] == [USER_STATES_MAX, 1_000_000]
    assert len(reply.states) == USER_STATES_MAX
    wire.rows.wait(user, rows_of(reply))
    reasons = [d.reason for d in wire.dead_letters() if d.key == str(user).encode()]
    assert reasons == ["too_many_states"] * 8


def test_users_that_do_not_fit_the_table_come_back(service: Service, wire: Wire) -> None:
    """Twice as many read states in one partition as its table holds."""
    count = 2000 // (USER_STATES_MAX - 10)
    users = [new_user(partition=1) for _ in range(count)]
    FOLDED.update(users)
    places = [(channel, kind) for channel in range(1, 21) for kind in (0, 3)]
    for number, user in enumerate(users):
        acks = [
            {"channel_id": channel, "message_id": at(number + channel), "read_state_type": kind}
            for channel, kind in places
        ]
        wire.produce_update(user, {"type": "bulk_ack", "acks": acks})
    first = {u: wire.get(u).states for u in users}
    for number, user in enumerate(users):
        assert len(first[user]) == len(places)
        assert first[user][0]["last_message_id"] == str(at(number + 1))
    for user in users:
        offset = wire.produce_update(user, {**mention(10_000), "channel_id": 5})
    for user in users:
        states = wire.get(user, after_offset=offset).states
        changed = [s for s, old in zip(states, first[user], strict=True) if s != old]
        assert [(s["channel_id"], s["mention_count"]) for s in changed] == [("5", 1)]
    until(lambda: service.metric("read_states_evictions_total"), "evictions")
    assert service.metric("read_states_queries_total{outcome=miss}") > 0


@pytest.fixture
def log(wire: Wire) -> Iterator[Log]:
    made = Log(wire, FOLDED.__contains__)
    yield made
    made.close()


def test_cassandra_has_what_each_rule_left(service: Service, wire: Wire) -> None:
    """All at once: each for itself would wait for its own write."""
    assert len(LEFT) >= len(RULES), "this test needs those before it"
    service.wait_durable(wire.ends(wire.updates))
    for user, rows in LEFT.items():
        assert wire.rows.with_marks(user) == rows


def test_cassandra_equals_a_fold_of_the_log(service: Service, wire: Wire, log: Log) -> None:
    service.wait_durable(log.read())
    expected = log.rows()
    found = {place: row for place, row in wire.rows.all().items() if place[0] in FOLDED}
    assert found == expected
