"""The command `kvnode`: clusters and nodes are here.

Single operations are in `operations`, whole files in `transfer`, faults in `faults`, Dapr's API in `gateway`.

Decides: options, exit codes, and that every error is one sentence on stderr.  Leaves to others: what is done.

Exit codes: 0 done; 1 not found, or a local cluster or node failed (a port in use, a data directory that is refused);
2 usage or configuration; 3 ETag mismatch; 4 refused, nothing was applied; 5 the outcome is unknown.

`kvnode node` runs through here too, so what only other commands need (rich, the client) is imported when they run.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from kvclient.errors import ConfigError, EtagMismatch, InvalidRequest, KvError
from kvnode import __version__, is_compiled
from kvnode.cli import faults, gateway, operations, show, target, wording
from kvnode.cli.operations import address_option, config_option, data_dir_option, json_option
from kvnode.cli.repair import repair
from kvnode.local import statefile
from kvnode.local.statefile import LocalError

if TYPE_CHECKING:
    from kvnode.config import Config
    from kvnode.local.supervisor import Supervisor

DONE, FAILED, USAGE, MISMATCH, REFUSED, UNKNOWN = range(6)
WATCH_INTERVAL_S = 1.0


class _ReaderGoneError(Exception):
    """Whoever read our output has seen enough."""


class _Commands(click.Group):
    """The commands; a broken pipe, of which click would make exit code 1, is told apart."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise _ReaderGoneError from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, message=f"kvnode %(version)s{' (compiled)' if is_compiled() else ''}")
def cli() -> None:
    """Run, use and look into a replicated key-value store.

    \b
    Exit codes: 0 done, 1 not found (or a local cluster or node failed), 2 usage or configuration,
    3 ETag mismatch, 4 refused (nothing was applied), 5 outcome unknown (it may have been applied).
    """


for _command in (*operations.COMMANDS, repair, *faults.COMMANDS, *gateway.COMMANDS):
    cli.add_command(_command)


def main() -> NoReturn:
    """Run the command line and exit with one of the codes above."""
    try:
        code = cli.main(prog_name="kvnode", standalone_mode=False)
    except BaseException as error:
        code = _exit_code(error)
    _exit(code if isinstance(code, int) else DONE)


def _exit(code: int) -> NoReturn:
    try:
        if sys.stdout is not None:  # it may have been closed
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _exit_code(error: BaseException) -> int:
    """Say what went wrong in one sentence and return the exit code for it; anything unforeseen is raised again."""
    match error:
        case click.exceptions.Exit():
            return error.exit_code
        case click.UsageError():
            hint = f" (try `{error.ctx.command_path} --help`)" if error.ctx else ""
            return _fail(error.format_message().rstrip(".") + hint, USAGE)
        case click.ClickException():
            return _fail(error.format_message(), USAGE)
        case KeyboardInterrupt() | click.Abort():
            return _fail("interrupted", 130)
        case _ReaderGoneError():
            return DONE
        case KvError():
            return _fail(wording.sentence_of(error), _exit_code_of_outcome(error))
        case LocalError():
            return _fail(str(error), FAILED)
        case OSError():
            return _fail(_words_of(error), FAILED)
    # Their modules are not imported for this.
    if type(error).__name__ in ("AddressError", "ProbeError", "StorageError", "DamagedRow"):
        return _fail(str(error), FAILED)
    raise error


def _words_of(error: OSError) -> str:
    if not error.strerror:
        return str(error)
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror


def _exit_code_of_outcome(error: KvError) -> int:
    if isinstance(error, ConfigError | InvalidRequest):
        return USAGE
    if isinstance(error, EtagMismatch):
        return MISMATCH
    return REFUSED if error.outcome == "not applied" else UNKNOWN


def _fail(sentence: str, code: int) -> int:
    click.echo(f"kvnode: {sentence}", err=True)
    return code


# -- nodes and local clusters


accept_data_loss_option = click.option(
    "--accept-data-loss",
    is_flag=True,
    help='Start after the machine was restarted under a store with durability "os", although acknowledged writes may be'
    " lost (docs/protocol.md R48); what may be is printed to stderr.",
)


