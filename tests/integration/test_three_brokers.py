"""On three brokers: a group whose coordinator dies, a reader whose leader dies, a deleted topic.

These tests are in one file because they share the stack, which takes long to start.
"""

from __future__ import annotations

import asyncio
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from readstates.ops.local import process, state
from readstates.ops.local.owner import Owner
from readstates.ops.local.stack import Stack
from readstates.ops.local.worker import WorkerProcess
from readstates.streams.config import GROUP_PROTOCOLS, Settings
from readstates.streams.kafka import topics
from readstates.streams.kafka.admin import connect_admin
from readstates.streams.kafka.topic_check import TRY_S
from readstates.streams.worker.watch import LOOK_S
from tests.support.group import Holder, eventually
from tests.support.service import Service
from tests.support.topic_reading import ENV, Topic, reading
from tests.support.waiting import WAIT_S, until

PARTITIONS = 8
ALL = frozenset(range(PARTITIONS))
LONG_S = 2 * WAIT_S


@pytest.fixture(scope="module")
def stack(owner: Owner) -> Iterator[Stack]:
    made = owner.stack(f"brokers-{uuid.uuid4().hex[:8]}", brokers=3, brief=True)
    yield made
    made.down(remove=True)


@pytest.fixture
def brokers(stack: Stack) -> Stack:
    """All three run; those that a test before has killed are started again."""
    stack.up(brokers=3, brief=True)
    return stack


@pytest.fixture(params=GROUP_PROTOCOLS)
def settings(brokers: Stack, request: pytest.FixtureRequest) -> Settings:
    name = f"group-{uuid.uuid4().hex[:8]}"
    more = {"group_protocol": request.param, "session_timeout_s": LONG_S}
    settings = Settings.load(brokers.env(), topic_prefix=name, kafka_group=name, **more)
    topics.create(settings, PARTITIONS, 3)
    return settings


def coordinator(settings: Settings) -> int:
    """The number of the broker that coordinates the group."""
    admin = connect_admin(settings)
    asked = admin.describe_consumer_groups([settings.kafka_group])
    return int(asked[settings.kafka_group].result(WAIT_S).coordinator.id)


def kill(stack: Stack, number: int) -> None:
    current = state.load(stack.data_dir)
    assert current is not None
    process.send(current.processes[f"kafka-{number}"], signal.SIGKILL)


async def committing(holder: Holder) -> None:
    """Commit, again and again, until that is accepted."""
    while not await holder.commit(2, *holder.owned):  # noqa: ASYNC110 (a commit takes its time)
        await asyncio.sleep(0.2)


def test_a_topic_that_was_deleted_comes_back_with_as_many_replicas(
    brokers: Stack, tmp_path: Path
) -> None:
    """A runbook says `readstates init`, in a pod: one replica would be lost with its broker."""
    service = Service(brokers.env(), tmp_path, "replicas", init=False)
    settings = Settings.load(service.env)
    name = settings.dead_letters_topic
    done = service.cli("init", "--partitions", "5", "--replication-factor", "3")
    assert done.returncode == 0, done.stderr
    admin = connect_admin(settings)
    admin.delete_topics([name])[name].result(WAIT_S)
    until(lambda: name not in topics.existing(settings), "topic gone")
    done = service.cli("init")
    assert done.returncode == 0, done.stderr
    assert f"created {name}; 5 partitions" in done.stdout
    assert topics.existing(settings)[name].replicas == 3


async def test_nobody_loses_anything_when_the_coordinator_is_killed(
    brokers: Stack, settings: Settings
) -> None:
    first = Holder(settings).start()
    await eventually(lambda: first.owned == ALL, "it owns all", LONG_S)
    second = Holder(settings).start()
    await eventually(lambda: len(second.owned) == PARTITIONS // 2, "they share", LONG_S)
    assert await first.commit(1, *first.owned)
    kill(brokers, await asyncio.to_thread(coordinator, settings))
    await asyncio.wait_for(asyncio.gather(committing(first), committing(second)), LONG_S)
    assert "lost" not in first.kinds() + second.kinds()
    await second.group.leave()
    await eventually(lambda: first.owned == ALL, "it inherits", LONG_S)
    assert not first.refusals + second.refusals
    await first.group.leave()


@pytest.mark.long
def test_workers_outlive_their_coordinator(brokers: Stack, tmp_path: Path) -> None:
    """They ask for members of the group while it has no coordinator, and open partitions later.

    librdkafka ends a process if such a question times out and the coordinator comes back, and its
    admin client goes on sending the leader epochs of before.
    """
    service = Service(brokers.env(), tmp_path, "outlive", init=False)
    done = service.cli("init", "--partitions", "5", "--replication-factor", "3")
    assert done.returncode == 0, done.stderr
    try:
        workers = [service.start(instance_id=name) for name in ("one", "two")]
        for worker in workers:
            worker.wait_ready()
        for _ in range(2):
            kill(brokers, coordinator(Settings.load(service.env)))
            time.sleep(LOOK_S + TRY_S + 2.0)  # the watch asks, and gets no answer
            brokers.up(brokers=3, brief=True)
            until(lambda: is_ready(workers), "all are ready again", LONG_S)
        workers[1].stop()
        until(lambda: "ok: 5 partitions" in workers[0].get("/readyz")[1], "one has all", LONG_S)
        assert workers[0].returncode is None
    finally:
        service.close()


def is_ready(workers: list[WorkerProcess]) -> bool:
    assert [worker.returncode for worker in workers] == [None] * len(workers)
    return all(worker.get("/readyz")[0] == 200 for worker in workers)


async def test_a_reader_goes_on_when_the_leader_is_killed(brokers: Stack) -> None:
    """The others elect a new one, and nothing is left out or read twice."""
    config = {"bootstrap.servers": brokers.env()[f"{ENV}KAFKA_BOOTSTRAP"]}
    topic = Topic(config, partitions=3, copies=3)
    for number in range(3):
        topic.write(b"a", number=number)
    async with reading(topic) as read:
        for number in range(3):
            read.reader.start(number, 0, token=1)
            await read.up_to(1, number)
        kill(brokers, topic.admin.list_topics(topic.name).topics[topic.name].partitions[0].leader)
        for number in range(3):
            await asyncio.to_thread(topic.write, b"b", b"c", number=number)
            assert await read.up_to(3, number) == [0, 1, 2]
        assert read.refused == []
