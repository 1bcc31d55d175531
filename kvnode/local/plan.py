"""What `kvnode up` is going to start: the effective configuration, made from a file, a data directory and `--nodes`.

Decides: which configuration counts, how nodes are added to or taken from it, and that a data directory keeps the
placement that its data was written under.  Leaves to others: what a valid configuration is (`config`) and starting
anything (`supervisor`).  Planning writes nothing into the data directory.

Precedence: `--config`; else what the given `--data-dir` was started with before; else `./cluster.toml`; else what
`./.kvnode` was started with before; else three nodes on ports 7401 to 7403.
"""

from __future__ import annotations

import errno
import os
import random
import socket
import tempfile
from dataclasses import replace
from pathlib import Path

from kvclient.errors import ConfigError
from kvnode import config as configuration
from kvnode.config import Config, GatewayConfig, NodeConfig
from kvnode.local import statefile
from kvnode.local.statefile import CONFIG_FILE, LOGS, LocalError

DEFAULT_CONFIG = Path("cluster.toml")
DEFAULT_DATA_DIR = Path(".kvnode")
NODES_DEFAULT = 3
FREE_PORTS = range(12_000, 32_000)
"""Below the ports that kernels give to outgoing connections, so that a free one stays free until its node starts."""


def make(file: Path | None = None, data_dir: Path | None = None, nodes: int | None = None) -> Config:
    """Return the configuration that `up` should start; its `data_dir` is absolute.

    Raises ConfigError or LocalError with a sentence for the user.
    """
    source = _source(file, data_dir)
    if source is None:
        config = configuration.local(nodes or NODES_DEFAULT, data_dir or DEFAULT_DATA_DIR)
    else:
        config = configuration.load(source)
    config = replace(config, data_dir=(data_dir or config.data_dir).absolute())
    if nodes is not None:
        config = checked(replace(config, nodes=resized(config.nodes, nodes)))
    _refuse_other_placement(config)
    return config


def _source(file: Path | None, data_dir: Path | None) -> Path | None:
    if file is not None:
        return file
    before = (data_dir / CONFIG_FILE) if data_dir is not None else None
    candidates = (before, DEFAULT_CONFIG, None if data_dir else DEFAULT_DATA_DIR / CONFIG_FILE)
    return next((path for path in candidates if path is not None and path.exists()), None)


def checked(config: Config) -> Config:
    """Return `config` if it could have come from a file.  Raises ConfigError."""
    with tempfile.TemporaryDirectory(prefix="kvnode-") as directory:
        path = Path(directory) / CONFIG_FILE
        path.write_text(config.to_toml(), encoding="utf-8")
        try:
            return configuration.load(path)
        except ConfigError as error:
            raise ConfigError(str(error).removeprefix(f"{path}: ")) from error


def resized(nodes: tuple[NodeConfig, ...], count: int) -> tuple[NodeConfig, ...]:
    """Return `count` nodes: the first ones, or all of them and new ones on this machine, on the ports above theirs."""
    names = {node.id for node in nodes}
    zones = sorted({node.zone for node in nodes})
    free = (f"n{number}" for number in range(1, count + len(nodes) + 1) if f"n{number}" not in names)
    port = max(node.port for node in nodes)
    added = (
        NodeConfig(next(free), "127.0.0.1", port + i, zones[i % len(zones)]) for i in range(1, count - len(nodes) + 1)
    )
    return (*nodes[:count], *added)


def on_free_ports(config: Config) -> Config:
    """Return `config` with every node and the gateway on 127.0.0.1 and ports that nobody listens on now."""
    http_port, grpc_port, *ports = free_ports(len(config.nodes) + 2)
    moved = (replace(node, host="127.0.0.1", port=port) for node, port in zip(config.nodes, ports, strict=True))
    gateway = replace(config.gateway, host="127.0.0.1", http_port=http_port, grpc_port=grpc_port)
    return replace(config, nodes=tuple(moved), gateway=gateway)


