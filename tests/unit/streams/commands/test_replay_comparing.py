"""Recorded and new replies find each other, in whatever order they come."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from readstates.streams.commands import replay_comparing
from readstates.streams.commands.recording import (
    QUERIES,
    REPLIES,
    UPDATES,
    Recorded,
    RecordingError,
)
from readstates.streams.commands.replay_comparing import RECORDED_WAIT_MS, Comparing
from readstates.streams.commands.replaying import asked_anew
from readstates.streams.commands.reply_pairs import is_recording, read_pairs
from readstates.streams.comparison.tally import Sides, Tally
from readstates.streams.comparison.two_logs import TwoLogs

TOPIC = b"p.replies.gateway"
BITS = 8 << 48


def comparing(logs: TwoLogs | None = None, *, other_log: bool = False) -> Comparing:
    return Comparing(Tally(Sides("recorded", "replayed")), logs, other_log)


def query(number: int, timestamp_ms: int = 1000, **more: Any) -> Recorded:
    value = json.dumps({"type": "get", "user_id": "1", **more}).encode()
    headers: list[tuple[str, bytes | None]] = [
        ("kafka_replyTopic", TOPIC), ("kafka_correlationId", b"%d" % number)
    ]  # fmt: skip
    return Recorded(timestamp_ms, QUERIES, 0, b"1", value, headers)


def ask(one: Comparing, number: int, timestamp_ms: int = 1000, **more: Any) -> Recorded:
    record = query(number, timestamp_ms, **more)
    anew = asked_anew(record, "p.replies.replay", b"new %d" % number, 5000)
    return one.asked(record, anew, b"new %d" % number)


def body(version: int = BITS | 1, **more: Any) -> bytes:
    made = {"user_id": "1", "version": str(version), "full": True, "read_states": [], **more}
    return json.dumps(made).encode()


def recorded(number: int, value: bytes, topic: bytes = TOPIC) -> Recorded:
    headers = [("kafka_correlationId", b"%d" % number), ("kafka_replyTopic", topic)]
    return Recorded(1000, REPLIES, 3, b"1", value, list(headers))


def counts(one: Comparing) -> tuple[int, ...]:
    return (*one.tally.counts.values(), one.unanswered, one.not_recorded, one.unexpected)


def test_pairs_in_any_order() -> None:
    one = comparing()
    for number in (1, 2, 3):
        ask(one, number)
    one.recorded(recorded(1, body()))
    one.replied(b"new 1", body(), {})
    one.replied(b"new 2", body(), {})
    one.settle(2000)
    one.recorded(recorded(2, body()))
    one.recorded(recorded(2, body(user_id="9")))  # the client took the first
    one.recorded(recorded(4, body()))  # before its query
    one.recorded(recorded(3, body(), b"p.replies.other"))  # another client's number
    ask(one, 4)
    one.replied(b"new 4", body(full=False), {})
    one.settle(2000)
    assert counts(one) == (2, 1, 0, 0, 0, 0)
    one.finish()
    assert counts(one) == (2, 1, 0, 0, 1, 1), "3 has no reply on either side"
    assert not one.is_good


def test_a_query_without_a_new_reply_is_not_good() -> None:
    one = comparing()
    for number in (1, 2):
        ask(one, number)
        one.recorded(recorded(number, body()))
    one.replied(b"new 1", body(), {})
    one.finish()
    assert counts(one) == (1, 0, 0, 1, 0, 0)
    assert not one.is_good


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_comparing, "EARLY_MAX", 2)
    one = comparing()
    for number in range(5):
        one.recorded(recorded(number, body()))
    assert one.unexpected == 3
    ask(one, 7, timestamp_ms=1000)
    one.settle(1000 + RECORDED_WAIT_MS)
    assert one.not_recorded == 0
    one.settle(1001 + RECORDED_WAIT_MS)
    assert one.not_recorded == 1
    one.replied(b"new 7", body(), {})
    one.finish()
    assert counts(one) == (0, 0, 0, 0, 1, 5)


def test_the_codes_header_counts_and_the_others_do_not() -> None:
    one = comparing()
    error = json.dumps({"user_id": "1", "error": {"code": "overloaded", "message": "x"}}).encode()
    for number, header in ((1, {"read-states-error": b"overloaded", "more": b""}), (2, {})):
        ask(one, number)
        line = recorded(number, error)
        line.headers.append(("read-states-error", b"overloaded"))
        one.recorded(line)
        one.replied(b"new %d" % number, error, header)
    one.finish()
    assert counts(one)[:2] == (1, 1)


def test_a_reply_in_fausts_dialect_is_the_reply_inside() -> None:
    one = comparing()
    ask(one, 1)
    wrapped = {"key": "1", "value": json.loads(body()), "correlation_id": "1", "__faust": {}}
    one.recorded(recorded(1, json.dumps(wrapped).encode()))
    one.replied(b"new 1", body(), {})
    one.finish()
    assert counts(one)[0] == 1


def test_versions_of_two_logs() -> None:
    one = comparing(TwoLogs(1))
    state = {"channel_id": "5", "read_state_type": 0, "flags": 1}
    for recorded_offset, offset in ((10, 3), (20, 4)):
        tell = one.updated(Recorded(1, UPDATES, 0, b"1", b"{}", [], recorded_offset))
        tell(offset)
    first = body(BITS | 21, read_states=[{**state, "version": str(BITS | 11)}])
    second = body(BITS | 5, read_states=[{**state, "version": str(BITS | 4)}])
    anew = ask(one, 1, since_version=str(BITS | 12))
    assert b"since_version" not in (anew.value or b""), "no reply has shown the epoch"
    one.recorded(recorded(1, first))
    one.replied(b"new 1", second, {})
    one.settle(1000)
    assert counts(one)[:3] == (1, 0, 0)
    anew = ask(one, 2, since_version=str(BITS | 12))
    assert json.loads(anew.value or b"")["since_version"] == str(BITS | 4)
    strange = body(BITS | 9, read_states=[{**state, "version": str(BITS | 8)}])
    one.recorded(recorded(2, first))
    one.replied(b"new 2", strange, {})
    one.finish()
    assert one.tally.reasons == {replay_comparing.STRANGE: 1}


def test_a_reply_that_was_recorded_before_its_update_waits() -> None:
    """A recorder reads many partitions, and one of them later than another."""
    one = comparing(TwoLogs(1))
    row = {"channel_id": "5", "read_state_type": 0, "flags": 1}
    ask(one, 1)
    one.recorded(recorded(1, body(BITS | 11, read_states=[{**row, "version": str(BITS | 11)}])))
    one.replied(b"new 1", body(BITS | 4, read_states=[{**row, "version": str(BITS | 4)}]), {})
    one.settle(1000)
    assert counts(one)[:3] == (0, 0, 0)
    tell = one.updated(Recorded(1001, UPDATES, 0, b"1", b"{}", [], 10))
    one.settle(1001)
    assert counts(one)[:3] == (0, 0, 0), "not delivered"
    tell(3)
    one.settle(1001)
    assert counts(one)[:3] == (1, 0, 0)


def test_a_position_beyond_the_last_update_waits_for_a_while() -> None:
    one = comparing(TwoLogs(1))
    ask(one, 1)
    one.recorded(recorded(1, body(BITS | 90)))
    one.replied(b"new 1", body(BITS | 4), {})
    one.settle(1000 + replay_comparing.UPDATE_LATE_MS)
    assert counts(one)[:3] == (0, 0, 0)
    one.settle(1001 + replay_comparing.UPDATE_LATE_MS)
    assert counts(one)[:3] == (1, 0, 0)


def test_another_services_versions_mean_nothing() -> None:
    one = comparing(other_log=True)
    anew = ask(one, 1, since_version="7")
    assert b"since_version" not in (anew.value or b"")
    one.recorded_value(b"new 1", json.loads(body(version=5)))
    one.replied(b"new 1", body(), {})
    ask(one, 2, since_version="7")
    one.recorded_value(b"new 2", json.loads(body(version=5, full=False)))
    one.replied(b"new 2", body(), {})
    one.finish()
    assert counts(one)[:3] == (1, 0, 1)
    assert one.tally.reasons == {replay_comparing.OTHER_DELTA: 1}


def file_of(folder: Path, *lines: str) -> Path:
    file = folder / "pairs"
    file.write_text("\n".join(lines), "utf-8")
    return file


def test_a_file_of_pairs(tmp_path: Path) -> None:
    file = file_of(
        tmp_path,
        '{"query": {"type": "get", "user_id": "7"}, "reply": {"n": 1.0}}',
        "",
        '{"query": {"user_id": 8}, "reply": null, "timestamp_ms": 5, "more": 1}',
    )
    assert not is_recording(file)
    one, two = read_pairs(file)
    assert (one.query.key, one.query.timestamp_ms) == (b"7", 0)
    assert json.loads(one.query.value or b"") == {"type": "get", "user_id": "7"}
    assert (two.query.key, two.query.timestamp_ms, two.reply) == (b"8", 5, None)


@pytest.mark.parametrize(
    "line",
    ["{", "[]", '{"query": {"user_id": "1"}}', '{"reply": {}, "query": {}}',
     '{"reply": {}, "query": {"user_id": "x"}}', '{"reply": {}, "query": 5}',
     '{"query": {"user_id": "1"}, "reply": {}, "timestamp_ms": "5"}'],
)  # fmt: skip
def test_what_is_no_pair_is_refused(tmp_path: Path, line: str) -> None:
    good = '{"query": {"user_id": "1"}, "reply": {}}'
    with pytest.raises(RecordingError, match="line 2"):
        list(read_pairs(file_of(tmp_path, good, line)))
