"""What an operator does with a candidate: start it, change its share, end it.

Starting. A candidate must begin where the database and the log together are complete. Everything
below a commit of the live group is in `read_states`. So the candidate's group gets the live group's
commits of this moment, for updates and queries, with its run in their metadata. The live workers go
on meanwhile, so the database may be ahead of these commits when the candidate reads it. That is as
after a crash: what a row has already is not folded again. A partition without a commit begins at
the epoch's first offset, or where the log begins if that is later. Without `start`, a candidate's
worker refuses to start, because nobody knows its run.

Changing the share. A command reads the record, decides, and reads it again just before it writes a
new one. If the record has changed in the meantime, because a watch has gone back for example, the
command changes nothing. `finishing.py` ends a candidate whose version is live.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import replace

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from readstates.schemas.rollout import (
    GROUP,
    SHARE_MAX,
    Accepted,
    Candidate,
    beat_key,
    encode_candidate,
    shadow_topic,
)

from ..cassandra.epochs import Log, present_log
from ..cassandra.store import logs_of
from ..config import CANDIDATE, Settings
from ..errors import RolloutError
from ..kafka.admin import connect_admin
from ..kafka.group_commits import commits_of, log_offsets, no_workers, set_commits
from ..kafka.group_consumer import Committed
from ..kafka.restore_fence import refuse_while_restoring
from ..kafka.rollout_topic import Rollouts, read_rollouts, write_rollouts
from ..kafka.topics import TIMEOUT_S, Topic, described
from ..worker.commits import metadata_of, written_to

SHADOW_KEPT_MS = 10 * 60_000
SHADOW_SEGMENT_BYTES = 64 << 20
BYTES_MAX = 8 << 20  # of a reply in the shadow topic: the producer's own bound
FOLLOW_S, POLL_S = 5.0, 0.1  # how long a command waits until the workers follow


def run_of(settings: Settings) -> str:
    """The run of the candidate that this worker is of. Raises RolloutError."""
    group = settings.kafka_group
    candidate = read_rollouts(settings).candidates.get(group)
    if candidate is None:
        raise RolloutError(
            f"ROLE=candidate, and there is no candidate {group}. Run this with the settings of the "
            f"live workers: readstates rollout start {group}"
        )
    return candidate.run


def start(settings: Settings, group: str) -> Candidate:
    """Make `group` a candidate with share 0. `settings`: those of the live workers.

    Raises RolloutError, and changes nothing, if it is one already, is the live group, or has
    members. Raises EpochError and StoreError as a worker's start does.
    """
    if not GROUP.fullmatch(group):
        raise RolloutError(f"a candidate's group must match {GROUP.pattern}, unlike {group!r}")
    if group == settings.kafka_group:
        raise RolloutError(
            f"{group} is the group of the live workers (KAFKA_GROUP). A candidate needs another"
        )
    of_candidate = replace(settings, kafka_group=group, role=CANDIDATE)
    client = connect_admin(settings)
    known = read_rollouts(settings).candidates.get(group)
    if known is not None:
        raise RolloutError(
            f"{group} is a candidate already, with share {known.share}. To begin again, run first: "
            f"readstates rollout abort {group}"
        )
    no_workers(client, of_candidate, RolloutError)
    found = described(client, settings.updates_topic)
    if found is None:
        raise RolloutError(f"topic {settings.updates_topic} does not exist")
    topic = found.topic
    log = present_log(
        logs_of(settings), settings.updates_topic, *topic, settings.cassandra_keyspace
    )
    now_ms = _now_ms()
    candidate = Candidate(group, 0, True, secrets.token_hex(8), now_ms, now_ms)
    _make_shadow_topic(client, settings, group, topic.partitions, found.replicas)
    _copy_commits(client, settings, of_candidate, topic, log, candidate.run)
    write_rollouts(settings, [encode_candidate(candidate)])
    return candidate


def _copy_commits(
    client: AdminClient,
    settings: Settings,
    of_candidate: Settings,
    topic: Topic,
    log: Log,
    run: str,
) -> None:
    """Give the candidate's group the live group's commits of this moment."""
    written = written_to(log.database.name, run)
    for name in (settings.updates_topic, settings.queries_topic):
        live = commits_of(settings, name, topic.partitions)
        is_updates = name == settings.updates_topic
        if is_updates:
            refuse_while_restoring(settings, live, RolloutError)
        starts, _, _ = log_offsets(client, name, topic.partitions, None)
        copied: dict[int, Committed] = {}
        for number, (offset, _) in enumerate(live):
            first = max(starts[number], log.first_offsets[number] if is_updates else 0)
            at = offset if offset >= 0 else first
            copied[number] = at, metadata_of(at, False, written) if is_updates else ""
        set_commits(client, of_candidate, name, copied, RolloutError)


def _make_shadow_topic(
    client: AdminClient, settings: Settings, group: str, partitions: int, replicas: int
) -> None:
    name = shadow_topic(settings.topic_prefix, group)
    config = {
        "cleanup.policy": "delete",
        "retention.ms": str(SHADOW_KEPT_MS),
        "segment.bytes": str(SHADOW_SEGMENT_BYTES),
        "max.message.bytes": str(BYTES_MAX),
    }
    made = client.create_topics([NewTopic(name, partitions, replicas, config=config)])
    try:
        made[name].result(TIMEOUT_S)
    except KafkaException as exc:
        if exc.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise RolloutError(f"cannot create topic {name}: {exc}") from exc
    end = time.monotonic() + TIMEOUT_S
    while described(client, name) is None:  # some broker may not have heard of it yet
        if time.monotonic() > end:
            raise RolloutError(f"topic {name} is not there after {TIMEOUT_S:g} s: run this again")
        time.sleep(POLL_S)


def known_candidate(settings: Settings, group: str | None) -> Candidate:
    """The candidate of this group; without one, the only candidate. Raises RolloutError."""
    candidates = read_rollouts(settings).candidates
    if group is None and len(candidates) == 1:
        return next(iter(candidates.values()))
    names = ", ".join(sorted(candidates)) or "none"
    if group is None:
        raise RolloutError(f"say which candidate is meant: there are {names}")
    if group not in candidates:
        raise RolloutError(f"there is no candidate {group}: there are {names}")
    return candidates[group]


def set_share(
    settings: Settings, candidate: Candidate, share: int, *, compares: bool = True
) -> int:
    """Give the candidate another share, 0 … 10,000; returns the offset of its record.

    This begins a phase. `candidate`: as it is in the topic, or what else is to change of it.
    """
    if not 0 <= share <= SHARE_MAX:
        raise RolloutError(f"a share is 0 … {SHARE_MAX}, not {share}")
    changed = candidate._replace(share=share, compares=compares, since_ms=_now_ms(), finishing_ms=0)
    return write_rollouts(settings, [encode_candidate(changed)])


def refuse_if_changed(settings: Settings, candidate: Candidate) -> None:
    """Raise RolloutError if the candidate's record is another one by now."""
    now = read_rollouts(settings).candidates.get(candidate.group)
    if now != candidate:
        what = "has ended" if now is None else f"was changed, and has share {now.share}"
        raise RolloutError(
            f"candidate {candidate.group} {what} in the meantime. Nothing was changed; look at "
            "readstates rollout status"
        )


