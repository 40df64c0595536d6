"""What README tells a visitor to paste is pasted here, in its order, into a shell and into Python.

The stack is the visitor's own, with its data in a temporary folder; the examples' broker address is
replaced by that of the stack, which takes free ports.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from readstates.ops.local.stack import Stack
from readstates.ops.local.worker import WorkerProcess

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BROKER = "127.0.0.1:9092"
WORKER_LINE = "readstates worker "
WAIT_S = 180.0


def section(name: str) -> str:
    found = re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", README, re.S | re.M)
    assert found is not None, name
    return found[1]


def block(name: str) -> str:
    """The first fenced block of a section."""
    found = re.search(r"^```\w*\n(.*?)^```", section(name), re.S | re.M)
    assert found is not None, name
    return found[1]


class Shell:
    """One shell for the whole visit, as a visitor has it: what it exports stays."""

    def __init__(self, env: dict[str, str]) -> None:
        self._shell = subprocess.Popen(
            ["bash"], cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip

    def run(self, line: str) -> str:
        """What a line prints; it must exit with 0."""
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.write(f'{line}\necho "-- $?"\n')
        self._shell.stdin.flush()
        said: list[str] = []
        for text in self._shell.stdout:
            if text.startswith("-- "):
                assert text == "-- 0\n", f"{line}: {text}{''.join(said)}"
                return "".join(said)
            said.append(text)
        raise AssertionError(f"the shell ended: {''.join(said)}")

    def close(self) -> None:
        os.killpg(self._shell.pid, signal.SIGTERM)
        self._shell.communicate()


def python(code: str, broker: str) -> str:
    """What an example prints."""
    assert BROKER in code
    done = subprocess.run(
        [sys.executable, "-c", code.replace(BROKER, broker)],
        capture_output=True, text=True, timeout=WAIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:)([^)\s]+)\)", README)
    assert len(links) > 10
    for link in links:
        name, _, anchor = link.partition("#")
        path = ROOT / name if name else ROOT / "README.md"
        assert path.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
            assert anchor in {
                re.sub(r"[^\w\- ]", "", each).lower().replace(" ", "-") for each in headings
            }, link


def test_the_visit(tmp_path: Path) -> None:
    """`Try it`, line by line; then the examples of `Produce` and `Query` on the same service."""
    data = tmp_path / "read-states/stack"
    env = {key: value for key, value in os.environ.items() if not key.startswith("READ_STATES_")}
    env["XDG_DATA_HOME"] = str(tmp_path)
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    shell = Shell(env)
    worker: WorkerProcess | None = None
    lines = [line.partition("  #")[0].strip() for line in block("Try it").splitlines()]
    assert any(line.startswith(WORKER_LINE.strip()) for line in lines)
    try:
        for line in lines:
            if line.startswith(". .venv"):
                continue  # the tests' own environment is on the PATH
            if line == WORKER_LINE.strip():
                worker = WorkerProcess(Stack(data).env(), tmp_path / "worker.log").start()
                worker.wait_ready()
            elif line == "readstates stack down":
                broker = Stack(data).env()["READ_STATES_KAFKA_BOOTSTRAP"]
                assert python(block("Produce"), broker) == ""
                full, _, states = python(block("Query"), broker).partition(" ")
                assert (full, states.strip()[0]) == ("False", "[")
                assert "1001" in shell.run("readstates get 42")
                assert worker is not None
                assert worker.stop() == 0
                shell.run(line)
            else:
                said = shell.run(line)
                if line == "readstates get 42":
                    assert "1000" in said
    finally:
        if worker is not None:
            worker.stop()
        Stack(data).down(remove=True)
        shell.close()
