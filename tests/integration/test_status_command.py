"""`readstates status` while all is well, and while parts are away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from readstates.ops.local.stack import Stack
from readstates.streams.commands.status_printing import NOTHING_WRONG
from tests.support.service import Service
from tests.support.waiting import until
from tests.support.wire import PARTITIONS, new_user, partition_of

ACK = {"type": "ack", "channel_id": "5", "message_id": "6"}


def ask(service: Service) -> tuple[int, dict[str, Any]]:
    done = service.cli("status", "--json")
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.fixture(scope="module")
def watched(stack: Stack, folder: Path) -> Iterator[Service]:
    """A service with one worker, which writes nothing out for a while."""
    made = Service(stack.env(), folder, "status", flush_delay_s=60)
    try:
        made.start(instance_id="one").wait_ready()
        yield made
    finally:
        made.close()


@pytest.fixture
def unattended(stack: Stack, folder: Path) -> Iterator[Service]:
    """A service without a worker."""
    made = Service(stack.env(), folder, "unattended")
    yield made
    made.close()


def place_of(service: Service, user: int) -> dict[str, Any]:
    """What is shown of the user's partition."""
    place: dict[str, Any] = ask(service)[1]["kafka"]["partitions"][partition_of(user)]
    return place


def applied(service: Service, user: int) -> int:
    """An update of the user that its worker has applied; returns its offset."""
    offset = service.wire.produce_update(user, ACK)
    service.wire.get(user, after_offset=offset)
    until(
        lambda: place_of(service, user)["metadata"] == f"live:{offset + 1}",
        "a commit that says how far",
    )
    return offset


def test_all_is_well(watched: Service) -> None:
    code, shown = ask(watched)
    assert (code, shown["problems"], shown["ok"]) == (0, [], True)
    (member,) = shown["kafka"]["members"]
    assert (member["instance_id"], member["partitions"]) == ("one", list(range(PARTITIONS)))
    assert shown["cassandra"]["epoch"] == 8
    assert shown["cassandra"]["topic_id"] == shown["kafka"]["topic_id"]
    assert shown["cassandra"]["partitions"] == len(shown["kafka"]["partitions"]) == PARTITIONS
    text = watched.cli("status")
    assert (text.returncode, text.stdout.splitlines()[-1]) == (0, NOTHING_WRONG)


def test_what_is_applied_and_not_yet_in_cassandra_is_lag(watched: Service) -> None:
    user = new_user()
    offset = applied(watched, user)
    place = place_of(watched, user)
    assert (place["log_end"], place["committed"]) == (str(offset + 1), str(offset))
    assert (place["updates_lag"], place["owner"]) == (1, "one")


@pytest.mark.parametrize(
    ("setting", "value", "away", "other", "said"),
    [
        ("CASSANDRA_PORT", "1", "cassandra", "kafka", "Cassandra: no Cassandra at "),
        ("KAFKA_BOOTSTRAP", "127.0.0.1:1", "kafka", "cassandra", "Kafka: no Kafka answers at "),
    ],
)
def test_a_part_that_is_away_is_named_and_the_other_is_shown(
    watched: Service,
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
    value: str,
    away: str,
    other: str,
    said: str,
) -> None:
    monkeypatch.setitem(watched.env, f"READ_STATES_{setting}", value)
    code, shown = ask(watched)
    assert (code, shown[away]) == (1, None)
    (problem,) = shown["problems"]
    assert problem.startswith(said)
    assert shown[other] is not None


def test_a_group_without_a_worker(unattended: Service) -> None:
    alone = f"group {unattended.group} has no members: no worker is running"

    def nobody() -> list[str] | None:  # brokers of a new stack first make their coordinator
        code, shown = ask(unattended)
        assert code == 1
        problems: list[str] = shown["problems"]
        return problems if alone in problems else None

    unowned = f"partitions 0-{PARTITIONS - 1} have no owner: updates and queries wait"
    assert until(nobody, alone, 120) == [alone, unowned]


def test_a_worker_that_left_in_order(unattended: Service) -> None:
    worker = unattended.start(instance_id="one")
    worker.wait_ready()
    user = new_user()
    offset = applied(unattended, user)
    assert worker.stop() == 0
    # a static member counts until its session is over
    until(lambda: ask(unattended)[0], "partitions without an owner")
    code, shown = ask(unattended)
    assert code == 1
    assert len(shown["problems"]) == 2
    place = place_of(unattended, user)
    assert (place["metadata"], place["updates_lag"]) == (f"clean:{offset + 1}", 0)


def test_dead_workers_that_kafka_still_counts(stack: Stack, folder: Path) -> None:
    """Kafka cannot know yet: so the command may not say that all is well without saying that."""
    service = Service(stack.env(), folder, "dead", session_timeout_s=30)
    try:
        workers = [service.start() for _ in range(2)]
        for worker in workers:
            worker.wait_ready()
        for worker in workers:
            worker.kill()
        shown = ask(service)[1]["kafka"]
        assert (len(shown["members"]), shown["death_unseen_s"]) == (2, 30.0)
        text = service.cli("status").stdout
        assert "A worker that died within the last 30 s (SESSION_TIMEOUT_S) still counts" in text
        assert "nothing is wrong" not in text
    finally:
        service.close()


@pytest.fixture
def rewound(stack: Stack, folder: Path) -> Iterator[Service]:
    made = Service(stack.env(), folder, "rewound")
    yield made
    made.close()


def test_what_is_to_be_folded_again_is_not_called_well(rewound: Service) -> None:
    """From `readstates rewind` until workers have written the log out again."""
    service, users = rewound, [new_user(number) for number in range(PARTITIONS)]
    worker = service.start()
    worker.wait_ready()
    for user in users:
        service.wire.produce_update(user, ACK)
    service.wait_durable(service.wire.ends(service.wire.updates))
    assert worker.stop() == 0
    until(lambda: "has no members" in service.cli("status").stdout, "no members", 60)
    assert "old and not known to be" not in service.cli("status").stdout
    done = service.cli("rewind", "--to-time", "2000-01-01")
    again = f"{len(users)} records will be folded again"
    assert again in done.stdout, done.stderr

    def is_told() -> bool:  # once these updates are old enough
        return f"{len(users)} updates are more than 6.4 s old" in (service.cli("status").stdout)

    until(is_told, "the replay to come is told")
    assert "somebody moved the commits back" in service.cli("status").stdout
    done = service.cli("rewind", "--to-time", "2000-01-01")
    assert done.returncode == 0
    assert "no commit was moved" in done.stdout
    service.start().wait_ready()
    service.wait_durable(service.wire.ends(service.wire.updates))
    until(lambda: ask(service)[0] == 0, "all is well", 60)


def test_wrong_usage(watched: Service) -> None:
    assert watched.cli("status", "--kafka-group", "a/b").returncode == 2
