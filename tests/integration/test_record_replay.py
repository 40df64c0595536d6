"""What a running system gets is recorded, and fed to another one in its order and with its gaps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from readstates.ops.local.stack import Stack
from tests.support.service import Service
from tests.support.wire import PARTITIONS, Reply, new_user, partition_of

GAP_S = 1.5
USERS = 6


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


def test_record_then_replay(service: Service, fresh: Service, tmp_path: Path) -> None:
    file, wire = tmp_path / "recording", service.wire
    count = 5 * USERS + 1
    argv = ["record", str(file), "--records-max", str(count)]
    recorder = subprocess.Popen(
        [sys.executable, "-m", "readstates.streams.cli", *argv],
        env={**os.environ, **service.env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
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
        expected = {user: without_versions(wire.get(user)) for user in users}
        mine = {str(user) for user in users}
        said, told = recorder.communicate(timeout=30)
    finally:
        recorder.kill()
        recorder.communicate()
    assert recorder.returncode == 0, told
    assert f"{2 * USERS + 1} updates and {3 * USERS} queries are in {file}" in said
    assert file.stat().st_mode & 0o777 == 0o600

    lines = lines_of(file)
    assert {line["key"] for line in lines} == mine
    times = [line["timestamp_ms"] for line in lines]
    assert times == sorted(times)
    seen = defaultdict(list)
    for line in lines:
        seen[line["key"]].append(line["topic"])
    for user in users[1:]:
        assert seen[str(user)] == ["updates", "queries"] * 2 + ["queries"], "as they were sent"
    assert lines[-USERS - 1]["value"] == {"base64": "/yBubyBKU09O"}

    again = service.cli("record", str(file), "--seconds", "1")
    assert again.returncode == 1
    assert "File exists" in again.stderr

    before = fresh.wire.ends(fresh.wire.updates)
    done = fresh.cli("replay", str(file), "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["updates"], found["queries"]) == (2 * USERS + 1, 3 * USERS)
    assert (found["answered"], found["errors"], found["unanswered"]) == (3 * USERS, {}, 0)
    assert found["took_s"] * 1000 >= times[-1] - times[0], "its gaps are kept"
    assert found["round_trip_ms"]["p50"] > 0
    ends = fresh.wire.ends(fresh.wire.updates)
    came = [end - start for start, end in zip(before, ends, strict=True)]
    wanted = [0] * PARTITIONS
    for line in lines:
        if line["topic"] == "updates":
            assert line["partition"] == partition_of(int(line["key"]))
            wanted[line["partition"]] += 1
    assert came == wanted
    for user in users:
        after = ends[partition_of(user)] - 1
        assert without_versions(fresh.wire.get(user, after_offset=after)) == expected[user]

    faster = fresh.cli("replay", str(file), "--speed", "100", "--json")
    assert faster.returncode == 0, faster.stderr
    assert json.loads(faster.stdout)["answered"] == 3 * USERS


def test_what_is_no_recording_is_not_sent(service: Service, tmp_path: Path) -> None:
    file = tmp_path / "other"
    file.write_text('{"user_id": "1"}\n')
    before = service.wire.ends(service.wire.updates)
    done = service.cli("replay", str(file))
    assert done.returncode == 1
    assert f"{file}: line 1: not a recording" in done.stderr
    assert service.wire.ends(service.wire.updates) == before
