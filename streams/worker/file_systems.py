"""Which file system a folder is on, and how large it is."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
IN_MEMORY = frozenset({"tmpfs", "ramfs"})
UNKNOWN = "unknown"  # the system does not say: it has no MOUNTS


@dataclass(frozen=True)
class FileSystem:
    """`kind` as the kernel calls it (tmpfs, ext4, overlay), or UNKNOWN."""

    kind: str
    size_bytes: int
    free_bytes: int

    @property
    def on_disk(self) -> bool:
        """False as well if the kind is unknown: nobody is warned without a cause."""
        return self.kind not in IN_MEMORY and self.kind != UNKNOWN


def file_system_of(folder: Path) -> FileSystem:
    """The file system that an existing folder is on. Raises OSError if the folder is missing."""
    found = os.statvfs(folder)
    try:
        kind = _kind(MOUNTS.read_text("utf-8", "surrogateescape"), os.path.realpath(folder))
    except OSError:
        kind = UNKNOWN
    return FileSystem(kind, found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)


def _kind(mounts: str, path: str) -> str:
    """The kind of the mount that covers `path`; of two at one place, the later one counts."""
    best, kind = "", UNKNOWN
    for line in mounts.splitlines():
        mount, _, source = line.partition(" - ")  # see proc_pid_mountinfo(5)
        point = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), mount.split()[4])
        covers = path == point or path.startswith(point.rstrip("/") + "/")
        if covers and len(point) >= len(best):
            best, kind = point, source.split()[0]
    return kind
