"""SIGINT, SIGTERM and SIGHUP as one orderly end of a command.

1. The first one tells every open owner to stop its processes, so that nothing which waits for one
   of them goes on waiting, and raises Interrupted in the main thread.
2. `make` and `timeout` each pass SIGTERM on, and people press Ctrl-C twice. A second one unwinds no
   further: it waits until the owners are done and ends the process. Where there is no owner
   (`readstates stack`) it changes nothing: to stop what `up` started takes a limited time.
3. While an owner ends, nothing interrupts it: that takes a limited time (process.py has the
   limits).
4. The exit status is 128 + the signal's number.

SIGINT counts even where it came to us ignored, as it does to a script's background jobs: who
sends it means it. SIGHUP that came to us ignored stays so: that is what nohup is for.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Protocol

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """One of these signals came."""


class Ending(Protocol):
    """What an interrupt must bring to an end."""

    def stop(self) -> None:
        """Begin to stop; does not wait."""

    def end(self) -> bool:
        """Stop and remove everything; True if no process is left."""


owners: list[Ending] = []  # those that are open, the innermost last
_held = 0  # how many blocks that nothing interrupts are under way
_first: int | None = None  # the signal that came, where `orderly` is in force


@contextlib.contextmanager
def orderly() -> Iterator[None]:
    """A command, or what it does with servers: interrupts end it as said above. Main thread."""
    before = {number: signal.getsignal(number) for number in NUMBERS}
    for number, handler in before.items():
        if number != signal.SIGHUP or handler != signal.SIG_IGN:
            signal.signal(number, _came)
    try:
        yield
    except BaseException:
        if _first is not None:  # whatever it led to
            _end_owners()  # a signal between a block's end and the owner's __exit__ skips that
            sys.exit(128 + _first)
        raise
    finally:
        for number, handler in before.items():  # the end of the process is not broken off, either
            signal.signal(number, handler if _first is None else signal.SIG_IGN)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """A block that no interrupt breaks off; one that comes meanwhile is raised at its end.

    In other threads than the main one nothing is ever raised, and nothing need be held.
    """
    global _held
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _held += 1
    try:
        yield
    finally:
        _held -= 1
    if not _held:
        check()


def check() -> None:
    """Raises Interrupted if a signal came, also where what it raised was lost on the way."""
    if _first is not None:
        raise Interrupted


def _came(number: int, _frame: FrameType | None) -> None:
    global _first
    is_first, _first = _first is None, _first or number
    if is_first:
        _say("interrupted: stopping what was started")
        for owner in owners:
            owner.stop()
    if _held or not (is_first or owners):
        return
    if not is_first:
        _end_owners()
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        os._exit(128 + _first)
    raise Interrupted


def _end_owners() -> None:
    """For good: the process ends after it."""
    global _held
    _held += 1
    for owner in reversed(owners):
        owner.end()


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"{text}\n".encode())
