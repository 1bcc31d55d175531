"""Faults of a local cluster, on purpose: kill, pause, resume, restart, partition, heal.

Decides: how they are said.  Leaves to others: doing it (`kvnode.local.supervisor`, `kvnode.local.network`).
"""

from __future__ import annotations

from pathlib import Path

import click

from kvnode.cli import target
from kvnode.cli.operations import config_option, data_dir_option
from kvnode.local import statefile

RESTART_TIMEOUT_S = 700.0
"""A node may take up to `drain_timeout_s` (600 s at most) to stop; the supervisor bounds it and the start."""
ASK_TIMEOUT_S = 100.0


def _ask_about_node(name: str, config: Path | None, data_dir: Path | None, what: str, timeout_s: float) -> None:
    directory = target.find_directory(config, data_dir)
    answer = statefile.ask(directory, timeout_s, do=what, node=name)
    children = [*answer["nodes"], *([answer["gateway"]] if answer["gateway"] else [])]
    state = next(fields for fields in children if fields["id"] == name)
    click.echo(f"{name}: {state['state']}" + (f" (pid {state['pid']})" if state["pid"] else ""))


@click.command()
@click.argument("node_id", metavar="NODE")
@config_option
@data_dir_option
def kill(node_id: str, config: Path | None, data_dir: Path | None) -> None:
    """Kill a node of a local cluster with SIGKILL; it stays down until `kvnode restart`."""
    _ask_about_node(node_id, config, data_dir, "kill", ASK_TIMEOUT_S)


@click.command()
@click.argument("node_id", metavar="NODE")
@config_option
@data_dir_option
def pause(node_id: str, config: Path | None, data_dir: Path | None) -> None:
    """Stop a node of a local cluster in its tracks (SIGSTOP): it keeps its connections and answers nothing."""
    _ask_about_node(node_id, config, data_dir, "pause", ASK_TIMEOUT_S)


@click.command()
@click.argument("node_id", metavar="NODE")
@config_option
@data_dir_option
def resume(node_id: str, config: Path | None, data_dir: Path | None) -> None:
    """Let a paused node of a local cluster go on (SIGCONT)."""
    _ask_about_node(node_id, config, data_dir, "resume", ASK_TIMEOUT_S)


@click.command()
@click.argument("node_id", metavar="NODE")
@config_option
@data_dir_option
def restart(node_id: str, config: Path | None, data_dir: Path | None) -> None:
    """Start a node of a local cluster again, after draining it if it runs; returns when it serves."""
    _ask_about_node(node_id, config, data_dir, "restart", RESTART_TIMEOUT_S)


@click.command()
@click.argument("sides", metavar="A,B/C")
@click.option("--one-way", is_flag=True, help="Lose only what the first side says to the others.")
@config_option
@data_dir_option
def partition(sides: str, one_way: bool, config: Path | None, data_dir: Path | None) -> None:
    """Cut the network between the nodes of a local cluster that was started with `up --proxied`.

    \b
    n1,n2/n3      two sides; so does n3: whoever is not named forms one more side
    n1,n2/n2,n3   a bridge: n2 reaches both
    Two nodes reach each other iff some side has both.  It replaces an earlier partition; `kvnode heal` ends it.
    Clients still reach every node.
    """
    from kvnode.local import partition as partitions

    directory = target.find_directory(config, data_dir)
    names = [node.id for node in statefile.running(directory).nodes]
    cuts = partitions.cuts_of(partitions.sides_of(sides, names), one_way=one_way)
    answer = statefile.ask(directory, ASK_TIMEOUT_S, do="cut", links=sorted(cuts))
    click.echo(f"cut: {partitions.describe(map(tuple, answer['cuts'])) or 'nothing'}; `kvnode heal` mends it")


@click.command()
@config_option
@data_dir_option
def heal(config: Path | None, data_dir: Path | None) -> None:
    """Mend the network of a local cluster: every node reaches every other at full speed."""
    statefile.ask(target.find_directory(config, data_dir), ASK_TIMEOUT_S, do="heal")
    click.echo("every node reaches every other")


COMMANDS = (kill, pause, resume, restart, partition, heal)
