"""Reads the fields of JSON objects. It accepts or rejects; it never guesses.

Its errors name the field, the expected value and the value that is there.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from .events import EVENT_BYTES_MAX, SNOWFLAKE_MAX, TYPE_MAX

SHOWN_MAX = 80  # characters of a wrong value that an error shows
DIGITS_MAX = 19  # of 2^63 - 1
_ID = "(?:[1-9][0-9]{0,17}|[1-8][0-9]{18})"
surely_three_ids = re.compile(f"{_ID},{_ID},{_ID}").fullmatch
surely_ids = re.compile(f"{_ID}(?:,{_ID})*+").fullmatch

_loads = orjson.loads


class DecodeError(ValueError):
    """A value is not valid. `reason` is a dead-letter reason; `field` names the wrong field.

    `user_id` is that of a query with a wrong field; None if the ID cannot be read.
    """

    def __init__(self, reason: str, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.reason = reason
        self.field = field
        self.user_id: int | None = None


def read_object(value: bytes | None, bytes_max: int = EVENT_BYTES_MAX) -> dict[str, Any]:
    if value is None:
        raise DecodeError("null_value", "", "the record has no value")
    if len(value) > bytes_max:
        raise DecodeError("too_large", "", f"{len(value)} bytes, at most {bytes_max} are allowed")
    try:
        body = _loads(value)
    except (ValueError, RecursionError) as exc:
        raise DecodeError("invalid_json", "", f"not JSON: {exc}") from None
    if not isinstance(body, dict):
        raise wrong("", "an object", body)
    return body


def unknown_type(kind: Any, known: dict[str, Any]) -> DecodeError:
    expected = " or ".join(known)
    if isinstance(kind, str):
        return DecodeError("unknown_type", "type", f"expected {expected}, got {_shown(kind)}")
    return wrong("type", expected, kind)


def _shown(value: Any) -> str:
    try:
        text = ascii(value)
    except RecursionError:
        return "a deeply nested value"
    return text if len(text) <= SHOWN_MAX else text[: SHOWN_MAX - 1] + "…"


def wrong(field: str, expected: str, value: Any) -> DecodeError:
    got = "nothing, or null" if value is None else _shown(value)
    return DecodeError("invalid_field", field, f"expected {expected}, got {got}")


def read_id(body: dict[str, Any], field: str, where: str = "", low: int = 1) -> int:
    return read_identifier(body.get(field), f"{where}.{field}" if where else field, low)


def read_identifier(value: Any, field: str, low: int) -> int:
    number = value
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= DIGITS_MAX:
        if value[0] == "0" and value != "0":
            raise wrong(field, "decimal digits without a leading zero", value)
        number = int(value)
    if type(number) is not int or not low <= number <= SNOWFLAKE_MAX:
        raise wrong(field, f"an integer {low} … 2^63-1, or the same as a string", value)
    return number


def read_boolean(body: dict[str, Any], field: str) -> bool:
    value = body.get(field, False)
    if type(value) is not bool:
        raise wrong(field, "true or false", value)
    return value


def read_integer(
    body: dict[str, Any], field: str, high: int, default: int | None = None, low: int = 0
) -> int:
    if default is not None and field not in body:
        return default
    value = body.get(field)
    if type(value) is not int or not low <= value <= high:
        raise wrong(field, f"an integer {low} … {high}", value)
    return value


def read_type(body: dict[str, Any], where: str = "") -> int:
    field = "read_state_type"
    if field not in body:
        return 0
    value = body[field]
    if type(value) is not int or not 0 <= value <= TYPE_MAX:
        raise wrong(f"{where}.{field}" if where else field, f"an integer 0 … {TYPE_MAX}", value)
    return value
