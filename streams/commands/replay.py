"""`readstates replay`: a recording is fed back, at its own pace or N times faster.

A record goes into the partition that it came from where the topics have as many partitions as then,
else to where its key belongs. Queries are asked anew, in the plain dialect: reply address and
correlation ID are the replay's own, the time until the deadline is what it was, and `after_offset`
is left out, because the offsets are others now. A query without a usable reply address goes out as
it came.
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
    reply_address,
)

from ..config import Settings
from ..errors import SendError
from .options import KAFKA_ONLY, settings_of, spoken_errors, with_settings
from .recording import QUERIES, UPDATES, Recorded, RecordingError, partitions_of, read

WAIT_S = 0.1
FLUSH_TIMEOUT_S = 60.0
MESSAGE_BYTES_MAX = 2 << 20  # over every topic's: the broker decides


class Replies:
    """Reads the replay's reply topic: round trips in seconds from the moment each was due."""

    def __init__(self, settings: Settings, topic: str) -> None:
        from confluent_kafka import Consumer, TopicPartition

        self._consumer = Consumer(
            settings.librdkafka(
                **{"group.id": "read-states-replay", "enable.auto.commit": False, "log_level": 3}
            )
        )
        place = TopicPartition(topic, 0)
        place.offset = self._consumer.get_watermark_offsets(place, timeout=FLUSH_TIMEOUT_S)[1]
        self._consumer.assign([place])
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
            headers = dict(message.headers() or ())
            due = self.due.pop(headers.get(HEADER_CORRELATION_ID, b""), None)
            if due is None:  # of another replay, or a second time
                continue
            if HEADER_ERROR in headers:
                code = headers[HEADER_ERROR].decode()
                self.errors[code] = self.errors.get(code, 0) + 1
            else:
                self.seconds.append(time.monotonic() - due)

    def wait(self, timeout_s: float) -> None:
        """Until all are answered, at most so long."""
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


def asked_anew(one: Recorded, reply_topic: str, correlation_id: bytes, now_ms: int) -> Recorded:
    """A recorded query with the replay's reply address; as it came where it had no usable one."""
    if reply_address(one.headers) is None:
        return one
    headers: list[tuple[str, bytes | None]] = [
        (HEADER_REPLY_TOPIC, reply_topic.encode()),
        (HEADER_CORRELATION_ID, correlation_id),
    ]
    found = dict(one.headers)
    if HEADER_DEADLINE in found:
        given = found[HEADER_DEADLINE] or b""
        if given.isdigit():  # else it stays what it is: wrong
            given = b"%d" % max(0, now_ms + int(given[:18]) - one.timestamp_ms)
        headers.append((HEADER_DEADLINE, given))
    return one._replace(headers=headers, value=without_after_offset(one.value))


def without_after_offset(value: bytes | None) -> bytes | None:
    """A query's value without `after_offset`; what is no JSON object stays as it is."""
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


@click.command("replay")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--speed",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    help="how many times faster than it was",
)
@click.option(
    "--wait-s",
    type=click.FloatRange(0),
    default=10.0,
    show_default=True,
    help="for the last replies [s]",
)
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@with_settings(*KAFKA_ONLY)
def replay(file: Path, speed: float, wait_s: float, as_json: bool, **given: Any) -> None:
    """Send the updates and queries of FILE, a recording, to the topics again.

    In their order, with their gaps, divided by --speed. The updates are new events, applied after
    all that is there: replay into a service of its own, not into the one that was recorded. Queries
    are asked anew with a reply topic of the replay's, and without after_offset. Round trips count
    from the moment a query was due. Exits 1 if the brokers refuse something; errors of queries and
    missing replies are counted, they may have been there before.
    """
    settings = settings_of(given)
    try:
        with spoken_errors():
            found = _replay(settings, file, speed, wait_s)
    except RecordingError as exc:
        raise click.ClickException(str(exc)) from exc
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo(
        f"{found['updates']} updates and {found['queries']} queries in {found['took_s']:.1f} s, "
        f"at most {found['late_ms']:.0f} ms late"
    )
    click.echo(
        f"{found['answered']} answered, errors: {found['errors'] or 'none'}, "
        f"no reply: {found['unanswered']}"
    )
    if found["round_trip_ms"]:
        shown = " · ".join(f"{name} {ms:.1f}" for name, ms in found["round_trip_ms"].items())
        click.echo(f"round trip: {shown} ms")


