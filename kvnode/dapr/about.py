"""What the gateway says about itself: `/v1.0/metadata` and `GetMetadata`, and the attributes that callers add.

Decides: the facts, and how much callers may add.  Leaves to others: their form on the wire (`http`, `grpc`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kvnode import __version__
from kvnode.dapr import errors
from kvnode.dapr.settings import GatewaySettings

DAPR_VERSION = "1.18.0"
"""The runtime whose API this is."""
CAPABILITIES = ("ETAG", "TTL")
"""What every store can do, in Dapr's words.  TRANSACTIONAL would promise transactions over several keys."""
ATTRIBUTES_MAX = 64
ATTRIBUTE_BYTES_MAX = 4096


class About:
    """The gateway's facts.  The attributes live as long as the process, as in Dapr."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._attributes: dict[str, str] = {}

    @property
    def app_id(self) -> str:
        """The application for which the gateway speaks."""
        return self._settings.app_id

    @property
    def attributes(self) -> Mapping[str, str]:
        """`extended`: what callers have added, and the version of the API."""
        return {**self._attributes, "daprRuntimeVersion": DAPR_VERSION, "kvnodeVersion": __version__}

    @property
    def components(self) -> list[dict[str, Any]]:
        """The stores as Dapr lists components."""
        return [
            {"name": store.name, "type": store.type, "version": store.version, "capabilities": list(CAPABILITIES)}
            for store in self._settings.stores.values()
        ]

    def set(self, name: str, text: str) -> None:
        """Add or replace an attribute.  Raises StateError when there would be too many or too much."""
        if len(name.encode()) + len(text.encode()) > ATTRIBUTE_BYTES_MAX:
            raise errors.malformed(f"an attribute may have {ATTRIBUTE_BYTES_MAX} bytes with its name: send less")
        if name not in self._attributes and len(self._attributes) >= ATTRIBUTES_MAX:
            raise errors.malformed(f"there are {ATTRIBUTES_MAX} attributes, which is the most: replace one of them")
        self._attributes[name] = text

    def facts(self) -> dict[str, Any]:
        """Return the JSON object of `/v1.0/metadata`."""
        return {
            "id": self.app_id,
            "runtimeVersion": DAPR_VERSION,
            "enabledFeatures": [],
            "actors": [],
            "components": self.components,
            "extended": dict(self.attributes),
            "subscriptions": [],
            "httpEndpoints": [],
            "appConnectionProperties": {},
            "actorRuntime": {"runtimeStatus": "DISABLED", "hostReady": False, "activeActors": []},
        }
