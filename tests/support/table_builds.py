"""Both builds of cache/table.py: compiled, where there is one, and plain Python from the source."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import readstates.cache
from readstates.cache import layout, table
from readstates.cache.tablefile import TableIdentity, new_header

IDENTITY = TableIdentity(bytes(range(16)), 8, 3, "read_states")


def _plain() -> ModuleType:
    name = "table_plain"
    source = Path(readstates.cache.__path__[0]) / "table.py"
    spec = importlib.util.spec_from_file_location(name, source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    assert not module.COMPILED
    return module


PLAIN = _plain()
BUILDS: dict[str, ModuleType] = {"plain": PLAIN}
if table.COMPILED:
    BUILDS["compiled"] = table


def new_buffer(slots: int) -> bytearray:
    """An empty table of so many slots, slot 0 included, in memory."""
    buffer = bytearray(layout.table_size_bytes(slots))
    buffer[: layout.HEADER_BYTES] = new_header(IDENTITY, slots)
    return buffer
