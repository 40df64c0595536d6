"""The owner of every process that a run starts, and of the folders that these work in.

    with command("read-states-demo-") as run:
        stack = run.stack(progress=say)
        ... stack.env(), run.folder, workers, benches, peers ...

At the end of the block the processes are stopped, and then the folders are removed. The same
happens after a failure or an interrupt. If this process is killed, the reaper beside it does it
(`reaper.py` has the rules). Nothing need be registered: all processes that are started inside the
block belong to it, and so do all that these start.

`readstates stack up` has no owner: its servers stay until `stack down`.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from multiprocessing import resource_tracker
from pathlib import Path
from types import TracebackType
from typing import Self

import click

from . import interrupts
from .errors import StackError, StopFailed
from .libs import Progress
from .reaper import MARK, finish
from .stack import Stack


class Owner:
    """One run, see above; an inner run may end before the outer one does.

    `prefix`: the beginning of its folder's name. `keep`: a folder to work in that stays.
    """

    folder: Path

    def __init__(self, prefix: str, keep: Path | None = None) -> None:
        self._prefix, self._keep = prefix, keep
        self._token = uuid.uuid4().hex
        self._folders: list[Path] = []
        self._ended: bool | None = None

    def __enter__(self) -> Self:
        resource_tracker.ensure_running()  # it ignores SIGTERM, and ends by itself when we end
        with interrupts.held():
            outer = os.environ.get(MARK)
            self._marks = f"{outer}:{self._token}" if outer else self._token
            self._outer = outer
            argv = [sys.executable, "-m", "readstates.ops.local.reaper"]
            self._reaper = subprocess.Popen(
                [*argv, self._token, str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                env={name: value for name, value in os.environ.items() if name != MARK},
                start_new_session=True,
            )
            interrupts.owners.append(self)
            os.environ[MARK] = self._marks
        try:
            self.folder = self._keep or self.new_folder()
        except BaseException:
            self._close()
            raise
        return self

    def new_folder(self, parent: Path | None = None) -> Path:
        """Makes another folder of this run, in `parent` or among the temporary files."""
        parent = (parent or Path(tempfile.gettempdir())).absolute()
        folder = parent / f"{self._prefix}{uuid.uuid4().hex[:12]}"
        self._folders.append(folder)
        self._order(f"folder {folder}")  # before it is there: a kill in between leaves nothing
        folder.mkdir(mode=0o700)
        return folder

    def stack(
        self,
        name: str = "stack",
        brokers: int = 1,
        cassandra_nodes: int = 1,
        progress: Progress = lambda _line: None,
        *,
        secure: bool = False,
        brief: bool = False,
        outer: Path | None = None,
    ) -> Stack:
        """Starts servers of this run in its folder, and waits for them; those that run stay.

        They end with this run, even if an inner run is under way now. `outer` is the folder of the
        run around this one, which may be another process's: then the servers are that run's, and
        several inner runs share them. Raises StackError.
        """
        made = Stack((outer or self.folder) / name)
        marks = self._marks if outer is None else self._outer
        assert marks is not None, "there is no run around this one"
        inner = os.environ[MARK]
        os.environ[MARK] = marks
        try:
            made.up(brokers, cassandra_nodes, progress, secure=secure, brief=brief)
        finally:
            os.environ[MARK] = inner
        return made

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        with interrupts.held():
            gone = self.end()
            interrupts.owners.remove(self)
            if self._outer is None:
                os.environ.pop(MARK, None)
            else:
                os.environ[MARK] = self._outer
        if not gone:
            raise StopFailed("not everything that was started could be stopped, see above")

    def stop(self) -> None:
        """Has all processes of this run stopped, even while it ends; does not wait."""
        with contextlib.suppress(StackError):
            self._order("stop")

    def end(self) -> bool:
        """Stops all processes, then removes the folders; True if none of the processes is left."""
        if self._ended is None:
            with contextlib.suppress(StackError):
                self._order("end")
            code = self._reaper.wait()
            assert self._reaper.stdin is not None
            self._reaper.stdin.close()  # only now: a signal handler may give orders meanwhile
            # negative if it was killed
            self._ended = finish(self._token, self._folders) if code < 0 else code == 0
        return self._ended

    def _order(self, text: str) -> None:
        """Gives an order. So short a write is whole or not at all, even in a signal handler."""
        assert self._reaper.stdin is not None
        try:
            os.write(self._reaper.stdin.fileno(), f"{text}\n".encode())
        except BrokenPipeError as error:
            raise StackError(
                "the process that ends this run's servers is gone; start the run again"
            ) from error


@contextlib.contextmanager
def command(prefix: str, keep: Path | None = None) -> Iterator[Owner]:
    """The owner of a command's work; interrupts end it, and a StackError becomes click's."""
    with spoken_errors(), Owner(prefix, keep) as run:
        yield run


@contextlib.contextmanager
def spoken_errors() -> Iterator[None]:
    """A block that interrupts end in good order; a StackError becomes click's."""
    try:
        with interrupts.orderly():
            yield
    except StackError as error:
        raise click.ClickException(str(error)) from error
