"""Redis for the peers that keep their read states in it: a hash per user, on a Unix socket.

The server is the distribution's (`peers.sh`). It writes its append-only file once per second.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

START_S = 10.0


@contextmanager
def running(folder: Path) -> Iterator[tuple[Any, int]]:
    """A server of its own in this folder; yields a client and the server's pid."""
    import redis  # type: ignore[import-not-found]  # installed by peers.sh

    root = Path(os.environ["PEERS"]).resolve() / "redis" / "usr"
    libraries = ":".join(str(path) for path in (root / "lib").glob("*-linux-gnu"))
    folder.mkdir(parents=True)
    socket = folder / "redis.sock"
    argv = [str(root / "bin" / "redis-server"), "--port", "0", "--unixsocket", str(socket)]
    argv += ["--dir", str(folder), "--save", "", "--appendonly", "yes", "--loglevel", "warning"]
    with subprocess.Popen(
        argv, stdout=subprocess.DEVNULL, env={**os.environ, "LD_LIBRARY_PATH": libraries}
    ) as process:
        try:
            client = redis.Redis(unix_socket_path=str(socket))
            limit = time.monotonic() + START_S
            while True:
                try:
                    client.ping()
                    break
                except redis.ConnectionError:
                    assert time.monotonic() < limit, "Redis does not answer"
                    time.sleep(0.02)
            yield client, process.pid
        finally:
            process.kill()
