"""Servers that stand still or die: a worker ends and starts all the same, and nothing is lost.

These tests are in one file because they share the stack that they harm.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from cassandra import OperationTimedOut

from readstates.ops.local.owner import Owner
from readstates.ops.local.stack import Stack
from readstates.ops.local.worker import WorkerProcess
from readstates.streams.cassandra import store as cassandra
from readstates.streams.cassandra.epochs import Log as Epoch
from readstates.streams.cassandra.store import Store
from readstates.streams.config import Settings
from readstates.streams.errors import StoreError
from tests.support.load import Log
from tests.support.rows import rows_of
from tests.support.service import Service
from tests.support.waiting import FIRST_PAUSE_S, until
from tests.support.wire import new_user, partition_of

SHUTDOWN_TIMEOUT_S = 6  # the setting; over it by more than the margin, the worker is killed: -9
MARGIN_S = 5


@pytest.fixture(scope="module")
def harmed(owner: Owner) -> Iterator[Stack]:
    """A stack for this module alone: its servers are made to stand still, and the broker dies."""
    stack = owner.stack("harmed", brief=True)
    yield stack
    stack.down(remove=True)


# -- SIGTERM: a worker ends within SHUTDOWN_TIMEOUT_S whatever failed around it --------------------


def kill_broker(stack: Stack) -> None:
    """Connections are refused."""
    (pid,) = [p.pid for p in stack.status().processes if p.role == "kafka"]
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def test_sigterm(harmed: Stack, tmp_path: Path) -> None:
    service = Service(
        harmed.env(),
        tmp_path,
        "ending",
        flush_delay_s=60,
        cassandra_timeout_s=1,
        handover_timeout_s=2,
        shutdown_timeout_s=SHUTDOWN_TIMEOUT_S,
        instance_id="ending",  # so that the next one need not wait for the session of the last
    )
    wire, users = service.wire, [new_user() for _ in range(50)]
    log = Log(wire)
    message = 0

    def changed() -> WorkerProcess:
        """A worker with changes that are not written out."""
        nonlocal message
        worker = service.start()
        worker.wait_ready()
        message += 1
        for user in users:
            event = {"type": "mention", "channel_id": "1", "message_id": str(message)}
            offset = wire.produce_update(user, event)
        wire.get(users[-1], after_offset=offset)
        dirty = "read_states_dirty_states"
        until(lambda: worker.metrics().get(dirty, 0) > 0, "changes to write out")
        return worker

    def end(worker: WorkerProcess) -> int:
        return worker.stop(timeout_s=SHUTDOWN_TIMEOUT_S + MARGIN_S)

    try:
        worker = changed()
        assert end(worker) == 0
        assert len(wire.rows.all()) == len(users), "what could be written is written"

        worker = changed()
        with harmed.standing_still("cassandra"):
            assert end(worker) == 0, "in good order, though nothing could be written"
        worker = changed()
        with harmed.standing_still("kafka"):
            assert end(worker) in {0, 1}
        worker = changed()
        with harmed.standing_still("kafka", "cassandra"):
            assert end(worker) in {0, 1}

        with harmed.standing_still("kafka"):  # while it is starting
            assert end(service.start()) in {0, 1, -signal.SIGTERM}
        worker = service.start()

        def opens(worker: WorkerProcess = worker) -> bool:
            return "table_open" in worker.output()

        until(opens, "in the middle of the start", last_pause_s=FIRST_PAUSE_S)
        with harmed.standing_still("kafka"):
            assert end(worker) in {0, 1}

        worker = changed()
        log.read()
        kill_broker(harmed)
        assert end(worker) in {0, 1}
        harmed.up(brief=True)
        service.start(flush_delay_s=0.5).wait_ready()
        service.wait_durable(log.read())
        assert wire.rows.all() == log.rows()
        assert {row[4] for row in log.rows().values()} == {message}
    finally:
        log.close()
        service.close()


# -- a database that is too slow when a worker starts -------------------------------------------


def test_the_epoch_is_claimed_once_the_database_answers(
    harmed: Stack, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(Settings.load(harmed.env()))
    topic_id = uuid.uuid4()
    try:
        store.create_schema()
        monkeypatch.setattr(cassandra, "STATEMENT_TIMEOUT_S", 0.5)
        with harmed.standing_still("cassandra"):
            with pytest.raises(StoreError, match="too slow for 'SELECT topic"):
                store.logs()  # who only looks is told at once
            claimed: list[Epoch] = []
            thread = threading.Thread(
                target=lambda: claimed.append(store.claim_epoch("t", topic_id, 8))
            )
            thread.start()
            while "cassandra_slow" not in caplog.text:
                assert thread.is_alive()
                time.sleep(0.05)
        thread.join(60)
        assert claimed == [store.claim_epoch("t", topic_id, 8)]
        assert set(store.logs()) == {"t"}
    finally:
        store.close()


def test_a_statement_that_was_applied_and_timed_out_counts_once(
    harmed: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is lost here, by a fake: no server can be made to lose just that one."""
    keyspace = {"READ_STATES_CASSANDRA_KEYSPACE": "it_slow_start"}
    store = Store(Settings.load({**harmed.env(), **keyspace}))
    try:
        store.create_schema()
        execute = store._session.execute
        lost: list[str] = []

        def lose_one_of_each(query: str, *values: object, **more: object) -> object:
            found = execute(query, *values, **more)
            if "IF" in query and query not in lost:
                lost.append(query)
                raise OperationTimedOut
            return found

        monkeypatch.setattr(store._session, "execute", lose_one_of_each)
        first, second = uuid.uuid4(), uuid.uuid4()
        epoch = store.claim_epoch("t", first, 8).epoch
        begins = [5] * 8 + [0] * 8
        log = store.claim_epoch("t", second, 16, new_epoch_from=begins)
        assert len(lost) == 2
        assert log[:4] == (epoch + 1, second, 16, tuple(begins))
        assert store.logs() == {"t": log}
    finally:
        store.close()


