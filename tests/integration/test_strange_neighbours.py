"""What others do to the group, the table and the keyspace while workers run."""

from __future__ import annotations

import re
import shutil
from functools import partial
from typing import Any

import pytest
from confluent_kafka import Consumer

from readstates.ops.local.worker import WorkerProcess
from readstates.streams.commands.status_printing import NOTHING_WRONG
from tests.support.load import Log
from tests.support.service import LOOKING_OFTEN, Make, Service
from tests.support.waiting import until
from tests.support.wire import PARTITIONS, new_user, partition_of

LONG_S = 90.0  # the watch, and a worker's end after it
DEVIATION = "read_states_deviation{name=%s}"


def ack(service: Service, user: int, message: int) -> int:
    event = {"type": "ack", "channel_id": "1", "message_id": str(message)}
    return service.wire.produce_update(user, event)


def last_message(service: Service, user: int, after_offset: int = 0) -> str:
    (state,) = service.wire.get(user, after_offset=str(after_offset)).states
    return str(state["last_message_id"])


def wait_shown(worker: WorkerProcess, name: str) -> str:
    """The log line of a deviation that the metrics show."""
    until(lambda: worker.metrics().get(DEVIATION % name) == 1, f"{name} is shown", LONG_S)
    lines = [each for each in worker.output().splitlines() if f"deviation name={name} " in each]
    return lines[-1]


class Stranger:
    """A consumer of another program, which was given the workers' group."""

    def __init__(self, service: Service, **config: Any) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": service.wire.bootstrap,
                "group.id": service.group,
                "client.id": "somebody-else",
                "auto.offset.reset": "earliest",
                "auto.commit.interval.ms": 200,
                **config,
            }
        )
        self._consumer.subscribe([service.wire.updates])
        self.read: list[tuple[int, int]] = []

    def step(self) -> bool:
        """Read for a moment; True if something was read."""
        message = self._consumer.poll(0.2)
        if message is not None and message.error() is None:
            self.read.append((message.partition() or 0, message.offset() or 0))
        return bool(self.read)

    def leave(self) -> None:
        self._consumer.close()


@pytest.mark.parametrize("protocol", ["classic", pytest.param("consumer", marks=pytest.mark.long)])
def test_a_stranger_in_the_group_is_found_and_loses_nothing(services: Make, protocol: str) -> None:
    """It commits what no worker has folded; the worker notices when it has the partition again."""
    service = services(f"stranger_{protocol}", group_protocol=protocol, module=LOOKING_OFTEN)
    users = [new_user(number) for number in range(PARTITIONS)]
    worker = service.start()
    worker.wait_ready()
    for user in users:
        assert last_message(service, user, ack(service, user, 1)) == "1"
    service.wait_durable(service.wire.ends(service.wire.updates))
    config: dict[str, Any] = {"group.protocol": protocol}
    if protocol == "classic":
        config["partition.assignment.strategy"] = "cooperative-sticky"
    stranger = Stranger(service, **config)

    def reads() -> bool:
        for user in users:
            ack(service, user, 2)
        return stranger.step()

    until(reads, "it reads", LONG_S)
    said = wait_shown(worker, "foreign_member")
    assert "somebody-else" in said
    assert "PROBLEM deviation foreign_member: " in service.cli("status").stdout
    stranger.leave()
    until(lambda: "were passed over" in worker.output(), "the worker notices", LONG_S)
    worker.stop()

    for number, position in passed_over(worker):
        place = ("--partition", str(number), "--to-offset", str(position))
        until(partial(rewound, service, place), "rewound", LONG_S)
    service.start().wait_ready()
    log = Log(service.wire)
    try:
        service.wait_durable(log.read())
        assert service.wire.rows.all() == log.rows()
    finally:
        log.close()
    status = service.cli("status").stdout
    assert NOTHING_WRONG in status


def rewound(service: Service, place: tuple[str, ...]) -> bool:
    """False while a worker that has ended still counts as a member."""
    return service.cli("rewind", *place).returncode == 0


def passed_over(worker: WorkerProcess) -> list[tuple[int, int]]:
    """The partitions that the worker refused, and where it stopped before."""
    form = (
        r"partition (\d+): updates (\d+) … \d+ were passed over.* readstates rewind --partition \1"
    )
    found = sorted({(int(a), int(b)) for a, b in re.findall(form, worker.output())})
    assert found
    return found


def test_a_second_group_on_the_same_topics_is_found(services: Make) -> None:
    """Everybody gets two replies, and every row is written twice."""
    service = services("twice", probe_interval_s=0.5)
    worker = service.start()
    worker.wait_ready()
    tables = service.folder / "tables-twice-second"
    second = service.start(kafka_group=f"{service.group}-second", cache_dir=tables)
    second.wait_ready()
    for each in (worker, second):
        assert f"answer {service.wire.queries} as well" in wait_shown(each, "answered_twice")
        assert each.get("/readyz")[0] == 200
    assert second.stop() == 0
    until(lambda: not worker.metrics()[DEVIATION % "answered_twice"], "it is over", LONG_S)


def test_rows_do_not_end_with_a_ttl_of_the_table(services: Make) -> None:
    service = services("ttl")
    user = new_user()
    service.start().wait_ready()
    service.cql("ALTER TABLE {keyspace}.read_states WITH default_time_to_live = 600")
    ack(service, user, 5)
    service.wait_durable(service.wire.ends(service.wire.updates))
    found = service.cql(f"SELECT TTL(version) FROM {{keyspace}}.read_states WHERE user_id = {user}")
    assert found == [[None]]


def test_new_replicas_are_not_believed(services: Make) -> None:
    """They know of nobody until they are repaired. (Here they are the same node as before.)"""
    service = services("replicas", module=LOOKING_OFTEN)
    resident, other = (new_user() for _ in range(2))
    worker = service.start()
    worker.wait_ready()
    for user in (resident, other):
        ack(service, user, 5)
    service.wait_durable(service.wire.ends(service.wire.updates))
    worker.stop()
    shutil.rmtree(service.env["READ_STATES_CACHE_DIR"])  # so that nobody is resident
    worker = service.start()
    worker.wait_ready()
    assert last_message(service, resident) == "5"
    service.cql(
        "ALTER KEYSPACE {keyspace} WITH replication = "
        "{{'class': 'SimpleStrategy', 'replication_factor': 1}}"
    )
    said = wait_shown(worker, "replication")
    assert "nodetool repair" in said
    assert last_message(service, resident) == "5"
    reply = service.wire.query(other, None, deadline_s=3)
    assert reply is not None
    assert reply.error == "store_unavailable"
    assert worker.get("/readyz") == (503, "no: deviation: replication\n")
    worker.stop()
    service.start().wait_ready()
    assert last_message(service, other) == "5"


def test_two_services_may_share_a_group(services: Make) -> None:
    """Each has its own topics, and commits for these alone."""
    first = services("shared_a")
    second = services("shared_b", kafka_group=first.group)
    workers = [service.start() for service in (first, second)]
    for worker in workers:
        worker.wait_ready()
    for service in (first, second):
        for number in range(PARTITIONS):
            user = new_user(number)
            assert partition_of(user) == number
            assert last_message(service, user, ack(service, user, 3)) == "3"
        service.wait_durable(service.wire.ends(service.wire.updates))
    assert all(worker.metrics()[DEVIATION % "foreign_member"] == 0 for worker in workers)