def accept(settings: Settings, candidate: Candidate, reason: str, differences: int) -> Candidate:
    """Keep why the run's differences, of which there are so many, are right."""
    refuse_if_changed(settings, candidate)
    accepted = Accepted(reason, differences, _now_ms())
    changed = candidate._replace(accepted=(*candidate.accepted, accepted))
    write_rollouts(settings, [encode_candidate(changed)])
    return changed


def note_finishing(settings: Settings, candidate: Candidate) -> Candidate:
    """Keep that the gates of the last phase hold."""
    refuse_if_changed(settings, candidate)
    changed = candidate._replace(finishing_ms=_now_ms())
    write_rollouts(settings, [encode_candidate(changed)])
    return changed


def abort(settings: Settings, candidate: Candidate) -> None:
    """Forget the candidate: the live workers answer everybody, and its workers end.

    Its commits, its rows in the overlay and its shadow topic stay. They belong to this run, and
    nobody uses them again; rows and shadow records end by themselves.
    """
    beats = [
        (beat_key(group, worker), None)
        for group, worker in read_rollouts(settings).beats
        if group == candidate.group
    ]
    write_rollouts(settings, [(candidate.group.encode(), None), *beats])


def not_following(settings: Settings, group: str, control: int) -> list[str]:
    """The candidate's workers that do not follow the record at `control` within FOLLOW_S."""
    end = time.monotonic() + FOLLOW_S
    while True:
        late = late_workers(read_rollouts(settings), group, control)
        if not late or time.monotonic() > end:
            return late
        time.sleep(POLL_S)


def late_workers(rollouts: Rollouts, group: str, control: int) -> list[str]:
    """Those whose last beat says that they follow an older record."""
    return sorted(
        worker
        for (of_group, worker), beaten in rollouts.beats.items()
        if of_group == group and beaten.beat.follows <= control
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
