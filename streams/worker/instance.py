"""The name under which a worker is a member of the group (`group.instance.id`), and its lock.

A worker that died and comes back under the same name within SESSION_TIMEOUT_S has its partitions
again at once, and nobody else's partitions move. So the name must outlive the process, and two
processes must never have the same one.

How it works: the table folder has a file for each worker of a group that runs there,
`<KAFKA_GROUP>-worker-<slot>.lock`. The file holds a random ID, and says whether the worker that had
it last has left the group. The name is the host's name and that ID.

N1: two processes never have the same name: each locks its file (flock) for as long as it lives.
N2: a worker takes the name of one that died before any other, because the group still keeps that
    one's partitions for this name.
N3: a file is never removed, so the names of a host and folder stay the same.

INSTANCE_ID replaces all of this: a name that the operator gives, or DYNAMIC for none at all.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import socket
from pathlib import Path

from ..config import DYNAMIC, Settings
from ..errors import ConfigError

WORKERS_MAX = 256  # of one group that may share a table folder
HOST_CHARS_MAX = 100  # of a name; Kafka takes 249 characters in all
MEMBER, LEFT = b"member", b"left"
_CONTENT = re.compile(rb"([0-9a-f]{8}) (member|left)\n")


class Instance:
    """A worker's name in the group; empty: the group gives it a new one each time it joins.

    The file stays locked until the process ends, however it ends.
    """

    def __init__(self, name: str, file: int = -1, own_id: bytes = b"") -> None:
        self.name = name
        self._file = file
        self._id = own_id

    @property
    def said(self) -> str:
        """The name, or one for this process alone."""
        return self.name or f"unnamed-{secrets.token_hex(4)}"

    def left(self) -> None:
        """Note that the worker has left the group: another name may be taken before this one."""
        if self._file >= 0:
            _write(self._file, self._id, LEFT)


def instance_of(settings: Settings, folder: Path) -> Instance:
    """The name of this worker, from INSTANCE_ID or from the table folder. Raises ConfigError."""
    if settings.instance_id:
        return Instance("" if settings.instance_id == DYNAMIC else settings.instance_id)
    try:
        instance = _first_free(folder, settings.kafka_group)
    except OSError as exc:
        raise ConfigError(
            f"CACHE_DIR: {exc.filename or folder} cannot hold the worker's name: {exc.strerror}"
        ) from exc
    if instance is None:
        raise ConfigError(
            f"CACHE_DIR: {WORKERS_MAX} workers of the group {settings.kafka_group} use {folder}: "
            "name another folder"
        )
    return instance


def _first_free(folder: Path, group: str) -> Instance | None:
    paths = [folder / f"{group}-worker-{slot}.lock" for slot in range(WORKERS_MAX)]
    for path in sorted(paths, key=_was_left):  # N2; the sort keeps the order of the slots
        instance = _try(path)
        if instance is not None:
            return instance
    return None


def _was_left(path: Path) -> bool:
    """False if a process has the file's name, or died with it."""
    try:
        content = _CONTENT.fullmatch(path.read_bytes())
    except FileNotFoundError:
        return True
    return content is None or content[2] == LEFT


def _try(path: Path) -> Instance | None:
    """The name in the file, which is made if it is missing; None if another process has it."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # N1
        content = _CONTENT.fullmatch(os.pread(file, 64, 0))
        own_id = content[1] if content else secrets.token_hex(4).encode()
        _write(file, own_id, MEMBER)
    except BlockingIOError:
        os.close(file)
        return None
    except OSError:
        os.close(file)
        raise
    host = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:HOST_CHARS_MAX]
    return Instance(f"{host}-{own_id.decode()}", file, own_id)


def _write(file: int, own_id: bytes, state: bytes) -> None:
    content = own_id + b" " + state + b"\n"
    os.pwrite(file, content, 0)
    os.ftruncate(file, len(content))
