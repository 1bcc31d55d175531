"""One node as a process: its data directory, its signals, its end.

Decides: the order of locking, opening, serving and closing, and what ends the process at once.  Leaves to others: the
node (`node`), the data directory's rules (`storage.directory`), supervision (`local`).

    lock the directory and count the incarnation (R1) -> open the engine -> serve until SIGTERM or SIGINT -> drain ->
    mark clean

A damaged row, a failed sync, a broken invariant or any other exception that reaches the event loop ends the process at
once, with the reason in the log and without a clean mark: a node that is wrong about its state must not go on
(R45-R47).
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from kvclient.errors import ConfigError
from kvnode.config import Config
from kvnode.node import Node
from kvnode.runtime import RealClock, Runtime, real_runtime
from kvnode.service.membership import Identity
from kvnode.storage.directory import DataDirectory
from kvnode.storage.engine import Engine
from kvnode.storage.rocks import RocksEngine

SWITCH_INTERVAL_S = 0.0005
"""The storage thread needs the interpreter for a moment after each sync; with the default of 5 ms a busy loop would
keep every acknowledgement waiting for that long."""
CLOCK_OFFSET_VARIABLE = "KVNODE_CLOCK_OFFSET_MS"
"""Environment variable that shifts the node's wall clock, for tests of skew."""
PEERS_VARIABLE = "KVNODE_PEERS"
"""Environment variable that says where other nodes are dialled in place of their addresses: `n2=host:port,...`.
Clients are still told the addresses.  With it `kvnode up --proxied` leads links through its proxies."""
FAULTS_VARIABLE = "KVNODE_FAULTS"
"""Environment variable that names a directory of faults on purpose (`faults`), for tests."""

_log = logging.getLogger("kvnode")


async def run(config: Config, node_id: str, *, accept_data_loss: bool = False) -> None:
    """Run one node until SIGTERM or SIGINT, then drain and stop it.

    `accept_data_loss` lets it start although acknowledged writes may be gone (R48).  Raises ConfigError (unknown node),
    AddressError (address in use) and StorageError (the data directory cannot be used); nothing was served.
    """
    loop = asyncio.get_running_loop()
    _warn_of_faults()
    runtime = real_runtime(int(os.environ.get(CLOCK_OFFSET_VARIABLE, "0")))
    config.node(node_id)
    open_engine = _engine_opener(node_id, runtime)
    directory = DataDirectory.open(
        config.data_dir / node_id,
        cluster=config.cluster_name,
        node=node_id,
        random_bits=runtime.rng.getrandbits,
        volatile=any(store.durability == "os" for store in config.stores.values()),
        accept_data_loss=accept_data_loss,
    )
    try:
        if directory.may_have_lost:
            _log.warning("%s", _loss_text(directory))
        loop.set_exception_handler(_die_of_exception)
        engine = open_engine(
            directory.rows_path,
            config.limits,
            lambda error: die(f"a write to disk failed, and a failed sync is never retried: {error}"),
            loop,
            create=not directory.has_rows,
        )
        directory.mark_rows()
        identity = Identity(node_id, directory.node_id, directory.incarnation, runtime.rng.getrandbits(63))
        peers = _peers(config, os.environ.get(PEERS_VARIABLE, ""))
        node = Node(config, identity, engine, runtime, is_new=not directory.is_bound, dialled=peers)
        node.on_refusal = die
        node.process_facts = process_facts
        node.on_serving = lambda: _announce(node, directory)
        await _serve(node, loop)
        directory.mark_clean()
    finally:
        directory.close()


def _warn_of_faults() -> None:
    """Say so if this node is meant to go wrong: the variable may have been left over from a test."""
    for variable in (CLOCK_OFFSET_VARIABLE, FAULTS_VARIABLE):
        if value := os.environ.get(variable):
            _log.warning("%s=%s: this node goes wrong on purpose, for tests; unset it in production", variable, value)


def _engine_opener(node_id: str, runtime: Runtime) -> Callable[..., Engine]:
    """Return what opens the engine: one that fails on purpose, with a clock that does too, where tests ask for that."""
    faults = os.environ.get(FAULTS_VARIABLE)
    if not faults:
        return RocksEngine.open
    from kvnode.faults import Follower

    assert isinstance(runtime.clock, RealClock)
    return Follower(Path(faults) / f"{node_id}.json", runtime.clock, asyncio.get_running_loop()).open_engine


def _peers(config: Config, text: str) -> dict[str, tuple[str, int]]:
    """Return what PEERS_VARIABLE says.  Raises ConfigError."""
    peers = {}
    for peer in filter(None, text.split(",")):
        name, _, address = peer.partition("=")
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal():
            raise ConfigError(f'{PEERS_VARIABLE} has "{peer}", which is not node=host:port')
        peers[config.node(name).id] = (host, int(port))
    return peers


def _loss_text(directory: DataDirectory) -> str:
    return (
        f"started with --accept-data-loss after the machine was restarted while {directory.path} was in use: what this"
        ' node acknowledged in the last moments before, for stores with durability "os", may be lost or undone here,'
        " promises of strong operations included, and if that befell several nodes, for good (docs/protocol.md R48)"
    )


async def _serve(node: Node, loop: asyncio.AbstractEventLoop) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    await node.start()
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)  # nearly nothing here is cyclic; the default looks at it 30 times as often
    if node.state == "joining" and node.membership.is_new:
        _log.info("waiting for more than half of the other nodes to learn this new directory's identity")
    await stopped.wait()
    _log.info("draining")
    await node.stop()
    node.state = "stopped"


def _announce(node: Node, directory: DataDirectory) -> None:
    directory.mark_bound()
    address = node.config.nodes[node.home]
    print(f"kvnode {address.id} serves on {address.host}:{address.port}", flush=True)


def process_facts() -> dict[str, Any]:
    """Return pid, CPU seconds and resident bytes of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            rss_bytes = int(statm.read().split()[1]) * resource.getpagesize()
    except OSError:  # not Linux: the peak is the best that is known
        rss_bytes = usage.ru_maxrss * 1024
    return {"pid": os.getpid(), "cpu_s": round(usage.ru_utime + usage.ru_stime, 3), "rss_bytes": rss_bytes}


def die(reason: str) -> NoReturn:
    """End the process at once: nothing is flushed, nothing is marked clean (R45-R47)."""
    _log.critical("this node stops: %s", reason)
    logging.shutdown()
    sys.stderr.flush()
    os._exit(1)


def _die_of_exception(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    _log.critical("%s", context.get("message"), exc_info=error)
    die(f"an exception reached the event loop: {error or context.get('message')}")
