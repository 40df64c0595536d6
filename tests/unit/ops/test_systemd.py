"""The systemd unit agrees with the worker that it starts."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections import defaultdict
from dataclasses import fields
from pathlib import Path

import pytest

from readstates.streams import cli
from readstates.streams.config import Settings, env_name
from readstates.streams.worker import supervise
from tests.support.promql import OPS

UNIT = OPS / "systemd/read-states.service"
TEXT = UNIT.read_text("utf-8")


def settings() -> dict[str, list[str]]:
    """The unit's settings, of all sections."""
    found = defaultdict(list)
    for name, value in re.findall(r"^(\w+)=(.*)$", TEXT, re.MULTILINE):
        found[name].append(value)
    return found


def test_it_supervises_a_worker() -> None:
    (start,) = settings()["ExecStart"]
    _, command, *arguments = shlex.split(start)
    options = {option for param in cli.COMMANDS[command].load().params for option in param.opts}
    assert set(arguments) <= options
    assert "--supervise" in arguments


def test_the_settings_that_it_names_exist() -> None:
    names = {env_name(field.name) for field in fields(Settings)}
    assert set(re.findall(r"READ_STATES_[A-Z_]+[A-Z]", TEXT)) <= names


def test_a_worker_has_time_to_hand_over() -> None:
    """The supervisor is told alone, and kills before systemd does."""
    found = settings()
    assert found["KillMode"] == ["mixed"]
    (grace_s,) = map(int, found["TimeoutStopSec"])
    assert grace_s > Settings().shutdown_timeout_s + supervise.KILL_MARGIN_S


def test_settings_that_cannot_be_used_are_not_tried_again() -> None:
    assert settings()["RestartPreventExitStatus"] == [str(supervise.USAGE)]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd here")
def test_systemd_accepts_it(tmp_path: Path) -> None:
    """With a program and a user that exist here."""
    unit = tmp_path / UNIT.name
    here = TEXT.replace("/opt/read-states/bin/readstates", sys.executable)
    unit.write_text(here.replace("User=read-states", "User=daemon"), "utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False
    )
    assert [line for line in done.stderr.splitlines() if UNIT.name in line] == []
    assert done.returncode == 0, done.stderr
