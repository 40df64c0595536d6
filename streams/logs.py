"""A worker's log: each record is one line, as text or JSON, and repeats are limited.

The service's own lines are the name of an event and `key=value` pairs, given as a format string and
its values. In JSON each pair becomes a field, and numbers stay numbers; `message` is the line as it
would be in a text log, and lines of Faust have only that field. At most
REPEATS_PER_SECOND lines of the same event (the same logger and format string) are written per
second; a line `suppressed` says how many more there were.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, TextIO

REPEATS_PER_SECOND = 20
TEXT = "[%(asctime)s] [%(process)d] [%(levelname)s] %(message)s"
OURS = "readstates."
RESERVED = {"ts", "level", "logger", "event", "message", "exception"}

_EVENT = re.compile(r"[a-z][a-z0-9_]*(?= |$)")
_SPEC = r"%[-#0 +]*(?:\d+)?(?:\.\d+)?[a-zA-Z]"
_PAIR_OR_SPEC = re.compile(rf"(?:^|(?<=\s))(\w+)=((?:(?!{_SPEC})\S)*)({_SPEC})(\S*)|({_SPEC})")


def set_up(style: str, level: str, stream: TextIO | None = None) -> None:
    """Send every record of `level` and above to `stream` (standard output), in that format."""
    handler = logging.StreamHandler(stream or sys.stdout)
    handler.setFormatter(JsonFormatter() if style == "json" else logging.Formatter(TEXT))
    limited = RateLimit(handler)
    logging.root.handlers.clear()
    logging.root.addHandler(limited)
    logging.root.setLevel(level.upper())


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


class RateLimit(logging.Handler):
    """Passes records on, but at most REPEATS_PER_SECOND per second of the same event."""

    def __init__(
        self, target: logging.Handler, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._target = target
        self._clock = clock
        self._counts: dict[tuple[str, str], int] = {}  # by event, in the current second
        self._began = clock()
        self._timer: threading.Timer | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if self._clock() - self._began >= 1:
            self._next_second()
        key = (record.name, str(record.msg))
        count = self._counts[key] = self._counts.get(key, 0) + 1
        if count <= REPEATS_PER_SECOND:
            self._target.handle(record)
        elif self._timer is None:  # so that the last ones are counted even if no line follows
            self._timer = threading.Timer(1, self.flush)
            self._timer.daemon = True
            self._timer.start()

    def flush(self) -> None:
        """Log how many lines were suppressed; `logging` calls it at exit, too."""
        self.acquire()
        try:
            self._next_second()
            self._target.flush()
        finally:
            self.release()

    def _next_second(self) -> None:
        for (name, line), count in self._counts.items():
            if count > REPEATS_PER_SECOND:
                values = (count - REPEATS_PER_SECOND, name, line)
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
        self._counts.clear()
        self._began = self._clock()
        self._timer = None
