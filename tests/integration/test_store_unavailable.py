"""The database stands still: what is resident is served, the rest waits, nothing is lost."""

from __future__ import annotations

from pathlib import Path

from readstates.ops.local.stack import Stack
from tests.support.load import Log
from tests.support.rows import rows_of
from tests.support.service import Service
from tests.support.waiting import until
from tests.support.wire import new_user, partition_of


def test_store_unavailable(own_stack: Stack, tmp_path: Path) -> None:
    service = Service(own_stack.env(), tmp_path, "frozen", cassandra_timeout_s=1)
    log = None
    try:
        service.start().wait_ready()
        wire = service.wire
        log = Log(wire)
        resident = new_user()
        cold = new_user(partition_of(resident))  # its updates are parked in the same partition
        known = new_user()

        def ack(user: int, message: int) -> int:
            event = {"type": "ack", "channel_id": "1", "message_id": str(message)}
            return wire.produce_update(user, event)

        offset = ack(resident, 1)
        wire.rows.wait(resident, rows_of(wire.get(resident, after_offset=offset)))

        with own_stack.standing_still("cassandra"):
            for message in range(2, 6):
                ack(cold, message)
                ack(known, message)
                offset = ack(resident, message)
                (state,) = wire.get(resident, after_offset=offset).states
                assert state["last_message_id"] == str(message)
            for user in (cold, new_user()):
                reply = wire.query(user, None, deadline_s=3)
                assert reply is not None
                assert reply.error == "store_unavailable"
                assert reply.value["user_id"] == str(user)
            failures = "read_states_cassandra_write_failures_total"
            until(lambda: service.metric(failures) > 0, "a failed write")
            assert service.metric("read_states_dirty_states") > 0
            assert service.metric("read_states_durability_lag_records") > 0
            (state,) = wire.get(resident).states
            assert state["last_message_id"] == "5"
            asked = wire.ask(cold, None, deadline_s=55)  # waits, and is answered after all

        late = wire.wait(asked, 60)
        assert late is not None
        assert late.error is None
        assert late.states[0]["last_message_id"] == "5"
        service.wait_durable(log.read())
        assert wire.rows.all() == log.rows()
        assert len(log.rows()) == 3
        assert service.workers[0].stop() == 0
    finally:
        if log is not None:
            log.close()
        service.close()
