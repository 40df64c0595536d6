"""Jar files from a Maven repository, over HTTP.

1. A few are fetched at a time, each under a name of its own that ends in `.part`.
2. A file gets its jar's name only after its size and SHA-256 are found to be the lock's.
3. An attempt that fails is named and repeated, after a pause that doubles each time.
4. The threads are daemons, so that an interrupt need not wait for a network that stands still.

Proxies are taken from the environment as usual (`https_proxy`, `no_proxy`). Certificates are those
that the system trusts (or `SSL_CERT_FILE`), and certifi's, because a system may have none.
"""

import contextlib
import hashlib
import os
import queue
import ssl
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError

from .errors import DownloadFailed, ToolMissing
from .lock import Jar

MIRROR = "MAVEN_MIRROR"  # the address of another repository, in the environment
TEMPORARY = ".part"
PARALLEL = 4
ATTEMPTS = 6
FIRST_PAUSE_S = 0.5  # it doubles: 15 s in all, for a repository that restarts or limits us
TIMEOUT_S = 60.0  # without a byte; a proxy that scans files holds them back for long
CHUNK_BYTES = 1 << 16
PASSING = (408, 425, 429)  # of the statuses 400 to 499 those that pass; the others are final
REWRITE_EVERY_S = 0.2
LINE_EVERY_S = 5.0

Say = Callable[[str], None]


class _Refused(Exception):
    """What the repository sent is not the jar."""


def repository() -> str:
    """The address of the repository: MIRROR, or what jgo knows as Maven's default.

    Raises ToolMissing where neither is there.
    """
    if given := os.environ.get(MIRROR):
        return given.rstrip("/")
    try:
        from jgo.maven import MavenContext
    except ImportError as error:
        raise _extra_missing(error) from error
    return MavenContext().remote_repos["central"].rstrip("/")


def fetch(jars: Sequence[Jar], folder: Path, say: Say) -> None:
    """Puts `jars`, all of one role, into `folder`. Raises DownloadFailed for the first that fails.

    What it has fetched by then stays. `say` gets a line at a time.
    """
    download = _Download(jars, folder, repository(), _opener())
    threads = [threading.Thread(target=download.work, daemon=True) for _ in range(PARALLEL)]
    for thread in threads:
        thread.start()
    with _Line(say) as line:
        try:
            is_done = False
            while not (is_done and download.told.empty()):
                with contextlib.suppress(queue.Empty):
                    told = download.told.get(timeout=REWRITE_EVERY_S)
                    if isinstance(told, DownloadFailed):
                        raise told
                    line.note(told)
                line.show(download.progress())
                is_done = not any(thread.is_alive() for thread in threads)
        finally:
            download.stopped.set()
    if download.fetched < len(jars):
        raise DownloadFailed(f"{jars[0].role}: a download ended by itself; its traceback is above")


class _Download:
    """What the threads of one `fetch` share."""

    def __init__(
        self, jars: Sequence[Jar], folder: Path, address: str, opener: urllib.request.OpenerDirector
    ) -> None:
        self.told: queue.SimpleQueue[str | DownloadFailed] = queue.SimpleQueue()
        self.stopped = threading.Event()
        self._jars, self._folder = jars, folder
        self._address, self._opener = address, opener
        self._waiting: queue.SimpleQueue[Jar] = queue.SimpleQueue()
        for jar in sorted(jars, key=lambda jar: -jar.size):  # the last one to end is a small one
            self._waiting.put(jar)
        self._received = dict.fromkeys(jars, 0)  # bytes; each thread changes its own jar's only
        self._ready: list[Jar] = []

    @property
    def fetched(self) -> int:
        return len(self._ready)

    def progress(self) -> str:
        here, all_of_it = sum(self._received.values()), sum(jar.size for jar in self._jars)
        return (
            f"{self._jars[0].role}: {self.fetched} of {len(self._jars)} jars, "
            f"{here / 1e6:.1f} of {all_of_it / 1e6:.1f} MB"
        )

    def work(self) -> None:
        """A thread: one jar after another, until none waits."""
        with contextlib.suppress(queue.Empty):
            while not self.stopped.is_set():
                try:
                    self._fetch(self._waiting.get_nowait())
                except DownloadFailed as error:
                    self.told.put(error)

    def _fetch(self, jar: Jar) -> None:
        """Every attempt at one jar. Raises DownloadFailed after the last one."""
        url, pause_s = f"{self._address}/{jar.path}", FIRST_PAUSE_S
        for attempt in range(1, ATTEMPTS + 1):
            self._received[jar] = 0
            try:
                if self._attempt(jar, url):
                    self._ready.append(jar)
            except (OSError, HTTPException, ValueError, _Refused) as error:
                cause = f"{jar.role}: {jar.file}: {_reason(error)}"
                if attempt == ATTEMPTS or _is_final(error):
                    raise DownloadFailed(_failure(cause, url)) from error
            else:
                return
            self.told.put(f"{cause}; attempt {attempt + 1} of {ATTEMPTS} in {pause_s:g} s")
            if self.stopped.wait(pause_s):
                return
            pause_s *= 2

    def _attempt(self, jar: Jar, url: str) -> bool:
        """True if the jar is there now, False if we were stopped."""
        with temporary(jar, self._folder) as (path, file):
            with self._opener.open(url, timeout=TIMEOUT_S) as response:
                while chunk := response.read(CHUNK_BYTES):
                    if self.stopped.is_set():
                        return False
                    file.write(chunk)
                    self._received[jar] += len(chunk)
                    if self._received[jar] > jar.size:
                        break
            file.flush()
            if fault := fault_of(jar, path):
                raise _Refused(fault)
            path.rename(self._folder / jar.file)
            return True


