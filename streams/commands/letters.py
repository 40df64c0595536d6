"""Reads the topic of dead letters, and shows them whatever their bytes."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from readstates.schemas.dead_letters import Origin, origin_of
from readstates.schemas.headers import headers_of

from ..config import Settings
from ..errors import TopicError
from .options import RIGHTS

SHOWN_MAX = 72  # characters of a value, key or header at a terminal
TIMEOUT_S = 15.0
BATCH_MESSAGES = 500
ODD = "no reason"  # shown for a record in the topic that is no dead letter of ours


class Letter(NamedTuple):
    """One record of the dead-letters topic; `origin` is None if its headers do not name one."""

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
    """Every committed record of the dead-letters topic up to its present end.

    Raises TopicError if the topic is missing or stops answering.
    """
    from confluent_kafka import KafkaError

    from ..kafka.admin import connect_admin
    from .reading import open_reader

    connect_admin(settings)
    name = settings.dead_letters_topic
    consumer, ranges = open_reader(settings, name, from_start=True)
    ends = {number: end for (_, number), (start, end) in ranges.items() if start < end}
    try:
        while ends:
            first = consumer.poll(TIMEOUT_S)
            if first is None:
                raise TopicError(f"{name}: nothing came within {TIMEOUT_S:g} s; try again")
            for message in (first, *consumer.consume(BATCH_MESSAGES, 0)):
                error, number = message.error(), message.partition()
                if error is not None and error.code() != KafkaError._PARTITION_EOF:
                    raise TopicError(f"{name} cannot be read: {error.str()}. {RIGHTS}")
                if number not in ends:  # a record beyond the end, or the end is reported again
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
        origin_of(headers_of(message)),
    )


def shown(raw: bytes | None, length_max: int = SHOWN_MAX) -> str:
    """Bytes for a terminal: shortened, with everything that is not printable escaped."""
    if raw is None:
        return "null"
    text = raw[: 4 * length_max].decode("utf-8", "backslashreplace")
    cut = len(text) > length_max or len(raw) > 4 * length_max
    safe = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in text[:length_max]
    )
    return safe[: length_max - 1] + "…" if cut or len(safe) > length_max else safe


def as_json(letter: Letter) -> str:
    """One line; `key` and `value` are text, or under `…_base64` if they are not UTF-8.

    `last_offset` is null unless the value is a whole batch.
    """
    body: dict[str, Any] = dict.fromkeys(Origin._fields)
    if letter.origin is not None:
        body.update(letter.origin._asdict(), offset=str(letter.origin.offset))
        if letter.origin.last_offset is not None:
            body["last_offset"] = str(letter.origin.last_offset)
        body.update({name: body[name] or None for name in ("cut", "key_cut")})
    body["kept_partition"], body["kept_offset"] = letter.partition, str(letter.offset)
    body["kept_at_ms"] = letter.timestamp_ms
    for name, raw in (("key", letter.key), ("value", letter.value)):
        try:
            body[name] = None if raw is None else raw.decode("utf-8")
        except UnicodeDecodeError:
            body[f"{name}_base64"] = base64.b64encode(raw or b"").decode()
    return json.dumps(body).replace("\x7f", "\\u007f")  # ASCII, and no control character
