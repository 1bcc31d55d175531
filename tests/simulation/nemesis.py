"""Makes the faults of a scenario happen to a world, in time, and ends them all.

Decides: how each part of the weather becomes so, on processes, wires, disks and clocks; that a node which died of
damage or has lost what it acknowledged stays out (R46-R48), and that any other is started again as soon as no fault
wants it down.  Leaves to others:
what the weather is (`faults`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf

from simulation.faults import ALL_GROUPS, Weather, weather_of
from simulation.scenario import Fault, Scenario
from simulation.world import SimHost, SimWorld

from kvnode.storage.engine import StorageError
from kvnode.storage.rows import META_PREFIX

PIECE_BYTES_MAX = 40
"""What drips comes in pieces of up to so many bytes."""


def client_name(number: int) -> str:
    """Return the name of a client's host."""
    return f"c{number}"


class Nemesis:
    """The faults of one run."""

    def __init__(self, world: SimWorld, scenario: Scenario, on_start: Callable[[SimHost], None]) -> None:
        """`on_start` hears of each process right after its start."""
        self.world, self.scenario, self._on_start = world, scenario, on_start
        self.damaged: set[int] = set()
        """Nodes that may stay out, for a row of theirs was damaged or lost."""
        self.is_over = False
        self.dead_clients: set[str] = set()
        self._active: list[Fault] = []
        self._weather = Weather()
        self._stopping: dict[int, asyncio.Task[None]] = {}
        self._rng = world.stream("nemesis")
        self._names = [host.name for host in world.hosts]
        self._names += [client_name(number) for number in range(len(scenario.clients))]
        self._sync_s = (scenario.cluster.sync_ms or 0.3) / 1000
        self._set_wires()

    def start(self, node: int) -> None:
        """Start a node's process."""
        self.world.start(node)
        self._on_start(self.world.hosts[node])

    # -- in time

    def begin(self) -> None:
        """Begin the faults that stand from the first moment, before anybody connects."""
        for fault in self.scenario.faults:
            if not fault.at_ms:
                self._begin(fault)

    async def run(self) -> None:
        """Begin and end every other fault at its time."""
        start_ms = self.world.now_ms
        moments: list[tuple[float, int, Callable[[Fault], None], Fault]] = []
        for number, fault in enumerate(self.scenario.faults):
            if fault.at_ms:
                moments.append((fault.at_ms, 2 * number, self._begin, fault))
            moments.append((fault.at_ms + fault.for_ms, 2 * number + 1, self._end, fault))
        for at_ms, _, happen, fault in sorted(moments, key=lambda moment: moment[:2]):
            await asyncio.sleep(max(0.0, (start_ms + at_ms - self.world.now_ms) / 1000))
            happen(fault)

    async def heal(self) -> None:
        """End every fault, and return once every node serves that may."""
        self.is_over = True
        self._active = []
        for host in self.world.hosts:
            host.disk.repair()
        self._change()
        for task in list(self._stopping.values()):
            await asyncio.wait((task,))
        for host in self.world.hosts:
            host.clock.correct()
        await self.world.serving()

    def _begin(self, fault: Fault) -> None:
        self.world.tell("fault", "begins", fault.kind, repr(fault.nodes), f"{fault.amount:g}")
        self._active.append(fault)
        if fault.kind in BLOWS:
            BLOWS[fault.kind](self, fault)
        self._change()

    def _end(self, fault: Fault) -> None:
        self.world.tell("fault", "ends", fault.kind, repr(fault.nodes), f"{fault.amount:g}")
        self._active.remove(fault)
        self._change()

    # -- blows

    def _crash(self, fault: Fault) -> None:
        is_kill = fault.amount >= ALL_GROUPS
        for node in fault.nodes:
            if self.world.hosts[node].is_up:
                silently = not is_kill and self._rng.random() < 0.3
                kept = None if is_kill else int(fault.amount)
                self.world.crash(node, keep_unsynced=kept, silently=silently)

    def _reset(self, fault: Fault) -> None:
        self.world.network.reset(*(self._names[node] for node in fault.nodes))

    def _hang_up(self, fault: Fault) -> None:
        for host in self.world.hosts:
            self.world.network.reset(client_name(int(fault.amount)), host.name)

    def _strand(self, fault: Fault) -> None:
        self.world.network.strand(*(self._names[node] for node in fault.nodes))

    def _fail_disk(self, fault: Fault) -> None:
        for node in fault.nodes:
            self.world.hosts[node].disk.fails = True

    def _flip(self, fault: Fault) -> None:
        for node in fault.nodes:
            disk = self.world.hosts[node].disk
            if disk.keys:
                disk.flip_bit()
                self.damaged.add(node)

    def _misdirect(self, fault: Fault) -> None:
        for node in fault.nodes:
            disk = self.world.hosts[node].disk
            data = [key for key in disk.keys if not key.startswith(META_PREFIX)]
            if len(data) > 1:
                disk.misdirect(*self._rng.sample(data, 2))
                self.damaged.add(node)
                if fault.amount and self.world.hosts[node].is_up:
                    self.world.crash(node)

    def _lose_power(self, fault: Fault) -> None:
        for node in fault.nodes:
            host = self.world.hosts[node]
            if host.is_up:
                self.world.crash(node, keep_unsynced=int(fault.amount), silently=self._rng.random() < 0.5)
                if host.has_lost:
                    self.damaged.add(node)

    def _kill_client(self, fault: Fault) -> None:
        name = client_name(int(fault.amount))
        if name in self.world.clients:
            self.world.kill_client(name)
            self.dead_clients.add(name)

    # -- weather

    def _change(self) -> None:
        """Make the world as the active faults want it."""
        cluster = self.scenario.cluster
        self._weather = weather_of(self._active, cluster, len(self.scenario.clients))
        self._set_wires()
        for node, host in enumerate(self.world.hosts):
            self._set_disk(node, host)
            self._set_clock(node, host)
            self._set_process(node, host)

    def _set_wires(self) -> None:
        weather, network = self._weather, self.world.network
        low_ms, high_ms = self.scenario.cluster.delay_ms
        count = len(self._names)
        for a in range(count):
            for b in range(count):
                pair, wire = (a, b), network.wire(self._names[a], self._names[b])
                wire.latency_s = (low_ms + weather.delays_ms.get(pair, 0.0)) / 1000
                wire.jitter_s = (high_ms - low_ms) / 2000
                wire.loss = weather.losses.get(pair, 0.0)
                wire.bytes_per_s = weather.bytes_per_s.get(pair, inf)
                wire.is_refused = pair in weather.refused
                wire.piece_bytes_max = PIECE_BYTES_MAX if pair in weather.dripping else 0
                wire.is_blocked = pair in weather.blocked

    def _set_disk(self, node: int, host: SimHost) -> None:
        weather, disk = self._weather, host.disk
        disk.sync_s = self._sync_s + weather.slow_disks_ms.get(node, 0.0) / 1000
        disk.is_held, disk.is_full = node in weather.held_disks, node in weather.full_disks
        disk.is_unreadable = node in weather.unreadable_disks

    def _set_process(self, node: int, host: SimHost) -> None:
        weather = self._weather
        if not host.is_up:
            away = weather.down | weather.stopped | weather.unreadable_disks
            if node not in away and not self._is_lost(node, host):
                self.start(node)
        elif node in weather.stopped and node not in self._stopping and host.is_serving:
            self._stopping[node] = asyncio.create_task(self._stop(node))
        if node in weather.paused:
            self.world.pause(node)
        else:
            self.world.resume(node)

    def _is_lost(self, node: int, host: SimHost) -> bool:
        return node in self.damaged and (host.has_lost or isinstance(host.death, StorageError))

    async def _stop(self, node: int) -> None:
        await self.world.stop(node)
        del self._stopping[node]
        self._change()

    def _set_clock(self, node: int, host: SimHost) -> None:
        weather, clock = self._weather, host.clock
        clock.offset_ms = weather.offsets_ms.get(node, 0)
        clock.rate = max(0.05, 1.0 + weather.drifts.get(node, 0.0))
        clock.is_frozen = node in weather.frozen


BLOWS: dict[str, Callable[[Nemesis, Fault], None]] = {
    "crash": Nemesis._crash,
    "reset": Nemesis._reset,
    "hang up": Nemesis._hang_up,
    "half-open": Nemesis._strand,
    "failing disk": Nemesis._fail_disk,
    "bit flip": Nemesis._flip,
    "misdirected write": Nemesis._misdirect,
    "power loss": Nemesis._lose_power,
    "client": Nemesis._kill_client,
}
