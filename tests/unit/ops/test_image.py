"""`make image`: what it says where nothing can be tried, and that a step can fail."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from click import ClickException
from click.testing import CliRunner

from readstates.ops.image import __main__ as image
from readstates.ops.image import base
from readstates.ops.image.engine import ENGINES, LOW_LIMITS, Engine, EngineError, find
from readstates.ops.image.trial import Trial, TrialError


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder of PATH, empty."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def program(folder: Path, name: str, script: str) -> None:
    """A stand-in for an engine: a shell script with `case "$*" in` around `script`."""
    path = folder / name
    path.write_text(f'#!/bin/sh\ncase "$*" in\n{script}\nesac\n', "utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.mark.usefixtures("programs")
def test_without_an_engine_it_says_so_and_ends_well() -> None:
    done = CliRunner().invoke(image.image)
    assert (done.exit_code, done.output.split(":")[0]) == (0, "skipped")
    assert "there is no docker; there is no podman; there is no buildah" in done.output
    done = CliRunner().invoke(image.image, ["--engine", "podman"])
    assert done.output.startswith("skipped: there is no podman. ")


def test_a_client_without_its_engine_is_passed_over(programs: Path) -> None:
    program(programs, "docker", "info) echo no engine >&2; exit 1;;")
    program(programs, "podman", "info) ;; --version) echo podman version 5;;")
    found, why = find()
    assert found is not None
    assert (found.name, found.version) == ("podman", "podman version 5")
    assert why == ["docker info: exit status 1: no engine"]


def test_the_engine_asked_for_is_taken(programs: Path) -> None:
    for name in ENGINES:
        program(programs, name, f"info) ;; --version) echo {name} 5;;")
    for name in ENGINES:
        found, why = find(name)
        assert found is not None
        assert (found.version, why) == (f"{name} 5", [])


def test_buildah_alone_builds_and_tries_nothing(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    does = "from*) echo working-1;; run*) echo Python 3.11.2;;"
    program(programs, "buildah", f"*)\necho $* >>{log}\ncase $* in {does} esac;;")
    monkeypatch.setattr(base, "_wheels", lambda *_: tmp_path)
    done = CliRunner().invoke(image.image, ["--engine", "buildah"])
    assert done.exit_code == 0, done.output
    assert "nothing was tried in it" in done.output
    said = log.read_text("utf-8")
    (build,) = (line for line in said.splitlines() if line.startswith("build "))
    assert "--format=docker --isolation=chroot" in build
    assert said.count("from ") == said.count("rm working-1") > 0


def test_docker_builds_on_no_base_that_needs_a_mounted_folder(programs: Path) -> None:
    program(programs, "docker", f"*inspect?{base.LOCAL}) ;; *) exit 1;;")
    assert Engine("docker").has(base.LOCAL)
    assert base.at_hand(Engine("docker"), image.DOCKERFILE) is None
    program(programs, "podman", f"*inspect?{base.LOCAL}) ;; *) exit 1;;")
    assert base.at_hand(Engine("podman"), image.DOCKERFILE) == base.LOCAL


def test_every_engine_leaves_out_of_the_image_what_does_not_belong_in_it() -> None:
    """Docker without BuildKit reads no list beside the Dockerfile: it takes .git and .venv, too."""
    root = image.ROOT
    lists = [path.relative_to(root).as_posix() for path in root.glob(".dockerignore")]
    assert lists + [path.name for path in (root / "ops").glob("*ignore")] == [".dockerignore"]
    everything, *taken = [
        line for line in (root / ".dockerignore").read_text("utf-8").splitlines() if line[0] != "#"
    ]
    assert everything == "*"
    assert {"!schemas", "!cache", "!streams", "!ops", "**/*.so", "**/*.c"} <= set(taken)


def test_without_a_base_image_nothing_is_fetched_unasked(programs: Path) -> None:
    program(programs, "podman", "info|--version) ;; image*) exit 125;; *) echo $* >&2; exit 9;;")
    done = CliRunner().invoke(image.image, ["--only-at-hand"])
    assert (done.exit_code, done.output.split(":")[0]) == (0, "skipped")
    assert "no base image is at hand" in done.output


def test_the_options_with_which_a_container_starts_are_found(programs: Path) -> None:
    program(programs, "podman", "*runtime=runc*nofile*) ;; *) echo not permitted >&2; exit 126;;")
    engine = Engine("podman")
    engine.settle("base")
    assert (engine.before, engine.limits) == (("--runtime=runc",), LOW_LIMITS)
    program(programs, "podman", "*) echo not permitted >&2; exit 126;;")
    with pytest.raises(EngineError, match=r"no container starts: .*not permitted"):
        engine.settle("base")


@pytest.mark.parametrize("key", ["HealthCheck", "Healthcheck"])
def test_the_health_check_is_found_as_each_engine_shows_it(programs: Path, key: str) -> None:
    shown = f'[{{"{key}": {{"Test": ["CMD", "python", "-c", "1"]}}}}]'
    docker = '[{"Config": {"Healthcheck": {"Test": ["CMD", "python", "-c", "1"]}}}]'
    for text in (shown, docker):
        program(programs, "podman", f"*) echo '{text}';;")
        assert Engine("podman").health_check("image") == ["python", "-c", "1"]
    program(programs, "podman", "*) echo '[{\"Config\": {}}]';;")
    assert Engine("podman").health_check("image") == []


def test_a_step_that_sees_something_else_fails(programs: Path, tmp_path: Path) -> None:
    program(programs, "podman", "*getuid*) echo 0 0;; *written*) echo / /tables /tmp;;")
    trial = Trial(Engine("podman"), "image", {}, tmp_path)
    with pytest.raises(TrialError, match="runs as 0 0"):
        trial.user()
    with pytest.raises(TrialError, match="may write to"):
        trial.read_only()


def test_a_failed_step_ends_the_command() -> None:
    def broken() -> str:
        raise TrialError("it ended")

    with pytest.raises(ClickException, match="worker: it ended"):
        image.step("worker", broken)


def test_the_base_is_the_dockerfiles_own() -> None:
    name = base.named_by(image.DOCKERFILE)
    assert name.endswith(base.SUITE)
    assert os.path.exists(image.LOCK)
