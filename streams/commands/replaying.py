"""Sends the records of a recording again, and asks its queries anew; `replay.py` says how."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from readstates.schemas.headers import (
    HEADER_CORRELATION_ID,
    HEADER_DEADLINE,
    HEADER_REPLY_TOPIC,
    reply_address,
)

from ..client import create_reply_topic
from ..config import Settings
from ..kafka.admin import connect_admin
from .recording import QUERIES, REPLIES, UPDATES, Recorded, RecordingError, partitions_of, read
from .replay_comparing import Comparing
from .replay_replies import ReplayReplies
from .reply_pairs import is_recording, read_pairs
from .sending import BY_KEY, Sender

WAIT_S = 0.1
SHORT_WAIT_S = 0.002
TIMEOUT_S = 15.0
IN_FLIGHT_MAX = 500  # queries without a reply, of a file that says nothing of the pace
IN_FLIGHT_WAIT_S = 60.0  # then the next is sent all the same: no deadline is later
QUANTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}


def asked_anew(query: Recorded, reply_topic: str, correlation_id: bytes, now_ms: int) -> Recorded:
    """A recorded query with the replay's reply address; unchanged if it had no usable address."""
    if reply_address(query.headers) is None:
        return query
    headers: list[tuple[str, bytes | None]] = [
        (HEADER_REPLY_TOPIC, reply_topic.encode()),
        (HEADER_CORRELATION_ID, correlation_id),
    ]
    recorded = dict(query.headers)
    if HEADER_DEADLINE in recorded:
        deadline = recorded[HEADER_DEADLINE] or b""
        if deadline.isdigit():  # else it stays what it is: wrong
            deadline = b"%d" % max(0, now_ms + int(deadline[:18]) - query.timestamp_ms)
        headers.append((HEADER_DEADLINE, deadline))
    return query._replace(headers=headers, value=without_after_offset(query.value))


def without_after_offset(value: bytes | None) -> bytes | None:
    """A query's value without `after_offset`; a value that is not a JSON object is unchanged."""
    if value is None or b"after_offset" not in value:
        return value
    try:
        body = orjson.loads(value)
    except ValueError:
        return value
    if not isinstance(body, dict) or "after_offset" not in body:
        return value
    del body["after_offset"]
    return orjson.dumps(body)


class Replay:
    """Sends the records of a file; `run` returns the result."""

    def __init__(
        self,
        settings: Settings,
        file: Path,
        speed: float,
        queries_only: bool,
        comparing: Comparing | None,
    ) -> None:
        self._settings, self._file, self._speed = settings, file, speed
        self._queries_only, self._comparing = queries_only, comparing
        self._reply_topic = f"{settings.topic_prefix}.replies.replay"
        self._topics = {UPDATES: settings.updates_topic, QUERIES: settings.queries_topic}
        self._keeps_partitions = False
        self._counts = {UPDATES: 0, QUERIES: 0}
        self._start, self._first_ms, self._late_s = 0.0, -1, 0.0
        self._run_id = os.urandom(8)

    def run(self, wait_s: float) -> dict[str, Any]:
        """Send all records, then wait for the last replies."""
        records = self._records()
        admin = connect_admin(self._settings)
        counts_now = {
            len(admin.list_topics(name, timeout=TIMEOUT_S).topics[name].partitions)
            for name in self._topics.values()
        }
        self._look_at(counts_now)
        create_reply_topic(admin, self._reply_topic)
        comparing = self._comparing
        take = None if comparing is None else comparing.replied
        self._replies = replies = ReplayReplies(self._settings, self._reply_topic, take)
        sender = Sender(self._settings, linger_ms=0)
        self._start = time.monotonic()
        try:
            for number, (record, reply) in enumerate(records):
                self._send(sender, number, record, reply)
            sender.finish()
            took_s = time.monotonic() - self._start
            replies.wait(wait_s)
        finally:
            replies.close()
        if comparing is not None:
            comparing.finish()
        return self._result(took_s)

    def _records(self) -> Iterator[tuple[Recorded, Any]]:
        """The records of the file; each query of a file of pairs comes with its reply."""
        if self._comparing is not None and not is_recording(self._file):
            return iter(read_pairs(self._file))
        partitions_of(self._file)  # fails before anything is sent
        return ((record, None) for record in read(self._file))

    def _look_at(self, counts_now: set[int]) -> None:
        """Whether records can go into the partitions that they came from."""
        if not is_recording(self._file):
            return
        recorded = partitions_of(self._file)
        self._keeps_partitions = counts_now == {recorded}
        logs = None if self._comparing is None else self._comparing.logs
        if logs is not None and not self._keeps_partitions:
            raise RecordingError(
                f"{self._file}: the recorded topics have {recorded} partitions, and these have "
                f"{counts_now}: replies can be compared only if the numbers are the same"
            )

    def _send(self, sender: Sender, number: int, record: Recorded, reply: Any) -> None:
        comparing = self._comparing
        if record.topic == REPLIES:
            if comparing is not None:
                comparing.recorded(record)
            return
        if record.topic == UPDATES and self._queries_only:
            return
        due = self._wait(sender, record.timestamp_ms)
        self._counts[record.topic] += 1
        delivered = None
        if record.topic == UPDATES:
            delivered = None if comparing is None else comparing.updated(record)
        else:
            correlation_id = self._run_id + number.to_bytes(8, "big")
            now_ms = time.time_ns() // 1_000_000
            anew = asked_anew(record, self._reply_topic, correlation_id, now_ms)
            if (HEADER_CORRELATION_ID, correlation_id) in anew.headers:
                if comparing is not None:
                    anew = comparing.asked(record, anew, correlation_id)
                    if reply is not None:
                        comparing.recorded_value(correlation_id, reply)
                self._replies.due[correlation_id] = due
            record = anew
        sender.send(
            self._topics[record.topic],
            record.key,
            record.value,
            partition=record.partition if self._keeps_partitions else BY_KEY,
            headers=record.headers,
            delivered=delivered,
        )
        if comparing is not None:
            comparing.settle(record.timestamp_ms)

    def _wait(self, sender: Sender, timestamp_ms: int) -> float:
        """Wait until a record is due; returns that time."""
        if not timestamp_ms:  # the file says nothing of the pace
            end = time.monotonic() + IN_FLIGHT_WAIT_S
            while len(self._replies.due) >= IN_FLIGHT_MAX and time.monotonic() < end:
                sender.poll()
                time.sleep(SHORT_WAIT_S)
            return time.monotonic()
        self._first_ms = timestamp_ms if self._first_ms < 0 else self._first_ms
        due = self._start + (timestamp_ms - self._first_ms) / 1000 / self._speed
        while (left_s := due - time.monotonic()) > 0:
            sender.poll()
            time.sleep(min(left_s, WAIT_S))
        self._late_s = max(self._late_s, time.monotonic() - due)
        return due

    def _result(self, took_s: float) -> dict[str, Any]:
        replies = self._replies
        return {
            **self._counts,
            "took_s": took_s,
            "late_ms": self._late_s * 1000,
            "answered": len(replies.seconds),
            "errors": replies.errors,
            "unanswered": len(replies.due),
            "round_trip_ms": {
                name: replies.quantile_ms(share)
                for name, share in QUANTILES.items()
                if replies.seconds
            },
            **({} if self._comparing is None else {"compared": self._comparing.summary()}),
        }
