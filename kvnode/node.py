"""The composition root: one node, built from its rooms, started, drained and stopped.

Decides: which concrete class stands behind each protocol, who hears what the network says, and the order of start and
stop.  Leaves to others: everything that a node does, and the process that it lives in (`process`).

    start   make a first ceiling durable (R3) -> listen and dial -> wait until enough of the others know a new
            directory, or none that can be reached refuses a known one (R1) -> vote and serve
    stop    refuse new requests -> finish those in flight -> send and write what is owed -> close links -> sync
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from kvclient.wire import messages as m
from kvclient.wire.frames import Message
from kvnode.config import Config
from kvnode.core.load import Load
from kvnode.core.version import BallotIssuer
from kvnode.net.connection import Link, Refusal
from kvnode.net.listener import Listener
from kvnode.net.peers import Peers
from kvnode.runtime import Runtime
from kvnode.service import exchange
from kvnode.service.age import Age
from kvnode.service.catalogue import table_for_clients
from kvnode.service.ceilings import Ceilings
from kvnode.service.commits import Commits
from kvnode.service.consensus import Consensus
from kvnode.service.coordinator import Coordinator
from kvnode.service.eventual import Eventual
from kvnode.service.exchange import Exchanges, HomeLink
from kvnode.service.fallback import Fallback
from kvnode.service.handoff import Handoff
from kvnode.service.healing.assembly import Healing
from kvnode.service.healing.upkeep import Upkeep
from kvnode.service.health import Health
from kvnode.service.inspection import Inspection
from kvnode.service.membership import Identity, Membership
from kvnode.service.pace import Pace
from kvnode.service.placement import Placements
from kvnode.service.reads import StrongReads
from kvnode.service.registers import Registers
from kvnode.service.replica import Replica
from kvnode.service.requests import Statistics
from kvnode.service.steady import SteadyClock
from kvnode.storage.engine import Engine

EPOCH = 1
"""The ring's epoch; it stays 1 until membership can change (R39)."""
SWEEP_S = 0.05
_VOTES = (m.PREPARE, m.ACCEPT, m.READ, m.ANCHOR, m.SETTLE, m.REMOVE)
"""What a node must not answer from a directory that has forgotten something."""

_log = logging.getLogger("kvnode")


