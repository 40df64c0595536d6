"""The statements of `read_states.cql`, ready to be executed one by one."""

from __future__ import annotations

import re
from importlib import resources


def statements(keyspace: str, replication: str) -> list[str]:
    """CREATE statements for a keyspace; `replication` is CQL, {'class': …}. Safe to repeat.

    Raises ValueError where the keyspace is not a plain CQL name.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,47}", keyspace):
        raise ValueError(f"keyspace {keyspace!r}: expected a-z, 0-9, _, at most 48 characters")
    text = resources.files(__package__).joinpath("read_states.cql").read_text()
    text = re.sub(r"--[^\n]*", "", text)
    filled = text.format(keyspace=keyspace, replication=replication)
    return [statement.strip() for statement in filled.split(";") if statement.strip()]
