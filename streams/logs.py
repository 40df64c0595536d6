"""A worker's log: each record is one line, as text or JSON, and repeats are limited.

The service's own lines are the name of an event and `key=value` pairs, given as a format string and
its values. In JSON each pair becomes a field, and numbers stay numbers; `message` is the line as it
would be in a text log, and lines of Faust have only that field. Of the same event (the same logger
and format string), only so many lines are written per second and per minute (`RateLimit`); a line
`suppressed` says how many more there were.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TextIO

REPEATS_PER_SECOND, WARNINGS_PER_MINUTE, MINUTE_S = 20, 60, 60.0
TEXT = "[%(asctime)s] [%(process)d] [%(levelname)s] %(message)s"
OURS = "readstates."
RESERVED = {"ts", "level", "logger", "event", "message", "exception"}

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_EVENT = re.compile(r"[a-z][a-z0-9_]*(?= |$)")
_SPEC = r"%[-#0 +]*(?:\d+)?(?:\.\d+)?[a-zA-Z]"
_PAIR_OR_SPEC = re.compile(rf"(?:^|(?<=\s))(\w+)=((?:(?!{_SPEC})\S)*)({_SPEC})(\S*)|({_SPEC})")


def set_up(style: str, level: str, stream: TextIO | None = None) -> None:
    """Send every record of `level` and above to `stream` (standard output), in that format."""
    handler = logging.StreamHandler(stream or sys.stdout)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter(TEXT))
    limited = RateLimit(handler)
    logging.root.handlers.clear()
    logging.root.addHandler(limited)
    logging.root.setLevel(level.upper())


class TextFormatter(logging.Formatter):
    """Writes one line of text, and a traceback below it if there is one.

    Control characters of the message are escaped. A text from outside, such as an error that a
    server reports, can thus neither begin a line that looks like one of ours nor steer a terminal.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = _CONTROL.sub(lambda found: ascii(found[0])[1:-1], record.message)
        return super().formatMessage(record)


class JsonFormatter(logging.Formatter):
    """Writes JSON objects: ts (UTC), level, logger, event, message, and the event's fields."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        body: dict[str, Any] = {
            "ts": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "event": event_of(record),
            "message": record.getMessage(),
        }
        body.update((name, value) for name, value in fields_of(record) if name not in RESERVED)
        if record.exc_info:
            body["exception"] = self.formatException(record.exc_info)
        return json.dumps(body, default=str)


def event_of(record: logging.LogRecord) -> str | None:
    """The first word of an event's line; None for another library's line, and for a sentence."""
    if not record.name.startswith(OURS):
        return None
    event = _EVENT.match(str(record.msg))
    return event.group() if event else None


def fields_of(record: logging.LogRecord) -> Iterator[tuple[str, Any]]:
    """The `key=value` pairs of an event's line; a number that is a whole value stays a number."""
    if event_of(record) is None or not isinstance(record.args, tuple):
        return
    values = iter(record.args)
    for name, before, spec, rest, other in _PAIR_OR_SPEC.findall(str(record.msg)):
        if other:
            next(values, None)
            continue
        after = rest.rstrip(":,;")
        taken = [next(values, None) for _ in re.findall(_SPEC, spec + after)]
        if not before and not after and isinstance(taken[0], int | float):
            yield name, taken[0]
        else:
            yield name, (before + spec + after) % tuple(taken)


@dataclass
class Repeats:
    """The lines of one event: passed on in this second and in this minute, and suppressed."""

    per_minute: float
    second: int = 0
    minute: int = 0
    suppressed: int = 0  # since they were counted in the log

    @property
    def is_full(self) -> bool:
        return self.minute >= self.per_minute


class RateLimit(logging.Handler):
    """Passes records on, but only so many of the same event.

    That is REPEATS_PER_SECOND, and of warnings and errors also WARNINGS_PER_MINUTE: many of them
    are about what others send, who could otherwise fill the disk with the log.
    """

    def __init__(
        self, target: logging.Handler, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._target = target
        self._clock = clock
        self._repeats: dict[tuple[str, str], Repeats] = {}  # by event, in the current minute
        self._second = self._minute = clock()  # when they began
        self._timer: threading.Timer | None = None

    def emit(self, record: logging.LogRecord) -> None:
        self._go_on()
        key = (record.name, str(record.msg))
        repeats = self._repeats.get(key)
        if repeats is None:
            is_warning = record.levelno >= logging.WARNING
            repeats = self._repeats[key] = Repeats(WARNINGS_PER_MINUTE if is_warning else math.inf)
        if repeats.second < REPEATS_PER_SECOND and not repeats.is_full:
            repeats.second += 1
            repeats.minute += 1
            self._target.handle(record)
            return
        repeats.suppressed += 1
        if self._timer is None:  # so that the last ones are counted even if no line follows
            wait_s = MINUTE_S if repeats.is_full else 1
            self._timer = threading.Timer(wait_s, self.flush)
            self._timer.daemon = True
            self._timer.start()

    def flush(self) -> None:
        """Log how many lines were suppressed; `logging` calls it at exit, too."""
        self.acquire()
        try:
            self._timer = None
            self._count_suppressed(list(self._repeats))
            with contextlib.suppress(OSError, ValueError):  # the disk is full, or nobody reads
                self._target.flush()
        finally:
            self.release()

    def _go_on(self) -> None:
        """Begin another second, or another minute, if it is time."""
        now = self._clock()
        if now - self._minute >= MINUTE_S:
            self._count_suppressed(list(self._repeats))
            self._repeats.clear()
            self._minute = self._second = now
        elif now - self._second >= 1:
            self._second = now
            self._count_suppressed([k for k, one in self._repeats.items() if not one.is_full])
            for repeats in self._repeats.values():
                repeats.second = 0

    def _count_suppressed(self, keys: list[tuple[str, str]]) -> None:
        for name, line in keys:
            repeats = self._repeats[name, line]
            if repeats.suppressed:
                values = (repeats.suppressed, name, line)
                repeats.suppressed = 0
                self._target.handle(
                    logging.LogRecord(
                        __name__,
                        logging.WARNING,
                        "",
                        0,
                        "suppressed count=%d by=%s line=%r",
                        values,
                        None,
                    )
                )
