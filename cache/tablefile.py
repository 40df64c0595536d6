"""Opens and closes table files.

A file is reused only if it certainly contains all changes of its last owner, perhaps after a
repair. Otherwise, a new file replaces it. Replacing a file is always safe, because the worker then
folds the log again from the committed offset.

`open_table` takes these steps:
    0 Remove a file that other users may have read or written (`_shared`). A process that has the
      file open could still use it, even after a change of the file's mode.
    1 Lock the file (flock) for as long as it is mapped. The kernel drops the lock of a dead process
      but not of a suspended process. A process that cannot get the lock uses a private file
      without a name, so two processes never share a file.
    2 Reuse the file if it has the same log, layout and size, and if no store of its last owner was
      lost. No store was lost if the owner closed the file cleanly and the checksum is right. The
      same holds if the owner died after the last boot of the machine. Otherwise, reserve space for
      a new table before mapping it. On a full tmpfs, a store to an unreserved page kills the
      process with SIGBUS.
    3 Map the file, with all its pages if the kernel can do that. Clear the mark "closed clean" on
      disk before the first change.
    4 If the last owner died, trust only the slots and the position, and rebuild everything else
      (`rebuild.py`).
    5 Check the invariants of layout.py (`verify.py`). If the file is damaged, continue at step 2
      with a new file.
Then the new owner, which knows the committed offset, calls `Table.recover`. That method queues the
changes that were dirty or being written.

A clean close writes the checksum first and the mark last. If a power cut keeps the mark and loses
other data, the checksum is wrong. If the power fails while the file is open, the boot ID differs
at the next start.
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
FOLDER_MODE, FILE_MODE = 0o700, 0o600  # access for the worker's user only
ZEROS = bytes(1 << 20)
SLICE_BYTES = 1 << 20  # mapped by one call
MADV_POPULATE_WRITE = 23  # Linux 5.14 and later; not in Python's mmap module
NO_BOOT_ID = bytes(layout.BOOT_ID_BYTES)
# reasons to reuse a file
CLEAN, DIED = "closed clean", "its process died, rebuilt from its slots"
PRIVATE = "another process holds the file"


class CacheDirFullError(OSError):
    """The folder of the table files has no room for another file."""


@dataclass(frozen=True)
class TableIdentity:
    """Identifies the log that a table folds. A file of another log is never reused."""

    topic_id: bytes  # 16 bytes
    epoch: int
    partition: int
    keyspace: str

    def header(self) -> bytes:
        """Return the identity as bytes in the header, from AT_TOPIC_ID to AT_SLOTS."""
        keyspace = self.keyspace.encode()[: layout.KEYSPACE_BYTES]
        return struct.pack("<16sqq48s", self.topic_id, self.epoch, self.partition, keyspace)


class TableFile:
    """A mapped table file, locked until `close`.

    `warm`: the table contains what its last owner left. `why`: why the file was reused or
    replaced. `private`: another process has locked the path, so this file has no name.
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
        """Return True after `close`."""
        return self._file < 0

    def close(self, clean: bool) -> None:
        """Unmap and unlock the file. A second call does nothing.

        `clean`: the next `open_table` may reuse the file and continue at its position. Otherwise,
        the next `open_table` replaces the file. A clean close computes a checksum of the whole
        file, which takes about 10 ms for 200,000 read states.
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
    """Open or create the table file at `path`, for `states` read states.

    `now_ms`: the clock of the dirty queue (`Table.now_ms`). If the file is reused
    (`TableFile.warm`), call `Table.recover` next. Raises CacheDirFullError if there is no room for
    the file, and OSError if the folder is not usable. The call takes about 50 ms for 200,000 read
    states, to reserve the space or to check the contents.
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
    """Return a reason why other users may have used the file, or an empty string."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return ""
    if not stat.S_ISREG(found.st_mode):
        return ""  # `open_table` will fail to open it
    if found.st_uid != os.geteuid():
        return f"it belongs to user {found.st_uid}, not to us ({os.geteuid()})"
    if stat.S_IMODE(found.st_mode) != FILE_MODE:
        return f"its mode is {stat.S_IMODE(found.st_mode):o}, not {FILE_MODE:o}"
    if found.st_nlink != 1:
        return f"it has {found.st_nlink} hard links: it may also be another file of ours"
    return ""


def _replace_by_private(file: int, path: Path) -> Path:
    """Point the descriptor to a new file that disappears when this process ends."""
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
    mapped.flush(0, layout.HEADER_BYTES)  # must be on disk before the first change
    try:
        if why == DIED:
            rebuild(mapped)
        verify(mapped)
        table = Table(mapped, user_states_max)
    except TableDamaged as exc:
        mapped.close()
        if fresh:  # a new file cannot be damaged: this is a bug
            raise
        return _map(path, file, identity, slots, user_states_max, f"damaged: {exc}", now_ms)
    table.now_ms = now_ms
    return TableFile(path, file, mapped, table, why)


def _populate(mapped: mmap.mmap) -> None:
    """Map all pages now, so that no update or query waits for a page fault.

    Python holds the interpreter lock (GIL) during each call, so this maps the file in slices. With
    MAP_POPULATE, no partition could answer for 0.2 s while 150 MiB are mapped. Linux before 5.14
    and macOS lack MADV_POPULATE_WRITE. On these systems, the later checks map the pages.
    """
    with contextlib.suppress(OSError):
        for at in range(0, len(mapped), SLICE_BYTES):
            mapped.madvise(MADV_POPULATE_WRITE, at, min(SLICE_BYTES, len(mapped) - at))


def table_size_bytes(states: int) -> int:
    """Return the size of a table file for `states` read states."""
    return layout.table_size_bytes(layout.slots_for(states))


def _crc(mapped: mmap.mmap) -> int:
    with memoryview(mapped) as whole, whole[layout.HEADER_BYTES :] as body:
        return zlib.crc32(mapped[layout.AT_TOPIC_ID : layout.AT_CRC], zlib.crc32(body))


def _why(file: int, identity: TableIdentity, slots: int) -> str:
    """Return CLEAN or DIED if the file can be reused, otherwise the reason why not."""
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
    """Return the header of an empty table. All bytes after the header are zero."""
    header = bytearray(layout.HEADER_BYTES)
    struct.pack_into("<8sI", header, layout.AT_MAGIC, layout.MAGIC, layout.LAYOUT_VERSION)
    header[layout.AT_TOPIC_ID : layout.AT_SLOTS] = identity.header()
    struct.pack_into("<qq", header, layout.AT_SLOTS, slots, layout.index_entries(slots))
    struct.pack_into("<qq", header, layout.AT_FREE, slots - 1, 1)
    struct.pack_into("<q", header, layout.AT_POSITION_INVERTED, ~0)
    return bytes(header)


def boot_id() -> bytes:
    """Return the ID of the machine's current boot, 36 bytes. Without an ID, return zeros."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    except OSError:
        text = b""
    return text[: layout.BOOT_ID_BYTES].ljust(layout.BOOT_ID_BYTES, b"\0")


