"""What the fault campaign reads for its proof, from logs in which transactions have ended."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer

from readstates.ops.chaos import kafka
from readstates.ops.local.stack import Stack
from readstates.streams.config import Settings
from tests.support.service import Service
from tests.support.waiting import WAIT_S
from tests.support.wire import PARTITIONS, new_user


@pytest.fixture
def log(stack: Stack, folder: Path) -> Iterator[Service]:
    made = Service(stack.env(), folder, "proof_reads")
    yield made
    made.close()


def test_all_records_but_those_of_aborted_transactions(log: Service) -> None:
    """The end of a transaction is the last entry of each log: no record has its offset."""
    wire = log.wire
    wire.produce(new_user(0), b"plain")
    producer = Producer({"bootstrap.servers": wire.bootstrap, "transactional.id": log.name})
    producer.init_transactions(WAIT_S)
    for value, end in (
        (b"committed", producer.commit_transaction),
        (b"aborted", producer.abort_transaction),
    ):
        producer.begin_transaction()
        for number in range(PARTITIONS):
            producer.produce(wire.updates, value, b"key", partition=number)
        assert producer.flush(WAIT_S) == 0
        end(WAIT_S)
    found = sorted(
        (record.partition, record.value or b"")
        for record in kafka.log_records(Settings.load(log.env), PARTITIONS)
    )
    committed = [(number, b"committed") for number in range(PARTITIONS)]
    assert found == sorted([(0, b"plain"), *committed])
