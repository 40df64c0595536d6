"""The command line, and what it does where only the client's packages are installed."""

from __future__ import annotations

import ast
import itertools
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from readstates.streams.cli import ELSEWHERE, main

PROJECT = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text("utf-8"))[
    "project"
]
WORKER_ONLY = ("faust", "mode", "aiokafka", "aiohttp", "cassandra", "Cython", "cython")
CLIENT_INSTALL = f"""
import importlib.abc, sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {(*WORKER_ONLY, "prometheus_client")!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
"""


def run(code: str, *argv: str) -> subprocess.CompletedProcess[str]:
    """Python in which what only a worker needs cannot be imported."""
    return subprocess.run(
        [sys.executable, "-c", CLIENT_INSTALL + code, *argv],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def command(*argv: str) -> subprocess.CompletedProcess[str]:
    return run("from readstates.streams.cli import main\nmain(prog_name='readstates')", *argv)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_the_help_of_a_command_elsewhere_is_its_own(name: str) -> None:
    found = main.get_command(click.Context(main), name)
    assert found is not None
    assert found.name == name
    assert ELSEWHERE[name].help == found.get_short_help_str(limit=200)


def test_the_client_needs_the_base_dependencies_only() -> None:
    done = run(
        "import readstates.streams.client\n"
        "ours = [m for name, m in sys.modules.items() if name.startswith('readstates.')]\n"
        "print(*(module.__file__ for module in ours), sep=':')"
    )
    assert done.returncode == 0, done.stderr
    # what is compiled has a source that imports `cython` only, and needs it for compiling only
    files = [Path(name) for name in done.stdout.strip().split(":") if name.endswith(".py")]
    assert "client.py" in {path.name for path in files}
    trees = [ast.walk(ast.parse(path.read_text("utf-8"))) for path in files]
    found = {
        name.partition(".")[0]
        for node in itertools.chain(*trees)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom) and not node.level
            else []
        )
    }
    base = {re.split("[<>=]", one)[0].strip().replace("-", "_") for one in PROJECT["dependencies"]}
    assert found - sys.stdlib_module_names - {"readstates"} <= base


@pytest.mark.parametrize("argv", [(), *((name,) for name in sorted(main.list_commands(None)))])  # type: ignore[arg-type]
def test_help_needs_no_more_than_the_client(argv: tuple[str, ...]) -> None:
    done = command(*argv, "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage: readstates" in done.stdout


@pytest.mark.parametrize("name", ["worker", "init"])
def test_a_missing_package_is_named_with_its_remedy(name: str) -> None:
    done = command(name)
    assert done.returncode == 1
    assert "pip install 'readstates[worker]'" in done.stderr
    assert "Traceback" not in done.stderr
