"""Files of query and reply pairs of any service: JSON lines, each `{"query", "reply"}`.

`query` is a query's value and `reply` a reply's value. A line may also have `timestamp_ms`, the
time of the query in ms since the epoch, which grows from line to line. Without it, the queries are
sent as fast as they are answered.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from readstates.schemas.headers import HEADER_CORRELATION_ID, HEADER_REPLY_TOPIC

from ..comparison.said import number, parsed
from .lines import LineTooLongError, bounded_lines
from .recording import HEAD_BYTES_MAX, QUERIES, Recorded, RecordingError


class ReplyPair(NamedTuple):
    """A query as a record, and the parsed value of its reply."""

    query: Recorded
    reply: Any


def is_recording(file: Path) -> bool:
    """True if the first line is that of a recording, of whatever version."""
    with file.open("rb") as source:
        line = source.readline(HEAD_BYTES_MAX)
    try:
        head = orjson.loads(line)
    except ValueError:
        return False
    return isinstance(head, dict) and "form" in head


def read_pairs(file: Path) -> Iterator[ReplyPair]:
    """The pairs of a file, in order. Raises RecordingError."""
    with file.open("rb") as source:
        try:
            for count, line in bounded_lines(source):
                if line.strip():
                    yield _pair(file, count, line)
        except LineTooLongError as exc:
            raise RecordingError(f"{file}: {exc}") from None


def _pair(file: Path, count: int, line: bytes) -> ReplyPair:
    where = f"{file}: line {count}"
    try:
        body = parsed(line)
        query = body["query"]
        user, timestamp = number(query["user_id"]), body.get("timestamp_ms", 0)
        reply, value = body["reply"], orjson.dumps(orjson.loads(line)["query"])
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise RecordingError(
            f'{where}: not {{"query", "reply"}} with the user_id of the query: {exc!r}'
        ) from None
    if user is None or type(timestamp) is not int:
        raise RecordingError(f"{where}: user_id is not an ID, or timestamp_ms is not an integer")
    headers: list[tuple[str, bytes | None]] = [
        (HEADER_REPLY_TOPIC, b"recorded"),
        (HEADER_CORRELATION_ID, b"%d" % count),
    ]
    return ReplyPair(Recorded(timestamp, QUERIES, 0, b"%d" % user, value, headers), reply)
