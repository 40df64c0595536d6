"""`readstates status` while all is well, and while parts are away."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from readstates.ops.local.stack import Stack
from readstates.streams.commands.status import NOTHING_WRONG
from tests.support.service import Service
from tests.support.waiting import until
from tests.support.wire import PARTITIONS, new_user, partition_of


def ask(service: Service) -> tuple[int, dict[str, Any]]:
    done = service.cli("status", "--json")
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_status(stack: Stack, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(stack.env(), folder, "status", flush_delay_s=60)
    try:
        alone = f"group {service.group} has no members: no worker is running"

        def nobody() -> list[str] | None:  # brokers of a new stack first make their coordinator
            code, found = ask(service)
            assert code == 1
            problems: list[str] = found["problems"]
            return problems if alone in problems else None

        assert len(until(nobody, alone, 120)) == 1 + PARTITIONS

        service.start(instance_id="one").wait_ready()
        code, found = ask(service)
        assert (code, found["problems"], found["ok"]) == (0, [], True)
        (member,) = found["kafka"]["members"]
        assert (member["instance_id"], member["partitions"]) == ("one", list(range(PARTITIONS)))
        assert found["cassandra"]["epoch"] == 8
        assert found["cassandra"]["topic_id"] == found["kafka"]["topic_id"]
        assert found["cassandra"]["partitions"] == len(found["kafka"]["partitions"]) == PARTITIONS

        # applied, and not yet in Cassandra: it is lag, and the commit says how far the owner is
        user = new_user()
        offset = service.wire.produce_update(user, {**ACK, "channel_id": "5"})
        service.wire.get(user, after_offset=offset)

        def applied() -> dict[str, Any] | None:
            place: dict[str, Any] = ask(service)[1]["kafka"]["partitions"][partition_of(user)]
            return place if place["metadata"] == f"live:{offset + 1}" else None

        place = until(applied, "a commit that says how far")
        assert (place["log_end"], place["committed"]) == (str(offset + 1), str(offset))
        assert (place["updates_lag"], place["owner"]) == (1, "one")
        text = service.cli("status")
        assert (text.returncode, text.stdout.splitlines()[-1]) == (0, NOTHING_WRONG)

        with monkeypatch.context() as changed:
            changed.setitem(service.env, "READ_STATES_CASSANDRA_PORT", "1")
            code, found = ask(service)
            assert (code, found["cassandra"]) == (1, None)
            (problem,) = found["problems"]
            assert problem.startswith("Cassandra: no Cassandra at ")
            assert len(found["kafka"]["members"]) == 1
        with monkeypatch.context() as changed:
            changed.setitem(service.env, "READ_STATES_KAFKA_BOOTSTRAP", "127.0.0.1:1")
            code, found = ask(service)
            assert (code, found["kafka"]) == (1, None)
            (problem,) = found["problems"]
            assert problem.startswith("Kafka: no Kafka answers at ")
            assert found["cassandra"]["epoch"] == 8

        assert service.workers[0].stop() == 0
        # a static member is one until its session is over
        found = until(lambda: (now := ask(service))[0] and now[1], "partitions without an owner")
        assert len(found["problems"]) == 1 + PARTITIONS
        place = found["kafka"]["partitions"][partition_of(user)]
        assert (place["metadata"], place["updates_lag"]) == (f"clean:{offset + 1}", 0)
    finally:
        service.close()


ACK = {"type": "ack", "message_id": "6"}


def test_wrong_usage(service: Service) -> None:
    assert service.cli("status", "--kafka-group", "a/b").returncode == 2
