"""How many read states of an encoded reply fit into so many bytes, and what its error says.

The functions read the sizes from the reply's bytes, where `},{` separates the read states and
nothing else. They also take a reply that is wrapped for Faust.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate

from .queries import LIMIT_MAX
from .replies import NEXT_BYTES_MAX, Answer

SPARE_SHARE = 8  # an advised page leaves one part in so many free


def shortened(answer: Answer, reply: bytes, bytes_max: int) -> Answer | None:
    """The beginning of an answer, as a page of at most `bytes_max`; None if no read state fits.

    `reply` is the whole answer, encoded.
    """
    sizes, around = _sizes(reply)
    count = bisect_right(list(accumulate(sizes)), bytes_max - around - NEXT_BYTES_MAX)
    rows = answer.rows[:count]
    return answer._replace(rows=rows, next=rows[-1][:2]) if rows else None


def limit_that_fits(reply: bytes, bytes_max: int) -> int | None:
    """A `limit` for the query of a reply that is too large; None if no limit helps.

    As many of the reply's largest read states fit, so any page of them fits. A part of the bytes is
    left free, because a read state may grow before its page is read. If the reply was itself a
    page, a later page may have larger read states; its error then advises a smaller limit.
    """
    sizes, around = _sizes(reply)
    together = list(accumulate(sorted(sizes, reverse=True)))
    room = bytes_max - around - NEXT_BYTES_MAX
    count = bisect_right(together, room - bytes_max // SPARE_SHARE)
    if count == 0 and together and together[0] <= room:
        count = 1
    return min(count, LIMIT_MAX) or None


def too_large(reply_bytes: int, bound: str, limit: int | None) -> str:
    """The text of REPLY_TOO_LARGE: what happened, and what the client, or the operator, can do."""
    if limit is None:
        advice = "not even one read state fits, so the operator has to raise that"
    else:
        advice = (
            f'ask for pages: the same query with "limit": {limit}, and then with the "next" of '
            'each reply as "after", until a reply has none'
        )
    return f"the reply has {reply_bytes} bytes, more than {bound} allows; {advice}"


def _sizes(reply: bytes) -> tuple[list[int], int]:
    """Bytes of each read state, with its comma, and of everything around them. O(bytes)."""
    begin = reply.find(b'[{"channel_id":"') + 2
    end = reply.find(b"}]", begin)
    if begin < 2 or end < 0:
        return [], len(reply)
    sizes = [len(row) + 3 for row in reply[begin:end].split(b"},{")]
    return sizes, len(reply) - (end - begin) - 2
