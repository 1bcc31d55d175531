"""What a cluster started by `kvnode up` leaves in its data directory, and how other commands talk to its supervisor.

Decides: the state file, the lock that says "a supervisor is running", how a process is told from another that got its
number, and the control protocol (JSON lines over a unix socket).  Leaves to others: starting and stopping
(`supervisor`).

Invariants:
- The lock is held for as long as its supervisor lives, by the kernel: state without a locked lock is stale.
- The state file is replaced as a whole; a reader sees the old one or the new one.
- A process is only ever signalled after its start time matched the recorded one: numbers are used again.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

STATE_FILE = "supervisor.json"
LOCK_FILE = "supervisor.lock"
SOCKET_FILE = "control.sock"
CONFIG_FILE = "cluster.toml"
LOGS = "logs"
SOCKET_PATH_BYTES_MAX = 100
"""A unix socket's path may have 104 bytes on macOS and 108 on Linux, its closing zero included."""
STATE_VERSION = 1
POLL_S = 0.05


class LocalError(Exception):
    """A cluster on this machine cannot be started, found or changed; the text is one sentence that says why."""


@dataclass(frozen=True, slots=True)
class NodeState:
    """What the supervisor knows of one node, or of the gateway.

    `started` tells its process from a later one with the same number.
    """

    id: str
    address: str
    pid: int
    started: str
    state: str
    log: str

    @property
    def is_alive(self) -> bool:
        """True while exactly this process runs."""
        return bool(self.pid) and process_started(self.pid) == self.started


@dataclass(frozen=True, slots=True)
class State:
    """The state file: who supervises, where to reach it, and its nodes."""

    pid: int
    started: str
    config: str
    socket: str
    nodes: tuple[NodeState, ...]
    gateway: NodeState | None = None
    version: int = STATE_VERSION

    def orphans(self) -> tuple[NodeState, ...]:
        """Return the nodes, and the gateway, that still run; orphans if the supervisor does not."""
        children = (*self.nodes, *([self.gateway] if self.gateway else []))
        return tuple(child for child in children if child.is_alive)


def process_started(pid: int) -> str | None:
    """Return what identifies the process `pid` among all that ever have this number; None if there is none.

    A zombie is none.  On Linux: boot and start tick; elsewhere the start time as `ps` prints it.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None if Path("/proc/self/stat").exists() else _process_started_ps(pid)
    return None if fields[0] in "ZX" else f"{boot}/{fields[19]}"


def _process_started_ps(pid: int) -> str | None:
    answer = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    status, _, started = answer.stdout.strip().partition(" ")
    return started.strip() if started and not status.startswith("Z") else None


def save(directory: Path, state: State) -> None:
    """Replace the state file of `directory` by `state`."""
    write_atomically(directory / STATE_FILE, json.dumps(asdict(state), indent=1) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Replace `path` by a file with `text`: whoever reads sees the old or the new one, whole."""
    draft = path.with_name(path.name + ".new")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def load(directory: Path) -> State | None:
    """Return the state that a supervisor, alive or not, left in `directory`; None if none ever did."""
    path = directory / STATE_FILE
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if fields["version"] != STATE_VERSION:
            raise LocalError(
                f"{path} has format {fields['version']}, this kvnode writes {STATE_VERSION}: use the other one"
            )
        gateway = fields.get("gateway")
        nodes = tuple(NodeState(**node) for node in fields["nodes"])
        return State(**{**fields, "nodes": nodes, "gateway": NodeState(**gateway) if gateway else None})
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LocalError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise LocalError(f"{path} is not a supervisor's state file: remove it if no node of it runs") from error


@contextmanager
def lock(directory: Path) -> Iterator[None]:
    """Hold the supervisor's lock of `directory`.  Raises LocalError if another process has it."""
    with (directory / LOCK_FILE).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LocalError(already_running(directory)) from None
        yield


