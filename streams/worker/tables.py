"""The table files of a worker. They are in CACHE_DIR, one for each partition of its topic."""

from __future__ import annotations

import errno
import logging
from pathlib import Path

from readstates.cache.tablefile import (
    SHM,
    SHM_FREE_MIN_BYTES,
    CacheDirFullError,
    TableFile,
    TableIdentity,
    default_cache_dir,
    open_table,
    own_folder,
)

from .. import metrics
from ..config import COUNT, Settings
from ..errors import ConfigError, DataLossError
from .file_systems import file_system_of

log = logging.getLogger(__name__)

MIB = 1 << 20
NOT_WRITABLE = {errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR}
MOUNT = (
    "Mount a tmpfs for the tables (docker: --tmpfs /tables:mode=1777,size=1g, Kubernetes: an "
    "emptyDir with medium Memory) and set CACHE_DIR to a folder in it, which the worker makes"
)


def own_cache_dir(settings: Settings) -> Path:
    """CACHE_DIR, made if it is missing. Raises ConfigError if it cannot be used."""
    if settings.cache_dir:
        path = Path(settings.cache_dir)
    else:
        try:
            path = default_cache_dir()
        except OSError as exc:
            raise ConfigError(
                f"CACHE_DIR is not set, and there is no folder for the tables: {exc.strerror}. "
                f"{MOUNT}{_why_not_shm()}"
            ) from exc
    try:
        return own_folder(path)
    except OSError as exc:
        advice = f". {MOUNT}" if exc.errno in NOT_WRITABLE else ""
        raise ConfigError(f"CACHE_DIR: {path} cannot be used: {exc.strerror}{advice}") from exc


class Tables:
    """Opens table files; it never uses one of another topic, epoch, keyspace or candidate's run."""

    def __init__(
        self, settings: Settings, folder: Path, topic_id: bytes, epoch: int, run: str = ""
    ) -> None:
        self._settings = settings
        self._folder = folder
        self._topic_id = topic_id
        self._epoch = epoch
        # An earlier run of a candidate may have left a table of the same group.
        keyspace = settings.cassandra_keyspace
        self._keyspace = f"{run}/{keyspace}" if run else keyspace

    def report_folder(self) -> None:
        """Log and export which file system the tables are on, with a warning if it is a disk."""
        on = file_system_of(self._folder)
        log.info(
            "tables_folder path=%s file_system=%s size_mib=%d free_mib=%d",
            self._folder,
            on.kind,
            on.size_bytes // MIB,
            on.free_bytes // MIB,
        )
        metrics.TABLES_FOLDER_BYTES.labels(on.kind).set(on.size_bytes)
        metrics.TABLES_ON_DISK.set(on.on_disk)
        if on.on_disk:
            log.warning(
                "tables_on_disk path=%s file_system=%s: queries stall while the system writes the "
                "tables back; set CACHE_DIR to a folder in memory%s",
                self._folder,
                on.kind,
                "" if self._settings.cache_dir else _why_not_shm(),
            )

    def open(
        self,
        number: int,
        *,
        committed: int,
        start: int,
        end: int,
        dirty_since_ms: int,
        is_of_a_worker: bool = True,
    ) -> TableFile:
        """A partition's table, warm only if its position is between the commit and the log's end.

        `start` and `end` are the log's; changes that are dirty in the table count as made at
        `dirty_since_ms`. Raises ConfigError if the folder has no room for the file, and
        DataLossError if updates were passed over: the commit is beyond the table's position, and
        `is_of_a_worker` says that no worker made it.
        """
        file = self._open(number, dirty_since_ms)
        if file.warm and not is_of_a_worker and file.table.position < committed:
            self._note_passed_over(number, file, committed)
        if file.warm and not max(committed, start) <= file.table.position <= end:
            log.info(
                "table_dropped partition=%d position=%d committed=%d log=%d…%d",
                number,
                file.table.position,
                committed,
                start,
                end,
            )
            file.close(clean=False)
            file = self._open(number, dirty_since_ms)
        return file

    def _note_passed_over(self, number: int, file: TableFile, committed: int) -> None:
        """Refuse a commit that passes over updates, unless the settings say to go on."""
        position, settings = file.table.position, self._settings
        text = (
            f"{settings.updates_topic} partition {number}: updates {position} … {committed - 1} "
            f"were passed over: this worker stopped before offset {position}, and a program that "
            f"is no worker has committed {committed} for the group {settings.kafka_group}"
        )
        if settings.missing_updates == COUNT:
            metrics.UPDATES_MISSING.inc(committed - position)
            log.warning("updates_passed_over %s", text)
            return
        file.close(clean=True)
        raise DataLossError(
            f"{text}. The worker stops and changes nothing. Stop that program, stop all workers, "
            f"and run: readstates rewind --partition {number} --to-offset {position}. To accept "
            "the loss, start the workers once with MISSING_UPDATES=count"
        )

    def _open(self, number: int, dirty_since_ms: int) -> TableFile:
        settings = self._settings
        name = f"{settings.topic_prefix}-{settings.kafka_group}-{number}.table"
        try:
            return open_table(
                self._folder / name,
                TableIdentity(self._topic_id, self._epoch, number, self._keyspace),
                settings.cache_states,
                settings.user_states_max,
                now_ms=dirty_since_ms & 0xFFFFFFFF,
            )
        except CacheDirFullError as exc:
            raise ConfigError(f"CACHE_DIR: {exc.filename}: {exc.strerror}") from exc
        except OSError as exc:
            raise ConfigError(
                f"CACHE_DIR: the table {self._folder / name} cannot be opened: {exc.strerror}. "
                f"The folder changed after the worker had started. {MOUNT}"
            ) from exc


def _why_not_shm() -> str:
    """What the default folder lacks."""
    try:
        free_mib = file_system_of(SHM).free_bytes // MIB
    except OSError:
        return f", because there is no {SHM}"
    return (
        f", or enlarge {SHM}: it has {free_mib} MiB free, and tables go there by default only if "
        f"{SHM_FREE_MIN_BYTES // MIB} MiB are free"
    )
