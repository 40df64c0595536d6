"""An owner ends its processes, then its folders, however its run ends. Stand-ins for the servers.

A stand-in takes SIGTERM as a server does: it goes on writing into its folder for a while. A folder
that is removed meanwhile is there again, or is not empty.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from readstates.ops.local import process, reaper
from readstates.ops.local.errors import StopFailed
from readstates.ops.local.owner import Owner
from readstates.ops.local.process import is_alive, spawn

WAIT_S = 60.0

SERVER = """
import pathlib, signal, sys, time
folder, shutdown_s = pathlib.Path(sys.argv[1]), float(sys.argv[2])
end = []
signal.signal(signal.SIGTERM, lambda *_: end.append(time.monotonic() + shutdown_s))
signal.signal(signal.SIGINT, signal.SIG_IGN)
number = 0
while not end or time.monotonic() < end[0]:
    number += 1
    (folder / "data" / "kafka-1").mkdir(parents=True, exist_ok=True)
    (folder / "data" / "kafka-1" / str(number % 50)).write_text("written")
    print(number, flush=True)
    time.sleep(0.002)
"""
RUN = """
import os, signal, subprocess, sys, time
from pathlib import Path
from readstates.ops.local.owner import Owner, command
from readstates.ops.local.process import spawn

def serve(folder, number, shutdown_s="1.5"):
    argv = [sys.executable, "-c", SERVER, str(folder), shutdown_s]
    log = folder / f"{number}.log"
    spawn(argv, log, os.environ)
    while not log.read_text():
        time.sleep(0.01)

def say(text):
    print(text, flush=True)

SERVER, HOW = sys.argv[1], sys.argv[2]
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
with command("owner-test-") as run:
    try:
        say(run.folder)
        serve(run.folder, 1)
        if HOW == "start":
            say("ready")
            time.sleep(60)
        serve(run.folder, 2)
        extra = run.new_folder()
        (extra / "table").write_text("a table")
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])  # a peer
        if HOW == "swallowed":
            try:
                say("ready")
                time.sleep(60)
            except BaseException:
                pass
            say("went on")
        elif HOW == "inner":
            with Owner("owner-test-") as inner:
                serve(inner.folder, 3)
                say("ready")
                time.sleep(60)
        elif HOW == "without an exit":  # a signal between the block's end and __exit__ skips that
            inner = Owner("owner-test-").__enter__()
            serve(inner.folder, 3)
            say("ready")
            time.sleep(60)
        elif HOW == "fails":
            raise RuntimeError("a fault of the run")
        elif HOW == "running":
            say("ready")
            time.sleep(60)
        elif HOW == "second":
            try:
                say("ready")
                time.sleep(60)
            finally:
                say("unwinding")
                while True:
                    try:
                        time.sleep(60)
                    except BaseException:
                        pass
    finally:
        if HOW in ("fails", "ends"):
            say("ready")
