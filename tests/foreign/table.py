"""The table of clients, as it is printed and as README.md holds it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from . import models

PARTITIONS = (8, 6)  # a power of two, and none: it shows a murmur2 without its mask
README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- printed by make foreign -->\n", "<!-- end -->\n"
HEAD = (
    "client",
    "version",
    *(f"as it is, {count} partitions" for count in PARTITIONS),
    "what to set",
    "replies compared",
    "result",
)
MODELS_HEAD = ("language", "models", "replies read", "result")


class Line(NamedTuple):
    """One client in the table."""

    name: str
    version: str
    defaults: tuple[str, ...]
    setting: str
    replies: str
    result: str


def _markdown(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    return "".join("| " + " | ".join(row) + " |\n" for row in (head, ("---",) * len(head), *rows))


def markdown(lines: Iterable[Line]) -> str:
    """The table of clients."""
    return _markdown(HEAD, ((line.name, line.version, *line.defaults, *line[3:]) for line in lines))


def models_markdown(lines: Iterable[models.Line]) -> str:
    """The table of generated models."""
    return _markdown(MODELS_HEAD, (tuple(map(str, line)) for line in lines))


def shown() -> list[Line]:
    """The lines that README.md holds."""
    text = README.read_text("utf-8").partition(BEGIN)[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in row.strip("|\n ").split(" | ")] for row in text.splitlines()]
    return [Line(name, version, tuple(more[:-3]), *more[-3:]) for name, version, *more in rows[2:]]


def write(table: str) -> None:
    """Puts the printed table into README.md."""
    before, _, rest = README.read_text("utf-8").partition(BEGIN)
    README.write_text(before + BEGIN + table + END + rest.partition(END)[2], "utf-8")
