"""Reads the replies to the queries of a replay."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from readstates.schemas.headers import HEADER_CORRELATION_ID, HEADER_ERROR, headers_of

from ..config import Settings
from .reading import open_reader

TakeReply = Callable[[bytes, bytes | None, dict[str, bytes | None]], None]

WAIT_S = 0.1


class ReplayReplies:
    """Reads the replay's reply topic; measures round trips in s from the time each was due.

    `take` is called with each reply, in the reader's thread: correlation ID, value, headers.
    """

    def __init__(self, settings: Settings, topic: str, take: TakeReply | None = None) -> None:
        self._take = take
        self._consumer = open_reader(settings, topic).consumer
        self.due: dict[bytes, float] = {}  # correlation ID → when, of queries not yet answered
        self.seconds: list[float] = []
        self.errors: dict[str, int] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._stopping.is_set():
            message = self._consumer.poll(WAIT_S)
            if message is None or message.error() is not None:
                continue
            headers = dict(headers_of(message))
            correlation_id = headers.get(HEADER_CORRELATION_ID) or b""
            due = self.due.get(correlation_id)
            if due is None:  # of another replay, or a second time
                continue
            if self._take is not None:
                self._take(correlation_id, message.value(), headers)
            del self.due[correlation_id]
            if HEADER_ERROR in headers:
                code = (headers[HEADER_ERROR] or b"").decode(errors="replace")
                self.errors[code] = self.errors.get(code, 0) + 1
            else:
                self.seconds.append(time.monotonic() - due)

    def wait(self, timeout_s: float) -> None:
        """Wait until all queries are answered, but no longer than this."""
        end = time.monotonic() + timeout_s
        while self.due and time.monotonic() < end:
            time.sleep(WAIT_S)

    def close(self) -> None:
        self._stopping.set()
        self._thread.join()
        self._consumer.close()

    def quantile_ms(self, share: float) -> float:
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000