say("over")
"""


def started(tmp_path: Path, how: str, **popen: Any) -> subprocess.Popen[str]:
    """A run whose temporary folders are in `tmp_path`, with the output at its first `ready`."""
    argv = [sys.executable, "-c", RUN, SERVER, how]
    (tmp_path / "temporary").mkdir()
    env = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    with (tmp_path / "said").open("w") as said:
        run: subprocess.Popen[str] = subprocess.Popen(
            argv,
            env=env,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            start_new_session=True,
            **popen,
        )
    reads(run, "ready")
    return run


def reads(run: subprocess.Popen[str], wanted: str) -> None:
    assert run.stdout is not None
    for line in run.stdout:
        if line.strip() == wanted:
            return
    raise AssertionError(f"the run ended without {wanted!r}")


def ended(run: subprocess.Popen[str]) -> str:
    """Until that very process has ended, not what may still have its output; what was left of it.

    What it started must be gone by now, not only soon.
    """
    run.wait(WAIT_S)
    assert run.stdout is not None
    with run.stdout:
        return run.stdout.read()


def of(tmp_path: Path) -> list[int]:
    """Processes whose temporary folder is this one: all of that run, and its reaper."""
    wanted = f"TMPDIR={tmp_path / 'temporary'}".encode()
    found = []
    for pid, environment in reaper._environments():
        if wanted in environment:
            found.append(pid)
    return found


def until(what: Callable[[], bool], text: str) -> None:
    end = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < end, text
        time.sleep(0.05)


def nothing_left(tmp_path: Path) -> None:
    assert of(tmp_path) == [], (tmp_path / "said").read_text()
    assert list((tmp_path / "temporary").iterdir()) == [], (tmp_path / "said").read_text()


@pytest.mark.parametrize("how", ["ends", "fails"])
def test_a_run_that_ends_or_fails_leaves_nothing(tmp_path: Path, how: str) -> None:
    run = started(tmp_path, how)
    ended(run)
    nothing_left(tmp_path)
    said = (tmp_path / "said").read_text()
    assert run.returncode == (1 if how == "fails" else 0), said
    assert ("a fault of the run" in said) == (how == "fails")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("how", ["start", "running", "inner", "swallowed", "without an exit"])
def test_an_interrupted_run_leaves_nothing(tmp_path: Path, how: str, name: str) -> None:
    run, number = started(tmp_path, how), getattr(signal, name)
    run.send_signal(number)
    said = ended(run)
    nothing_left(tmp_path)
    assert run.returncode == 128 + number, said
    assert "over" not in said


@pytest.mark.parametrize("how", ["running", "inner", "ends"])
@pytest.mark.parametrize("after_s", [0.0, 0.7])
def test_more_signals_while_it_stops_change_nothing(
    tmp_path: Path, how: str, after_s: float
) -> None:
    """`timeout` and `make` each send SIGTERM; with `ends` the first comes while it stops."""
    run = started(tmp_path, how)
    time.sleep(after_s)
    for _ in range(40):
        os.killpg(run.pid, signal.SIGTERM)
        time.sleep(0.02)
    said = ended(run)
    nothing_left(tmp_path)
    assert run.returncode == 128 + signal.SIGTERM, said


def test_a_second_interrupt_does_not_wait_for_what_the_run_waits_for(tmp_path: Path) -> None:
    run = started(tmp_path, "second")
    run.send_signal(signal.SIGINT)
    reads(run, "unwinding")
    run.send_signal(signal.SIGINT)
    said = ended(run)
    nothing_left(tmp_path)
    assert run.returncode == 128 + signal.SIGINT, said


def test_sigint_counts_where_it_came_ignored(tmp_path: Path) -> None:
    """As it does to what a script starts in the background."""

    def ignore() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    run = started(tmp_path, "running", preexec_fn=ignore)
    run.send_signal(signal.SIGINT)
    said = ended(run)
    nothing_left(tmp_path)
    assert run.returncode == 128 + signal.SIGINT, said


@pytest.mark.parametrize("how", ["start", "running", "inner", "ends"])
def test_a_killed_run_leaves_nothing(tmp_path: Path, how: str) -> None:
    run = started(tmp_path, how)
    run.kill()
    ended(run)
    until(lambda: not of(tmp_path), "the reaper has not ended everything")
    nothing_left(tmp_path)


def test_a_killed_reaper_is_replaced(tmp_path: Path) -> None:
    with Owner("owner-test-") as run:
        log = run.folder / "log"
        server = spawn(
            [sys.executable, "-c", SERVER, str(run.folder), "0.5"], log, dict(os.environ)
        )
        until(lambda: bool(log.read_text()), "the server does not write")
        run._reaper.kill()
        run._reaper.wait()
    assert not is_alive(server)
    assert not run.folder.exists()


def test_what_an_outer_run_starts_outlives_an_inner_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    class Fake:
        def __init__(self, folder: Path) -> None:
            self.folder = folder

        def up(self, *_: object, **__: object) -> None:
            self.folder.mkdir()
            argv = [sys.executable, "-c", SERVER, str(self.folder), "0"]
            seen.append(spawn(argv, self.folder / "log", dict(os.environ)))

    monkeypatch.setattr("readstates.ops.local.owner.Stack", Fake)
    with Owner("owner-test-") as outer:
        with Owner("owner-test-") as inner:
            outer.stack()
            inner.stack()
        assert [is_alive(one) for one in seen] == [True, False]
        assert not inner.folder.exists()
    assert not any(map(is_alive, seen))


def test_a_kept_folder_stays(tmp_path: Path) -> None:
    with Owner("owner-test-", keep=tmp_path) as run:
        (run.folder / "notes").write_text("mine")
    assert (tmp_path / "notes").read_text() == "mine"


def test_a_stopped_process_sees_its_sigterm(tmp_path: Path) -> None:
    with Owner("owner-test-") as run:
        log = run.folder / "log"
        polite = (
            "import signal, sys, time\n"
            "signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('goodbye', flush=True)))\n"
            "print('ready', flush=True)\ntime.sleep(600)"
        )
        server = spawn([sys.executable, "-c", polite], tmp_path / "log", dict(os.environ))
        until(lambda: "ready" in (tmp_path / "log").read_text(), "it does not start")
        process.freeze(server)
        assert not log.exists()
    assert "goodbye" in (tmp_path / "log").read_text()


def test_folders_stay_where_a_process_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def never(_processes: object) -> None:
        raise StopFailed("still alive: 4711")

    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.setattr(reaper, "stop", never)
    assert reaper.finish("no such run", [folder]) is False
    assert folder.exists()
    assert "still alive: 4711" in capfd.readouterr().err


def test_a_folder_that_cannot_be_removed_is_named_and_the_run_is_judged_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refused(folder: Path) -> None:
        raise OSError(39, "Directory not empty", "kafka-1")

    monkeypatch.setattr("readstates.ops.local.reaper.shutil.rmtree", refused)
    assert reaper.finish("no such run", [tmp_path]) is True
    said = capfd.readouterr().err
    assert f"{tmp_path} could not be removed" in said
    assert "Directory not empty" in said


def test_a_process_that_does_not_die_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = spawn([sys.executable, "-c", "import time; time.sleep(600)"], tmp_path / "log", {})
    monkeypatch.setattr(process, "KILL_TIMEOUT_S", 0.1)
    monkeypatch.setattr(process, "send", lambda *_: None)
    with pytest.raises(StopFailed, match=rf"still alive .*{server.pid}"):
        process.stop([server], timeout_s=0.1)
    monkeypatch.undo()
    process.stop([server])


def test_a_stranger_is_neither_found_nor_signalled(tmp_path: Path) -> None:
    token = "f" * 32
    stranger = spawn([sys.executable, "-c", "import time; time.sleep(600)"], tmp_path / "a", {})
    other = {reaper.MARK: "e" * 32}
    another = spawn([sys.executable, "-c", "import time; time.sleep(600)"], tmp_path / "b", other)
    ours = spawn(
        [sys.executable, "-c", "import time; time.sleep(600)"],
        tmp_path / "c",
        {reaper.MARK: f"{'d' * 32}:{token}"},
    )
    try:
        until(lambda: reaper.marked(token) == [ours], "it is not found, or another one is")
        reaper.stop_marked(token)
        assert not is_alive(ours)
        process.send(process.ProcessId(stranger.pid, "another time"), signal.SIGKILL)
        assert is_alive(stranger)
        assert is_alive(another)
    finally:
        process.stop([stranger, another, ours])
