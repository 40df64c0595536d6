"""The image that the worker's image is built on.

BASE of the environment, else the Dockerfile's own, which a registry has. Where no registry can be
reached, one is made from the distribution's packages (debootstrap). Its build then has the locked
packages from a folder, because a container need not reach what this machine reaches.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .engine import Engine, EngineError

LOCAL = "localhost/read-states-base"
SUITE = "bookworm"  # that of the Dockerfile's base
PACKAGES = "ca-certificates,gcc,libc6-dev,python3-dev,python3-venv,python-is-python3"
PULL_TIMEOUT_S = 120.0
MAKE_TIMEOUT_S = 1200.0


@dataclass(frozen=True)
class Base:
    """The image's name, and the options with which it is built upon."""

    image: str
    options: tuple[str, ...]


def named_by(dockerfile: Path) -> str:
    """The base image that the Dockerfile names."""
    found = re.search(r"^ARG BASE=(\S+)$", dockerfile.read_text("utf-8"), re.MULTILINE)
    assert found is not None, dockerfile
    return found[1]


def at_hand(engine: Engine, dockerfile: Path) -> str | None:
    """A base image that need be neither fetched nor made."""
    made = LOCAL if engine.mounts else ""
    candidates = (os.environ.get("BASE", ""), named_by(dockerfile), made)
    return next((name for name in candidates if name and engine.has(name)), None)


def fetch(engine: Engine, dockerfile: Path, scratch: Path, say: Callable[[str], None]) -> str:
    """Pulls the base image or makes one; returns its name. Raises EngineError."""
    wanted = os.environ.get("BASE") or named_by(dockerfile)
    full = wanted if "/" in wanted else f"docker.io/library/{wanted}"
    if engine.works("pull", full, timeout_s=PULL_TIMEOUT_S):
        return full
    if os.environ.get("BASE"):
        raise EngineError(f"BASE={wanted} can be neither found nor pulled")
    say(f"{wanted} cannot be pulled: a base is made of {SUITE}'s packages (some minutes, once)")
    return _make(engine, scratch)


def _make(engine: Engine, scratch: Path) -> str:
    if not engine.mounts:
        raise EngineError(f"{engine.name} mounts nothing in a build: it needs a base that it pulls")
    if shutil.which("debootstrap") is None or os.geteuid() != 0:
        raise EngineError("a base image needs a registry, or root and debootstrap")
    root, archive = scratch / "root", scratch / "root.tar"
    _command("debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(root))
    _command("tar", "--create", "--one-file-system", "--file", str(archive), "-C", str(root), ".")
    engine.take_in(archive, LOCAL)
    archive.unlink()
    return LOCAL


def upon(engine: Engine, image: str, lock: Path, wheels: Path) -> Base:
    """How to build upon this image. Raises EngineError."""
    argument = f"--build-arg=BASE={image}"
    if image != LOCAL:
        return Base(image, (argument,))
    version = re.search(r"3\.\d+", engine.run(image, "--version", entrypoint="python"))
    assert version is not None
    folder = _wheels(lock, wheels, version[0])
    volumes = (f"--volume={folder}:/wheels:ro", f"--volume={folder}/pip.conf:/etc/pip.conf:ro")
    return Base(image, (argument, *volumes))


def _wheels(lock: Path, wheels: Path, version: str) -> Path:
    """The locked packages for this Python in a folder, which is kept while the lock is the same."""
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()[:16]
    folder = wheels / f"{digest}-{version}"
    ready = folder / "pip.conf"
    if not ready.exists():
        folder.mkdir(parents=True, exist_ok=True)
        pip = (sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(folder))
        exact = ("--only-binary=:all:", f"--python-version={version}", "--require-hashes")
        _command(*pip, *exact, "-r", str(lock))
        ready.write_text("[global]\nno-index = true\nfind-links = /wheels\n", "utf-8")
    return folder


def _command(*argv: str) -> None:
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=MAKE_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise EngineError(f"{argv[0]}: {exc}") from exc
    if done.returncode:
        said = (done.stdout + done.stderr)[-2000:]
        raise EngineError(f"{' '.join(argv[:4])}: exit status {done.returncode}: {said}")
