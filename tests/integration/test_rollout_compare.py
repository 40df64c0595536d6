"""`rollout compare` on real topics, into which the test writes what two roles would write."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from tests.support.service import Make, Service
from tests.support.waiting import until
from tests.support.wire import PARTITIONS, Wire, new_user

GROUP = "candidate-7"
USERS = 6
Body = dict[str, Any]


@pytest.fixture
def topics(services: Make) -> Service:
    """A service without a worker: the test itself answers."""
    made = services(f"roles-{uuid.uuid4().hex[:8]}".replace("-", "_"))
    made.wire.create_topic(f"{made.wire.prefix}.shadow.{GROUP}", PARTITIONS)
    return made


def body(user: int, version: int, *, mentions: int = 2, row_version: int = 100) -> Body:
    row = {
        "channel_id": "5", "read_state_type": 0, "last_message_id": "1", "flags": 0,
        "mention_count": mentions, "last_mention_id": "9", "last_pin_timestamp": 1_234,
        "last_viewed": 0, "version": str(row_version),
    }  # fmt: skip
    return {"user_id": str(user), "version": str(version), "full": True, "read_states": [row]}


def answer(wire: Wire, user: int, live: Body, candidate: Body, *, shadow: str) -> None:
    """A query and its two replies; `shadow`: the role whose reply the client does not get."""
    asked = wire.ask(user)
    key, correlation = str(user).encode(), ("kafka_correlationId", asked)
    replies = {"live": live, "candidate": candidate}
    hidden = json.dumps(replies.pop(shadow)).encode()
    (shown,) = replies.values()
    wire.send(wire.reply_topic, key, json.dumps(shown, indent=1).encode(), [correlation])
    role = ("read-states-role", shadow.encode())
    wire.send(f"{wire.prefix}.shadow.{GROUP}", key, hidden, [correlation, role])


class Compared:
    """A running command."""

    def __init__(self, service: Service, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        self.process = process
        (port,) = re.findall(r"port=(\d+)", process.stderr.readline())
        self._url = f"http://127.0.0.1:{port}/metrics"
        assert process.stderr.readline() == "comparing\n"

    def count(self, result: str) -> int:
        with urlopen(self._url, timeout=30) as got:
            text = got.read().decode()
        (value,) = re.findall(rf'read_states_compared_total{{result="{result}"}} (\S+)', text)
        return int(float(value))

    def end(self) -> tuple[int, Body]:
        self.process.send_signal(signal.SIGTERM)
        said, errors = self.process.communicate(timeout=60)
        assert said, errors
        return self.process.returncode, json.loads(said)


@contextmanager
def comparing(service: Service, *arguments: str) -> Iterator[Compared]:
    argv = ["rollout", "compare", GROUP, "--json", "--metrics-port", "0", *arguments]
    argv += ["--reply-topics", service.wire.reply_topic]  # others have theirs on this broker
    process = service.begin(*argv)
    try:
        yield Compared(service, process)
    finally:
        process.kill()
        process.communicate()


def test_two_roles_that_agree(topics: Service) -> None:
    """At different positions, with either of them hidden from the client."""
    with comparing(topics) as one:
        for number in range(USERS):
            user = new_user()
            live, candidate = body(user, 200), body(user, 200 + number)
            shadow = "live" if number % 2 else "candidate"
            answer(topics.wire, user, live, candidate, shadow=shadow)
        topics.wire.ask(new_user())  # nobody answers it
        until(lambda: one.count("equal") == USERS, "all pairs are compared")
        status, found = one.end()
    assert status == 0
    assert (found["equal"], found["different"], found["not_comparable"]) == (USERS, 0, 0)
    assert (found["without_pair"], found["without_query"]) == (1, 0)


def test_a_difference_is_shown_and_a_later_change_is_none(topics: Service, tmp_path: Path) -> None:
    examples, users = tmp_path / "examples", [new_user() for _ in range(3)]
    with comparing(topics, "--examples", str(examples)) as one:
        for number, user in enumerate(users):
            candidate = body(user, 210)
            if number == 1:
                candidate = body(user, 210, mentions=1)
            if number == 2:
                candidate = body(user, 210, mentions=1, row_version=205)
            answer(topics.wire, user, body(user, 200), candidate, shadow="candidate")
        until(lambda: one.count("not_comparable") == 1, "the last pair is compared")
        assert (one.count("equal"), one.count("different")) == (1, 1)
        status, found = one.end()
    assert status == 1
    assert found["fields"] == {"read_states.mention_count": 1}
    lines = [json.loads(line) for line in examples.read_text("utf-8").splitlines()]
    (shown,) = (line for line in lines if line["result"] == "different")
    assert shown["query"]["user_id"] == str(users[1])
    (difference,) = shown["differences"]
    assert (difference["live"], difference["candidate"]) == (2, 1)
    assert (difference["version"], difference["offset"]) == ("100", "99")


def test_nothing_compared_is_no_success(topics: Service) -> None:
    done = topics.cli("rollout", "compare", GROUP, "--seconds", "1")
    assert (done.returncode, "0 equal, 0 different, 0 not comparable" in done.stdout) == (1, True)
    done = topics.cli("rollout", "compare", "another", "--seconds", "1")
    assert (done.returncode, "shadow.another does not exist" in done.stderr) == (1, True)
