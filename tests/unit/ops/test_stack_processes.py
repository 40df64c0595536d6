"""The stack's own rules, with small stand-ins for the servers: a listener in Python each."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from readstates.ops.local import (
    archive,
    cassandra,
    kafka,
    libs,
    process,
    stack,
    start,
    state,
)
from readstates.ops.local.cluster import Cluster, Node
from readstates.ops.local.errors import NotRunning, StackError, StartFailed
from readstates.ops.local.process import ProcessId, freeze, is_alive, spawn, stop, thaw
from readstates.ops.local.stack import Stack

LISTEN = """
import socket, sys, time
try:
    listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
except OSError as error:
    sys.exit(f"cannot listen: {error}")
while True:
    listener.accept()[0].close()
"""
DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(60)
"""


def listens(cluster: Cluster, node: Node, timeout_s: float) -> bool:
    try:
        socket.create_connection((node.address, node.port), timeout_s).close()
    except OSError:
        return False
    return True


def stand_in(program: str = LISTEN) -> SimpleNamespace:
    def command(cluster: Cluster, node: Node, java: str, lib: Path) -> list[str]:
        return [sys.executable, "-c", program, node.address, str(node.port)]

    return SimpleNamespace(
        PORT_TAKEN=("Address already in use",),
        prepare=lambda *_: None,
        command=command,
        answers=listens,
    )


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> dict[str, SimpleNamespace]:
    made = {"kafka": stand_in(), "cassandra": stand_in()}
    monkeypatch.setattr(start, "_SERVERS", made)
    monkeypatch.setattr(stack, "find_java", lambda: "/java")
    monkeypatch.setattr(stack, "jars", lambda role, progress: Path("/lib"))
    return made


@pytest.fixture
def local(tmp_path: Path, servers: object) -> Iterator[Stack]:
    made = Stack(tmp_path / "stack")
    yield made
    made.down()


def pids(local: Stack) -> dict[str, int]:
    remembered = state.load(local.data_dir)
    return {n: p.pid for n, p in remembered.processes.items()} if remembered else {}


def test_up_is_idempotent_and_down_ends_it(local: Stack) -> None:
    said: list[str] = []
    assert local.up(2, 1, said.append) is True
    before = pids(local)
    assert sorted(before) == ["cassandra-1", "kafka-1", "kafka-2"]
    assert [p.answering for p in local.status().processes] == [True] * 3
    json.dumps(local.status().as_dict())
    assert local.up(2, 1) is False
    assert pids(local) == before
    assert any("kafka-2: answers on 127.0.0.1:" in line for line in said)
    assert all(os.getsid(pid) == pid for pid in before.values())  # Ctrl-C here is not for them
    assert local.down() is True
    assert not local.status().up
    assert [p.alive for p in local.status().processes] == [False] * 3
    assert local.down() is False


def test_env_points_at_it_and_ports_stay(local: Stack) -> None:
    with pytest.raises(NotRunning, match="stack up"):
        local.env()
    local.up(2, 2)
    first = local.env()
    assert first["READ_STATES_KAFKA_BOOTSTRAP"].count("127.0.0.1:") == 2
    assert first["READ_STATES_CASSANDRA_HOSTS"] == "127.0.0.1,127.0.0.2"
    local.down()
    with pytest.raises(NotRunning):
        local.env()
    local.up(2, 2)
    assert local.env() == first


def test_another_size_is_refused(local: Stack) -> None:
    local.up(1, 1)
    with pytest.raises(StackError, match=r"made with 1 broker.*--remove"):
        local.up(3, 1)


def test_a_stack_stays_secure_or_open(local: Stack) -> None:
    with pytest.raises(StackError, match="one Cassandra node"):
        local.up(1, 2, secure=True)
    local.up()
    with pytest.raises(StackError, match=r"made without --secure.*--remove"):
        local.up(secure=True)


def test_only_what_died_is_started_again(local: Stack) -> None:
    local.up()
    before = pids(local)
    os.kill(before["kafka-1"], signal.SIGKILL)
    deadline = time.monotonic() + 10
    while local.status().processes[0].alive and time.monotonic() < deadline:
        time.sleep(0.02)
    assert local.up() is True
    after = pids(local)
    assert after["cassandra-1"] == before["cassandra-1"]
    assert after["kafka-1"] != before["kafka-1"]


