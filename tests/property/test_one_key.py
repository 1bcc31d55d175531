"""One key, as the real core classes keep it, under random schedules; and the proof that this can fail.

CI runs a fixed set of seeds.  By hand, as many more as wanted:

    KVNODE_MODEL_SEEDS=100000:200000 python -m pytest tests/property/test_one_key.py -k seeds

A failure names its seed; `run(seed)` of `property.onekey.schedule` replays it.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from property.onekey.mutants import MUTANTS, Mutant
from property.onekey.node import Switches
from property.onekey.oracle import Violation
from property.onekey.plan import Plan
from property.onekey.schedule import Client, Schedule, run, watching

from kvclient.wire.values import NO_VERSION
from kvnode.core import change
from kvnode.core.operation import CHECK_NONE, Operation, Result, Step
from kvnode.core.quorum import Quorums
from kvnode.core.record import entry_version
from kvnode.core.register import InvariantViolation
from kvnode.core.version import version_sballot

pytestmark = pytest.mark.patches

SEEDS = 2400
CHUNKS = 6


def seeds_by_hand() -> range:
    first, _, end = os.environ.get("KVNODE_MODEL_SEEDS", "0:0").partition(":")
    return range(int(first), int(end))


def run_all(seeds: range) -> tuple[int, int]:
    chosen = answered = 0
    for seed in seeds:
        try:
            schedule = run(seed)
        except (AssertionError, InvariantViolation) as broken:
            raise AssertionError(f"seed {seed}: {broken}") from broken
        chosen += len(schedule.oracle.chosen)
        answered += len(schedule.oracle.answered)
    return chosen, answered


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_no_schedule_breaks_the_protocol(chunk: int) -> None:
    """R5-R24, R29, R30, P1-P4; docs/testing.md section 3."""
    size = SEEDS // CHUNKS
    chosen, answered = run_all(range(chunk * size, (chunk + 1) * size))
    assert chosen > size, "the schedules get too little done to show anything"
    assert answered > size // 2


@pytest.mark.skipif(not seeds_by_hand(), reason="set KVNODE_MODEL_SEEDS=first:end to explore")
def test_no_schedule_breaks_the_protocol_for_the_seeds_asked_for() -> None:
    run_all(seeds_by_hand())


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_planted_mistake_is_caught(mutant: Mutant) -> None:
    """docs/testing.md section 4: within the mutant's budget of schedules."""
    for seed in range(mutant.budget):
        try:
            mutant.run(seed)
        except AssertionError:
            return
    pytest.fail(f"{mutant.name} ({mutant.rule}) survived {mutant.budget} schedules")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_same_plan_breaks_nothing_without_the_mistake(mutant: Mutant) -> None:
    """The oracle is not what fails.  Plans with clocks, sizes and faults of their own, on the code as it is."""
    for seed in range(100_000, 100_012):
        mutant._replace(plant=lambda stack: {}).run(seed)


def test_the_same_seed_gives_the_same_schedule() -> None:
    first, second = run(11), run(11)
    assert first.oracle.lineages == second.oracle.lineages
    assert first.number == second.number > 0


# -- counterexamples that random schedules meet too rarely


