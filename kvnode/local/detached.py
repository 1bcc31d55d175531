"""A supervisor in a session of its own: `kvnode up --detach`, and `kvnode down` for any supervisor.

Decides: when a detached start counts as done, and how long a stop may take.  Leaves to others: supervising
(`supervisor`) and the state file (`statefile`).
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from kvclient.errors import ConfigError
from kvnode import config as configuration
from kvnode.config import Config
from kvnode.local import plan, statefile
from kvnode.local.statefile import LocalError

START_TIMEOUT_S = 90.0
"""Above the supervisor's own bound for its nodes (supervision.START_TIMEOUT_S)."""
STOP_MARGIN_S = 15.0
"""On top of the nodes' drain timeout: the supervisor kills what has not drained by then."""
LOG_NAME = "supervisor.log"
NO_GATEWAY = "--no-gateway"


def start(config: Config, options: list[str]) -> dict[str, Any]:
    """Start `kvnode up` with these options in the background; return its answer once each node serves or has failed.

    `config` is what the options mean; its data directory is absolute.

    Raises LocalError with the supervisor's own words if it gives up.
    """
    plan.prepare(config, with_gateway=NO_GATEWAY not in options)
    directory = config.data_dir
    log = directory / statefile.LOGS / LOG_NAME
    with log.open("ab") as output:
        log_from = output.tell()
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "kvnode", "up", *options],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    _wait_for_control(directory, supervisor, log, log_from)
    try:
        return statefile.ask(directory, START_TIMEOUT_S, do="wait")
    except LocalError:
        raise _gave_up(supervisor, log, log_from) from None


def _wait_for_control(directory: Path, supervisor: subprocess.Popen[bytes], log: Path, log_from: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        state = statefile.load(directory)
        if state is not None and state.pid == supervisor.pid:
            return
        if supervisor.poll() is not None or time.monotonic() > deadline:
            raise _gave_up(supervisor, log, log_from)
        time.sleep(statefile.POLL_S)


def _gave_up(supervisor: subprocess.Popen[bytes], log: Path, log_from: int) -> LocalError:
    try:
        supervisor.wait(2)  # it answers for itself in its log before it ends
    except subprocess.TimeoutExpired:
        return LocalError(f"the supervisor (pid {supervisor.pid}) does not answer, see {log}")
    lines = [line.removeprefix("kvnode: ") for line in statefile.tail(log, 20, log_from)]
    return LocalError("\n".join(lines) or f"the supervisor exited with code {supervisor.returncode}, see {log}")


def stop(directory: Path) -> list[str]:
    """Stop the cluster that runs on `directory` and wait until it is gone; return a sentence per node that was killed.

    Node processes whose supervisor was killed are stopped too.  Raises LocalError if nothing runs there.
    """
    state = statefile.load(directory)
    grace_s = _drain_timeout_s(directory) + STOP_MARGIN_S
    if not statefile.is_supervised(directory):
        orphans = state.orphans() if state else ()
        if not orphans:
            statefile.running(directory)
        return statefile.stop_orphans(orphans, grace_s)
    statefile.ask(directory, grace_s, do="down")
    deadline = time.monotonic() + grace_s
    while statefile.is_supervised(directory):
        if time.monotonic() > deadline:
            raise LocalError(f"the supervisor of {directory} did not stop in {grace_s:g} s")
        time.sleep(statefile.POLL_S)
    return []


def _drain_timeout_s(directory: Path) -> float:
    try:
        return configuration.load(directory / statefile.CONFIG_FILE).limits.drain_timeout_s
    except ConfigError:
        return configuration.Limits().drain_timeout_s


@contextmanager
def cluster(config: Config, *options: str, with_gateway: bool = False) -> Iterator[statefile.State]:
    """Run a cluster of this configuration, with a supervisor of its own, until the block ends.

    `options` are more options of `kvnode up`.  For scripts and tests.

    Raises LocalError, with the last words of the nodes, unless every node serves.
    """
    directory = config.data_dir.absolute()
    config = replace(config, data_dir=directory)
    plan.prepare(config, with_gateway=with_gateway)
    statefile.write_atomically(directory / statefile.CONFIG_FILE, config.to_toml())
    answer = start(config, ["--data-dir", str(directory), *options, *([] if with_gateway else [NO_GATEWAY])])
    try:
        children = [*answer["nodes"], *([answer["gateway"]] if with_gateway else [])]
        idle = [child["id"] for child in children if child["state"] != "serving"]
        if idle:
            words = "".join(answer["last_words"].get(name, "") for name in idle)
            raise LocalError(f"{', '.join(idle)} did not begin to serve{words}")
        yield statefile.running(directory)
    finally:
        if statefile.is_supervised(directory):
            stop(directory)
