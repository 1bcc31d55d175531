"""A cluster on this machine: one process per node and one for the gateway, supervised.

Decides: which processes run, when they are hurt on request and stopped, and in which order.  Leaves to others: one
process (`child`), the configuration (`plan`), the state file and the control protocol's bytes (`statefile`), the
network between nodes if it can be hurt (`network`), and what a node is.

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
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kvnode.config import Config
from kvnode.local import plan, statefile
from kvnode.local.child import Child, Say
from kvnode.local.network import Network
from kvnode.local.statefile import LocalError

START_TIMEOUT_S = 60.0
"""A node that does not serve by then is reported; it may still come (a large log to replay, peers that are missing)."""
LEFT_BEHIND_S = 5.0
"""The same once another has gone: it may be the one that this one waits for."""
STOP_GRACE_S = 5.0
"""On top of the node's own drain timeout, before it is killed."""
GATEWAY = "gateway"

Command = Callable[[str, Path], list[str]]


def command_of(name: str, config_path: Path) -> list[str]:
    """Return the command line of a node's process, or of the gateway's."""
    what = [GATEWAY] if name == GATEWAY else ["node", name]
    return [sys.executable, "-m", "kvnode", *what, "--config", str(config_path)]


class Supervisor:
    """Runs the nodes of one configuration until it is told to stop."""

    def __init__(
        self,
        config: Config,
        say: Say,
        command: Command = command_of,
        start_options: Sequence[str] = (),
        network: Network | None = None,
        with_gateway: bool = False,
    ) -> None:
        """`start_options` are added to each node's command when it is first started, never at a restart.

        With a `network` the nodes reach each other through it only.
        """
        self.config = config
        self.network = network
        self.directory = config.data_dir
        self.nodes = {node.id: Child(node.id, f"node {node.id}", node.address, self.directory) for node in config.nodes}
        self.gateway = Child(GATEWAY, "the gateway", config.gateway.address, self.directory) if with_gateway else None
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
        plan.prepare(self.config, with_gateway=self.gateway is not None)
        with statefile.lock(self.directory):
            statefile.write_atomically(self.config_path, self.config.to_toml())
            self._handle_signals()
            return await self._supervise(on_started)

    @property
    def config_path(self) -> Path:
        """The effective configuration, which the nodes read."""
        return self.directory / statefile.CONFIG_FILE

    @property
    def children(self) -> list[Child]:
        """Every process: the nodes, then the gateway if there is one."""
        return [*self.nodes.values(), *([self.gateway] if self.gateway else [])]

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
            for child in self.children:
                await child.kill()
            self.save()
            self._remove_socket()
        return code

    async def _start_all(self) -> None:
        for node in self.nodes.values():
            await self._start(node, self._start_options)
        if self.gateway:
            await self._start(self.gateway)
        await self._wait_settled(self.children)

    async def _start(self, child: Child, options: Sequence[str] = ()) -> None:
        async with self._starting:
            if self._stop.is_set():
                return
            command = [*self._command(child.name, self.config_path), *options]
            is_hurt = self.network is not None and child is not self.gateway  # clients still reach every node
            await child.start(command, self.network.variables(child.name) if self.network and is_hurt else {})
        self.save()
        self._group.create_task(child.watch(self._say, self.save))

    @staticmethod
    async def _wait_settled(children: Iterable[Child]) -> None:
        """Return when each of these serves or has gone, at the latest after START_TIMEOUT_S, or LEFT_BEHIND_S after one
        has gone."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + START_TIMEOUT_S
        waiting = {loop.create_task(child.settled.wait()): child for child in children}
        try:
            while waiting:
                timeout = until_s - loop.time()
                done, _ = await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    return
                if not all(waiting.pop(task).pid for task in done):
                    until_s = min(until_s, loop.time() + LEFT_BEHIND_S)
        finally:
            for task in waiting:
                task.cancel()

    async def _stop_when_told(self) -> None:
        await self._stop.wait()
        async with self._starting:  # else a process that is just being started would be missed
            nodes = [node for node in self.nodes.values() if node.pid]
        async with asyncio.TaskGroup() as group:
            hurry = group.create_task(self._kill_in_a_hurry())
            if self.gateway:  # before the nodes: it answers what it has accepted
                await self.gateway.stop(self._grace_s, self._say)
            await asyncio.gather(*(node.stop(self._grace_s, self._say) for node in nodes))
            hurry.cancel()

    async def _kill_in_a_hurry(self) -> None:
        await self._hurry.wait()
        self._say("killing what has not drained yet")
        await asyncio.gather(*(child.kill() for child in self.children))

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self.request_stop)

    def save(self) -> None:
        """Write the state file; a full disk is reported, the cluster goes on."""
        started = statefile.process_started(os.getpid()) or ""
        nodes = tuple(node.facts() for node in self.nodes.values())
        gateway = self.gateway.facts() if self.gateway else None
        state = statefile.State(os.getpid(), started, str(self.config_path), self._socket, nodes, gateway)
        try:
            statefile.save(self.directory, state)
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
                await self._wait_settled(self.children)
            case "down":
                self._stop.set()
            case "kill":
                await self._kill(self._child(request["node"]))
            case "pause":
                await self._pause(self._child(request["node"]))
            case "resume":
                self._resume(self._child(request["node"]))
            case "restart":
                await self._restart(self._child(request["node"]))
            case "cut" | "slow" | "reset" | "heal":
                self._proxied().answer(request)
            case "status":
                pass
            case other:
                raise LocalError(f'the supervisor knows no request "{other}": it is another version of kvnode')
        return {
            "nodes": [asdict(node.facts()) for node in self.nodes.values()],
            "gateway": asdict(self.gateway.facts()) if self.gateway else None,
            "last_words": {child.name: child.last_words() for child in self.children if not child.settled_well},
            "cuts": self.network.cuts if self.network else [],
        }

    def _child(self, name: str) -> Child:
        if self._stop.is_set():
            raise LocalError(f"the cluster on {self.directory} is stopping")
        found = next((child for child in self.children if child.name == name), None)
        if found is None:
            names = ", ".join(child.name for child in self.children)
            raise LocalError(f'there is no node "{name}"; the nodes are {names}')
        return found

    def _proxied(self) -> Network:
        if self.network is None:
            raise LocalError(
                f"the nodes of the cluster on {self.directory} are linked directly: stop it, and start it with"
                " `kvnode up --proxied`"
            )
        return self.network

    async def _kill(self, child: Child) -> None:
        pid = child.send(signal.SIGKILL)
        child.phase = "stopping"
        self._say(f"{child.title} (pid {pid}) is killed, as asked")
        await child.gone.wait()

    async def _pause(self, child: Child) -> None:
        pid = child.send(signal.SIGSTOP)
        child.phase = "paused"
        self.save()
        self._say(f"{child.title} (pid {pid}) is paused, as asked")

    def _resume(self, child: Child) -> None:
        pid = child.send(signal.SIGCONT)
        child.phase = "serving" if child.settled.is_set() else "starting"
        self.save()
        self._say(f"{child.title} (pid {pid}) goes on, as asked")

    async def _restart(self, child: Child) -> None:
        await child.stop(self._grace_s, self._say)
        await child.gone.wait()
        await self._start(child)
        self._say(f"{child.title} is started again (pid {child.pid}), as asked")
        await self._wait_settled([child])
        if child.phase != "serving":
            raise LocalError(f"{child.title} does not serve, see {child.log}{child.last_words()}")
