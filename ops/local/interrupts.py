"""SIGINT, SIGTERM and SIGHUP as one orderly end of a command.

1. The first one tells every open owner to stop its processes, so that nothing keeps waiting for one
   of them, and raises Interrupted in the main thread.
2. `make` and `timeout` each pass SIGTERM on, and people press Ctrl-C twice. A second signal raises
   nothing: it waits until the owners are done and ends the process. If there is no owner
   (`readstates stack`), it changes nothing: stopping what `up` started takes a limited time.
3. While an owner ends, nothing interrupts it: that takes a limited time (process.py has the
   limits).
4. The exit status is 128 + the signal's number.

SIGINT counts even if this process inherited it as ignored, as a script's background jobs do: a
person who sends it means it. SIGHUP stays ignored if it was inherited so: nohup is for that.
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
    """An owner that an interrupt must end."""

    def stop(self) -> None:
        """Begin to stop; does not wait."""

    def end(self) -> bool:
        """Stop and remove everything; True if no process is left."""


owners: list[Ending] = []  # the open ones, the innermost last
_held = 0  # how many blocks are under way that nothing may interrupt
_first: int | None = None  # the signal that came, where `orderly` is in force


@contextlib.contextmanager
def orderly() -> Iterator[None]:
    """A block of a command that interrupts end as the module says; only in the main thread."""
    before = {number: signal.getsignal(number) for number in NUMBERS}
    for number, handler in before.items():
        if number != signal.SIGHUP or handler != signal.SIG_IGN:
            signal.signal(number, _came)
    try:
        yield
    except BaseException:
        if _first is not None:  # whatever it led to
            _end_owners()  # a signal after a block's end may have skipped the owner's __exit__
            sys.exit(128 + _first)
        raise
    finally:
        for number, handler in before.items():  # nothing interrupts the end of the process, either
            signal.signal(number, handler if _first is None else signal.SIG_IGN)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """A block that nothing interrupts; a signal that comes meanwhile is raised at its end.

    In threads other than the main one nothing is ever raised, so nothing need be held.
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
    """Raises Interrupted if a signal came, even if its first exception was lost on the way."""
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
    """Ends all owners for good, because the process ends next."""
    global _held
    _held += 1
    for owner in reversed(owners):
        owner.end()


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"{text}\n".encode())
