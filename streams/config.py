"""The settings, which come from command-line flags, environment variables or defaults.

For example, `--flush-delay-s` and `READ_STATES_FLUSH_DELAY_S` both set `flush_delay_s`. Each field
of `Settings` has a default, a help text, a unit, a range, and a heading in `--help`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from .errors import ConfigError

ENV_PREFIX = "READ_STATES_"
SECRETS = frozenset({"cassandra_password", "kafka_config"})
FORMS = {  # These settings become part of topic names, file names or CQL statements.
    "topic_prefix": re.compile(r"[A-Za-z0-9._-]{1,200}"),
    "kafka_group": re.compile(r"[^/\0]{1,200}"),
    "instance_id": re.compile(r"[A-Za-z0-9._-]{0,249}"),
    "cassandra_keyspace": re.compile(r"[a-z][a-z0-9_]{0,47}"),
}
# A CQL map of quoted words and numbers. A word cannot contain a quote, so it cannot inject CQL.
REPLICATION = re.compile(
    r"\{(?=.*'class')\s*{PAIR}(\s*,\s*{PAIR})*\s*\}".replace(
        "{PAIR}", r"'[\w.-]{1,200}'\s*:\s*('[\w./-]{1,200}'|\d{1,4})"
    ),
    re.ASCII,
)
# Some limits are per partition. If there are more than FULL_SHARES partitions, they share
# FULL_SHARES times such a limit.
FULL_SHARES = 8
SHARED = f"If there are over {FULL_SHARES} partitions, they share {FULL_SHARES} times this limit."
DYNAMIC = "-"  # With this `instance_id`, the worker has no name.
IDS_UNCHECKED = -1  # With this `id_epoch_ms`, message IDs are not checked.
CLASSIC, CONSUMER = GROUP_PROTOCOLS = ("classic", "consumer")
ON, OFF = SWITCH = ("on", "off")
STOP, COUNT = MISSING_UPDATES = ("stop", "count")
LIVE, CANDIDATE = ROLES = ("live", "candidate")
CHOICES = {"group_protocol": GROUP_PROTOCOLS, "missing_updates": MISSING_UPDATES}
CHOICES |= {"changes": SWITCH, "role": ROLES}
REPLY_LIKE = re.compile(r"^f-reply-|\.replies\.")


def _setting(
    group: str, default: Any, help: str, unit: str = "", low: float = 0, high: float = 0
) -> Any:
    about = {"group": group, "help": help, "unit": unit, "range": (low, high) if high else None}
    return field(default=default, metadata=about)


_kafka, _cassandra, _table, _write_behind, _limit, _http = (
    partial(_setting, group)
    for group in ("Kafka", "Cassandra", "Table", "Write-behind", "Limits", "HTTP")
)


@dataclass(frozen=True)
class Settings:
    """The settings of a worker. `Settings.load` reads and checks them."""

    kafka_bootstrap: str = _kafka("127.0.0.1:9092", "Brokers to connect to first (host:port,…).")
    kafka_config: str = _kafka("", "More librdkafka settings (key=value,…), for TLS and logins.")
    kafka_group: str = _kafka("read-states", "Consumer group of the workers.")
    topic_prefix: str = _kafka("read-states", "Prefix of the topics' names.")
    role: str = _kafka(
        LIVE,
        "live, or candidate: a worker of another version or configuration, in its own group beside "
        "the live workers (see `readstates rollout start --help`).",
    )
    reply_topics: str = _kafka(
        "", r"Regular expression for reply topics. Empty: <TOPIC_PREFIX>\.replies\..*|f-reply-.*"
    )
    instance_id: str = _kafka(
        "",
        "Name of this worker in the group (group.instance.id). When the worker stops or dies, "
        "Kafka reserves its partitions for SESSION_TIMEOUT_S. Empty: a name stored in "
        "CACHE_DIR; the worker then leaves the group when it stops, but not when it dies. "
        f'"{DYNAMIC}" means no name.',
    )
    group_protocol: str = _kafka(
        CLASSIC,
        "How the workers share partitions: classic, or consumer (KIP-848). With consumer, the "
        "brokers' group.consumer.session.timeout.ms (45 s) applies instead of SESSION_TIMEOUT_S.",
    )
    session_timeout_s: float = _kafka(
        10.0, "Time without heartbeats before Kafka reassigns a worker's partitions.", "s", 1, 300
    )
    probe_interval_s: float = _kafka(
        5.0,
        "Time between two probes: queries that a worker sends to its own partitions through Kafka, "
        "to check that they are answered. 0: no probes.",
        "s", 0, 300,
    )  # fmt: skip
    changes: str = _kafka(
        OFF, "on or off. With on, the workers publish each change to <TOPIC_PREFIX>.changes."
    )
    changes_delay_ms: int = _kafka(
        20, "How long a change waits for further changes of the same user, to share one record.",
        "ms", 0, 10_000,
    )  # fmt: skip
    commit_interval_s: float = _kafka(1.0, "Time between two commits of offsets.", "s", 0.05, 60)

    cassandra_hosts: str = _cassandra("127.0.0.1", "Nodes to connect to first (host,host,…).")
    cassandra_port: int = _cassandra(9042, "Native protocol port.", "", 1, 65535)
    cassandra_keyspace: str = _cassandra("read_states", "Keyspace of the tables.")
    cassandra_local_dc: str = _cassandra("", "Local data centre. Empty: the first host's.")
    cassandra_username: str = _cassandra("", "User name. Empty: no authentication.")
    cassandra_password: str = _cassandra("", "Password.")
    cassandra_tls_ca: str = _cassandra("", "CA certificates of the nodes (PEM). Empty: no TLS.")
    cassandra_tls_cert: str = _cassandra("", "Client certificate (PEM), if the nodes ask for one.")
    cassandra_tls_key: str = _cassandra(
        "",
        "Key of the client certificate (PEM, no password). Empty: it is in the certificate file.",
    )
    cassandra_replication: str = _cassandra(
        "{'class': 'NetworkTopologyStrategy', 'replication_factor': 1}",
        "Replication of the keyspace; only `readstates init` uses it.",
    )
    cassandra_timeout_s: float = _cassandra(5.0, "Time limit of one request.", "s", 0.1, 60)
    loads_in_flight_max: int = _cassandra(
        16, "Largest number of load requests at once; a quarter is reserved for queries.",
        "requests", 1, 1024,
    )  # fmt: skip
    load_batch_users: int = _cassandra(
        16, "Largest number of users in one load request.", "users", 1, 100
    )
    load_retry_s: float = _cassandra(0.5, "Pause after a failed load.", "s", 0.01, 60)

    cache_dir: str = _table(
        "", "Folder of the table files. Empty: /dev/shm if it has room, otherwise /tmp."
    )
    cache_states: int = _table(
        200_000, "Read states that the table of one partition holds.", "read states", 10, 10**8
    )
    user_states_max: int = _table(
        50_000, "Largest number of read states of one user, at most half of CACHE_STATES. The "
        "default is lowered to that half if necessary.",
        "read states", 1, 10**6,
    )  # fmt: skip

    flush_delay_s: float = _write_behind(
        30.0, "How long a change may wait before it is written to Cassandra.", "s", 0, 3600
    )
    dirty_share_max: float = _write_behind(
        0.5, "Writes begin early if more than this share of a partition's table has changes that "
        "are not in Cassandra yet.", "", 0.01, 0.9,
    )  # fmt: skip
    writes_in_flight_max: int = _write_behind(
        128, "Largest number of write batches at once; a quarter of it while no write is urgent "
        "(overdue, or needed to make room or to hand over a partition).",
        "batches", 1, 1024,
    )  # fmt: skip
    write_batch_rows: int = _write_behind(
        30, "Rows in a batch (30 rows take less than 5 KiB).", "rows", 1, 400
    )
    write_retry_s: float = _write_behind(1.0, "Pause after a failed write.", "s", 0.01, 60)

    parked_max: int = _limit(
        50_000, f"Updates that a partition may hold back while their users are loaded. {SHARED}",
        "updates", 1, 10**7,
    )  # fmt: skip
    parked_bytes_max: int = _limit(
        32 << 20, "Like PARKED_MAX, but in bytes; the slice that reaches the limit may exceed it. "
        f"{SHARED}", "bytes", 1 << 16, 1 << 32,
    )  # fmt: skip
    inbox_max: int = _limit(
        2_000, "Largest number of updates that a partition has received but not yet begun to "
        f"apply. {SHARED}",
        "updates", 1, 10**6,
    )  # fmt: skip
    inbox_bytes_max: int = _limit(
        8 << 20, "Like INBOX_MAX, but in bytes; the fetch that reaches the limit may exceed it. "
        f"{SHARED}", "bytes", 1 << 16, 1 << 32,
    )  # fmt: skip
    id_epoch_ms: int = _limit(
        IDS_UNCHECKED,
        "Unix time of message ID 0, if IDs are snowflakes. An ID that is more than 24 h ahead of "
        "its record's time is refused. -1: IDs are not checked.",
        "ms", -1, 4 * 10**12,
    )  # fmt: skip
    missing_updates: str = _limit(
        STOP, "If compaction has removed updates from the log: stop, or count them and continue."
    )
    changes_waiting_max: int = _limit(
        20_000, "Users per partition whose changes may wait to be published in the change feed. At "
        f"this number, the partition applies no more updates. {SHARED}",
        "users", 1, 10**6,
    )  # fmt: skip
    queries_waiting_max: int = _limit(
        10_000, "Queries that may wait in a worker; others get `overloaded`.", "queries", 1, 10**6
    )
    slice_updates: int = _limit(
        200,
        "Updates applied before queries get a turn; acks and mentions count as 1, others as 10.",
        "updates", 1, 10_000,
    )  # fmt: skip
    reply_bytes_max: int = _limit(
        1_000_000, "Largest size of a reply; pages are cut to this size.", "bytes", 1024, 10**8
    )
    handover_timeout_s: float = _limit(
        5.0, "Time limit for writing to Cassandra at a shutdown. It applies twice: while the "
        "worker still serves, and afterwards.",
        "s", 0.1, 8,
    )  # fmt: skip
    shutdown_timeout_s: float = _limit(20.0, "Time from SIGTERM to a forced exit.", "s", 1, 300)

    http_host: str = _http("127.0.0.1", "Address of the console, /metrics, /healthz and /readyz.")
    http_names: str = _http(
        "",
        "More host names for which the endpoints answer (name,.suffix,…). IP addresses, names "
        "without a dot and HTTP_HOST are always allowed. Other names are refused, which prevents "
        "DNS rebinding.",
    )
    http_port: int = _http(6066, "Port of the HTTP endpoints. 0: any free port.", "", 0, 65535)

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
    def probes_topic(self) -> str:
        """The topic for replies to the workers' own probes."""
        return f"{self.topic_prefix}.probes"

    @property
    def changes_topic(self) -> str:
        return f"{self.topic_prefix}.changes"

    @property
    def tells_changes(self) -> bool:
        """True if the worker writes the change feed. A candidate never does."""
        return self.changes == ON and not self.is_candidate

    @property
    def is_candidate(self) -> bool:
        return self.role == CANDIDATE

    @property
    def epochs_topic(self) -> str:  # holds the history of epochs (`schemas/epoch_history.py`)
        return f"{self.topic_prefix}.epochs"

    @property
    def leaves_group(self) -> bool:
        """True if the worker leaves the consumer group when it is stopped."""
        return self.instance_id in ("", DYNAMIC)

    @property
    def reply_topic_pattern(self) -> re.Pattern[str]:
        default = rf"{re.escape(self.topic_prefix)}\.replies\..*|f-reply-.*"
        return re.compile(self.reply_topics or default)

    @property
    def kafka_extra(self) -> dict[str, str]:
        """`KAFKA_CONFIG` as a dict. In the setting, `,,` is a comma inside a value."""
        parts = [p.replace("\0", ",") for p in self.kafka_config.replace(",,", "\0").split(",")]
        pairs = [p.partition("=") for p in parts if p.strip()]
        bad = next((place for place, pair in enumerate(pairs, 1) if not pair[1]), None)
        if bad is not None:  # The entry may be part of a password, so the error does not show it.
            raise ConfigError(
                f"KAFKA_CONFIG: expected key=value,…, but entry {bad} has no '='. If a value "
                "contains a comma, write it as two commas"
            )
        return {key.strip(): value.strip() for key, _, value in pairs}

    def librdkafka(self, **overrides: Any) -> dict[str, Any]:
        """Settings for a confluent-kafka client that connects to these brokers."""
        own = {
            "bootstrap.servers": self.kafka_bootstrap,
            # A request must not create a topic that somebody has deleted.
            "allow.auto.create.topics": False,
        }
        return {**own, **self.kafka_extra, **overrides}

    def __repr__(self) -> str:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values.update(dict.fromkeys((n for n in SECRETS if values[n]), "***"))
        shown = (f"{name}={value!r}" for name, value in values.items())
        return f"Settings({', '.join(shown)})"

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, /, **flags: Any) -> Settings:
        """Load all settings. Flags, unless they are None, override environment variables.

        Raises ConfigError, which names the setting, its value and the allowed values.
        """
        environ = _with_files(os.environ if environ is None else environ)
        values = {
            f.name: _parse(f, flags, environ)
            for f in fields(cls)
            if flags.get(f.name) is not None or env_name(f.name) in environ
        }
        settings = cls(**values)
        if "user_states_max" not in values:
            lowered = min(settings.user_states_max, settings.cache_states // 2)
            settings = replace(settings, user_states_max=lowered)
        settings.check()
        return settings

    def check(self) -> None:
        """Check the rules that the ranges do not cover. Raises ConfigError."""
        if self.user_states_max * 2 > self.cache_states:
            raise ConfigError(
                f"USER_STATES_MAX ({self.user_states_max}) may be at most half of CACHE_STATES "
                f"({self.cache_states}). Lower the first or raise the second"
            )
        if self.handover_timeout_s >= self.session_timeout_s:
            raise ConfigError(
                f"HANDOVER_TIMEOUT_S ({self.handover_timeout_s}) must be below SESSION_TIMEOUT_S "
                f"({self.session_timeout_s}), or Kafka may reassign partitions during a handover"
            )
        try:
            _ = self.reply_topic_pattern
        except re.error as exc:
            raise ConfigError(f"REPLY_TOPICS is not a regular expression: {exc}") from exc
        _ = self.kafka_extra
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise ConfigError(f"{name.upper()} must be {' or '.join(choices)}, not {value!r}")
        for name, form in FORMS.items():
            if not form.fullmatch(getattr(self, name)):
                raise ConfigError(f"{name.upper()} must match {form.pattern}")
        if not REPLICATION.fullmatch(self.cassandra_replication):
            raise ConfigError(
                f"CASSANDRA_REPLICATION: {self.cassandra_replication!r:.200} is not a map of a "
                "class and the number of replicas in each data centre, such as "
                "{'class': 'NetworkTopologyStrategy', 'dc1': 3}"
            )
        if REPLY_LIKE.search(f"{self.topic_prefix}."):
            raise ConfigError(
                'TOPIC_PREFIX may not begin with "f-reply-" or contain ".replies.": such topics '
                "would look like reply topics, and other services could write to them"
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


def _with_files(environ: Mapping[str, str]) -> Mapping[str, str]:
    """Add the secrets from files to the environment. `<NAME>_FILE` is the path of such a file."""
    secrets = {}
    for name in map(env_name, SECRETS):
        path = environ.get(f"{name}_FILE")
        if path is None:
            continue
        if name in environ:
            raise ConfigError(f"{name} and {name}_FILE are both set. Unset one of them")
        try:
            secrets[name] = Path(path).read_text("utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(f"{name}_FILE: {path} cannot be read: {exc}") from exc
    return {**environ, **secrets}


def number_text(setting: Field[Any], value: float) -> str:
    """Format a value like `100,000,000`, but without commas if the setting has no unit."""
    return f"{value:,.15g}" if setting.metadata["unit"] else f"{value:g}"


def range_text(setting: Field[Any]) -> str:
    """Format the range like `1 … 100,000,000`. The text is empty if every value is allowed."""
    return " … ".join(number_text(setting, end) for end in setting.metadata["range"] or ())


def _parse(setting: Field[Any], flags: Mapping[str, Any], environ: Mapping[str, str]) -> Any:
    raw, source = flags.get(setting.name), f"--{setting.name.replace('_', '-')}"
    if raw is None:
        source = env_name(setting.name)
        raw = environ[source]
    kind: Any = type(setting.default)
    try:
        value = kind(raw)
    except ValueError as exc:
        raise ConfigError(f"{source}: expected {kind.__name__}, got {raw!r}") from exc
    bounds = setting.metadata["range"]
    if bounds and not bounds[0] <= value <= bounds[1]:
        raise ConfigError(f"{source}: {value} is outside the range {range_text(setting)}")
    return value