@cli.command()
@click.argument("node_id", metavar="ID")
@click.option("--config", type=click.Path(path_type=Path), default=Path("cluster.toml"), help="The cluster file.")
@accept_data_loss_option
def node(node_id: str, config: Path, accept_data_loss: bool) -> None:
    """Run one node in the foreground until SIGTERM or Ctrl-C.

    This is what an init system or a container runs.  It logs to stderr.
    """
    from kvnode import config as configuration

    loaded = configuration.load(config)
    loaded.node(node_id)

    import uvloop

    from kvnode.process import run

    uvloop.run(run(loaded, node_id, accept_data_loss=accept_data_loss))


@cli.command()
@click.option("--nodes", type=click.IntRange(1, 64), help="Number of nodes; default: as configured, else 3.")
@click.option("--config", type=click.Path(path_type=Path), help="The cluster file to start; default: see above.")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where data, logs and the configuration of the last start are kept; default: as the cluster file says.",
)
@click.option("--detach", is_flag=True, help="Return when every node serves; stop it with `kvnode down`.")
@click.option("--no-gateway", is_flag=True, help="Do not start the Dapr-compatible API (HTTP on 3500, gRPC on 50001).")
@click.option("--proxied", is_flag=True, help="Link the nodes through proxies, for `kvnode partition`.")
@accept_data_loss_option
def up(
    nodes: int | None,
    config: Path | None,
    data_dir: Path | None,
    detach: bool,
    no_gateway: bool,
    proxied: bool,
    accept_data_loss: bool,
) -> None:
    """Start a cluster on this machine, one process per node and one for the gateway, and supervise it.

    Ctrl-C drains and stops it.  A node that dies is reported and stays down until `kvnode restart`.
    The gateway is Dapr's state API: HTTP on port 3500, gRPC on 50001 ([gateway] in the cluster file).
    The configuration is --config, else what --data-dir was started with before, else ./cluster.toml, else
    three nodes on ports 7401 to 7403 with their data in ./.kvnode.  --accept-data-loss is for this one start of each
    node; `kvnode restart` never hands it on.
    """
    from kvnode.local import plan
    from kvnode.local import supervisor as supervision
    from kvnode.local.network import Network

    planned = plan.make(config, data_dir, nodes)
    start_options = ["--accept-data-loss"] if accept_data_loss else []
    if accept_data_loss:
        logs = planned.data_dir / statefile.LOGS
        click.echo(f"kvnode: a node that may have lost acknowledged writes says in its log in {logs} which", err=True)
    if detach:
        more = [*start_options, *(["--proxied"] if proxied else []), *(["--no-gateway"] if no_gateway else [])]
        _up_detached(planned, config, nodes, more)
        return
    network = Network(planned) if proxied else None
    supervisor = supervision.Supervisor(
        planned, _say, start_options=start_options, network=network, with_gateway=not no_gateway
    )
    code = asyncio.run(supervisor.run(_announce))
    if code == 0:
        _say("stopped")
    sys.exit(code)


def _say(sentence: str) -> None:
    try:
        click.echo(sentence)
    except OSError:  # the terminal or pipe has gone; the cluster goes on
        pass


def _announce(supervisor: Supervisor) -> None:
    children = [child.facts() for child in supervisor.children]
    words = {child.name: child.last_words() for child in supervisor.children}
    if _say_who_serves(supervisor.directory, children, words):
        _say("Ctrl-C stops it")


def _say_who_serves(directory: Path, children: list[statefile.NodeState], words: dict[str, str]) -> bool:
    """Print the table of processes and what those that do not serve said last; return whether any runs."""
    rows = [(child.id, child.state, child.address, child.pid or "-", child.log) for child in children]
    _say(show.table(("node", "state", "address", "pid", "log"), rows))
    for child in children:
        if child.state != "serving":
            reason = words.get(child.id) or " and said nothing"
            click.echo(f"kvnode: {child.id} does not serve{reason}", err=True)
    running = any(child.pid for child in children)
    _say(f"cluster on {directory}" if running else f"no node of the cluster on {directory} could be started")
    return running


def _up_detached(planned: Config, config: Path | None, nodes: int | None, more: list[str]) -> None:
    from kvnode.local import detached

    directory = planned.data_dir
    options = ["--data-dir", str(directory)]
    options += ["--config", str(config.absolute())] if config else []
    options += ["--nodes", str(nodes)] if nodes else []
    answer = detached.start(planned, options + more)
    gateway = [answer["gateway"]] if answer["gateway"] else []
    states = [statefile.NodeState(**fields) for fields in [*answer["nodes"], *gateway]]
    if _say_who_serves(directory, states, answer["last_words"]):
        _say(f"stop it with `kvnode down --data-dir {directory}`")
    if any(state.state != "serving" for state in states):
        sys.exit(FAILED)


