"""`kvnode gateway` and `kvnode component`: Dapr's state API in front of a cluster.

Decides: how `cluster.toml`, options, the environment and Dapr's component files become the settings that the API is
handed; an option wins over the file.  Leaves to others: everything else (`kvnode.dapr`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kvnode import config as configuration
from kvnode import schema
from kvnode.cli import target
from kvnode.cli.operations import config_option, data_dir_option

if TYPE_CHECKING:
    from kvnode.config import Config, GatewayConfig
    from kvnode.dapr.settings import Bounds, DaprStore, GatewaySettings

TOKEN_VARIABLE = "DAPR_API_TOKEN"


def _as_in_the_file(context: click.Context, parameter: click.Parameter, text: str | None) -> str | None:
    """Refuse what the cluster file could not say either."""
    if text is not None:
        schema.read_table(configuration.GatewayConfig, {str(parameter.name): text}, "the option")
    return text


@click.command()
@config_option
@data_dir_option
@click.option("--host", callback=_as_in_the_file, help="Address to listen on.  Default: [gateway] host, 127.0.0.1.")
@click.option("--http-port", type=click.IntRange(0, 65535), help="Default: [gateway] http_port, 3500; 0: any.")
@click.option("--grpc-port", type=click.IntRange(0, 65535), help="Default: [gateway] grpc_port, 50001; 0: any.")
@click.option(
    "--app-id",
    callback=_as_in_the_file,
    help="Its keys are prefixed with this, as Dapr does.  Default: [gateway] app_id, none.",
)
@click.option(
    "--resources-path",
    type=click.Path(path_type=Path, file_okay=False),
    help="A directory of Dapr component files: more stores, by their names.",
)
@click.option("--allow-shutdown", is_flag=True, help="Let a request to /v1.0/shutdown stop the gateway.")
def gateway(
    config: Path | None,
    data_dir: Path | None,
    host: str | None,
    http_port: int | None,
    grpc_port: int | None,
    app_id: str | None,
    resources_path: Path | None,
    allow_shutdown: bool,
) -> None:
    """Serve Dapr's state API, HTTP and gRPC, from a cluster.

    Programs in any language use the cluster through it: with Dapr's SDKs, which need no sidecar then, or with plain
    HTTP requests (http://127.0.0.1:3500/docs shows them).  Its stores are those of [stores.*] and
    of the component files.
    If DAPR_API_TOKEN is set, callers must send it as the header dapr-api-token.
    """
    import os

    loaded = configuration.load(target.find_config(config, data_dir))
    table = loaded.gateway
    table = replace(
        table,
        host=table.host if host is None else host,
        http_port=table.http_port if http_port is None else http_port,
        grpc_port=table.grpc_port if grpc_port is None else grpc_port,
        app_id=table.app_id if app_id is None else app_id,
        resources_path=table.resources_path if resources_path is None else str(resources_path),
    )
    settings = _settings(loaded, table, os.environ.get(TOKEN_VARIABLE, ""), allow_shutdown=allow_shutdown)

    import uvloop

    from kvnode.dapr.gateway import run

    uvloop.run(run(settings))


def _settings(config: Config, table: GatewayConfig, token: str, *, allow_shutdown: bool) -> GatewaySettings:
    from kvnode.dapr.settings import GatewaySettings

    return GatewaySettings(
        seeds=tuple(node.address for node in config.nodes),
        cluster=config.cluster_name,
        stores=stores_of(config, table),
        app_id=table.app_id,
        host=table.host,
        http_port=table.http_port,
        grpc_port=table.grpc_port,
        token=token,
        allow_shutdown=allow_shutdown,
        bounds=_bounds(table),
    )


def stores_of(config: Config, table: GatewayConfig) -> dict[str, DaprStore]:
    """Return every store under its Dapr name: those of the cluster file, and over them those of component files."""
    from kvnode.dapr import resources
    from kvnode.dapr.settings import DaprStore

    prefix = resources.key_prefix("appid", "", table.app_id, "")
    stores = {name: DaprStore(name, name, prefix) for name in config.stores}
    if table.resources_path:
        stores |= resources.load(Path(table.resources_path), table.app_id)
    return stores


def _bounds(table: GatewayConfig) -> Bounds:
    from kvnode.dapr.settings import Bounds

    return Bounds(
        body_bytes_max=table.body_bytes_max,
        bodies_bytes_max=table.bodies_bytes_max,
        header_bytes_max=table.header_bytes_max,
        connections_max=table.connections_max,
        requests_in_flight_max=table.requests_in_flight_max,
        request_timeout_s=table.request_timeout_s,
        keep_alive_s=table.keep_alive_s,
    )


@click.command()
@click.option(
    "--socket",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where sidecars connect; default: kvnode.sock in DAPR_COMPONENTS_SOCKETS_FOLDER or"
    " /tmp/dapr-components-sockets.  The file's name is the component's: state.kvnode.",
)
@click.option(
    "--memory",
    type=click.Path(path_type=Path, file_okay=False),
    help="A directory where it keeps what sidecars told it; default: component in the cluster's data directory.",
)
@config_option
@data_dir_option
def component(socket: Path | None, memory: Path | None, config: Path | None, data_dir: Path | None) -> None:
    """Let a Dapr sidecar use a cluster as its state store: a pluggable component at a Unix socket.

    Start it before the sidecar, which looks for sockets once.  A component file for the sidecar says
    `spec.type: state.kvnode`; its metadata may have store, consistency and ttlInSeconds.
    """
    loaded = configuration.load(target.find_config(config, data_dir))

    import uvloop

    from kvnode.dapr.component import run
    from kvnode.dapr.settings import ComponentSettings

    settings = ComponentSettings(
        seeds=tuple(node.address for node in loaded.nodes),
        cluster=loaded.cluster_name,
        directory=memory or loaded.data_dir / "component",
        socket=socket,
    )
    uvloop.run(run(settings))


COMMANDS = (gateway, component)
