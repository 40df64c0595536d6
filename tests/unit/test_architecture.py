"""The architecture as import rules: what each package may know of ours and of others'.

Between the top-level folders imports are absolute and point one way; inside one they are relative.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from readstates.streams.cli import COMMANDS

ROOT = Path(__file__).parents[2]
FOLDERS = ("schemas", "cache", "streams", "ops")
LINES_MAX, FUNCTION_LINES_MAX = 400, 70
LINES_MAX_OF = {
    "cache/kernel.py": 1150,  # one file, because the C compiler inlines only within a file
    "streams/app.py": 120,  # a picture fits on a page
}


class Rule(NamedTuple):
    """`ours`: prefixes of our modules that may be imported; `foreign`: packages that may not."""

    ours: frozenset[str]
    never: frozenset[str] = frozenset()


def _may(*ours: str, never: Iterable[str] = ()) -> Rule:
    return Rule(frozenset(ours), frozenset(never))


KAFKA = {"aiokafka", "confluent_kafka"}
OUTSIDE = {*KAFKA, "faust", "mode", "cassandra", "aiohttp"}
BASICS = (
    "schemas",
    "streams.config",
    "streams.deviations",
    "streams.errors",
    "streams.metrics",
    "streams.priorities",
    "streams.tls",
)
PARTITION_BATCH = "streams.partition.batch"

# The longest name that a module's own name begins with is its rule.
RULES = {
    "schemas": _may("schemas", never=OUTSIDE | {"prometheus_client", "asyncio", "time"}),
    "cache": _may("schemas", "cache", never=OUTSIDE | {"prometheus_client", "asyncio"}),
    "streams.partition": _may(
        "schemas",
        "cache",
        "streams.partition",
        "streams.errors",
        "streams.priorities",
        never=OUTSIDE | {"asyncio", "time", "logging", "prometheus_client"},
    ),
    "streams.cassandra": _may(
        *BASICS,
        "cache.marks",
        "cache.layout",
        "streams.partition",
        "streams.cassandra",
        never={*KAFKA, "faust", "mode", "aiohttp"},
    ),
    "streams.kafka": _may(
        *BASICS, PARTITION_BATCH, "streams.kafka", never={"aiokafka", "cassandra", "aiohttp"}
    ),
    "streams.worker": _may(
        *BASICS,
        "cache.table",
        "cache.tablefile",
        "streams.partition",
        "streams.cassandra",
        "streams.kafka",
        "streams.worker",
        never={*KAFKA, "faust", "cassandra"},
    ),
    "streams.worker.run": _may(
        "streams.config",
        "streams.errors",
        "streams.logs",
        "streams.kafka.faust_app",
        "streams.worker.instance",
        never=OUTSIDE,
    ),
    "streams.worker.start_checks": _may(
        "streams.config",
        "streams.cassandra.candidate_store",
        "streams.cassandra.epochs",
        "streams.cassandra.store",
        "streams.kafka",
        "streams.restore.history",
        "streams.rollout.control",
        "streams.worker",
        never=OUTSIDE,
    ),
    "streams.restore": _may(
        *BASICS,
        "cache.tablefile",
        "streams.partition",
        "streams.cassandra",
        "streams.kafka",
        "streams.restore",
        "streams.worker.commits",
        "streams.worker.tables",
        never=OUTSIDE - {"confluent_kafka"},
    ),
    "streams.rollout": _may(
        *BASICS,
        "streams.cassandra.epochs",
        "streams.cassandra.store",
        "streams.errors",
        "streams.kafka",
        "streams.rollout",
        "streams.worker.commits",
        "streams.worker.owned",
        never=OUTSIDE - {"confluent_kafka", "mode"},
    ),
    "streams.rollout.view": _may("schemas", never=OUTSIDE | {"asyncio", "time", "threading"}),
    "streams.comparison": _may(
        "schemas",
        "streams.comparison",
        never=OUTSIDE | {"asyncio", "logging", "prometheus_client", "time"},
    ),
    "streams.commands": _may(
        *BASICS,
        "streams.comparison",
        "streams.rollout",
        "streams.kafka",
        "streams.cassandra.store",
        "streams.cassandra.database",
        "streams.cassandra.epochs",
        "streams.client",
        "streams.commands",
        "streams.restore",
        "streams.rollout",
        never=OUTSIDE - {"confluent_kafka"},
    ),
    "streams.commands.fsck": _may("cache.fsck", never=OUTSIDE),
    "streams.commands.lazy": _may(never=OUTSIDE),
    "streams.commands.worker": _may(
        "streams.app",
        "streams.config",
        "streams.logs",
        "streams.worker.run",
        "streams.worker.supervise",
        "streams.commands.options",
        never=OUTSIDE,
    ),
    "streams.app": _may("schemas", "cache", "streams", never={*KAFKA, "cassandra", "aiohttp"}),
    "streams.agents": _may(
        "streams.errors", "streams.partition", "streams.worker", never=OUTSIDE - {"faust"}
    ),
    "streams.cli": _may("streams.commands.lazy", never=OUTSIDE),  # it names commands by strings
    "streams.client": _may("schemas", "streams.client", never=OUTSIDE - {"confluent_kafka"}),
    "streams.config": _may("streams.errors", never=OUTSIDE),
    "streams.errors": _may(never=OUTSIDE),
    "streams.logs": _may("streams.errors", never=OUTSIDE),
    "streams.deviations": _may(never=OUTSIDE),
    "streams.metrics": _may(
        "schemas", "streams.config", "streams.deviations", "streams.priorities", never=OUTSIDE
    ),
    "streams.priorities": _may(never=OUTSIDE),
    "streams.tls": _may("streams.errors", never=OUTSIDE),
    "streams": _may(),
    "ops": _may("schemas", "cache", "streams", "ops", never={"aiokafka"}),
    # What an application may copy: it needs the client only.
    "ops.examples": _may("streams.client", "ops.examples", never=OUTSIDE - {"aiohttp"}),
}


class Import(NamedTuple):
    name: str
    is_relative: bool


def _imports(path: Path) -> list[Import]:
    """The modules that a file imports, ours without the leading `readstates.`."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found += [Import(alias.name.removeprefix("readstates."), False) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            if node.module:
                found.append(Import(".".join((*base, node.module)), True))
            else:
                found += [Import(".".join((*base, alias.name)), True) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            ours = module.removeprefix("readstates.")
            if module.startswith("readstates.") and (ROOT / ours.replace(".", "/")).is_dir():
                found += [Import(f"{ours}.{alias.name}", False) for alias in node.names]
            else:
                found.append(Import(ours if module.startswith("readstates.") else module, False))
    return found


def _is_ours(name: Import) -> bool:
    return name.is_relative or (
        name.name.split(".")[0] in FOLDERS and (ROOT / name.name.split(".")[0]).is_dir()
    )


def _starts(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def _rule(module: str) -> Rule:
    prefix = max((prefix for prefix in RULES if _starts(module, prefix)), key=len)
    return RULES[prefix]


def _modules() -> list[Path]:
    return [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def problems(path: Path) -> list[str]:
    """What a module imports against the rules."""
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    rule, folder = _rule(module), module.split(".")[0]
    found = []
    for name in _imports(path):
        if _is_ours(name):
            if not any(_starts(name.name, prefix) for prefix in rule.ours):
                found.append(f"{module} may not import {name.name}")
            if name.is_relative != (name.name.split(".")[0] == folder):
                found.append(f"{module}: {name.name} is relative in its own folder, else absolute")
        elif name.name.split(".")[0] in rule.never:
            found.append(f"{module} may not import {name.name}")
    return found


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_keep_the_rules(path: Path) -> None:
    assert problems(path) == []


def _strings(path: Path) -> Iterable[str]:
    return (
        node.value
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_that_a_string_names_is_there(path: Path) -> None:
    """No import rule, and no type checker, sees what is imported by name."""
    for text in _strings(path):
        if re.fullmatch(r"readstates(\.\w+)+", text):
            place = ROOT.joinpath(*text.split(".")[1:])
            assert place.is_dir() or place.with_suffix(".py").is_file(), text


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_names_commands(name: str) -> None:
    command = COMMANDS[name]
    assert command.module.startswith(("readstates.streams.commands.", "readstates.ops."))
    assert isinstance(command.load(), click.Command)


def _users(package: str) -> set[str]:
    return {
        path.relative_to(ROOT).as_posix()
        for path in _modules()
        if path.parts[len(ROOT.parts)] != "ops"
        and any(not _is_ours(n) and n.name.split(".")[0] == package for n in _imports(path))
    }


def test_only_one_module_knows_the_database_driver() -> None:
    assert _users("cassandra") == {"streams/cassandra/driver.py"}


def test_only_the_top_of_streams_is_flat() -> None:
    """A newcomer sees the packages; the files beside them are these."""
    assert {path.name for path in (ROOT / "streams").glob("*.py")} == {
        "__init__.py", "agents.py", "app.py", "cli.py", "config.py", "deviations.py", "errors.py",
        "logs.py", "metrics.py", "priorities.py", "tls.py",
    }  # fmt: skip


@pytest.mark.parametrize("folder", [*FOLDERS, "tests"])
def test_modules_and_functions_are_short(folder: str) -> None:
    too_long = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        text, name = path.read_text("utf-8"), path.relative_to(ROOT).as_posix()
        if text.count("\n") > LINES_MAX_OF.get(name, LINES_MAX):
            too_long.append(name)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                if node.end_lineno - node.lineno >= FUNCTION_LINES_MAX:
                    too_long.append(f"{name}: {node.name}")
    assert too_long == []
