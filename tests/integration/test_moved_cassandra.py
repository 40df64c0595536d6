"""The only node of Cassandra comes back under another address, to which its name leads then."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from readstates.ops.local.owner import Owner
from readstates.ops.local.stack import Stack
from tests.support.moved_node import move
from tests.support.preloaded import PreloadedWorker
from tests.support.service import Service
from tests.support.waiting import WAIT_S, until
from tests.support.wire import new_user

NAME = "cassandra.test"
NEW_ADDRESS = "127.0.0.77"
ACK = {"type": "ack", "channel_id": "1", "message_id": "5"}


@pytest.fixture
def stack(owner: Owner) -> Iterator[Stack]:
    made = owner.stack(f"moved-{uuid.uuid4().hex[:8]}", brief=True)
    yield made
    made.down(remove=True)


def test_the_worker_finds_it_again(stack: Stack, tmp_path: Path) -> None:
    names = tmp_path / "names"
    names.write_text(f"{NAME} 127.0.0.1\n", "utf-8")
    service = Service(stack.env(), tmp_path, "moved", probe_interval_s=0.5)
    env = {**service.env, "READ_STATES_CASSANDRA_HOSTS": NAME, "NAMES_FILE": str(names)}
    log, module = tmp_path / "worker.log", "tests.support.named_hosts"
    worker = PreloadedWorker(env, log, module=module).start()
    service.workers.append(worker)
    try:
        worker.wait_ready()
        wire, user = service.wire, new_user()
        wire.produce_update(user, ACK)
        ends = wire.ends(wire.updates)
        service.wait_durable(ends)
        move(stack, NEW_ADDRESS)

        def is_not_ready() -> bool:
            return "store_unavailable" in worker.get("/readyz")[1]

        until(is_not_ready, "the probe finds that Cassandra is away", 2 * WAIT_S)
        offset = wire.produce_update(user, {**ACK, "message_id": "6"})  # is resident
        names.write_text(f"{NAME} {NEW_ADDRESS}\n", "utf-8")
        until(lambda: worker.get("/readyz")[0] == 200, "it is ready again", 3 * WAIT_S)
        assert "cassandra_moved hosts=cassandra.test" in worker.output()
        assert wire.get(new_user()).states == []
        assert wire.get(user, after_offset=offset).states[0]["last_message_id"] == "6"
        service.wait_durable(wire.ends(wire.updates))
        assert worker.stop() == 0
    finally:
        service.close()
