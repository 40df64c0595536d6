"""An archive of classes is made once, used if Java can use it, and never in the way of a start."""

from __future__ import annotations

from pathlib import Path

import pytest

from readstates.ops.local import archive

JAVA = """#!/bin/sh
case "$*" in
  -version) echo 'openjdk version "{version}"' >&2 ;;
  "-Xshare:on -version") exit {base} ;;
  *SharedArchiveFile=*) file=${{2#x}}
    for argument in "$@"; do
      case "$argument" in -XX:SharedArchiveFile=*) file=${{argument#*=}} ;; esac
    done
    grep -q whole "$file" ;;
esac
"""


@pytest.fixture
def lib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Jar files, and a cache of our own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "lib"
    folder.mkdir()
    (folder / "a.jar").write_text("a")
    archive._version.cache_clear()
    archive._has_its_own.cache_clear()
    return folder


def java(folder: Path, version: str = "17.0.1", base: int = 0) -> str:
    """A stand-in that takes any file with `whole` in it for an archive.

    `base`: how it exits if it must use the archive of its own classes; 1 if it has none.
    """
    path = folder / f"java-{version}"
    path.write_text(JAVA.format(version=version, base=base))
    path.chmod(0o755)
    return str(path)


def target(options: list[str], name: str) -> Path:
    (found,) = (text for text in options if text.startswith(f"-XX:{name}="))
    return Path(found.partition("=")[2])


def test_the_first_server_makes_it_and_the_next_one_uses_it(lib: Path, tmp_path: Path) -> None:
    program = java(tmp_path)
    part = target(archive.options(program, lib, "kafka"), "ArchiveClassesAtExit")
    other = target(archive.options(program, lib, "kafka"), "ArchiveClassesAtExit")
    assert part != other, "two servers at once do not write to one file"
    part.write_text("whole")
    other.write_text("whole")
    used = target(archive.options(program, lib, "kafka"), "SharedArchiveFile")
    assert used.read_text() == "whole"
    assert list(used.parent.iterdir()) == [used]
    assert target(archive.options(program, lib, "kafka"), "SharedArchiveFile") == used


def test_a_java_without_an_archive_of_its_own_makes_none(lib: Path, tmp_path: Path) -> None:
    assert archive.options(java(tmp_path, base=1), lib, "kafka") == []


def test_half_an_archive_is_removed_and_made_anew(lib: Path, tmp_path: Path) -> None:
    program = java(tmp_path)
    part = target(archive.options(program, lib, "kafka"), "ArchiveClassesAtExit")
    part.write_text("half")
    assert target(archive.options(program, lib, "kafka"), "ArchiveClassesAtExit") != part
    assert not part.exists()


def test_other_jars_another_java_and_another_server_have_their_own(
    lib: Path, tmp_path: Path
) -> None:
    first = archive._path(java(tmp_path), lib, "kafka")
    assert archive._path(java(tmp_path), lib, "cassandra") != first
    assert archive._path(java(tmp_path, "17.0.2"), lib, "kafka") != first
    (lib / "a.jar").write_text("another")
    assert archive._path(java(tmp_path), lib, "kafka") != first


def test_without_a_cache_or_a_java_that_answers_a_server_starts_without_it(
    lib: Path, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file")
    assert archive.options(java(tmp_path), lib, "kafka") == []
    (tmp_path / "cache").unlink()
    assert archive.options("/bin/false", lib, "kafka") == []
    assert archive.options(str(tmp_path / "missing"), lib, "kafka") == []
