"""Replies are recorded, and a replay compares its own with them: real brokers, real workers."""

from __future__ import annotations

import json
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from readstates.ops.local.stack import Stack
from tests.support.service import Service
from tests.support.waiting import until
from tests.support.wire import PARTITIONS, Wire, new_user, partition_of

USERS = 8
REORDER_S = 2.5  # a recorder writes a record when a newer one came, or at its end
Line = dict[str, Any]


class Taken(NamedTuple):
    """A recording with its replies."""

    file: Path
    users: list[int]

    @property
    def lines(self) -> list[Line]:
        return [json.loads(line) for line in self.file.read_text("utf-8").splitlines()]


def traffic(wire: Wire, user: int) -> None:
    """Queries of every kind, among updates; each is answered before the next is sent."""
    for channel in (5, 40, 100):
        wire.produce_update(
            user, {"type": "mention", "channel_id": str(channel), "message_id": str(channel + 1)}
        )
    wire.produce_update(user, {"type": "pins_ack", "channel_id": "5", "timestamp": 1_234})
    offset = wire.produce_update(user, {"type": "ack", "channel_id": "40", "message_id": "41"})
    first = wire.get(user, after_offset=offset)
    wire.get(user, totals=True, mentions=True)
    wire.get(user, limit=2)
    wire.get(user, mentioned=True, channel_ids=["5", "9"])
    offset = wire.produce_update(user, {"type": "delete", "channel_id": "100"})
    wire.get(user, after_offset=offset, since_version=first.value["version"])
    offset = wire.produce_update(user, {"type": "ack", "channel_id": "5", "message_id": "2"})
    wire.get(user, after_offset=offset, since_version=first.value["version"])
    assert wire.refused(user, {"limit": 0}).error == "invalid_query"


def ask_as_faust(wire: Wire, user: int, topic: str) -> None:
    asked = uuid.uuid4().hex.encode()
    headers = [("Faust-Ag-ReplyTo", topic.encode()), ("Faust-Ag-CorrelationId", asked)]
    wire.ask(user, None, headers)


QUERIES_EACH = 7


@pytest.fixture(scope="module")
def taken(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Taken:
    file, wire = tmp_path_factory.mktemp("replies") / "file", service.wire
    recorder = service.begin("record", str(file), "--replies")
    try:
        assert recorder.stderr is not None
        assert recorder.stderr.readline() == "recording\n"
        users = [new_user() for _ in range(USERS)]
        for user in users:
            traffic(wire, user)
        late = f"f-reply-{uuid.uuid4()}"  # made while the recorder runs
        wire.create_topic(late)
        ask_as_faust(wire, users[0], late)
        until(lambda: wire.ends(late, 1) == [1], "the reply in Faust's dialect")

        def is_recorded() -> bool:
            wire.produce_update(users[0], {"type": "mention", "channel_id": "7", "message_id": "1"})
            return late.encode() in file.read_bytes()

        until(is_recorded, "the late reply topic is read", REORDER_S * 10)
        recorder.send_signal(signal.SIGTERM)
        said, errors = recorder.communicate(timeout=30)
    finally:
        recorder.kill()
        recorder.communicate()
    assert recorder.returncode == 0, errors
    assert f"{USERS * QUERIES_EACH + 1} replies are in" in said
    return Taken(file, users)


@pytest.fixture(scope="module")
def replayed(stack: Stack, folder: Path) -> Iterator[Service]:
    """Other topics, another keyspace, and other offsets: its log begins with other users."""
    made = Service(stack.env(), folder, "compared")
    try:
        made.start().wait_ready()
        for number in range(PARTITIONS):
            for _ in range(3 + number):
                event = {"type": "ack", "channel_id": "1", "message_id": "1"}
                made.wire.produce_update(new_user(number), event)
        yield made
    finally:
        made.close()


def changed(taken: Taken, folder: Path, change: Callable[[Line], None], user: int) -> Path:
    """The recording, with the last whole reply of one user changed."""
    lines = taken.lines
    replies = [
        line
        for line in lines[1:]
        if line["topic"] == "replies" and line["key"] == str(user) and '"totals"' in line["value"]
    ]
    body = json.loads(replies[-1]["value"])
    change(body)
    replies[-1]["value"] = json.dumps(body)
    file = folder / "changed"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return file


def test_a_recording_has_the_replies_and_the_offsets(taken: Taken, wire: Wire) -> None:
    lines = taken.lines[1:]
    replies = [line for line in lines if line["topic"] == "replies"]
    assert len(replies) == USERS * QUERIES_EACH + 1
    topics = {dict(line["headers"])["kafka_replyTopic"] for line in replies}
    assert topics > {wire.reply_topic}
    asked = [line for line in lines if line["topic"] == "queries"]
    correlations = [dict(map(tuple, line["headers"])) for line in asked]
    names = {"kafka_correlationId", "Faust-Ag-CorrelationId"}
    ids = {str(value) for headers in correlations for n, value in headers.items() if n in names}
    assert {
        str(dict(map(tuple, line["headers"]))["kafka_correlationId"]) for line in replies
    } == ids
    offsets: dict[int, list[int]] = {}
    for line in lines:
        assert ("offset" in line) == (line["topic"] == "updates")
        if "offset" in line:
            offsets.setdefault(line["partition"], []).append(line["offset"])
    assert all(each == sorted(set(each)) for each in offsets.values())


def compare(service: Service, file: Path, *arguments: str) -> tuple[int, Line]:
    done = service.cli("replay", str(file), "--compare", "--json", *arguments)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)["compared"]


