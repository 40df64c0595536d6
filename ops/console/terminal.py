"""What a command prints, as its terminal shows it in the end: for a picture of the demo's end.

The command runs on a pseudo-terminal, so it prints what it prints for a person. Of the control
sequences only those are understood that the project's commands use: a carriage return, and the
deletion of the rest of a line (`ops/demo/progress.py`).
"""

from __future__ import annotations

import errno
import fcntl
import html
import os
import struct
import subprocess
import termios
from collections.abc import Sequence
from io import FileIO

COLUMNS, ROWS = 100, 42
ERASE_RIGHT = "\033[K"
READ_BYTES = 4096
LETTER_PX, LINE_PX, MARGIN_PX = 8, 19, 16
PAGE = """<!doctype html><meta charset="utf-8"><title>{title}</title>
<style>
body {{ margin: 0; background: #16191d }}
pre {{ margin: 0; padding: {margin}px; color: #d6dae0 }}
pre {{ font: 13px/{line}px "DejaVu Sans Mono", monospace }}
</style>
<pre>{text}</pre>
"""


def record(argv: Sequence[str]) -> tuple[int, str]:
    """Runs a command on a terminal of COLUMNS and ROWS; its exit status, and all that it wrote."""
    ours, its = os.openpty()
    written = bytearray()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        with os.fdopen(its, "wb", buffering=0):
            fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
            running = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=its, stderr=its)
        while part := _read(terminal):
            written += part
    return running.wait(), written.decode("utf-8", "replace")


def _read(terminal: FileIO) -> bytes:
    """What was written next; empty when no process has the terminal open any more."""
    try:
        return terminal.read(READ_BYTES)
    except OSError as exc:
        if exc.errno != errno.EIO:  # how Linux says it
            raise
        return b""


def shown(written: str) -> list[str]:
    """The lines that a terminal shows after this was written, without those scrolled out of it."""
    lines = [_line(each) for each in written.replace("\r\n", "\n").rstrip("\n").split("\n")]
    wrapped = [
        line[at : at + COLUMNS] for line in lines for at in range(0, max(1, len(line)), COLUMNS)
    ]
    return wrapped[-ROWS:]


def _line(written: str) -> str:
    line = ""
    for part in written.split("\r"):
        over, erased, behind = part.partition(ERASE_RIGHT)
        over += behind
        line = over if erased else over + line[len(over) :]
    return line


def page(title: str, lines: Sequence[str]) -> tuple[str, int, int]:
    """An HTML page that looks like a terminal with these lines; its width and height in pixels."""
    text = html.escape("\n".join(lines))
    width = COLUMNS * LETTER_PX + 2 * MARGIN_PX
    height = len(lines) * LINE_PX + 2 * MARGIN_PX
    return PAGE.format(title=title, margin=MARGIN_PX, line=LINE_PX, text=text), width, height
