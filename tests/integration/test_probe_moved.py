"""The probe finds what has moved: a topic that was made anew, and the only node of Cassandra.

In the workers here, every other check is switched off (`tests/support/only_probe.py`), and so is
what else mends these faults. The tests share a stack, which they harm.
"""

from __future__ import annotations

import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import NewTopic

from readstates.ops.local import process, state
from readstates.ops.local.owner import Owner
from readstates.ops.local.stack import Stack
from tests.support.moved_node import move
from tests.support.probed import FAILURES, by_partition, found, start, wait_answered
from tests.support.service import Service
from tests.support.waiting import WAIT_S, until
from tests.support.wire import PARTITIONS, new_user

pytestmark = pytest.mark.long

BROKERS = 3
NAME = "cassandra.test"
NEW_ADDRESS = "127.0.0.78"
PARTITION = 0  # of queries: the one whose leader epoch was raised


@pytest.fixture(scope="module")
def stack(owner: Owner) -> Iterator[Stack]:
    made = owner.stack(f"probed-{uuid.uuid4().hex[:8]}", BROKERS, brief=True)
    yield made
    made.down(remove=True)


def leaders(service: Service) -> list[int]:
    """The broker that leads each partition of queries; below 0: none."""
    queries = service.wire.queries
    known = service.wire.admin.list_topics(queries, timeout=WAIT_S).topics[queries].partitions
    return [known[number].leader for number in range(PARTITIONS)]


def restart_broker(stack: Stack, number: int) -> None:
    """Kill a broker, and start it again: the partitions that it leads get a higher leader epoch."""
    current = state.load(stack.data_dir)
    assert current is not None
    broker = current.processes[f"kafka-{number}"]
    process.send(broker, signal.SIGKILL)
    until(lambda: not process.is_alive(broker), "the broker's end")
    stack.up(BROKERS, brief=True)


def make_anew(service: Service, brokers: list[int]) -> None:
    """Delete the queries topic, and create it with these leaders."""
    admin, queries = service.wire.admin, service.wire.queries
    admin.delete_topics([queries])[queries].result(WAIT_S)
    until(lambda: queries not in service.wire.topics(), "the topic is gone")
    topic = NewTopic(queries, PARTITIONS, replica_assignment=[[number] for number in brokers])
    admin.create_topics([topic])[queries].result(WAIT_S)


def test_it_finds_a_topic_made_anew(stack: Stack, tmp_path: Path) -> None:
    """Made anew on other brokers, under a reader that takes what it hears for older news."""
    service = start(stack, tmp_path, KEEPS_LEADERS=1)
    (worker,) = service.workers
    try:
        worker.wait_ready()
        wait_answered(worker)
        before = leaders(service)
        restart_broker(stack, before[PARTITION])
        until(lambda: min(leaders(service)) >= 0, "all partitions have leaders")
        until(lambda: worker.get("/readyz")[0] == 200, "the worker is ready", 2 * WAIT_S)
        wait_answered(worker)
        make_anew(service, [1 + number % BROKERS for number in before])
        text = found(worker)
        assert f"partitions {PARTITION}; {PARTITION}: " in text
        asked = service.cli("get", str(new_user(PARTITION)))
        assert asked.returncode == 1, "no client is answered there"
        assert service.cli("get", str(new_user(PARTITION + 1))).returncode == 0, "others are"
    finally:
        service.close()


def test_it_finds_that_cassandra_has_moved(stack: Stack, tmp_path: Path) -> None:
    names = tmp_path / "names"
    names.write_text(f"{NAME} 127.0.0.1\n", "utf-8")
    hosts = {"READ_STATES_CASSANDRA_HOSTS": NAME, "NAMES_FILE": names}
    service = start(stack, tmp_path, **hosts)
    (worker,) = service.workers
    try:
        worker.wait_ready()
        wait_answered(worker)
        move(stack, NEW_ADDRESS, BROKERS)
        names.write_text(f"{NAME} {NEW_ADDRESS}\n", "utf-8")
        assert "store_unavailable" in found(worker)
        failed = by_partition(worker, FAILURES)

        def all_fail_on() -> bool:
            now = by_partition(worker, FAILURES)
            return all(count >= then + 3 for count, then in zip(now, failed, strict=True))

        until(all_fail_on, "it finds that for as long as it lasts", 2 * WAIT_S)
        refused = service.wire.query(new_user())
        assert refused is not None
        assert refused.error == "store_unavailable", "so is it with clients"
    finally:
        service.close()
