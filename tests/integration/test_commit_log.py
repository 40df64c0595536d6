"""A worker knows whether its Cassandra acknowledges what a kill can still take away."""

from __future__ import annotations

from readstates.streams.cassandra.store import Store
from readstates.streams.config import Settings
from tests.support.service import Service


def test_the_local_nodes_acknowledge_what_they_have_synced(service: Service) -> None:
    store = Store(Settings.load(service.env))
    try:
        store.prepare()
        assert store.commitlog_sync == "group"
    finally:
        store.close()
    (worker,) = service.workers[:1]
    assert "cassandra_acknowledges_unsynced" not in worker.output()