def is_supervised(directory: Path) -> bool:
    """Return whether a supervisor holds the lock of `directory` now."""
    try:
        with (directory / LOCK_FILE).open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def already_running(directory: Path) -> str:
    """Return the sentence that refuses a second supervisor for `directory`."""
    state = load(directory)
    pid = f" (pid {state.pid})" if state else ""
    return f"a cluster runs on {directory} already{pid}: stop it with `kvnode down --data-dir {directory}`"


def refuse_second(directory: Path) -> None:
    """Raise LocalError if a cluster runs on `directory`, be it one whose supervisor is gone."""
    if not directory.is_dir():
        return
    if is_supervised(directory):
        raise LocalError(already_running(directory))
    state = load(directory)
    orphans = state.orphans() if state else ()
    if orphans:
        names = ", ".join(f"{node.id} (pid {node.pid})" for node in orphans)
        raise LocalError(
            f"{names} of an earlier `kvnode up` still runs on {directory}, though its supervisor is gone: "
            f"stop it with `kvnode down --data-dir {directory}`"
        )


def running(directory: Path) -> State:
    """Return the state of the cluster that runs on `directory`.  Raises LocalError if no supervisor runs there."""
    state = load(directory)
    if not is_supervised(directory):
        orphans = state.orphans() if state else ()
        if orphans:
            names = ", ".join(f"{node.id} (pid {node.pid})" for node in orphans)
            raise LocalError(
                f"the supervisor of {directory} is gone, but {names} still runs:"
                f" stop it with `kvnode down --data-dir {directory}`"
            )
        raise LocalError(f"no cluster runs on {directory}: start one with `kvnode up --data-dir {directory}`")
    if state is None:
        raise LocalError(f"the supervisor of {directory} is just starting: try again in a moment")
    return state


def ask(directory: Path, timeout_s: float, **request: Any) -> dict[str, Any]:
    """Send one request to the supervisor of `directory` and return its answer.

    Raises LocalError with the supervisor's sentence if it refuses, or if it cannot be reached in `timeout_s`.
    """
    state = running(directory)
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout_s)
            connection.connect(state.socket)
            connection.sendall(json.dumps(request).encode() + b"\n")
            line = connection.makefile("rb").readline()
            if not line:
                raise ConnectionError("it hung up")
            answer: dict[str, Any] = json.loads(line)
    except (OSError, ValueError) as error:
        raise LocalError(
            f"the supervisor of {directory} (pid {state.pid}) does not answer on {state.socket}: {error}"
        ) from error
    if "error" in answer:
        raise LocalError(answer["error"])
    return answer


def stop_orphans(nodes: tuple[NodeState, ...], timeout_s: float) -> list[str]:
    """Stop node processes whose supervisor is gone; return a sentence for each that had to be killed."""
    for node in nodes:
        _signal(node, signal.SIGTERM)
        _signal(node, signal.SIGCONT)
    if wait_until_gone(nodes, timeout_s):
        return []
    stubborn = [node for node in nodes if node.is_alive]
    for node in stubborn:
        _signal(node, signal.SIGKILL)
    wait_until_gone(nodes, timeout_s)
    return [f"{node.id} (pid {node.pid}) did not stop in {timeout_s:g} s and was killed" for node in stubborn]


def wait_until_gone(nodes: tuple[NodeState, ...], timeout_s: float) -> bool:
    """Wait until none of these processes runs; return False if one still does after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while any(node.is_alive for node in nodes):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def _signal(node: NodeState, number: signal.Signals) -> None:
    if node.is_alive:
        try:
            os.kill(node.pid, number)
        except ProcessLookupError:
            pass


def tail(path: Path, lines: int, offset: int = 0) -> list[str]:
    """Return the last lines of a text file from `offset` on; none if it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(offset, file.seek(0, os.SEEK_END) - 65536))
            return file.read().decode("utf-8", "replace").splitlines()[-lines:]
    except OSError:
        return []
