"""Commands and workers as processes that have imported the service before they begin.

An interpreter spends most of a command's life, and a worker's start, on imports. Here a process of
the standard library's fork server imports them once, and each command and each worker is a fork of
it: a process of its own, with its own settings and output, to be signalled and killed as any other.
What starts a fresh interpreter has tests of its own: README's visit, the demo, TLS and logins.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import IO, cast

from readstates.ops.local.worker import WorkerProcess
from readstates.streams.cli import COMMANDS

COMMAND_TIMEOUT_S = 120.0
PROGRAM = "readstates.streams.cli"

# Their modules, and what these import when they are called.
MODULES = [command.module for command in COMMANDS.values() if command.extra != "local"]
MODULES += [
    "readstates.streams.app",
    "readstates.streams.client",
    "readstates.streams.kafka.topics",
]

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload([__name__, *MODULES])


def _run(
    module: str, env: Mapping[str, str], arguments: tuple[str, ...], out: str, err: str | None
) -> None:
    """A module that has a command line, as `python -m` would run it, in the new process."""
    os.setsid()
    os.environ.clear()
    os.environ.update(env)
    flags = os.O_WRONLY | os.O_APPEND
    os.dup2(os.open(out, flags), 1)
    os.dup2(os.open(err or out, flags), 2)
    sys.argv = [module, *arguments]
    if module == PROGRAM:
        from readstates.streams.cli import main

        main(list(arguments), prog_name=f"python -m {PROGRAM}")
    else:
        runpy.run_module(module, run_name="__main__", alter_sys=True)


class Forked:
    """A process of the fork server, with what WorkerProcess asks of a Popen."""

    def __init__(self, *arguments: object) -> None:
        self._process: BaseProcess = _server.Process(target=_run, args=arguments, daemon=True)
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    returncode = property(poll)

    def wait(self, timeout_s: float | None = None) -> int:
        self._process.join(timeout_s)
        found = self._process.exitcode
        if found is None:
            assert timeout_s is not None
            raise subprocess.TimeoutExpired(PROGRAM, timeout_s)
        return found

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class PreloadedWorker(WorkerProcess):
    """A worker that begins at once.

    `module` may change what it likes of the service before it calls the command line: nothing but
    imports has happened by then.
    """

    def _spawn(self, out: IO[bytes]) -> subprocess.Popen[bytes]:
        made = Forked(self._module, self._env, ("worker", *self._arguments), out.name, None)
        return cast("subprocess.Popen[bytes]", made)


def run_command(
    env: Mapping[str, str], arguments: tuple[str, ...]
) -> subprocess.CompletedProcess[str]:
    """A command, as `subprocess.run` would run it."""
    with tempfile.NamedTemporaryFile() as out, tempfile.NamedTemporaryFile() as err:
        process = Forked(PROGRAM, env, arguments, out.name, err.name)
        try:
            code = process.wait(COMMAND_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        said, complained = (Path(file.name).read_text() for file in (out, err))
        return subprocess.CompletedProcess(arguments, code, said, complained)
