"""The change feed on real servers: F1 and F2, held against the log by a mirror."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from readstates.ops.local.stack import Stack
from readstates.ops.proof.oracle import EPOCH
from tests.integration.test_workers import OPENED, traffic
from tests.support.feed_reading import FeedReader
from tests.support.load import Load, together
from tests.support.service import USER_STATES_MAX, Service
from tests.support.topic_settings import set_topic
from tests.support.waiting import until
from tests.support.wire import PARTITIONS, new_user, partition_of

FAILURES = "read_states_changes_failures_total"
LAG = "read_states_changes_lag_records{partition=%d}"
LOADED = "read_states_cassandra_loads_total{outcome=loaded}"
EVICTED = "read_states_evictions_total"
Make = Callable[..., tuple[Service, FeedReader]]


def version(offset: int) -> int:
    return EPOCH << 48 | offset + 1


@pytest.fixture
def feeds(stack: Stack, folder: Path) -> Iterator[Make]:
    """Services with a change feed, and a reader of each."""
    made: list[tuple[Service, FeedReader]] = []

    def make(name: str, **settings: Any) -> tuple[Service, FeedReader]:
        service = Service(stack.env(), folder, name, changes="on", **settings)
        states = int(settings.get("user_states_max", USER_STATES_MAX))
        made.append((service, FeedReader(service, states)))
        return made[-1]

    yield make
    for service, reader in made:
        reader.close()
        service.close()


def ack(channel: int, message: int) -> dict[str, Any]:
    return {"type": "ack", "channel_id": str(channel), "message_id": str(message)}


HERE = {"channel_id": "7"}
EVENTS: list[dict[str, Any]] = [
    {"type": "mention", **HERE, "message_id": "10"},
    {"type": "mention", **HERE, "message_id": "11", "edit": 2},
    {"type": "retract_mention", **HERE, "message_id": "10"},
    {"type": "ack", **HERE, "message_id": "11"},
    {"type": "ack", **HERE, "message_id": "9", "manual": True, "mention_ids": ["10"]},
    {
        "type": "bulk_ack",
        "acks": [{**HERE, "message_id": "12"}, {"channel_id": 8, "message_id": 5}],
    },
    {"type": "pins_ack", **HERE, "timestamp": 1_700_000_000_000},
    {"type": "set", "channel_id": "9", "flags": 3},
    {"type": "set", "channel_id": "9", "flags": 0},  # it is gone from replies
    {"type": "merge", "channel_id": "10", "last_message_id": "20", "mention_ids": ["21"]},
    {"type": "delete", "channel_id": "8"},
    {"type": "delete", "channel_id": "10", "up_to": "30"},
    {"type": "delete_user"},
    {"type": "ack", **HERE, "message_id": "40"},
    {"type": "delete_user", "final": True},
    {"type": "restore_user"},
    {"type": "mention", **HERE, "message_id": "50"},
]


def test_every_type_of_event_is_told(service: Service) -> None:
    """One by one: the record names what the event changed, and nothing else."""
    reader, user = FeedReader(service), new_user()
    try:
        for event in EVENTS:
            offset = service.wire.produce_update(user, event)
            told = reader.wait_for(user, version(offset))
            assert told.causes == [event["type"]]
            assert told.version == version(offset)
            assert told.all_deleted == (event["type"] == "delete_user")
            named = told.states.keys() | told.deleted
            channels = [event["channel_id"]] if "channel_id" in event else []
            channels += [one["channel_id"] for one in event.get("acks", [])]
            assert named == {(0, int(channel)) for channel in channels}
            held = reader.mirror.held[user]
            reply = service.wire.get(user, after_offset=offset, mentions=True)
            assert [int(one["channel_id"]) for one in reply.states] == [
                channel for _, channel in sorted(held.states)
            ]
        assert not any(told.user_id == user for told in reader.read())
        # What changes nothing is not told.
        service.wire.produce_update(user, {"type": "pins_ack", **HERE, "timestamp": 0})
        last = service.wire.produce_update(user, ack(70, 1))
        assert reader.wait_for(user, version(last)).states.keys() == {(0, 70)}
    finally:
        reader.close()


def test_a_bulk_ack_of_a_thousand_channels(feeds: Make) -> None:
    """More read states than fit into one record: several, which say so."""
    service, reader = feeds("feedbulk", cache_states=10_000, user_states_max=2000)
    service.start().wait_ready()
    user = new_user()
    acks = [{"channel_id": n, "message_id": n} for n in range(1, 1001)]
    offset = service.wire.produce_update(user, {"type": "bulk_ack", "acks": acks})
    reader.wait_for(user, version(offset))
    reader.wait_complete()
    of_user = [told for told in reader.told if told.user_id == user]
    assert [told.part for told in of_user] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert {told.totals for told in of_user} == {(1000, 0, 0)}


def test_a_worker_dies_after_a_change_is_in_its_table_and_before_the_feed_has_it(
    feeds: Make,
) -> None:
    """The crux: the replay skips the updates as applied already, and their changes must come."""
    service, reader = feeds("feedkill", flush_delay_s=0.1)
    worker = service.start()
    worker.wait_ready()
    changes = f"{service.wire.prefix}.changes"
    users = [new_user(partition=1) for _ in range(20)]
    for user in users:
        last = service.wire.produce_update(user, ack(1, 5))
    service.wire.produce_update(users[0], ack(2, 5))
    last = service.wire.produce_update(users[1], ack(2, 5))
    reader.wait_for(users[1], version(last))
    reader.wait_complete()
    until(lambda: service.committed()[1] == last + 1, "what is told is committed")

    set_topic(service.wire, changes, max_message_bytes="100")  # it takes no record
    for user in users:
        service.wire.produce_update(user, {"type": "mention", "channel_id": "1", "message_id": "9"})
    service.wire.produce_update(users[0], {"type": "delete", "channel_id": "2"})
    untold = service.wire.produce_update(users[1], {"type": "delete_user"})
    for user in users:  # all is applied, and shown
        assert service.wire.get(user, after_offset=untold).states or user == users[1]
    until(lambda: service.metric(FAILURES) > 0, "the broker refuses records")
    until(
        lambda: not service.metric("read_states_dirty_states{partition=1}"),
        "all is in Cassandra as well",
    )
    assert service.committed()[1] == last + 1, "F2: committed, and not told"
    worker.kill()
    assert len(reader.missing()) == len(users)

    set_topic(service.wire, changes, max_message_bytes=None)
    again = service.start()
    again.wait_ready()
    reader.wait_complete()
    assert OPENED.findall(again.output()).count("True") == PARTITIONS
    until(lambda: service.committed()[1] == untold + 1, "now it is told and committed")


@pytest.mark.parametrize("table", ["kept", pytest.param("lost", marks=pytest.mark.long)])
def test_workers_die_under_load(feeds: Make, tmp_path: Path, table: str) -> None:
    """Two workers, one killed again and again; with its table, or without it."""
    service, reader = feeds(f"feeddeaths{table}", session_timeout_s=6, flush_delay_s=1)
    service.start(cache_dir=tmp_path / "other", http_port=0).wait_ready()
    load = Load(service.wire, traffic(71, users=60), 400)
    try:
        load.go()
        for number in range(3):
            folder = tmp_path / ("kept" if table == "kept" else f"lost{number}")
            worker = service.start(cache_dir=folder, http_port=0)
            worker.wait_ready()
            until(lambda: bool(reader.read()), "changes are told")
            worker.kill()
        service.start(cache_dir=tmp_path / "last", http_port=0).wait_ready()
        load.pause()
        reader.wait_complete(90)
        assert len(reader.told) > 1000
    finally:
        load.close()


def test_partitions_move_between_workers(feeds: Make, tmp_path: Path) -> None:
    """Workers join and leave in order: nothing is told twice that need not be."""
    service, reader = feeds("feedmoves")
    service.start(cache_dir=tmp_path / "a").wait_ready()
    load = Load(service.wire, traffic(72, users=60), 300)
    try:
        load.go()
        for name in ("b", "c"):
            other = service.start(cache_dir=tmp_path / name, http_port=0)
            other.wait_ready()
            until(lambda: bool(reader.read()), "changes are told")
            assert other.stop() == 0
        load.pause()
        reader.wait_complete(60)
    finally:
        load.close()


def test_users_who_are_evicted_before_they_are_told_of(feeds: Make) -> None:
    """A table of a few users, and a feed that waits for longer than they stay."""
    service, reader = feeds(
        "feedevict",
        cache_states=40,
        user_states_max=10,
        flush_delay_s=0,
        changes_delay_ms=2000,
    )
    service.start().wait_ready()
    users = [new_user() for _ in range(400)]
    for channel in (1, 2):
        together(service.wire, [(user, ack(channel, 5)) for user in users])
    together(service.wire, [(user, {"type": "delete", "channel_id": "2"}) for user in users])
    reader.wait_complete()
    assert service.metric(EVICTED) > 0
    assert all(held.states.keys() == {(0, 1)} for held in reader.mirror.held.values())


def test_a_broker_that_refuses_the_feed_holds_commits_and_not_queries(feeds: Make) -> None:
    service, reader = feeds("feedrefused", changes_waiting_max=1000)
    service.start().wait_ready()
    user = new_user()
    number, changes = partition_of(user), f"{service.wire.prefix}.changes"
    set_topic(service.wire, changes, max_message_bytes="100")
    first = service.wire.produce_update(user, ack(1, 1))
    until(lambda: service.metric(FAILURES) > 1, "it is refused, and tried again")
    for message in range(2, 30):
        offset = service.wire.produce_update(user, ack(1, message))
        states = service.wire.get(user, after_offset=offset).states
        assert [one["last_message_id"] for one in states] == [str(message)]
    until(lambda: service.metric(LAG % number) >= 29, "the metric shows what is not told")
    assert service.committed()[number] <= first
    said = service.cli("status")
    assert said.returncode == 1
    assert "record_size" in said.stdout or "max.message.bytes" in said.stdout, said.stdout
    mended = service.cli("init", "--partitions", str(PARTITIONS))
    assert f"{changes}: max.message.bytes" in mended.stdout, mended.stdout
    reader.wait_complete()
    until(lambda: service.committed()[number] == offset + 1, "what is told is committed")
    until(lambda: service.metric(LAG % number) == 0, "nothing is left")


def test_so_many_users_wait_that_the_partition_takes_no_more(feeds: Make) -> None:
    service, reader = feeds("feedfull", changes_waiting_max=5)
    service.start().wait_ready()
    changes = f"{service.wire.prefix}.changes"
    set_topic(service.wire, changes, max_message_bytes="100")
    users = [new_user(partition=2) for _ in range(30)]
    together(service.wire, [(user, ack(1, 1)) for user in users])
    waiting = "read_states_changes_waiting_users{partition=2}"
    until(lambda: service.metric(waiting) >= 5, "the line is full")
    assert service.wire.get(users[0]).states  # queries are answered all the same
    late = service.wire.produce_update(users[0], ack(2, 1))
    reply = service.wire.query(users[0], {"after_offset": late}, deadline_s=2)
    assert reply is not None
    assert reply.error == "not_caught_up"
    set_topic(service.wire, changes, max_message_bytes=None)
    reader.wait_complete()
    assert len(reader.mirror.held) == 30
    assert reader.mirror.held[users[0]].states.keys() == {(0, 1), (0, 2)}


def test_init_makes_the_topic_and_a_start_asks_for_it(stack: Stack, folder: Path) -> None:
    service = Service(stack.env(), folder, "feedinit")  # without a feed
    try:
        changes = f"{service.wire.prefix}.changes"
        assert changes not in service.wire.topics()
        refused = service.start(changes="on")
        until(lambda: refused.returncode is not None, "it refuses to start")
        assert f"topic {changes} does not exist" in refused.output()
        assert "readstates init --changes on" in refused.output()
        made = service.cli("init", "--changes", "on")  # without a number of partitions
        assert made.returncode == 0, made.stderr
        assert service.wire.ends(changes) == [0] * PARTITIONS
        assert "does not exist" not in service.cli("status", "--changes", "on").stdout
        service.start(changes="on").wait_ready()
    finally:
        service.close()


@pytest.mark.long
def test_the_feed_follows_into_a_new_epoch(feeds: Make) -> None:
    """More partitions: the topic gets as many, and versions grow."""
    service, reader = feeds("feedepoch")
    worker = service.start()
    worker.wait_ready()
    user = new_user()
    offset = service.wire.produce_update(user, ack(1, 1))
    before = reader.wait_for(user, version(offset))
    service.wait_durable(service.wire.ends(service.wire.updates))
    assert worker.stop() == 0
    more = str(PARTITIONS + 2)
    grown = service.cli("init", "--partitions", more, "--new-epoch")
    assert grown.returncode == 0, grown.stderr
    changes = f"{service.wire.prefix}.changes"
    assert len(service.wire.ends(changes, PARTITIONS + 2)) == PARTITIONS + 2
    service.start().wait_ready()
    service.wire.mention_all([user], 5)
    ends = until(
        lambda: sum(service.wire.ends(changes, PARTITIONS + 2)) > 1 and before, "it is told"
    )
    assert ends
