"""All settings: one frozen object, parsed once, from flags or `READ_STATES_<NAME>`.

Each field carries its default, unit, allowed range and meaning; `readstates worker --help`
and the README's table are made from them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from readstates.streams.errors import ConfigError

ENV_PREFIX = "READ_STATES_"
SECRETS = frozenset({"cassandra_password", "kafka_config"})
FORMS = {  # what becomes part of a topic's name, a file's name or a CQL statement
    "topic_prefix": re.compile(r"[A-Za-z0-9._-]{1,200}"),
    "kafka_group": re.compile(r"[^/\0]{1,200}"),
    "cassandra_keyspace": re.compile(r"[A-Za-z][A-Za-z0-9_]{0,47}"),
}
FULL_SHARES = 8  # partitions of a topic with more have a part of PARKED_MAX and INBOX_MAX each
REPLY_LIKE = re.compile(r"^f-reply-|\.replies\.")


def _setting(
    default: Any, help: str, unit: str = "", low: float | None = None, high: float | None = None
) -> Any:
    return field(default=default, metadata={"help": help, "unit": unit, "low": low, "high": high})


@dataclass(frozen=True)
class Settings:
    """What a worker needs to know. Build it with `Settings.load`, which checks ranges."""

    kafka_bootstrap: str = _setting("127.0.0.1:9092", "brokers, host:port,host:port")
    kafka_config: str = _setting("", "extra librdkafka settings, key=value,… (SASL, TLS)")
    kafka_group: str = _setting("read-states", "consumer group of the workers")
    topic_prefix: str = _setting("read-states", "what the topics' names begin with")
    reply_topics: str = _setting(
        "", r"pattern a reply topic must match; empty: <TOPIC_PREFIX>\.replies\..*|f-reply-.*"
    )
    cassandra_hosts: str = _setting("127.0.0.1", "contact points, host,host")
    cassandra_port: int = _setting(9042, "native protocol port", "", 1, 65535)
    cassandra_keyspace: str = _setting("read_states", "keyspace")
    cassandra_local_dc: str = _setting("", "local data centre; empty: that of the first host")
    cassandra_username: str = _setting("", "user name; empty: no authentication")
    cassandra_password: str = _setting("", "password")
    cassandra_tls_ca: str = _setting("", "CA certificates (PEM) of the nodes; empty: no TLS")
    cassandra_tls_cert: str = _setting("", "our certificate (PEM), where the nodes want one")
    cassandra_tls_key: str = _setting("", "its key (PEM, no password); empty: in the same file")
    cassandra_replication: str = _setting(
        "{'class': 'NetworkTopologyStrategy', 'replication_factor': 1}",
        "replication of the keyspace, used by `readstates init`",
    )
    cassandra_timeout_s: float = _setting(5.0, "one request to Cassandra", "s", 0.1, 60)
    cache_dir: str = _setting("", "folder of the table files; empty: /dev/shm when it has room")
    cache_states: int = _setting(
        200_000, "read states that one partition's table holds", "read states", 10, 100_000_000
    )
    user_states_max: int = _setting(
        50_000,
        "read states a user may have, at most half of CACHE_STATES; if not set, never over that",
        "read states",
        1,
        10**7,
    )
    flush_delay_s: float = _setting(
        30.0, "how long a change may wait to be coalesced with later ones", "s", 0, 3600
    )
    dirty_share_max: float = _setting(
        0.5,
        "share of a table that may wait to be written out before it is written at once",
        "",
        0.01,
        0.9,
    )
    writes_in_flight_max: int = _setting(
        128,
        "batches to Cassandra under way; a quarter while nobody waits for them",
        "batches",
        1,
        1024,
    )
    write_batch_rows: int = _setting(30, "rows a batch (under 5 KiB)", "rows", 1, 400)
    write_retry_s: float = _setting(1.0, "pause after a failed write", "s", 0.01, 60)
    loads_in_flight_max: int = _setting(16, "load requests to Cassandra under way", "", 1, 1024)
    load_batch_users: int = _setting(16, "users a load request at most", "users", 1, 100)
    load_retry_s: float = _setting(0.5, "pause after a failed load", "s", 0.01, 60)
    parked_max: int = _setting(
        50_000,
        "updates a partition holds back for users being loaded (with more than 8: a part of it)",
        "updates",
        1,
        10**7,
    )
    parked_bytes_max: int = _setting(
        32 << 20,
        "the same in bytes; the last update may be over it (with more than 8: a part of it)",
        "bytes",
        1 << 16,
        1 << 32,
    )
    inbox_max: int = _setting(
        2_000,
        "updates a partition took off Kafka and has not begun (with more than 8: a part of it)",
        "updates",
        1,
        10**6,
    )
    inbox_bytes_max: int = _setting(
        8 << 20,
        "the same in bytes; what was fetched last may be over it (with more than 8: a part of it)",
        "bytes",
        1 << 16,
        1 << 32,
    )
    queries_waiting_max: int = _setting(
        10_000, "queries a worker holds back before it answers `overloaded`", "queries", 1, 10**6
    )
    slice_updates: int = _setting(
        200,
        "acks and mentions applied before other work gets a turn; any other update counts as 10",
        "updates",
        1,
        10_000,
    )
    commit_interval_s: float = _setting(1.0, "between commits of Kafka offsets", "s", 0.05, 60)
    session_timeout_s: float = _setting(
        10.0, "Kafka takes a silent worker's partitions away after this", "s", 1, 300
    )
    handover_timeout_s: float = _setting(
        5.0, "writing out at a shutdown, first while all goes on, then what is left", "s", 0.1, 8
    )
    shutdown_timeout_s: float = _setting(20.0, "from SIGTERM to a forced end", "s", 1, 300)
    reply_bytes_max: int = _setting(1_000_000, "size of a reply", "bytes", 1024, 100_000_000)
    instance_id: str = _setting("", "static membership: a name that outlives a restart")
    http_host: str = _setting("127.0.0.1", "where /metrics, /healthz, /readyz listen")
    http_port: int = _setting(6066, "their port; 0: any free one", "", 0, 65535)

    @property
    def updates_topic(self) -> str:
        return f"{self.topic_prefix}.updates"

    @property
    def queries_topic(self) -> str:
        return f"{self.topic_prefix}.queries"

    @property
    def dead_letters_topic(self) -> str:
        return f"{self.topic_prefix}.dead-letters"

    @property
    def reply_topic_pattern(self) -> re.Pattern[str]:
        default = rf"{re.escape(self.topic_prefix)}\.replies\..*|f-reply-.*"
        return re.compile(self.reply_topics or default)

    @property
    def kafka_extra(self) -> dict[str, str]:
        """`KAFKA_CONFIG` as a dict; a comma inside a value is written as two."""
        parts = [p.replace("\0", ",") for p in self.kafka_config.replace(",,", "\0").split(",")]
        pairs = [p.partition("=") for p in parts if p.strip()]
        bad = next((place for place, pair in enumerate(pairs, 1) if not pair[1]), None)
        if bad is not None:  # not shown: it may be the rest of a password with a comma
            raise ConfigError(
                f"KAFKA_CONFIG: expected key=value,…; entry {bad} has no '=' (a comma inside a "
                "value is written as two)"
            )
        return {key.strip(): value.strip() for key, _, value in pairs}

    def librdkafka(self, **more: Any) -> dict[str, Any]:
        """Settings for a confluent-kafka client of these brokers."""
        base: dict[str, Any] = {"bootstrap.servers": self.kafka_bootstrap}
        return {**base, **self.kafka_extra, **more}

    def __repr__(self) -> str:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values.update(dict.fromkeys((n for n in SECRETS if values[n]), "***"))
        shown = (f"{name}={value!r}" for name, value in values.items())
        return f"Settings({', '.join(shown)})"

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, /, **given: Any) -> Settings:
        """Flags first (those that are not None), then the environment, then defaults.

        Raises ConfigError naming the setting, what it was and what it may be.
        """
        environ = _with_files(os.environ if environ is None else environ)
        values = {
            f.name: _parse(f, given, environ)
            for f in fields(cls)
            if given.get(f.name) is not None or env_name(f.name) in environ
        }
        settings = cls(**values)
        if "user_states_max" not in values:
            most = min(settings.user_states_max, settings.cache_states // 2)
            settings = replace(settings, user_states_max=most)
        settings.check()
        return settings

    def check(self) -> None:
        """Relations between settings. Raises ConfigError."""
        if self.user_states_max * 2 > self.cache_states:
            raise ConfigError(
                f"USER_STATES_MAX ({self.user_states_max}) may be at most half of CACHE_STATES "
                f"({self.cache_states}): lower the one or raise the other"
            )
        if self.handover_timeout_s >= self.session_timeout_s:
            raise ConfigError(
                f"HANDOVER_TIMEOUT_S ({self.handover_timeout_s}) must be below SESSION_TIMEOUT_S "
                f"({self.session_timeout_s}), or the group goes on without waiting for it"
            )
        try:
            _ = self.reply_topic_pattern
        except re.error as exc:
            raise ConfigError(f"REPLY_TOPICS is not a regular expression: {exc}") from exc
        _ = self.kafka_extra
        for name, form in FORMS.items():
            if not form.fullmatch(getattr(self, name)):
                raise ConfigError(f"{name.upper()} must match {form.pattern}")
        if REPLY_LIKE.search(f"{self.topic_prefix}."):
            raise ConfigError(
                "TOPIC_PREFIX may not begin with f-reply- or contain .replies.: the topics would "
                "look like reply topics, which other services of this kind may write to"
            )
        if self.cassandra_password and not self.cassandra_username:
            raise ConfigError("CASSANDRA_PASSWORD has no effect without CASSANDRA_USERNAME")
        if (self.cassandra_tls_cert or self.cassandra_tls_key) and not self.cassandra_tls_ca:
            raise ConfigError(
                "CASSANDRA_TLS_CERT and CASSANDRA_TLS_KEY have no effect without CASSANDRA_TLS_CA"
            )


def env_name(name: str) -> str:
    """The environment variable of a setting: `flush_delay_s` → `READ_STATES_FLUSH_DELAY_S`."""
    return ENV_PREFIX + name.upper()


def describe(setting: Field[Any]) -> str:
    """One line: meaning, unit, range, default, for `--help` and the README."""
    meta = setting.metadata
    assert setting.default is not MISSING
    shown = "" if setting.default == "" else f", default {setting.default}"
    reach = f", {meta['low']:g} … {meta['high']:g}" if meta["low"] is not None else ""
    unit = f" [{meta['unit']}]" if meta["unit"] else ""
    kept = ""
    if setting.name in SECRETS:
        kept = f"; `ps` shows it as a flag: use the environment, or {env_name(setting.name)}_FILE"
    return f"{meta['help']}{unit}{reach}{shown}{kept}"


def _with_files(environ: Mapping[str, str]) -> Mapping[str, str]:
    """The environment, where a secret may also stand in a file that `<NAME>_FILE` names."""
    found = dict(environ)
    for name in map(env_name, SECRETS):
        path = environ.get(f"{name}_FILE")
        if path is None:
            continue
        if name in environ:
            raise ConfigError(f"{name} and {name}_FILE are both set: leave one of them out")
        try:
            found[name] = Path(path).read_text("utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(f"{name}_FILE: {path} cannot be read: {exc}") from exc
    return found


def _parse(setting: Field[Any], given: Mapping[str, Any], environ: Mapping[str, str]) -> Any:
    raw = given.get(setting.name)
    source = f"--{setting.name.replace('_', '-')}"
    if raw is None:
        source = env_name(setting.name)
        raw = environ[source]
    kind: Any = type(setting.default)
    try:
        value = kind(raw)
    except ValueError as exc:
        raise ConfigError(f"{source}: expected {kind.__name__}, got {raw!r}") from exc
    low, high = setting.metadata["low"], setting.metadata["high"]
    if low is not None and not low <= value <= high:
        raise ConfigError(f"{source}: {value} is outside {low:g} … {high:g}")
    return value
