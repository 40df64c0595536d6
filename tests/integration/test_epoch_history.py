"""The history of epochs is in Cassandra and in Kafka, so that either can be lost."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from readstates.ops.local.stack import Stack
from readstates.ops.local.worker import WorkerProcess
from readstates.schemas.epoch_history import History
from readstates.streams.cassandra.epoch_table import read_table
from readstates.streams.cassandra.store import Store
from readstates.streams.config import Settings
from readstates.streams.kafka.epochs_topic import read_epochs
from tests.support.service import LOOKING_OFTEN, Service
from tests.support.waiting import WAIT_S, until
from tests.support.wire import PARTITIONS, new_user

MORE, MOST = 6, 7


@pytest.fixture
def service(stack: Stack, folder: Path, request: pytest.FixtureRequest) -> Iterator[Service]:
    name = request.node.name.removeprefix("test_")[:24]
    made = Service(stack.env(), folder, name, module=LOOKING_OFTEN)
    yield made
    made.close()


def in_kafka(service: Service) -> History:
    return read_epochs(Settings.load(service.env))


def in_cassandra(service: Service) -> History:
    store = Store(Settings.load(service.env))
    try:
        return read_table(store)
    finally:
        store.close()


def grow(service: Service, partitions: int) -> None:
    """A change of partitions by the book."""
    worker = service.start()
    worker.wait_ready()
    had = len(
        service.wire.admin.list_topics(service.wire.updates).topics[service.wire.updates].partitions
    )
    service.wait_durable(service.wire.ends(service.wire.updates, had))
    assert worker.stop() == 0
    shutil.rmtree(service.env["READ_STATES_CACHE_DIR"])
    done = service.cli("init", "--partitions", str(partitions), "--new-epoch")
    assert done.returncode == 0, done.stderr


def refusal(worker: WorkerProcess) -> str:
    until(lambda: worker.returncode is not None, "the worker ends", 2 * WAIT_S)
    assert worker.returncode == 1
    return worker.output()


def test_either_copy_may_be_lost(service: Service) -> None:
    wire = service.wire
    wire.mention_all([new_user() for _ in range(20)], 1)
    firsts = [(0,) * PARTITIONS]
    for partitions in (MORE, MOST):
        ends = wire.ends(wire.updates, len(firsts[-1]))
        grow(service, partitions)
        firsts.append((*ends, *[0] * (partitions - len(ends))))
        wire.mention_all([new_user() for _ in range(20)], 1)
    history = in_kafka(service)
    assert [(e.epoch, e.partitions, e.first_offsets) for e in history.values()] == [
        (8 + number, len(first), first) for number, first in enumerate(firsts)
    ]
    assert {e.topic for e in history.values()} == {wire.updates}
    assert in_cassandra(service) == history

    # Kafka's copy is lost: `init` writes it again, and in between workers serve, and say so.
    service.lose_epochs_topic()
    worker = service.start()
    worker.wait_ready()
    missing = "read_states_deviation{name=epochs_missing}"
    until(lambda: service.metric(missing) == 1, "the deviation is shown", 2 * WAIT_S)
    assert "deviation epochs_missing" in service.cli("status").stdout
    done = service.cli("init")
    assert done.returncode == 0, done.stderr
    assert in_kafka(service) == history
    until(lambda: service.metric(missing) == 0, "the deviation is over", 2 * WAIT_S)
    assert worker.stop() == 0

    # Cassandra's copy is lost, but not the epoch: a worker writes it again.
    service.cql("TRUNCATE {keyspace}.epochs")
    worker = service.start()
    worker.wait_ready()
    assert in_cassandra(service) == history
    assert worker.stop() == 0

    # Another keyspace of the same topics has a history of its own.
    done = service.cli(
        "init", "--cassandra-keyspace", f"{service.env['READ_STATES_CASSANDRA_KEYSPACE']}_2"
    )
    assert done.returncode == 0, done.stderr
    assert "epoch 8" in done.stdout
    assert in_kafka(service) == history


def test_an_empty_keyspace_takes_no_epoch_that_was_used(service: Service) -> None:
    """Row 21: Cassandra is lost altogether, after a change of partitions."""
    wire = service.wire
    wire.mention_all([new_user() for _ in range(20)], 1)
    grow(service, MORE)
    history = in_kafka(service)
    service.cql("DROP KEYSPACE {keyspace}")
    for arguments in ((), ("--new-epoch",), ("--partitions", str(MORE))):
        done = service.cli("init", *arguments)
        assert done.returncode == 1, done.stdout
        assert f"it has no epoch, but epoch 9 of {wire.updates}" in done.stderr
        assert "readstates restore" in done.stderr
    said = refusal(service.start())
    assert "readstates restore" in said
    assert in_kafka(service) == history
    service.lose_epochs_topic()
    said = refusal(service.start())
    assert "which keeps the history of epochs, cannot be read" in said
    assert service.cql("SELECT epoch FROM {keyspace}.log") == []
