"""Starts that cannot succeed, or are called off, say what to do in a sentence, not a traceback."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from readstates.ops.local.stack import Stack
from tests.support.service import Service
from tests.support.waiting import until

NOBODY = {"READ_STATES_KAFKA_BOOTSTRAP": "127.0.0.1:1", "READ_STATES_HTTP_PORT": "0"}
WORKER = [sys.executable, "-m", "readstates.streams.cli", "worker"]


def may_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    tried = ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(tried, capture_output=True, check=False).returncode == 0


def refused(script: str, cwd: Path, **env: str) -> str:
    """What a worker says that refuses to start where these mounts are made first."""
    done = subprocess.run(
        ["unshare", "-m", "sh", "-ec", f'{script}\nexec "$0" "$@"', *WORKER],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **NOBODY, **env},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("read-states: ")
    return done.stderr


@pytest.mark.skipif(not may_mount(), reason="only root may mount")
def test_a_read_only_cache_dir(tmp_path: Path) -> None:
    folder = tmp_path / "tables"
    folder.mkdir()
    said = refused(
        f"mount -t tmpfs -o ro,mode=700 tmpfs {folder}",
        tmp_path,
        READ_STATES_CACHE_DIR=str(folder),
    )
    assert f"CACHE_DIR: {folder} cannot be used: Read-only file system. Mount a tmpfs" in said


@pytest.mark.skipif(not may_mount(), reason="only root may mount")
def test_a_read_only_root_and_little_shared_memory(tmp_path: Path) -> None:
    """As a container with --read-only, whose /dev/shm has 64 MB."""
    read_only = "\n".join(
        f"mount --bind {path} {path} && mount -o remount,bind,ro {path}"
        for path in ("/tmp", "/var/tmp", str(tmp_path))
    )
    said = refused(f"mount -t tmpfs -o size=64m tmpfs /dev/shm\n{read_only}", tmp_path)
    assert "CACHE_DIR is not set, and there is no folder for the tables" in said
    assert "Mount a tmpfs" in said
    assert "/dev/shm: it has 64 MiB free" in said


def test_sigterm_ends_a_start_that_waits_for_kafka(tmp_path: Path) -> None:
    """Also where signals without a handler are ignored, as those of a container's process 1."""
    with subprocess.Popen(
        WORKER,
        env={**os.environ, **NOBODY, "READ_STATES_CACHE_DIR": str(tmp_path / "tables")},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
    ) as worker:
        until(lambda: handles_sigterm(worker.pid), "a handler of SIGTERM")
        worker.terminate()
        _, said = worker.communicate(timeout=60)
    assert said == "read-states: SIGTERM before the worker had started\n"
    assert worker.returncode == 0


def handles_sigterm(pid: int) -> bool:
    """True once the process catches SIGTERM; see proc_pid_status(5)."""
    status = Path(f"/proc/{pid}/status").read_text("ascii")
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def test_replication_cannot_end_its_statement(stack: Stack, folder: Path) -> None:
    replication = "{'class': 'SimpleStrategy', 'replication_factor': 1} AND durable_writes = false"
    made = Service(stack.env(), folder, "injected", init=False, cassandra_replication=replication)
    done = made.cli("init")
    assert done.returncode == 2
    assert "CASSANDRA_REPLICATION" in done.stderr
    found = made.cql("SELECT keyspace_name FROM system_schema.keyspaces")
    assert [made.env["READ_STATES_CASSANDRA_KEYSPACE"].encode()] not in found
