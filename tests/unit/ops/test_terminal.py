"""A terminal's end result: what was overwritten, wiped away or scrolled out of it is not there."""

from __future__ import annotations

import html
import re
import struct
import sys
import zlib
from pathlib import Path

import pytest

from readstates.ops.console import browser
from readstates.ops.console.__main__ import TERMINAL_SCALE, print_of
from readstates.ops.console.png import _parts, smaller
from readstates.ops.console.terminal import COLUMNS, MARGIN_PX, ROWS, page, record, shown

LIVE = """
from readstates.ops.demo import progress
progress.EVERY_LIVE_S = 0
progress.say("first")
with progress.Progress() as tell:
    tell("a long step of this program")
    tell("a step")
progress.say("last")
"""


@pytest.mark.parametrize(
    ("written", "lines"),
    [
        ("one\r\ntwo\r\n", ["one", "two"]),
        ("\r  step, 1 s\033[K\r  step, 2 s\033[K\r\033[Kdone\r\n", ["done"]),
        ("longer\rshort\r\n", ["shortr"]),
        ("longer\rshort\033[K\r\n", ["short"]),
        ("one\n\ntwo", ["one", "", "two"]),
        ("a" * (COLUMNS + 1), ["a" * COLUMNS, "a"]),
    ],
)
def test_what_is_shown(written: str, lines: list[str]) -> None:
    assert shown(written) == lines


def test_the_first_lines_scroll_away() -> None:
    lines = [str(number) for number in range(ROWS + 5)]
    assert shown("\r\n".join(lines)) == lines[5:]


def test_a_command_takes_it_for_a_terminal() -> None:
    status, written = record([sys.executable, "-c", LIVE])
    assert status == 0
    assert "a long step of this program" in written, "it did not show its live line"
    assert shown(written) == ["first", "last"]


def test_a_failure_is_told() -> None:
    assert record([sys.executable, "-c", "print('no'); raise SystemExit(3)"]) == (3, "no\r\n")


def test_the_page_holds_the_lines_as_they_are() -> None:
    lines = ["<b> & 1.50 ×", "  two"]
    text, width, height = page("demo", lines)
    (found,) = re.findall(r"<pre>(.*)</pre>", text, re.DOTALL)
    assert html.unescape(found).split("\n") == lines
    assert width > 8 * COLUMNS
    assert height > 2 * 13


@pytest.mark.skipif(browser.find() is None, reason="no Chromium: apt-get install chromium")
async def test_the_picture_has_all_lines_in_it(tmp_path: Path) -> None:
    """It is as high as the lines are, and a letter at the right edge is inside of it."""
    lines = ["." * (COLUMNS - 1) + "█", *[""] * 20, "█"]
    _, width, height = page("", lines)
    picture = smaller(await print_of(browser.Browser(tmp_path / "browser"), lines))
    wide, high = struct.unpack_from(">II", picture, 16)
    assert (wide, high) == (width * TERMINAL_SCALE, height * TERMINAL_SCALE)
    parts = dict(_parts(picture))
    rows = zlib.decompress(parts[b"IDAT"])
    ink = [rows[y * (wide + 1) + 1 : (y + 1) * (wide + 1)] for y in range(high)]
    margin = int(MARGIN_PX * TERMINAL_SCALE)
    assert {row[-1] for row in ink} == {0}, "something touches the right edge"
    assert any(row[-3 * margin : -margin // 2].strip(b"\0") for row in ink[: high // 4])
    assert any(row[: 2 * margin].strip(b"\0") for row in ink[-3 * margin :])
