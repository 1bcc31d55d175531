"""What a client is told of a cluster when it connects: its nodes, who owns what, and what the stores and limits are.

Decides: which settings a client sees.  Leaves to others: the configuration itself, and the greeting that carries it.
"""

from __future__ import annotations

from typing import Any

from kvnode.config import Config
from kvnode.service.placement import Placements

_STORE_FIELDS = ("replicas", "q1", "q2", "r", "w", "consistency", "concurrency", "durability", "mix", "ttl_s")
_LIMITS = ("value_bytes_max", "timeout_s", "timeout_s_max", "link_requests_max", "scan_page_max")


def table_for_clients(config: Config, placements: Placements) -> dict[str, Any]:
    """Return the fields that a WELCOME to a client has beside those to a node."""
    stores = config.stores.items()
    return {
        "nodes": [[node.id, node.host, node.port] for node in config.nodes],
        "partitions": config.partitions,
        "preference": [list(order) for order in placements.ring.preference],
        "stores": {name: {field: getattr(store, field) for field in _STORE_FIELDS} for name, store in stores},
        "limits": {name: getattr(config.limits, name) for name in _LIMITS},
    }
