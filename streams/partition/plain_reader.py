"""The memory into which runs of plain updates are read, and in which the table folds them."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import cast

from readstates.schemas import plain

from .batch import Record

PLAIN_RUN_MAX = 256  # plain updates read and folded in one call


class PlainReader:
    """Reads runs of plain updates into `numbers`; the table answers with `codes`.

    Nothing in it is needed after the run was folded, so all partitions of a worker share one.
    """

    def __init__(self) -> None:
        self.numbers = memoryview(array("q", bytes(8 * plain.NUMBERS * PLAIN_RUN_MAX)))
        self.codes = bytearray(PLAIN_RUN_MAX)
        read = plain.Reader(self.numbers).read  # wants a list, as the records of a batch are
        self.read = cast(Callable[[Sequence[Record], int, int, int], int], read)
