"""Settings of topics, changed under a service as an operator changes them."""

from __future__ import annotations

from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from .waiting import WAIT_S, until
from .wire import Wire


def setting(wire: Wire, topic: str, name: str) -> str:
    """A setting as the brokers say it."""
    resource = ConfigResource(ResourceType.TOPIC, topic)
    (future,) = wire.admin.describe_configs([resource]).values()
    return str(future.result(WAIT_S)[name].value)


def set_topic(wire: Wire, topic: str, **settings: str | None) -> None:
    """Change settings, `_` for `.`; None: the default. Returns once the brokers say so."""
    wanted = {key.replace("_", "."): value for key, value in settings.items()}
    entries = [
        ConfigEntry(
            key,
            value or "",
            incremental_operation=(
                AlterConfigOpType.DELETE if value is None else AlterConfigOpType.SET
            ),
        )
        for key, value in wanted.items()
    ]
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
    (future,) = wire.admin.incremental_alter_configs([resource]).values()
    future.result(WAIT_S)

    def are_set() -> bool:
        return all(v is None or setting(wire, topic, key) == v for key, v in wanted.items())

    until(are_set, f"{wanted} of {topic}")
