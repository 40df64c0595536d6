"""`readstates dead-letters`: what could not be applied, and sending it again.

The topic is read from its start to its end as it is now, without a group. A record that was kept
twice (dead letters are at least once) counts once, by the place that it came from.
"""

from __future__ import annotations

import base64
import json
import os
from collections import Counter, deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import click
from readstates.schemas.dead_letters import REASONS, Origin, origin_of
from readstates.streams.config import Settings
from readstates.streams.errors import TopicError
from readstates.streams.options import KAFKA_ONLY, settings_of, spoken_errors, with_settings

SHOWN_MAX = 72  # characters of a value, key or header at a terminal
LIMIT = 100
TIMEOUT_S = 15.0
BATCH_MESSAGES = 500
CURABLE = ("misrouted", "too_many_states")  # what the same bytes may pass the next time
ODD = "no reason"  # shown for a record in the topic that is no dead letter of ours


class Letter(NamedTuple):
    """One record of the dead-letters topic; `origin` is None where its headers say nothing."""

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    origin: Origin | None

    @property
    def reason(self) -> str:
        return self.origin.reason if self.origin else ODD


def read(settings: Settings) -> Iterator[Letter]:
    """Every committed record of the dead-letters topic up to its end as it is now.

    Raises TopicError where the topic is missing or stops answering.
    """
    from confluent_kafka import Consumer, KafkaError, TopicPartition
    from readstates.streams.security import connect

    name = settings.dead_letters_topic
    found = connect(settings).list_topics(name, timeout=TIMEOUT_S).topics[name]
    if found.error is not None:
        raise TopicError(f"topic {name}: {found.error}. Run: readstates init")
    consumer = Consumer(
        settings.librdkafka(
            **{
                "group.id": f"read-states-client-{os.urandom(8).hex()}",  # never joined
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                "log_level": 3,
            }
        )
    )
    try:
        places, ends = [], {}
        for number in found.partitions:
            place = TopicPartition(name, number)
            low, high = consumer.get_watermark_offsets(place, timeout=TIMEOUT_S)
            if low < high:
                places.append(TopicPartition(name, number, low))
                ends[number] = high
        consumer.assign(places)
        while ends:
            first = consumer.poll(TIMEOUT_S)
            if first is None:
                raise TopicError(f"{name}: nothing came within {TIMEOUT_S:g} s; try again")
            for message in (first, *consumer.consume(BATCH_MESSAGES, 0)):
                error, number = message.error(), message.partition()
                if error is not None and error.code() != KafkaError._PARTITION_EOF:
                    raise TopicError(f"{name} cannot be read: {error}")
                if number not in ends:  # a record from after we began, or the end once more
                    continue
                if error is None and message.offset() < ends[number]:
                    yield _letter(message)
                if error is not None or message.offset() >= ends[number] - 1:
                    del ends[number]
    finally:
        consumer.close()


def _letter(message: Any) -> Letter:
    return Letter(
        message.partition(),
        message.offset(),
        message.timestamp()[1],
        message.key(),
        message.value(),
        origin_of(message.headers() or ()),
    )


def shown(raw: bytes | None, most: int = SHOWN_MAX) -> str:
    """Bytes for a terminal: shortened, with everything that is not printable escaped."""
    if raw is None:
        return "null"
    text = raw[: 4 * most].decode("utf-8", "backslashreplace")
    cut = len(text) > most or len(raw) > 4 * most
    safe = "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text[:most]
    )
    return safe[: most - 1] + "…" if cut or len(safe) > most else safe


def _last_offset(letter: Letter) -> str | None:
    origin = letter.origin
    return None if origin is None or origin.last_offset is None else str(origin.last_offset)


def as_json(letter: Letter) -> str:
    """One line; `key` and `value` are text, or under `…_base64` where they are not UTF-8.

    `last_offset` is there where the value is a whole batch.
    """
    body: dict[str, Any] = {
        "reason": letter.origin and letter.origin.reason,
        "topic": letter.origin and letter.origin.topic,
        "partition": letter.origin and letter.origin.partition,
        "offset": letter.origin and str(letter.origin.offset),
        "last_offset": _last_offset(letter),
        "cut": (letter.origin and letter.origin.cut) or None,
        "kept_partition": letter.partition,
        "kept_offset": str(letter.offset),
        "kept_at_ms": letter.timestamp_ms,
    }
    for name, raw in (("key", letter.key), ("value", letter.value)):
        try:
            body[name] = None if raw is None else raw.decode("utf-8")
        except UnicodeDecodeError:
            body[f"{name}_base64"] = base64.b64encode(raw or b"").decode()
    return json.dumps(body).replace("\x7f", "\\u007f")  # ASCII, and no control character


@click.group("dead-letters")
def dead_letters() -> None:
    """Records of `updates` that could not be applied: see them, send them again."""


_reasons = click.option(
    "--reason", "reasons", multiple=True, type=click.Choice(REASONS), help="only these; repeatable"
)


