"""`readstates replay`: sends a recording again, at its own pace or N times faster.

A record goes into the partition that it came from if the topics have as many partitions as the
recorded ones, and otherwise into the partition of its key. Queries are asked anew, in the plain
dialect: the reply address and the correlation ID are the replay's own, the time until the deadline
is the recorded one, and `after_offset` is left out, because the offsets differ. A query without a
usable reply address is sent unchanged.
"""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import click
import orjson

from readstates.schemas.headers import (
    HEADER_CORRELATION_ID,
    HEADER_DEADLINE,
    HEADER_ERROR,
    HEADER_REPLY_TOPIC,
    headers_of,
    reply_address,
)

from ..config import Settings
from .options import KAFKA_ONLY, SettingsCommand, errors_as_messages, with_settings
from .recording import QUERIES, UPDATES, Recorded, RecordingError, partitions_of, read

WAIT_S = 0.1
TIMEOUT_S = 15.0
QUANTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}


class Replies:
    """Reads the replay's reply topic; measures round trips in s from the time each was due."""

    def __init__(self, settings: Settings, topic: str) -> None:
        from .reading import open_reader

        self._consumer = open_reader(settings, topic).consumer
        self.due: dict[bytes, float] = {}  # correlation ID → when, of queries not yet answered
        self.seconds: list[float] = []
        self.errors: dict[str, int] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._stopping.is_set():
            message = self._consumer.poll(WAIT_S)
            if message is None or message.error() is not None:
                continue
            headers = dict(headers_of(message))
            due = self.due.pop(headers.get(HEADER_CORRELATION_ID) or b"", None)
            if due is None:  # of another replay, or a second time
                continue
            if HEADER_ERROR in headers:
                code = (headers[HEADER_ERROR] or b"").decode(errors="replace")
                self.errors[code] = self.errors.get(code, 0) + 1
            else:
                self.seconds.append(time.monotonic() - due)

    def wait(self, timeout_s: float) -> None:
        """Wait until all queries are answered, but no longer than this."""
        end = time.monotonic() + timeout_s
        while self.due and time.monotonic() < end:
            time.sleep(WAIT_S)

    def close(self) -> None:
        self._stopping.set()
        self._thread.join()
        self._consumer.close()

    def quantile_ms(self, share: float) -> float:
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000


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


@click.command("replay", cls=SettingsCommand)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--speed",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    help="Speed of the replay, as a multiple of the recording's.",
)
@click.option(
    "--wait-s",
    type=click.FloatRange(0),
    default=10.0,
    show_default=True,
    help="Seconds to wait for the last replies.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@with_settings(*KAFKA_ONLY)
def replay(settings: Settings, file: Path, speed: float, wait_s: float, as_json: bool) -> None:
    """Send the updates and queries in FILE, a recording, to the topics again.

    The command keeps their order, and divides the gaps between them by --speed. The updates are new
    events, applied after everything that is already in the topic, so replay into a separate
    service, not into the recorded one. Queries are asked anew, with the replay's own reply topic
    and without after_offset. Round trips are measured from the time at which a query was due. The
    exit status is 1 if the brokers refuse a record; query errors and missing replies are only
    counted, because the recorded service may have had them, too.
    """
    try:
        with errors_as_messages():
            result = _replay(settings, file, speed, wait_s)
    except RecordingError as exc:
        raise click.ClickException(str(exc)) from exc
    if as_json:
        click.echo(json.dumps(result))
        return
    click.echo(
        f"{result['updates']} updates and {result['queries']} queries in "
        f"{result['took_s']:.1f} s, at most {result['late_ms']:.0f} ms late"
    )
    click.echo(
        f"{result['answered']} answered, errors: {result['errors'] or 'none'}, "
        f"no reply: {result['unanswered']}"
    )
    if result["round_trip_ms"]:
        quantiles = " · ".join(f"{name} {ms:.1f}" for name, ms in result["round_trip_ms"].items())
        click.echo(f"round trip: {quantiles} ms")


def _replay(settings: Settings, file: Path, speed: float, wait_s: float) -> dict[str, Any]:
    """Send all records, then wait for the last replies; returns the result."""
    from ..client import create_reply_topic
    from ..kafka.admin import connect_admin
    from .sending import BY_KEY, Sender

    recorded_partitions = partitions_of(file)
    admin = connect_admin(settings)
    topics = {UPDATES: settings.updates_topic, QUERIES: settings.queries_topic}
    counts_now = {
        len(admin.list_topics(name, timeout=TIMEOUT_S).topics[name].partitions)
        for name in topics.values()
    }
    keeps_partitions = counts_now == {recorded_partitions}
    reply_topic = f"{settings.topic_prefix}.replies.replay"
    create_reply_topic(admin, reply_topic)
    replies = Replies(settings, reply_topic)
    sender = Sender(settings, linger_ms=0)
    run_id, counts = os.urandom(8), {UPDATES: 0, QUERIES: 0}
    start, first_ms, late_s = time.monotonic(), -1, 0.0
    try:
        for number, record in enumerate(read(file)):
            first_ms = record.timestamp_ms if first_ms < 0 else first_ms
            due = start + (record.timestamp_ms - first_ms) / 1000 / speed
            while (left_s := due - time.monotonic()) > 0:
                sender.poll()
                time.sleep(min(left_s, WAIT_S))
            late_s = max(late_s, time.monotonic() - due)
            counts[record.topic] += 1
            if record.topic == QUERIES:
                correlation_id = run_id + number.to_bytes(8, "big")
                now_ms = time.time_ns() // 1_000_000
                record = asked_anew(record, reply_topic, correlation_id, now_ms)
                if (HEADER_CORRELATION_ID, correlation_id) in record.headers:
                    replies.due[correlation_id] = due
            sender.send(
                topics[record.topic],
                record.key,
                record.value,
                partition=record.partition if keeps_partitions else BY_KEY,
                headers=record.headers,
            )
        sender.finish()
        took_s = time.monotonic() - start
        replies.wait(wait_s)
    finally:
        replies.close()
    return {
        **counts,
        "took_s": took_s,
        "late_ms": late_s * 1000,
        "answered": len(replies.seconds),
        "errors": replies.errors,
        "unanswered": len(replies.due),
        "round_trip_ms": {
            name: replies.quantile_ms(share) for name, share in QUANTILES.items() if replies.seconds
        },
    }