def _replay(settings: Settings, file: Path, speed: float, wait_s: float) -> dict[str, Any]:
    """Send it all; what came of it."""
    from ..kafka.admin import connect_admin

    recorded_partitions = partitions_of(file)
    admin = connect_admin(settings)
    topics = {UPDATES: settings.updates_topic, QUERIES: settings.queries_topic}
    now = {len(admin.list_topics(t, timeout=15).topics[t].partitions) for t in topics.values()}
    same = now == {recorded_partitions}
    reply_topic = f"{settings.topic_prefix}.replies.replay"
    _make_topic(admin, reply_topic)
    replies = Replies(settings, reply_topic)
    sender = Sender(settings)
    run_id, counts = os.urandom(8), {UPDATES: 0, QUERIES: 0}
    start, first_ms, late_s = time.monotonic(), -1, 0.0
    try:
        for number, one in enumerate(read(file)):
            first_ms = one.timestamp_ms if first_ms < 0 else first_ms
            due = start + (one.timestamp_ms - first_ms) / 1000 / speed
            while (left_s := due - time.monotonic()) > 0:
                sender.poll()
                time.sleep(min(left_s, WAIT_S))
            late_s = max(late_s, time.monotonic() - due)
            counts[one.topic] += 1
            if one.topic == QUERIES:
                correlation_id = run_id + number.to_bytes(8, "big")
                one = asked_anew(one, reply_topic, correlation_id, time.time_ns() // 1_000_000)
                if (HEADER_CORRELATION_ID, correlation_id) in one.headers:
                    replies.due[correlation_id] = due
            sender.send(topics[one.topic], one, one.partition if same else -1)
        sender.finish()
        took_s = time.monotonic() - start
        replies.wait(wait_s)
    finally:
        replies.close()
    shares = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999} if replies.seconds else {}
    return {
        **counts,
        "took_s": took_s,
        "late_ms": late_s * 1000,
        "answered": len(replies.seconds),
        "errors": replies.errors,
        "unanswered": len(replies.due),
        "round_trip_ms": {name: replies.quantile_ms(share) for name, share in shares.items()},
    }


def _make_topic(admin: Any, name: str) -> None:
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import NewTopic

    topic = NewTopic(name, 1, -1, config={"retention.ms": "600000"})
    try:
        admin.create_topics([topic])[name].result(timeout=FLUSH_TIMEOUT_S)
    except KafkaException as exc:
        if exc.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise


class Sender:
    """The producer. The first record that the brokers refuse ends it: SendError."""

    def __init__(self, settings: Settings) -> None:
        from confluent_kafka import Producer

        self._producer = Producer(
            settings.librdkafka(
                **{
                    "client.id": "read-states-replay",
                    "partitioner": "murmur2_random",
                    "enable.idempotence": True,
                    "message.max.bytes": MESSAGE_BYTES_MAX,
                    "allow.auto.create.topics": False,
                    "linger.ms": 0,
                    "log_level": 3,
                }
            )
        )
        self._error: object = None

    def send(self, topic: str, one: Recorded, partition: int) -> None:
        """Queue a record; waits while the queue is full. `partition` -1: where its key belongs."""
        headers: Any = one.headers
        while True:
            try:
                self._producer.produce(
                    topic, one.value, one.key, partition, self._delivered, headers=headers
                )
                break
            except BufferError:
                self._producer.poll(WAIT_S)
        self.poll()

    def poll(self) -> None:
        """Take the brokers' answers. Raises SendError."""
        self._producer.poll(0)
        if self._error is not None:
            self._producer.purge()
            raise SendError(f"the brokers refused a record: {self._error}")

    def finish(self) -> None:
        """Wait until the brokers have all of it."""
        left = self._producer.flush(FLUSH_TIMEOUT_S)
        self.poll()
        if left:
            raise SendError(f"the brokers did not answer for {left} records")

    def _delivered(self, error: Any, _message: Any) -> None:
        self._error = self._error or error
