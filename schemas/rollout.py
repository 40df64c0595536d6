"""The records of the topic `<TOPIC_PREFIX>.rollout`: candidates and their shares, and beats.

A *candidate* is a group of workers of another version or configuration. Its record has the group as
its key and a JSON object as its value, with these fields:

- `share`: 0 … 10,000. The candidate answers a user if the user's bucket is below it (`bucket_of`).
- `compares`: whether the replies that a role does not send to the client go to the shadow topic.
- `run`: one life of the candidate, from `readstates rollout start` on. What an earlier run wrote to
  the database is not part of this one.
- `since_ms`: when the candidate got this share, in ms since 1970, by the operator's clock.
- `started_ms`: when the run began.
- `finishing_ms`: when `readstates rollout finish` found that the last gates hold; 0 before that.
- `accepted`: what a person has said of replies that differ. Each has `reason`, `differences` (how
  many pairs the run had by then), and `at_ms`.

A record without a value ends the candidate. Each worker of a candidate sends *beats*, which say
that it is at work. The key is `<group>/<worker>` (a group's name has no slash), and the value has:

- `follows`: the worker follows every candidate's record below this offset; a decimal string, -1 if
  it follows none.
- `partitions`: those whose queries it answers.

A beat without a value says that the worker has stopped. Both kinds ignore unknown fields.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import orjson

from .partitioner import murmur2

SHARE_MAX = 10_000
GROUP = re.compile(r"[A-Za-z0-9._-]{1,100}")  # of a candidate: it is part of a topic's name
RUN = re.compile(r"[0-9a-f]{16}")


class Accepted(NamedTuple):
    """Why the differences up to a number are right, by a person."""

    reason: str
    differences: int
    at_ms: int


class Candidate(NamedTuple):
    """A candidate's record. Times that an earlier version did not write are 0."""

    group: str
    share: int
    compares: bool
    run: str
    since_ms: int = 0
    started_ms: int = 0
    finishing_ms: int = 0
    accepted: tuple[Accepted, ...] = ()

    @property
    def differences(self) -> int:
        """How many differences are accepted."""
        return max((one.differences for one in self.accepted), default=0)


class Beat(NamedTuple):
    """A worker of a candidate is at work."""

    group: str
    worker: str
    follows: int
    partitions: frozenset[int]


class RolloutRecordError(ValueError):
    """A record of the topic is neither of the two; the text shows it."""


def rollout_topic(prefix: str) -> str:
    """The topic of these records."""
    return f"{prefix}.rollout"


def shadow_topic(prefix: str, group: str) -> str:
    """The topic of the replies that are not sent to the client because of a candidate."""
    return f"{prefix}.shadow.{group}"


def bucket_of(key: bytes, group: str) -> int:
    """The bucket, 0 … 9,999, of a user for a candidate. `key`: of the query. About 5 µs."""
    return (murmur2(b"%s/%s" % (key, group.encode())) & 0x7FFFFFFF) % SHARE_MAX


def encode_candidate(candidate: Candidate) -> tuple[bytes, bytes]:
    """The key and the value of a candidate's record."""
    body = candidate._asdict()
    body["accepted"] = [one._asdict() for one in candidate.accepted]
    return body.pop("group").encode(), orjson.dumps(body)


def beat_key(group: str, worker: str) -> bytes:
    return f"{group}/{worker}".encode()


def encode_beat(beat: Beat) -> tuple[bytes, bytes]:
    """The key and the value of a beat."""
    body = {"follows": str(beat.follows), "partitions": sorted(beat.partitions)}
    return beat_key(beat.group, beat.worker), orjson.dumps(body)


def names_in(key: bytes) -> tuple[str, str]:
    """The group in a record's key, and the worker; no worker in the key of a candidate."""
    group, _, worker = key.decode(errors="replace").partition("/")
    return group, worker


def decode_rollout(key: bytes, value: bytes) -> Candidate | Beat:
    """A record with a value. Raises RolloutRecordError, nothing else."""
    group, worker = names_in(key)
    try:
        body = orjson.loads(value)
        if worker:
            numbers = frozenset(map(int, body["partitions"]))
            return Beat(group, worker, int(body["follows"]), numbers)
        since, started, finishing = (
            int(body.get(name, 0)) for name in ("since_ms", "started_ms", "finishing_ms")
        )
        accepted = tuple(
            Accepted(str(one["reason"]), int(one["differences"]), int(one["at_ms"]))
            for one in body.get("accepted", ())
        )
        share, compares = int(body["share"]), bool(body["compares"])
        found = Candidate(
            group, share, compares, str(body["run"]), since, started, finishing, accepted
        )
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise RolloutRecordError(f"the record {key!r:.80} cannot be read: {exc!r}") from None
    if not 0 <= found.share <= SHARE_MAX or not RUN.fullmatch(found.run):
        raise RolloutRecordError(f"the record {key!r:.80} is no candidate: {value!r:.200}")
    return found
