"""A command in a process that has imported the service says and returns what a fresh one does."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

from tests.support.preloaded import MODULES, PROGRAM, run_command


@pytest.mark.parametrize(
    "arguments", [("--version",), ("init", "--partitions", "x"), ("fsck", "/no/such/file")]
)
def test_as_a_fresh_interpreter(arguments: tuple[str, ...]) -> None:
    env = {**os.environ, "COLUMNS": "100"}
    fresh = subprocess.run(
        [sys.executable, "-m", PROGRAM, *arguments],
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    found = run_command(env, arguments)
    assert (found.returncode, found.stdout, found.stderr) == (
        fresh.returncode,
        fresh.stdout,
        fresh.stderr,
    )
    assert fresh.stdout + fresh.stderr


def test_only_what_was_given_is_set() -> None:
    """Settings of the run before do not stay: each command is a process of its own."""
    for name, other in (("HTTP_PORT", "FLUSH_DELAY_S"), ("FLUSH_DELAY_S", "HTTP_PORT")):
        said = run_command({**os.environ, f"READ_STATES_{name}": "wrong"}, ("worker",)).stderr
        assert name in said
        assert other not in said


def test_what_is_imported_before_is_there() -> None:
    """The fork server would pass over a module that is not."""
    for name in MODULES:
        assert importlib.util.find_spec(name) is not None, name
