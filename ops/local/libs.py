"""The servers' jar files: found, or fetched once into the user's cache folder.

    <cache>/read-states/lib/kafka-4.3.1-<hash of its lock>/*.jar     shared by all stacks

1. A folder of that name is complete: it only ever appears by a rename.
2. One process at a time fills a given folder (a lock beside it); the others wait for it.
3. Until the rename the jars are in `<folder>.partial`. What an interrupted run left there is kept
   if it fits the lock. So is what Maven or another version of this project has on the machine.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from . import download, settings
from .errors import DownloadFailed, StackError
from .lock import Jar, jars_of

Progress = Callable[[str], None]

LOCK_TIMEOUT_S = 1200.0  # over one whole download
LOCK_POLL_S = 0.2
VERSIONS = {
    "kafka": settings.KAFKA_VERSION,
    "cassandra": settings.CASSANDRA_VERSION,
    "kafka-streams": settings.KAFKA_VERSION,  # of a peer in the benches
}


def cache_dir() -> Path:
    """The folder that keeps jar files for all stacks of this user."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "read-states" / "lib"


def jars(role: str, progress: Progress) -> Path:
    """The folder with the jar files of `role`, fetched first if need be (about 5 to 60 s, once).

    Raises ToolMissing (the extra `local` is not installed), DownloadFailed.
    """
    wanted = jars_of(role)
    digest = hashlib.sha256("\n".join(jar.line for jar in wanted).encode()).hexdigest()
    name = f"{role}-{VERSIONS[role]}-{digest[:12]}"
    folder = cache_dir() / name
    if folder.is_dir():
        return folder
    lock = folder.with_name(name + ".lock")
    with locked(lock, LOCK_TIMEOUT_S, lambda: progress(f"{role}: another download is under way")):
        if not folder.is_dir():
            try:
                _fill(folder, wanted, progress)
            except OSError as error:
                raise DownloadFailed(f"{role}: {folder} cannot be filled: {error}") from error
    return folder


def _fill(folder: Path, wanted: Sequence[Jar], progress: Progress) -> None:
    partial = folder.with_name(folder.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    for left in partial.glob(f"*{download.TEMPORARY}"):
        left.unlink()
    missing = [jar for jar in wanted if not _is_here(jar, partial)]
    if missing:
        size = sum(jar.size for jar in missing) / 1e6
        role, begin = wanted[0].role, time.monotonic()
        progress(f"{role}: downloading {len(missing)} of {len(wanted)} jars, {size:.1f} MB, once")
        download.fetch(missing, partial, progress)
        progress(f"{role}: downloaded {size:.1f} MB in {time.monotonic() - begin:.1f} s")
    partial.rename(folder)


def _is_here(jar: Jar, partial: Path) -> bool:
    """Whether the jar is in `partial` now, if need be as a copy of one on this machine."""
    target = partial / jar.file
    if target.exists():
        if download.fault_of(jar, target) is None:
            return True
        target.unlink()
    by_maven = Path.home() / ".m2" / "repository" / jar.path
    for source in (by_maven, *cache_dir().glob(f"*/{jar.file}")):
        with contextlib.suppress(OSError), download.temporary(jar, partial) as (path, file):
            with source.open("rb") as original:
                shutil.copyfileobj(original, file)
            file.flush()
            if download.fault_of(jar, path) is None:
                path.rename(target)
                return True
    return False


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


if __name__ == "__main__":
    print(jars(sys.argv[1], lambda line: print(line, file=sys.stderr)))
