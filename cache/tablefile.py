"""Opening and closing table files.

A file is used again only if it certainly holds what its owner left, or can be repaired to hold it.
Any other file is replaced by a new one, which is always safe: the log is folded again from the
committed offset.

Opening:
    0 remove a file that others may have read or written (`_shared`): a process that has it open
      could still do so, even if the file's mode is changed.
    1 lock the file (flock) for as long as it is mapped. The lock of a process that died is gone,
      but the lock of a suspended process is not. A process that does not get the lock works in a
      private file without a name, so two processes never share a file.
    2 use the file again if it has the same log, layout and size, and was either closed clean (and
      its checksum is right) or left by a process that died since the machine last started, so that
      every store it made is there. Otherwise reserve the space anew before mapping, because a full
      tmpfs raises no error but kills the process with SIGBUS.
    3 map the file, every page at once if the system can, and clear the mark "closed clean" (on
      disk) before the first change.
    4 if the file's process died, trust only the slots and the position, and make the rest anew
      (`rebuild.py`).
    5 check the invariants of layout.py (`verify.py`); if the file is damaged, go back to 2 with a
      new one.
The owner, which knows the committed offset, then requeues the changes that were dirty or under way
(`Table.recover`).

Closing clean writes the checksum, then the mark. If a power cut keeps the mark and loses some of
the rest, the checksum is wrong. A power cut while the file is open changes the boot ID.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import stat
import struct
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from . import layout
from .layout import TableDamaged
from .rebuild import rebuild
from .table import Table
from .verify import verify

SHM = Path("/dev/shm")
SHM_FREE_MIN_BYTES = 256 << 20
FOLDER_MODE, FILE_MODE = 0o700, 0o600  # only the worker's user may use them
ZEROS = bytes(1 << 20)
SLICE_BYTES = 1 << 20  # mapped in one go
MADV_POPULATE_WRITE = 23  # of Linux 5.14 and later; Python has no name for it
NO_BOOT_ID = bytes(layout.BOOT_ID_BYTES)
# why a file is used again
CLEAN, DIED = "closed clean", "its process died, rebuilt from its slots"
PRIVATE = "another process holds the file"


class CacheDirFullError(OSError):
    """The folder of the table files has no room for another file."""


@dataclass(frozen=True)
class TableIdentity:
    """The log that a table folds: a file of another log is never used."""

    topic_id: bytes  # 16 bytes
    epoch: int
    partition: int
    keyspace: str

    def header(self) -> bytes:
        """The identity as the file holds it, from AT_TOPIC_ID to AT_SLOTS."""
        keyspace = self.keyspace.encode()[: layout.KEYSPACE_BYTES]
        return struct.pack("<16sqq48s", self.topic_id, self.epoch, self.partition, keyspace)


class TableFile:
    """A mapped table, locked until `close`.

    `warm`: the table holds what its last owner left; `why`: why it does or does not.
    `private`: the path was held by another process, so this one works in a file without a name.
    """

    def __init__(self, path: Path, file: int, mapped: mmap.mmap, table: Table, why: str) -> None:
        self.path = path
        self.table = table
        self.warm = why in (CLEAN, DIED)
        self.why = why
        self.private = why == PRIVATE
        self._file = file
        self._mapped = mapped

    @property
    def closed(self) -> bool:
        """True once `close` has returned."""
        return self._file < 0

    def close(self, clean: bool) -> None:
        """Unmap and unlock; a second call does nothing.

        `clean`: the next `open_table` may use the file, from the position in it; if not `clean`, it
        replaces the file, whatever is in it. A clean close computes a checksum of the whole file:
        about 10 ms for 200,000 read states.
        """
        if self._file < 0:
            return
        self.table.close()
        if not self.private:
            if clean:
                struct.pack_into("<I", self._mapped, layout.AT_CRC, _crc(self._mapped))
            left = layout.CLOSED_CLEAN if clean else layout.GIVEN_UP
            struct.pack_into("<I", self._mapped, layout.AT_LEFT, left)
        self._mapped.close()
        os.close(self._file)
        self._file = -1


def open_table(
    path: Path, identity: TableIdentity, states: int, user_states_max: int, *, now_ms: int = 0
) -> TableFile:
    """Open the table file at `path`, or make it, for `states` read states.

    `now_ms`: the clock of the dirty queue (`Table.now_ms`). If the file was used before
    (`TableFile.warm`), call `Table.recover` next. Raises CacheDirFullError if there is no room for
    the file, and OSError if the folder is not usable. Reserving the space, or checking the whole
    content, costs about 50 ms for 200,000 read states.
    """
    slots = layout.slots_for(states)
    shared = _shared(path)
    if shared:
        os.unlink(path)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            why = shared or _why(file, identity, slots)
        except BlockingIOError:
            path, why = _replace_by_private(file, path), PRIVATE
        return _map(path, file, identity, slots, user_states_max, why, now_ms)
    except BaseException:
        os.close(file)
        raise


def _shared(path: Path) -> str:
    """Why others may have read or written the file; empty if they could not, or no file exists."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return ""
    if not stat.S_ISREG(found.st_mode):
        return ""  # opening it fails
    if found.st_uid != os.geteuid():
        return f"it belongs to user {found.st_uid}, not to us ({os.geteuid()})"
    if stat.S_IMODE(found.st_mode) != FILE_MODE:
        return f"its mode is {stat.S_IMODE(found.st_mode):o}, not {FILE_MODE:o}"
    if found.st_nlink != 1:
        return f"it has {found.st_nlink} hard links: it may also be another file of ours"
    return ""


