"""The memory into which runs of simple updates are read, and in which the table folds them."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import cast

from readstates.schemas.fast_decoder import NUMBERS, FastDecoder

from .batch import Record

RUN_MAX = 256  # simple updates read and folded in one call


class DecodeBuffer:
    """Reads runs of simple updates into `numbers`; the table puts its results into `codes`.

    Nothing in it is needed after a run has been folded, so all partitions of a worker share one.
    """

    def __init__(self) -> None:
        self.numbers = memoryview(array("q", bytes(8 * NUMBERS * RUN_MAX)))
        self.codes = bytearray(RUN_MAX)
        read = FastDecoder(self.numbers).read  # takes a list: a batch's records are one
        self.read = cast(Callable[[Sequence[Record], int, int, int], int], read)
