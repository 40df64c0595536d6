"""A recording with other IDs is replayed: the read states are those of the original."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from readstates.streams.commands.id_permutation import NewIds
from tests.support.service import Make, Service
from tests.support.waiting import until
from tests.support.wire import PARTITIONS, Wire, new_user, partition_of

KEY = bytes(range(100, 132))
CHANNELS = (10**18 + 7, 10**18 + 8)
MESSAGES = [10**18 + 10**9 * number for number in range(1, 6)]
USERS = 6
QUERIES_EACH = 2


def traffic(wire: Wire, user: int) -> dict[int, dict[str, Any]]:
    """Events and queries; returns the user's read states by channel."""
    for channel in CHANNELS:
        for message in MESSAGES:
            event = {"type": "mention", "channel_id": str(channel), "message_id": str(message)}
            wire.produce_update(user, {**event, "text": "private words"})
    wire.produce_update(user, {"type": "pins_ack", "channel_id": str(CHANNELS[1]), "timestamp": 5})
    last = {"type": "ack", "channel_id": str(CHANNELS[0]), "message_id": str(MESSAGES[1])}
    offset = wire.produce_update(user, last)
    wire.get(user, limit=1)
    reply = wire.get(user, after_offset=offset, mentions=True, totals=True)
    return {int(state["channel_id"]): state for state in reply.states}


def record(service: Service, folder: Path) -> tuple[Path, dict[int, dict[int, dict[str, Any]]]]:
    file, key = folder / "file", folder / "key"
    key.write_bytes(KEY)
    argv = ["record", str(file), "--replies", "--anonymise", "--key-file", str(key)]
    argv += ["--reply-topics", service.wire.reply_topic]  # others have theirs on this broker
    recorder = service.begin(*argv)
    try:
        assert recorder.stderr is not None
        assert recorder.stderr.readline() == "recording\n"
        users = [new_user() for _ in range(USERS)]
        states = {user: traffic(service.wire, user) for user in users}

        def is_read() -> bool:
            event = {"type": "mention", "channel_id": "3", "message_id": "1"}
            service.wire.produce_update(users[0], event)
            return file.read_bytes().count(b'"replies"') == USERS

        until(is_read, "the replies are written", 30)
        recorder.send_signal(signal.SIGTERM)
        said, errors = recorder.communicate(timeout=30)
    finally:
        recorder.kill()
        recorder.communicate()
    assert recorder.returncode == 0, errors
    assert f"{USERS * QUERIES_EACH} queries and {USERS} replies are in" in said
    assert f"{USERS} records could not be anonymised" in said, "the replies of pages"
    return file, states


def test_a_replay_gives_the_read_states_with_other_ids(
    service: Service, services: Make, tmp_path: Path
) -> None:
    file, states = record(service, tmp_path)
    text = file.read_text("utf-8")
    for old in (*states, *CHANNELS, *MESSAGES, "private", service.wire.reply_topic):
        assert str(old) not in text
    assert file.stat().st_mode & 0o777 == 0o600

    other = services("anonymous")
    other.start().wait_ready()
    done = other.cli("replay", str(file), "--compare", "--json", "--speed", "20")
    found = json.loads(done.stdout)["compared"]
    assert (done.returncode, found["different"], found["unanswered"]) == (0, 0, 0), found
    assert found["equal"] + found["not_comparable"] == USERS
    assert found["equal"] > 0

    ids, ends = NewIds(KEY, PARTITIONS), other.wire.ends(other.wire.updates)
    for user, channels in states.items():
        new = ids.user(user)
        assert partition_of(new) == partition_of(user)
        reply = other.wire.get(new, after_offset=ends[partition_of(new)] - 1, mentions=True)
        seen = {int(state["channel_id"]): state for state in reply.states}
        for channel in CHANNELS:
            old, state = channels[channel], seen[ids.channel(channel)]
            assert state["mentions"] == [
                str(ids.message(channel, int(message))) for message in old["mentions"]
            ]
            assert int(state["last_message_id"]) == ids.message(
                channel, int(old["last_message_id"])
            )
            assert state["last_pin_timestamp"] == old["last_pin_timestamp"]
            assert state["mention_count"] == old["mention_count"] > 0


@pytest.mark.parametrize("size", [0, 15, 65])
def test_a_key_must_have_the_right_length(service: Service, tmp_path: Path, size: int) -> None:
    key, file = tmp_path / "key", tmp_path / "file"
    key.write_bytes(bytes(size))
    done = service.cli("record", str(file), "--anonymise", "--key-file", str(key))
    assert done.returncode == 2
    assert "must have 16 to 64 bytes" in done.stderr
    done = service.cli("record", str(file), "--key-file", str(key))
    assert (done.returncode, "--key-file is for --anonymise" in done.stderr) == (2, True)
    assert not file.exists()
