"""The readers' login: what KAFKA_CONFIG says of TLS and SASL.

librdkafka (the group, replies, dead letters, administration) takes KAFKA_CONFIG as it is. The
readers (`reader.py`) speak to the brokers themselves, and `login` gives them what they need of it.
A setting that they cannot follow is refused, so that they are never less safe than librdkafka.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import NamedTuple

from ..config import Settings
from ..errors import ConfigError
from ..tls import tls_context

PROTOCOLS = {"plaintext", "ssl", "sasl_plaintext", "sasl_ssl"}
MECHANISMS = {"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"}
SECURITY_KEYS = ("security.", "sasl.", "ssl.", "enable.sasl.", "enable.ssl.")
FOLLOWED = {
    "security.protocol",
    "sasl.mechanism",
    "sasl.mechanisms",
    "sasl.username",
    "sasl.password",
    "ssl.ca.location",
    "ssl.certificate.location",
    "ssl.key.location",
    "ssl.key.password",
    "ssl.endpoint.identification.algorithm",
}
ADDRESS_KEYS = {"bootstrap.servers", "metadata.broker.list"}


class Login(NamedTuple):
    """How the brokers are reached: TLS, a login, or both. `mechanism` is empty without a login."""

    tls: ssl.SSLContext | None
    mechanism: str = ""
    username: str = ""
    password: str = ""

    def __repr__(self) -> str:
        return f"Login(tls={self.tls is not None}, mechanism={self.mechanism!r})"


def login(settings: Settings) -> Login | None:
    """The login that KAFKA_CONFIG asks for; None for a plain connection.

    Raises ConfigError for a key that the readers cannot follow; names the key and never a value.
    """
    config = settings.kafka_extra
    if ADDRESS_KEYS & config.keys():
        raise ConfigError(
            "KAFKA_CONFIG: the brokers' addresses go into KAFKA_BOOTSTRAP, or half of the worker "
            "would talk to another cluster"
        )
    security_keys = {key for key in config if key.startswith(SECURITY_KEYS)}
    for key in sorted(security_keys - FOLLOWED):
        raise ConfigError(
            f"KAFKA_CONFIG: {key} is not followed by the worker's readers, which would be less "
            f"safe than its producers. Followed are: {', '.join(sorted(FOLLOWED))}"
        )
    protocol = config.get("security.protocol", "plaintext").lower()
    if protocol not in PROTOCOLS:
        raise ConfigError(f"KAFKA_CONFIG: security.protocol must be one of {_list(PROTOCOLS)}")
    sasl, tls = protocol.startswith("sasl_"), protocol.endswith("ssl")
    for prefix, used, wanted in (("sasl.", sasl, "sasl_ssl"), ("ssl.", tls, "ssl or sasl_ssl")):
        if not used and any(key.startswith(prefix) for key in security_keys):
            raise ConfigError(
                f"KAFKA_CONFIG: {prefix}* has no effect with security.protocol={protocol}; set "
                f"security.protocol={wanted}, or leave {prefix}* out"
            )
    context = _kafka_tls(config) if tls else None
    if not sasl:
        return Login(context) if context else None
    return Login(
        context,
        _mechanism(config),
        _needed(config, "sasl.username"),
        _needed(config, "sasl.password"),
    )


def _kafka_tls(config: Mapping[str, str]) -> ssl.SSLContext:
    """The readers' context. The names checked are those of KAFKA_BOOTSTRAP and of the brokers."""
    algorithm = config.get("ssl.endpoint.identification.algorithm", "https")
    if algorithm not in {"https", "none"}:
        raise ConfigError(
            "KAFKA_CONFIG: ssl.endpoint.identification.algorithm must be https or none"
        )
    context = tls_context(
        "KAFKA_CONFIG",
        config.get("ssl.ca.location", ""),
        config.get("ssl.certificate.location", ""),
        config.get("ssl.key.location", ""),
        config.get("ssl.key.password", ""),
    )
    context.check_hostname = algorithm == "https"
    return context


def _mechanism(config: Mapping[str, str]) -> str:
    values = {config[key] for key in ("sasl.mechanism", "sasl.mechanisms") if key in config}
    if len(values) != 1 or not values <= MECHANISMS:
        raise ConfigError(f"KAFKA_CONFIG: sasl.mechanism must be one of {_list(MECHANISMS)}")
    return values.pop()


def _needed(config: Mapping[str, str], key: str) -> str:
    if not config.get(key):
        raise ConfigError(f"KAFKA_CONFIG: {key} is missing, and security.protocol needs it")
    return config[key]


def _list(names: set[str]) -> str:
    return ", ".join(sorted(names))
