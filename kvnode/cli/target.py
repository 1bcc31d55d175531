"""Which cluster a command means: `--address`, `--config`, `--data-dir`, or what is found in the current directory.

Decides: the order of these, that two which contradict each other are refused, and that the cluster that runs on a data
directory is described by the configuration that it was started with (`up --nodes 5` adds nodes that no file names).
Leaves to others: connecting.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kvclient.addresses import Address, seeds_of
from kvclient.errors import InvalidRequest
from kvnode import config as configuration
from kvnode.local import plan, statefile
from kvnode.local.statefile import LocalError


@dataclass(frozen=True, slots=True)
class Target:
    """A cluster: its addresses, and its name and nodes' names as far as they are known."""

    addresses: tuple[Address, ...]
    names: tuple[str, ...]
    cluster: str = ""
    data_dir: Path | None = None

    @property
    def address_texts(self) -> tuple[str, ...]:
        """The addresses as people write them."""
        return tuple(map(str, self.addresses))


def find(addresses: tuple[str, ...] = (), config: Path | None = None, data_dir: Path | None = None) -> Target:
    """Return the cluster that these options name.  Raises InvalidRequest, ConfigError or LocalError."""
    if addresses:
        if config is not None or data_dir is not None:
            other = "--config" if config is not None else "--data-dir"
            raise InvalidRequest(f"--address and {other} both say which cluster is meant: give one of them")
        seeds = seeds_of(addresses).addresses
        return Target(seeds, tuple(str(seed) for seed in seeds))
    return from_file(find_config(config, data_dir))


def find_config(config: Path | None, data_dir: Path | None) -> Path:
    """Return the configuration file that counts.  Raises LocalError if there is none, InvalidRequest for two."""
    _check_one_cluster(config, data_dir)
    if data_dir is not None:
        path = data_dir / statefile.CONFIG_FILE
        if not path.exists():
            raise LocalError(
                f"no cluster was ever started on {data_dir}: start one with `kvnode up`, or give --address"
            )
        return path
    path = config or plan.DEFAULT_CONFIG
    if config is None and not path.exists():
        path = plan.DEFAULT_DATA_DIR / statefile.CONFIG_FILE
        if not path.exists():
            raise LocalError("which cluster? give --config or --address, or start one here with `kvnode up`")
    return _effective(path)


def _check_one_cluster(config: Path | None, data_dir: Path | None) -> None:
    """Raise InvalidRequest if a file and a data directory name different clusters; `up` may have joined the two."""
    if config is None or data_dir is None or not (data_dir / statefile.CONFIG_FILE).exists():
        return
    said, started = from_file(config), from_file(data_dir / statefile.CONFIG_FILE)
    nodes = dict(zip(said.names, said.addresses, strict=True))
    shared = [
        nodes[name] == address for name, address in zip(started.names, started.addresses, strict=True) if name in nodes
    ]
    if said.cluster != started.cluster or not shared or not all(shared):
        raise InvalidRequest(
            f"--config {config} and --data-dir {data_dir} name different clusters: give the one that is meant"
        )


def _effective(path: Path) -> Path:
    """Return what the cluster that runs on this configuration's data directory was started with, if one runs there."""
    directory = configuration.load(path).data_dir
    effective = directory / statefile.CONFIG_FILE
    return effective if statefile.is_supervised(directory) and effective.exists() else path


def from_file(path: Path) -> Target:
    """Return the cluster that a configuration file describes.  Raises ConfigError."""
    config = configuration.load(path)
    addresses = tuple(Address(node.host, node.port) for node in config.nodes)
    return Target(addresses, tuple(node.id for node in config.nodes), config.cluster_name, config.data_dir)


def find_directory(config: Path | None, data_dir: Path | None) -> Path:
    """Return the data directory of the local cluster that these options name.  Raises ConfigError, InvalidRequest."""
    _check_one_cluster(config, data_dir)
    if data_dir is not None:
        return data_dir.absolute()
    path = config or (plan.DEFAULT_CONFIG if plan.DEFAULT_CONFIG.exists() else None)
    return (configuration.load(path).data_dir if path else plan.DEFAULT_DATA_DIR).absolute()
