"""The local stack with the real servers: up, found, used, up again, down, nothing left."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer

from readstates.ops.local import cql
from readstates.ops.local.stack import Stack


def servers_of(data_dir: Path) -> list[str]:
    """Java processes of that stack, whatever any state file says."""
    return [line for line in processes() if f"{data_dir}/" in line]


def processes() -> list[str]:
    """Pid and arguments of every process; a small system has /proc and no `ps`."""
    if not Path("/proc/self/cmdline").exists():
        argv = ["ps", "-axwwo", "pid=,args="]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            found.append(f"{folder.name} {b' '.join(words).decode(errors='replace')}")
    return found


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "readstates.ops.local.cli", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, timeout=180, check=False)


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Stack]:
    made = Stack(tmp_path / "a stack")
    yield made
    made.down(remove=True)


def test_a_whole_life(local: Stack) -> None:
    folder = ("--data-dir", str(local.data_dir))
    up = run("up", *folder)
    assert up.returncode == 0, up.stderr
    assert "kafka-1: answers on 127.0.0.1:" in up.stderr
    assert len(servers_of(local.data_dir)) == 2

    now = json.loads(run("status", "--json", *folder).stdout)
    assert now["up"] is True
    assert [(p["role"], p["alive"], p["answering"]) for p in now["processes"]] == [
        ("kafka", True, True),
        ("cassandra", True, True),
    ]
    assert all(os.getsid(p["pid"]) == p["pid"] for p in now["processes"])

    exported = run("env", *folder).stdout
    settings = local.env()
    assert exported.splitlines() == [f"export {key}={value}" for key, value in settings.items()]
    use(settings)

    again = run("up", *folder)
    assert again.returncode == 0
    assert "already running" in again.stderr
    assert json.loads(run("status", "--json", *folder).stdout) == now

    down = run("down", *folder)
    assert down.returncode == 0, down.stderr
    assert servers_of(local.data_dir) == []
    assert run("status", *folder).returncode == 1
    missing = run("env", *folder)
    assert missing.returncode != 0
    assert "stack up" in missing.stderr


def use(settings: dict[str, str]) -> None:
    """One record to Kafka, one query to Cassandra."""
    failed: list[object] = []

    def delivered(error: object, _message: object) -> None:
        if error:
            failed.append(error)

    producer = Producer({"bootstrap.servers": settings["READ_STATES_KAFKA_BOOTSTRAP"]})
    producer.produce("stack-test", b"v", on_delivery=delivered)
    assert producer.flush(30) == 0
    assert failed == []
    host = settings["READ_STATES_CASSANDRA_HOSTS"]
    port = int(settings["READ_STATES_CASSANDRA_PORT"])
    rows = cql.query(host, port, "SELECT data_center FROM system.local", 5.0)
    assert rows == [[settings["READ_STATES_CASSANDRA_LOCAL_DC"].encode()]]
