"""The process of one worker, from its settings to its exit status."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

import uvloop

from .. import logs
from ..config import Settings
from ..errors import ReadStatesError
from ..kafka.faust_app import App, WorkerProcess
from .instance import Instance

log = logging.getLogger(__name__)


def _end_at_once(_number: int, _frame: FrameType | None) -> None:
    """End before Faust's handler of SIGTERM is there: nothing is owned yet, nothing to hand over.

    Process 1 of a container ignores a signal without a handler; and to wait until a server that is
    away answers, or does not, would take longer than an orchestrator waits before it kills.
    """
    print("read-states: SIGTERM before the worker had started", file=sys.stderr, flush=True)
    os._exit(0)


def run(
    build: Callable[[Settings], tuple[App, Instance]],
    settings: Settings,
    loglevel: str,
    log_format: str,
) -> int:
    """Run the worker that `build` makes until a signal or an error; returns the exit status."""
    signal.signal(signal.SIGTERM, _end_at_once)
    uvloop.install()  # halves the cost of an iteration; must be first, because a loop is kept
    try:
        app, instance = build(settings)
    except ReadStatesError as exc:
        print(f"read-states: {exc}", file=sys.stderr)
        return exc.exit_status
    logs.set_up(log_format, loglevel)  # after the error, which is clearer than the driver's log
    threading.excepthook = app.thread_died
    log.info("instance name=%s leaves_group=%s", instance.name, settings.leaves_group)
    status = WorkerProcess(app, loglevel).run()
    if status == 0 and settings.leaves_group:
        instance.left()
    return status