def _replace_by_private(file: int, path: Path) -> Path:
    """Make the descriptor refer to a new file that disappears when this process ends."""
    private, name = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
    try:
        os.unlink(name)
        os.dup2(private, file, inheritable=False)
    finally:
        os.close(private)
    return Path(name)


def _map(
    path: Path,
    file: int,
    identity: TableIdentity,
    slots: int,
    user_states_max: int,
    why: str,
    now_ms: int,
) -> TableFile:
    fresh = why not in (CLEAN, DIED)
    if fresh:
        _format(file, path, identity, slots)
    mapped = mmap.mmap(file, layout.table_size_bytes(slots), mmap.MAP_SHARED)
    _populate(mapped)
    struct.pack_into("<I", mapped, layout.AT_LEFT, layout.IN_USE)
    mapped[layout.AT_BOOT_ID : layout.AT_BOOT_ID + layout.BOOT_ID_BYTES] = boot_id()
    mapped.flush(0, layout.HEADER_BYTES)  # on disk before the first change
    try:
        if why == DIED:
            rebuild(mapped)
        verify(mapped)
        table = Table(mapped, user_states_max)
    except TableDamaged as exc:
        mapped.close()
        if fresh:  # the layout and the table's code disagree
            raise
        return _map(path, file, identity, slots, user_states_max, f"damaged: {exc}", now_ms)
    table.now_ms = now_ms
    return TableFile(path, file, mapped, table, why)


def _populate(mapped: mmap.mmap) -> None:
    """Map all pages now, so that no update or query waits for one.

    In slices, because Python holds the interpreter lock while the kernel maps them: with
    MAP_POPULATE no partition would answer for 0.2 s while 150 MiB are mapped. A kernel without this
    advice (Linux before 5.14, macOS) maps the pages when the checks touch them.
    """
    with contextlib.suppress(OSError):
        for at in range(0, len(mapped), SLICE_BYTES):
            mapped.madvise(MADV_POPULATE_WRITE, at, min(SLICE_BYTES, len(mapped) - at))


def table_size_bytes(states: int) -> int:
    """Size of the file of a table for `states` read states."""
    return layout.table_size_bytes(layout.slots_for(states))


def _crc(mapped: mmap.mmap) -> int:
    with memoryview(mapped) as whole, whole[layout.HEADER_BYTES :] as body:
        return zlib.crc32(mapped[layout.AT_TOPIC_ID : layout.AT_CRC], zlib.crc32(body))