@contextlib.contextmanager
def temporary(jar: Jar, folder: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A new file that is removed at the end, unless it has another name by then."""
    number, name = tempfile.mkstemp(TEMPORARY, f"{jar.file}.", folder)
    path = Path(name)
    try:
        with open(number, "wb") as file:
            yield path, file
    finally:
        path.unlink(missing_ok=True)


def fault_of(jar: Jar, path: Path) -> str | None:
    """Why a file is not that jar; None if it is. Raises OSError where it cannot be read."""
    size = path.stat().st_size
    if size != jar.size:
        at_least = "at least " if size > jar.size else ""
        return f"it has {at_least}{size:,} bytes and should have {jar.size:,}"
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    return None if found == jar.sha256 else f"its SHA-256 is {found} and should be {jar.sha256}"


class _Line:
    """Progress: on a terminal one line that rewrites itself, elsewhere a line now and then."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._is_terminal = sys.stderr.isatty()
        self._shown_at = time.monotonic()

    def __enter__(self) -> "_Line":
        return self

    def __exit__(self, *_: object) -> None:
        self._write("\r\033[K")

    def show(self, text: str) -> None:
        self._write(f"\r{text}\033[K")
        if not self._is_terminal and time.monotonic() - self._shown_at >= LINE_EVERY_S:
            self._shown_at = time.monotonic()
            self._say(text)

    def note(self, text: str) -> None:
        """A line that stays."""
        self._write("\r\033[K")
        self._say(text)

    def _write(self, text: str) -> None:
        if self._is_terminal:
            sys.stderr.write(text)
            sys.stderr.flush()


def _opener() -> urllib.request.OpenerDirector:
    try:
        import certifi
    except ImportError as error:
        raise _extra_missing(error) from error
    trusted = ssl.create_default_context()
    trusted.load_verify_locations(certifi.where())
    return urllib.request.build_opener(urllib.request.HTTPSHandler(context=trusted))


def _reason(error: Exception) -> str:
    if isinstance(error, HTTPError):
        error.close()  # it holds the connection
        return f"the repository answered {error.code} {error.reason}"
    return str(error) or type(error).__name__


def _is_final(error: Exception) -> bool:
    """Whether another attempt would end the same: the address is wrong, or we are not let in."""
    if isinstance(error, HTTPError):
        return 400 <= error.code < 500 and error.code not in PASSING
    return isinstance(error, ValueError)  # it is no address


def _failure(cause: str, url: str) -> str:
    return (
        f"{cause}\nIt was asked for at {url}\n"
        "Run the same command again; what is here already is kept. If this machine reaches the "
        f"internet through a proxy or a mirror of Maven's repository, set https_proxy or {MIRROR}."
    )


def _extra_missing(error: ImportError) -> ToolMissing:
    return ToolMissing(
        f"the Python package of {error.name} is missing; it is needed to fetch Kafka and "
        "Cassandra. Install it with\n  pip install 'readstates[local]'"
    )
