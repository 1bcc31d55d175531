"""Hints are no votes, carry no proposals, bring nothing back, and stay until they have arrived (R13, R28, R32, R37).

Every scenario runs twice: as the product is, and with its rule switched off, where it must break.
"""

from __future__ import annotations

from mutants import hints
from schedule import Case, apart, both_ways, catch, claim, propose_and_die, put, seen_by, settle, trio
from world import EPOCH, World, WorldLink, body

from kvclient.wire import messages as m
from kvnode.config import StoreConfig
from kvnode.core.record import entry_make
from kvnode.core.version import version_eventual


def a_hint_is_no_vote() -> None:
    """R28, C10: one replica and a hint for another are not two replicas."""
    world, a, b, c = trio()
    put(world, b"old", a)
    settle(world)
    world.cut(a, c)
    lost = catch(world, m.ACCEPT, m.MARKS, source=a, target=b)
    call = world.put("k", b"new", a)
    world.run(0.3)
    assert lost.messages
    world.crash(a)
    claim(call.kind != m.APPLIED or world.read("k", b) == b"new", "an acknowledged write is lost")


def a_hint_carries_no_proposal() -> None:
    """R13, C9: what is copied as committed must be chosen; the replica had promised it to somebody else by then."""
    world, a, b, c = trio()
    world.cut(a, c)
    propose_and_die(world, a, lambda: world.put("k", b"dead", a, create=True))
    world.run(0.2)
    world.cut(a, b)
    late = catch(world, m.ACCEPT, source=b, target=c)
    world.put("k", b"other", b, create=True)
    world.run(0.1)
    assert late.messages
    world.mend(a, c)
    world.run(0.3)
    claim(seen_by(world, c) is None, "a proposal that nobody has chosen is shown")
    late.pour()
    world.mend(a, b)
    settle(world, 8.0)
    claim({seen_by(world, index) for index in (a, b, c)} == {b"other"}, "the replicas differ")


def an_old_hint_brings_nothing_back() -> None:
    """R37: the key was deleted, and its tombstone purged, while a fallback kept an entry for it."""
    world = World(3, store=StoreConfig("default", replicas=3, gc_grace_s=60))
    a, b, _ = world.owners("k")
    version = version_eventual(b"", world.now_ms() << 16, 5)  # type: ignore[arg-type]
    world.run(61.0)
    entry = entry_make(body(version, b"deleted"), absent=True)
    message = [m.HINTS, 1, EPOCH, [world.row_key("k"), b"", b"", b"", entry]]
    world.hosts[a].node.on_batch(WorldLink(world, a, b), [message])
    settle(world)
    claim(seen_by(world, a) is None, "a deleted key came back")


def a_hint_is_kept_until_it_has_arrived() -> None:
    """R32: it went down with the connection over which it was sent."""
    world, a, b, c = trio()
    with apart(world, c):
        call = world.write("k", b"v", a)
        world.run()
        assert call.kind == m.APPLIED
        for _ in range(4):  # until nothing but the hint remembers it
            world.run(1.0)
            world.hosts[a].node.on_heartbeat(b, world.scheduler.now_s, (1, 0, 0, 0))
    lost = catch(world, m.HINTS, target=c)
    world.run(0.1)
    assert lost.messages
    lost.stop()
    with apart(world, c):
        world.run(0.1)
    settle(world, 0.5)
    claim(seen_by(world, c) == b"v", "a hint was lost")


CASES = [
    Case("R28, C10", a_hint_is_no_vote, hints.hints_count),
    Case("R13, C9", a_hint_carries_no_proposal, hints.hints_carry_proposals),
    Case("R37", an_old_hint_brings_nothing_back, hints.hints_know_no_age),
    Case("R32", a_hint_is_kept_until_it_has_arrived, hints.hints_are_paid_when_sent),
]

test_the_counterexample_is_excluded, test_it_comes_back_without_its_rule = both_ways(CASES)
