"""Docker, podman or buildah, whichever works here: it builds images and runs containers.

The first two take the same commands. What differs from machine to machine is what the kernel lets a
container have: `Engine.settle` finds the options with which one starts. Buildah alone builds the
image, but starts no container as a deployment does: it has no read-only root.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..local.reaper import MARK

DOCKER, PODMAN, BUILDAH = ENGINES = ("docker", "podman", "buildah")
ANSWER_TIMEOUT_S = 60.0
RUN_TIMEOUT_S = 120.0
BUILD_TIMEOUT_S = 1800.0
# As a deployment does it: nothing can be written but what is mounted. The stack is on this
# machine's loopback, hence its network.
DEPLOYED = (
    "--read-only",
    "--network=host",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--tmpfs=/tmp",
    "--tmpfs=/tables:mode=1777,size=256m",
)
# Where we may not raise limits, an engine's own (a million files) keep a container from starting;
# with the first version of control groups, crun does not run beside an empty second one.
LOW_LIMITS = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024")
TRIED: Sequence[tuple[tuple[str, ...], tuple[str, ...]]] = (
    ((), ()),
    ((), LOW_LIMITS),
    (("--runtime=runc",), LOW_LIMITS),
)


class EngineError(Exception):
    """A command of the engine failed; the text has what it said."""


@dataclass
class Engine:
    """`name`: of ENGINES; `before`, `limits`: options before the command, and of `run`."""

    name: str
    before: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    version: str = field(init=False, default="")

    @property
    def deploys(self) -> bool:
        """Can it start a container as a deployment does?"""
        return self.name != BUILDAH

    @property
    def mounts(self) -> bool:
        """Can a build have a folder of this machine? With docker it has its context only."""
        return self.name != DOCKER

    def argv(self, *arguments: str) -> list[str]:
        before = self.before if self.name == PODMAN else ()
        return [self.name, *before, *arguments]

    def call(self, *arguments: str, timeout_s: float = ANSWER_TIMEOUT_S) -> str:
        """Its output. Raises EngineError if it fails or takes too long."""
        shown = f"{self.name} {' '.join(arguments)[:200]}"
        try:
            done = subprocess.run(
                self.argv(*arguments),
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                timeout=timeout_s,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise EngineError(f"{shown}: {exc}") from exc
        if done.returncode:
            said = (done.stderr + done.stdout).strip()[-2000:]
            raise EngineError(f"{shown}: exit status {done.returncode}: {said}")
        return done.stdout

    def works(self, *arguments: str, timeout_s: float = ANSWER_TIMEOUT_S) -> bool:
        """Does this command succeed?"""
        try:
            self.call(*arguments, timeout_s=timeout_s)
        except EngineError:
            return False
        return True

    def has(self, image: str) -> bool:
        if self.name == BUILDAH:
            return self.works("inspect", "--type=image", image)
        return self.works("image", "inspect", image)

    def take_in(self, archive: Path, image: str) -> None:
        """Makes an image of a root file system. Raises EngineError."""
        if self.name != BUILDAH:
            self.call("import", str(archive), image, timeout_s=BUILD_TIMEOUT_S)
            return
        with self._working_on("scratch") as container:
            self.call("add", container, str(archive), "/", timeout_s=BUILD_TIMEOUT_S)
            self.call("commit", container, image, timeout_s=BUILD_TIMEOUT_S)

    @contextmanager
    def _working_on(self, image: str) -> Iterator[str]:
        """Buildah's container in which an image is made."""
        container = self.call("from", "--pull-never", image).strip()
        try:
            yield container
        finally:
            self.works("rm", container)

    def settle(self, image: str) -> None:
        """Finds the options with which a container of this image starts. Raises EngineError."""
        for self.before, self.limits in TRIED:
            try:
                self.run(image, "--version", entrypoint="python")
            except EngineError as exc:
                said = exc
            else:
                return
        raise EngineError(f"no container starts: {said}")

    def build(self, image: str, dockerfile: Path, context: Path, *options: str) -> None:
        """Raises EngineError with the end of what the build said."""
        own: tuple[str, ...] = ()
        if self.name != DOCKER:  # their own form of images has no health check
            own = ("--format=docker", "--isolation=chroot")
        arguments = ("build", *own, "--network=host", "--file", str(dockerfile), "--tag", image)
        self.call(*arguments, *options, str(context), timeout_s=BUILD_TIMEOUT_S)

    def options(self, entrypoint: str, env: Mapping[str, str]) -> list[str]:
        """Of `run`. The owner's mark is one of the variables, so that its reaper finds them."""
        marked = {**env, **({MARK: os.environ[MARK]} if MARK in os.environ else {})}
        own = ("--read-only-tmpfs=false",) if self.name == PODMAN else ()  # docker mounts none
        start = [f"--entrypoint={entrypoint}"] if entrypoint else []
        variables = [f"--env={name}={value}" for name, value in marked.items()]
        return ["--rm", *self.limits, *own, *DEPLOYED, *start, *variables]

    def run(
        self, image: str, *command: str, entrypoint: str = "", env: Mapping[str, str] | None = None
    ) -> str:
        """The output of a container that ends by itself. Raises EngineError."""
        if self.name == BUILDAH:
            with self._working_on(image) as container:
                start = ("--isolation=chroot", container, "--", *filter(None, (entrypoint,)))
                return self.call("run", *start, *command, timeout_s=RUN_TIMEOUT_S)
        options = self.options(entrypoint, env or {})
        return self.call("run", *options, image, *command, timeout_s=RUN_TIMEOUT_S)

    def health_check(self, image: str) -> list[str]:
        """The command of the image's HEALTHCHECK; empty if it has none."""
        (found,) = json.loads(self.call("image", "inspect", image))
        check: dict[str, Any] = found.get("Config", {}).get("Healthcheck") or {}
        check = check or found.get("HealthCheck") or found.get("Healthcheck") or {}
        return list(check.get("Test", ()))[1:]


def find(only: str | None = None) -> tuple[Engine | None, list[str]]:
    """The first engine that answers, and why those before it do not. `only`: no other one."""
    why = []
    for name in [only] if only else ENGINES:
        if shutil.which(name) is None:
            why.append(f"there is no {name}")
            continue
        engine = Engine(name)
        try:
            engine.call("info")
        except EngineError as exc:
            why.append(str(exc))
        else:
            engine.version = engine.call("--version").strip()
            return engine, why
    return None, why
