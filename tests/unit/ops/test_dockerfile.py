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
LOCK = ROOT / "ops/requirements.lock"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
OF_A_WORKER = ("schemas", "cache", "streams")
WORKER = "readstates.streams.app"


def commands() -> Iterator[list[str]]:
    """The words of each command that the build runs."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text("utf-8"), flags=re.MULTILINE)
    for line in text.replace("\\\n", " ").splitlines():
        if line.startswith("RUN "):
            for command in line.removeprefix("RUN ").split("&&"):
                yield shlex.split(command)


def locked() -> dict[str, str]:
    """The packages that the image installs, with their versions."""
    (install,) = (words for words in commands() if "--require-hashes" in words)
    assert install[install.index("-r") + 1] == f"/src/{LOCK.relative_to(ROOT)}"
    entries = re.split(r"\n(?=\S)", re.sub(r"^\s*#.*\n", "", LOCK.read_text("utf-8"), flags=re.M))
    found: dict[str, str] = {}
    for entry in entries:
        requirement, *hashes = entry.split(" --hash=")
        assert hashes, f"{requirement}: no hash"
        parsed = Requirement(requirement.strip(" \\\n"))
        if parsed.marker is None or parsed.marker.evaluate():
            (pin,) = parsed.specifier
            assert pin.operator == "==", requirement
            found[canonicalize_name(parsed.name)] = pin.version
    return found


def wanted() -> list[str]:
    """What a worker needs, and what builds it."""
    optional = PROJECT["project"]["optional-dependencies"]
    return [
        *PROJECT["project"]["dependencies"],
        *optional["worker"],
        *PROJECT["build-system"]["requires"],
    ]


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
    installed = locked()
    assert set(brought(wanted())) <= set(installed)
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
        if not any(canonicalize_name(found) in installed for found in distributions.get(name, ()))
    }
    assert not missing, f"ops/Dockerfile installs no package for {sorted(missing)}"


def test_the_lock_agrees_with_pyproject() -> None:
    """Red: `make lock`."""
    installed = locked()
    for requirement in map(Requirement, wanted()):
        version = installed.get(canonicalize_name(requirement.name), "none")
        assert requirement.specifier.contains(version), f"{requirement} is locked at {version}"


def test_a_change_of_code_reinstalls_no_dependency() -> None:
    """The code is copied after they are installed, and pip fetches nothing after that."""
    lines = DOCKERFILE.read_text("utf-8").splitlines()
    (install,) = (n for n, line in enumerate(lines) if "--require-hashes" in line)
    copies = [(n, line.split()[1:]) for n, line in enumerate(lines) if line.startswith("COPY")]
    assert [words for n, words in copies if n < install] == [["ops/requirements.lock", "/src/ops/"]]
    assert next(words for n, words in copies if n > install) == [".", "."]
    (last,) = (words for words in commands() if "install" in words and "." in words)
    assert {"--no-deps", "--no-build-isolation"} <= set(last)


def test_the_build_imports_a_worker() -> None:
    codes = [words[words.index("-c") + 1] for words in commands() if "-c" in words]
    (check,) = (code for code in codes if WORKER in imported(ast.parse(code)))
    done = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
