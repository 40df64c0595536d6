"""One of two replies that are compared: its parsed body, and what it says about its read states."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from readstates.schemas.headers import HEADER_ERROR
from readstates.schemas.replies import unwrapped

Place = tuple[int, int]  # read_state_type, channel_id
END: Place = (1 << 64, 0)  # after every read state
NO_JSON = "(not JSON)"


class Said(NamedTuple):
    """A reply as it arrived.

    `body`: parsed by `parsed`. `headers`: those to be compared, or None if they are not known.
    `since`: the `since_version` of the query that was sent, in the same numbers as the versions of
    the body.
    """

    body: Any
    headers: Mapping[str, bytes | None] | None = None
    since: int | None = None

    @property
    def is_error(self) -> bool:
        return isinstance(self.body, dict) and "error" in self.body

    @property
    def version(self) -> int | None:
        """How far the partition was applied; None if the reply does not say so."""
        return number(self.body.get("version"))

    @property
    def above(self) -> int:
        """The reply leaves out read states whose version is not above this; -1: none."""
        if self.body.get("full") is not False or self.since is None:
            return -1
        return self.since


class Rows(NamedTuple):
    """The read states of a reply by place, in the reply's order."""

    by_place: dict[Place, dict[str, Any]]
    order: list[Place]
    next: Place | None  # the last place of a page that is not the last one

    @property
    def is_ascending(self) -> bool:
        return all(a < b for a, b in zip(self.order, self.order[1:], strict=False))

    @property
    def is_whole_page(self) -> bool:
        """True if `next`, where it is given, is the last read state of the page."""
        return self.next is None or (bool(self.order) and self.order[-1] == self.next)

    def covers(self, place: Place) -> bool:
        """Whether the page reaches as far as this place."""
        return place <= (END if self.next is None else self.next)


def said_of(value: bytes | None, headers: Mapping[str, bytes | None]) -> Said:
    """A reply as it arrived, in either dialect; of its headers, those that do not name the query.

    What is not JSON is the text NO_JSON.
    """
    compared = {name: content for name, content in headers.items() if name == HEADER_ERROR}
    return Said(unwrapped(parsed_or_not(value)), compared)


def parsed_or_not(value: bytes | None) -> Any:
    """The parsed value; NO_JSON if it is not JSON."""
    try:
        return parsed(value or b"")
    except ValueError:
        return NO_JSON


def parsed(body: bytes) -> Any:
    """JSON as it is: no number loses a digit, and a fraction is never an integer.

    Raises ValueError, nothing else, for what is not JSON.
    """
    try:
        return json.loads(body, parse_float=Decimal, parse_constant=_no_number)
    except RecursionError as exc:
        raise ValueError(f"not JSON that a reply could be: {exc}") from None


def _no_number(name: str) -> Any:
    raise ValueError(f"not JSON: {name}")


def number(value: Any) -> int | None:
    """An integer, or its decimal digits, as an integer; None for anything else."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 20:
        return int(value)
    return value if type(value) is int else None


def place_of(row: Any) -> Place | None:
    """The identity of a read state within its user; None if it cannot be read."""
    if not isinstance(row, dict):
        return None
    kind, channel = number(row.get("read_state_type")), number(row.get("channel_id"))
    return None if kind is None or channel is None else (kind, channel)


def rows_of(said: Said) -> Rows | None:
    """The read states of a reply; None if not all of them can be read."""
    states = said.body.get("read_states")
    if not isinstance(states, list):
        return None
    order = [place for row in states if (place := place_of(row)) is not None]
    following = said.body.get("next")
    end = place_of(following)
    if len(order) < len(states) or (following is not None and end is None):
        return None
    return Rows(dict(zip(order, states, strict=True)), order, end)


def same(first: Any, second: Any) -> bool:
    """Equal in value and type; keys may be in any order, the items of a list may not."""
    if type(first) is not type(second):
        return False
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)
