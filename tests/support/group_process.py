"""A member in a process of its own, which a test can kill: prints what its owner is told."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

from readstates.streams.config import Settings, env_name

from .group import Holder


class Talking(Holder):
    """Prints the number of partitions whenever it changes."""

    def assigned(self, numbers: Any) -> None:
        super().assigned(numbers)
        print(len(self.owned), flush=True)


@contextmanager
def member_process(settings: Settings) -> Iterator[subprocess.Popen[str]]:
    """A process with a member; `stdout` has a line with the number of its partitions."""
    environ = {
        env_name(one.name): str(value)
        for one in fields(settings)
        if (value := getattr(settings, one.name)) != one.default
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.group_process"],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(filter(None, sys.path)), **environ},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


async def _main() -> None:
    Talking(Settings.load()).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main())
