"""Runs one contender in a process of its own, so that its collector scans only its own objects.

The parent asks for one operation at a time, so that contenders take turns; the answer is the CPU
time of the loop. The collector runs with its default settings.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import shutil
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

from .holders import Ours, peer
from .suite import Suite
from .traffic_of_states import FIRST_MESSAGE, STATES_A_USER, Population

OURS = "ours"
BATCH = 2000  # acks per call of the batch entry; the service takes slices of a poll
NUMBERS = FIRST_MESSAGE * 2  # message IDs and versions of updates: larger than any before


@dataclass(frozen=True)
class Entry:
    """A contender, its shape, and how many read states it has."""

    name: str
    shape: str
    states: int

    def __str__(self) -> str:
        return f"{self.name} {self.shape}".strip()


class Contender:
    """The parent's side."""

    def __init__(self, entry: Entry, suite: Suite) -> None:
        self.entry = entry
        folder = suite.memory_folder() if entry.name == OURS else suite.owner.new_folder()
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(entry, folder, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, *what: Any) -> float:
        """Raises EOFError if the process died."""
        self._pipe.send(what)
        answer: float = self._pipe.recv()
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._pipe.close()
        if kind is not None:  # its present operation may take minutes
            self._process.kill()
        self._process.join()


def memory_bytes() -> int:
    """Memory of this process: its resident pages, mapped files included, and its page tables."""
    kib = 0
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        if line.startswith(("VmRSS:", "VmPTE:")):
            kib += int(line.split()[1])
    return kib * 1024


def _serve(entry: Entry, folder: Path, pipe: Connection) -> None:
    side = _Side(entry, folder)
    while True:
        try:
            operation, *args = pipe.recv()
        except EOFError:
            break
        pipe.send(getattr(side, operation)(*args))
    side.close()
    shutil.rmtree(folder)  # the next one may need the room
    os._exit(0)  # freeing millions of objects one by one takes long


class _Side:
    """The operations of a contender. Times are ns of CPU per operation."""

    def __init__(self, entry: Entry, folder: Path) -> None:
        users = entry.states // STATES_A_USER
        self.people = Population(users)
        self.folder = folder
        self.number = NUMBERS
        gc.collect()
        self._before = memory_bytes()
        self.holder: Any = (
            Ours(entry.states, folder)
            if entry.name == OURS
            else peer(entry.name, entry.shape, entry.states, users, folder)
        )

    def fill(self) -> float:
        """Fill the holder; ns per read state, including the time to make the rows."""
        begin = time.process_time()
        self.holder.insert(self.people.everybody())
        return (time.process_time() - begin) * 1e9 / (self.people.users * STATES_A_USER)

    def memory(self) -> float:
        """Growth since before the fill, in bytes per read state, files included."""
        gc.collect()
        used = memory_bytes() - self._before
        if not isinstance(self.holder, Ours):  # its file is mapped, and counted with the pages
            used += sum(p.stat().st_size for p in self.folder.rglob("*") if p.is_file())
        return used / (self.people.users * STATES_A_USER)

    def get(self, zipf: bool, count: int, round_: int) -> float:
        users, channels = self.people.pairs(zipf, count, round_)
        return _timed(count, self.holder.get, users, channels)

    def update(self, zipf: bool, count: int, round_: int) -> float:
        users, channels = self.people.pairs(zipf, count, round_)
        self.number += count
        return _timed(count, self.holder.update, users, channels, self.number)

    def update_batch(self, zipf: bool, count: int, round_: int) -> float:
        users, channels = self.people.pairs(zipf, count, round_)
        self.number += count
        numbers, codes = self.holder.batch(users, channels, self.number)
        del users, channels
        return _timed(count, self.holder.update_batch, numbers, codes, BATCH)

    def service_update(self, zipf: bool, count: int, round_: int) -> float:
        """Fold through the service's partition, from JSON, in slices of the default length."""
        from . import whole_partition

        users, channels = self.people.pairs(zipf, count, round_)
        self.number += count
        self.holder.write_out()  # a fresh partition takes over a table with nothing to write
        run = whole_partition.loaded(self.holder.table, users, channels, self.number)
        del users, channels
        return _timed(count, run)

    def all_of(self, zipf: bool, count: int, round_: int) -> float:
        users, channels = self.people.pairs(zipf, count, round_)
        del channels
        return _timed(count, self.holder.all_of, users)

    def insert(self, count: int, round_: int) -> float:
        """Insert users who were not there, and evict as many; per read state."""
        people = self.people.strangers(count, round_)
        return _timed(count * STATES_A_USER, self.holder.insert, people)

    def write_out(self) -> float:
        if isinstance(self.holder, Ours):
            self.holder.write_out()
        return 0

    def close(self) -> None:
        if isinstance(self.holder, Ours):
            self.holder.close()


def _timed(count: int, run: Any, *args: Any) -> float:
    begin = time.process_time()
    run(*args)
    return (time.process_time() - begin) * 1e9 / count
