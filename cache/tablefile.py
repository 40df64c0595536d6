"""Opening and closing table files.

A file closed clean, of the same log and layout, is used again; any other is made anew in its
place. While it is mapped it is locked: a second process that wants the same path gets a private
file. Space is reserved before mapping, because a full tmpfs kills with SIGBUS, it raises nothing.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import struct
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from readstates.cache import layout
from readstates.cache.table import Table

SHM = Path("/dev/shm")  # noqa: S108
SHM_FREE_MIN_BYTES = 256 << 20


class CacheDirFullError(OSError):
    """The folder of the table files has no room for another one."""


@dataclass(frozen=True)
class TableIdentity:
    """Which log a table folds: a file of another one is never used."""

    topic_id: bytes  # 16 bytes
    epoch: int
    partition: int
    keyspace: str

    def header(self) -> bytes:
        """As it stands in the file, from AT_TOPIC_ID to AT_SLOTS."""
        keyspace = self.keyspace.encode()[: layout.KEYSPACE_BYTES]
        return struct.pack("<16sqq48s", self.topic_id, self.epoch, self.partition, keyspace)


class TableFile:
    """A mapped table. `warm`: it holds what was there at the last clean close."""

    def __init__(
        self, path: Path, file: int, mapped: mmap.mmap, table: Table, *, warm: bool, why: str,
        private: bool,
    ) -> None:
        self.path = path
        self.table = table
        self.warm = warm
        self.why = why
        self.private = private
        self._file = file
        self._mapped = mapped

    def close(self, clean: bool) -> None:
        """Unmap and unlock. Clean: the file can be used again, its position stands in it."""
        self.table.close()
        if clean and not self.private:
            crc = zlib.crc32(memoryview(self._mapped)[layout.HEADER_BYTES :])
            struct.pack_into("<I", self._mapped, layout.AT_CRC, crc)
            struct.pack_into("<I", self._mapped, layout.AT_CLEAN, 1)
        self._mapped.close()
        if self.private:
            self.path.unlink(missing_ok=True)
        os.close(self._file)


def open_table(
    path: Path, identity: TableIdentity, states: int, user_states_max: int
) -> TableFile:
    """Open or make the table file at `path` for `states` read states.

    Raises CacheDirFullError where there is no room for it.
    """
    slots = layout.slots_for(states)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    private = False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        file, name = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
        path, private = Path(name), True
    try:
        why = _why_not(file, identity, slots)
        warm = not why
        if not warm:
            _format(file, path, identity, slots)
        flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
        mapped = mmap.mmap(file, layout.table_size_bytes(slots), flags)
        struct.pack_into("<I", mapped, layout.AT_CLEAN, 0)
        table = Table(mapped, user_states_max)
    except BaseException:
        os.close(file)
        raise
    if private:
        why = "another process holds the file"
    return TableFile(
        path, file, mapped, table, warm=warm, why=why or "closed clean", private=private
    )


def _why_not(file: int, identity: TableIdentity, slots: int) -> str:
    """Why the file cannot be used as it is; empty if it can."""
    size = os.fstat(file).st_size
    if size == 0:
        return "new"
    if size != layout.table_size_bytes(slots):
        return f"{size} bytes, expected {layout.table_size_bytes(slots)}: other CACHE_STATES"
    with mmap.mmap(file, size, prot=mmap.PROT_READ) as mapped:
        magic, version, clean = struct.unpack_from("<8sII", mapped, layout.AT_MAGIC)
        if (magic, version) != (layout.MAGIC, layout.LAYOUT_VERSION):
            return "not a table file of this layout"
        if not clean:
            return "not closed clean"
        if mapped[layout.AT_TOPIC_ID : layout.AT_SLOTS] != identity.header():
            return "of another log"
        counts = struct.unpack_from("<qq", mapped, layout.AT_SLOTS)
        if counts != (slots, layout.index_entries(slots)):
            return "damaged: the header's sizes"
        (crc,) = struct.unpack_from("<I", mapped, layout.AT_CRC)
        with memoryview(mapped) as whole, whole[layout.HEADER_BYTES :] as body:
            if zlib.crc32(body) != crc:
                return "damaged: the checksum of the file"
    return ""


def _format(file: int, path: Path, identity: TableIdentity, slots: int) -> None:
    size = layout.table_size_bytes(slots)
    os.ftruncate(file, 0)
    try:
        os.posix_fallocate(file, 0, size)
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
    header = bytearray(layout.HEADER_BYTES)
    struct.pack_into("<8sI", header, layout.AT_MAGIC, layout.MAGIC, layout.LAYOUT_VERSION)
    header[layout.AT_TOPIC_ID : layout.AT_SLOTS] = identity.header()
    struct.pack_into("<qq", header, layout.AT_SLOTS, slots, layout.index_entries(slots))
    struct.pack_into("<qq", header, layout.AT_FREE, slots - 1, 1)
    header[layout.AT_BOOT_ID : layout.AT_BOOT_ID + layout.BOOT_ID_BYTES] = boot_id()
    os.pwrite(file, header, 0)


def boot_id() -> bytes:
    """An ID of this boot of the machine, 36 bytes; zeros where the kernel names none."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    except OSError:
        text = b""
    return text[: layout.BOOT_ID_BYTES].ljust(layout.BOOT_ID_BYTES, b"\0")


def default_cache_dir() -> Path:
    """/dev/shm/read-states where there is a tmpfs with room, else a folder for temporary files.

    A mapped file on a disk stalls when it is written back; one in memory does not.
    """
    try:
        found = os.statvfs(SHM)
        if found.f_bavail * found.f_frsize >= SHM_FREE_MIN_BYTES and os.access(SHM, os.W_OK):
            return SHM / "read-states"
    except OSError:
        pass
    return Path(tempfile.gettempdir()) / "read-states"
