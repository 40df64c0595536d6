"""What a worker knows of the candidates, and which replies it therefore does not send. Pure.

A user belongs to the first candidate, in the order of the groups' names, whose share covers the
user's bucket; without one, the user is the live workers'. All workers follow the same topic, so
they agree, except for the moments in which some of them have read less of it than others.

S1: nobody is left without a reply. A live worker leaves the users of a candidate's partition to it
    only while a worker of the candidate says in beats that it answers this partition, and that it
    follows the newest candidate's record that the live worker has read. So the candidate begins
    first, and the live worker stops GRACE_S afterwards: the candidate may have taken a query just
    before it knew, and the live worker takes it a moment later. A candidate that loses users goes
    on answering them for GRACE_S, which is longer than the time after which a live worker misses
    the beats.
S2: once every worker has read the newest record, and GRACE_S have passed, one role sends each
    reply.
S3: a worker that cannot read the topic keeps what it knew for UNREAD_MAX_S. Then it behaves as if
    all shares were 0.

Beats are counted only if they were read as they came. The silence of a worker is counted by what
was read, too: if the topic cannot be read, nobody's silence means anything (S3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from readstates.schemas.rollout import Beat, Candidate, bucket_of, names_in

BEAT_S = 0.2  # between two beats of a worker
LOST_S = 0.8  # a worker whose last beat is older than this does not answer any more
GRACE_S = 0.9  # how long either role still answers the users that it has lost; over LOST_S
UNREAD_MAX_S = 30.0

Shares = tuple[Candidate, ...]  # by group


def owner_of(key: bytes, shares: Shares) -> Candidate | None:
    """The candidate to which the user belongs; None: to the live workers."""
    for candidate in shares:
        if candidate.share and bucket_of(key, candidate.group) < candidate.share:
            return candidate
    return None


@dataclass(frozen=True, slots=True)
class LiveSplit:
    """A live worker's: it leaves to each candidate the users in partitions that it answers.

    It is frozen, as the other one is, because several threads ask it. About 5 µs per candidate.
    """

    shares: Shares
    answered: Mapping[str, frozenset[int]]  # partitions, by group

    def withheld(self, key: bytes, partition: int) -> Candidate | None:
        owner = owner_of(key, self.shares)
        return owner if owner and partition in self.answered[owner.group] else None


@dataclass(frozen=True, slots=True)
class LiveSplits:
    """A live worker's while shares change: it leaves to a candidate what all of these leave to one.

    The first is the newest.
    """

    splits: tuple[LiveSplit, ...]

    def withheld(self, key: bytes, partition: int) -> Candidate | None:
        owners = [split.withheld(key, partition) for split in self.splits]
        return owners[0] if all(owners) else None


@dataclass(frozen=True, slots=True)
class CandidateSplit:
    """A candidate's: it sends the replies of users that belong to it in any of these views."""

    own: Candidate
    views: tuple[Shares, ...]

    def withheld(self, key: bytes, _partition: int) -> Candidate | None:
        for shares in self.views:
            owner = owner_of(key, shares)
            if owner is not None and owner.group == self.own.group:
                return None
        return self.own


@dataclass(slots=True)
class View:
    """What the topic has said, up to a moment. Times are those of a monotonic clock, in seconds."""

    candidates: dict[str, Candidate] = field(default_factory=dict)
    control: int = -1  # the offset of the newest candidate's record
    position: int = 0  # everything below this offset was read
    read_at: float = 0.0  # nothing that was in the topic then is unknown
    beats: dict[tuple[str, str], tuple[Beat, float]] = field(default_factory=dict)

    def take(
        self, key: bytes, record: Candidate | Beat | None, offset: int, at: float | None
    ) -> None:
        """Note a record, or that a key has none any more. `at`: None for what was there before."""
        self.position = offset + 1
        group, worker = names_in(key)
        if worker:
            self.beats.pop((group, worker), None)
            if isinstance(record, Beat) and at is not None:
                self.beats[group, worker] = record, at
            return
        self.control = offset
        self.candidates.pop(group, None)
        if isinstance(record, Candidate):
            self.candidates[group] = record

    @property
    def shares(self) -> Shares:
        """The candidates by group."""
        return tuple(one for _, one in sorted(self.candidates.items()))

    def is_unread(self, now: float) -> bool:
        """True if the topic could not be read for too long (S3)."""
        return now - self.read_at > UNREAD_MAX_S

    def answered(self, *, following: bool) -> dict[str, frozenset[int]]:
        """The partitions that workers of each candidate answer, by their last beats.

        `following`: count only workers that follow the newest record (S1).
        """
        found: dict[str, frozenset[int]] = dict.fromkeys(self.candidates, frozenset())
        for (group, _), (beat, at) in self.beats.items():
            is_lost = self.read_at - at > LOST_S
            if not is_lost and not (following and beat.follows <= self.control):
                found[group] = found.get(group, frozenset()) | beat.partitions
        return found

    def live_split(self, now: float) -> LiveSplit | None:
        """The split of a live worker; None if it sends every reply."""
        if self.is_unread(now):
            return None
        answered = self.answered(following=True)
        shares = self.shares
        if not any(one.share and answered[one.group] for one in shares):
            return None
        return LiveSplit(shares, answered)


class LiveShares:
    """What a live worker withholds, as the view changes: lost users after GRACE_S, others at once
    no more (S1).
    """

    def __init__(self) -> None:
        self._split: LiveSplit | None = None
        self._before: list[tuple[LiveSplit | None, float]] = []  # and until when they count

    def split(self, view: View, now: float) -> LiveSplits | None:
        """The split from now on. Call it again at least every POLL_S of `follower.py`."""
        split = view.live_split(now)
        if split != self._split:
            self._before.append((self._split, now + GRACE_S))
            self._split = split
        self._before = [one for one in self._before if one[1] > now]
        splits = [split, *(before for before, _ in self._before)]
        known = tuple(one for one in splits if one is not None)
        return LiveSplits(known) if len(known) == len(splits) else None


class CandidateShares:
    """What a worker of a candidate sends, as the shares change: new users at once, lost ones for
    GRACE_S more (S1).
    """

    def __init__(self, group: str, run: str) -> None:
        self._nobody = Candidate(group, 0, compares=False, run=run)
        self._shares: Shares = ()
        self._before: list[tuple[Shares, float]] = []  # and until when they count

    @property
    def first(self) -> CandidateSplit:
        """The split until the topic was read: nothing is sent."""
        return CandidateSplit(self._nobody, ())

    def split(self, view: View, now: float) -> CandidateSplit:
        """The split from now on. Call it again at least every POLL_S of `follower.py`."""
        shares = () if view.is_unread(now) else view.shares
        if shares != self._shares:
            self._before.append((self._shares, now + GRACE_S))
            self._shares = shares
        self._before = [one for one in self._before if one[1] > now]
        own = view.candidates.get(self._nobody.group, self._nobody)
        return CandidateSplit(own, (shares, *(before for before, _ in self._before)))
