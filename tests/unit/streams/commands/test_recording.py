"""Recordings: lines and back, one order out of many partitions, queries asked anew."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import orjson
import pytest
from click import ClickException
from hypothesis import given
from hypothesis import strategies as st

from readstates.streams.commands import lines
from readstates.streams.commands.import_states import lines_of
from readstates.streams.commands.record import open_private
from readstates.streams.commands.recorder import REPLY_LATE_MS
from readstates.streams.commands.recording import (
    QUERIES,
    REORDER_MS,
    REPLIES,
    UPDATES,
    Merge,
    Recorded,
    RecordingError,
    decode,
    encode,
    head_line,
    read,
)
from readstates.streams.commands.replaying import asked_anew

NOW_MS = 1_700_000_500_000
raw = st.none() | st.binary(max_size=20) | st.text(max_size=20).map(str.encode)
records = st.builds(
    Recorded,
    st.integers(0, 2**48),
    st.sampled_from([UPDATES, QUERIES, REPLIES]),
    st.integers(0, 255),
    raw,
    raw,
    st.lists(st.tuples(st.text(max_size=10), raw), max_size=3),
    st.none() | st.integers(0, 2**63 - 1),
)


@given(records)
def test_a_line_and_back(one: Recorded) -> None:
    assert decode(encode(one)) == one


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, REORDER_MS)), max_size=60))
def test_merge_keeps_each_partition_and_orders_all(steps: list[tuple[int, int]]) -> None:
    """Each partition's clock goes on; what is apart by less than REORDER_MS comes out in order."""
    out: list[tuple[int, Any]] = []
    merge, at, came = Merge(), 0, []
    for number, (partition, later_ms) in enumerate(steps):
        at += later_ms // 4
        jitter = number % 7 * (REORDER_MS // 10)
        came.append((partition, number))
        out += merge.add(at + jitter, (UPDATES, partition), (partition, number))
    out += merge.rest()
    assert sorted(item for _, item in out) == sorted(came)
    times = [at for at, _ in out]
    assert times == sorted(times)
    for partition in range(4):
        numbers = [number for _, (where, number) in out if where == partition]
        assert numbers == sorted(numbers)


def test_merge_across_partitions_goes_by_time() -> None:
    merge = Merge()
    out = list(merge.add(1000, (UPDATES, 0), "b"))
    out += merge.add(900, (QUERIES, 0), "a")
    out += merge.add(1000 + REORDER_MS, (UPDATES, 0), "c")
    assert out == [(900, "a"), (1000, "b")]
    assert list(merge.add(10, (UPDATES, 1), "late")) == [(1000, "late")]
    assert list(merge.rest()) == [(1000 + REORDER_MS, "c")]


def test_of_one_millisecond_updates_come_before_queries() -> None:
    merge = Merge()
    for number in range(3):
        assert list(merge.add(5, (QUERIES, number), f"q{number}")) == []
        assert list(merge.add(5, (UPDATES, number), f"u{number}")) == []
    assert [item for _, item in merge.rest()] == ["u0", "u1", "u2", "q0", "q1", "q2"]


def file_of(folder: Path, *lines: bytes) -> Path:
    file = folder / "recording"
    head = b'{"form":"read-states-recording","version":1,"partitions":4}\n'
    file.write_bytes(head + b"".join(lines))
    return file


def test_what_is_no_recording_is_refused(tmp_path: Path) -> None:
    good = encode(Recorded(1, UPDATES, 0, b"1", b"{}", []))
    assert len(list(read(file_of(tmp_path, good, good)))) == 2
    with pytest.raises(RecordingError, match="line 3"):
        list(read(file_of(tmp_path, good, good[:-20])))
    with pytest.raises(RecordingError, match="line 2: not a record"):
        list(read(file_of(tmp_path, good.replace(b"updates", b"changes"))))
    other = tmp_path / "other"
    other.write_bytes(good)
    with pytest.raises(RecordingError, match="line 1"):
        list(read(other))


def query(*headers: tuple[str, bytes | None], value: bytes = b"{}") -> Recorded:
    return Recorded(1_700_000_000_000, QUERIES, 0, b"1", value, list(headers))


@pytest.mark.parametrize(
    "change",
    [
        {"partition": "0"}, {"partition": -1}, {"partition": 2**31}, {"partition": None},
        {"timestamp_ms": 1.5}, {"headers": [[1, "a"]]}, {"headers": [["a"]]},
        {"offset": -1}, {"offset": "5"}, {"headers": 5}, {"key": 7}, {"value": {"base64": "?"}},
    ],
    ids=str,
)  # fmt: skip
def test_a_line_that_no_producer_could_send_is_refused(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    """The error says which line it is."""
    body = orjson.loads(encode(Recorded(1, UPDATES, 0, b"1", b"{}", [("a", b"b")])))
    file = file_of(tmp_path, orjson.dumps(body), b"\n", orjson.dumps(body | change), b"\n")
    with pytest.raises(RecordingError, match="line 3"):
        list(read(file))


def test_a_query_is_asked_anew() -> None:
    one = query(
        ("kafka_replyTopic", b"read-states.replies.gateway"),
        ("kafka_correlationId", b"old"),
        ("read-states-deadline", b"1700000003000"),
        value=b'{"type":"get","user_id":"1","after_offset":"7"}',
    )
    anew = asked_anew(one, "read-states.replies.replay", b"new", NOW_MS)
    assert dict(anew.headers) == {
        "kafka_replyTopic": b"read-states.replies.replay",
        "kafka_correlationId": b"new",
        "read-states-deadline": b"1700000503000",
    }
    assert orjson.loads(anew.value or b"") == {"type": "get", "user_id": "1"}
    assert anew.key == one.key


def test_the_faust_dialect_is_asked_in_the_plain_one() -> None:
    one = query(("Faust-Ag-ReplyTo", b"f-reply-1"), ("Faust-Ag-CorrelationId", b"old"))
    anew = asked_anew(one, "r", b"new", NOW_MS)
    assert anew.headers == [("kafka_replyTopic", b"r"), ("kafka_correlationId", b"new")]


def test_what_cannot_be_answered_stays_as_it_was() -> None:
    one = query(("kafka_replyTopic", b"no topic"), value=b"after_offset, and no JSON")
    assert asked_anew(one, "r", b"new", NOW_MS) == one
    wrong = query(("kafka_replyTopic", b"r"), ("read-states-deadline", b"soon"), value=b"[1")
    anew = asked_anew(wrong, "r", b"new", NOW_MS)
    assert dict(anew.headers)["read-states-deadline"] == b"soon"
    assert anew.value == b"[1"


@pytest.mark.parametrize("before", [None, 0o644, 0o600])
def test_only_its_owner_can_read_a_recording(tmp_path: Path, before: int | None) -> None:
    """Also where an older file is overwritten that others could read."""
    file = tmp_path / "recording"
    if before is not None:
        file.write_bytes(b"older")
        file.chmod(before)
        with pytest.raises(FileExistsError):
            open_private(file, force=False)
        assert file.read_bytes() == b"older"
    os.close(open_private(file, force=True))
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_bytes() == b""


def test_a_line_without_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is no recording is not read into memory."""
    monkeypatch.setattr(lines, "LINE_BYTES_MAX", 1000)
    file = tmp_path / "recording"
    file.write_bytes(head_line(1) + b"x" * 1001)
    with pytest.raises(RecordingError, match="line 2: it has more than 1000 bytes"):
        list(read(file))
    with pytest.raises(ClickException, match="line 2: it has more than 1000 bytes"):
        list(lines_of(file))


def test_a_reply_that_is_read_before_its_query_comes_after_it() -> None:
    """The query has been in the log for longer, but in a partition that is read later."""
    merge = Merge()
    assert not list(merge.add(10_000, (UPDATES, 0), "update"))
    assert not list(merge.add(merge.newest_ms + REPLY_LATE_MS, (REPLIES, 0), "reply"))
    assert merge.newest_ms == 10_000
    assert not list(merge.add(10_500, (QUERIES, 1), "query"))
    assert [item for _, item in merge.rest()] == ["update", "query", "reply"]