@cli.command()
@config_option
@data_dir_option
def down(config: Path | None, data_dir: Path | None) -> None:
    """Drain and stop a cluster that `kvnode up` started."""
    from kvnode.local import detached

    directory = target.find_directory(config, data_dir)
    for sentence in detached.stop(directory):
        click.echo(f"kvnode: {sentence}", err=True)
    _say(f"the cluster on {directory} is stopped")


@cli.command()
@config_option
@address_option
@data_dir_option
@json_option
@click.option("--watch", is_flag=True, help="Show it again every second until Ctrl-C.")
def status(config: Path | None, address: tuple[str, ...], data_dir: Path | None, as_json: bool, watch: bool) -> None:
    """Show every node: state, pid, address, epoch, keys, bytes, clock offset, hints, repairs, load and latency.

    Hints are keys that the node owes to others, which were away: below the table it says to whom, and what was dropped.
    Repairs are keys that were sent to laggards by reads, or taken from others after comparisons of hash trees; compared
    are the comparisons that the node has begun (of two nodes the first begins), and budget is the part in use of what
    it may spend on healing.  Late says how much later than it should the node comes to do things: how busy it is.

    Keys are those of every copy that the node keeps, deleted ones included: counted while they are few, and an estimate
    (~) beyond, in which a key that was written again lately may count twice.  Status questions are no operations.
    Exit code 0 if every node serves, 1 if one does not.
    """
    found = target.find(address, config, data_dir)
    try:
        while True:
            cluster, nodes = asyncio.run(_facts(found))
            _say(_status_text(cluster, nodes, _gateway_state(found), as_json, clear=watch))
            if not watch:
                break
            time.sleep(WATCH_INTERVAL_S)
    except KeyboardInterrupt:
        if watch:  # this is how a watch ends
            return
        raise
    sys.exit(DONE if all(facts["state"] == "serving" for facts in nodes) else FAILED)


def _status_text(
    cluster: str, nodes: list[dict[str, Any]], gateway: statefile.NodeState | None, as_json: bool, clear: bool
) -> str:
    if as_json:
        shown = None if gateway is None else {"state": gateway.state, "pid": gateway.pid, "address": gateway.address}
        return show.as_json({"cluster": cluster or None, "nodes": nodes, "gateway": shown})
    lines = [show.table(show.STATUS_HEADERS, show.status_rows(nodes), turns=True), *show.status_notes(nodes)]
    for facts in nodes:
        if "error" in facts:
            is_named = facts["node"] != facts["address"]  # with --address its name is not known: the error has it
            lines.append(f"{facts['node']}: {facts['error']}" if is_named else facts["error"])
        lines += show.owed_lines(facts)
    if gateway is not None:
        lines.append(f"gateway: {gateway.state} on {gateway.address}")
    return ("\033[H\033[2J" if clear and show.is_terminal(sys.stdout) else "") + "\n".join(lines)


async def _facts(found: target.Target) -> tuple[str, list[dict[str, Any]]]:
    """Return the cluster's name, and what every node says of itself, or what the supervisor and the socket say of one
    that is silent."""
    from kvnode.cli import probe

    answers = await probe.statuses(found.addresses, found.cluster)
    states = _supervised(found)
    facts: list[dict[str, Any]] = []
    cluster = found.cluster
    for name, text, answer in zip(found.names, found.address_texts, answers, strict=True):
        if isinstance(answer, dict):
            cluster = answer.pop("cluster") or cluster
            facts.append({**answer, "address": text})
            continue
        supervised = states.get(name)
        state = supervised.state if supervised and supervised.state != "serving" else answer.state
        pid = supervised.pid if supervised and supervised.is_alive else None
        facts.append({"node": name, "state": state, "pid": pid, "address": text, "error": str(answer)})
    return cluster, facts


def _supervised(found: target.Target) -> dict[str, statefile.NodeState]:
    state = _local_state(found)
    return {node.id: node for node in state.nodes} if state else {}


def _gateway_state(found: target.Target) -> statefile.NodeState | None:
    state = _local_state(found)
    return state.gateway if state else None


def _local_state(found: target.Target) -> statefile.State | None:
    """Return what the supervisor of the cluster says, if it was started by `kvnode up` on this machine and runs."""
    if found.data_dir is None or not statefile.is_supervised(found.data_dir):
        return None
    return statefile.load(found.data_dir)