def own_folder(path: Path) -> Path:
    """Create the folder of the table files, or check an existing folder. Return the folder.

    Every user of the machine can create folders in the place of the default folder. Another
    user who created it first could read personal data or replace the files. So this function
    raises PermissionError if other users may access the folder. It does not change the mode,
    because others may need the folder (a home folder, for example). Raises OSError if the folder
    cannot be created or written.
    """
    path.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        why = "it is a link; use the path of the folder itself"
    elif found.st_uid != os.geteuid():
        why = f"it belongs to user {found.st_uid}, not to us ({os.geteuid()}); choose another"
    elif found.st_mode & 0o077:
        may = "write in" if found.st_mode & 0o022 else "look into"
        why = (
            f"others may {may} it (mode {stat.S_IMODE(found.st_mode):o}): run chmod 700, or choose "
            "a folder inside it, which the worker then creates"
        )
    else:
        with tempfile.TemporaryFile(dir=path):  # also checks for a read-only file system
            return path
    raise PermissionError(errno.EPERM, why, str(path))


def default_cache_dir() -> Path:
    """Return a folder for this user in /dev/shm, or in the folder for temporary files.

    /dev/shm is in memory and is preferred if it has room. A mapped file on disk may stall the
    worker when the kernel writes pages back. Raises OSError if no folder for temporary files is
    writable.
    """
    name = f"read-states-{os.geteuid()}"
    try:
        found = os.statvfs(SHM)
        if found.f_bavail * found.f_frsize >= SHM_FREE_MIN_BYTES and os.access(SHM, os.W_OK):
            return SHM / name
    except OSError:
        pass
    return Path(tempfile.gettempdir()) / name
