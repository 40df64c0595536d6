"""A worker for which names have addresses that a test chooses: NAMES_FILE has lines `name address`.

The file is read at each look-up, so the test may change it. Other names are looked up as ever.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

from readstates.streams.cli import main

_look_up = socket.getaddrinfo


def _chosen(host: Any, *arguments: Any, **named: Any) -> Any:
    lines = Path(os.environ["NAMES_FILE"]).read_text("utf-8").splitlines()
    return _look_up(dict(line.split() for line in lines).get(host, host), *arguments, **named)


def choose_addresses() -> None:
    """Look names up in NAMES_FILE from now on."""
    vars(socket).update(getaddrinfo=_chosen)


if __name__ == "__main__":
    choose_addresses()
    main()
