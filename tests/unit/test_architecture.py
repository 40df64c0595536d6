"""Dependencies point one way: schemas <- cache <- streams <- ops."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAY_IMPORT = {
    "schemas": {"schemas"},
    "cache": {"schemas", "cache"},
    "streams": {"schemas", "cache", "streams"},
    "ops": {"schemas", "cache", "streams", "ops"},
}


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level > 1:  # out of its folder
            above = [node.module] if node.module else [alias.name for alias in node.names]
            found |= {f"readstates.{name}" for name in above}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_one_way(package: str) -> None:
    paths = list((ROOT / package).rglob("*.py"))
    assert paths
    for path in paths:
        ours = {name.split(".")[1] for name in _imports(path) if name.startswith("readstates.")}
        assert ours <= MAY_IMPORT[package], path


def test_only_one_module_knows_the_database_driver() -> None:
    users = {
        path.relative_to(ROOT).as_posix()
        for package in ("schemas", "cache", "streams")
        for path in (ROOT / package).rglob("*.py")
        if any(name.split(".")[0] == "cassandra" for name in _imports(path))
    }
    assert users == {"streams/cassandra.py"}
