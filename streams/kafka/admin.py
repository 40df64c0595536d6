"""Makes an admin client that the brokers have answered, or an error that says what to check.

And asks such a client for a group, in the only way that does not end the process.
"""

from __future__ import annotations

import time

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConsumerGroupDescription

from ..config import Settings
from ..errors import ConfigError
from .login import login

CONNECT_TIMEOUT_S = 15.0
POLL_S = 0.2
COORDINATOR_TIMEOUT_S = 3600.0  # the longest that librdkafka takes: see `describe_group`


def connect_admin(settings: Settings, timeout_s: float | None = None) -> AdminClient:
    """An admin client that the brokers have answered.

    Raises ConfigError, which says what to check: librdkafka does not know a key of KAFKA_CONFIG,
    the login or the certificate is refused, or no broker answers within `timeout_s`.
    """
    timeout_s = timeout_s or CONNECT_TIMEOUT_S
    login(settings)  # refuses what the worker's consumer could not follow
    failures: list[KafkaError] = []
    config = {"client.id": "read-states-admin", "log_level": 0, "error_cb": failures.append}
    try:
        client = AdminClient(settings.librdkafka(**config))
    except KafkaException as exc:
        raise _not_taken(settings, exc) from None
    end = time.monotonic() + timeout_s
    while True:
        try:
            client.list_topics(timeout=POLL_S)
        except KafkaException as exc:
            client.poll(0)
            refused = [error for error in failures if error.code() in _REFUSED]
            if refused:
                raise ConfigError(_refusal(settings, refused[0])) from None
            if time.monotonic() > end:
                raise ConfigError(_silence(settings, timeout_s, failures, exc)) from None
        else:
            return client


def describe_group(client: AdminClient, group: str, timeout_s: float) -> ConsumerGroupDescription:
    """What the group's coordinator says. Raises KafkaException, and TimeoutError after `timeout_s`.

    librdkafka (2.16) ends the process if a request to a coordinator times out while the coordinator
    is away, and the coordinator comes back later. So the request itself must not time out: it ends
    with its client, if it is not answered before.
    """
    asked = client.describe_consumer_groups([group], request_timeout=COORDINATOR_TIMEOUT_S)
    described: ConsumerGroupDescription = asked[group].result(timeout_s)
    return described


_REFUSED = {KafkaError._AUTHENTICATION, KafkaError._SSL, KafkaError.SASL_AUTHENTICATION_FAILED}


def _not_taken(settings: Settings, exc: KafkaException) -> ConfigError:
    """The error without librdkafka's text: a key it does not know may be part of a password."""
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
    causes = [error for error in failures if error.code() != KafkaError._ALL_BROKERS_DOWN]
    first = causes[0] if causes else exc.args[0]
    cause = first.str() or first.name()
    return (
        f"no Kafka answers at {settings.kafka_bootstrap} within {timeout_s:g} s: {cause}. "
        "Check KAFKA_BOOTSTRAP; brokers that want TLS or a login need security.protocol in "
        "KAFKA_CONFIG; or start one: readstates stack up"
    )
