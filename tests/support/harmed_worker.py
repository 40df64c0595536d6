"""A worker whose threads and tasks a test can end or hold up, one at a time.

A line of the file HARM_FILE is a verb and a name: `end` a thread with an error, `hold` it up for
ever, `cancel` a task, `stall` it at its next `asyncio.sleep`, or `call` what fails on the event
loop: a callback or a task. The threads and tasks that there are stand in a JSON file beside it. A
thread or a task counts as stuck SOONER times as early as in a real worker.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import re
import threading
import time
from pathlib import Path

from readstates.streams.cli import main
from readstates.streams.kafka.faust_app import App
from readstates.streams.kafka.pulse import Pulse

HARM = Path(os.environ["HARM_FILE"])
OWN = "harm"  # the thread that does it
POLL_S = 0.05
SOONER = 8

_loops: list[asyncio.AbstractEventLoop] = []  # the worker's, once it has started
_kept: list[asyncio.Future[None]] = []
_stalled: set[str] = set()  # names of tasks
_on_start, _silent_s, _sleep = App.on_start, Pulse.silent_s, asyncio.sleep


class Injected(Exception):
    """What a thread is ended with."""


class HeldUp(Exception):
    """Holds up the thread in which it is made, for ever."""

    def __init__(self) -> None:
        threading.Event().wait()


def name_of(task: asyncio.Task[object]) -> str:
    """The name of what a task runs, without addresses."""
    named = re.match(r"<coroutine object ([\w.<>]+) at ", task.get_name())  # by `mode`
    return named[1] if named else str(getattr(task.get_coro(), "__qualname__", "?"))


def _tasks() -> list[asyncio.Task[object]]:
    return [task for loop in _loops for task in asyncio.all_tasks(loop)]


def _sooner(self: Pulse) -> float:
    return SOONER * _silent_s(self)


async def _sleep_or_stall(delay: float, result: object = None) -> object:
    task = asyncio.current_task() if _stalled else None
    if task is not None and name_of(task) in _stalled:
        await asyncio.Event().wait()
    return await _sleep(delay, result)


async def _started(self: App) -> None:
    _loops.append(asyncio.get_running_loop())
    await _on_start(self)


def _fail() -> None:
    raise Injected


def _begin_failing() -> None:
    """A task that fails, and that nobody waits for."""

    async def fail() -> None:
        _fail()

    _kept.append(asyncio.ensure_future(fail()))
    _loops[0].call_later(POLL_S, _kept.clear)


def _harm(verb: str, name: str) -> None:
    if verb == "cancel":
        for task in _tasks():
            if name_of(task) == name:
                task.get_loop().call_soon_threadsafe(task.cancel)
        return
    if verb == "stall":
        _stalled.add(name)
        return
    if verb == "call":
        _loops[0].call_soon_threadsafe({"callback": _fail, "task": _begin_failing}[name])
        return
    kind = {"end": Injected, "hold": HeldUp}[verb]
    for thread in threading.enumerate():
        if thread.name == name:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(thread.ident or 0), ctypes.py_object(kind)
            )


def _run() -> None:
    done = 0
    found = HARM.with_suffix(".found")
    while True:
        time.sleep(POLL_S)
        lines = HARM.read_text().splitlines() if HARM.exists() else []
        for line in lines[done:]:
            _harm(*line.split(" ", 1))
        done = len(lines)
        threads = sorted(thread.name for thread in threading.enumerate() if thread.name != OWN)
        tasks = sorted(map(name_of, _tasks()))
        part = found.with_suffix(".part")
        part.write_text(json.dumps({"threads": threads, "tasks": tasks}))
        part.rename(found)


if __name__ == "__main__":
    App.on_start = _started  # type: ignore[method-assign]
    Pulse.silent_s = _sooner  # type: ignore[method-assign]
    asyncio.sleep = _sleep_or_stall  # type: ignore[assignment]
    threading.Thread(target=_run, name=OWN, daemon=True).start()
    main()
