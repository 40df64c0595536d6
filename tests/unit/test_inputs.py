"""SECURITY.md's table of inputs says what the code says, and misses no limit in bytes."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from readstates.streams.config import Settings

ROOT = Path(__file__).parents[2]
UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "rows": 1}
PLACES = (
    *("updates", "dead letters", "queries", "headers", "replies", "HTTP"),
    *("recordings", "imports", "Cassandra rows", "table files"),
)
NO_INPUTS = {  # limits of what the service makes itself
    ("schemas/replies.py", "NEXT_BYTES_MAX"),
    ("schemas/rows.py", "ROW_BYTES_MAX"),
    ("schemas/rows.py", "MENTION_BYTES_MAX"),
    ("streams/commands/sending.py", "MESSAGE_BYTES_MAX"),  # of a command's own records
    ("streams/kafka/delivery.py", "MESSAGE_BYTES_MAX"),  # of a reply; REPLY_BYTES_MAX is less
}
INNER = {  # limits that only hold within one that the table names
    ("schemas/saved.py", "SAVED_BYTES_MAX"),  # a line's
    ("streams/commands/recording.py", "HEAD_BYTES_MAX"),
    ("streams/kafka/broker.py", "RESPONSE_BYTES_MAX"),  # what a broker sends is bounded by these
    ("streams/kafka/reader.py", "TAKEN_BYTES_MAX"),
    ("streams/kafka/record_batches.py", "UNREAD_BYTES_MAX"),
    ("streams/kafka/record_batches.py", "WORK_BYTES_MAX"),
    ("streams/worker/partitions.py", "QUERY_BYTES_MAX"),
}


class Input(NamedTuple):
    """A row of the table."""

    what: str
    bound: str
    file: str
    name: str

    @property
    def said(self) -> int:
        """The bound as a number."""
        number, unit = self.bound.split()
        return int(number) * UNITS[unit]

    @property
    def real(self) -> int:
        """What the code has."""
        if self.file == "streams/config.py":
            return int(getattr(Settings(), self.name.lower()))
        path = f"readstates.{self.file.removesuffix('.py').replace('/', '.')}"
        value: Any = getattr(importlib.import_module(path), self.name)
        return int(value) << (10 if "_KIB_" in self.name else 0)


def inputs() -> list[Input]:
    text = (ROOT / "SECURITY.md").read_text("utf-8")
    section = text.split("## Every input and its bound")[1].split("\n## ")[0]
    row = re.compile(r"^\| ([^|]+) \| ([^|]+) \| [^|]+ \| `([\w/.]+)` `(\w+)` \|$", re.MULTILINE)
    found = [Input(*match.groups()) for match in row.finditer(section)]
    assert len(found) == section.count("\n| ") - 1, "a row of another form"
    return found


INPUTS = inputs()


@pytest.mark.parametrize("row", INPUTS, ids=lambda row: row.what)
def test_the_bound_is_that_of_the_code(row: Input) -> None:
    assert row.said == row.real


@pytest.mark.parametrize("place", PLACES)
def test_each_place_where_bytes_come_in_has_one(place: str) -> None:
    assert any(place in row.what.partition(":")[0].split(", ") for row in INPUTS)


def test_no_limit_in_bytes_is_missing() -> None:
    limit = re.compile(r"^([A-Z]\w*_BYTES_MAX) = ", re.MULTILINE)
    found = {
        (str(path.relative_to(ROOT)), name)
        for folder in ("schemas", "cache", "streams")
        for path in (ROOT / folder).rglob("*.py")
        for name in limit.findall(path.read_text("utf-8"))
    }
    assert found >= NO_INPUTS | INNER
    said = {(row.file, row.name) for row in INPUTS}
    assert found - said == NO_INPUTS | INNER
    settings = {name.upper() for name in vars(Settings()) if name.endswith("_bytes_max")}
    assert settings == {row.name for row in INPUTS if row.file == "streams/config.py"}
