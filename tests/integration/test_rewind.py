"""A database put back to an older state gets everything since then from the log."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from readstates.ops.local.stack import Stack
from tests.support.service import Service
from tests.support.wire import PARTITIONS, new_user, partition_of


@pytest.fixture
def service(stack: Stack, folder: Path) -> Iterator[Service]:
    made = Service(stack.env(), folder, "rewind")
    yield made
    made.close()


def test_rewind(service: Service) -> None:
    wire, users = service.wire, [new_user(number) for number in range(PARTITIONS)]
    gone = new_user()

    def mention(user: int, message: int) -> None:
        event = {"type": "mention", "channel_id": "1", "message_id": str(message)}
        wire.produce_update(user, event)

    worker = service.start()
    worker.wait_ready()
    for message in (1, 2, 3):
        for user in (*users, gone):
            mention(user, message)
    deleted = service.cli("delete-user", str(gone))
    assert deleted.returncode == 0, deleted.stderr
    service.wait_durable(wire.ends(wire.updates))
    refused = service.cli("rewind", "--to-time", "2000-01-01")
    assert refused.returncode == 1
    assert "stop all workers first" in refused.stderr

    assert worker.stop() == 0
    before = wire.rows.all()
    assert [row[4] for row in before.values()] == [3] * len(users)
    service.cql("TRUNCATE {keyspace}.read_states")
    assert wire.rows.all() == {}
    shutil.rmtree(service.env["READ_STATES_CACHE_DIR"])

    number = partition_of(gone)
    later = service.cli("rewind", "--partition", str(number), "--to-offset", "1000000")
    assert "0 records will be folded again" in later.stdout, "never forward"
    done = service.cli("rewind", "--to-time", "2000-01-01")
    assert done.returncode == 0, done.stderr
    assert f"{sum(wire.ends(wire.updates))} records will be folded again" in done.stdout

    service.start().wait_ready()
    service.wait_durable(wire.ends(wire.updates))
    assert wire.rows.all() == before
    assert wire.get(gone).states == []
