"""The demo's queries, and what each kind is held against: a bare echo, a bare SELECT.

All kinds are asked in one open loop, in turn, so that what one of them meets, all of them meet: the
same servers, the same updates, the same load of other programs on the machine.

    RESIDENT   a query of a user whom the worker has in its table
    ECHO       a record that a bare consumer answers, in the same size (`ops/bench/echo.py`)
    ABSENT     a query of a user whom the worker must load from Cassandra first
    SELECT     the same users' rows straight from Cassandra, as the worker asks for them
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from readstates.streams.cassandra.store import Store
from readstates.streams.config import Settings

from ..bench import echo
from ..bench.asking import DEADLINE_S, Asked, OpenLoop, make_topic
from ..proof.traffic import Record

RESIDENT, ECHO, ABSENT, SELECT = "resident", "echo", "absent", "select"
SELECT_TIMEOUT_S = 30.0
GIL_SWITCH_S = 0.0005  # a thread that has an answer must not wait 5 ms for the interpreter
WATCH_S = 0.1


class Asker(Protocol):
    """Asks so many times per second, evenly, and waits for the answers."""

    def run(self, queries: Sequence[Any], per_second: float, seconds: float) -> Asked: ...


class Selects:
    """Asks Cassandra for one user at a time with the service's own prepared SELECT."""

    def __init__(self, store: Store) -> None:
        # It asks past the store: what the service adds to a SELECT is what is to be seen.
        self._session, self._select = store._session, store._select  # noqa: SLF001

    def run(self, queries: Sequence[int], per_second: float, seconds: float) -> Asked:
        """As OpenLoop.run, of users."""
        count, asked = int(per_second * seconds), Asked()
        came: dict[int, float] = {}
        failures: list[Exception] = []

        def done(_rows: Any, number: int) -> None:
            came[number] = time.monotonic()

        def failed(exc: Exception, _number: int) -> None:
            failures.append(exc)

        start = time.monotonic()
        for number in range(count):
            due = start + number / per_second
            wait_s = due - time.monotonic()
            if wait_s > 0:
                time.sleep(wait_s)
            future = self._session.execute_async(self._select, ([queries[number % len(queries)]],))
            future.add_callbacks(done, failed, callback_args=(number,), errback_args=(number,))
            asked.due.append(due)
        end = time.monotonic() + SELECT_TIMEOUT_S
        while len(came) + len(failures) < count and time.monotonic() < end:
            time.sleep(0.02)
        for number, due in enumerate(asked.due):
            if number in came:
                asked.answered.append(number)
                asked.seconds.append(came[number] - due)
            else:
                asked.unanswered += 1
        return asked


class _Asking(threading.Thread):
    """One kind's run; a daemon, so that an interrupt of the demo does not wait for its end."""

    def __init__(self, run: Callable[[], Asked]) -> None:
        super().__init__(daemon=True)
        self._run = run
        self.asked: Asked | None = None
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            self.asked = self._run()
        except BaseException as exc:  # noqa: BLE001 - whoever waits for it fails with it
            self.failure = exc


@dataclass
class Questions:
    """What is asked of one kind: `queries` in this order, from the first again after the last."""

    asker: Asker
    queries: Sequence[Any]
    next: int = 0

    def take(self, count: int) -> Sequence[Any]:
        """The next queries: an absent user must not be asked again at once."""
        length = len(self.queries)
        taken = [self.queries[(self.next + n) % length] for n in range(min(count, length))]
        self.next = (self.next + count) % length
        return taken


class InTurn:
    """Asks several kinds in turn. Begin it, do something else, and take what was seen."""

    def __init__(
        self, questions: Mapping[str, Questions], per_second: float, seconds: float
    ) -> None:
        self._threads: dict[str, _Asking] = {}
        self._begun, self._seconds = time.monotonic(), seconds
        count = int(per_second * seconds)
        for kind, one in questions.items():
            run = self._run(one.asker, one.take(count), per_second, seconds)
            self._threads[kind] = _Asking(run)
            self._threads[kind].start()
            time.sleep(1 / per_second / len(questions))

    @staticmethod
    def _run(
        asker: Asker, queries: Sequence[Any], per_second: float, seconds: float
    ) -> Callable[[], Asked]:
        return lambda: asker.run(queries, per_second, seconds)

    def finish(self, watched: Callable[[], None] = lambda: None) -> dict[str, Asked]:
        """Wait for the answers; raises what ended one of the kinds."""
        while any(thread.is_alive() for thread in self._threads.values()):
            time.sleep(WATCH_S)
            watched()
        found = {}
        for kind, thread in self._threads.items():
            if thread.failure is not None:
                raise thread.failure
            assert thread.asked is not None
            found[kind] = thread.asked
        return found


def query(user_id: int) -> Record:
    """A query for all of a user's read states."""
    return Record(b"%d" % user_id, b'{"type":"get","user_id":"%d"}' % user_id)


@contextmanager
def loop(
    settings: Settings, kind: str, topic: str, deadline_s: float = DEADLINE_S
) -> Iterator[OpenLoop]:
    """A client that asks through `topic`, with a reply topic of its own."""
    sys.setswitchinterval(GIL_SWITCH_S)
    replies = make_topic(settings, f"{settings.topic_prefix}.replies.{kind}")
    made = OpenLoop(settings, topic, replies, deadline_s)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def bare_echo(settings: Settings, partitions: int, size: int) -> Iterator[tuple[OpenLoop, int]]:
    """A bare echo that answers with `size` bytes: the client that asks it, and its process."""
    topic = make_topic(settings, f"{settings.topic_prefix}.echo", partitions)
    with echo.beside(settings, topic, size) as pid, loop(settings, ECHO, topic) as asker:
        yield asker, pid


def errors_in(asked: Asked) -> dict[str, int]:
    """Error replies by code, and queries without a reply."""
    found = {"no reply": asked.unanswered} if asked.unanswered else {}
    for body in asked.bodies:
        if b'"error"' in body:
            code = json.loads(body).get("error", {}).get("code", "")
            found[code] = found.get(code, 0) + 1
    return found