def free_ports(count: int) -> list[int]:
    """Return distinct ports of 127.0.0.1 that nobody listens on now."""
    ports: list[int] = []
    for port in random.sample(FREE_PORTS, len(FREE_PORTS)):
        try:
            listen_once("127.0.0.1", port)
        except OSError:
            continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise LocalError(f"{count} free ports between {FREE_PORTS.start} and {FREE_PORTS.stop} were not found")


def _refuse_other_placement(config: Config) -> None:
    """Refuse to start old data under a configuration that puts or counts its copies differently."""
    before = config.data_dir / CONFIG_FILE
    if not before.exists():
        return
    try:
        started_with = configuration.load(before)
    except ConfigError as error:
        raise LocalError(f"an earlier `kvnode up` left a configuration that cannot be read now: {error}") from error
    stores = {"default", *config.stores, *started_with.stores}
    old, new = placement(started_with, stores), placement(config, stores)
    for name, value in new.items():
        if old[name] != value:
            raise LocalError(
                f"{config.data_dir} holds data of a cluster with {name} = {old[name]}, not {value}, and changing that"
                " would lose data: keep it, or choose another --data-dir"
            )


def placement(config: Config, stores: set[str]) -> dict[str, str]:
    """Return what decides where copies are and how many answers count: it is fixed for the life of the data."""
    nodes = sorted(config.nodes, key=lambda node: node.id)
    facts = {
        "cluster name": config.cluster_name,
        "partitions": str(config.partitions),
        "nodes": ", ".join(node.id for node in nodes),
        "zones and weights": ", ".join(f"{node.id} {node.zone or '-'} {node.weight:g}" for node in nodes),
    }
    for name in sorted(stores):
        store = config.store(name)
        facts[f"replicas, q1, q2 of store {name}"] = f"{store.replicas}, {store.q1}, {store.q2}"
    return facts


def check_addresses(config: Config, *, with_gateway: bool = False) -> None:
    """Raise LocalError if an address is taken, or is not one of this machine."""
    for node in config.nodes:
        try:
            listen_once(node.host, node.port)
        except OSError as error:
            raise LocalError(_address_trouble(node, error)) from error
    if with_gateway:
        _check_gateway_addresses(config.gateway)


def _check_gateway_addresses(gateway: GatewayConfig) -> None:
    for key in ("http_port", "grpc_port"):
        number = getattr(gateway, key)
        try:
            listen_once(gateway.host, number)
        except OSError as error:
            reason = "is taken by another process" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
            raise LocalError(
                f"the gateway cannot listen on {gateway.host}:{number}: it {reason}; set [gateway] {key} in the cluster"
                " file, or start with --no-gateway"
            ) from error


def _address_trouble(node: NodeConfig, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port in use: {node.address} of node {node.id} is taken by another process; stop that or change the port"
        )
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return (
            f"{node.address} of node {node.id} is not an address of this machine: "
            f"`kvnode up` starts local nodes only; start {node.id} there with `kvnode node {node.id}`"
        )
    return f"cannot listen on {node.address} of node {node.id}: {error.strerror or error}"


def listen_once(host: str, port: int) -> None:
    """Listen on an address for a moment.  Raises OSError if that is not possible."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1)


def prepare(config: Config, *, with_gateway: bool = False) -> None:
    """Make the data directory if nothing stands in the way of a start.  Raises LocalError, having made nothing."""
    statefile.refuse_second(config.data_dir)
    check_addresses(config, with_gateway=with_gateway)
    prepare_directory(config.data_dir)


def prepare_directory(directory: Path) -> None:
    """Create the data directory and its logs.  Raises LocalError if it cannot be written."""
    try:
        (directory / LOGS).mkdir(parents=True, exist_ok=True)
        if not os.access(directory, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise LocalError(
            f"cannot write the data directory {directory}: {error.strerror}; choose another --data-dir"
        ) from error
