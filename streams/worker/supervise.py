"""`readstates worker --supervise`: starts the worker again when it dies, and is quiet otherwise.

How it works. The supervisor imports all modules of the worker, which takes most of a start. Its one
child, the worker, is a fork, so it does not import them again. The supervisor sleeps in `sigwait`
until a signal comes, and then does one thing:

- The worker died: start it again, the first time at once, then after a pause that doubles from
  PAUSE_MIN_S to PAUSE_MAX_S until a worker lives for HEALTHY_S. One line of the log says why.
- The worker ended with 0, or refused its settings (USAGE): end with the same status. Flags and
  environment cannot change while the supervisor runs, so trying again would be of no use. After any
  other refusal, the worker is started again: the reason lies elsewhere (a database or a broker is
  away, a topic is missing), and once it is corrected, nobody has to start each worker by hand.
- SIGTERM, SIGINT or SIGHUP came: pass it on, and end when the worker has ended. A worker that has
  not ended KILL_MARGIN_S after its own time limit is killed.
- Another child died: reap it. Process 1 of a container has to adopt children like this one.

No worker survives its supervisor. The worker reads from a pipe whose other end the system closes
when the supervisor ends, even by SIGKILL. Then it shuts down as after SIGTERM.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

log = logging.getLogger(__name__)

PAUSE_MIN_S = 1.0
PAUSE_MAX_S = 30.0
HEALTHY_S = 10.0  # longer than a start takes
KILL_MARGIN_S = 5.0  # SHUTDOWN_TIMEOUT_S plus this is below the 30 s after which platforms kill
USAGE = 2  # the exit status after settings that cannot be used
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Supervisor:
    """See the module. `worker` runs a worker and returns its exit status; no thread may run yet."""

    def __init__(self, worker: Callable[[], int], shutdown_timeout_s: float) -> None:
        self._worker = worker
        self._kill_after_s = shutdown_timeout_s + KILL_MARGIN_S
        self._lifeline, self._held = os.pipe()  # the end that is held closes with this process
        self._handlers: dict[int, Any] = {}  # what was to be done at a signal before `run`
        self._pid = 0  # 0: no worker runs
        self._started_s = 0.0
        self._deaths = 0  # in a row, without a worker that lived for HEALTHY_S
        self._passed_on: set[int] = set()
        self._status: int | None = None

    def run(self) -> int:
        """Supervise until a signal or the worker's own end; returns the exit status."""
        gc.freeze()  # a worker then shares these pages, which its collector does not touch
        # An ignored SIGHUP stays ignored, here and in the worker: `nohup` asked for that.
        passed_on = [number for number in PASSED_ON if signal.getsignal(number) != signal.SIG_IGN]
        watched: list[int] = [*passed_on, signal.SIGCHLD, signal.SIGALRM]
        signal.pthread_sigmask(signal.SIG_BLOCK, watched)
        for number in watched:  # some systems drop a signal without a handler, even a pending one
            self._handlers[number] = signal.signal(number, lambda *_: None)
        self._start()
        while self._status is None:
            number = signal.sigwait(watched)
            if number == signal.SIGCHLD:
                self._reap()
            elif number == signal.SIGALRM:
                self._time_is_up()
            else:
                self._pass_on(number)
        return self._status

    def _start(self) -> None:
        self._started_s = time.monotonic()
        try:
            self._pid = os.fork()
        except OSError as exc:
            self._died(f"fork_failed_{exc.errno}")
            return
        if self._pid == 0:
            self._be_the_worker()

    def _be_the_worker(self) -> NoReturn:
        """Undo in the child what is the supervisor's alone, and run the worker."""
        os.close(self._held)
        os.setsid()  # Ctrl-C reaches it once, from the supervisor
        logging.root.handlers.clear()  # the worker sets up its own
        _end_after(self._lifeline)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._handlers)
        sys.exit(self._worker())

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._pid:
                self._pid = 0
                self._ended(os.waitstatus_to_exitcode(status))

    def _ended(self, status: int) -> None:
        """Judge how the worker ended. A status below 0 is minus the signal that ended it."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        if self._passed_on:
            before_it_could_handle_it = -status in self._passed_on
            self._status = 0 if before_it_could_handle_it else _as_of_a_shell(status)
        elif status in (0, USAGE):
            self._status = status
        else:
            self._died(signal.Signals(-status).name if status < 0 else f"exit_status_{status}")

    def _died(self, cause: str) -> None:
        lived_s = time.monotonic() - self._started_s
        if lived_s >= HEALTHY_S:
            self._deaths = 0
        pause_s = pause_after(self._deaths)
        self._deaths += 1
        log.warning("worker_restart cause=%s lived_s=%.1f pause_s=%g", cause, lived_s, pause_s)
        if pause_s:
            signal.setitimer(signal.ITIMER_REAL, pause_s)
        else:
            self._start()

    def _time_is_up(self) -> None:
        """Start the worker after a pause, or kill one that was told to end and has not."""
        if not self._pid:
            self._start()
        elif self._passed_on:
            log.error("worker_killed pid=%d: it did not end in time", self._pid)
            os.kill(self._pid, signal.SIGKILL)

    def _pass_on(self, number: int) -> None:
        if not self._pid:  # in a pause
            self._status = 0
            return
        if not self._passed_on:
            signal.setitimer(signal.ITIMER_REAL, self._kill_after_s)
        self._passed_on.add(number)
        os.kill(self._pid, number)


def pause_after(deaths: int) -> float:
    """Seconds from a death to the next start; `deaths` is how many came before it in a row."""
    return min(PAUSE_MAX_S, PAUSE_MIN_S * 2 ** min(deaths - 1, 32)) if deaths else 0.0


def _as_of_a_shell(status: int) -> int:
    """The exit status that a shell would give the worker; for a signal, 128 plus its number."""
    return status if status >= 0 else 128 - status


def _end_after(lifeline: int) -> None:
    """Shut this worker down when the supervisor, which holds the pipe's other end, has ended."""

    def wait() -> None:
        os.read(lifeline, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()
