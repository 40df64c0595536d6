"""`readstates record`: what a running system gets, updates and queries, into a file.

A recording is JSON lines. The first names the form and the partitions of the topics; every other is
a record, in the order in which the brokers got them:

    {"timestamp_ms", "topic": "updates" | "queries", "partition", "key", "value",
     "headers": [[name, value], …]}

`timestamp_ms` is the brokers' (both topics have LogAppendTime), ms since the epoch.
Bytes that are UTF-8 stand as text, others as {"base64": …}, null as null. Nothing is left out: what
is wrong in the log is wrong in the recording. It holds users' IDs and what they read: the file is
its owner's alone (mode 600).
"""

from __future__ import annotations

import base64
import heapq
import itertools
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import orjson

from ..config import Settings
from ..errors import TopicError
from .options import KAFKA_ONLY, settings_of, spoken_errors, with_settings

FORM = "read-states-recording"
VERSION = 1
UPDATES, QUERIES = "updates", "queries"
REORDER_MS = 2_000  # how long a record waits for older ones of other partitions
TIMEOUT_S = 15.0
BATCH_MESSAGES = 1_000
IDLE_S = 0.2


class Recorded(NamedTuple):
    """One record of a recording."""

    timestamp_ms: int  # since the epoch, never less than that of the record before
    topic: str  # UPDATES or QUERIES
    partition: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


class RecordingError(ValueError):
    """The file is not a recording, or is damaged; the text names the line."""


def encode(one: Recorded) -> bytes:
    """A record as a line."""
    body = {
        "timestamp_ms": one.timestamp_ms,
        "topic": one.topic,
        "partition": one.partition,
        "key": _shown(one.key),
        "value": _shown(one.value),
    }
    if one.headers:
        body["headers"] = [[name, _shown(value)] for name, value in one.headers]
    return orjson.dumps(body) + b"\n"


def decode(line: bytes) -> Recorded:
    """A line as a record. Raises ValueError."""
    body = orjson.loads(line)
    try:
        found = Recorded(
            body["timestamp_ms"],
            body["topic"],
            body["partition"],
            _bytes(body["key"]),
            _bytes(body["value"]),
            [(name, _bytes(value)) for name, value in body.get("headers", ())],
        )
    except (KeyError, TypeError, AttributeError) as exc:
        raise ValueError(f"not a record: {exc!r}") from None
    if found.topic not in (UPDATES, QUERIES) or type(found.timestamp_ms) is not int:
        raise ValueError("not a record: topic or timestamp_ms is wrong")
    return found


def _shown(raw: bytes | None) -> Any:
    try:
        return None if raw is None else raw.decode()
    except UnicodeDecodeError:
        assert raw is not None
        return {"base64": base64.b64encode(raw).decode()}


def _bytes(shown: Any) -> bytes | None:
    if isinstance(shown, dict):
        return base64.b64decode(shown["base64"], validate=True)
    return None if shown is None else shown.encode()


def partitions_of(file: Path) -> int:
    """How many partitions the recorded topics had. Raises RecordingError."""
    with file.open("rb") as source:
        line = source.readline()
    try:
        head = orjson.loads(line)
        if head["form"] == FORM and head["version"] == VERSION:
            return int(head["partitions"])
    except (ValueError, KeyError, TypeError):
        pass
    raise RecordingError(f"{file}: line 1: not a recording of version {VERSION}")


def read(file: Path) -> Iterator[Recorded]:
    """The records of a recording, in order. Raises RecordingError."""
    partitions_of(file)
    with file.open("rb") as source:
        source.readline()
        for number, line in enumerate(source, 2):
            try:
                yield decode(line)
            except ValueError as exc:
                raise RecordingError(f"{file}: line {number}: {exc}") from None


