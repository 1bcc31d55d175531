"""A randomized run of a whole cluster: clients that retry, every fault at random, and everything checked.

One seed makes one run: the cluster's shape, the faults, the order of messages, the clients.  `run` raises
AssertionError with whatever does not hold; the same seed shows it again.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

import msgpack
from checkers.keyed import NEVER_NS
from checkers.search import Verdict, explain
from checkers.steps import Kind, Step
from oracle import WatchedWorld
from world import Call

from kvclient.wire import messages as m
from kvclient.wire.values import Version
from kvnode.config import Limits, StoreConfig

SHAPES = [(3, 3, 2, 2)] * 5 + [(5, 5, 3, 3), (5, 5, 2, 4), (4, 4, 2, 3), (3, 3, 1, 3), (3, 3, 3, 1), (5, 3, 2, 2)]
ATTEMPT_S = 1.5
GC_GRACE_S = 100
"""Of a run that reaps: longer than any message in it is late, but for those whose lateness must not matter."""
LEAPS_S = (5.0, 30.0, 60.0)


KINDS = ["put", "cas", "create", "delete", "get", "add", "weak put", "weak get", "weak delete"]


@dataclass
class Try:
    """One operation of a client, over all its attempts."""

    key: str
    kind: str
    value: bytes
    needs: bytes | None
    etag: str
    sequence: int
    invoked: float
    issued_at_ms: int
    calls: list[Call] = field(default_factory=list)
    sent_s: float = 0.0


class Client:
    """One session: strong and eventual operations, one at a time, retried with the same id."""

    def __init__(self, run: Run, number: int) -> None:
        self.run = run
        self.session = b"client%02d" % number
        self.sequence = 0
        self.current: Try | None = None
        self.etags: dict[str, tuple[str, bytes | None]] = {}

    def step(self) -> None:
        """Go on: answer, time-out, or the next operation."""
        doing = self.current
        if doing is None:
            self._begin()
        elif doing.calls[-1].answer is not None or self.run.now_s > doing.sent_s + ATTEMPT_S:
            self._advance(doing)

    def _begin(self) -> None:
        rng, run = self.run.rng, self.run
        if run.is_ending:
            return
        kind = rng.choices(KINDS, run.weights)[0]
        key = "counter" if kind == "add" or (kind == "get" and rng.random() < 0.2) else rng.choice(run.keys)
        etag, needs = self.etags.get(key, ("", None))
        if kind == "cas" and not etag:
            kind = "get"
        at = run.pick(key)
        if at is None:
            return
        self.sequence += 1
        value = self.session + b"/%d" % self.sequence
        self.current = Try(key, kind, value, needs, etag, self.sequence, run.now_s, run.world.now_ms(at))
        self._send(self.current, at)

    def _send(self, doing: Try, at: int) -> None:
        world, kind, key = self.run.world, doing.kind, doing.key
        doing.sent_s = self.run.now_s
        if kind == "get":
            call = world.get(key, at, timeout_ms=1400)
        elif kind == "weak get":
            call = world.get(key, at, strong=False, r=self.run.rng.choice([1, 2]), timeout_ms=1400)
        elif kind in ("weak put", "weak delete"):
            value = doing.value if kind == "weak put" else None
            call = world.write(key, value, at, w=self.run.rng.choice([1, 1, 2]), timeout_ms=1400)
        else:
            if kind == "add":
                doing.value = b"%d" % (int(doing.needs or b"0") + 1)
            call = world.mutate(
                key,
                m.DELETE if kind == "delete" else m.PUT,
                b"" if kind == "delete" else b"\0" + doing.value,
                at,
                etag=doing.etag if doing.etag and kind in ("cas", "add") else None,
                create=kind == "create" or (kind == "add" and not doing.etag),
                sequence=doing.sequence,
                session=self.session,
                attempt=len(doing.calls) + 1,
                mark=doing.sequence,
                issued_at_ms=doing.issued_at_ms,
            )
        doing.calls.append(call)

    def _advance(self, doing: Try) -> None:
        run, answer = self.run, doing.calls[-1].answer
        if doing.kind in ("get", "weak get", "weak put", "weak delete"):
            self._finish(doing)
            return
        applied = next((c for c in doing.calls if c.kind == m.APPLIED), None)
        is_settled = answer is not None and (answer[0] == m.CONFLICT or (answer[0] == m.FAILED and answer[4]))
        attempts_max = 60 if doing.kind == "add" else run.rng.choice([2, 6])
        if applied is None and not is_settled and len(doing.calls) < attempts_max:
            at = run.pick(doing.key)
            if at is not None and run.now_s > doing.sent_s + 0.05:
                self._send(doing, at)
            return
        self._finish(doing)

    def _finish(self, doing: Try) -> None:
        self.current = None
        self.run.record(self, doing)


class Run:
    """One seed."""

    def __init__(self, seed: int, steps: int = 700, *, reaps: bool = False) -> None:
        """`reaps`: much is deleted, time leaps now and then, and tombstones are purged meanwhile."""
        self.rng = random.Random(seed)
        self.seed, self.steps = seed, steps
        nodes, replicas, q1, q2 = self.rng.choice(SHAPES)
        limits = Limits(
            registers_max=self.rng.choice([1, 2, 65536]),
            cached_promises_max=self.rng.choice([0, 1, 65536, 65536]),
            scan_pause_s=20.0,
        )
        self.reaps = reaps
        store = StoreConfig("default", replicas=replicas, q1=q1, q2=q2, gc_grace_s=GC_GRACE_S if reaps else 86_400)
        self.world = WatchedWorld(nodes, seed, store=store, limits=limits)
        self.keys = ["a", "b"]
        self.is_mixed = self.rng.random() < 0.5
        weak = (0.6, 2.0) if self.is_mixed else (0.0, 0.5)
        self.weights = [3, 3, 1.5, 1, 4, 3, *weak, 0.0]
        if reaps:
            self.weights = [1, 1, 3, 4, 3, 1, *weak, 0.8 * self.is_mixed]
        self.clients = [Client(self, number) for number in range(self.rng.choice([2, 3, 5]))]
        self.faults = {
            name for name in ("crash", "cut", "disk", "clock", "hold") if self.rng.random() < 0.6
        }  # swarm: each run has some of the faults
        self.is_ending = False
        self.history: dict[str, list[Step]] = {"a": [], "b": [], "counter": []}
        self.weak_values: dict[str, set[bytes]] = {"a": set(), "b": set()}
        self.weak_reads: list[tuple[str, bytes]] = []
        self.applied: list[tuple[str, bytes, int, Version]] = []
        self.added = self.unsettled = 0

    @property
    def now_s(self) -> float:
        return self.world.scheduler.now_s

    def pick(self, key: str) -> int | None:
        """Return a node that is up, mostly an owner."""
        up = [index for index, host in enumerate(self.world.hosts) if host.is_up]
        owners = [index for index in self.world.owners(key) if index in up]
        return self.rng.choice(owners if owners and self.rng.random() < 0.9 else up) if up else None

    def go(self) -> None:
        """Run, heal, and check everything."""
        world, rng = self.world, self.rng
        for _ in range(self.steps):
            for client in self.clients:
                if rng.random() < 0.3:
                    client.step()
            for _ in range(rng.choice([1, 5, 20])):
                world.micro()
            if rng.random() < 0.5:
                world.scheduler.now_s += rng.choice([0.0005, 0.003, 0.02, 0.2])
            if self.faults and rng.random() < 0.08:
                self._fault(rng.choice(sorted(self.faults)))
            if self.reaps and rng.random() < 0.02:
                self._rest()
            world.invariants()
        self._heal()
        self._check()

    def _fault(self, name: str) -> None:
        world, rng = self.world, self.rng
        node, other = rng.sample(range(len(world.hosts)), 2)
        if name == "crash":
            self._crash(node)
        elif name == "cut":
            if (node, other) in world.cut_links:
                self._mend(node, other)
            else:
                world.cut(node, other)
        elif name == "disk":
            if node in world.held_disks:
                world.release_disk(node)
            elif world.hosts[node].is_up:
                world.hold_disk(node)
        elif name == "clock":
            offsets_ms = [0, 0, 200, -200, 450, -450] + [-5000, 5000] * (not self.reaps)
            world.set_clock(node, rng.choice(offsets_ms))
        elif (node, other) in world.held:
            world.release(node, other)
        else:
            world.hold(node, other)

    def _rest(self) -> None:
        """Let clients do little, and time pass in leaps, so that some step of a purge falls between two faults."""
        rng = self.rng
        for _ in range(rng.choice([4, 12])):
            self._leap()
            for _ in range(rng.choice([50, 200, 400])):
                self.world.micro()
                if rng.random() < 0.02:
                    self.world.scheduler.now_s += 0.05
            if rng.random() < 0.1:
                rng.choice(self.clients).step()
            if self.faults and rng.random() < 0.2:
                self._fault(rng.choice(sorted(self.faults)))
            self.world.invariants()

    def _leap(self) -> None:
        """Let much time pass at once.  What is on its way comes late, as old as it is; but repairs out of another's
        state are never older than gc_grace (R37), so those are lost."""
        queues = self.world.queues
        for pair, queue in queues.items():
            queues[pair] = deque(packed for packed in queue if msgpack.unpackb(packed)[0] != m.REPAIR)
        self.world.scheduler.now_s += self.rng.choice(LEAPS_S)

    def _crash(self, node: int) -> None:
        world, rng = self.world, self.rng
        if world.hosts[node].is_up:
            world.crash(node, keep_unsynced=rng.choice([0, 0, 1]))
        for index, host in enumerate(world.hosts):
            if not host.is_up and rng.random() < 0.6:
                self._restart(index, rng.choice([0, 0, -3000, 300]) if "clock" in self.faults else 0)

    def _restart(self, index: int, offset_ms: int = 0) -> None:
        run, self.world.run = self.world.run, lambda elapsed_s=0.0: None  # type: ignore[method-assign]
        self.world.restart(index, offset_ms=offset_ms)
        self.world.run = run  # type: ignore[method-assign]

    def _mend(self, one: int, other: int) -> None:
        if self.world.hosts[one].is_up and self.world.hosts[other].is_up:
            self.world.mend(one, other)
        else:
            self.world.cut_links -= {(one, other), (other, one)}

    def _heal(self) -> None:
        world = self.world
        self.is_ending = True
        world.held.clear()
        for index, host in enumerate(world.hosts):
            world.release_disk(index)
            if host.is_up:
                world.set_clock(index, 0)
            host.clock.offset_ms = 0
        for one, other in sorted(world.cut_links):
            if one < other:
                self._mend(one, other)
        for index, host in enumerate(world.hosts):
            if not host.is_up:
                self._restart(index)
        for _ in range(200):
            for client in self.clients:
                client.step()
            world.run(0.1)
            if not any(client.current for client in self.clients):
                break
        assert not any(client.current for client in self.clients), "an operation never ends after all faults have"
        world.run(6.0)

    # -- what clients saw

    def record(self, client: Client, doing: Try) -> None:
        """Put a finished operation into the history."""
        answer = doing.calls[-1].answer
        if doing.kind in ("get", "weak get"):
            if answer is not None and answer[0] == m.ITEM:
                self._record_read(client, doing)
            return
        if doing.kind in ("weak put", "weak delete"):
            self.weak_values[doing.key].add(doing.value)
            if answer is None or answer[0] == m.APPLIED or answer[3] == "unknown":
                write = self._maybe(Kind.WRITE, doing, leaves=doing.value if doing.kind == "weak put" else None)
                ended = self._now_ns() if answer is not None and answer[0] == m.APPLIED else NEVER_NS
                self.history[doing.key].append(write._replace(fence=0, floats_until=ended))
            return
        self._record_mutation(client, doing)

    def _record_read(self, client: Client, doing: Try) -> None:
        call = doing.calls[-1]
        value = call.value
        if doing.kind == "weak get":
            if value is not None:
                self.weak_reads.append((doing.key, value))
            return
        self.history[doing.key].append(self._surely(Kind.OBSERVE, doing, needs=value))
        client.etags[doing.key] = (call.etag, value) if value is not None else ("", None)

    def _record_mutation(self, client: Client, doing: Try) -> None:
        leaves = None if doing.kind == "delete" else doing.value
        is_checked = doing.kind in ("cas", "create", "add")
        needs = doing.needs if doing.kind in ("cas", "add") else None
        applied = next((call for call in doing.calls if call.kind == m.APPLIED), None)
        last = doing.calls[-1].answer
        steps = self.history[doing.key]
        kind = Kind.SWAP if is_checked else Kind.WRITE
        if applied is not None:
            steps.append(self._surely(kind, doing, needs, leaves))
            self.added += doing.kind == "add"
            if applied.answer and applied.answer[2]:
                self.applied.append((doing.key, client.session, doing.sequence, Version(applied.answer[2])))
                client.etags[doing.key] = (applied.etag, leaves) if leaves is not None else ("", None)
        elif last is not None and last[0] == m.CONFLICT:
            # The coordinator may have proposed it twice: then it was refused at one moment, and what it shows is later.
            saw = doing.calls[-1].value
            steps.append(self._surely(Kind.REFUTE, doing, needs))
            steps.append(self._surely(Kind.OBSERVE, doing, saw))
            client.etags[doing.key] = (doing.calls[-1].etag, saw) if saw is not None else ("", None)
        elif not self._is_void(doing):
            self.unsettled += doing.kind == "add"
            steps.append(self._maybe(kind, doing, needs, leaves))

    def _now_ns(self) -> int:
        return round(self.now_s * 1e9)

    def _surely(self, kind: Kind, doing: Try, needs: bytes | None = None, leaves: bytes | None = None) -> Step:
        return self._maybe(kind, doing, needs, leaves)._replace(by=self._now_ns(), is_must=True)

    def _maybe(self, kind: Kind, doing: Try, needs: bytes | None = None, leaves: bytes | None = None) -> Step:
        invoked = round(doing.invoked * 1e9)
        left = needs if kind <= Kind.REFUTE else leaves
        return Step(kind, _text(needs), _text(left), invoked, NEVER_NS, is_must=False, fence=invoked)

    @staticmethod
    def _is_void(doing: Try) -> bool:
        """Return whether the operation was definitely not applied, by any attempt."""
        answers = [call.answer for call in doing.calls]
        last = answers[-1]
        if last is not None and last[0] == m.FAILED and last[4]:  # settled: for every attempt, one way or the other
            return bool(last[3] == "not applied")
        return all(answer is not None and answer[0] == m.FAILED and answer[3] == "not applied" for answer in answers)

    # -- the verdict

    def _check(self) -> None:
        world = self.world
        world.invariants()
        for key in (*self.keys, "counter"):
            for at in world.owners(key):
                call = world.get(key, at)
                invoked = self._now_ns()
                world.run(2.0)
                assert call.kind == m.ITEM, f"no strong read of {key} after all faults have ended: {call.answer}"
                shown = _text(call.value)
                self.history[key].append(Step(Kind.OBSERVE, shown, shown, invoked, self._now_ns(), is_must=True))
        for key, session, sequence, version in self.applied:
            world.oracle.check_applied(world.row_key(key), session, sequence, version)
        for key, value in self.weak_reads:
            if key != "counter":
                known = {b"\0" + weak for weak in self.weak_values[key]} | world.oracle.contents(world.row_key(key))
                assert b"\0" + value in known, f"a dirty read of {value!r}"
        for key in self.keys:
            verdict, _ = explain(self.history[key])
            assert verdict is Verdict.EXPLAINED, f"{key} is not linearizable: {verdict.value}"
        self._check_counter()
        if self.reaps:
            self._check_reaped()

    def _check_reaped(self) -> None:
        """Check that what is deleted leaves no row anywhere, and that nothing of it ever comes back."""
        world = self.world
        for key in self.keys:
            world.delete(key)
            world.run(2.0)
        world.run(400.0)
        for key in self.keys:
            rows = [index for index in world.owners(key) if world.hosts[index].engine.load(world.row_key(key))]
            assert not rows, f"a tombstone of {key} is left at {rows}"
            for at in world.owners(key):
                assert world.read(key, at) is None, f"{key} came back"
                weak = world.get(key, at, strong=False)
                world.run()
                assert weak.value is None, f"{key} came back for an eventual read"

    def _check_counter(self) -> None:
        call = self.world.get("counter")
        self.world.run(2.0)
        counted = int(call.value or b"0")
        assert self.added <= counted <= self.added + self.unsettled, f"{counted} counted, {self.added} applied"


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()


def run(seed: int, steps: int = 700, *, reaps: bool = False) -> Run:
    """Run one seed; raises AssertionError for whatever does not hold."""
    made = Run(seed, steps, reaps=reaps)
    made.go()
    return made
