"""One key, as the real core classes keep it, under random schedules; and the proof that this can fail.

CI runs a fixed set of seeds.  By hand, as many more as wanted:

    KVNODE_MODEL_SEEDS=100000:200000 python -m pytest tests/property/test_one_key.py -k seeds

A failure names its seed; `run(seed)` of `property.onekey.schedule` replays it.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from property.onekey.mutants import MUTANTS, Mutant
from property.onekey.node import Switches
from property.onekey.oracle import Violation
from property.onekey.plan import Plan
from property.onekey.schedule import Schedule, run, watching

from kvclient.wire.values import NO_VERSION
from kvnode.core.operation import CHECK_NONE, Operation, Step
from kvnode.core.quorum import Quorums
from kvnode.core.record import entry_version
from kvnode.core.version import version_sballot

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
        except AssertionError as broken:
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


def test_the_same_seed_gives_the_same_schedule() -> None:
    first, second = run(11), run(11)
    assert first.oracle.lineages == second.oracle.lineages
    assert first.number == second.number > 0


# -- a counterexample that random schedules meet too rarely


class Script:
    """A schedule whose messages are delivered by hand; A, B, C are the nodes 0, 1, 2."""

    def __init__(self, on: Switches) -> None:
        self.schedule = Schedule(0, quorums=Quorums(3, 2, 2), on=on, plan=Plan(drop=0.0, duplicate=0.0, fast_read=0.0))
        self.sequence = 0

    def ask(self, coordinator: int, content: bytes = b"") -> None:
        """Start a put at a coordinator, or a read without content."""
        self.sequence += 1
        steps = (Step(CHECK_NONE, NO_VERSION, content, 0),) if content else ()
        self.schedule.coordinators[coordinator].queue.append(
            Operation(steps, b"scripted", self.sequence, 1, self.sequence, 0, 1 << 60)
        )
        self.schedule.coordinators[coordinator].start()

    def deliver(self, kind: str, *to: int) -> None:
        """Deliver the messages of a kind to some nodes, with their answers; those to other nodes are lost."""
        net = self.schedule.net
        chosen = [(node, message) for node, _, message in net if message[0] == kind and node in to]
        net[:] = [item for item in net if item[2][0] != kind]
        for node, message in chosen:
            self.schedule.nodes[node].on_message(message, self.schedule.now_ms)
            self.schedule.nodes[node].sync(1)
        replies = [(node, message) for node, _, message in net if message[0] in ("promise", "accepted")]
        net[:] = [item for item in net if item[2][0] not in ("promise", "accepted")]
        for node, message in replies:
            self.schedule.coordinators[node].on_reply(message)

    def run_round(
        self, coordinator: int, content: bytes, promising: tuple[int, ...], accepting: tuple[int, ...]
    ) -> None:
        """Run a round whose accept reaches some nodes only; its coordinator dies if they are too few."""
        self.schedule.now_ms += 10  # each round outbids the one before it
        self.ask(coordinator, content)
        self.deliver("prepare", *promising)
        self.deliver("accept", *accepting)
        if len(accepting) < 2:
            self.schedule.coordinators[coordinator].forget()


def two_dead_proposals(on: Switches) -> Callable[[], None]:
    """z is accepted at C alone and x, of a greater ballot and blind to z, at A alone; an eventual write at A; then a
    read by {B, C} makes z chosen, with the ballot of z in its version."""

    def play() -> None:
        script = Script(on)
        nodes, coordinators = script.schedule.nodes, script.schedule.coordinators
        with watching(script.schedule):
            script.run_round(0, b"\x00v", (0, 1), (0, 1, 2))
            coordinators[0].commit_all()
            script.deliver("commit", 0, 1, 2)
            coordinators[0].cached = None
            script.run_round(2, b"\x00z", (1, 2), (2,))
            script.run_round(1, b"\x00x", (0, 1), (0,))
            entry = nodes[0].write(script.schedule.now_ms, b"\x00e")
            script.run_round(1, b"", (1, 2), (1, 2))
            chosen = nodes[1].register.shown
            nodes[0].register.commit(chosen.committed_ballot, chosen.committed)
            assert nodes[0].register.image.committed.content == b"\x00z"
            for node in nodes:
                node.check()
            assert version_sballot(entry_version(entry)) < version_sballot(nodes[0].register.image.committed.version)

    return play


def test_an_eventual_write_based_on_an_undecided_proposal_beats_a_chosen_change() -> None:
    """R7: the unchosen branch has the greater ballot; based on what is committed, the write is superseded."""
    two_dead_proposals(Switches())()
    with pytest.raises(Violation, match="R8"):
        two_dead_proposals(Switches(bases_on_chosen=False))()
