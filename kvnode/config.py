"""Configuration: a cluster file becomes one frozen, validated `Config`, or one sentence that says why not.

Decides: every name, default, unit and bound of `cluster.toml`, and which combinations are unsafe (R26: q1 + q2 > N).
Leaves to others: everything that is done with the values.  The dataclass defaults below are the only defaults.

Invariants: a `Config` that `load` or `local` returned is consistent; nothing changes it later; each room receives the
part that it needs and none reads the file again.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from kvclient.errors import ConfigError
from kvclient.wire.values import STORE_BYTES_MAX, TTL_MS_MAX
from kvnode.schema import check_keys, check_mapping, choice, integer, number, port, read_table, table_fields, text

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
DEFAULT_STORE = "default"
DAPR_STORE = "statestore"
"""The store that Dapr's own examples use."""
LOCAL_PORT = 7401
NODES_MAX = 64
"""Every node keeps a link to every other, and every client one to each: more than this wants another topology."""
_DERIVED_MAX = 1024
_NODE_ID = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Limits:
    """Every queue, size and timeout of a node.  At a bound a request is refused at once, before anything was sent."""

    value_bytes_max: int = integer(8 * MIB, KIB, 64 * MIB, "bytes")
    connections_max: int = integer(1024, 8, 65536)
    requests_in_flight_max: int = integer(16384, 16, 1 << 20)
    link_requests_max: int = integer(4096, 1, 1 << 20)
    key_queue_max: int = integer(1024, 1, 65536)
    outbox_bytes_max: int = integer(64 * MIB, MIB, 4 * GIB, "bytes")
    registers_max: int = integer(65536, 64, 1 << 24)
    register_bytes_max: int = integer(64 * MIB, MIB, 64 * GIB, "bytes")
    cached_promises_max: int = integer(65536, 0, 1 << 24)
    block_cache_bytes: int = integer(0, 0, TIB, "bytes")
    write_buffer_bytes: int = integer(32 * MIB, MIB, GIB, "bytes")
    disk_reserve_bytes: int = integer(64 * MIB, 0, TIB, "bytes")
    scan_page_max: int = integer(1000, 1, 100_000)
    handshake_timeout_s: float = number(5.0, 0.1, 60, "seconds")
    frame_timeout_s: float = number(30.0, 0.1, 3600, "seconds")
    timeout_s: float = number(5.0, 0.01, 3600, "seconds")
    timeout_s_max: float = number(3600.0, 0.01, 3600, "seconds")
    max_offset_ms: int = integer(500, 10, 60_000, "milliseconds")
    reconnect_min_s: float = number(0.05, 0.001, 60, "seconds")
    reconnect_max_s: float = number(2.0, 0.001, 600, "seconds")
    heartbeat_s: float = number(1.0, 0.05, 60, "seconds")
    link_silence_s: float = number(5.0, 0.1, 600, "seconds")
    round_timeout_s: float = number(1.0, 0.01, 60, "seconds")
    backoff_min_s: float = number(0.002, 0.0001, 60, "seconds")
    backoff_max_s: float = number(0.25, 0.0001, 60, "seconds")
    hedge_min_s: float = number(0.002, 0.0001, 60, "seconds")
    hedge_max_s: float = number(0.1, 0.0001, 60, "seconds")
    commit_delay_s: float = number(0.02, 0, 10, "seconds")
    drain_timeout_s: float = number(10.0, 0, 600, "seconds")
    resolve_after_s: float = number(1.0, 0.1, 3600, "seconds")
    undecided_max: int = integer(65536, 64, 1 << 24)
    purge_keys_max: int = integer(16384, 64, 1 << 24)
    scan_pause_s: float = number(600.0, 1, 7 * 86_400, "seconds")
    repair_bytes_per_s: int = integer(16 * MIB, 64 * KIB, TIB, "bytes")
    repair_interval_s: float = number(600.0, 0.1, 30 * 86_400, "seconds")
    tree_rebuild_s: float = number(7 * 86_400.0, 1.0, 365 * 86_400, "seconds")
    tree_leaves_max: int = integer(1 << 20, 1 << 12, 1 << 26)
    repair_operations_per_s: int = integer(6000, 10, 1 << 20)
    hint_bytes_max: int = integer(256 * MIB, 0, TIB, "bytes")
    hints_max: int = integer(262_144, 1, 1 << 24)
    hint_age_s: float = number(10_800.0, 1, 86_400, "seconds")

    @cached_property
    def frame_bytes_max(self) -> int:
        """Bytes of one frame: a promise carries up to three bodies and a window, and there is a header."""
        return 4 * self.value_bytes_max + MIB


