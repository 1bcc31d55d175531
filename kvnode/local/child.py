"""One process of a local cluster, a node or the gateway: started, watched to its end, signalled and stopped.

Decides: when a process counts as serving (it says so in its log), and the sentence about one that ended.  Leaves to
others: which processes there are and what becomes of them (`supervisor`).

Invariants: only this process is ever signalled, and never after it was reaped.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

from kvnode.local import statefile
from kvnode.local.statefile import LocalError, NodeState

POLL_S = 0.05
LOG_LINES = 5

Say = Callable[[str], None]
Phase = Literal["starting", "serving", "paused", "stopping", "down"]


class Child:
    """A process by its name ("n1", "gateway"): its log and its current incarnation, if any."""

    def __init__(self, name: str, title: str, address: str, directory: Path) -> None:
        """`title` is how sentences call it: "node n1"."""
        self.name = name
        self.title = title
        self.address = address
        self.log = directory / statefile.LOGS / f"{name}.log"
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
        """The process id, 0 if it does not run."""
        return self._process.pid if self._process is not None and self._process.returncode is None else 0

    @property
    def settled_well(self) -> bool:
        """False while it starts and when it is down: then its last words tell why."""
        return self.phase not in ("starting", "down")

    def facts(self) -> NodeState:
        """Return what the state file says of this process."""
        pid = self.pid
        return NodeState(self.name, self.address, pid, self._started if pid else "", self.phase, str(self.log))

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
        wanted = f"kvnode {self.name} serves "
        return any(wanted in line for line in statefile.tail(self.log, 200, self._log_from))

    def last_words(self) -> str:
        """Return the last lines that the current or last process wrote to the log."""
        lines = statefile.tail(self.log, LOG_LINES, self._log_from)
        return "".join(f"\n  {self.name}| {line}" for line in lines)

    def epitaph(self, pid: int, code: int) -> str:
        """Return the sentence about a process that ended by itself or was killed by somebody."""
        if code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
        else:
            how = f"exited with code {code}, see {self.log}{self.last_words()}"
        return f"{self.title} (pid {pid}) {how}"

    def send(self, number: signal.Signals) -> int:
        """Send a signal and return the process id.  Raises LocalError if it does not run."""
        if self._process is None or not self.pid:
            raise LocalError(f"{self.title} does not run: start it with `kvnode restart {self.name}`")
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
            say(f"{self.title} (pid {self._process.pid}) did not stop in {grace_s:g} s and was killed")
            await self.kill()

    async def kill(self) -> None:
        """Kill the process and wait until it is gone."""
        process = self._process
        if process is not None and process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
