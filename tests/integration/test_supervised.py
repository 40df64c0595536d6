"""`readstates worker --supervise`, and the names of workers in the group, on a real stack."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from readstates.ops.local.process import ProcessId, identify, is_alive
from readstates.ops.local.stack import Stack
from readstates.ops.local.worker import WorkerProcess
from tests.support.service import Service
from tests.support.waiting import WAIT_S, until
from tests.support.wire import PARTITIONS, new_user, partition_of

SESSION_S = 300  # longer than anything here waits: nothing may come of its end
LOADED = "read_states_cassandra_loads_total{outcome=loaded}"
REBALANCES = "read_states_rebalances_total"
INSTANCE = re.compile(r"\[(\d+)\] \[INFO\] instance name=(\S*) ")


class Member(NamedTuple):
    member_id: str
    partitions: frozenset[int]


@pytest.fixture
def service(stack: Stack, folder: Path, request: pytest.FixtureRequest) -> Iterator[Service]:
    name = request.node.name.removeprefix("test_")[:40]
    made = Service(
        stack.env(),
        folder,
        name,
        session_timeout_s=SESSION_S,
        flush_delay_s=60,
        probe_interval_s=0,  # no loads but users'
    )
    yield made
    made.close()


def members(service: Service) -> dict[str, Member]:
    """The group's members by name; of the updates topic."""
    (answer,) = service.wire.admin.describe_consumer_groups([service.group]).values()
    found: Any = answer.result(WAIT_S)
    return {
        member.group_instance_id: Member(
            member.member_id,
            frozenset(
                place.partition
                for place in member.assignment.topic_partitions
                if place.topic == service.wire.updates
            ),
        )
        for member in found.members
    }


def starts(worker: WorkerProcess) -> list[tuple[int, str]]:
    """The PID and the name of each process that was the worker."""
    return [(int(pid), name) for pid, name in INSTANCE.findall(worker.output())]


def processes(worker: WorkerProcess) -> list[ProcessId]:
    """The supervisor and its present worker."""
    found = [identify(worker.pid), identify(starts(worker)[-1][0])]
    return [process for process in found if process is not None]


def shares(service: Service, count: int) -> dict[str, Member]:
    """The members, once there are so many and each has partitions."""

    def look() -> dict[str, Member] | None:
        found = members(service)
        return found if len(found) == count and all(m.partitions for m in found.values()) else None

    return until(look, f"{count} members with partitions")


def resident(service: Service) -> dict[int, tuple[int, int]]:
    """A user of each partition, in its table: user and offset."""
    found = {}
    for number in range(PARTITIONS):
        user = new_user(number)
        event = {"type": "mention", "channel_id": "5", "message_id": "6"}
        offset = service.wire.produce_update(user, event)
        assert service.wire.get(user, after_offset=offset).error is None
        found[partition_of(user)] = (user, offset)
    return found


def test_a_killed_worker_gets_its_partitions_back(service: Service) -> None:
    """At once, with their tables; the other worker notices nothing."""
    supervised, other = service.start("--supervise"), service.start()
    supervised.wait_ready()
    other.wait_ready()
    before = shares(service, 2)
    ((pid, name),) = starts(supervised)
    ((_, other_name),) = starts(other)
    assert set(before) == {name, other_name}, "two workers, one folder, two names"
    status = Path(f"/proc/{supervised.pid}/status").read_text()
    assert "\nThreads:\t1\n" in status, "a fork copies no other thread"
    users = resident(service)
    rebalances = other.metrics()[REBALANCES]

    os.kill(pid, signal.SIGKILL)
    killed_s = time.monotonic()
    for number in before[name].partitions:
        user, offset = users[number]
        assert service.wire.get(user, after_offset=offset).states[0]["mention_count"] == 1
        print(f"partition {number}: answered {time.monotonic() - killed_s:.2f} s after SIGKILL")

    after = members(service)
    assert {n: m.partitions for n, m in after.items()} == {
        n: m.partitions for n, m in before.items()
    }
    assert after[other_name] == before[other_name]
    assert other.metrics()[REBALANCES] == rebalances
    again = supervised.output()[supervised.output().index("worker_restart cause=SIGKILL") :]
    assert again.count(" warm=True") == len(before[name].partitions)
    assert supervised.metrics().get(LOADED, 0) == 0
    assert [n for _, n in starts(supervised)] == [name, name]
    assert supervised.returncode is None


def test_a_stop_in_good_order(service: Service) -> None:
    """Supervisor and worker end with 0, and the group does not wait for the worker."""
    supervised, other = service.start("--supervise"), service.start()
    supervised.wait_ready()
    other.wait_ready()
    shares(service, 2)
    both = processes(supervised)
    assert len(both) == 2
    assert supervised.stop() == 0
    assert not any(map(is_alive, both))
    ((_, name),) = starts(other)
    assert set(members(service)) == {name}
    until(lambda: members(service)[name].partitions == set(range(PARTITIONS)), "it has them all")


def test_a_killed_supervisor_leaves_nothing(service: Service) -> None:
    """Its worker ends in good order, and leaves the group."""
    supervised = service.start("--supervise")
    supervised.wait_ready()
    both = processes(supervised)
    supervised.kill()
    until(lambda: not any(map(is_alive, both)), "both have ended")
    assert members(service) == {}


def test_a_worker_with_a_given_name_stays_a_member(service: Service) -> None:
    worker = service.start(instance_id="given")
    worker.wait_ready()
    assert worker.stop() == 0
    assert set(members(service)) == {"given"}


def test_a_worker_without_a_name(service: Service) -> None:
    worker = service.start(instance_id="-")
    worker.wait_ready()
    assert set(members(service)) == {None}
    assert worker.stop() == 0
    assert members(service) == {}
