"""What the Python programs share: the steps to do, and replies as JSON lines."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

REPLY_TIMEOUT_S = 60.0
POLL_S = 1.0

Headers = list[tuple[str, bytes]]


class Step(NamedTuple):
    """Records (key and value) for a topic; where `replies` is set, each of them gets a reply there.

    `setting`: whether the client is to be set as it must be, or left as it is.
    """

    topic: str
    replies: str | None
    setting: bool
    records: list[tuple[str, str]]

    def headers(self, record: int) -> Headers:
        if self.replies is None:
            return []
        return [
            ("kafka_replyTopic", self.replies.encode()),
            ("kafka_correlationId", str(record).encode()),
        ]


def plan() -> tuple[str, list[Step]]:
    """The bootstrap servers and the steps."""
    body = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    steps = [
        Step(
            step["topic"],
            step["replies"],
            step["setting"],
            [(record["key"], record["value"]) for record in step["records"]],
        )
        for step in body["steps"]
    ]
    return body["bootstrap"], steps


def show(step: int, record: int, error: str | None, reply: str) -> None:
    """One reply as a line."""
    line = {"step": step, "record": record, "error": error, "reply": reply}
    print(json.dumps(line), flush=True)


class Replies:
    """Shows each reply once; `missing` until all are there."""

    def __init__(self, number: int, step: Step) -> None:
        self._number = number
        self._missing = set(range(len(step.records)))
        self._end = time.monotonic() + REPLY_TIMEOUT_S

    @property
    def missing(self) -> bool:
        if time.monotonic() > self._end:
            sys.exit(f"no reply to {sorted(self._missing)} within {REPLY_TIMEOUT_S} s")
        return bool(self._missing)

    def take(self, headers: Iterable[tuple[str, Any]] | None, value: bytes) -> None:
        found = {name: bytes(raw) for name, raw in headers or ()}
        record = int(found["kafka_correlationId"])
        if record in self._missing:
            self._missing.remove(record)
            error = found.get("read-states-error")
            show(self._number, record, None if error is None else error.decode(), value.decode())
