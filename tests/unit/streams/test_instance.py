"""The name of a worker in its group outlives the process, and no two processes have the same."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from readstates.streams.config import DYNAMIC, FORMS, Settings
from readstates.streams.errors import ConfigError
from readstates.streams.worker import instance
from readstates.streams.worker.instance import Instance, instance_of

HOLDER = """
import sys, time
from pathlib import Path
from readstates.streams.config import Settings
from readstates.streams.worker.instance import instance_of
held = instance_of(Settings(), Path(sys.argv[1]))
print(held.name, flush=True)
time.sleep(600)
"""
Start = Callable[..., Instance]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Start a worker in the folder, in this process."""

    def started(**settings: Any) -> Instance:
        return instance_of(Settings(**settings), tmp_path)

    return started


def end(worker: Instance) -> None:
    """What the system does at the end of a process, however it ended."""
    os.close(worker._file)


def test_two_workers_of_a_folder_have_different_names(start: Start) -> None:
    workers = [start() for _ in range(5)]
    assert len({worker.name for worker in workers}) == 5


def test_a_worker_that_was_killed_comes_back_under_its_name(start: Start, tmp_path: Path) -> None:
    """In another process, with SIGKILL: nothing of its own runs then."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        name = holder.stdout.readline().strip()
        assert start().name != name, "it is still there"
        holder.kill()
        assert holder.wait() == -signal.SIGKILL
    assert start().name == name


def test_a_name_stays_the_same(start: Start) -> None:
    """Of a host and folder, also over ends in good order."""
    names = set()
    for _ in range(3):
        worker = start()
        names.add(worker.name)
        worker.left()
        end(worker)
    assert len(names) == 1


def test_the_name_of_one_that_died_is_taken_first(start: Start) -> None:
    """The group still keeps its partitions; those of one that left are somebody else's."""
    first, second, third = start(), start(), start()
    first.left()
    for worker in (first, third):
        end(worker)
    assert start().name == third.name
    assert start().name == first.name
    assert second.name not in {first.name, third.name}


def test_names_of_another_group_are_left_alone(start: Start) -> None:
    """Each group knows its own members: a worker that died needs its name in its own group."""
    mine = start(kafka_group="mine")
    end(mine)
    assert start(kafka_group="other").name != mine.name
    assert start(kafka_group="mine").name == mine.name


def test_two_folders_have_different_names(tmp_path: Path) -> None:
    """Containers may have the same host name and the same path, with a folder each."""
    names = set()
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        names.add(instance_of(Settings(), folder).name)
    assert len(names) == 2


@pytest.mark.parametrize("host", ["db-7.example", "büro / 3", "h" * 64])
def test_kafka_accepts_the_name(start: Start, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    name = start().name
    assert FORMS["instance_id"].fullmatch(name)
    assert name.startswith(re.split(r"[^A-Za-z0-9._-]", host)[0])


def test_a_file_with_anything_else_in_it_gets_a_name(start: Start, tmp_path: Path) -> None:
    """As after a full disk."""
    worker = start()
    (path,) = tmp_path.iterdir()
    end(worker)
    path.write_bytes(b"\xff" * 100)
    name = start().name
    assert re.fullmatch(r".+-[0-9a-f]{8}", name)
    assert path.read_bytes() == f"{name[-8:]} member\n".encode()


def test_only_the_user_may_read_it(start: Start, tmp_path: Path) -> None:
    start()
    (path,) = tmp_path.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_number_of_workers_in_a_folder_is_limited(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instance, "WORKERS_MAX", 2)
    held = [start(), start()]
    with pytest.raises(
        ConfigError, match=r"2 workers of the group read-states use .*another folder"
    ):
        start()
    assert len(held) == 2


def test_a_folder_that_cannot_hold_the_file_is_refused(start: Start, tmp_path: Path) -> None:
    (tmp_path / "read-states-worker-0.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"CACHE_DIR: .*worker-0\.lock cannot hold"):
        start()
    assert not (tmp_path / "elsewhere").exists()


def test_instance_id_replaces_the_name(start: Start, tmp_path: Path) -> None:
    assert start(instance_id="given").name == "given"
    assert start(instance_id=DYNAMIC).name == ""
    start(instance_id="given").left()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("given", "leaves"), [("", True), (DYNAMIC, True), ("given", False)])
def test_who_leaves_the_group_at_a_stop(given: str, leaves: bool) -> None:
    assert Settings(instance_id=given).leaves_group is leaves


@pytest.mark.parametrize("given", ["a b", "ü", "a" * 250])
def test_a_name_that_kafka_does_not_accept(given: str) -> None:
    with pytest.raises(ConfigError, match="INSTANCE_ID must match"):
        Settings.load({}, instance_id=given)
