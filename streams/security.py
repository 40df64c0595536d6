"""TLS and logins of Kafka, from one setting, and what is said where the brokers refuse them.

librdkafka (replies, dead letters, administration) takes KAFKA_CONFIG as it is. Faust's consumer is
aiokafka, which has other names for the same: `login` reads it for that. What it could not follow is
refused, so that the consumer is never less safe than the producer beside it.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from readstates.streams.config import Settings
from readstates.streams.errors import ConfigError

# At DEBUG it logs every request as it is, the one with PLAIN's password among them.
logging.getLogger("aiokafka.conn").setLevel(logging.INFO)

CONNECT_TIMEOUT_S = 15.0
POLL_S = 0.2

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
    """What KAFKA_CONFIG says of it; None for a plain connection.

    Raises ConfigError for what the consumer cannot follow, naming the key and never a value.
    """
    given = settings.kafka_extra
    if ADDRESS_KEYS & given.keys():
        raise ConfigError(
            "KAFKA_CONFIG: the brokers' addresses go into KAFKA_BOOTSTRAP, or half of the worker "
            "would talk to another cluster"
        )
    asked = {key for key in given if key.startswith(SECURITY_KEYS)}
    for key in sorted(asked - FOLLOWED):
        raise ConfigError(
            f"KAFKA_CONFIG: {key} is not followed by the worker's consumer, which would be less "
            f"safe than its producer. Followed are: {', '.join(sorted(FOLLOWED))}"
        )
    protocol = given.get("security.protocol", "plaintext").lower()
    if protocol not in PROTOCOLS:
        raise ConfigError(f"KAFKA_CONFIG: security.protocol must be one of {_list(PROTOCOLS)}")
    sasl, tls = protocol.startswith("sasl_"), protocol.endswith("ssl")
    for prefix, used, wanted in (("sasl.", sasl, "sasl_ssl"), ("ssl.", tls, "ssl or sasl_ssl")):
        if not used and any(key.startswith(prefix) for key in asked):
            raise ConfigError(
                f"KAFKA_CONFIG: {prefix}* has no effect with security.protocol={protocol}; set "
                f"security.protocol={wanted}, or leave {prefix}* out"
            )
    context = _kafka_tls(given) if tls else None
    if not sasl:
        return Login(context) if context else None
    return Login(
        context,
        _mechanism(given),
        _needed(given, "sasl.username"),
        _needed(given, "sasl.password"),
    )


def _kafka_tls(given: Mapping[str, str]) -> ssl.SSLContext:
    """aiokafka's context. The names checked are those of KAFKA_BOOTSTRAP and of the brokers."""
    algorithm = given.get("ssl.endpoint.identification.algorithm", "https")
    if algorithm not in {"https", "none"}:
        raise ConfigError(
            "KAFKA_CONFIG: ssl.endpoint.identification.algorithm must be https or none"
        )
    context = tls_context(
        "KAFKA_CONFIG",
        given.get("ssl.ca.location", ""),
        given.get("ssl.certificate.location", ""),
        given.get("ssl.key.location", ""),
        given.get("ssl.key.password", ""),
    )
    context.check_hostname = algorithm == "https"
    return context


def _mechanism(given: Mapping[str, str]) -> str:
    values = {given[key] for key in ("sasl.mechanism", "sasl.mechanisms") if key in given}
    if len(values) != 1 or not values <= MECHANISMS:
        raise ConfigError(f"KAFKA_CONFIG: sasl.mechanism must be one of {_list(MECHANISMS)}")
    return values.pop()


def _needed(given: Mapping[str, str], key: str) -> str:
    if not given.get(key):
        raise ConfigError(f"KAFKA_CONFIG: {key} is missing, and security.protocol needs it")
    return given[key]


def _list(names: set[str]) -> str:
    return ", ".join(sorted(names))


