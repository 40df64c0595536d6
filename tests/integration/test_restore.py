"""`readstates restore`: whatever is left of the database, it is what the fold of the log says."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from confluent_kafka import Producer, TopicPartition

from readstates.ops.local.stack import Stack
from readstates.ops.local.worker import WorkerProcess
from readstates.ops.proof.traffic import Traffic
from tests.support.backups import differences, fold_of, put_back, take_backup
from tests.support.preloaded import PROGRAM, Forked
from tests.support.service import Service
from tests.support.topic_settings import set_topic
from tests.support.waiting import WAIT_S, until
from tests.support.wire import PARTITIONS, new_user

USERS = 150
STATES_MAX = 400  # more than any user of the traffic has
LONG_S = 3 * WAIT_S
ONE_BY_ONE = {  # it takes a while to write so
    "READ_STATES_WRITES_IN_FLIGHT_MAX": "1",
    "READ_STATES_WRITE_BATCH_ROWS": "1",
}


class World:
    """A service, its traffic, and the epochs that it went through."""

    def __init__(self, service: Service, seed: int) -> None:
        self.service, self.wire = service, service.wire
        self.traffic = Traffic(seed, USERS)
        self.epochs: list[tuple[int, tuple[int, ...]]] = [(8, (0,) * PARTITIONS)]

    @property
    def partitions(self) -> int:
        return len(self.epochs[-1][1])

    def send(self, count: int, at: datetime | None = None) -> None:
        """So many records, by a producer that knows how many partitions there are.

        `at`: the timestamp of the records, if the topic takes those of producers.
        """
        config = {"partitioner": "murmur2_random", "enable.idempotence": True}
        producer = Producer({"bootstrap.servers": self.wire.bootstrap, **config})
        stamped = {} if at is None else {"timestamp": int(at.timestamp() * 1000)}
        for record in self.traffic.updates(count):
            producer.produce(self.wire.updates, record.value, record.key, **stamped)
        assert producer.flush(WAIT_S) == 0

    def send_of_the_past(self, count: int, at: datetime) -> None:
        """Records that the log got at another time."""
        set_topic(self.wire, self.wire.updates, message_timestamp_type="CreateTime")
        self.send(count, at)
        set_topic(self.wire, self.wire.updates, message_timestamp_type="LogAppendTime")

    def lose_log_before(self, offsets: list[int]) -> None:
        """Retention has taken what is older."""
        places = [TopicPartition(self.wire.updates, n, end) for n, end in enumerate(offsets)]
        for done in self.wire.admin.delete_records(places).values():
            done.result(WAIT_S)

    def run_until_durable(self) -> None:
        """A worker folds and writes out all that there is, and leaves without its tables."""
        worker = self.service.start()
        worker.wait_ready()
        self.service.wait_durable(self.ends())
        assert worker.stop() == 0
        shutil.rmtree(self.service.env["READ_STATES_CACHE_DIR"])

    def ends(self) -> list[int]:
        return self.wire.ends(self.wire.updates, self.partitions)

    def grow(self, partitions: int) -> None:
        """A change of partitions by the book."""
        self.run_until_durable()
        firsts = (*self.ends(), *[0] * (partitions - self.partitions))
        done = self.service.cli("init", "--partitions", str(partitions), "--new-epoch")
        assert done.returncode == 0, done.stderr
        self.epochs.append((self.epochs[-1][0] + 1, firsts))

    def restore(self, *arguments: str) -> str:
        done = self.service.cli("restore", "--yes", *arguments)
        assert done.returncode == 0, done.stderr
        assert "The restore has ended" in done.stdout
        return done.stdout

    def restore_is_killed(self) -> None:
        """A restore that is killed when it has written the first rows."""
        log = self.service.folder / f"{self.service.name}-restore.log"
        log.touch()
        env = {**os.environ, **self.service.env, **ONE_BY_ONE}
        process = Forked(PROGRAM, env, ("restore", "--yes"), str(log), None)

        def rows() -> int:
            try:
                return len(self.wire.rows.all())
            except Exception:  # noqa: BLE001 (the table is not there yet)
                return 0

        until(rows, "the first rows", LONG_S, last_pause_s=0.02)
        process.kill()
        process.wait(WAIT_S)
        assert "The restore has ended" not in log.read_text()
        assert differences(self.service, fold_of(self.service, self.epochs)), "all is there"

    def check(self) -> None:
        """Cassandra has what the fold says, and nothing else."""
        assert differences(self.service, fold_of(self.service, self.epochs)) == []

    def check_service(self) -> None:
        """Workers go on where the restore ended: with more traffic all is still as it must be."""
        self.send(300)
        self.run_until_durable()
        self.check()
        wrong = len({self.origin_of(letter.headers) for letter in self.wire.dead_letters()})
        assert wrong == fold_of(self.service, self.epochs).bad, "each bad record has a dead letter"

    @staticmethod
    def origin_of(headers: dict[str, bytes]) -> tuple[bytes, bytes]:
        return headers["partition"], headers["offset"]


@pytest.fixture
def service(stack: Stack, folder: Path, request: pytest.FixtureRequest) -> Iterator[Service]:
    name = request.node.name.removeprefix("test_")[:24]
    made = Service(
        stack.env(), folder, name, user_states_max=STATES_MAX, cache_states=4 * STATES_MAX
    )
    yield made
    made.close()


def refusal(worker: WorkerProcess) -> str:
    until(lambda: worker.returncode is not None, "the worker ends", 2 * WAIT_S)
    assert worker.returncode == 1
    return worker.output()


@pytest.mark.long
def test_backups_of_before_and_of_after_a_change(service: Service) -> None:
    """Rows 19 and 20: nothing is left out, and no advice leads into a refusal."""
    world = World(service, 1)
    world.send(1500)
    world.run_until_durable()
    before = take_backup(service)
    world.send(700)
    world.grow(6)
    after = take_backup(service)
    world.send(1500)
    world.run_until_durable()
    world.check()
    letters = len(world.wire.dead_letters())

    put_back(service, before)
    rows = world.wire.rows.all()
    for refused in (service.cli("init"), service.cli("init", "--new-epoch")):
        assert refused.returncode == 1, refused.stdout
        assert "its last epoch is 8, but epoch 9 of" in refused.stderr
        assert "run: readstates restore" in refused.stderr
    said = refusal(service.start())
    assert "run: readstates restore" in said
    assert "--new-epoch" not in said
    assert "run: readstates restore" in service.cli("status").stdout
    assert world.wire.rows.all() == rows, "nothing was changed"
    said = world.restore()
    assert f"epoch 8 of {world.wire.updates}" in said
    assert f"epoch 9 of {world.wire.updates}" in said
    world.check()
    assert service.committed(6) == world.ends()
    assert len(world.wire.dead_letters()) == letters, "they were there already"

    put_back(service, after)
    service.lose_epochs_topic()
    refused = service.cli("restore", "--yes")
    assert refused.returncode == 1
    assert "If it does not exist, run: readstates init" in refused.stderr
    assert service.cli("init").returncode == 0
    world.restore("--backup-time", f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}")
    world.check()
    world.restore()  # once more
    world.check()
    world.check_service()


def test_cassandra_is_empty_after_two_changes(service: Service) -> None:
    """Row 21, and a restore that is killed in the middle and repeated."""
    world = World(service, 2)
    for partitions in (5, 7):
        world.send(1500)
        world.grow(partitions)
    world.send(1500)
    world.run_until_durable()
    service.cql("DROP KEYSPACE {keyspace}")

    world.restore_is_killed()

    # nobody takes it for a whole database
    said = refusal(service.start())
    assert "readstates restore" in said
    for command in (("init",), ("init", "--new-epoch")):
        refused = service.cli(*command)
        assert refused.returncode == 1, refused.stdout
        assert "readstates restore" in refused.stderr
    assert service.cli("rewind", "--to-epoch-start").returncode == 1

    world.restore()
    world.check()
    world.check_service()


@pytest.mark.long
def test_workers_wait_for_the_end_of_a_restore(service: Service) -> None:
    """The commits keep them out, even where the keyspace has its epoch."""
    world = World(service, 3)
    world.send(1500)
    worker = service.start()
    worker.wait_ready()
    refused = service.cli("restore", "--yes")
    assert refused.returncode == 1
    assert "stop all workers first" in refused.stderr
    service.wait_durable(world.ends())
    assert worker.stop() == 0
    asked = service.cli("restore")  # its input is empty
    assert asked.returncode == 1
    assert "Begin?" in asked.stdout
    assert "Aborted" in asked.stderr
    service.cql("TRUNCATE {keyspace}.read_states")
    world.restore_is_killed()
    said = refusal(service.start())
    assert "a restore of the database has begun and has not ended" in said
    for command in (("rewind", "--to-epoch-start"), ("init", "--partitions", "6", "--new-epoch")):
        refused = service.cli(*command)
        assert refused.returncode == 1, command
        assert "a restore of the database has begun and has not ended" in refused.stderr
    problems = json.loads(service.cli("status", "--json").stdout)["problems"]
    assert [one for one in problems if "a restore of the database has begun" in one]
    world.restore()
    world.check_service()


@pytest.mark.long
def test_producers_go_on(service: Service) -> None:
    world = World(service, 4)
    world.send(1000)
    world.grow(6)
    world.send(1000)
    service.cql("DROP KEYSPACE {keyspace}")
    stop = threading.Event()

    def go_on() -> None:
        while not stop.is_set():
            world.send(20)

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        world.restore()
    finally:
        stop.set()
        thread.join()
    assert service.committed(6) != world.ends(), "some came too late"
    world.check_service()


def test_what_the_log_lacks_is_said(service: Service) -> None:
    world = World(service, 5)
    world.send(600)
    world.run_until_durable()
    whole = take_backup(service)
    ends = world.ends()
    world.lose_log_before(ends)
    world.send(600)
    world.run_until_durable()

    service.cql("TRUNCATE {keyspace}.read_states")
    refused = service.cli("restore", "--yes")
    assert refused.returncode == 1
    assert f"partition 0 has lost {ends[0]} records from before offset {ends[0]}" in refused.stdout
    assert "--missing-updates count" in refused.stderr
    assert world.wire.rows.all() == {}
    world.restore("--missing-updates", "count")
    assert world.wire.rows.all()

    put_back(service, whole)
    world.restore("--missing-updates", "count")
    new = new_user()
    world.wire.mention_all([new], 1)
    world.run_until_durable()
    assert [row[4] for row in world.wire.rows.of(new)] == [1]


@pytest.mark.long
def test_what_is_older_than_the_backup_is_left_out(service: Service) -> None:
    """`--backup-time`: the log has lost these records, and nobody needs them."""
    world, now = World(service, 6), datetime.now(UTC)
    when = f"{now - timedelta(hours=2):%Y-%m-%dT%H:%M:%S}"
    world.send_of_the_past(700, now - timedelta(hours=4))
    world.run_until_durable()
    backup, older = take_backup(service), world.ends()
    world.send_of_the_past(500, now - timedelta(hours=2, minutes=30))
    world.grow(6)
    world.send(600)
    world.run_until_durable()
    whole = fold_of(service, world.epochs)
    newer = sum(world.ends()) - sum(older)

    # what is older is not folded, although the log has it: an empty database lacks it afterwards
    service.cql("TRUNCATE {keyspace}.read_states")
    said = world.restore("--backup-time", when)
    assert f"{newer} records of the log, from an hour before the backup on," in said
    assert differences(service, whole)

    put_back(service, backup)
    # one older record is left, so nothing newer than it can be gone
    world.lose_log_before([*(end - 1 for end in older), 0, 0])
    refused = service.cli("restore", "--yes")
    assert refused.returncode == 1
    assert "partition 0 has lost" in refused.stdout
    assert "with --backup-time" in refused.stderr
    said = world.restore("--backup-time", when)
    assert f"{newer} records of the log, from an hour before the backup on," in said
    assert differences(service, whole) == []

    # a record that the backup may lack is missing
    put_back(service, backup)
    world.lose_log_before([older[0] + 1, *[0] * 5])
    refused = service.cli("restore", "--yes", "--backup-time", when)
    assert refused.returncode == 1
    assert "partition 0 has lost" in refused.stdout
    assert "put a later one back" in refused.stderr