# -- a database that stands still: residents are served, the rest waits ---------------------------


@pytest.fixture(scope="module")
def service(harmed: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    made = Service(
        harmed.env(), tmp_path_factory.mktemp("workers"), "frozen", cassandra_timeout_s=1
    )
    try:
        made.start().wait_ready()
        yield made
    finally:
        made.close()


def ack(service: Service, user: int, message: int) -> int:
    event = {"type": "ack", "channel_id": "1", "message_id": str(message)}
    return service.wire.produce_update(user, event)


def resident_user(service: Service) -> int:
    """One whose read state is in the table, and in Cassandra."""
    user = new_user()
    offset = ack(service, user, 1)
    service.wire.rows.wait(user, rows_of(service.wire.get(user, after_offset=offset)))
    return user


def test_a_resident_user_is_served(harmed: Stack, service: Service) -> None:
    user = resident_user(service)
    cold = new_user(partition_of(user))  # its updates are parked in the same partition
    with harmed.standing_still("cassandra"):
        for message in range(2, 6):
            ack(service, cold, message)
            offset = ack(service, user, message)
            (state,) = service.wire.get(user, after_offset=offset).states
            assert state["last_message_id"] == str(message)


def test_others_are_told_in_time(harmed: Stack, service: Service) -> None:
    with harmed.standing_still("cassandra"):
        cold = new_user()
        ack(service, cold, 5)
        for user in (cold, new_user()):
            reply = service.wire.query(user, None, deadline_s=3)
            assert reply is not None
            assert reply.error == "store_unavailable"
            assert reply.value["user_id"] == str(user)


def test_a_query_with_time_is_answered_when_the_database_is_back(
    harmed: Stack, service: Service
) -> None:
    cold = new_user()
    with harmed.standing_still("cassandra"):
        ack(service, cold, 5)
        asked = service.wire.ask(cold, None, deadline_s=55)
        until(lambda: service.metric("read_states_queries_waiting") > 0, "a query that waits")
    late = service.wire.wait(asked, 60)
    assert late is not None
    assert late.error is None
    assert late.states[0]["last_message_id"] == "5"


def test_nothing_is_lost(harmed: Stack, service: Service) -> None:
    user, cold = resident_user(service), new_user()
    failures = "read_states_cassandra_write_failures_total"
    before = service.metric(failures)
    with harmed.standing_still("cassandra"):
        for message in range(2, 6):
            ack(service, user, message)
            ack(service, cold, message)
        until(lambda: service.metric(failures) > before, "a failed write")
        assert service.metric("read_states_dirty_states") > 0
        assert service.metric("read_states_durability_lag_records") > 0
    log = Log(service.wire)
    try:
        service.wait_durable(log.read())
        assert {user, cold} <= {row_user for row_user, _, _ in log.rows()}
        assert service.wire.rows.all() == log.rows()
    finally:
        log.close()