@dataclass(frozen=True)
class NodeConfig:
    """One node of the cluster file."""

    id: str = text(1, 64)
    host: str = text(1, 255)
    port: int = port()
    zone: str = text(0, 64, "")
    weight: float = number(1.0, 0.01, 100)

    @property
    def address(self) -> str:
        """The node's address as people write it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class StoreConfig:
    """One store's settings.  A quorum of 0 is made the majority of `replicas`."""

    name: str = DEFAULT_STORE
    replicas: int = integer(3, 1, 7)
    q1: int = integer(0, 1, 7)
    q2: int = integer(0, 1, 7)
    r: int = integer(1, 1, 7)
    w: int = integer(1, 1, 7)
    consistency: str = choice("eventual", "quorum", "strong")
    concurrency: str = choice("last-write", "first-write")
    durability: str = choice("fsync", "os")
    mix: str = choice("allow", "strong-only")
    ttl_s: int = integer(0, 0, TTL_MS_MAX // 1000, "seconds", key="ttl")
    gc_grace_s: int = integer(86_400, 60, 365 * 86_400, "seconds", key="gc_grace")

    def __post_init__(self) -> None:
        """Fill the quorums that were left to us."""
        for quorum in ("q1", "q2"):
            if not getattr(self, quorum):
                object.__setattr__(self, quorum, self.majority)

    @property
    def majority(self) -> int:
        """More than half of the replicas."""
        return self.replicas // 2 + 1


@dataclass(frozen=True)
class GatewayConfig:
    """The [gateway] table: where the Dapr-compatible API listens, and what it refuses to hold."""

    host: str = text(1, 255, "127.0.0.1")
    http_port: int = port(3500)
    grpc_port: int = port(50001)
    app_id: str = text(0, 64, "")
    resources_path: str = text(0, 4096, "")
    body_bytes_max: int = integer(4 * MIB, KIB, 64 * MIB, "bytes")
    bodies_bytes_max: int = integer(256 * MIB, MIB, 64 * GIB, "bytes")
    header_bytes_max: int = integer(16 * KIB, KIB, MIB, "bytes")
    connections_max: int = integer(1024, 1, 65536)
    requests_in_flight_max: int = integer(4096, 1, 1 << 20)
    request_timeout_s: float = number(30.0, 0.1, 3600, "seconds")
    keep_alive_s: float = number(75.0, 0.1, 3600, "seconds")

    @property
    def address(self) -> str:
        """Where it listens, as people write it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.http_port}, grpc {host}:{self.grpc_port}"


@dataclass(frozen=True)
class _ClusterTable:
    """The [cluster] table as the file has it."""

    name: str = text(1, 64)
    partitions: int = integer(256, 1, 4096)
    data_dir: str = text(1, 4096, ".kvnode")


@dataclass(frozen=True)
class Config:
    """A whole cluster file, validated."""

    cluster_name: str
    nodes: tuple[NodeConfig, ...]
    data_dir: Path
    partitions: int = _ClusterTable.partitions
    stores: Mapping[str, StoreConfig] = field(default_factory=lambda: {DEFAULT_STORE: StoreConfig()})
    limits: Limits = Limits()
    gateway: GatewayConfig = GatewayConfig()
    _derived: dict[str, StoreConfig] = field(default_factory=dict, init=False, compare=False, repr=False)

    def store(self, name: str) -> StoreConfig:
        """Return a store's settings; one that the file does not name has those of [stores.default]."""
        found = self.stores.get(name) or self._derived.get(name)
        if found is None:
            if len(self._derived) >= _DERIVED_MAX:  # clients choose the names: forget rather than grow
                self._derived.clear()
            found = self._derived[name] = replace(self.stores[DEFAULT_STORE], name=name)
        return found

    def node(self, node_id: str) -> NodeConfig:
        """Return the node with that id.  Raises ConfigError."""
        return self.nodes[self.node_index(node_id)]

    def node_index(self, node_id: str) -> int:
        """Return the position of a node in the file.  Raises ConfigError."""
        for index, node in enumerate(self.nodes):
            if node.id == node_id:
                return index
        names = ", ".join(node.id for node in self.nodes)
        raise ConfigError(f'there is no node "{node_id}" in the cluster "{self.cluster_name}"; its nodes are {names}')

    def to_toml(self) -> str:
        """Return a cluster file that `load` reads back as this same configuration; `data_dir` becomes absolute."""
        cluster = {"name": self.cluster_name, "partitions": self.partitions, "data_dir": str(self.data_dir.absolute())}
        tables = [("[cluster]", cluster)]
        tables += [("[[nodes]]", _file_keys(node)) for node in self.nodes]
        tables += [(f"[stores.{_toml(name)}]", _file_keys(store)) for name, store in self.stores.items()]
        tables += [("[gateway]", _file_keys(self.gateway)), ("[limits]", _file_keys(self.limits))]
        lines = [line for head, keys in tables for line in ("", head, *(f"{k} = {_toml(v)}" for k, v in keys.items()))]
        return "\n".join(lines[1:]) + "\n"


def load(path: str | Path) -> Config:
    """Return the configuration that a cluster file holds; a relative `data_dir` is relative to the file's folder.

    Raises ConfigError, whose text names the file, the key, the value and what is expected.
    """
    path = Path(path)
    try:
        return _from_tables(_parsed(path), path.parent)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def local(nodes: int, data_dir: str | Path = ".kvnode", *, port: int = LOCAL_PORT, name: str = "local") -> Config:
    """Return a configuration for `nodes` nodes on this machine, on consecutive ports, each in a zone of its own.

    Keys have three copies, or one for each node if there are fewer.  Raises ConfigError.
    """
    limit = min(NODES_MAX, 65536 - port)
    if not 1 <= nodes <= limit:
        raise ConfigError(f"{nodes} nodes from port {port} are not possible; 1 to {limit} are")
    made = tuple(NodeConfig(f"n{i}", "127.0.0.1", port + i - 1, f"zone{i}") for i in range(1, nodes + 1))
    store = StoreConfig(replicas=min(StoreConfig.replicas, nodes))
    stores = {DEFAULT_STORE: store, DAPR_STORE: replace(store, name=DAPR_STORE)}
    return _checked(Config(name, made, Path(data_dir), stores=stores))


def _parsed(path: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ConfigError("there is no such file; name a cluster file with --config") from error
    except OSError as error:
        raise ConfigError(f"the file cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the file is not UTF-8: {error.reason} at byte {error.start}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"not valid TOML: {error}") from error


def _from_tables(raw: Mapping[str, Any], folder: Path) -> Config:
    check_keys(raw, ("cluster", "nodes", "stores", "gateway", "limits"), "top level")
    if "cluster" not in raw:
        raise ConfigError("the table [cluster] with the cluster's name is missing")
    cluster = _ClusterTable(**_read(_ClusterTable, raw["cluster"], "[cluster]"))
    config = Config(
        cluster_name=cluster.name,
        nodes=_nodes(raw.get("nodes", [])),
        data_dir=folder / cluster.data_dir,
        partitions=cluster.partitions,
        stores=_stores(check_mapping(raw.get("stores", {}), "[stores]")),
        limits=Limits(**_read(Limits, raw.get("limits", {}), "[limits]")),
        gateway=_gateway(raw.get("gateway", {}), folder),
    )
    return _checked(config)


def _read(table: type, raw: object, where: str) -> dict[str, Any]:
    return read_table(table, check_mapping(raw, where), where)


def _nodes(raw: object) -> tuple[NodeConfig, ...]:
    if not isinstance(raw, list):
        raise ConfigError("nodes is one table; write [[nodes]], with two brackets, before each node")
    return tuple(NodeConfig(**_read(NodeConfig, table, f"[[nodes]] number {i}")) for i, table in enumerate(raw, 1))


def _gateway(raw: object, folder: Path) -> GatewayConfig:
    gateway = GatewayConfig(**_read(GatewayConfig, raw, "[gateway]"))
    if not gateway.resources_path:
        return gateway
    return replace(gateway, resources_path=str((folder / gateway.resources_path).absolute()))


def _stores(raw: Mapping[str, Any]) -> dict[str, StoreConfig]:
    """Return the stores; each starts from what [stores.default] sets, not from what that resolves to (quorums)."""
    shared = _read(StoreConfig, raw.get(DEFAULT_STORE, {}), f"[stores.{DEFAULT_STORE}]")
    stores = {DEFAULT_STORE: StoreConfig(**shared)}
    for name, table in raw.items():
        own = _read(StoreConfig, table, f"[stores.{name}]")
        stores[name] = StoreConfig(**{**shared, **own, "name": name})
    return stores


def _checked(config: Config) -> Config:
    """Return `config` if its parts fit together.  Raises ConfigError with the arithmetic."""
    _check_nodes(config.nodes)
    for store in config.stores.values():
        _check_store(store, len(config.nodes))
        _check_grace(store, config.limits)
    _check_limits(config.limits)
    _check_gateway(config.gateway, config.nodes)
    return config


def _check_nodes(nodes: tuple[NodeConfig, ...]) -> None:
    if not 1 <= len(nodes) <= NODES_MAX:
        raise ConfigError(f"the file names {len(nodes)} nodes; 1 to {NODES_MAX} tables [[nodes]] are expected")
    for node in nodes:
        if not _NODE_ID.fullmatch(node.id):
            raise ConfigError(f'[[nodes]] id = "{node.id}" is not a name; use letters, digits, ".", "_" and "-"')
        if any(c.isspace() for c in node.host):
            raise ConfigError(
                f'[[nodes]] "{node.id}" host = "{node.host}" has spaces; a name or an address is expected'
            )
    if (twice := _first_twice(node.id for node in nodes)) is not None:
        raise ConfigError(f'two [[nodes]] have the id "{twice}"; every node needs an id of its own')
    if (twice := _first_twice(_address(node.host, node.port) for node in nodes)) is not None:
        both = " and ".join(node.id for node in nodes if _address(node.host, node.port) == twice)
        raise ConfigError(f"{both} have the same address {twice}; every node needs a port of its own on its host")


def _address(host: str, port: int) -> str:
    return f"{'127.0.0.1' if host.lower() == 'localhost' else host.lower()}:{port}"


def _first_twice(names: Iterable[str]) -> str | None:
    return next((name for name, times in Counter(names).items() if times > 1), None)


def _check_store(store: StoreConfig, nodes: int) -> None:
    where, n = f"[stores.{store.name}]", store.replicas
    if not 1 <= len(store.name.encode()) <= STORE_BYTES_MAX or "\0" in store.name:
        raise ConfigError(f"{where}: a store's name has 1 to {STORE_BYTES_MAX} bytes of UTF-8 and no NUL")
    if n > nodes:
        raise ConfigError(f"{where} replicas = {n} is more than the {nodes} nodes; add nodes or keep fewer copies")
    for key in ("q1", "q2", "r", "w"):
        if getattr(store, key) > n:
            raise ConfigError(
                f"{where} {key} = {getattr(store, key)} is more than replicas = {n}; 1 to {n} is expected"
            )
    if store.q1 + store.q2 <= n:
        raise ConfigError(
            f"{where} q1 + q2 = {store.q1} + {store.q2} = {store.q1 + store.q2} <= replicas = {n}: two quorums could"
            f" miss each other and lose a strong write; q1 + q2 must be at least {n + 1}"
        )


def _check_grace(store: StoreConfig, limits: Limits) -> None:
    """R37: what a link held back must not come out when the delete that it would undo is forgotten."""
    if limits.link_silence_s > store.gc_grace_s / 2:
        raise ConfigError(
            f"[stores.{store.name}] gc_grace = {store.gc_grace_s} is less than twice [limits] link_silence_s ="
            f" {limits.link_silence_s:g}: what a stalled link still holds could bring a purged key back; raise gc_grace"
            " or lower link_silence_s"
        )


def _check_limits(limits: Limits) -> None:
    for low, high in (
        ("timeout_s", "timeout_s_max"),
        ("reconnect_min_s", "reconnect_max_s"),
        ("backoff_min_s", "backoff_max_s"),
        ("hedge_min_s", "hedge_max_s"),
        ("heartbeat_s", "link_silence_s"),
        ("frame_bytes_max", "outbox_bytes_max"),
    ):
        smaller, larger = getattr(limits, low), getattr(limits, high)
        if smaller > larger:
            why = " (4 * value_bytes_max + 1 MiB)" if low == "frame_bytes_max" else ""
            raise ConfigError(f"[limits] {low} = {smaller}{why} is more than {high} = {larger}; raise {high}")


def _check_gateway(gateway: GatewayConfig, nodes: tuple[NodeConfig, ...]) -> None:
    taken = {_address(node.host, node.port): f"the port of node {node.id}" for node in nodes}
    for key in ("http_port", "grpc_port"):
        address = _address(gateway.host, getattr(gateway, key))
        if address in taken:
            raise ConfigError(f"[gateway] {key} = {getattr(gateway, key)} is {taken[address]} too; choose another")
        taken[address] = f"[gateway] {key}"
    if gateway.bodies_bytes_max < gateway.body_bytes_max:
        raise ConfigError(
            f"[gateway] bodies_bytes_max = {gateway.bodies_bytes_max} is less than body_bytes_max ="
            f" {gateway.body_bytes_max}; all bodies together must have room for one"
        )


def _file_keys(table: object) -> dict[str, Any]:
    return {key: getattr(table, item.name) for key, (item, _) in table_fields(type(table)).items()}


def _toml(value: object) -> str:
    if isinstance(value, str):  # JSON's escapes are TOML's, but TOML wants DEL escaped too
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
