"""What is tried in containers of the image: the whole life of a worker, on a real stack."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ..drills.prometheus import free_port
from ..local.process import last_lines
from .engine import Engine

USER_ID = "10001"
PARTITIONS = 2
READY_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 30  # over SHUTDOWN_TIMEOUT_S; then the engine kills
POLL_S = 0.2
WRITES = """
import os
for folder in ("/", "/opt/read-states", "/var", "/tables", os.environ["TMPDIR"]):
    try:
        open(os.path.join(folder, "written"), "w").close()
    except OSError:
        continue
    print(folder)
"""


class TrialError(Exception):
    """A step did not go as it must; the text says how."""


class Trial:
    """The steps, in order. Each raises TrialError or EngineError, or returns what it saw."""

    def __init__(self, engine: Engine, image: str, env: Mapping[str, str], folder: Path) -> None:
        self._engine, self._image, self._folder = engine, image, folder
        self._name = f"read-states-trial-{uuid.uuid4().hex[:8]}"
        self._port = free_port()
        self._env = {
            **env,
            "READ_STATES_TOPIC_PREFIX": self._name,
            "READ_STATES_KAFKA_GROUP": self._name,
            "READ_STATES_CASSANDRA_KEYSPACE": self._name.replace("-", "_"),
        }
        self._worker: subprocess.Popen[bytes] | None = None
        self._log = folder / "worker.log"

    def steps(self) -> Iterator[tuple[str, Callable[[], str]]]:
        """Name and step; the worker runs from `worker` to `SIGTERM`."""
        yield "user", self.user
        yield "read-only root", self.read_only
        yield "init", self.init
        yield "worker", self.worker
        yield "tables", self.tables
        yield "ack", self.ack
        yield "get", self.get
        yield "health check", self.health
        yield "SIGTERM", self.sigterm

    def _run(self, *command: str, entrypoint: str = "") -> str:
        return self._engine.run(self._image, *command, entrypoint=entrypoint, env=self._env).strip()

    def user(self) -> str:
        said = self._run("-c", "import os; print(os.getuid(), os.getgid())", entrypoint="python")
        return must(said == f"{USER_ID} {USER_ID}", f"runs as {said}")

    def read_only(self) -> str:
        written = self._run("-c", WRITES, entrypoint="python").split()
        return must(written == ["/tables", "/tmp"], f"may write to {written}")

    def init(self) -> str:
        return self._run("init", "--partitions", str(PARTITIONS)).splitlines()[-1]

    def worker(self) -> str:
        env = {
            **self._env,
            "READ_STATES_CACHE_DIR": "/tables/read-states",
            "READ_STATES_HTTP_HOST": "127.0.0.1",
            "READ_STATES_HTTP_PORT": str(self._port),
        }
        options = [*self._engine.options("", env), "--name", self._name]
        with self._log.open("ab") as out:
            self._worker = subprocess.Popen(
                self._engine.argv("run", *options, self._image, "worker", "--supervise"),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        began = time.monotonic()
        while not self._is_ready():
            if self._worker.poll() is not None:
                raise TrialError(
                    f"it ended with {self._worker.returncode}: {last_lines(self._log)}"
                )
            if time.monotonic() > began + READY_TIMEOUT_S:
                raise TrialError(f"not ready after {READY_TIMEOUT_S} s: {last_lines(self._log)}")
            time.sleep(POLL_S)
        return f"ready on port {self._port}"

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/readyz", timeout=5):
                return True
        except (urllib.error.HTTPError, OSError):
            return False

    def tables(self) -> str:
        lines = self._log.read_text("utf-8", "replace").splitlines()
        found = [line for line in lines if "tables_" in line and "file_system=" in line]
        said = " / ".join(line[line.index("tables_") :] for line in found)
        wanted = "tables_folder path=/tables/read-states file_system=tmpfs size_mib=256 "
        return must(len(found) == 1 and said.startswith(wanted), said)

    def ack(self) -> str:
        return self._run("ack", "7", "70", "700")

    def get(self) -> str:
        said = self._run("get", "7", "--json", "--after-offset", "0")
        states = json.loads(said)["read_states"]
        return must([state["last_message_id"] for state in states] == ["700"], said)

    def health(self) -> str:
        check = self._engine.health_check(self._image)
        must(bool(check), "the image has no HEALTHCHECK")
        self._engine.call("exec", self._name, *check)
        return f"passes in the container: {check[0]} …"

    def sigterm(self) -> str:
        assert self._worker is not None
        began = time.monotonic()
        self._engine.call("kill", "--signal=TERM", self._name)
        try:
            status = self._worker.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired as exc:
            raise TrialError(f"runs {STOP_TIMEOUT_S} s after SIGTERM") from exc
        must(status == 0, f"exit status {status}: {last_lines(self._log)}")
        return f"exit status 0 after {time.monotonic() - began:.1f} s"

    def close(self) -> None:
        """Removes the worker's container if it is still there."""
        if self._worker is not None and self._worker.poll() is None:
            self._engine.works("rm", "--force", self._name)
            self._worker.wait(STOP_TIMEOUT_S)


def must(holds: bool, said: str) -> str:
    """`said` if it holds; otherwise it is the text of the TrialError."""
    if not holds:
        raise TrialError(said)
    return said


@contextmanager
def closing(trial: Trial) -> Iterator[Trial]:
    try:
        yield trial
    finally:
        trial.close()
