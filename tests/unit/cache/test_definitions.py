"""What stands in several compiled modules, for the sake of inlining, is the same text."""

from __future__ import annotations

import ast
from itertools import combinations
from pathlib import Path

import pytest

import readstates.cache

FOLDER = Path(readstates.cache.__path__[0])
MODULES = (
    "kernel.py", "marked.py", "deletions.py", "table.py", "slots.py", "rebuild.py", "verify.py",
)  # fmt: skip
OWN = {  # each module its own; `verify` and `rebuild` are a function and a method of it
    "__init__", "_attach", "close", "COMPILED", "slots", "rebuild", "verify",
    "_ack_marks", "_mark",  # of `marked`; in `kernel` they are placeholders for it
}  # fmt: skip
REPEATED = {  # the tests below look at these at least
    "_mix", "_place", "_place_of_state", "_place_of", "_index_add", "_find", "_find_state",
    "_sum_of", "_check", "_after", "_C1", "_C7", "_MASK", "_WARM", "_OLDEST", "_wipe",
    "_USER", "_STATE", "_DIRTY", "_TOMBSTONE", "_QUEUED", "_IN_FLIGHT", "_PARTIAL",
}  # fmt: skip


def definitions(name: str) -> dict[str, str]:
    """Functions, methods and constants of a module, as their syntax trees."""
    found: dict[str, str] = {}
    module = ast.parse((FOLDER / name).read_text())
    classes = [node for node in module.body if isinstance(node, ast.ClassDef)]
    for node in [*module.body, *(node for one in classes for node in one.body)]:
        if isinstance(node, ast.FunctionDef):
            # a class that is final as a whole has no final methods
            node.decorator_list = [
                d for d in node.decorator_list if ast.unparse(d) != "cython.final"
            ]
            found[node.name] = ast.dump(node)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = ast.dump(node.value)
    return found


def repeated(one: str, other: str) -> set[str]:
    """The names that two modules define both."""
    return (definitions(one).keys() & definitions(other).keys()) - OWN


@pytest.mark.parametrize(("one", "other"), list(combinations(MODULES, 2)))
def test_both_definitions_are_the_same(one: str, other: str) -> None:
    here, there = definitions(one), definitions(other)
    assert [name for name in repeated(one, other) if here[name] != there[name]] == []


def test_the_copies_are_found() -> None:
    found = {name for pair in combinations(MODULES, 2) for name in repeated(*pair)}
    assert found >= REPEATED
