"""Where the tables are: the worker says it, exports it, and warns if it is a disk."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from readstates.cache import tablefile
from readstates.streams import metrics
from readstates.streams.config import Settings
from readstates.streams.worker import file_systems, tables
from readstates.streams.worker.file_systems import FileSystem, file_system_of

# As a container has them; the third mount covers the second, the last has a blank in its name.
MOUNTS = """\
22 1 0:20 / / rw,relatime shared:1 - overlay overlay rw,lowerdir=/l,upperdir=/u
30 22 0:30 / /tables rw,nosuid - ext4 /dev/sda1 rw
31 22 0:31 / /tables rw,nosuid - tmpfs tmpfs rw,size=1048576k
32 22 0:32 / /dev/shm rw,nosuid,nodev,noexec,relatime - tmpfs shm rw,size=65536k
33 22 0:33 / /mnt/a\\040disk rw shared:7 master:1 - xfs /dev/sdb1 rw
"""


def report(
    caplog: pytest.LogCaptureFixture, folder: Path, settings: Settings
) -> list[tuple[str, str]]:
    """Level and text of what a worker logs at its start."""
    caplog.set_level(logging.INFO)
    tables.Tables(settings, folder, bytes(16), 1).report_folder()
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def of_kind(monkeypatch: pytest.MonkeyPatch, kind: str, size_bytes: int, free_bytes: int) -> None:
    found = FileSystem(kind, size_bytes, free_bytes)
    monkeypatch.setattr(tables, "file_system_of", lambda _folder: found)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/opt/x", "overlay"),
        ("/tables", "tmpfs"),
        ("/tables/read-states", "tmpfs"),
        ("/tables-of-others", "overlay"),
        ("/dev/shm/read-states-10001", "tmpfs"),
        ("/mnt/a disk/tables", "xfs"),
    ],
)
def test_the_mount_that_covers_a_folder_says_its_kind(
    path: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mountinfo").write_text(MOUNTS, "utf-8")
    monkeypatch.setattr(file_systems, "MOUNTS", tmp_path / "mountinfo")
    monkeypatch.setattr(os, "statvfs", lambda _path: os.statvfs_result([4096] * 10))
    assert file_system_of(Path(path)).kind == kind


def test_the_real_memory_is_known(tmp_path: Path) -> None:
    found = file_system_of(tablefile.SHM)
    assert (found.kind, found.on_disk) == ("tmpfs", False)
    assert 0 < found.free_bytes <= found.size_bytes
    (tmp_path / "link").symlink_to(tablefile.SHM)
    assert file_system_of(tmp_path / "link").kind == "tmpfs"


def test_where_the_system_does_not_say_nobody_is_warned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(file_systems, "MOUNTS", tmp_path / "missing")
    ((level, text),) = report(caplog, tmp_path, Settings())
    assert level == "INFO"
    assert "file_system=unknown" in text
    assert exported("read_states_tables_on_disk") == {"": 0.0}


def test_tables_in_memory_are_reported_without_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    of_kind(monkeypatch, "tmpfs", 1 << 30, 1 << 29)
    assert report(caplog, Path("/tables/mine"), Settings()) == [
        ("INFO", "tables_folder path=/tables/mine file_system=tmpfs size_mib=1024 free_mib=512")
    ]
    assert exported("read_states_tables_on_disk") == {"": 0.0}
    assert exported("read_states_tables_folder_bytes")["tmpfs"] == 1 << 30


def test_tables_on_a_disk_are_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    of_kind(monkeypatch, "ext4", 1 << 34, 1 << 33)
    _, (level, text) = report(caplog, Path("/var/mine"), Settings(cache_dir="/var/mine"))
    assert level == "WARNING"
    assert text.startswith("tables_on_disk path=/var/mine file_system=ext4: ")
    assert text.endswith("set CACHE_DIR to a folder in memory")
    assert exported("read_states_tables_on_disk") == {"": 1.0}
    assert exported("read_states_tables_folder_bytes")["ext4"] == 1 << 34


def test_the_warning_says_what_the_default_folder_lacks(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As in a container with 64 MiB of shared memory."""
    of_kind(monkeypatch, "overlay", 64 << 20, 62 << 20)
    _, (_, text) = report(caplog, Path("/tmp/read-states-10001"), Settings())
    assert "enlarge /dev/shm: it has 62 MiB free" in text
    assert "only if 256 MiB are free" in text


def test_the_warning_says_that_there_is_no_shared_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "mountinfo").write_text(MOUNTS, "utf-8")
    monkeypatch.setattr(file_systems, "MOUNTS", tmp_path / "mountinfo")
    monkeypatch.setattr(tables, "SHM", tmp_path / "shm")
    _, (_, text) = report(caplog, tmp_path, Settings())
    assert text.endswith(f"because there is no {tmp_path}/shm")


def exported(name: str) -> dict[str, float]:
    """The metric's value by file system."""
    gauges = (metrics.TABLES_ON_DISK, metrics.TABLES_FOLDER_BYTES)
    return {
        sample.labels.get("file_system", ""): sample.value
        for gauge in gauges
        for family in gauge.collect()
        for sample in family.samples
        if sample.name == name
    }
