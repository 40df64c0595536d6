"""What a running system gets is recorded, and fed to another one in its order and with its gaps."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from readstates.ops.local.stack import Stack
from tests.support.service import Service
from tests.support.wire import PARTITIONS, Reply, new_user, partition_of

GAP_S = 1.5
USERS = 6
UPDATES, QUERIES = 2 * USERS + 1, 3 * USERS  # of the recording


@pytest.fixture(scope="module")
def fresh(stack: Stack, folder: Path) -> Iterator[Service]:
    """Other topics, another keyspace."""
    made = Service(stack.env(), folder, "replayed")
    try:
        made.start().wait_ready()
        yield made
    finally:
        made.close()


def without_versions(reply: Reply) -> list[dict[str, Any]]:
    return [{**state, "version": None} for state in reply.states]


def lines_of(file: Path) -> list[dict[str, Any]]:
    head, *lines = map(json.loads, file.read_text("utf-8").splitlines())
    assert head == {"form": "read-states-recording", "version": 1, "partitions": PARTITIONS}
    return lines


class Recording(NamedTuple):
    """A file, what its command said, and what was sent meanwhile."""

    file: Path
    said: str
    users: list[int]
    states: dict[int, list[dict[str, Any]]]  # of each user, at the end

    @property
    def lines(self) -> list[dict[str, Any]]:
        return lines_of(self.file)


@pytest.fixture(scope="module")
def recording(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """Two mentions and three queries of each user, with a pause, and a record that is no JSON."""
    file, wire = tmp_path_factory.mktemp("recording") / "file", service.wire
    argv = ["record", str(file), "--records-max", str(UPDATES + QUERIES)]
    recorder = service.begin(*argv)
    try:
        assert recorder.stderr is not None
        assert recorder.stderr.readline() == "recording\n"
        users = [new_user() for _ in range(USERS)]
        for message in (1, 2):
            for user in users:
                event = {"type": "mention", "channel_id": "1", "message_id": str(message)}
                offset = wire.produce_update(user, event)
                reply = wire.get(user, after_offset=offset)
                assert reply.states[0]["mention_count"] == message
            time.sleep(GAP_S)
        wire.produce_update(users[0], b"\xff no JSON")
        states = {user: without_versions(wire.get(user)) for user in users}
        said, errors = recorder.communicate(timeout=30)
    finally:
        recorder.kill()
        recorder.communicate()
    assert recorder.returncode == 0, errors
    return Recording(file, said, users, states)


def test_a_recording_has_what_was_sent_in_its_order(recording: Recording) -> None:
    assert f"{UPDATES} updates and {QUERIES} queries are in {recording.file}" in recording.said
    lines = recording.lines
    assert {line["key"] for line in lines} == {str(user) for user in recording.users}
    times = [line["timestamp_ms"] for line in lines]
    assert times == sorted(times)
    topics = defaultdict(list)
    for line in lines:
        topics[line["key"]].append(line["topic"])
    for user in recording.users[1:]:
        assert topics[str(user)] == ["updates", "queries"] * 2 + ["queries"], "as they were sent"
    assert lines[-USERS - 1]["value"] == {"base64": "/yBubyBKU09O"}


def test_a_recording_is_its_owners_and_is_not_overwritten(
    service: Service, recording: Recording
) -> None:
    assert recording.file.stat().st_mode & 0o777 == 0o600
    before = recording.file.read_bytes()
    again = service.cli("record", str(recording.file), "--seconds", "1")
    assert again.returncode == 1
    assert "File exists" in again.stderr
    assert recording.file.read_bytes() == before


def test_a_replay_leads_to_the_same_states(fresh: Service, recording: Recording) -> None:
    before = fresh.wire.ends(fresh.wire.updates)
    done = fresh.cli("replay", str(recording.file), "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["updates"], result["queries"]) == (UPDATES, QUERIES)
    assert (result["answered"], result["errors"], result["unanswered"]) == (QUERIES, {}, 0)
    times = [line["timestamp_ms"] for line in recording.lines]
    assert result["took_s"] * 1000 >= times[-1] - times[0], "its gaps are kept"
    assert result["round_trip_ms"]["p50"] > 0
    ends = fresh.wire.ends(fresh.wire.updates)
    arrived = [end - start for start, end in zip(before, ends, strict=True)]
    expected = [0] * PARTITIONS
    for line in recording.lines:
        if line["topic"] == "updates":
            assert line["partition"] == partition_of(int(line["key"]))
            expected[line["partition"]] += 1
    assert arrived == expected
    for user in recording.users:
        after = ends[partition_of(user)] - 1
        reply = fresh.wire.get(user, after_offset=after)
        assert without_versions(reply) == recording.states[user]


def test_a_replay_may_be_faster(service: Service, recording: Recording) -> None:
    done = service.cli("replay", str(recording.file), "--speed", "100", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["answered"] == QUERIES


def test_what_is_no_recording_is_not_sent(service: Service, tmp_path: Path) -> None:
    file = tmp_path / "other"
    file.write_text('{"user_id": "1"}\n')
    before = service.wire.ends(service.wire.updates)
    done = service.cli("replay", str(file))
    assert done.returncode == 1
    assert f"{file}: line 1: not a recording" in done.stderr
    assert service.wire.ends(service.wire.updates) == before
