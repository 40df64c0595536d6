"""SIGTERM ends a worker within SHUTDOWN_TIMEOUT_S whatever failed around it; nothing is lost."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from readstates.ops.local.stack import Stack
from readstates.ops.local.worker import WorkerProcess
from tests.support.load import Log
from tests.support.service import Service
from tests.support.waiting import FIRST_PAUSE_S, until
from tests.support.wire import new_user

SHUTDOWN_TIMEOUT_S = 6  # the setting; over it by more than the margin, the worker is killed: -9
MARGIN_S = 5


def kill_broker(stack: Stack) -> None:
    """Connections are refused."""
    (pid,) = [p.pid for p in stack.status().processes if p.role == "kafka"]
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def test_sigterm(own_stack: Stack, tmp_path: Path) -> None:
    service = Service(
        own_stack.env(),
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
        until(lambda: worker.metrics()["read_states_dirty_states"] > 0, "changes to write out")
        return worker

    def end(worker: WorkerProcess) -> int:
        return worker.stop(timeout_s=SHUTDOWN_TIMEOUT_S + MARGIN_S)

    try:
        worker = changed()
        assert end(worker) == 0
        assert len(wire.rows.all()) == len(users), "what could be written is written"

        worker = changed()
        with own_stack.standing_still("cassandra"):
            assert end(worker) == 0, "in good order, though nothing could be written"
        worker = changed()
        with own_stack.standing_still("kafka"):
            assert end(worker) in {0, 1}
        worker = changed()
        with own_stack.standing_still("kafka", "cassandra"):
            assert end(worker) in {0, 1}

        with own_stack.standing_still("kafka"):  # while it is starting
            assert end(service.start()) in {0, 1, -signal.SIGTERM}
        worker = service.start()

        def opens(worker: WorkerProcess = worker) -> bool:
            return "table_open" in worker.output()

        until(opens, "in the middle of the start", last_pause_s=FIRST_PAUSE_S)
        with own_stack.standing_still("kafka"):
            assert end(worker) in {0, 1}

        worker = changed()
        log.read()
        kill_broker(own_stack)
        assert end(worker) in {0, 1}
        own_stack.up()
        service.start(flush_delay_s=0.5).wait_ready()
        service.wait_durable(log.read())
        assert wire.rows.all() == log.rows()
        assert {row[4] for row in log.rows().values()} == {message}
    finally:
        log.close()
        service.close()
