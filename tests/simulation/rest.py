"""What must come once all faults have ended: every key can be read, replicas agree, everybody shows the same, and every
node takes writes.

Decides: how long healing, reads and agreement may take, what is compared in the end, and what is written then.  Leaves
to others: ending the faults (`nemesis`) and judging the history (`checkers`).

Replicas must come to agree by themselves first, without a read (R32).  Then each key is read once strongly, which may
settle a proposal whose fate was unknown, and once from all its replicas; then they must agree once more.  The writes
come last and are no part of the history, lest they hide what was lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from simulation.faults import CLOCK_FAULTS
from simulation.hints_only import compare_again, excuse
from simulation.nemesis import Nemesis
from simulation.scenario import Scenario
from simulation.violation import broken
from simulation.workload import Watch
from simulation.world import SimHost

import kvclient
from kvclient.errors import KvError
from kvclient.wire.values import body_content, body_times, body_version
from kvnode.core.register import visible_body
from kvnode.core.version import version_text

READ_TIMEOUT_S: Final = 10.0
"""Within which a read must succeed."""
WRITE_TIMEOUT_S: Final = 2.0
"""How long one attempt to write may take; one must succeed within `READ_TIMEOUT_S`."""
HEAL_S: Final = 40.0
"""Within which replicas must agree by themselves: comparisons come every few seconds here (`run.HEALING`)."""
AGREEMENT_S: Final = 10.0
"""Within which replicas must agree after the reads that repair them."""
PURGE_S: Final = 20.0
"""Within which deletes must be purged, beyond gc_grace, where waiting is cut short (`haste`)."""
POLL_S: Final = 0.25
POLL_S_MAX: Final = 2.0
_ENDS_PROCESSES: Final = (
    "crash",
    "stop",
    "failing disk",
    "unreadable disk",
    "power loss",
    "bit flip",
    "misdirected write",
)

Shown = str | int | None


class Rest:
    """The end of one run."""

    def __init__(self, scenario: Scenario, watch: Watch, nemesis: Nemesis) -> None:
        self._scenario, self._watch, self._nemesis = scenario, watch, nemesis
        self._world = watch.world
        self._ahead_s = clock_ahead_s(scenario)

    async def come(self) -> None:
        """Let the replicas be repaired, agree, show the same to everybody, and take writes.

        An eventual write stamped by a clock that was ahead is refused by the others until their time has come (R2); so
        then it takes that much longer.
        """
        await self._operations_end()
        if not self._scenario.cluster.compares:
            await self._hints_heal()
        differing = await self._disagreement(HEAL_S)
        if differing and self._ahead_s:
            await asyncio.sleep(self._ahead_s)
            differing = await self._disagreement(HEAL_S)
        if differing:
            broken("replicas do not heal", differing)
        await self._spawned("reader", self._read_all)
        differing = await self._disagreement(AGREEMENT_S)
        if differing and self._ahead_s:
            await asyncio.sleep(self._ahead_s)
            await self._spawned("second reader", self._read_all)
            differing = await self._disagreement(AGREEMENT_S)
        if differing:
            broken("replicas do not agree", differing)
        self._check_registers()
        ttls_ms = [act.ttl_ms for acts in self._scenario.clients for act in acts]
        await asyncio.sleep(max(ttls_ms, default=0) / 1000)
        if self._scenario.cluster.gc_grace_s:
            await self._purges()
        await self._spawned("judge", self._read_finally)
        await self._write_everywhere()

    async def _hints_heal(self) -> None:
        """Replicas come to agree by hints alone, unless these are excused."""
        differing = await self._disagreement(HEAL_S + self._ahead_s)
        if differing and not excuse(self._world, self._scenario, self._watch.recorder.operations):
            broken("a hint was lost", differing)
        compare_again(self._world)

    async def _operations_end(self) -> None:
        """No node works any more on what clients asked for: an operation whose client was told that its outcome is
        unknown runs until its deadline, which is of its first coordinator's time (R24)."""
        end_s = self._world.loop.now_s + READ_TIMEOUT_S + self._ahead_s + clock_behind_s(self._scenario)
        while busy := [host.name for host in self._world.hosts if host.is_serving and host.node.statistics.in_flight]:
            if self._world.loop.now_s > end_s:
                broken("an operation never ends", ", ".join(busy))
            await asyncio.sleep(POLL_S)

    async def _purges(self) -> None:
        """Every tombstone goes from every disk once it is old enough, unless a replica stays out, which it waits for;
        and no restart brings it back.

        Not as soon where clocks were ahead: no floor is raised to a promise of a time that has not come (R36).
        """
        if not all(host.is_serving for host in self._world.hosts) or self._nemesis.damaged:
            return
        end_s = self._world.loop.now_s + self._scenario.cluster.gc_grace_s + PURGE_S + 2 * self._ahead_s
        while left := self._tombstones():
            if self._world.loop.now_s > end_s:
                broken("a tombstone is never purged", left)
            await asyncio.sleep(POLL_S)
        for host in self._world.hosts:
            self._world.crash(host.index)
            self._nemesis.start(host.index)
        await self._world.serving()
        if differing := await self._disagreement(HEAL_S):
            broken("replicas do not agree after a restart", differing)

    def _tombstones(self) -> str:
        """Return the keys anywhere that are a tombstone, or should be by now, for a person."""
        left = []
        for host in self._world.hosts:
            for key, row in host.engine.scan(b"", b"\xff\xff"):
                register = host.node.registers.peek(key)  # a commit may be in memory only
                body = visible_body(row if register is None else register.image)
                if body and (not body_content(body) or 0 < body_times(body)[0] <= host.clock.wall_ms()):
                    left.append(f"{key[2:]!r} at {host.name}: {version_text(body_version(body))}")
        return "; ".join(left)

    async def _spawned(self, name: str, client: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a client as a host of its own to its end."""
        task = self._world.spawn(name, client)
        await asyncio.wait((task,))
        task.result()

    # -- reads

    async def _read_all(self) -> None:
        async with kvclient.connect(self._world.addresses) as kv:
            for key in self._scenario.keys:
                await self._read(kv, key, "strong", lambda: 0)
                await self._read(kv, key, "eventual", partial(self._live_count, key))

    async def _read_finally(self) -> None:
        async with kvclient.connect(self._world.addresses) as kv:
            stands: dict[str, Shown] = {}
            for key in self._scenario.keys:
                stands[key] = await self._read(kv, key, "strong", lambda: 0, is_final=True)
                await self._read(kv, key, "eventual", lambda: 1, is_final=True)
            await self._check_scan(kv, stands)

    async def _read(
        self, kv: kvclient.Kv, key: str, consistency: Any, r: Callable[[], int], *, is_final: bool = False
    ) -> Shown:
        """Read one key until it can be read, which must soon be so.

        Not as soon where clocks were ahead: promises were given in their time, and acceptors that did not meet these
        refuse ballots above them until their own time has come (R5).
        """
        recorder = self._watch.recorder
        end_s = self._world.loop.now_s + READ_TIMEOUT_S + self._ahead_s
        while True:
            index = recorder.invoke("reader", "read", key, mode=consistency, is_final=is_final)
            try:
                item = await kv.get(key, consistency=consistency, r=r() or None, timeout=READ_TIMEOUT_S)
            except KvError as error:
                recorder.fail(index, error.code)
                if not error.retryable or self._world.loop.now_s > end_s:
                    broken("no read after all faults have ended", f"{consistency} read of {key}, r={r()}: {error}")
            else:
                self._watch.check_shown(key, item, is_strong=consistency == "strong")
                shown = self._watch.shown(item)
                recorder.ok(index, shown, item.etag if item else None)
                return shown
            await asyncio.sleep(POLL_S)

    async def _check_scan(self, kv: kvclient.Kv, stands: dict[str, Shown]) -> None:
        """A scan shows what single reads show; what may expire in between is left out."""
        scanned = {item.key: self._watch.shown(item) async for item in kv.scan("")}
        for key, shown in stands.items():
            if not key.startswith("t") and scanned.get(key) != shown:
                broken("a scan shows something else", f"{key}: {scanned.get(key)!r}, and a read {shown!r}")

    # -- writes

    async def _write_everywhere(self) -> None:
        """Every node takes writes from a client that reaches no other, of a new key and of keys of the run."""
        hosts, keys = self._world.hosts, self._scenario.keys
        for host in hosts:
            if host.is_serving:
                some = (own_key(host.index), *keys[host.index :: len(hosts)])
                await self._spawned(_writer_at(host), partial(self._write_at, host, some))
            else:
                self._check_damaged(host)

    async def _write_at(self, host: SimHost, keys: tuple[str, ...]) -> None:
        for other in self._world.hosts:
            self._world.network.wire(_writer_at(host), other.name).is_refused = other is not host
        async with kvclient.connect(self._world.addresses) as kv:
            for key in keys:
                if self._scenario.cluster.mix == "allow":
                    await self._write(kv, host, key, is_strong=False)
                await self._write(kv, host, key, is_strong=True)

    async def _write(self, kv: kvclient.Kv, host: SimHost, key: str, *, is_strong: bool) -> None:
        """Write one key until it can be written, which must be so as soon as it can be read (see `_read`).

        An eventual write goes to all its replicas: else nobody would notice one that takes none.  A node dies of damage
        that it finds now.
        """
        consistency: Any = "strong" if is_strong else "eventual"
        end_s, poll_s = self._world.loop.now_s + READ_TIMEOUT_S + self._ahead_s, POLL_S
        while host.is_serving:
            value = f"{host.name} at {self._world.loop.now_s}".encode()  # each is written once, as the oracle insists
            index = self._watch.last_writes.invoke(_writer_at(host), "write", key, value.decode(), mode=consistency)
            w = None if is_strong else self._live_count(key)
            try:
                item = await kv.put(key, value, consistency=consistency, w=w, timeout=WRITE_TIMEOUT_S)
            except KvError as error:
                self._watch.last_writes.info(index, error.code)
                if self._world.loop.now_s > end_s:
                    text = f"{consistency} write of {key} at {host.name}, w={w}: {error}"
                    broken("no write after all faults have ended", text)
            else:
                self._watch.last_writes.ok(index, etag=item.etag)
                self._watch.check_acknowledged(key, item, 0 if is_strong else w or 1)
                return
            await asyncio.sleep(poll_s)
            poll_s = min(2 * poll_s, POLL_S_MAX)
        self._check_damaged(host)

    def _check_damaged(self, host: SimHost) -> None:
        """Nothing else is a reason not to serve."""
        if host.index not in self._nemesis.damaged:
            broken("a node does not serve after all faults have ended", f"{host.name}: {host.death}")

    # -- agreement

    async def _disagreement(self, within_s: float) -> str:
        """Wait until all replicas show the same of every key; return what still differs after `within_s`."""
        end_s = self._world.loop.now_s + within_s
        while (differing := self._differing()) and self._world.loop.now_s < end_s:
            await asyncio.sleep(POLL_S)
        return differing

    def _differing(self) -> str:
        """Return the keys of which owners show different versions, or hold proposals that nobody settles (R32), for a
        person; empty if there are none."""
        texts = []
        for key in self._scenario.keys:
            shown = {}
            for host in self._live_owners(key):
                if host.index not in self._nemesis.damaged:  # it dies of its damage when it looks
                    image = host.node.registers.get(self._watch.row_key(key)).shown
                    body = b"" if image.settled and not image.overlay else visible_body(image)  # as good as absent, R38
                    shown[host.name] = version_text(body_version(body))
                    if image.accepted_ballot:
                        texts.append(f"{key}: {host.name} does not know whether its proposal is chosen")
            if len(set(shown.values())) > 1:
                texts.append(f"{key}: {', '.join(f'{name} {version}' for name, version in shown.items())}")
        return "; ".join(texts)

    def _live_owners(self, key: str) -> list[SimHost]:
        owners = self._world.hosts[0].node.placements.of(b"default\0" + key.encode()).owners
        return [self._world.hosts[index] for index in owners if self._world.hosts[index].is_serving]

    def _live_count(self, key: str) -> int:
        return len(self._live_owners(key))

    def _check_registers(self) -> None:
        for host in self._world.hosts:
            if host.is_serving:
                for register in host.node.registers._cache.values():
                    register.invariants()
                if drifted := host.node.healing.trees.drifted:
                    broken("a hash tree is not what its rows say", f"{drifted} of {host.name}")


def own_key(node: int) -> str:
    """Return the key that only the writer at a node writes."""
    return f"w{node}"


def _writer_at(host: SimHost) -> str:
    return f"writer at {host.name}"


def clocks_are_right(scenario: Scenario) -> bool:
    """Return whether no clock is ever wrong, so that time is what all of them say."""
    return not (any(scenario.cluster.offsets_ms) or any(fault.kind in CLOCK_FAULTS for fault in scenario.faults))


def clock_ahead_s(scenario: Scenario) -> float:
    """Return how far ahead a clock may have been at the most, and not known for wrong by its node."""
    return 0.0 if _leap_is_seen(scenario) else _clock_wrong_s(scenario, 1)


def clock_behind_s(scenario: Scenario) -> float:
    """Return how far behind a clock may have been at the most."""
    standing_ms = sum(fault.for_ms for fault in scenario.faults if fault.kind == "frozen clock")
    return _clock_wrong_s(scenario, -1) + standing_ms / 1000


def _leap_is_seen(scenario: Scenario) -> bool:
    """Return whether clocks were right but for one leap, at a process that had seen them right.

    It goes on from the time before (`kvnode.service.steady`).
    """
    wrong = [fault for fault in scenario.faults if fault.kind in CLOCK_FAULTS]
    is_alone = (
        len(wrong) == 1 and wrong[0].kind == "clock" and wrong[0].at_ms > 0 and not any(scenario.cluster.offsets_ms)
    )
    return is_alone and not any(fault.kind in _ENDS_PROCESSES for fault in scenario.faults)


def _clock_wrong_s(scenario: Scenario, sign: int) -> float:
    wrong_ms = max([0, *(sign * offset for offset in scenario.cluster.offsets_ms)])
    for fault in scenario.faults:
        if fault.kind == "clock":
            wrong_ms += max(0, sign * int(fault.amount))
        elif fault.kind == "drift":
            wrong_ms += int(max(0.0, sign * fault.amount) * fault.for_ms)
    return wrong_ms / 1000
