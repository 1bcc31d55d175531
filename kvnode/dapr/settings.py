"""What the gateway and the component are told when they start: stores, addresses, limits.

Decides: the names and the units.  Leaves to others: reading them from `cluster.toml`, options and Dapr's component
files (`kvnode.cli`, `resources`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kvclient import Consistency

SEPARATOR = "||"
"""Stands between a prefix and a key, and so in no key that a user gives."""


@dataclass(frozen=True, slots=True)
class DaprStore:
    """One store under the name that Dapr's users say."""

    name: str
    store: str
    """The store of the cluster that holds it."""
    key_prefix: str = ""
    """"" or a text that ends in `SEPARATOR`: put before every key, and taken off again in answers."""
    ttl_s: float | None = None
    """Seconds until a value expires if a request does not say; None: as the cluster is configured; 0: never."""
    consistency: Consistency | None = None
    """Of requests that do not say; None: as the cluster is configured."""
    type: str = "state.kvnode"
    version: str = "v1"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the gateway refuses to hold: every size and number with a limit."""

    body_bytes_max: int = 4 * 1024 * 1024
    """Bytes of one request's body, and of one gRPC message."""
    bodies_bytes_max: int = 256 * 1024 * 1024
    """Bytes of all bodies that are being received or worked on; beyond, a request is refused as overloaded."""
    header_bytes_max: int = 16 * 1024
    """Bytes of a request's line and headers together."""
    connections_max: int = 1024
    requests_in_flight_max: int = 4096
    """Requests accepted and not answered; beyond, a request is refused as overloaded."""
    request_timeout_s: float = 30.0
    """Seconds that a client may take to send one request; then its connection is closed."""
    keep_alive_s: float = 75.0
    """Seconds that an idle connection stays open."""


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """Everything that the gateway's process needs to know."""

    seeds: tuple[str, ...]
    """"host:port" of the cluster's nodes."""
    cluster: str
    """The cluster's name; another one is refused."""
    stores: Mapping[str, DaprStore]
    app_id: str = ""
    host: str = "127.0.0.1"
    http_port: int = 3500
    """0: any free port."""
    grpc_port: int = 50001
    """0: any free port."""
    token: str = ""
    """What callers must send as `dapr-api-token`; "": nothing."""
    allow_shutdown: bool = False
    """Whether a request may stop the gateway (`POST /v1.0/shutdown`)."""
    bounds: Bounds = Bounds()


@dataclass(frozen=True, slots=True)
class ComponentSettings:
    """Everything that the component's process needs to know."""

    seeds: tuple[str, ...]
    """"host:port" of the cluster's nodes."""
    cluster: str
    """The cluster's name; another one is refused."""
    directory: Path
    """Where it keeps what its instances were told; it has the directory for itself."""
    socket: Path | None = None
    """Where it listens; the file's name without `.sock` is the component's.  None: where sidecars look (`sockets`)."""
    socket_mode: int = 0o660
    """Who may connect, as of a file; the sidecar may run as another user of the group."""
    bounds: Bounds = Bounds(body_bytes_max=64 * 1024 * 1024)
    """A sidecar may take larger bodies than the default, and sends several items in one message."""
    drain_s: float = 10.0
    """Seconds that calls under way have to end when it stops."""
