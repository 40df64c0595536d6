"""The example of a gateway as a child process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0


class GatewayProcess:
    """`with GatewayProcess(env, log) as gateway: gateway.url`; it is killed at the end.

    `port`: 0 takes a free one.
    """

    def __init__(self, env: Mapping[str, str], log: Path, port: int = 0) -> None:
        self._log = log
        argv = [sys.executable, "-m", "readstates.ops.examples.gateway", "--port", str(port)]
        with log.open("ab") as out:
            self._start = out.tell()
            self._process = subprocess.Popen(
                argv, env={**os.environ, **env}, stdout=out, stderr=subprocess.STDOUT
            )

    def output(self) -> str:
        """What it has printed since it started."""
        with self._log.open("rb") as log:
            log.seek(self._start)
            return log.read().decode(errors="replace")

    @property
    def url(self) -> str:
        """Where it listens; waits for that. Raises RuntimeError with what it has printed."""
        end = time.monotonic() + START_TIMEOUT_S
        while not (found := re.search(r"^(http://\S+:\d+)/\?user=42$", self.output(), re.M)):
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the gateway does not listen:\n{self.output()}")
            time.sleep(0.05)
        return found[1]

    @property
    def port(self) -> int:
        """The port on which it listens."""
        return int(self.url.rpartition(":")[2])

    def stop(self) -> int:
        """SIGTERM, and its exit status."""
        self._process.terminate()
        return self._process.wait(STOP_TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
