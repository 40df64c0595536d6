"""Read states exported as replies and imported elsewhere are the same, version apart."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from readstates.ops.local.stack import Stack
from tests.support.service import Service
from tests.support.wire import PARTITIONS, Reply, Wire, new_user, partition_of

CHANNELS: list[list[dict[str, Any]]] = [
    [{"type": "ack", "message_id": "30", "flags": 5, "last_viewed": 19_700}],
    [
        {"type": "ack", "message_id": "10"},
        {"type": "mention", "message_id": "12"},
        {"type": "mention", "message_id": "14"},
    ],
    [{"type": "mention", "message_id": str(n)} for n in (7, 9, 8)],
    [
        {"type": "mention", "message_id": "7"},
        {"type": "mention", "message_id": "8"},
        {"type": "retract_mention", "message_id": "7"},
    ],
    [{"type": "ack", "message_id": "9", "manual": True, "mention_count": 2**32 - 1, "flags": 1}],
    [{"type": "pins_ack", "timestamp": 2**48 - 1}],
    [{"type": "set", "flags": 2}],
    [
        {"type": "mention", "message_id": str(2**63 - 1), "read_state_type": 2},
        {"type": "ack", "message_id": "1", "read_state_type": 2},
        {"type": "pins_ack", "timestamp": 5, "read_state_type": 2},
    ],
]


@pytest.fixture(scope="module")
def fresh(stack: Stack, folder: Path) -> Iterator[Service]:
    """Other topics, another keyspace."""
    made = Service(stack.env(), folder, "imported")
    try:
        made.start().wait_ready()
        yield made
    finally:
        made.close()


def fill(wire: Wire, user: int) -> Reply:
    for channel, events in enumerate(CHANNELS, 100):
        for event in events:
            offset = wire.produce_update(user, {"channel_id": str(channel), **event})
    return wire.get(user, after_offset=offset, mentions=True)


def without_versions(reply: Reply) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in state.items() if name != "version"}
        for state in reply.states
    ]


def test_export_and_import(wire: Wire, fresh: Service, tmp_path: Path) -> None:
    replies = {user: fill(wire, user) for user in (new_user(n % PARTITIONS) for n in range(5))}
    file = tmp_path / "states.jsonl"
    with file.open("w") as out:
        for number, (user, reply) in enumerate(replies.items()):
            if number % 2:  # a whole reply a line, or one read state a line
                out.write(json.dumps(reply.value) + "\n")
            else:
                states = ({"user_id": str(user), **state} for state in reply.states)
                out.writelines(json.dumps(state) + "\n" for state in states)
            out.write("\n")

    records = 5 * len(CHANNELS)
    done = fresh.cli("import", str(file), "--dry-run")
    assert (done.returncode, done.stdout) == (0, f"{records} records, none sent\n")
    assert fresh.wire.ends(fresh.wire.updates) == [0] * PARTITIONS

    done = fresh.cli("import", str(file), "--json")
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    ends = fresh.wire.ends(fresh.wire.updates)
    assert printed["records"] == sum(ends) == records
    assert printed["last_offsets"] == {str(n): str(end - 1) for n, end in enumerate(ends) if end}
    for user, reply in replies.items():
        last = int(printed["last_offsets"][str(partition_of(user))])
        found = fresh.wire.get(user, after_offset=last, mentions=True)
        assert without_versions(found) == without_versions(reply)
        assert len(found.states) == len(CHANNELS)

    user, reply = next(iter(replies.items()))
    last = read_on(fresh.wire, user, reply)

    # an old snapshot changes nothing of what is newer
    newer = fresh.wire.get(user, after_offset=last, mentions=True)
    found = again(fresh, file, user)
    read = [state for state in found.states if state["last_message_id"] == "99"]
    assert len(read) == len(CHANNELS) - 1
    assert [(s["mention_count"], s["mentions"]) for s in read] == [(0, [])] * len(read)
    assert found.states == newer.states

    # to replace, it has to be told so
    found = again(fresh, file, user, "--mode", "replace")
    assert without_versions(found) == without_versions(reply)


def read_on(wire: Wire, user: int, reply: Reply) -> int:
    """The user reads all that there is, but for what mentions them in a message yet to come."""
    for state in reply.states:
        place = {name: state[name] for name in ("channel_id", "read_state_type")}
        if int(state["last_mention_id"]) < 99:
            offset = wire.produce_update(user, {"type": "ack", "message_id": "99", **place})
    return offset


def again(service: Service, file: Path, user: int, *options: str) -> Reply:
    done = service.cli("import", str(file), *options)
    assert done.returncode == 0, done.stderr
    last = service.wire.ends(service.wire.updates)[partition_of(user)] - 1
    assert f"partition {partition_of(user)}: up to offset {last}\n" in done.stdout
    return service.wire.get(user, after_offset=last, mentions=True)


def test_nothing_is_sent_of_a_file_with_a_wrong_line(service: Service, tmp_path: Path) -> None:
    file = tmp_path / "wrong.jsonl"
    good = '{"user_id":"1","channel_id":"2","last_message_id":"3"}\n'
    file.write_text(
        good + "\n" + good.replace('"3"', '"x"') + good.replace('"3"}', '"3","mentions":[3]}')
    )
    before = service.wire.ends(service.wire.updates)
    done = service.cli("import", str(file))
    assert done.returncode == 1
    assert "line 3: last_message_id: expected an integer 0 " in done.stderr
    assert "line 4: mentions has message 3, but 3 was read" in done.stderr
    assert "2 lines" in done.stderr
    assert "nothing was sent" in done.stderr
    assert service.wire.ends(service.wire.updates) == before


def test_the_lines_in_the_help_can_be_imported(service: Service, tmp_path: Path) -> None:
    text = service.cli("import", "--help").stdout
    lines = [line.strip() for line in text.splitlines() if line.strip().startswith('{"')]
    assert len(lines) == 2
    file = tmp_path / "states.jsonl"
    file.write_text("\n".join(lines), "utf-8")
    done = service.cli("import", "--dry-run", str(file))
    assert (done.returncode, done.stdout) == (0, "2 records, none sent\n"), done.stderr


def test_a_file_without_read_states_does_not_look_imported(
    service: Service, tmp_path: Path
) -> None:
    file = tmp_path / "empty.jsonl"
    file.write_text("\n", "utf-8")
    done = service.cli("import", str(file))
    assert done.returncode == 0
    assert "nothing was sent" in done.stdout
