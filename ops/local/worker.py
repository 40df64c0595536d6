"""A worker as a child process, for the demo, the benches and the tests."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import IO

READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0


class WorkerError(Exception):
    """The worker ended, or did not become ready; the text has the end of its log."""


class WorkerProcess:
    """`readstates worker` with its log in a file. Start it, ask it, stop or kill it.

    `arguments` follow the command; `module`: the module to run in its place.
    """

    def __init__(
        self,
        env: Mapping[str, str],
        log: Path,
        *arguments: str,
        module: str = "readstates.streams.cli",
    ) -> None:
        self.log = log
        self._arguments = arguments
        self._module = module
        self._env = {**os.environ, "READ_STATES_HTTP_PORT": "0", **env}
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    def start(self) -> WorkerProcess:
        """Start the process; does not wait for it to be ready."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as out:
            self._log_start = out.tell()
            self._process = self._spawn(out)
        return self

    def _spawn(self, out: IO[bytes]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", self._module, "worker", *self._arguments],
            env=self._env,
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit status; None while it runs."""
        assert self._process is not None
        return self._process.poll()

    def output(self) -> str:
        """The log of this process since `start`."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def _port(self) -> int | None:
        found = re.findall(r"http host=\S+ port=(\d+)", self.output())  # in text or in JSON
        return int(found[-1]) if found else None  # a supervised worker may have started again

    @property
    def url(self) -> str:
        """The address of its HTTP endpoints. Raises WorkerError before it listens."""
        port = self._port()
        if port is None:
            raise WorkerError(f"it does not listen yet:\n{self._tail()}")
        return f"http://127.0.0.1:{port}"

    def get(self, path: str) -> tuple[int, str]:
        """GET from its HTTP endpoints: status (0: no answer yet) and body."""
        port = self._port()
        if port is None:
            return 0, ""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code, exc.read().decode()
        except OSError:
            return 0, ""

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Waits until /readyz says yes. Raises WorkerError with the log's end."""
        end = time.monotonic() + timeout_s
        while True:
            status, body = self.get("/readyz")
            if status == 200:
                return
            if self.returncode is not None:
                raise WorkerError(f"the worker ended with {self.returncode}:\n{self._tail()}")
            if time.monotonic() > end:
                raise WorkerError(f"not ready after {timeout_s} s: {body}\n{self._tail()}")
            time.sleep(0.1)

    def _tail(self) -> str:
        return f"{self.log}:\n" + "\n".join(self.output().splitlines()[-30:])

    def metrics(self) -> dict[str, float]:
        """Samples by name, summed over labels, and by `name{label=value,…}`."""
        from prometheus_client.parser import text_string_to_metric_families

        found: dict[str, float] = {}
        for family in text_string_to_metric_families(self.get("/metrics")[1]):
            for sample in family.samples:
                found[sample.name] = found.get(sample.name, 0.0) + sample.value
                labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))
                if labels:
                    found[f"{sample.name}{{{labels}}}"] = sample.value
        return found

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Sends SIGTERM and waits; SIGKILL after `timeout_s`. Returns the exit status."""
        return self._end(signal.SIGTERM, timeout_s)

    def kill(self) -> int:
        """Sends SIGKILL and waits."""
        return self._end(signal.SIGKILL, STOP_TIMEOUT_S)

    @property
    def supervised_pid(self) -> int:
        """The worker's own PID under `--supervise`, where `pid` is the supervisor's.

        Raises WorkerError before it serves; of a worker that died, until its successor serves.
        """
        found = re.findall(r"\[(\d+)\] \[INFO\] instance name=", self.output())
        if not found:
            raise WorkerError(f"it has not started yet:\n{self._tail()}")
        return int(found[-1])

    def _end(self, number: int, timeout_s: float) -> int:
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(number)
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        return self._process.returncode