@dead_letters.command("list")
@_reasons
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=LIMIT,
    show_default=True,
    help="how many, the newest ones",
)
@click.option("--json", "json_lines", is_flag=True, help="print JSON, one a line, values complete")
@with_settings(*KAFKA_ONLY)
def list_letters(reasons: tuple[str, ...], limit: int, json_lines: bool, **given: Any) -> None:
    """Show dead letters, the newest last: reason, origin, key, value.

    Counts by reason go to standard error. Nothing is changed.
    """
    settings = settings_of(given)
    newest: deque[Letter] = deque(maxlen=limit)
    counts: Counter[str] = Counter()
    with spoken_errors():
        for letter in read(settings):
            counts[letter.reason] += 1
            if not reasons or letter.reason in reasons:
                newest.append(letter)
    for letter in sorted(newest, key=lambda one: one.timestamp_ms):
        click.echo(as_json(letter) if json_lines else _line(letter))
    _say_counts("dead letters", counts)


def _line(letter: Letter) -> str:
    origin = letter.origin or Origin(ODD, "?", -1, -1)
    place = f"{shown(origin.topic.encode())}/{origin.partition}/{origin.offset}"
    reason, key = shown(origin.reason.encode(), 20), shown(letter.key, 24)
    if origin.last_offset is not None:
        size = origin.cut or len(letter.value or b"")
        batch = f"a batch of {size} bytes, not read"
        return f"{reason:<15} {place} … {origin.last_offset} {batch}"
    return f"{reason:<15} {place} key {key} value {shown(letter.value)}"


def _say_counts(what: str, counts: Counter[str]) -> None:
    each = ", ".join(f"{shown(r.encode(), 20)} {n}" for r, n in counts.most_common())
    click.echo(f"{counts.total()} {what}" + (f": {each}" if each else ""), err=True)


@dead_letters.command("resend")
@_reasons
@click.option("--partition", type=click.IntRange(0), help="only what came from this partition")
@click.option("--offset", type=click.IntRange(0), help="and only this offset; needs --partition")
@click.option("--dry-run", is_flag=True, help="show what would be sent, send nothing")
@click.option("--yes", is_flag=True, help="do not ask")
@click.option("--force", is_flag=True, help="also what would only come back")
@with_settings(*KAFKA_ONLY)
def resend(
    reasons: tuple[str, ...],
    partition: int | None,
    offset: int | None,
    dry_run: bool,
    yes: bool,
    force: bool,
    **given: Any,
) -> None:
    """Send dead letters to `updates` again, key and value as they came, to the right partition.

    Taken are those that may pass now: misrouted (their producer had another partitioner) and
    too_many_states (the user has deleted some, or USER_STATES_MAX is larger now). Others would
    come back as they are; --force sends them nevertheless, but never one whose value was cut, or is
    a whole batch that could not be read: neither is an event. They are applied as new events, after
    all that was sent since. The dead letters stay: a second resend sends them a second time.
    """
    if offset is not None and partition is None:
        raise click.UsageError("--offset needs --partition: an offset is one partition's")
    hopeless = [reason for reason in reasons if reason not in CURABLE]
    if hopeless and not force:
        raise click.UsageError(
            f"{', '.join(hopeless)}: the same bytes would only come back. Mend them and produce "
            "them anew; or --force"
        )
    settings = settings_of(given)
    wanted = reasons or (REASONS if force else CURABLE)
    chosen: dict[Origin, tuple[int, int]] = {}
    left: Counter[str] = Counter()
    with spoken_errors():
        for letter in read(settings):
            origin = letter.origin
            if origin is None or origin.topic != settings.updates_topic:
                continue
            if partition is not None and origin.partition != partition:
                continue
            if offset is not None and origin.offset != offset:
                continue
            no_event = _no_event(origin)
            if no_event or origin.reason not in wanted:
                left[no_event or origin.reason] += 1
                continue
            if dry_run and origin not in chosen:
                click.echo(_line(letter))
            chosen.setdefault(origin, (letter.partition, letter.offset))
        _say_counts("to send", Counter(origin.reason for origin in chosen))
        if left:
            _say_counts("left where they are", left)
        if not chosen or dry_run:
            return
        if not yes:
            click.confirm(
                f"Send {len(chosen)} records to {settings.updates_topic} again?", abort=True
            )
        click.echo(f"sent {_send(settings, set(chosen.values()))}")


def _no_event(origin: Origin) -> str:
    """Why a dead letter's value is nobody's event, whatever its reason; empty where it is one."""
    if origin.last_offset is not None:
        return "a whole batch"
    return "cut" if origin.cut else ""


def _send(settings: Settings, places: set[tuple[int, int]]) -> int:
    """Read the topic once more and send what stands at these places; the values need no memory."""
    from readstates.streams.sending import Progress, Sender

    sender, progress = Sender(settings), Progress("sent")
    for letter in read(settings):
        if (letter.partition, letter.offset) in places:
            sender.send(letter.key, letter.value)
            progress.step()
    sender.finish()
    return sender.delivered