class Merge:
    """Records of several partitions into one order, by timestamp; a partition's own stays.

    Of the same millisecond updates come first: a query may wait for the update just before it.
    A record waits until REORDER_MS newer ones were seen. What comes later than that goes out at
    once, with the time of the last one before it.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[int, bool, int, Any]] = []
        self._count = itertools.count()
        self._newest: dict[tuple[str, int], int] = {}  # by topic and partition
        self._last = 0

    def add(
        self, timestamp_ms: int, place: tuple[str, int], item: Any
    ) -> Iterator[tuple[int, Any]]:
        """Take a record in; those that are now in order come out."""
        at = max(timestamp_ms, self._newest.get(place, 0))  # a new leader's clock may be behind
        self._newest[place] = at
        heapq.heappush(self._waiting, (at, place[0] == QUERIES, next(self._count), item))
        yield from self._out(max(self._newest.values()) - REORDER_MS)

    def rest(self) -> Iterator[tuple[int, Any]]:
        """What still waits."""
        yield from self._out(None)

    def _out(self, up_to_ms: int | None) -> Iterator[tuple[int, Any]]:
        while self._waiting and (up_to_ms is None or self._waiting[0][0] <= up_to_ms):
            at, _, _, item = heapq.heappop(self._waiting)
            self._last = max(self._last, at)
            yield self._last, item


@click.command("record")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    help="how long to record [s]  [default: until SIGINT or SIGTERM]",
)
@click.option(
    "--records-max",
    type=click.IntRange(1),
    default=10_000_000,
    show_default=True,
    help="end after so many [records]; one takes about 250 bytes of the file",
)
@click.option("--force", is_flag=True, help="overwrite FILE")
@with_settings(*KAFKA_ONLY)
def record(file: Path, seconds: float | None, records_max: int, force: bool, **given: Any) -> None:
    """Write the updates and queries that arrive from now on to FILE, for `readstates replay`.

    Arrival order and gaps are kept, to the millisecond; replies are not recorded. It reads beside
    the workers, without a group, and changes nothing. FILE holds users' IDs and what they read: it
    is readable by its owner only, and worth no less care than the topics.
    """
    settings = settings_of(given)
    flags = os.O_CREAT | os.O_WRONLY | (os.O_TRUNC if force else os.O_EXCL)
    with spoken_errors():
        consumer, partitions = _open(settings)
        try:
            with os.fdopen(os.open(file, flags, 0o600), "wb") as out:
                head = {"form": FORM, "version": VERSION, "partitions": partitions}
                out.write(orjson.dumps(head) + b"\n")
                click.echo("recording", err=True)
                counts = _record(settings, consumer, out, seconds, records_max)
        finally:
            consumer.close()
    click.echo(f"{counts[UPDATES]} updates and {counts[QUERIES]} queries are in {file}")


def _open(settings: Settings) -> tuple[Any, int]:
    """A consumer at the ends of both topics, and their partitions."""
    from confluent_kafka import Consumer, TopicPartition

    from ..kafka.admin import connect_admin

    admin = connect_admin(settings)
    numbers = {}
    for name in (settings.updates_topic, settings.queries_topic):
        found = admin.list_topics(name, timeout=TIMEOUT_S).topics[name]
        if found.error is not None:
            raise TopicError(f"topic {name}: {found.error}. Run: readstates init")
        numbers[name] = sorted(found.partitions)
    consumer = Consumer(
        settings.librdkafka(
            **{
                "group.id": f"read-states-client-{os.urandom(8).hex()}",  # never joined
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "auto.offset.reset": "latest",
                "log_level": 3,
            }
        )
    )
    try:
        places = []
        for name, found in numbers.items():
            for number in found:
                place = TopicPartition(name, number)
                place.offset = consumer.get_watermark_offsets(place, timeout=TIMEOUT_S)[1]
                places.append(place)
        consumer.assign(places)
    except BaseException:
        consumer.close()
        raise
    return consumer, len(numbers[settings.updates_topic])


def _record(
    settings: Settings, consumer: Any, out: Any, seconds: float | None, records_max: int
) -> dict[str, int]:
    stopping: list[int] = []
    before = {
        number: signal.signal(number, lambda got, _frame: stopping.append(got))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    names = {settings.updates_topic: UPDATES, settings.queries_topic: QUERIES}
    counts = {UPDATES: 0, QUERIES: 0}
    merge = Merge()
    end = None if seconds is None else time.monotonic() + seconds

    def write(ordered: Iterator[tuple[int, Recorded]]) -> None:
        for at, one in ordered:
            out.write(encode(one._replace(timestamp_ms=at)))

    try:
        while not stopping and (end is None or time.monotonic() < end):
            for message in consumer.consume(BATCH_MESSAGES, IDLE_S):
                if message.error() is not None:
                    raise TopicError(f"{message.topic()}: {message.error()}")
                one = Recorded(
                    0,
                    names[message.topic()],
                    message.partition(),
                    message.key(),
                    message.value(),
                    message.headers() or [],
                )
                counts[one.topic] += 1
                write(merge.add(message.timestamp()[1], (one.topic, one.partition), one))
                if sum(counts.values()) >= records_max:
                    return counts
            out.flush()  # a reader, and a kill, find all but the last REORDER_MS
        return counts
    finally:
        write(merge.rest())
        for number, handler in before.items():
            signal.signal(number, handler)
