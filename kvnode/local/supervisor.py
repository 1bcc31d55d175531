"""A cluster on this machine: one process per node, supervised.

Decides: how node processes are started, watched, hurt on request and stopped, and what is said about each.  Leaves to
others: the configuration (`plan`), the state file and the control protocol's bytes (`statefile`), the network between
nodes if it can be hurt (`network`), and what a node is.

A node that dies is reported and stays dead until somebody asks for it: a supervisor that restarted nodes by itself
would hide what a replicated store must show.  Nodes run in sessions of their own, so a Ctrl-C reaches only the
supervisor, which then drains them; they log to files of their own, so they also outlive a supervisor that was killed,
and `kvnode down` then stops them by their recorded process ids.

Invariants: one supervisor per data directory; only its own children are signalled, and never after they were reaped;
every process that it started is gone when `run` returns.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from kvnode.config import Config, NodeConfig
from kvnode.local import plan, statefile
from kvnode.local.network import Network
from kvnode.local.statefile import LocalError, NodeState

POLL_S = 0.05
START_TIMEOUT_S = 60.0
"""A node that does not serve by then is reported; it may still come (a large log to replay, peers that are missing)."""
STOP_GRACE_S = 5.0
"""On top of the node's own drain timeout, before it is killed."""
LOG_LINES = 5

Say = Callable[[str], None]
Command = Callable[[str, Path], list[str]]
Phase = Literal["starting", "serving", "paused", "stopping", "down"]


def node_command(node_id: str, config_path: Path) -> list[str]:
    """Return the command line of one node process."""
    return [sys.executable, "-m", "kvnode", "node", node_id, "--config", str(config_path)]


class NodeProcess:
    """One node: its log and its current process, if any."""

    def __init__(self, config: NodeConfig, directory: Path) -> None:
        self.config = config
        self.log = directory / statefile.LOGS / f"{config.id}.log"
        self.phase: Phase = "down"
        self.settled = asyncio.Event()
        """Set once the current process serves or has gone."""
        self.gone = asyncio.Event()
        """Set while there is no process."""
        self.gone.set()
        self._process: asyncio.subprocess.Process | None = None
        self._started = ""
        self._log_from = 0

    @property
    def pid(self) -> int:
        """The process id, 0 if the node does not run."""
        return self._process.pid if self._process is not None and self._process.returncode is None else 0

    def facts(self) -> NodeState:
        """Return what the state file says of this node."""
        pid = self.pid
        return NodeState(
            self.config.id, self.config.address, pid, self._started if pid else "", self.phase, str(self.log)
        )

    async def start(self, command: list[str], variables: Mapping[str, str]) -> None:
        """Start the process with more environment variables; its output is appended to the log."""
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", **variables}
        with self.log.open("ab") as log:
            self._log_from = log.tell()
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        self._started = statefile.process_started(self._process.pid) or ""
        self.phase = "starting"
        self.settled.clear()
        self.gone.clear()

    async def watch(self, say: Say, changed: Callable[[], None]) -> None:
        """Follow the current process to its end and say what becomes of it."""
        process = self._process
        assert process is not None
        while process.returncode is None and not self._has_said_that_it_serves():  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)
        if process.returncode is None:
            self.phase = "serving" if self.phase == "starting" else self.phase
            self.settled.set()
            changed()
        code = await process.wait()
        expected, self.phase = self.phase == "stopping", "down"
        self.settled.set()
        self.gone.set()
        changed()
        if not expected:
            say(self.epitaph(process.pid, code))

    def _has_said_that_it_serves(self) -> bool:
        wanted = f"kvnode {self.config.id} serves on "
        return any(wanted in line for line in statefile.tail(self.log, 200, self._log_from))

    def last_words(self) -> str:
        """Return the last lines that the current or last process wrote to the log."""
        lines = statefile.tail(self.log, LOG_LINES, self._log_from)
        return "".join(f"\n  {self.config.id}| {line}" for line in lines)

    def epitaph(self, pid: int, code: int) -> str:
        """Return the sentence about a process that ended by itself or was killed by somebody."""
        if code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
        else:
            how = f"exited with code {code}, see {self.log}{self.last_words()}"
        return f"node {self.config.id} (pid {pid}) {how}"

    def send(self, number: signal.Signals) -> int:
        """Send a signal and return the process id.  Raises LocalError if the node does not run."""
        if self._process is None or not self.pid:
            raise LocalError(f"node {self.config.id} does not run: start it with `kvnode restart {self.config.id}`")
        with suppress(ProcessLookupError):  # it died a moment ago: the watcher will say so
            self._process.send_signal(number)
        return self._process.pid

    async def stop(self, grace_s: float, say: Say) -> None:
        """Ask the process to drain and stop; kill it after `grace_s`."""
        if self._process is None or not self.pid:
            return
        self.phase = "stopping"
        self.send(signal.SIGTERM)
        with suppress(LocalError):
            self.send(signal.SIGCONT)  # a paused process takes no other signal
        try:
            await asyncio.wait_for(self._process.wait(), grace_s)
        except TimeoutError:
            say(f"node {self.config.id} (pid {self._process.pid}) did not stop in {grace_s:g} s and was killed")
            await self.kill()

    async def kill(self) -> None:
        """Kill the process and wait until it is gone."""
        process = self._process
        if process is not None and process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


