"""Random schedules of one key, each from one seed: nodes, coordinators, clients, a network and clocks without manners.

`run(seed)` raises `Violation` (or the code's own `InvariantViolation`) if the schedule broke the protocol.  Each seed
first draws a *plan*: which faults and operations occur, and how often (swarm testing: a schedule that does everything
at once rarely does the same thing twice).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from property.onekey.coordinator import Coordinator
from property.onekey.node import Node, Switches
from property.onekey.oracle import Decision, Lineage, Oracle
from property.onekey.plan import Plan, draw_plan

from kvclient.wire.values import NO_BALLOT, NO_VERSION, Version, body_version
from kvnode.core import change
from kvnode.core import operation as op
from kvnode.core import window as windows
from kvnode.core.operation import CHECK_ABSENT, CHECK_ETAG, CHECK_NONE, Operation, Result, Step
from kvnode.core.proposer import Round
from kvnode.core.quorum import Quorums
from kvnode.core.record import NO_ENTRY, Entry, Record

START_MS = 1_000_000_000
SIZES = (Quorums(3, 2, 2), Quorums(3, 2, 2), Quorums(4, 2, 3), Quorums(5, 2, 4), Quorums(5, 3, 3), Quorums(4, 3, 2))


@dataclass
class Client:
    """A session: one operation at a time, further attempts under the same id."""

    session: bytes
    sequence: int = 0
    open: set[int] = field(default_factory=set)
    operation: Operation | None = None
    asked: Lineage = ()
    etag: Version = NO_VERSION


class Schedule:
    """One run."""

    def __init__(self, seed: int, quorums: Quorums | None = None, on: Switches | None = None, plan: Plan | None = None):
        self.random = rng = random.Random(seed)
        self.quorums = quorums or rng.choice(SIZES)
        self.round_quorums = self.read_quorums = self.quorums
        self.plan = plan or draw_plan(rng)
        self.oracle = Oracle(self.quorums)
        self.members = (1 << self.quorums.n) - 1
        self.now_ms = START_MS
        self.net: list[tuple[int, int, tuple[Any, ...]]] = []
        self.number = 0
        self.decision: Decision | None = None
        self.deciding: Coordinator | None = None
        spread, switches = self.plan.spread_ms, on or Switches()
        self.nodes = [
            Node(index, self.send, self.oracle, rng.randint(-spread, spread), self.plan.max_offset_ms, switches)
            for index in range(self.quorums.n)
        ]
        self.coordinators = [Coordinator(self, index) for index in range(self.quorums.n)]
        self.clients = [Client(b"client%02d" % index) for index in range(self.plan.clients)]
        self.tokens = 0
        self.favourite = -1

    # -- what nodes and coordinators ask of the schedule

    def send(self, to: int, message: tuple[Any, ...]) -> None:
        """Put a message on the network (or lose it)."""
        if self.random.random() >= self.plan.drop:
            self.net.append((to, -1, message))

    def new_number(self) -> int:
        """Return a new exchange number."""
        self.number += 1
        return self.number

    def decide(
        self, original: Callable[..., Any], ballot: Any, base: Record, entry: Entry, work: list[Operation], now_ms: int
    ) -> Any:
        """Run the change function and note what it did."""
        outcome = original(ballot, base, entry, work, now_ms)
        coordinator = self.deciding
        assert coordinator is not None
        round_ = coordinator.round
        assert round_ is not None
        held = [
            b
            for promise in round_.promises.values()
            for b, record in (
                (promise.accepted_ballot, promise.accepted),
                (promise.committed_ballot, promise.committed),
            )
            if b and record == base
        ]
        base_ballot = (max(held) if held else NO_BALLOT) if round_.promises else coordinator.base_ballot
        self.decision = self.oracle.decide(ballot, base, base_ballot, entry, work, outcome.results)
        return outcome

    def entry_held_by_all(self, *, durably: bool = False) -> Entry:
        """Return the overlay entry that every replica holds, if it is one and the same."""
        registers = [node.register for node in self.nodes]
        entries = {(register.shown if durably else register.image).overlay for register in registers}
        return entries.pop() if len(entries) == 1 else NO_ENTRY

    def check_chosen(self, round_: Round, decision: Decision, held: Entry) -> None:
        """Check a round that its coordinator calls chosen."""
        if round_.ballot not in self.oracle.chosen:
            raise AssertionError(f"round {round_.ballot.hex()} is called chosen and is not (R16)")
        if held:
            self.oracle.check_not_passed_over(held, decision)

    # -- clients

    def answer(self, operation: Operation, result: Result, point: Lineage | None) -> None:
        """Hand a result to the client of an operation."""
        client: Client | None = operation.context
        operation.context = None
        if client is None:
            return
        name, current = (operation.session, operation.sequence), client.operation is operation
        asked, is_repeat = client.asked, False
        if result.kind == op.UNKNOWN:
            return
        assert point is not None
        if result.kind == op.APPLIED and result.version:
            at = next((i for i, effect in enumerate(point) if effect.name == name), None)
            if at is None or point[at].version != result.version:
                raise AssertionError(f"operation {name} is called applied and is not in the record (R23)")
            point = point[: at + 1]
        elif result.kind in (op.APPLIED, op.CONFLICT):
            is_repeat = not operation.is_first_try
        if not current or name[1] not in client.open:
            return
        if result.kind == op.NOT_APPLIED:
            if operation.attempt == 1 or result.is_settled:
                self._close(client, name, had_effect=False)
            return
        if not is_repeat:
            self.oracle.answer(point, asked)
        if result.kind == op.CONFLICT or (result.kind == op.APPLIED and not result.version):
            self._close(client, name, had_effect=False)
        else:
            self._close(client, name, had_effect=True)
            client.etag = result.version or (body_version(result.body) if result.body else NO_VERSION)

    def refuse(self, operation: Operation) -> None:
        """Tell a client that its operation, never proposed, had no effect."""
        client, operation.context = operation.context, None
        if client is not None and client.operation is operation:
            self._close(client, (operation.session, operation.sequence), had_effect=False)

    def _close(self, client: Client, name: tuple[bytes, int], *, had_effect: bool) -> None:
        client.open.discard(name[1])
        client.operation = None
        if not had_effect:
            self.oracle.refuse(name)

    def _submit(self, client: Client) -> None:
        client.sequence += 1
        steps = self._steps(client)
        client.open.add(client.sequence)
        client.asked = self.oracle.answered
        created = self.now_ms + self.random.randint(-100, 100)
        self._attempt(client, steps, client.sequence, 1, created, created + self.plan.timeout_ms)

    def _steps(self, client: Client) -> tuple[Step, ...]:
        self.tokens += 1
        content = b"\x00value%d" % self.tokens
        rng = self.random
        expires = self.now_ms + rng.choice((1, 200, 5000)) if rng.random() < self.plan.ttl else 0
        if rng.random() < self.plan.reads:
            return ()
        kind = rng.choice(("put", "create", "cas", "cas", "delete", "several"))
        if kind == "several":
            return (Step(CHECK_NONE, NO_VERSION, content, 0), Step(CHECK_NONE, NO_VERSION, content + b"+", expires))
        check = {"create": CHECK_ABSENT, "cas": CHECK_ETAG}.get(kind, CHECK_NONE)
        version = client.etag if check == CHECK_ETAG else NO_VERSION
        if check == CHECK_ETAG and not version:
            check = CHECK_ABSENT
        return (Step(check, version, b"" if kind == "delete" else content, 0 if kind == "delete" else expires),)

    def _attempt(
        self, client: Client, steps: tuple[Step, ...], sequence: int, attempt: int, created_ms: int, deadline_ms: int
    ) -> None:
        mark = min(client.open)
        operation = Operation(steps, client.session, sequence, attempt, mark, created_ms, deadline_ms, client)
        client.operation = operation
        to = 0 if self.random.random() < self.plan.primary else self.random.randrange(self.quorums.n)
        self.net.append((to, -1, ("request", to, 0, operation)))

    def _next_attempt(self) -> None:
        waiting = [c for c in self.clients if c.operation is not None and c.operation.steps]
        if waiting:
            client = self.random.choice(waiting)
            old = client.operation
            assert old is not None
            self._attempt(client, old.steps, old.sequence, old.attempt + 1, old.created_at_ms, old.deadline_ms)

    def _abandon(self) -> None:
        """A client stops waiting: the outcome stays unknown, and its mark stays below it."""
        waiting = [c for c in self.clients if c.operation is not None]
        if waiting:
            client = self.random.choice(waiting)
            assert client.operation is not None
            if client.operation.is_read:
                client.open.discard(client.operation.sequence)
            client.operation = None

    # -- events

    def run(self) -> None:
        """Run the schedule to its end, checking after every event."""
        rng, plan, net = self.random, self.plan, self.net
        rare = [(weight, event) for weight, event in self._rare_events() if weight]
        rare_weight = sum(weight for weight, _ in rare)
        for _ in range(plan.steps):
            dirty = [node for node in self.nodes if node.pending]
            ready = [coordinator for coordinator in self.coordinators if coordinator.queue and coordinator.is_idle]
            idle = [client for client in self.clients if client.operation is None]
            deliver = plan.deliver if net else 0.0
            sync = plan.sync if dirty else 0.0
            start = plan.start if ready else 0.0
            submit = plan.submit if idle else 0.0
            at = rng.random() * (deliver + sync + start + submit + rare_weight)
            if at < deliver:
                self._deliver()
            elif (at := at - deliver) < sync:
                self._sync(rng.choice(dirty))
            elif (at := at - sync) < start:
                rng.choice(ready).start()
            elif at - start < submit:
                self._submit(rng.choice(idle))
            elif rare:
                rng.choices([event for _, event in rare], [weight for weight, _ in rare])[0]()
            for node in self.nodes:
                node.check()

    def _rare_events(self) -> list[tuple[float, Callable[[], None]]]:
        plan = self.plan
        return [
            (plan.retry_attempt, self._next_attempt),
            (plan.abandon_client, self._abandon),
            (plan.timeout, self._timeout),
            (plan.lose, self._lose),
            (plan.crash, self._crash),
            (plan.flush, lambda: self.random.choice(self.nodes).flush()),
            (plan.commit, self._commit),
            (plan.write, self._write),
            (plan.tick, self._tick),
            (plan.give_up, self._give_up),
        ]

    def _deliver(self) -> None:
        at = self._pick()
        to, incarnation, message = self.net[at]
        node = self.nodes[to]
        is_for_another_life = incarnation not in (-1, node.incarnation)
        if not is_for_another_life and self.random.random() < self.plan.duplicate and message[0] != "request":
            self.net[at] = (to, node.incarnation, message)
        else:
            self.net[at] = self.net[-1]
            self.net.pop()
        if is_for_another_life:
            return
        kind = message[0]
        if kind == "request":
            self.coordinators[to].queue.append(message[3])
        elif kind in ("prepare", "accept", "commit", "entry", "read"):
            node.on_message(message, self.now_ms)
        else:
            self.coordinators[to].on_reply(message)

    def _pick(self) -> int:
        rng, net, plan = self.random, self.net, self.plan
        if rng.random() < plan.newest_first:
            return len(net) - 1
        at = rng.randrange(len(net))
        for _ in range(3):
            if net[at][0] != plan.slow and not (rng.random() < plan.focus and net[at][0] != self.favourite):
                break
            at = rng.randrange(len(net))
        return at

    def _sync(self, node: Node) -> None:
        node.sync(self.random.randint(1, len(node.pending)))

    def _timeout(self) -> None:
        coordinator = self.random.choice(self.coordinators)
        if not coordinator.is_idle:
            coordinator.retry()

    def _lose(self) -> None:
        self.random.choice(self.coordinators).lose(self.random.randrange(self.quorums.n))

    def _crash(self) -> None:
        """Lose a node's memory and what it had not synced; its coordinator's rounds end without a word."""
        index = self.random.randrange(self.quorums.n)
        self.nodes[index].start()
        self.coordinators[index].forget()

    def _commit(self) -> None:
        owing = [coordinator for coordinator in self.coordinators if coordinator.owed]
        if owing:
            self.random.choice(owing).commit_all()

    def _write(self) -> None:
        node = self.random.choice(self.nodes)
        self.tokens += 1
        entry = node.write(self.now_ms, b"" if self.random.random() < 0.1 else b"\x00entry%d" % self.tokens)
        for index in range(self.quorums.n):
            if index != node.index:
                self.send(index, ("entry", node.index, 0, entry))

    def _tick(self) -> None:
        self.now_ms += self.random.choice((1, 10, 400, 3000, 70_000))
        self.favourite = self.random.randrange(self.quorums.n)
        if self.random.random() < 0.3:
            node = self.random.choice(self.nodes)
            node.offset_ms = self.random.randint(-self.plan.spread_ms, self.plan.spread_ms)

    def _give_up(self) -> None:
        coordinator = self.random.choice(self.coordinators)
        working = coordinator.round.operations if coordinator.round else coordinator.queue
        if working:
            coordinator.give_up(self.random.choice(working))


@contextmanager
def watching(schedule: Schedule) -> Iterator[None]:
    """Let the schedule see each run of the change function; the function itself is the real one."""
    original = change.apply

    def apply(
        ballot: Any, base: Record, entry: Entry, work: list[Operation], now_ms: int, *, is_settled: bool = False
    ) -> Any:
        assert not is_settled, "nothing is purged here"
        return schedule.decide(original, ballot, base, entry, work, now_ms)

    with patch.object(change, "apply", apply), patch.object(windows, "ENTRIES_MAX", schedule.plan.window):
        yield


def run(seed: int, **settings: Any) -> Schedule:
    """Run one schedule; raises what it finds."""
    schedule = Schedule(seed, **settings)
    with watching(schedule):
        schedule.run()
    return schedule
