"""A command that starts real servers leaves none of them and none of its folders behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.integration.test_stack import servers_of

WAIT_S = 300.0  # until it is there, and until it has ended, on a busy machine
APART_S = 0.5  # between two signals: the first one's stopping is under way
DEMO = ["--updates", "2000", "--queries", "10", "--users", "100", "--seconds", "90"]


@pytest.mark.parametrize(
    ("at", "signals"),
    [
        ("kafka-1: starting", ("SIGINT", "SIGINT")),
        ("worker ready", ("SIGTERM", "SIGTERM", "SIGTERM")),  # `timeout` and `make` repeat it
        ("worker ready", ("SIGKILL",)),
    ],
)
def test_an_ended_demo(tmp_path: Path, at: str, signals: tuple[str, ...]) -> None:
    said = tmp_path / "said"
    folder = tmp_path / "temporary"
    folder.mkdir()
    env = {**os.environ, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"}
    with said.open("w") as out:
        demo = subprocess.Popen(
            [sys.executable, "-m", "readstates.ops.demo", *DEMO],
            env=env,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        end = time.monotonic() + WAIT_S
        while at not in said.read_text():
            assert demo.poll() is None, said.read_text()
            assert time.monotonic() < end, said.read_text()
            time.sleep(0.1)
        for name in signals:
            demo.send_signal(getattr(signal, name))
            time.sleep(APART_S)
        status, end = demo.wait(WAIT_S), time.monotonic() + WAIT_S
        while signals == ("SIGKILL",) and any(folder.iterdir()) and time.monotonic() < end:
            time.sleep(0.2)
        assert servers_of(folder) == []
        assert list(folder.iterdir()) == []
        first = getattr(signal, signals[0])
        assert status == (-first if first == signal.SIGKILL else 128 + first), said.read_text()
    finally:
        for line in servers_of(folder):  # of an attempt that failed
            os.kill(int(line.split()[0]), signal.SIGKILL)
        demo.kill()
        demo.wait()
