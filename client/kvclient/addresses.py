"""Where the nodes are, in the forms that a caller may say it: addresses, or the cluster's configuration file.

Decides: what an address looks like.  Of `cluster.toml` only `[[nodes]]` host and port and `[cluster]` name are read, so
a file with keys of a newer version serves a client all the same.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from kvclient.errors import ConfigError, InvalidRequest

_PORT_MAX = 65535


class Address(NamedTuple):
    """Where one node listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Seeds(NamedTuple):
    """Where to begin, and the cluster's name if it is known ("": any)."""

    addresses: tuple[Address, ...]
    cluster: str


def seeds_of(where: str | os.PathLike[str] | Iterable[str]) -> Seeds:
    """Return what `where` names: "host:port", several with commas, an iterable of them, or a path to cluster.toml.

    Raises InvalidRequest for what is no address and ConfigError for what is wrong in the file.
    """
    if isinstance(where, os.PathLike):
        return _seeds_of_file(Path(where))
    if isinstance(where, str):
        if where.endswith(".toml"):
            return _seeds_of_file(Path(where))
        where = where.split(",")
    try:
        addresses = tuple(dict.fromkeys(_address(text) for text in where))
    except TypeError as error:
        raise InvalidRequest(f"{where!r:.80} is neither addresses (host:port) nor a path to cluster.toml") from error
    if not addresses:
        raise InvalidRequest("no address is given: name at least one node as host:port")
    return Seeds(addresses, "")


def _address(text: object) -> Address:
    if not isinstance(text, str):
        raise InvalidRequest(f"an address must be str, not {text!r:.80}")
    host, colon, port = text.strip().rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not _is_port(port):
        raise InvalidRequest(f"the address {text!r:.80} is not host:port with a port of 1 to {_PORT_MAX}")
    return Address(host, int(port))


def _is_port(text: str) -> bool:
    return len(text) <= 5 and text.isascii() and text.isdigit() and 0 < int(text) <= _PORT_MAX


def _seeds_of_file(path: Path) -> Seeds:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    nodes = table.get("nodes")
    if not isinstance(nodes, list) or not nodes:
        raise ConfigError(f"{path} names no [[nodes]]: a client needs host and port of at least one")
    cluster = table.get("cluster", {})
    name = cluster.get("name", "") if isinstance(cluster, dict) else None
    if not isinstance(name, str):
        raise ConfigError(f"{path}: [cluster] name must be a string, not {name!r:.80}")
    return Seeds(tuple(_address_of_node(path, node) for node in nodes), name)


def _address_of_node(path: Path, node: Any) -> Address:
    host, port = (node.get("host"), node.get("port")) if isinstance(node, dict) else (None, None)
    if not isinstance(host, str) or not host or type(port) is not int or not 0 < port <= _PORT_MAX:
        raise ConfigError(f"{path}: [[nodes]] with host {host!r:.80} and port {port!r:.80} is no address")
    return Address(host, port)
