"""The commands of a runbook, as they are printed: its fenced blocks, in their order."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .promql import OPS

FOLDER = OPS / "runbooks"
BLOCK = re.compile(r"^ *```sh\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
HERE = re.compile(r"<<(\w+)$")


def text_of(page: str, heading: str = "") -> str:
    """A page, or what stands below one of its headings."""
    text = (FOLDER / f"{page}.md").read_text("utf-8")
    if not heading:
        return text
    found = re.search(
        rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE
    )
    assert found is not None, f"{page}.md has no part {heading!r}"
    return found[1]


def blocks_of(page: str, heading: str = "") -> list[list[str]]:
    """The commands of each block; a command has the lines of its here-document."""
    return [list(_commands(block)) for block in BLOCK.findall(text_of(page, heading))]


def _commands(block: str) -> Iterator[str]:
    lines = iter(block.splitlines())
    for line in lines:
        here = HERE.search(line)
        more = []
        if here is not None:
            for each in lines:
                more.append(each)
                if each == here[1]:
                    break
        yield "\n".join([line, *more])
