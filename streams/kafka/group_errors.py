"""Errors of the consumer group: what each means for the member.

An error that a person must correct ends the worker, which says what to do. Some of these may pass
by themselves, because another member's session has to end first: they end the worker only if they
persist. Every other error is logged; librdkafka tries again, or the member begins anew.
"""

from __future__ import annotations

from typing import NamedTuple

from confluent_kafka import KafkaError

from ..config import Settings
from ..errors import GroupError, SharedNameError

FENCED_MAX = 2  # times within FENCED_WITHIN_S that another process may take this member's name
FENCED_WITHIN_S = 30.0
TWIN_SESSION_MAX_S = 75.0  # longer than group.consumer.max.session.timeout.ms is by default
ERROR_LOG_S = 60.0  # between two log lines about the same kind of error
SESSION_MARGIN_S = 5.0  # after another member's session timeout, until the group has noticed

OWN_ID = "Each worker needs its own"
ADVICE: dict[int, str] = {
    KafkaError.GROUP_AUTHORIZATION_FAILED: "this worker is not allowed to use the group: "
    "grant it Read on the group, see SECURITY.md",
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "this worker is not allowed to read the topics: the "
    "rights that a worker needs are in SECURITY.md",
    KafkaError.INVALID_SESSION_TIMEOUT: "SESSION_TIMEOUT_S is outside what the brokers allow: look "
    "at their group.min.session.timeout.ms and group.max.session.timeout.ms",
    KafkaError.INCONSISTENT_GROUP_PROTOCOL: "the group has members of another kind, or of an "
    "earlier version: stop these, or set another KAFKA_GROUP",
    KafkaError.INVALID_GROUP_ID: "KAFKA_GROUP is not a name that Kafka accepts",
    KafkaError.GROUP_MAX_SIZE_REACHED: "the group has as many members as the brokers allow: raise "
    "their group.max.size (or group.consumer.max.size), or run fewer workers",
    KafkaError.UNSUPPORTED_VERSION: "the brokers do not know GROUP_PROTOCOL=consumer: "
    "upgrade them to Kafka 4, or set GROUP_PROTOCOL=classic",
    KafkaError._UNSUPPORTED_FEATURE: "the brokers do not know GROUP_PROTOCOL=consumer: "
    "upgrade them to Kafka 4, or set GROUP_PROTOCOL=classic",
    KafkaError.FENCED_INSTANCE_ID: "another process is using the INSTANCE_ID {instance_id!r}. "
    f"{OWN_ID}",
    KafkaError.UNRELEASED_INSTANCE_ID: "another process is using the INSTANCE_ID "
    f"{{instance_id!r}}, or its session has not ended in time. {OWN_ID}",
}
# The group has expelled this member: what the member owned may have another owner.
EXPELLED = {
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.FENCED_INSTANCE_ID,
    KafkaError.FENCED_MEMBER_EPOCH,
}
TWIN = {KafkaError.FENCED_INSTANCE_ID, KafkaError.UNRELEASED_INSTANCE_ID}
TOPIC_GONE = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC}
_TEXTS: dict[int, str] = {code: KafkaError(code).str() for code in (*ADVICE, *EXPELLED)}


class Sparing:
    """Says which errors to log: each kind once per ERROR_LOG_S."""

    def __init__(self) -> None:
        self._logged_at: dict[int, float] = {}  # time.monotonic()

    def is_due(self, error: KafkaError, now: float) -> bool:
        if is_fatal(error):
            return True
        if now - self._logged_at.get(error.code(), now - ERROR_LOG_S) < ERROR_LOG_S:
            return False
        self._logged_at[error.code()] = now
        return True


class Judged(NamedTuple):
    """What an error means: its cause, and the error that ends the worker, if it must end."""

    code: int
    end: GroupError | None


class Judge:
    """Judges the errors of one worker's membership, one after the other."""

    def __init__(self, settings: Settings, instance_id: str) -> None:
        self._settings, self._instance_id = settings, instance_id
        self._fenced_at: list[float] = []
        self._since: dict[int, float] = {}  # when errors that may pass by themselves first came
        self._patience_s = {
            KafkaError.INCONSISTENT_GROUP_PROTOCOL: settings.session_timeout_s + SESSION_MARGIN_S,
            KafkaError.UNRELEASED_INSTANCE_ID: TWIN_SESSION_MAX_S,
        }

    def joined(self) -> None:
        """The group has accepted this member: errors that may pass by themselves have passed."""
        self._since.clear()

    def judge(self, error: KafkaError, now: float) -> Judged:
        """Judge an error. `now`: time.monotonic()."""
        code = cause(error)
        if code not in ADVICE:
            return Judged(code, None)
        if code == KafkaError.FENCED_INSTANCE_ID:
            # A coordinator that has just taken over may know an older member of the same name.
            self._fenced_at = [at for at in self._fenced_at if now - at < FENCED_WITHIN_S] + [now]
            if len(self._fenced_at) < FENCED_MAX:
                return Judged(code, None)
        elif now - self._since.setdefault(code, now) < self._patience_s.get(code, 0.0):
            return Judged(code, None)
        return Judged(code, advised(self._settings, error, self._instance_id))


def advised(settings: Settings, error: KafkaError, instance_id: str = "") -> GroupError | None:
    """The error that ends the worker; None if nobody has to correct anything."""
    advice = ADVICE.get(cause(error))
    if advice is None:
        return None
    advice = advice.format(instance_id=instance_id)
    kind = SharedNameError if cause(error) in TWIN else GroupError
    return kind(f"group {settings.kafka_group}: {advice} ({error.str()})")


def is_fatal(error: KafkaError) -> bool:
    """True if the consumer does nothing more."""
    return bool(error.code() == KafkaError._FATAL)


def cause(error: KafkaError) -> int:
    """The code of an error. librdkafka names the cause of a fatal one in its text only."""
    if not is_fatal(error):
        return int(error.code())
    text = error.str()
    return next((code for code, known in _TEXTS.items() if known in text), int(error.code()))
