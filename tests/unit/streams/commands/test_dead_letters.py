"""What a dead letter looks like at a terminal and in JSON: whatever its bytes, no control code."""

from __future__ import annotations

import json
import unicodedata
import uuid

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from readstates.schemas.dead_letters import REASONS, Origin
from readstates.streams.cassandra.epochs import Log
from readstates.streams.commands.dead_letters import CURABLE
from readstates.streams.commands.dead_letters import dead_letters as command
from readstates.streams.commands.letters import SHOWN_MAX, Letter, as_json, shown
from readstates.streams.config import Settings

NASTY = st.text(st.characters(categories=["Cc", "Cf", "Zl", "Zp", "Lu", "So"])).map(str.encode)
raw = st.none() | st.binary(max_size=400) | NASTY


def controls(text: str) -> set[str]:
    return {one for one in text if unicodedata.category(one) in ("Cc", "Cf", "Zl", "Zp", "Cs")}


@settings(deadline=None)  # a loaded machine is no failure
@given(raw)
def test_no_control_character_reaches_a_terminal(value: bytes | None) -> None:
    text = shown(value)
    assert not controls(text)
    assert len(text) <= SHOWN_MAX


def test_what_is_shown() -> None:
    assert shown(None) == "null"
    assert shown(b'{"type":"ack"}') == '{"type":"ack"}'
    assert shown(b"\x1b[31m\xff\n") == "\\x1b[31m\\xff\\n"
    assert shown("é…".encode()) == "é…"
    assert shown(b"x" * SHOWN_MAX) == "x" * SHOWN_MAX
    assert shown(b"x" * (SHOWN_MAX + 1)) == "x" * (SHOWN_MAX - 1) + "…"


@settings(deadline=None)
@given(
    raw, raw, st.none() | st.builds(Origin, st.sampled_from(REASONS), st.text(), *[st.just(3)] * 2)
)
def test_json_is_one_line_without_control_characters(
    key: bytes | None, value: bytes | None, origin: Origin | None
) -> None:
    line = as_json(Letter(1, 2, 3, key, value, origin))
    assert not controls(line)
    body = json.loads(line)
    assert (body["kept_partition"], body["kept_offset"]) == (1, "2")
    assert body["reason"] == (origin.reason if origin else None)
    if value is not None and "value" in body:
        assert body["value"].encode() == value


@pytest.mark.parametrize("reason", sorted({*REASONS} - {*CURABLE}))
def test_what_would_only_come_back_is_refused(reason: str) -> None:
    done = CliRunner().invoke(command, ["resend", "--reason", reason, "--yes"])
    assert done.exit_code == 2
    assert "--force" in done.output


def test_an_offset_alone_is_refused() -> None:
    done = CliRunner().invoke(command, ["resend", "--offset", "3"])
    assert done.exit_code == 2
    assert "--partition" in done.output


TOPIC = Settings().updates_topic
LOG = Log(9, uuid.uuid4(), 3, (100, 0, 7), 1_800_000_000_000_000)


def resend(monkeypatch: pytest.MonkeyPatch, letters: list[Letter], *options: str) -> str:
    """What a dry run says of these dead letters, in epoch 9."""
    monkeypatch.setattr("readstates.streams.commands.dead_letters.read", lambda _settings: letters)
    monkeypatch.setattr("readstates.streams.commands.dead_letters._log", lambda _settings: LOG)
    done = CliRunner().invoke(command, ["resend", "--dry-run", *options])
    assert done.exit_code == 0, done.output
    return done.output


def test_what_was_cut_is_never_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Letter(0, 1, 1, b"1", b"{}", Origin("misrouted", TOPIC, 1, 5))
    cut = Letter(0, 2, 2, b"1", b"{", Origin("misrouted", TOPIC, 1, 6, cut=2))
    output = resend(monkeypatch, [whole, cut], "--force")
    assert "1 to send: misrouted 1" in output
    assert "1 left where they are: cut 1" in output


def test_a_whole_batch_is_shown_as_one_and_never_sent_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch = Letter(0, 1, 1, None, b"\x1b\xff", Origin("too_large", TOPIC, 3, 5, 0, 9))
    cut = batch._replace(offset=2, origin=Origin("too_large", TOPIC, 3, 10, 70_000, 19))
    output = resend(monkeypatch, [batch, cut], "--force")
    assert "0 to send" in output
    assert "2 left where they are: a whole batch 2" in output
    output = CliRunner().invoke(command, ["list"]).output
    place = f"too_large       {TOPIC}/3/"
    assert f"{place}5 … 9 a batch of 2 bytes, not read\n" in output
    assert f"{place}10 … 19 a batch of 70000 bytes, not read\n" in output
    body = json.loads(as_json(batch))
    assert (body["offset"], body["last_offset"]) == ("5", "9")


@pytest.mark.parametrize(
    ("reason", "partition", "offset", "options", "sent"),
    [
        ("misrouted", 0, 99, (), False),
        ("misrouted", 0, 99, ("--force",), False),
        ("misrouted", 0, 99, ("--force", "--partition", "0"), False),
        ("misrouted", 0, 99, ("--partition", "0", "--offset", "99"), False),
        ("misrouted", 0, 99, ("--force", "--partition", "0", "--offset", "99"), True),
        ("misrouted", 0, 100, (), True),
        ("misrouted", 1, 0, (), True),
        ("misrouted", 2, 6, (), False),
        ("misrouted", 3, 6, (), True),  # partitions were added and no epoch has begun yet
        ("too_many_states", 0, 99, (), True),  # it was not applied, then or later
    ],
)
def test_what_is_misrouted_only_since_partitions_were_added(
    monkeypatch: pytest.MonkeyPatch,
    reason: str,
    partition: int,
    offset: int,
    options: tuple[str, ...],
    sent: bool,
) -> None:
    letter = Letter(0, 1, 1, b"1", b"{}", Origin(reason, TOPIC, partition, offset))
    output = resend(monkeypatch, [letter], *options)
    assert (f"1 to send: {reason} 1" in output) == sent
    assert ("1 left where they are: before the epoch 1" in output) == (not sent)
    assert ("1 misrouted are from before epoch 9 (since 2027-01-15T08:00:00 UTC)" in output) == (
        not sent
    )
