"""The database's ID in a real Cassandra: all who claim at once read one, also after an upgrade."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition

from readstates.ops.local.stack import Stack
from readstates.ops.local.worker import WorkerProcess
from readstates.streams.cassandra.epochs import Log
from readstates.streams.cassandra.store import Store
from readstates.streams.config import Settings
from tests.support.service import Service
from tests.support.waiting import WAIT_S, until
from tests.support.wire import PARTITIONS, new_user

ACK = {"type": "ack", "channel_id": "1", "message_id": "5"}
WORKERS, ROUNDS = 3, 20
KEYSPACE = "it_database_id"
WITHOUT_ID = (
    f"INSERT INTO {KEYSPACE}.log (topic, epoch, topic_id, partitions, first_offsets) "
    "VALUES (%s, 8, %s, 2, [0, 0]) IF NOT EXISTS"
)
EARLIER_EPOCH = (
    f"UPDATE {KEYSPACE}.log SET epoch = %s, topic_id = %s, partitions = 2, first_offsets = [0, 0] "
    "WHERE topic = %s IF epoch = %s"
)


@pytest.fixture(scope="module")
def stores(stack: Stack) -> Iterator[list[Store]]:
    """The stores of some workers, at the same keyspace."""
    env = {**stack.env(), "READ_STATES_CASSANDRA_KEYSPACE": KEYSPACE}
    made = [Store(Settings.load(env)) for _ in range(WORKERS)]
    made[0].create_schema()
    yield made
    for store in made:
        store.close()


def claimed_at_once(stores: list[Store], topic_id: uuid.UUID) -> list[Log]:
    """The epoch that each of them gets if all claim it at the same time."""
    logs: list[Log] = []
    start = threading.Barrier(len(stores))

    def run(store: Store) -> None:
        start.wait()
        logs.append(store.claim_epoch("t", topic_id, 2))

    threads = [threading.Thread(target=run, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(logs) == len(stores)
    return logs


def test_all_who_are_the_first_at_once_read_the_same(stores: list[Store]) -> None:
    first, ids = stores[0], set[uuid.UUID | None]()
    for _ in range(ROUNDS):
        first.execute(f"TRUNCATE {KEYSPACE}.log", (), WAIT_S)
        logs = claimed_at_once(stores, uuid.uuid4())
        logs.append(first.logs()["t"])
        (name,) = {log.database.name for log in logs}
        assert name == f"8@{logs[0].database_id}"
        ids.add(logs[0].database_id)
    assert len(ids - {None}) == ROUNDS, "each time, it was another database"


def test_an_epoch_of_an_earlier_version_gets_one_id(stores: list[Store]) -> None:
    first = stores[0]
    for _ in range(ROUNDS):
        first.execute(f"TRUNCATE {KEYSPACE}.log", (), WAIT_S)
        topic_id = uuid.uuid4()
        first.execute(WITHOUT_ID, ("t", topic_id), WAIT_S)
        before = first.logs()["t"]
        assert before.database_id is None
        logs = claimed_at_once(stores, topic_id)
        (database_id,) = {log.database_id for log in [*logs, first.logs()["t"]]}
        # a worker of the earlier version goes by the write time, and may run beside these
        assert first.logs()["t"] == before._replace(database_id=database_id)


def test_epochs_and_topics_share_it(stores: list[Store]) -> None:
    store, (one, two, three, four) = stores[0], (uuid.uuid4() for _ in range(4))
    store.execute(f"TRUNCATE {KEYSPACE}.log", (), WAIT_S)
    database_id = store.claim_epoch("t", one, 2).database_id
    assert database_id is not None
    again = store.claim_epoch("t", two, 2, new_epoch_from=[0, 0])
    assert (again.epoch, again.database_id) == (9, database_id)
    other = store.claim_epoch("other", three, 2, new_epoch_from=[0, 0])
    assert (other.epoch, other.database_id) == (10, database_id)
    # an earlier version begins an epoch in a topic of its own, and in one that has an ID
    store.execute(EARLIER_EPOCH, (11, four, "third", None), WAIT_S)
    assert store.logs()["third"].database_id is None
    assert store.claim_epoch("third", four, 2).database_id == database_id
    store.execute(EARLIER_EPOCH, (12, one, "t", 9), WAIT_S)
    claimed = store.claim_epoch("t", one, 2)
    assert (claimed.epoch, claimed.database_id) == (12, database_id)


# -- an upgrade ---------------------------------------------------------------------------------


@pytest.fixture
def service(stack: Stack, folder: Path) -> Iterator[Service]:
    made = Service(stack.env(), folder, "id_upgrade")
    yield made
    made.close()


def commit(service: Service, database: str) -> None:
    """Commit what is committed again, with metadata that names this database."""
    consumer = Consumer({"bootstrap.servers": service.wire.bootstrap, "group.id": service.group})
    places = [
        TopicPartition(service.wire.updates, number, offset, f"clean:{offset};{database};")
        for number, offset in enumerate(service.committed())
    ]
    try:
        consumer.commit(offsets=places, asynchronous=False)
    finally:
        consumer.close()


def named(service: Service) -> set[str]:
    """The databases that the commits name."""
    partitions = json.loads(service.cli("status", "--json").stdout)["kafka"]["partitions"]
    return {one["written_to"].partition(";")[2].strip(";") for one in partitions}


def refusal(worker: WorkerProcess) -> str:
    until(lambda: worker.returncode is not None, "the worker ends", 2 * WAIT_S)
    assert worker.returncode == 1
    return worker.output()


def written_us(service: Service) -> int:
    """When the epoch's row was written."""
    ((at,),) = service.cql("SELECT WRITETIME(epoch) FROM {keyspace}.log")
    assert at is not None
    return int.from_bytes(at, "big")


def test_an_upgrade(service: Service) -> None:
    """Commits of an earlier version do not stop a worker, unless they are of another database."""
    wire, user = service.wire, new_user()
    worker = service.start()
    worker.wait_ready()
    wire.produce_update(user, ACK)
    service.wait_durable(wire.ends(wire.updates))
    assert worker.stop() == 0
    at_us = written_us(service)

    # the schema of an earlier version: a worker says who upgrades it
    service.cql("ALTER TABLE {keyspace}.log DROP database_id")
    said = refusal(service.start())
    assert "database_id" in said
    assert "from an earlier version. Run: readstates init" in said
    for _ in range(2):
        done = service.cli("init", "--partitions", str(PARTITIONS))
        assert done.returncode == 0, done.stderr
    database_id = json.loads(service.cli("status", "--json").stdout)["cassandra"]["database_id"]
    assert uuid.UUID(database_id).version == 4

    # commits of an earlier version, which saw another write time of the same row
    commit(service, f"8@{at_us - 2_000_000}")
    assert "database_replaced" not in service.cli("status").stdout
    worker = service.start()
    worker.wait_ready()
    assert wire.get(user).states
    until(lambda: named(service) == {f"8@{database_id}"}, "the commits name the ID", 2 * WAIT_S)
    assert worker.stop() == 0

    # commits of an earlier version over another database
    commit(service, f"8@{at_us - 3_600_000_000}")
    assert "PROBLEM deviation database_replaced: " in service.cli("status").stdout
    said = refusal(service.start())
    assert f"it has ID {database_id} and epoch 8, and that one had a write time of" in said
