"""A database that is too slow for a while when a worker starts: it waits, and starts."""

from __future__ import annotations

import threading
import time
import uuid

import pytest
from cassandra import OperationTimedOut

from readstates.ops.local.stack import Stack
from readstates.streams.cassandra import store as cassandra
from readstates.streams.cassandra.epochs import Log
from readstates.streams.cassandra.store import Store
from readstates.streams.config import Settings
from readstates.streams.errors import StoreError


def test_the_epoch_is_claimed_once_the_database_answers(
    own_stack: Stack, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(Settings.load(own_stack.env()))
    topic_id = uuid.uuid4()
    try:
        store.create_schema()
        monkeypatch.setattr(cassandra, "STATEMENT_TIMEOUT_S", 0.5)
        with own_stack.standing_still("cassandra"):
            with pytest.raises(StoreError, match="too slow for 'SELECT topic"):
                store.logs()  # who only looks is told at once
            claimed: list[Log] = []
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
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is lost here, by a fake: no server can be made to lose just that one."""
    keyspace = {"READ_STATES_CASSANDRA_KEYSPACE": "it_slow_start"}
    store = Store(Settings.load({**stack.env(), **keyspace}))
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