def tls_context(
    setting: str, ca: str, certificate: str = "", key: str = "", key_password: str = ""
) -> ssl.SSLContext:
    """A client's context that checks the server's certificate and its name.

    `ca`: a PEM file or a folder of them; empty: the system's. `certificate` and `key` (PEM): who
    we are; the key may stand in the certificate's file. Raises ConfigError naming `setting`.
    """
    if key and not certificate:
        raise ConfigError(f"{setting}: the key of a client certificate without the certificate")
    try:
        is_folder = Path(ca).is_dir() if ca else False
        context = ssl.create_default_context(
            cafile=None if is_folder else ca or None, capath=ca if is_folder else None
        )
    except OSError as exc:
        raise ConfigError(f"{setting}: no CA certificates can be read from {ca}: {exc}") from exc
    if certificate:
        try:  # the empty password keeps OpenSSL from asking for one at the terminal
            context.load_cert_chain(certificate, key or None, key_password)
        except OSError as exc:
            raise ConfigError(
                f"{setting}: the client certificate {certificate} with the key "
                f"{key or 'in the same file'} cannot be used: {exc}"
            ) from exc
    return context


def connect(settings: Settings, timeout_s: float | None = None) -> AdminClient:
    """An admin client which the brokers have answered.

    Raises ConfigError saying what to look at: KAFKA_CONFIG has what librdkafka does not know, the
    login or the certificate is refused, or nobody answers within `timeout_s` (CONNECT_TIMEOUT_S).
    """
    timeout_s = timeout_s or CONNECT_TIMEOUT_S
    login(settings)  # what the consumer could not follow is of no use to anybody
    failures: list[KafkaError] = []
    more = {"client.id": "read-states-admin", "log_level": 0, "error_cb": failures.append}
    try:
        client = AdminClient(settings.librdkafka(**more))
    except KafkaException as exc:
        raise _not_taken(settings, exc) from None
    end = time.monotonic() + timeout_s
    while True:
        try:
            client.list_topics(timeout=POLL_S)
        except KafkaException as exc:
            client.poll(0)
            refused = [one for one in failures if one.code() in _REFUSED]
            if refused:
                raise ConfigError(_refusal(settings, refused[0])) from None
            if time.monotonic() > end:
                raise ConfigError(_silence(settings, timeout_s, failures, exc)) from None
        else:
            return client


_REFUSED = {KafkaError._AUTHENTICATION, KafkaError._SSL, KafkaError.SASL_AUTHENTICATION_FAILED}


def _not_taken(settings: Settings, exc: KafkaException) -> ConfigError:
    """Not shown as it is: what librdkafka does not know may be the rest of a password."""
    text = exc.args[0].str()
    number = next((n for n, k in enumerate(settings.kafka_extra, 1) if f'"{k}"' in text), None)
    if number is None and "configuration property" not in text:
        return ConfigError(f"KAFKA_CONFIG: {text}")
    which = "an entry" if number is None else f"entry {number}"
    return ConfigError(
        f"KAFKA_CONFIG: {which} is not a setting, or not a value, that librdkafka knows (a comma "
        "inside a value is written as two)"
    )


def _refusal(settings: Settings, error: KafkaError) -> str:
    if error.code() == KafkaError._SSL:
        advice = (
            "Check ssl.ca.location in KAFKA_CONFIG, and that the brokers' certificate carries the "
            "names in KAFKA_BOOTSTRAP"
        )
    else:
        advice = "Check sasl.mechanism, sasl.username and sasl.password in KAFKA_CONFIG"
    where = f"Kafka at {settings.kafka_bootstrap}"
    return f"{where} and this client refuse each other: {error.str()}. {advice}"


def _silence(
    settings: Settings, timeout_s: float, failures: list[KafkaError], exc: KafkaException
) -> str:
    telling = [one for one in failures if one.code() != KafkaError._ALL_BROKERS_DOWN]
    last = telling[0].str() if telling else exc.args[0].str()
    return (
        f"no Kafka answers at {settings.kafka_bootstrap} within {timeout_s:g} s: {last}. "
        "Check KAFKA_BOOTSTRAP; brokers that want TLS or a login need security.protocol in "
        "KAFKA_CONFIG; or start one: readstates stack up"
    )
