"""The folder of the table files: made, used again, or refused."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from readstates.cache import tablefile


def test_the_folder_is_made_for_us_alone(tmp_path: Path) -> None:
    folder = tablefile.own_folder(tmp_path / "new" / "tables")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert tablefile.own_folder(folder) == folder


@pytest.mark.parametrize(
    ("mode", "may"),
    [
        (0o755, "look into"),
        (0o750, "look into"),
        (0o711, "look into"),
        (0o704, "look into"),
        (0o775, "write in"),
        (0o777, "write in"),
        (0o1777, "write in"),
        (0o770, "write in"),
        (0o720, "write in"),
        (0o702, "write in"),
    ],
    ids=lambda value: oct(value) if isinstance(value, int) else "",
)
def test_a_folder_that_others_may_enter_is_refused(tmp_path: Path, mode: int, may: str) -> None:
    folder = tmp_path / "tables"
    folder.mkdir()
    folder.chmod(mode)
    said = f"others may {may} it .mode {mode:o}.: run chmod 700"
    with pytest.raises(PermissionError, match=said):
        tablefile.own_folder(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == mode  # others may need it as it is
    folder.chmod(0o700)
    assert tablefile.own_folder(folder) == folder


def test_a_folder_that_inherits_its_group_is_ours(tmp_path: Path) -> None:
    """As in a Kubernetes volume with an fsGroup."""
    folder = tmp_path / "tables"
    folder.mkdir()
    folder.chmod(0o2700)
    assert tablefile.own_folder(folder) == folder


def test_a_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir(mode=0o700)
    (tmp_path / "tables").symlink_to(tmp_path / "theirs")
    with pytest.raises(PermissionError, match="it is a link"):
        tablefile.own_folder(tmp_path / "tables")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OSError, match="dangling"):
        tablefile.own_folder(tmp_path / "dangling")
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_of_somebody_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(PermissionError, match="it belongs to user"):
        tablefile.own_folder(tmp_path)


def test_the_default_folder_is_in_memory_where_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tablefile, "SHM", tmp_path)
    monkeypatch.setattr(tablefile, "SHM_FREE_MIN_BYTES", 1)
    assert tablefile.default_cache_dir() == tmp_path / f"read-states-{os.geteuid()}"
    monkeypatch.setattr(tablefile, "SHM_FREE_MIN_BYTES", 2**62)
    assert tablefile.default_cache_dir().parent != tmp_path
    monkeypatch.setattr(tablefile, "SHM", tmp_path / "none")
    assert tablefile.default_cache_dir().parent != tmp_path
