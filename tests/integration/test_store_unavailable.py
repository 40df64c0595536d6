"""The database stands still: what is resident is served, the rest waits, nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from readstates.ops.local.owner import Owner
from readstates.ops.local.stack import Stack
from tests.support.load import Log
from tests.support.rows import rows_of
from tests.support.service import Service
from tests.support.waiting import until
from tests.support.wire import new_user, partition_of


@pytest.fixture(scope="module")
def harmed(owner: Owner) -> Iterator[Stack]:
    """A stack for this module alone: its Cassandra is made to stand still."""
    stack = owner.stack("harmed")
    yield stack
    stack.down(remove=True)


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