class Supervisor:
    """Runs the nodes of one configuration until it is told to stop."""

    def __init__(
        self,
        config: Config,
        say: Say,
        command: Command = node_command,
        start_options: Sequence[str] = (),
        network: Network | None = None,
    ) -> None:
        """`start_options` are added to each node's command when it is first started, never at a restart.

        With a `network` the nodes reach each other through it only.
        """
        self.config = config
        self.network = network
        self.directory = config.data_dir
        self.nodes = {node.id: NodeProcess(node, self.directory) for node in config.nodes}
        self._say = say
        self._command = command
        self._start_options = start_options
        self._group: asyncio.TaskGroup
        self._stop = asyncio.Event()
        self._starting = asyncio.Lock()
        self._hurry = asyncio.Event()
        self._socket = ""
        self._grace_s = config.limits.drain_timeout_s + STOP_GRACE_S

    async def run(self, on_started: Callable[[Supervisor], None]) -> int:
        """Start every node, call `on_started` when each serves or has failed, and supervise until told to stop.

        Returns an exit code: 0 after a stop that was asked for, 1 if no node could be started.
        Raises LocalError before anything was started; a taken port before anything was written.
        """
        plan.prepare(self.config)
        with statefile.lock(self.directory):
            statefile.write_atomically(self.config_path, self.config.to_toml())
            self._handle_signals()
            return await self._supervise(on_started)

    @property
    def config_path(self) -> Path:
        """The effective configuration, which the nodes read."""
        return self.directory / statefile.CONFIG_FILE

    def request_stop(self) -> None:
        """Begin to stop; the second call stops waiting for nodes to drain."""
        (self._hurry if self._stop.is_set() else self._stop).set()

    async def _supervise(self, on_started: Callable[[Supervisor], None]) -> int:
        server = await self._listen()
        code = 0
        try:
            async with self.network or nullcontext(), asyncio.TaskGroup() as self._group:
                self._group.create_task(self._stop_when_told())
                await self._start_all()
                if not self._stop.is_set():
                    on_started(self)
                    if not any(node.pid for node in self.nodes.values()):
                        code = 1
                        self._stop.set()
        finally:
            server.close()
            for node in self.nodes.values():
                await node.kill()
            self.save()
            self._remove_socket()
        return code

    async def _start_all(self) -> None:
        for node in self.nodes.values():
            await self._start(node, self._start_options)
        await self._wait_settled(self.nodes.values())

    async def _start(self, node: NodeProcess, options: Sequence[str] = ()) -> None:
        async with self._starting:
            if self._stop.is_set():
                return
            command = [*self._command(node.config.id, self.config_path), *options]
            await node.start(command, self.network.variables(node.config.id) if self.network else {})
        self.save()
        self._group.create_task(node.watch(self._say, self.save))

    @staticmethod
    async def _wait_settled(nodes: Iterable[NodeProcess]) -> None:
        """Return when each of these serves or has gone, at the latest after START_TIMEOUT_S."""
        with suppress(TimeoutError):
            async with asyncio.timeout(START_TIMEOUT_S):
                for node in nodes:
                    await node.settled.wait()

    async def _stop_when_told(self) -> None:
        await self._stop.wait()
        async with self._starting:  # else a process that is just being started would be missed
            nodes = [node for node in self.nodes.values() if node.pid]
        async with asyncio.TaskGroup() as group:
            hurry = group.create_task(self._kill_in_a_hurry())
            await asyncio.gather(*(node.stop(self._grace_s, self._say) for node in nodes))
            hurry.cancel()

    async def _kill_in_a_hurry(self) -> None:
        await self._hurry.wait()
        self._say("killing the nodes that have not drained yet")
        await asyncio.gather(*(node.kill() for node in self.nodes.values()))

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self.request_stop)

    def save(self) -> None:
        """Write the state file; a full disk is reported, the cluster goes on."""
        started = statefile.process_started(os.getpid()) or ""
        nodes = tuple(node.facts() for node in self.nodes.values())
        try:
            statefile.save(
                self.directory, statefile.State(os.getpid(), started, str(self.config_path), self._socket, nodes)
            )
        except OSError as error:
            self._say(f"cannot write {self.directory / statefile.STATE_FILE}: {error.strerror}")

    # -- control: JSON lines over a unix socket

    async def _listen(self) -> asyncio.Server:
        path = self.directory / statefile.SOCKET_FILE
        if len(os.fsencode(path)) > statefile.SOCKET_PATH_BYTES_MAX:
            path = Path(tempfile.mkdtemp(prefix="kvnode-")) / statefile.SOCKET_FILE
        path.unlink(missing_ok=True)
        self._socket = str(path)
        before = os.umask(0o177)
        try:
            return await asyncio.start_unix_server(self._serve_control, path)
        finally:
            os.umask(before)

    def _remove_socket(self) -> None:
        path = Path(self._socket)
        path.unlink(missing_ok=True)
        if path.parent != self.directory:
            shutil.rmtree(path.parent, ignore_errors=True)

    async def _serve_control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = json.loads(await reader.readline())
            answer = await self._answer(request)
        except LocalError as error:
            answer = {"error": str(error)}
        except (ValueError, KeyError, TypeError, ConnectionError) as error:
            answer = {"error": f"not a control request: {error!r}"}
        writer.write(json.dumps(answer).encode() + b"\n")
        writer.close()

    async def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        match request["do"]:
            case "wait":
                await self._wait_settled(self.nodes.values())
            case "down":
                self._stop.set()
            case "kill":
                await self._kill(self._node(request["node"]))
            case "pause":
                await self._pause(self._node(request["node"]))
            case "resume":
                self._resume(self._node(request["node"]))
            case "restart":
                await self._restart(self._node(request["node"]))
            case "cut" | "slow" | "reset" | "heal":
                self._proxied().answer(request)
            case "status":
                pass
            case other:
                raise LocalError(f'the supervisor knows no request "{other}": it is another version of kvnode')
        words = {name: node.last_words() for name, node in self.nodes.items() if node.phase in ("starting", "down")}
        cuts = self.network.cuts if self.network else []
        return {"nodes": [asdict(node.facts()) for node in self.nodes.values()], "last_words": words, "cuts": cuts}

    def _node(self, name: str) -> NodeProcess:
        if self._stop.is_set():
            raise LocalError(f"the cluster on {self.directory} is stopping")
        try:
            return self.nodes[name]
        except KeyError:
            raise LocalError(f'there is no node "{name}"; the nodes are {", ".join(self.nodes)}') from None

    def _proxied(self) -> Network:
        if self.network is None:
            raise LocalError(
                f"the nodes of the cluster on {self.directory} are linked directly: stop it, and start it with"
                " `kvnode up --proxied`"
            )
        return self.network

    async def _kill(self, node: NodeProcess) -> None:
        pid = node.send(signal.SIGKILL)
        node.phase = "stopping"
        self._say(f"node {node.config.id} (pid {pid}) is killed, as asked")
        await node.gone.wait()

    async def _pause(self, node: NodeProcess) -> None:
        pid = node.send(signal.SIGSTOP)
        node.phase = "paused"
        self.save()
        self._say(f"node {node.config.id} (pid {pid}) is paused, as asked")

    def _resume(self, node: NodeProcess) -> None:
        pid = node.send(signal.SIGCONT)
        node.phase = "serving" if node.settled.is_set() else "starting"
        self.save()
        self._say(f"node {node.config.id} (pid {pid}) goes on, as asked")

    async def _restart(self, node: NodeProcess) -> None:
        await node.stop(self._grace_s, self._say)
        await node.gone.wait()
        await self._start(node)
        self._say(f"node {node.config.id} is started again (pid {node.pid}), as asked")
        await self._wait_settled([node])
        if node.phase != "serving":
            raise LocalError(f"node {node.config.id} does not serve, see {node.log}{node.last_words()}")