def test_a_stranger_with_a_recorded_pid_is_left_alone(local: Stack) -> None:
    local.up()
    local.down()
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        remembered = state.load(local.data_dir)
        assert remembered is not None
        state.save(remembered.with_process("kafka-1", ProcessId(stranger.pid, "another time")))
        assert not local.status().processes[0].alive
        assert local.down() is False
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_port_taken_meanwhile_is_replaced(local: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    local.up()
    taken = local.status().processes[0].port
    local.down()
    monkeypatch.setattr(start, "is_free", lambda address, port: True)  # it was, a moment ago
    said: list[str] = []
    with socket.create_server(("127.0.0.1", taken)) as squatter:
        assert squatter.getsockname()[1] == taken
        monkeypatch.setattr(
            start._SERVERS["kafka"],
            "answers",
            lambda c, n, t: n.port != taken and listens(c, n, t),
        )
        assert local.up(progress=said.append) is True
        assert local.status().processes[0].port != taken
    assert any("taken by another program; trying others" in line for line in said)


def test_a_server_that_dies_names_its_log_and_nothing_stays(
    local: Stack, servers: dict[str, SimpleNamespace]
) -> None:
    servers["cassandra"] = stand_in("import sys; sys.exit('no heap left for ' + sys.argv[1])")
    with pytest.raises(StartFailed) as failed:
        local.up()
    assert "no heap left for 127.0.0.1" in str(failed.value)
    assert str(local.data_dir / "log" / "cassandra-1.log") in str(failed.value)
    assert pids(local) == {}
    assert [p.alive for p in local.status().processes] == [False, False]


def test_an_interrupt_leaves_nothing_running(
    local: Stack, servers: dict[str, SimpleNamespace]
) -> None:
    started: list[int] = []

    def interrupted(cluster: Cluster, node: Node, timeout_s: float) -> bool:
        started.extend(pids(local).values())
        raise KeyboardInterrupt

    servers["kafka"].answers = servers["cassandra"].answers = interrupted
    with pytest.raises(KeyboardInterrupt):
        local.up()
    assert len(started) == 2
    assert pids(local) == {}
    for pid in started:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_server_that_cannot_be_stopped_stays_written_down(
    local: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its data stays: it goes on writing there."""
    local.up()
    before = pids(local)
    remembered = state.load(local.data_dir)
    assert remembered is not None
    kafka = remembered.processes["kafka-1"]
    monkeypatch.setattr(process, "KILL_TIMEOUT_S", 0.2)
    send = process.send
    monkeypatch.setattr(process, "send", lambda one, n: None if one == kafka else send(one, n))
    monkeypatch.setattr(stack, "stop", lambda given, _timeout_s: stop(given, timeout_s=0.2))
    with pytest.raises(StackError, match=rf"still alive .*{before['kafka-1']}"):
        local.down(remove=True)
    assert pids(local) == {"kafka-1": before["kafka-1"]}
    assert (local.data_dir / "log").is_dir()
    monkeypatch.undo()
    assert local.down() is True
    assert pids(local) == {}


def test_servers_whose_data_is_removed_are_killed(
    local: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float] = []

    def noted(processes: Iterable[ProcessId], timeout_s: float) -> None:
        given.append(timeout_s)
        stop(processes, timeout_s)

    monkeypatch.setattr(stack, "stop", noted)
    for remove in (False, True):
        local.up()
        assert local.down(remove=remove) is True
        assert pids(local) == {}
    assert given == [process.STOP_TIMEOUT_S, 0.0]


def test_data_that_cannot_be_removed_is_named(
    local: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.up()

    def refused(folder: Path, **_: object) -> None:
        if folder.name == "data":
            raise OSError(39, "Directory not empty", "kafka-1")

    monkeypatch.setattr("readstates.ops.local.stack.shutil.rmtree", refused)
    with pytest.raises(StackError, match=r"data cannot be removed: .*Directory not empty"):
        local.down(remove=True)


def test_two_commands_take_turns(local: Stack) -> None:
    local.up()
    said: list[str] = []
    path = local.data_dir / "lock"
    with (
        libs.locked(path, 1.0, lambda: None),
        pytest.raises(StackError, match="still holds"),
        libs.locked(path, 0.1, lambda: said.append("waiting")),
    ):
        pass
    assert said == ["waiting"]


def test_remove_takes_only_the_stacks_own(local: Stack) -> None:
    local.up()
    (local.data_dir / "notes.txt").write_text("mine")
    local.down(remove=True)
    assert [path.name for path in local.data_dir.iterdir()] == ["notes.txt"]


def test_a_damaged_state_file_is_named(local: Stack) -> None:
    local.up()
    path = state.state_path(local.data_dir)
    good = path.read_text()
    path.write_text(good[:40])
    with pytest.raises(StackError, match=r"stack\.json cannot be read"):
        local.status()
    path.write_text(good)


def test_a_server_deaf_to_sigterm_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = spawn([sys.executable, "-c", DEAF], log, os.environ)
    deadline = time.monotonic() + 10
    while "deaf" not in log.read_text() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert is_alive(process)
    stop([process], timeout_s=0.2)
    assert not is_alive(process)


def test_a_server_keeps_no_descriptor_that_came_to_us_open(tmp_path: Path) -> None:
    """`stack up | tee` would wait for the servers to end."""
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    process = spawn([sys.executable, "-c", DEAF], tmp_path / "log", os.environ)
    try:
        os.close(writing)
        os.set_blocking(reading, False)
        assert os.read(reading, 1) == b"", "the other end is closed everywhere"
    finally:
        os.close(reading)
        stop([process], timeout_s=0.1)


def test_cassandra_nodes_join_one_by_one_and_come_back_together(local: Stack) -> None:
    joining: list[str] = []
    local.up(1, 3, joining.append)
    local.down()
    together: list[str] = []
    local.up(1, 3, together.append)

    def second_starts_after_first_answers(said: list[str]) -> bool:
        first = next(i for i, line in enumerate(said) if line.startswith("cassandra-1: answers"))
        return said.index("cassandra-2: starting") > first

    assert second_starts_after_first_answers(joining)
    assert not second_starts_after_first_answers(together)


MANY_THREADS = """
import threading, time
for _ in range(20):
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
end = time.monotonic() + 60
print("there", flush=True)
while time.monotonic() < end:
    print(time.monotonic(), flush=True)
"""


def grown(log: Path, size: int) -> None:
    end = time.monotonic() + 30
    while log.stat().st_size <= size:
        assert time.monotonic() < end, "the process does not go on"
        time.sleep(0.01)


def test_frozen_means_that_no_thread_runs_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    running = spawn([sys.executable, "-c", MANY_THREADS], log, os.environ)
    try:
        grown(log, 0)
        assert not process._stands(running.pid)
        freeze(running)
        assert process._stands(running.pid)
        thaw(running)
        grown(log, log.stat().st_size)
        answers = [False, False, True]  # as on a busy machine
        monkeypatch.setattr(process, "_stands", lambda _pid: answers.pop(0))
        freeze(running)
        assert not answers
    finally:
        stop([running])


def test_only_servers_that_live_for_minutes_do_without_the_slow_compiler(
    local: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "options", lambda java, lib, role: [f"-archive-of-{role}"])
    monkeypatch.setattr(cassandra, "_agents", lambda _lib: ["-javaagent:jamm"])

    def commands() -> list[list[str]]:
        known = state.load(local.data_dir)
        assert known is not None
        made = known.cluster
        return [
            kafka.command(made, made.of("kafka")[0], "/java", Path("/lib")),
            cassandra.command(made, made.of("cassandra")[0], "/java", Path("/lib")),
        ]

    local.up(brief=True)
    for argv, role in zip(commands(), ("kafka", "cassandra"), strict=True):
        assert {"-XX:TieredStopAtLevel=1", f"-archive-of-{role}"} <= set(argv)
        assert "-javaagent:jamm" not in argv
    local.down()
    local.up()
    for argv in commands():
        assert not any(word.startswith(("-XX:TieredStop", "-archive-of")) for word in argv)
    assert "-javaagent:jamm" in commands()[1]
