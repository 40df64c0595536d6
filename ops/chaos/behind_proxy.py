"""`readstates worker` whose only way to Cassandra is the campaign's proxy.

The driver learns the nodes' own addresses from Cassandra; it must reach those through the proxy as
well, so each address is translated.
"""

from __future__ import annotations

from cassandra.cluster import Cluster
from cassandra.policies import AddressTranslator

from readstates.streams.cli import main

from .proxy import behind


class BehindProxy(AddressTranslator):  # type: ignore[misc]
    def translate(self, addr: str) -> str:
        return behind(addr)


if __name__ == "__main__":
    Cluster.address_translator = BehindProxy()
    main()
