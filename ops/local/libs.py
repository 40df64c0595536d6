"""Finds Java and the servers' jar files; fetches the jars once, with Maven, into the user's cache.

    <cache>/read-states/lib/kafka-4.3.1-<hash of the pom>/*.jar      shared by all stacks

1. A folder of that name is complete: it only ever appears by a rename.
2. One process at a time fetches a given pom (a lock beside the folder); the others wait for it.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from . import settings
from .errors import DownloadFailed, StackError, ToolMissing
from .process import last_lines

Progress = Callable[[str], None]

DOWNLOAD_TIMEOUT_S = 900.0
LOCK_TIMEOUT_S = 1200.0  # over one whole download
LOCK_POLL_S = 0.2
DEPENDENCY_PLUGIN_VERSION = "3.8.1"
MEGABYTES = {"kafka": 54, "cassandra": 66}
ARTIFACTS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "kafka": (
        ("org.apache.kafka", "kafka_2.13", settings.KAFKA_VERSION),
        # The server logs through SLF4J, and brings no backend for it.
        ("org.apache.logging.log4j", "log4j-slf4j-impl", "2.25.4"),
    ),
    "cassandra": (("org.apache.cassandra", "cassandra-all", settings.CASSANDRA_VERSION),),
}
VERSIONS = {"kafka": settings.KAFKA_VERSION, "cassandra": settings.CASSANDRA_VERSION}

_POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>readstates</groupId>
  <artifactId>stack-{role}</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
{dependencies}  </dependencies>
  <build><plugins><plugin>
    <groupId>org.apache.maven.plugins</groupId>
    <artifactId>maven-dependency-plugin</artifactId>
    <version>{plugin}</version>
  </plugin></plugins></build>
</project>
"""
_DEPENDENCY = """    <dependency>
      <groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version>
    </dependency>
"""


def find_java() -> str:
    """The path of a Java 17: from JAVA_HOME, the PATH, or where systems put it.

    Raises ToolMissing with the commands that install it.
    """
    seen = []
    for path in _java_candidates():
        version = _java_version(path)
        if version == settings.JAVA_VERSION:
            return path
        if version is not None:
            seen.append(f"Java {version} at {path}")
    found = f" (found only {', '.join(seen)})" if seen else ""
    raise ToolMissing(
        f"Java {settings.JAVA_VERSION} is missing{found}. Install it with\n"
        "  apt-get install openjdk-17-jre-headless   (Debian, Ubuntu)\n"
        "  dnf install java-17-openjdk-headless      (Fedora, RHEL)\n"
        "  brew install openjdk@17                   (macOS)\n"
        "or set JAVA_HOME to where it is."
    )


def cache_dir() -> Path:
    """The folder that keeps jar files for all stacks of this user."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "read-states" / "lib"


def jars(role: str, progress: Progress) -> Path:
    """The folder with the jar files of `role`, fetched first if need be (about 5 to 60 s, once).

    Raises ToolMissing (no Maven), DownloadFailed (with the end of Maven's output).
    """
    pom = _pom(role)
    name = f"{role}-{VERSIONS[role]}-{hashlib.sha256(pom.encode()).hexdigest()[:12]}"
    folder = cache_dir() / name
    if folder.is_dir():
        return folder
    lock = folder.with_name(name + ".lock")
    with locked(lock, LOCK_TIMEOUT_S, lambda: progress(f"{role}: another download is under way")):
        if not folder.is_dir():
            _download(role, pom, folder, progress)
    return folder


@contextlib.contextmanager
def locked(path: Path, timeout_s: float, waiting: Callable[[], None]) -> Iterator[None]:
    """Holds an exclusive lock on `path`; calls `waiting` once if it is not free at once.

    The file may be removed by its holder. Raises StackError after `timeout_s`. The lock goes with
    the process, however it ends.
    """
    deadline = time.monotonic() + timeout_s
    told = False
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            if _lock_now(path, file.fileno()):
                yield
                return
        if time.monotonic() > deadline:
            raise StackError(f"another process still holds {path} after {timeout_s:.0f} s")
        if not told:
            waiting()
            told = True
        time.sleep(LOCK_POLL_S)


def _lock_now(path: Path, fd: int) -> bool:
    """True if the lock is ours now, on the file that the path still names."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(fd), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


def _download(role: str, pom: str, folder: Path, progress: Progress) -> None:
    mvn = shutil.which("mvn")
    if mvn is None:
        raise ToolMissing(
            "Maven is missing (it fetches Kafka and Cassandra). Install it with\n"
            "  apt-get install maven   (Debian, Ubuntu)\n"
            "  dnf install maven       (Fedora, RHEL)\n"
            "  brew install maven      (macOS)"
        )
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "lib").mkdir(parents=True)
    (partial / "pom.xml").write_text(pom, "utf-8")
    log = folder.with_name(folder.name + ".log")
    argv = [mvn, "-B", "-ntp", "-f", str(partial / "pom.xml"), "dependency:copy-dependencies"]
    argv += ["-DincludeScope=runtime", f"-DoutputDirectory={partial / 'lib'}"]
    what = f"{role}: downloading {role.capitalize()} {VERSIONS[role]}"
    progress(f"{what} (about {MEGABYTES[role]} MB, once)")
    code = _run_maven(argv, log, what, progress)
    if code != 0 or not any((partial / "lib").glob("*.jar")):
        raise DownloadFailed(
            f"Maven could not fetch {role.capitalize()} {VERSIONS[role]} (exit code {code}). "
            f"The end of {log}:\n{last_lines(log)}"
        )
    (partial / "lib").rename(folder)
    shutil.rmtree(partial, ignore_errors=True)


def _run_maven(argv: list[str], log: Path, what: str, progress: Progress) -> int:
    """Runs Maven; returns its exit code. Reports every 5 s, and ends it after the timeout."""
    begin = time.monotonic()
    with (
        log.open("wb") as output,
        subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        ) as maven,
    ):
        try:
            while (passed := time.monotonic() - begin) < DOWNLOAD_TIMEOUT_S:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return maven.wait(5)
                progress(f"{what}, {passed + 5:.0f} s")
            return -1
        finally:
            if maven.poll() is None:
                maven.kill()


def _pom(role: str) -> str:
    dependencies = "".join(_DEPENDENCY.format(*artifact) for artifact in ARTIFACTS[role])
    return _POM.format(role=role, dependencies=dependencies, plugin=DEPENDENCY_PLUGIN_VERSION)


def _java_candidates() -> Iterator[str]:
    if home := os.environ.get("JAVA_HOME"):
        yield str(Path(home) / "bin" / "java")
    if on_path := shutil.which("java"):
        yield on_path
    for pattern in (
        "/usr/lib/jvm/*17*/bin/java",
        "/Library/Java/JavaVirtualMachines/*17*/Contents/Home/bin/java",
        "/opt/homebrew/opt/openjdk@17/bin/java",
        "/usr/local/opt/openjdk@17/bin/java",
    ):
        yield from (str(path) for path in sorted(Path("/").glob(pattern[1:])))


def _java_version(path: str) -> int | None:
    """The feature version (17), or None if it cannot be run."""
    try:
        shown = subprocess.run(
            [path, "-version"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    version = re.search(r'version "(\d+)', shown.stderr)
    return int(version[1]) if version else None
