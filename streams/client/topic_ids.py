"""Notices that a topic was deleted and made anew under the same name, by its ID."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

TIMEOUT_S = 5.0  # of a question to the brokers


class TopicIds:
    """The IDs of some topics, as they were seen last. Each look has a client of its own, and blocks
    for up to TIMEOUT_S.
    """

    def __init__(self, config: dict[str, Any], names: Iterable[str]) -> None:
        self._config, self._names = config, list(names)
        self._known: dict[str, str] = {}

    def look(self) -> set[str]:
        """The topics that were made anew since the last look.

        What was known stays for a topic that does not exist, or that the brokers say nothing about.
        """
        admin = AdminClient(self._config)
        asked = admin.describe_topics(TopicCollection(self._names), request_timeout=TIMEOUT_S)
        anew = set[str]()
        for name, future in asked.items():
            try:
                found = str(future.result(TIMEOUT_S + 1).topic_id)
            except (KafkaException, TimeoutError):
                continue
            if self._known.setdefault(name, found) != found:
                anew.add(name)
            self._known[name] = found
        return anew