def _why(file: int, identity: TableIdentity, slots: int) -> str:
    """CLEAN or DIED if the file can be used again, otherwise the reason why it cannot."""
    size = os.fstat(file).st_size
    if size == 0:
        return "new"
    if size != layout.table_size_bytes(slots):
        return f"{size} bytes, expected {layout.table_size_bytes(slots)}: CACHE_STATES differs"
    with mmap.mmap(file, size, prot=mmap.PROT_READ) as mapped:
        magic, version, left = struct.unpack_from("<8sII", mapped, layout.AT_MAGIC)
        if (magic, version) != (layout.MAGIC, layout.LAYOUT_VERSION):
            return "not a table file of this layout"
        if mapped[layout.AT_TOPIC_ID : layout.AT_SLOTS] != identity.header():
            return "of another log"
        counts = struct.unpack_from("<qq", mapped, layout.AT_SLOTS)
        if counts != (slots, layout.index_entries(slots)):
            return "damaged: the header's sizes"
        if left == layout.IN_USE:
            booted = mapped[layout.AT_BOOT_ID : layout.AT_BOOT_ID + layout.BOOT_ID_BYTES]
            if booted == NO_BOOT_ID or booted != boot_id():
                return "not closed clean, and the machine may have rebooted since"
            return DIED
        if left != layout.CLOSED_CLEAN:
            return "given up by its owner"
        (crc,) = struct.unpack_from("<I", mapped, layout.AT_CRC)
        if _crc(mapped) != crc:
            return "damaged: the checksum of the file"
    return CLEAN


def _format(file: int, path: Path, identity: TableIdentity, slots: int) -> None:
    size = layout.table_size_bytes(slots)
    os.ftruncate(file, 0)
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file, 0, size)
        else:
            for at in range(0, size, len(ZEROS)):
                os.pwrite(file, ZEROS[: size - at], at)
    except OSError as exc:
        os.ftruncate(file, 0)
        if exc.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise CacheDirFullError(
            exc.errno,
            f"no room for a table of {size} bytes: free some space there, set CACHE_DIR to another "
            "folder, or lower CACHE_STATES",
            str(path),
        ) from exc
    os.pwrite(file, new_header(identity, slots), 0)


def new_header(identity: TableIdentity, slots: int) -> bytes:
    """The header of an empty table; everything after it is zero."""
    header = bytearray(layout.HEADER_BYTES)
    struct.pack_into("<8sI", header, layout.AT_MAGIC, layout.MAGIC, layout.LAYOUT_VERSION)
    header[layout.AT_TOPIC_ID : layout.AT_SLOTS] = identity.header()
    struct.pack_into("<qq", header, layout.AT_SLOTS, slots, layout.index_entries(slots))
    struct.pack_into("<qq", header, layout.AT_FREE, slots - 1, 1)
    struct.pack_into("<q", header, layout.AT_POSITION_INVERTED, ~0)
    return bytes(header)


def boot_id() -> bytes:
    """The ID of the machine's current boot, 36 bytes; zeros if the kernel has none."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    except OSError:
        text = b""
    return text[: layout.BOOT_ID_BYTES].ljust(layout.BOOT_ID_BYTES, b"\0")


def own_folder(path: Path) -> Path:
    """Make the folder of the table files, or check that nobody else can use it; returns it.

    The usual place is open to every user of the machine: another user who made the folder first
    could read personal data there, or replace the files. A folder that others may enter is refused,
    and its mode is left as it is, because others may need the folder (a home, for example).
    Raises OSError.
    """
    path.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        why = "it is a link; name the folder itself"
    elif found.st_uid != os.geteuid():
        why = f"it belongs to user {found.st_uid}, not to us ({os.geteuid()}); name another one"
    elif found.st_mode & 0o077:
        may = "write in" if found.st_mode & 0o022 else "look into"
        why = (
            f"others may {may} it (mode {stat.S_IMODE(found.st_mode):o}): chmod 700, or name a "
            "folder inside it, which will then be created"
        )
    else:
        with tempfile.TemporaryFile(dir=path):  # a file system may be read-only for root as well
            return path
    raise PermissionError(errno.EPERM, why, str(path))


def default_cache_dir() -> Path:
    """A folder of this user in /dev/shm if that has room, otherwise among the temporary files.

    A mapped file on a disk stalls when it is written back; one in memory does not. Raises OSError
    if no folder for temporary files can be written to.
    """
    name = f"read-states-{os.geteuid()}"
    try:
        found = os.statvfs(SHM)
        if found.f_bavail * found.f_frsize >= SHM_FREE_MIN_BYTES and os.access(SHM, os.W_OK):
            return SHM / name
    except OSError:
        pass
    return Path(tempfile.gettempdir()) / name