class Script:
    """A schedule whose messages are delivered by hand; A, B, C are the nodes 0, 1, 2."""

    def __init__(self, on: Switches | None = None, window: int = 1024) -> None:
        plan = Plan(drop=0.0, duplicate=0.0, fast_read=0.0, window=window)
        self.schedule = Schedule(0, quorums=Quorums(3, 2, 2), on=on, plan=plan)

    def ask(
        self, coordinator: int, content: bytes, session: bytes = b"scripted", sequence: int = 1, mark: int = 1
    ) -> None:
        """Queue a put at a coordinator, or a read without content."""
        steps = (Step(CHECK_NONE, NO_VERSION, content, 0),) if content else ()
        client = Client(session, open={sequence})
        client.operation = Operation(steps, session, sequence, 1, mark, 0, 1 << 60, client)  # type: ignore[arg-type]
        self.schedule.coordinators[coordinator].queue.append(client.operation)

    def deliver(self, kind: str, *to: int) -> None:
        """Deliver the messages of a kind to some nodes, with their answers; those to other nodes are lost."""
        net = self.schedule.net
        arriving = [(node, message) for node, _, message in net if message[0] == kind and node in to]
        net[:] = [item for item in net if item[2][0] != kind]
        for node, message in arriving:
            self.schedule.nodes[node].on_message(message, self.schedule.now_ms)
            self.schedule.nodes[node].sync(1)
        replies = [(node, message) for node, _, message in net if message[0] in ("promise", "accepted")]
        net[:] = [item for item in net if item[2][0] not in ("promise", "accepted")]
        for node, message in replies:
            self.schedule.coordinators[node].on_reply(message)

    def run_round(self, coordinator: int, promising: tuple[int, ...], accepting: tuple[int, ...]) -> None:
        """Run a round whose accept reaches some nodes only; a cached promise from before is forgotten."""
        self.schedule.now_ms += 10  # each round outbids the one before it
        self.schedule.coordinators[coordinator].cached = None
        self.schedule.coordinators[coordinator].start()
        self.deliver("prepare", *promising)
        self.deliver("accept", *accepting)

    def commit_everywhere(self, coordinator: int) -> None:
        """Bring the record that a coordinator committed to every replica."""
        shown = self.schedule.nodes[coordinator].register.shown
        for node in self.schedule.nodes:
            node.register.commit(shown.committed_ballot, shown.committed)


def play_two_dead_proposals(on: Switches) -> None:
    """z is accepted at C alone and x, of a greater ballot and blind to z, at A alone; an eventual write at A; then a
    read by {B, C} makes z chosen, with the ballot of z in its version."""
    script = Script(on)
    nodes, coordinators = script.schedule.nodes, script.schedule.coordinators
    with watching(script.schedule):
        script.ask(0, b"\x00v", b"session0")
        script.run_round(0, (0, 1), (0, 1, 2))
        script.commit_everywhere(0)
        script.ask(2, b"\x00z", b"session2")
        script.run_round(2, (1, 2), (2,))
        coordinators[2].forget()
        script.ask(1, b"\x00x", b"session1")
        script.run_round(1, (0, 1), (0,))
        coordinators[1].forget()
        entry = nodes[0].write(script.schedule.now_ms, b"\x00e")
        script.ask(1, b"")
        script.run_round(1, (1, 2), (1, 2))
        script.commit_everywhere(1)
        assert nodes[0].register.image.committed.content == b"\x00z"
        for node in nodes:
            node.check()
        assert version_sballot(entry_version(entry)) < version_sballot(nodes[0].register.image.committed.version)


def test_an_eventual_write_based_on_an_undecided_proposal_beats_a_chosen_change() -> None:
    """R7: the unchosen branch has the greater ballot; based on what is committed, the write is superseded."""
    play_two_dead_proposals(Switches())
    with pytest.raises(Violation, match="R8"):
        play_two_dead_proposals(Switches(bases_on_chosen=False))


def play_a_full_window() -> None:
    """Two entries fill the window of a chosen record.  At C alone lie a record whose mark has made room, and z on it.
    The coordinator of z tries again and sees {A, B}: no room.  Then a read sees {B, C}."""
    script = Script(window=2)
    coordinator = script.schedule.coordinators[2]
    with watching(script.schedule):
        for sequence in (1, 2):
            script.ask(0, b"\x00p%d" % sequence, b"session0", sequence)
            script.run_round(0, (0, 1), (0, 1, 2))
            script.commit_everywhere(0)
        script.ask(2, b"\x00q", b"session0", 3, mark=3)
        script.run_round(2, (1, 2), (2,))
        coordinator.forget()
        script.ask(2, b"\x00z", b"session2")
        script.run_round(2, (1, 2), (2,))
        coordinator.retry()
        script.run_round(2, (0, 1), (0, 1))
        coordinator.forget()
        script.ask(1, b"")
        script.run_round(1, (1, 2), (1, 2))
        assert script.schedule.oracle.refused == {(b"session2", 1)}


def test_overloaded_told_of_a_retry_on_evidence_alone_is_a_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    """R17, R21: C's proposal is adopted after its client was told that nothing was applied."""
    play_a_full_window()
    real = change._run

    def run_one(key: Any, operation: Operation) -> Result:
        before = key.must_accept
        result = real(key, operation)
        if result.code == "overloaded":
            key.must_accept = before
        return result

    monkeypatch.setattr(change, "_run", run_one)
    with pytest.raises(Violation, match="refused, and chosen later"):
        play_a_full_window()
