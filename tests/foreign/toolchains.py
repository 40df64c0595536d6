"""Builds what the programs need, each in a folder of build/foreign/, from its lock file.

A toolchain that is missing, or cannot be built here, raises Missing with a word about why.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "foreign"
TIMEOUT_S = 900.0


class Missing(Exception):
    """The toolchain is not there, or cannot be built here."""


class ToolFailed(Missing):
    """A tool is there and failed."""


def call(folder: Path, *argv: str, env: Mapping[str, str] | None = None) -> None:
    """A tool in a folder. Raises Missing, or ToolFailed and leaves what it said in failed.log."""
    if shutil.which(argv[0]) is None and not (folder / argv[0]).exists():
        raise Missing(f"{argv[0]} is not installed")
    done = subprocess.run(
        argv,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        env={**os.environ, **(env or {})},
    )
    if done.returncode != 0:
        (folder / "failed.log").write_text(done.stdout + done.stderr, "utf-8")
        where = (folder / "failed.log").relative_to(ROOT)
        raise ToolFailed(f"{Path(argv[0]).name} {argv[1]} failed: see {where}")


def _npm(folder: Path) -> None:
    call(folder, "npm", "ci", "--no-audit", "--no-fund")


def _confluent(folder: Path) -> None:
    try:
        _npm(folder)
    except ToolFailed as why:
        text = "no binary of librdkafka was fetched, and it could not be compiled here"
        raise Missing(text) from why
    shutil.copytree(HERE / "node", folder.parent / "node", dirs_exist_ok=True)  # common.js


def _java(folder: Path) -> None:
    lib = folder / "lib"
    copy = ("dependency:copy-dependencies", f"-DoutputDirectory={lib}")
    call(folder, "mvn", "-B", "-ntp", "-q", *copy)
    sources = [HERE / "java" / "Common.java", *folder.glob("*Client.java")]
    call(folder, "javac", "-d", "classes", "-cp", f"{lib}/*", *map(str, sources))


def _go(folder: Path) -> None:
    for program in ("franz", "kafkago", "sarama"):
        call(folder, "go", "build", "-o", "bin/", f"./{program}")


def _python(folder: Path) -> None:
    call(folder, sys.executable, "-m", "venv", "venv")
    pip = ("venv/bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    call(folder, *pip, "--require-hashes", "-r", "requirements.lock")


MAKERS: dict[str, Callable[[Path], None]] = {
    "java": _java,
    "spring": _java,
    "node": _npm,
    "confluent": _confluent,
    "models": _npm,
    "go": _go,
    "python": _python,
}


def built(name: str) -> Path:
    """The folder of a toolchain, built unless it is from the same sources. Raises Missing.

    Programs in Python are run where they are, so a change of theirs needs no build.
    """
    folder, source = BUILD / name, HERE / name
    files = [HERE / "java" / "Common.java", *sorted(p for p in source.rglob("*") if p.is_file())]
    texts = [path.read_bytes() for path in files if path.suffix not in (".py", ".pyc")]
    mark = hashlib.sha256(b"\0".join(texts)).hexdigest()
    stamp = folder / "built-from"
    if stamp.exists() and stamp.read_text("utf-8") == mark:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("__pycache__", "*.py"))
    MAKERS[name](folder)
    stamp.write_text(mark, "utf-8")
    return folder
