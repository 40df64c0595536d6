"""How a topic is read, and what the reader knows of each partition that it reads."""

from __future__ import annotations

from typing import NamedTuple

from ..priorities import GATHER_BYTES, GATHER_MS, QUERIES_IN_POLL
from . import unpack
from .fetch_link import Link
from .record_batches import FetchedBatches

DAMAGED_TRIES = 3  # times that a batch with a wrong checksum is fetched before it counts as unread


class Gather(NamedTuple):
    """How long a fetch waits at the broker for how many bytes."""

    wait_ms: int
    bytes_min: int


class Limits(NamedTuple):
    """How a topic is read."""

    records_max: int  # of a poll
    fetch_bytes_max: int  # of a response; a single batch may be larger
    partition_bytes_max: int  # of a partition in it, compressed
    unpacked_bytes_max: int  # of a batch
    keep_unread: bool  # what cannot be read or is gone is reported; otherwise it is skipped
    idle: Gather
    busy: Gather


UPDATES = Limits(
    records_max=2000,
    fetch_bytes_max=4 << 20,
    partition_bytes_max=1 << 20,
    unpacked_bytes_max=unpack.BATCH_BYTES_MAX,
    keep_unread=True,
    idle=Gather(1000, 1),
    busy=Gather(GATHER_MS, GATHER_BYTES),
)
QUERIES = Limits(
    records_max=QUERIES_IN_POLL,
    fetch_bytes_max=1 << 20,
    partition_bytes_max=64 << 10,
    unpacked_bytes_max=unpack.QUERY_BATCH_BYTES_MAX,
    keep_unread=False,
    idle=Gather(500, 1),
    busy=Gather(500, 1),
)


class Reading:
    """A partition from one `start` to the next `stop`. Only the reader's thread changes it.

    The exceptions: `arrived_bytes` and `is_stopped` are written on the event loop.
    """

    def __init__(self, number: int, position: int, token: int) -> None:
        self.number, self.position, self.token = number, position, token
        self.batches: FetchedBatches | None = None  # fetched, and not taken completely
        self.link: Link[Reading] | None = None  # over which its fetch is under way
        self.retry_at = 0.0  # time.monotonic() before which it is not fetched
        self.seeks_start = False  # what is at the position is gone: go on where the log begins
        self.has_gaps = False  # offsets were missing, and that was no damage on the way
        self.gaps_to = 0  # what is missing below this offset is counted
        self.open_since: float | None = None  # time.monotonic() of the transaction at `last_stable`
        self.last_stable: int | None = None  # the end of what may be read; open transactions follow
        self.high_watermark: int | None = None  # the end of the log
        self.sent_bytes = 0  # to the event loop
        self.arrived_bytes = 0  # of these
        self.is_stopped = False
        self.out_of_range = 0  # times in a row that a broker said so
        self._damaged_at, self._damaged = -1, 0

    def note_end(self, last_stable: int, high_watermark: int, now: float) -> None:
        """A broker says where the log ends, and up to where it may be read."""
        if last_stable >= high_watermark:
            self.open_since = None
        elif self.open_since is None or last_stable != self.last_stable:
            self.open_since = now
        self.last_stable, self.high_watermark = last_stable, high_watermark

    def note_damage(self) -> int:
        """The batch at the position is damaged; returns how often it was."""
        if self._damaged_at != self.position:
            self._damaged_at, self._damaged = self.position, 0
        self._damaged += 1
        return self._damaged

    @property
    def is_distrusted(self) -> bool:
        """True if the batch at the position was damaged so often that it is so in the log."""
        return self._damaged_at == self.position and self._damaged >= DAMAGED_TRIES