def test_the_same_service_gives_the_same_replies(taken: Taken, replayed: Service) -> None:
    """Into other topics, at other offsets: every pair is equal, unless an update came between."""
    status, found = compare(replayed, taken.file)
    assert status == 0, found
    assert (found["different"], found["unanswered"], found["not_recorded"]) == (0, 0, 0)
    assert found["equal"] + found["not_comparable"] == USERS * QUERIES_EACH + 1
    assert found["equal"] > 0


def test_a_changed_reply_is_found_with_its_offset(
    taken: Taken, service: Service, tmp_path: Path
) -> None:
    """The recorded queries are asked again on the same log."""
    user = taken.users[3]

    def change(body: Line) -> None:
        for state in body["read_states"]:
            state["last_pin_timestamp"] -= state["last_pin_timestamp"] % 1000

    status, found = compare(service, taken.file, "--queries-only", "--speed", "50")
    assert (status, found["different"], found["unanswered"]) == (0, 0, 0)
    file, examples = changed(taken, tmp_path, change, user), tmp_path / "examples"
    status, found = compare(
        service, file, "--queries-only", "--speed", "50", "--examples", str(examples)
    )
    assert examples.stat().st_mode & 0o777 == 0o600
    shown = [json.loads(line) for line in examples.read_text("utf-8").splitlines()]
    # After that reply, channel 5 was acknowledged: the log may be why it differs now.
    assert (status, found["different"]) == (0, 0)
    mine = [e for e in shown if e["query"]["user_id"] == str(user) and e["query"].get("totals")]
    assert [example["result"] for example in mine] == ["not_comparable"]

    def forget(body: Line) -> None:
        (state,) = (s for s in body["read_states"] if s["channel_id"] == "40")
        state["last_message_id"] = "40"

    file, examples = changed(taken, tmp_path, forget, user), tmp_path / "more"
    status, found = compare(
        service, file, "--queries-only", "--speed", "50", "--examples", str(examples)
    )
    assert (status, found["different"]) == (1, 1), found
    assert found["fields"] == {"read_states.last_message_id": 1}
    shown = [json.loads(line) for line in examples.read_text("utf-8").splitlines()]
    (example,) = (each for each in shown if each["result"] == "different")
    (difference,) = example["differences"]
    assert difference["field"] == "read_states[0:40].last_message_id"
    assert (difference["recorded"], difference["replayed"]) == ("40", "41")
    acks = [
        line
        for line in taken.lines[1:]
        if line["topic"] == "updates" and line["key"] == str(user) and '"ack"' in line["value"]
    ]
    assert (example["partition"], int(difference["offset"])) == (
        partition_of(user),
        acks[0]["offset"],
    )


def pairs(folder: Path, found: list[tuple[Line, Line]]) -> Path:
    file = folder / "pairs"
    lines = [json.dumps({"query": query, "reply": reply}) + "\n" for query, reply in found]
    file.write_text("".join(lines), "utf-8")
    return file


def test_pairs_of_another_service(taken: Taken, service: Service, tmp_path: Path) -> None:
    """Its versions, if it has any, are others; its read states were imported and are at rest."""
    found = []
    for user in taken.users:
        reply = service.wire.get(user, mentions=True).value
        query = {"type": "get", "user_id": str(user), "mentions": True}
        found.append((query, reply))
    file = pairs(tmp_path, found)
    status, result = compare(service, file)
    assert (status, result["equal"]) == (0, USERS)
    for _, reply in found:
        del reply["version"]
        for state in reply["read_states"]:
            state["version"] = "5"
    status, result = compare(service, pairs(tmp_path, found))
    assert (status, result["different"]) == (1, USERS)
    status, result = compare(service, pairs(tmp_path, found), "--other-log")
    assert (status, result["equal"]) == (0, USERS)
    found[2][1]["read_states"][0]["mention_count"] = str(
        found[2][1]["read_states"][0]["mention_count"]
    )
    status, result = compare(service, pairs(tmp_path, found), "--other-log")
    assert (status, result["equal"], result["different"]) == (1, USERS - 1, 1)
    assert result["fields"] == {"read_states.mention_count": 1}


def test_a_recording_without_replies_compares_nothing(
    taken: Taken, service: Service, tmp_path: Path
) -> None:
    """An exit status of 0 must mean that something was compared."""
    lines = taken.file.read_text("utf-8").splitlines(keepends=True)
    file = tmp_path / "without"
    file.write_text("".join(line for line in lines if '"replies"' not in line), "utf-8")
    status, found = compare(service, file, "--queries-only", "--speed", "50")
    assert (status, found["equal"]) == (1, 0)
    assert found["not_recorded"] == USERS * QUERIES_EACH + 1


def test_topics_with_other_partitions_cannot_be_compared(
    taken: Taken, service: Service, tmp_path: Path
) -> None:
    before = service.wire.ends(service.wire.updates)
    file = tmp_path / "wider"
    file.write_text(
        taken.file.read_text("utf-8").replace(f'"partitions":{PARTITIONS}', '"partitions":64', 1)
    )
    done = service.cli("replay", str(file), "--compare")
    assert done.returncode == 1
    assert "recorded topics have 64 partitions" in done.stderr
    time.sleep(0.1)
    assert service.wire.ends(service.wire.updates) == before
