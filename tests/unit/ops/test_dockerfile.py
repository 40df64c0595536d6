"""The image holds what a worker imports: the Dockerfile against pyproject.toml and the source."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[3]
DOCKERFILE = ROOT / "ops/Dockerfile"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
OF_A_WORKER = ("schemas", "cache", "streams")
WORKER = "readstates.streams.app"


def commands() -> Iterator[list[str]]:
    """The words of each command that the build runs."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text("utf-8"), flags=re.MULTILINE)
    for line in text.replace("\\\n", " ").splitlines():
        if line.startswith("RUN "):
            for command in line.removeprefix("RUN ").split("&&"):
                yield shlex.split(command)


def extras() -> set[str]:
    """Those with which the image installs the project."""
    (install,) = (words for words in commands() if words[0].endswith("pip") and "install" in words)
    (project,) = (word for word in install[2:] if not word.startswith("-"))
    found = re.fullmatch(r"\.(?:\[([\w,-]+)\])?", project)
    assert found is not None, project
    return set((found[1] or "").split(",")) - {""}


def brought(requirements: Iterable[str]) -> set[str]:
    """What pip installs for these requirements: they, and what they require in turn."""
    waiting = [Requirement(one) for one in requirements]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        wanted = waiting.pop()
        key = (canonicalize_name(wanted.name), frozenset(wanted.extras))
        if key in seen:
            continue
        seen.add(key)
        for one in map(Requirement, metadata.requires(wanted.name) or ()):
            if one.marker is None or any(
                one.marker.evaluate({"extra": extra}) for extra in ("", *wanted.extras)
            ):
                waiting.append(one)
    return {name for name, _ in seen}


def imported(tree: ast.AST) -> set[str]:
    """The modules that a source names."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module or "")
    return found


def test_the_image_holds_every_package_that_a_worker_imports() -> None:
    optional = PROJECT["optional-dependencies"]
    assert extras() <= set(optional)
    installed = brought([*PROJECT["dependencies"], *(r for e in extras() for r in optional[e])])
    sources = [path for folder in OF_A_WORKER for path in (ROOT / folder).rglob("*.py")]
    names = {
        name.partition(".")[0]
        for path in sources
        for name in imported(ast.parse(path.read_text("utf-8")))
    }
    names -= {*sys.stdlib_module_names, "readstates"}
    assert "faust" in names
    distributions = metadata.packages_distributions()
    missing = {
        name
        for name in names
        if not installed & {canonicalize_name(found) for found in distributions.get(name, ())}
    }
    assert not missing, f"ops/Dockerfile installs no package for {sorted(missing)}"


def test_the_build_imports_a_worker() -> None:
    codes = [words[words.index("-c") + 1] for words in commands() if "-c" in words]
    (check,) = (code for code in codes if WORKER in imported(ast.parse(code)))
    done = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
