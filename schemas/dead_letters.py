"""Dead letters: records of `updates` that were not applied, with their reason and origin.

Key and value are kept unchanged, except that a value or a key is cut if it is too large to be an
update's. The headers, all ASCII, hold the rest. A batch that cannot be read, or unpacks to too
much, is one dead letter: its value is the batch as it is in the log, its key is null, and two
headers give its first and last offset.
"""

from __future__ import annotations

from typing import NamedTuple

from .fields import DIGITS_MAX
from .headers import Headers

REASONS = (
    "invalid_json",
    "invalid_field",
    "unknown_type",
    "key_mismatch",
    "misrouted",
    "null_value",
    "too_large",
    "too_many_states",
    "implausible_id",
)

HEADER_REASON = "reason"
HEADER_TOPIC = "topic"
HEADER_PARTITION = "partition"
HEADER_OFFSET = "offset"
HEADER_LAST_OFFSET = "last_offset"  # only where the value is a whole batch: up to this offset
HEADER_CUT = "cut"  # only where the value was cut: it had that many bytes
HEADER_KEY_CUT = "key_cut"  # only where the key was cut: it had that many bytes


class Origin(NamedTuple):
    """The content of a dead letter's headers."""

    reason: str
    topic: str
    partition: int
    offset: int
    cut: int = 0  # bytes that the value had before it was cut; 0: it is whole
    last_offset: int | None = None  # of the batch that the value is; None: it is a record's value
    key_cut: int = 0  # bytes that the key had before it was cut; 0: it is whole


def origin_headers(origin: Origin) -> list[tuple[str, bytes]]:
    """The headers of a dead letter."""
    names = (HEADER_REASON, HEADER_TOPIC, HEADER_PARTITION, HEADER_OFFSET)
    headers = [(name, str(value).encode()) for name, value in zip(names, origin[:4], strict=True)]
    if origin.last_offset is not None:
        headers.append((HEADER_LAST_OFFSET, b"%d" % origin.last_offset))
    if origin.cut:
        headers.append((HEADER_CUT, b"%d" % origin.cut))
    if origin.key_cut:
        headers.append((HEADER_KEY_CUT, b"%d" % origin.key_cut))
    return headers


def origin_of(headers: Headers) -> Origin | None:
    """The content of the headers; None if they are not those of a dead letter."""
    by_name = dict(headers)
    values = [
        (by_name.get(name) or b"").decode("ascii", "replace")
        for name in (HEADER_REASON, HEADER_TOPIC, HEADER_PARTITION, HEADER_OFFSET)
    ]
    reason, topic, partition, offset = values
    if not (reason and topic and _is_number(partition) and _is_number(offset)):
        return None
    cut, last, key_cut = (
        (by_name.get(name) or b"").decode("ascii", "replace")
        for name in (HEADER_CUT, HEADER_LAST_OFFSET, HEADER_KEY_CUT)
    )
    return Origin(
        reason,
        topic,
        int(partition),
        int(offset),
        int(cut) if _is_number(cut) else 0,
        int(last) if _is_number(last) else None,
        int(key_cut) if _is_number(key_cut) else 0,
    )


def _is_number(text: str) -> bool:
    """True for the digits of a number that an offset can be; Python refuses thousands of digits."""
    return text.isdecimal() and len(text) <= DIGITS_MAX