class Node:
    """One node: its rooms, and the two handlers that the network calls."""

    def __init__(
        self,
        config: Config,
        identity: Identity,
        engine: Engine,
        runtime: Runtime,
        *,
        is_new: bool,
        dialled: Mapping[str, tuple[str, int]] | None = None,
    ) -> None:
        """`dialled` says where some of the other nodes are reached, if not at their addresses."""
        self.config = config
        self.clock = SteadyClock(runtime.clock, config.limits.max_offset_ms)
        self.runtime = runtime = Runtime(self.clock, runtime.rng, runtime.timers)
        self.engine = engine
        self.home = config.node_index(identity.name)
        self.age = Age(engine, runtime.clock)
        self.membership = Membership(config, identity, EPOCH, engine, self.age, is_new=is_new)
        self.placements = Placements(config, self.home)
        self.statistics = Statistics(runtime.clock)
        self.pace = Pace(config.limits, runtime.clock, self.statistics)
        self.exchanges = Exchanges(len(config.nodes))
        self._build_replica(identity)
        self._build_coordinator(identity)
        self.upkeep = Upkeep(
            config, self.home, EPOCH, engine, self.registers, self.replica, self.exchanges,
            self.consensus, self.placements, self.pace, runtime,
        )  # fmt: skip
        self._table = self._handlers()
        self._build_network(dialled or {})
        self.state = "joining"
        self.on_serving: Callable[[], None] = lambda: None
        self.on_refusal: Callable[[str], None] = _log.error
        self.process_facts: Callable[[], dict[str, Any]] = dict
        self._started_s = runtime.clock.monotonic_s()
        self._votes: dict[int, Callable[[Any, Any], None]] = {}
        """The handlers that vote, while this node may still be refused (R1)."""

    def _build_replica(self, identity: Identity) -> None:
        """Make what holds this node's copies."""
        engine, clock, limits = self.engine, self.runtime.clock, self.config.limits
        issuer = BallotIssuer(identity.node_id, identity.incarnation)
        self.ceilings = Ceilings(engine, clock, issuer, limits.max_offset_ms, self.age)
        promise, bytes_max = self.ceilings.restart_promise, limits.register_bytes_max
        self.registers = Registers(engine, limits.registers_max, bytes_max, limits.undecided_max, promise)
        self.registers.is_row_key = self.placements.is_row_key
        unsynced = {name.encode() for name, store in self.config.stores.items() if store.durability == "os"}
        self.replica = Replica(
            engine, self.registers, self.ceilings, self.age, clock, EPOCH, limits.max_offset_ms, unsynced
        )
        self.replica.charge = self.pace.take_in
        self.healing = Healing(
            self.config, self.home, self.placements, self.registers, self.replica, self.exchanges,
            engine, self.pace, self.runtime, EPOCH,
        )  # fmt: skip

    def _build_coordinator(self, identity: Identity) -> None:
        """Make what runs clients' requests."""
        exchanges, registers, runtime, limits = self.exchanges, self.registers, self.runtime, self.config.limits
        names = [node.id for node in self.config.nodes]
        self.handoff = Handoff(
            names, self.home, exchanges, registers, self.engine, self.placements, runtime, limits, EPOCH
        )
        self.commits = Commits(exchanges, registers, self.handoff, runtime.timers, EPOCH, limits, self.pace.take)
        self.consensus = Consensus(
            exchanges, registers, self.ceilings, self.commits, self.handoff, runtime, limits, EPOCH, names
        )
        self.handoff.settle, self.handoff.on_missed = self.consensus.settle, self.healing.on_missed
        self.handoff.wait_s, self.handoff.charge = self.pace.wait_s, self.pace.charge
        self.healing.anti_entropy.is_owed = self.handoff.owes
        self.reads = StrongReads(
            names=names, home=self.home, exchanges=exchanges, registers=registers, replica=self.replica,
            commits=self.commits, runtime=runtime, limits=limits, epoch=EPOCH, statistics=self.statistics,
        )  # fmt: skip
        self.consensus.reads, self.reads.consensus = self.reads, self.consensus
        self.eventual = Eventual(
            names=names, home=self.home, exchanges=exchanges, registers=registers, ceilings=self.ceilings,
            commits=self.commits, consensus=self.consensus, handoff=self.handoff, statistics=self.statistics,
            runtime=runtime, node_id=identity.node_id, epoch=EPOCH,
        )  # fmt: skip
        self.eventual.refuses_writes = lambda: self.replica.is_clogged
        self.fallback = Fallback(self.eventual, self.ceilings, self.handoff, runtime, identity.node_id)
        self.inspection = Inspection(
            names=names, exchanges=exchanges, registers=registers, engine=self.engine, runtime=runtime, epoch=EPOCH,
            partitions=self.config.partitions, page_max=limits.scan_page_max, facts=self.facts,
        )  # fmt: skip
        self.coordinator = Coordinator(
            placements=self.placements, exchanges=exchanges, consensus=self.consensus, eventual=self.eventual,
            fallback=self.fallback, inspection=self.inspection, anti_entropy=self.healing.anti_entropy,
            statistics=self.statistics, runtime=runtime, limits=limits,
        )  # fmt: skip

    def _build_network(self, dialled: Mapping[str, tuple[str, int]]) -> None:
        """Make what connects this node to clients, to its peers, and to itself."""
        nodes, limits = self.config.nodes, self.config.limits
        self.listener = Listener(nodes[self.home].host, nodes[self.home].port, self, limits, self.runtime)
        addresses = [dialled.get(node.id, (node.host, node.port)) for node in nodes]
        self.peers = Peers(addresses, self.home, self, limits, self.runtime)
        names = [node.id for node in nodes]
        self.health = Health(names, self.home, self.exchanges, limits, SWEEP_S, EPOCH, self.peers)
        self.health.measure = lambda: (self.statistics.in_flight, self.ceilings.commit_s)
        home_link = HomeLink(self.home)
        home_link.deliver = lambda link, message: self._table[message[0]](link, message)
        self.exchanges.on_peer_up(self.home, home_link)

    def _handlers(self) -> dict[int, Callable[[Any, Any], None]]:
        replies = (m.PROMISE, m.ACCEPTED, m.NACK, m.UNSEEN, m.DIGEST, m.WRITTEN, m.FORWARDED, m.PURGED, m.HINTED)
        trees = (m.TREE_DIFFER, m.TREE_LACKS, m.RECORDED, m.MARKED)
        return {
            **self.replica.handlers(),
            **self.upkeep.handlers(),
            **self.coordinator.handlers(),
            **self.healing.handlers(),
            **dict.fromkeys(replies + trees, self.exchanges.on_reply),
            m.FORWARD: self.coordinator.on_forward,
            m.UNKNOWN_BALLOT: self.commits.on_unknown_ballot,
            m.REFUSED: self.handoff.on_refused,
            m.AGED: lambda link, message: self.membership.on_aged(self.config.nodes[link.index].id, *message[1:]),
        }

    # -- start and stop

    async def start(self) -> None:
        """Listen, dial, and begin to serve as soon as the node may.  Raises AddressError if the address is taken."""
        ready = asyncio.get_running_loop().create_future()
        self.ceilings.start(lambda: ready.set_result(None))
        await ready
        self._hold_votes()
        self.age.on_raised = self._tell_age
        await self.listener.start()
        await self.peers.start()
        self.runtime.timers.call_later(self.config.limits.heartbeat_s, self._wait_no_longer)
        self._sweep()
        self.healing.start()
        self._serve_if_allowed()

    def _serve_if_allowed(self) -> None:
        if self.state == "joining" and self.membership.may_serve:
            self.state = "serving"
            self._table.update(self._votes)
            self.coordinator.is_serving = True
            self.on_serving()

    def _hold_votes(self) -> None:
        """Refuse what asks for a vote until this node serves: its directory may be a backup, and the others know."""
        self._votes = {kind: self._table[kind] for kind in _VOTES}

        def refuse(link: Any, message: Message) -> None:
            link.send((m.REFUSED, message[1], "not-connected", "this node has just started and does not vote yet"))

        self._table.update(dict.fromkeys(_VOTES, refuse))

    def _wait_no_longer(self) -> None:
        """Who could not be asked about this node by now may not be there."""
        self.membership.wait_no_longer()
        self._serve_if_allowed()

    async def stop(self) -> None:
        """Drain and stop: what was acknowledged is on disk, what is owed is sent, and every link has its GOODBYE."""
        self.state = "draining"
        self.coordinator.is_serving = False
        self.listener.stop_accepting()
        self.healing.stop()
        await self._until_idle(self.config.limits.drain_timeout_s)
        self.consensus.fail_all()
        self.commits.flush()
        self.registers.flush()
        await self.listener.drain()
        await self.listener.close()
        await self.peers.close()
        await self.engine.close()

    async def _until_idle(self, timeout_s: float) -> None:
        idle: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def finish() -> None:
            if not idle.done():
                idle.set_result(None)

        self.statistics.on_idle = finish
        timer = self.runtime.timers.call_later(timeout_s if self.statistics.in_flight else 0.0, finish)
        await idle
        timer.cancel()

    def _sweep(self) -> None:
        """Deadlines are swept together, not timed one by one."""
        if self.state == "stopped":
            return
        now_s = self.runtime.clock.monotonic_s()
        self.health.sweep(now_s)
        self.age.sweep(now_s)
        self.consensus.sweep(now_s)
        self.reads.expire(self.runtime.clock.wall_ms())
        self.eventual.sweep(now_s)
        self.coordinator.sweep(now_s)
        self.inspection.sweep(now_s)
        self.healing.sweep(now_s)
        if self.coordinator.is_serving:
            self.upkeep.sweep(now_s)
        self.fallback.sweep(now_s)
        self.handoff.sweep(now_s)
        offsets_ms = self.health.offsets_ms()
        self.clock.hear(offsets_ms, len(self.config.nodes))
        self.eventual.clock_is_good = self.health.clock_is_good(offsets_ms)
        self.runtime.timers.call_later(SWEEP_S, self._sweep)

    # -- called by the listener

    def admit(self, link: Link, hello: dict[str, Any], then: Callable[[dict[str, Any] | Refusal], None]) -> None:
        """Judge a HELLO; a node's identity is bound durably before it gets its WELCOME (R1)."""
        if hello["role"] == "client":
            if hello["cluster"] not in ("", self.config.cluster_name):
                text = f"this is cluster {self.config.cluster_name!r}, not {hello['cluster']!r}; check the addresses"
                then(Refusal("cluster", text))
            else:
                then(self._welcome(to_client=True))
            return
        refusal = self.membership.judge(hello)
        if refusal is not None:
            then(Refusal(*refusal))
            return
        link.index = self.config.node_index(hello["name"])
        self.peers.nudge(link.index)
        self.membership.bind(hello, lambda: then(self._welcome(to_client=False)))

    def _welcome(self, *, to_client: bool) -> dict[str, Any]:
        welcome = {
            "protocol": m.PROTOCOL_VERSION,
            "time_ms": self.runtime.clock.wall_ms(),
            "serving": self.coordinator.is_serving,
            **self.membership.facts(),
        }
        return welcome | table_for_clients(self.config, self.placements) if to_client else welcome

    def on_batch(self, link: exchange.Link, batch: list[list[Any]]) -> None:
        """Take the messages of one frame, in order; operations of one frame on one key share a round (R14)."""
        table, consensus = self._table, self.consensus
        try:
            for message in batch:
                table[message[0]](link, message)
        finally:
            if consensus.ready:
                consensus.start_ready()

    def on_lost(self, link: Link) -> None:
        """A client or a peer that had dialled has gone; its requests run to their end and find nobody."""
        if link.kind == "node" and link.was_dismissed and link.code == "identity":
            self.on_refused(link.index, link.code, link.reason)

    # -- called by the peers

    def hello(self) -> dict[str, Any]:
        """Return our HELLO."""
        return {"protocol": m.PROTOCOL_VERSION, "role": "node", **self.membership.facts()}

    def accept_welcome(self, index: int, welcome: dict[str, Any]) -> Refusal | None:
        """Judge the WELCOME of node `index`: it must be who the configuration says, and not a clone (R1)."""
        refusal = self.membership.judge(welcome, self.config.nodes[index].id)
        if refusal is not None:
            _log.error("node %s cannot be used: %s", self.config.nodes[index].id, refusal[1])
            return Refusal(*refusal)
        return None

    def on_peer_up(self, index: int, link: Link) -> None:
        """A peer can be reached; its WELCOME says that it has bound us."""
        name = self.config.nodes[index].id
        self.membership.bind(link.facts, lambda: None)
        self.membership.on_bound_by(name)
        self.exchanges.on_peer_up(index, link)
        self.healing.on_peer_up(index)
        link.send((m.AGED, self.membership.own.process, self.age.durable))
        _log.log(logging.WARNING if self.exchanges.losses[index] else logging.INFO, "node %s is up", name)
        self._serve_if_allowed()

    def _tell_age(self, age: int) -> None:
        for link in self.peers.links:
            if link is not None:
                link.send((m.AGED, self.membership.own.process, age))

    def on_unreachable(self, index: int) -> None:
        """A peer cannot say whether it refuses this node."""
        self.membership.on_unreachable(self.config.nodes[index].id)
        self._serve_if_allowed()

    def on_peer_lost(self, index: int, link: Link) -> None:
        """A peer cannot be reached any more; what waits for it is told."""
        _log.warning("node %s is down: %s", self.config.nodes[index].id, link.reason)
        self.health.on_lost(index)
        self.exchanges.on_peer_lost(index)

    def on_heartbeat(self, index: int, sent_s: float, pulse: tuple[int, int, int, int]) -> None:
        """A peer has answered the heartbeat that was sent at `sent_s`, and told its epoch and load."""
        self.health.detector.heard(index, self.runtime.clock.monotonic_s())
        self.handoff.on_heartbeat(index, sent_s)
        self.health.on_pulse(index, pulse[0], Load(pulse[1], pulse[2], pulse[3]))

    def pulse(self) -> tuple[int, int, int, int]:
        """Return what our answers to heartbeats tell: our epoch and load."""
        return (EPOCH, *self.health.load())

    def on_refused(self, index: int, code: str, text: str) -> None:
        """A peer turned us away.  If it is about who we are, this node must not go on (R1)."""
        _log.error("node %s refuses this node: %s", self.config.nodes[index].id, text)
        if code == "identity":
            self.on_refusal(text)

    # -- facts

    def facts(self) -> dict[str, Any]:
        """Return what STATUS shows."""
        clock, statistics, config = self.runtime.clock, self.statistics, self.config
        node, offsets = config.nodes[self.home], self.health.offsets_ms()
        return {
            "node": node.id,
            "state": self.state,
            "address": f"{node.host}:{node.port}",
            "epoch": EPOCH,
            "keys": self.engine.approximate_keys(),
            "bytes": self.engine.stored_bytes(),
            "clock_offset_ms": self.clock.leap_ms - (sorted(offsets)[len(offsets) // 2][0] if offsets else 0),
            "connections": self.listener.connections,
            "in_flight": statistics.in_flight,
            "ops": dict(statistics.done),
            "ops_per_s": statistics.ops_per_s(),
            "latency_ms": statistics.latency_ms(),
            "syncs": self.engine.syncs,
            **self.health.facts(clock.monotonic_s()),
            **self.handoff.facts(),
            **self.healing.facts(),
            "repairs": statistics.repairs + self.healing.mending.repaired,
            **self.upkeep.facts(),
            "superseded": self.replica.superseded,
            "incarnation": self.membership.own.incarnation,
            "age": self.age.durable,
            "uptime_s": round(clock.monotonic_s() - self._started_s, 3),
            **self.process_facts(),
        }
