"""More partitions, and another topic: refused, until nothing can be lost by it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from readstates.ops.local.stack import Stack
from tests.support.service import Service
from tests.support.waiting import WAIT_S, until
from tests.support.wire import PARTITIONS, Reply, Wire, new_user, partition_of

MORE = 6
EPOCH_BITS = 48


@pytest.fixture
def service(stack: Stack, folder: Path, request: pytest.FixtureRequest) -> Iterator[Service]:
    made = Service(stack.env(), folder, request.node.name)
    yield made
    made.close()


def mentions(reply: Reply) -> list[int]:
    return [state["mention_count"] for state in reply.states]


def test_more_partitions(service: Service) -> None:
    wire, users = service.wire, [new_user() for _ in range(60)]
    assert any(partition_of(u) != partition_of(u, MORE) for u in users)
    grow = ("init", "--partitions", str(MORE))
    worker = service.start()
    worker.wait_ready()
    for message in (1, 2):
        wire.mention_all(users, message)
    wire.get(users[0])

    refused = service.cli(*grow)
    assert refused.returncode == 1
    assert f"has {PARTITIONS} partitions, not {MORE}" in refused.stderr
    refused = service.cli(*grow, "--new-epoch")
    assert refused.returncode == 1
    assert "stop all workers first" in refused.stderr

    service.wait_durable(wire.ends(wire.updates))
    assert worker.stop() == 0
    wire.mention_all(users, 3)
    refused = service.cli(*grow, "--new-epoch")
    assert refused.returncode == 1
    assert f"{len(users)} records of {wire.updates} are not yet in Cassandra" in refused.stderr

    worker = service.start()
    service.wait_durable(wire.ends(wire.updates))
    assert worker.stop() == 0
    before = wire.rows.all()
    assert len(before) == len(users)
    done = service.cli(*grow, "--new-epoch")
    assert done.returncode == 0, done.stderr
    assert f"{MORE} partitions" in done.stdout
    assert f"added partitions: there were {PARTITIONS}; {MORE} partitions" in done.stdout
    assert "epoch 9, which begins now" in done.stdout
    again = service.cli(*grow)
    assert again.returncode == 0, "safe to repeat"
    assert f"topics: all there, nothing to create; {MORE} partitions" in again.stdout
    assert "epoch 9, as before" in again.stdout
    unchanged = service.cli(*grow, "--new-epoch")
    assert unchanged.returncode == 0
    assert "so no new epoch was needed" in unchanged.stdout

    wire._producer.list_topics(wire.queries)  # or it would not know of the new partitions
    service.start().wait_ready()
    assert wire.rows.all() == before
    wire.mention_all(users, 4)
    for user in users:

        def has_four(user: int = user) -> bool:
            return wire_get(wire, user) == [4]

        until(has_four, "the fourth mention on top of the three")
    until(lambda: all(row[4] == 4 for row in wire.rows.all().values()), "all in Cassandra")
    after = wire.rows.all()
    assert after.keys() == before.keys()
    assert {row[8] >> EPOCH_BITS for row in before.values()} == {8}
    assert {row[8] >> EPOCH_BITS for row in after.values()} == {9}
    assert wire.dead_letters() == []


def wire_get(wire: Wire, user: int) -> list[int]:
    """Mention counts of a user; the query goes where its partition is now."""
    reply = wire.query(user, {}, partition=partition_of(user, MORE), deadline_s=20)
    assert reply is not None
    assert reply.error is None, reply.value
    return mentions(reply)


def test_another_topic(service: Service) -> None:
    """A new prefix on the same keyspace: its offsets would be below what was written."""
    wire, user = service.wire, new_user()
    worker = service.start()
    worker.wait_ready()
    wire.mention_all([user], 1)
    service.wait_durable(wire.ends(wire.updates))
    assert worker.stop() == 0
    other = Service(
        service.env,
        service.folder,
        "moved",
        init=False,
        cassandra_keyspace=service.env["READ_STATES_CASSANDRA_KEYSPACE"],
    )
    try:
        refused = other.cli("init", "--partitions", str(PARTITIONS))
        assert refused.returncode == 1
        assert f"was last written from {wire.updates}" in refused.stderr
        assert "readstates init --new-epoch" in refused.stderr
        done = other.cli("init", "--partitions", str(PARTITIONS), "--new-epoch")
        assert done.returncode == 0, done.stderr
        other.start().wait_ready()
        other.wire.mention_all([user], 2)
        until(lambda: mentions(other.wire.get(user)) == [2], "both mentions")
        assert other.first_offsets() == [0] * PARTITIONS
        back = service.cli("init")
        assert back.returncode == 1, "the old topic is below the new one now"
        back = service.cli("init", "--new-epoch")
        assert back.returncode == 0, back.stderr
        assert service.first_offsets() == wire.ends(wire.updates), "and begins where it ended"
    finally:
        other.close()


def test_a_wrong_number_of_partitions(service: Service) -> None:
    """The arguments of an init Job may be older than the last change of partitions."""
    wire, queries = service.wire, service.wire.queries
    assert service.cli("init", "--partitions", str(MORE), "--new-epoch").returncode == 0
    wire.admin.delete_topics([queries])[queries].result(WAIT_S)
    until(lambda: queries not in wire.topics(), "the topic is gone")
    for more in ((), ("--new-epoch",)):
        refused = service.cli("init", "--partitions", str(PARTITIONS), *more)
        assert refused.returncode == 1
        assert f"has {MORE} partitions, not {PARTITIONS}" in refused.stderr
        assert f"run: readstates init --partitions {MORE}. " in refused.stderr
        assert queries not in wire.topics()
    refused = service.cli("init", "--partitions", str(MORE + 1))
    assert f"stopped: readstates init --partitions {MORE + 1} --new-epoch" in refused.stderr
    assert queries not in wire.topics()
    made = service.cli("init", "--partitions", str(MORE))
    assert made.returncode == 0, made.stderr
    assert len(wire.admin.list_topics(queries).topics[queries].partitions) == MORE
