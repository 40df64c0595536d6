"""What stands twice for the sake of inlining, in `table.py` and `recovery.py`, is the same text."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import readstates.cache

FOLDER = Path(readstates.cache.__path__[0])
TWICE = {
    "_mix", "_place", "_place_of_state", "_place_of", "_index_add", "find", "_find_state",
    "_sum_of", "_check", "_after",
}  # fmt: skip
CONSTANTS = {"_C1", "_C2", "_C3", "_C4", "_C5", "_C6", "_C7", "_MASK", "_WARM", "_OLDEST"} | {
    f"_{bit}" for bit in ("USER", "STATE", "DIRTY", "TOMBSTONE", "QUEUED", "IN_FLIGHT", "PARTIAL")
}


def definitions(name: str) -> dict[str, str]:
    """Functions, methods and constants of a module, as their syntax trees."""
    found: dict[str, str] = {}
    for node in ast.walk(ast.parse((FOLDER / name).read_text())):
        if isinstance(node, ast.FunctionDef):
            found[node.name] = ast.dump(node)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = ast.dump(node.value)
    return found


@pytest.mark.parametrize("name", sorted(TWICE | CONSTANTS))
def test_both_definitions_are_the_same(name: str) -> None:
    assert definitions("table.py")[name] == definitions("recovery.py")[name]


def test_nothing_else_has_the_same_name_and_another_meaning() -> None:
    table, recovery = definitions("table.py"), definitions("recovery.py")
    own = {"__init__", "_attach", "close", "COMPILED", "views", "v"}  # each class its own
    assert {name for name in table.keys() & recovery.keys() if name.startswith("_")} - own <= (
        TWICE | CONSTANTS
    )
