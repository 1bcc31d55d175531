"""Hinted hand-off: what a replica missed is noted durably, sent when it is back, and counts for nothing (R12, R13, R28,
R29, R32, R37)."""

from __future__ import annotations

from typing import Any

import pytest
from schedule import apart, catch, propose_and_die, put, seen_by, settle, trio
from world import World, WorldLink

from kvclient.wire import messages as m
from kvnode.config import Limits, StoreConfig
from kvnode.core.hints import DEBT_BYTES
from kvnode.service import handoff, hintrows
from kvnode.service.states import RECORD_FIELDS


def hints(world: World, index: int) -> list[str]:
    """Return the names of the rows of hints on a node's disk."""
    return [name for name, _ in world.hosts[index].engine.scan_meta(hintrows.PREFIX)]


def owed(world: World, index: int) -> int:
    return int(world.hosts[index].node.handoff.hints.total)


def write(world: World, value: bytes, at: int, key: str = "k", **options: Any) -> None:
    call = world.write(key, value, at, **options)
    world.run()
    assert call.kind == m.APPLIED, call.answer


def beat(world: World, at: int, *others: int) -> None:
    """Let node `at` hear an answer to a heartbeat that it sends these others now."""
    for other in others:
        world.hosts[at].node.on_heartbeat(other, world.scheduler.now_s, (1, 0, 0, 0))


@pytest.mark.parametrize("w", [1, 2])
def test_a_write_whose_replica_is_away_is_handed_over_when_it_is_back(w: int) -> None:
    """R32, without any read."""
    world, a, _, c = trio()
    with apart(world, c):
        write(world, b"v", a, w=w)
        assert owed(world, a) == 1
        assert seen_by(world, c) is None
    settle(world)
    assert seen_by(world, c) == b"v"
    assert owed(world, a) == 0
    assert hints(world, a) == []


def test_a_commit_that_a_replica_missed_is_handed_over() -> None:
    """R32: the record goes as committed, by R12."""
    world, a, _, c = trio()
    with apart(world, c):
        put(world, b"v", a)
        world.run(0.5)
    settle(world)
    image = world.register(c, "k").image
    assert image.committed.content == b"\0v"
    assert not image.accepted_ballot
    assert owed(world, a) == 0


def test_a_mark_that_was_lost_is_handed_over() -> None:
    """The replica has accepted the record and never hears that it is chosen."""
    world, a, _, c = trio()
    world.run(1.0)
    beat(world, a, *(index for index in range(3) if index != a))
    lost = catch(world, m.MARKS, target=c)
    put(world, b"v", a)
    world.run(0.1)
    assert lost.messages
    lost.stop()
    with apart(world, c):
        world.run(0.1)
    settle(world)
    assert world.register(c, "k").image.committed.content == b"\0v"


def test_a_thousand_writes_of_a_key_make_one_hint() -> None:
    world, a, _, c = trio()
    with apart(world, c):
        for number in range(50):
            write(world, b"%d" % number, a)
        assert owed(world, a) == 1
        assert len(hints(world, a)) == 1
        sent = catch(world, m.HINTS)
    sent.pour()
    world.run(0.2)
    assert seen_by(world, c) == b"49"


def test_hints_survive_the_crash_of_their_holder() -> None:
    """A crash loses what was not synced: the hint was synced with the write that it is about."""
    world, a, b, c = trio()
    with apart(world, c):
        for number in range(5):
            write(world, b"v", a, f"key{number}")
        world.crash(a)
        world.restart(a)
        world.run(0.2)
        assert owed(world, a) == 5
    settle(world, 0.5)
    for number in range(5):
        assert seen_by(world, c, f"key{number}") == b"v"
    assert owed(world, a) == 0
    assert hints(world, a) == []
    assert b not in (a, c)


def test_what_was_on_its_way_when_a_replica_was_lost_is_owed() -> None:
    """Nobody acknowledges an entry with w = 1: a heartbeat after it does."""
    world, a, b, c = trio()
    world.run(3.0)
    beat(world, a, b, c)
    lost = catch(world, m.ENTRY, target=c)
    write(world, b"v", a)
    assert lost.messages
    assert owed(world, a) == 0
    lost.stop()
    world.cut(a, c)
    world.run(0.1)
    assert owed(world, a) == 1
    world.mend(a, c)
    settle(world)
    assert seen_by(world, c) == b"v"


def test_what_a_replica_has_vouched_for_is_not_owed_when_it_is_lost() -> None:
    world, a, b, c = trio()
    write(world, b"v", a)
    for _ in range(5):
        world.run(1.0)
        beat(world, a, b, c)
    world.run(0.1)
    assert world.hosts[a].node.handoff.recent.held == 0, "and takes no memory any more"
    world.cut(a, c)
    world.run(0.1)
    assert owed(world, a) == 0


def test_what_was_owed_and_is_paid_is_not_owed_again_when_the_replica_is_lost() -> None:
    """It was written a moment before the replica came back, and no heartbeat has vouched for it since."""
    world, a, _, c = trio()
    with apart(world, c):
        write(world, b"v", a)
    world.run(0.2)
    assert owed(world, a) == 0
    world.cut(a, c)
    world.run(0.2)
    assert owed(world, a) == 0


def test_nothing_is_paid_before_all_claims_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is paid before it is claimed would be sent twice."""
    monkeypatch.setattr(handoff, "_CLAIMED_TOGETHER", 2)
    world, a, _, c = trio()
    for number in range(20):
        write(world, b"old", a, f"key{number}")
    world.run(1.2)  # so that these are of an earlier generation
    with apart(world, c):
        world.run(0.05)
        for number in range(20):
            write(world, b"new", a, f"key{number}")
    settle(world, 3.0)
    assert world.hosts[a].node.handoff.facts()["hints_delivered"] == 20


def test_a_silent_replica_is_owed_what_is_sent_to_it() -> None:
    """Suspicion, not only a lost link: what waits in a dead socket is lost with it."""
    world, a, b, c = trio()
    for _ in range(10):
        world.run(1.0)
        beat(world, a, b, c)
    with world.silenced(c):
        write(world, b"early", a, "early")
        for _ in range(3):
            world.run(1.0)
            beat(world, a, b)
        assert world.hosts[a].node.facts()["peers"] == {
            f"n{b + 1}": "up",
            f"n{c + 1}": "silent",
        }
        write(world, b"late", a, "late")
        assert owed(world, a) == 2
        assert len(hints(world, a)) == 2
    beat(world, a, b, c)
    settle(world)
    assert owed(world, a) == 0
    assert seen_by(world, c, "early") == b"early"


def test_a_replica_whose_disk_was_full_is_handed_what_it_refused() -> None:
    world, a, b, c = trio()
    world.run(3.0)
    beat(world, a, b, c)
    world.hosts[c].engine.writable = False
    write(world, b"v", a)
    world.run(0.2)
    assert owed(world, a) == 1
    for _ in range(5):
        beat(world, a, b, c)
        world.run(1.0)
    assert owed(world, a) == 1, "it refuses the hint as well"
    world.hosts[c].engine.writable = True
    beat(world, a, b, c)
    world.run(2.0)
    assert seen_by(world, c) == b"v"
    assert owed(world, a) == 0


def test_a_proposal_is_never_handed_over() -> None:
    """R13: the hint waits until it is decided, which its holder brings about, and then carries what is committed."""
    world, a, b, c = trio()
    with apart(world, c):
        propose_and_die(world, a, lambda: world.put("k", b"v", a))
        world.cut(a, b)
        world.cut(a, c)
        world.run(0.2)
        assert owed(world, a) == 1
        assert world.register(a, "k").image.accepted_ballot
    hinted = catch(world, m.HINTS)
    hinted.stop()
    world.mend(a, b)
    sent: list[Any] = []
    world.on_post = lambda source, target, message: sent.append(message) or True if message[0] == m.HINTS else True
    world.run(0.5)
    assert sent == []
    world.run(3.0)
    world.invariants()
    for index in (b, c):
        image = world.register(index, "k").image
        assert image.committed.content == b"\0v"
    assert owed(world, a) == 0


def test_a_strong_write_is_not_acknowledged_by_hints() -> None:
    """R28, C10."""
    world, a, b, c = trio()
    world.cut(a, b)
    world.cut(a, c)
    call = world.put("k", b"v", a)
    world.run(1.0)
    assert call.outcome == "not applied"
    assert owed(world, a) == 0


def test_an_eventual_write_with_a_number_is_not_acknowledged_by_hints() -> None:
    """R28."""
    world, a, _, c = trio()
    with apart(world, c):
        call = world.write("k", b"v", a, w=3)
        world.run()
        assert call.code == "quorum-unreachable"


def test_a_deleted_key_is_not_brought_back_by_an_old_hint() -> None:
    """The hint says only that there is something; what there is, is looked up when it is sent."""
    world, a, b, c = trio()
    with apart(world, c):
        write(world, b"v", a)
        assert owed(world, a) == 1
        call = world.delete("k", b)
        world.run()
        assert call.kind == m.APPLIED
        world.run(0.2)
    settle(world, 0.5)
    for index in (a, b, c):
        assert seen_by(world, index) is None
    assert world.read("k", c) is None


def test_hints_are_bounded_and_dropped_ones_are_counted() -> None:
    world = World(3, limits=Limits(hints_max=5))
    a, _, c = world.owners("k")
    with apart(world, c):
        for number in range(9):
            write(world, b"v", a, f"key{number}")
    facts = world.hosts[a].node.facts()
    assert facts["hints"] == 5
    assert facts["hints_owed"] == {f"n{c + 1}": 5}
    assert facts["hints_dropped"]["full"] == 4
    assert len(hints(world, a)) == 5


def test_without_room_for_hints_there_are_none() -> None:
    world = World(3, limits=Limits(hint_bytes_max=0))
    a, _, c = world.owners("k")
    with apart(world, c):
        write(world, b"v", a)
        world.run(0.2)
        assert owed(world, a) == 0
        assert hints(world, a) == []
        assert not world.hosts[a].node.handoff.recent.keys
    settle(world)
    assert seen_by(world, c) is None


def test_a_hint_is_given_up_at_its_age() -> None:
    world = World(3, limits=Limits(hint_age_s=60.0))
    a, _, c = world.owners("k")
    with apart(world, c):
        write(world, b"v", a)
        world.run(59.0)
        assert owed(world, a) == 1
        world.run(2.0)
        assert owed(world, a) == 0
        assert hints(world, a) == []
    assert world.hosts[a].node.facts()["hints_dropped"]["expired"] == 1


def test_a_hint_is_given_up_after_the_stores_gc_grace() -> None:
    """R37: what it carries may have been deleted since, and the tombstone purged."""
    world = World(3, store=StoreConfig("default", replicas=3, gc_grace_s=60))
    a, _, c = world.owners("k")
    with apart(world, c):
        write(world, b"v", a)
        world.run(61.0)
    settle(world)
    assert owed(world, a) == 0
    assert world.hosts[a].node.facts()["hints_dropped"]["expired"] == 1
    assert seen_by(world, c) is None


def test_a_key_written_while_its_hint_is_on_the_way_stays_owed() -> None:
    world, a, _, c = trio()
    with apart(world, c):
        write(world, b"old", a)
    answers = catch(world, m.HINTED, source=c, target=a)
    world.run(0.1)
    assert answers.messages
    world.hosts[a].node.exchanges.suspected = 1 << c
    world.hosts[a].node.exchanges.doubted = 1 << c
    lost = catch(world, m.ENTRY, target=c)
    write(world, b"new", a)
    assert lost.messages
    lost.stop()
    answers.pour()
    settle(world, 1.0)
    assert seen_by(world, c) == b"new"
    assert owed(world, a) == 0


def test_an_expired_link_puts_back_what_was_sent() -> None:
    world, a, _, c = trio()
    with apart(world, c):
        for number in range(3):
            write(world, b"v", a, f"key{number}")
    lost = catch(world, m.HINTS, target=c)
    world.run(0.1)
    assert lost.messages
    lost.stop()
    with apart(world, c):
        world.run(0.1)
        assert owed(world, a) == 3
    settle(world)
    assert owed(world, a) == 0
    assert seen_by(world, c, "key2") == b"v"


def test_a_debt_whose_answer_is_lost_is_sent_again() -> None:
    """The receiver had no room for its answer: without a limit the debt would wait for it until the link ends, and all
    other debts to that node behind a few such."""
    world, a, _, c = trio()
    with apart(world, c):
        write(world, b"v", a)
    answers = catch(world, m.HINTED, source=c, target=a)
    world.run(1.0)
    assert answers.messages
    answers.stop()
    world.run(20.0)
    assert owed(world, a) == 1
    world.run(20.0)
    assert owed(world, a) == 0
    answers.pour()  # a late one pays nothing twice
    world.run()
    assert world.hosts[a].node.handoff.facts()["hints_delivered"] == 1


def test_the_repair_budget_sets_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handoff, "BATCH_HINTS", 2)
    world, a, _, c = trio()
    with apart(world, c):
        for number in range(6):
            write(world, b"v", a, f"key{number}")
    asked: list[int] = []
    spent: list[tuple[int, int]] = []

    def one() -> float:
        asked.append(1)
        return 0.0 if len(asked) == 1 else 0.5

    node = world.hosts[a].node
    node.handoff.wait_s, node.handoff.charge = one, lambda *cost: spent.append(cost)
    world.run(0.2)
    assert owed(world, a) == 4
    assert [operations for _, operations in spent] == [2]
    assert all(size_bytes > 2 * DEBT_BYTES for size_bytes, _ in spent)
    node.handoff.wait_s = lambda: 0.0
    settle(world, 1.0)
    assert owed(world, a) == 0


def test_a_receiver_may_ask_for_a_pause() -> None:
    """The receiving side has a budget, too."""
    world, a, _, c = trio()
    with apart(world, c):
        for number in range(150):
            write(world, b"v", a, f"key{number}")
    world.hosts[c].node.replica.charge = lambda size_bytes, operations: 1.0
    world.run(0.9)
    assert owed(world, a) == 150 - handoff.BATCH_HINTS
    world.run(1.0)
    assert owed(world, a) == 150 - 2 * handoff.BATCH_HINTS


def test_a_receiver_cannot_ask_for_a_pause_without_end() -> None:
    world, a, _, c = trio()
    with apart(world, c):
        for number in range(40):
            write(world, b"v", a, f"key{number}")
    replica = world.hosts[c].node.replica
    replica.charge = lambda size_bytes, operations: 1e6
    world.run(0.5)
    assert owed(world, a) == 40 - handoff.BATCH_HINTS
    world.run(10.0)
    assert owed(world, a) == 0


def test_one_batch_is_on_the_way_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handoff, "BATCH_HINTS", 3)
    world, a, _, c = trio()
    with apart(world, c):
        for number in range(10):
            write(world, b"v", a, f"key{number}")
    held = catch(world, m.HINTS, target=c)
    world.run(0.2)
    assert [len(message[3]) for _, _, message in held.messages] == [3 * RECORD_FIELDS]
    held.pour()
    settle(world, 0.5)
    assert owed(world, a) == 0
    assert all(seen_by(world, c, f"key{number}") == b"v" for number in range(10))


def test_a_batch_is_bounded_by_its_bytes_as_well() -> None:
    world, a, _, c = trio()
    with apart(world, c):
        for number in range(8):
            write(world, bytes(20_000), a, f"key{number}")
    held = catch(world, m.HINTS, target=c)
    world.run(0.2)
    assert [len(message[3]) for _, _, message in held.messages] == [2 * RECORD_FIELDS]


def test_what_is_refused_for_now_is_sent_again_a_moment_later() -> None:
    """The rest of its batch is paid."""
    world, a, _, c = trio()
    with apart(world, c):
        for number in range(3):
            write(world, b"v", a, f"key{number}")
    answers = catch(world, m.HINTED, source=c, target=a)
    world.run(0.1)
    [(source, target, message)] = answers.messages
    answers.messages = [(source, target, [*message[:3], bytes([m.HINT_TAKEN, m.HINT_LATER, m.HINT_TAKEN])])]
    answers.pour()
    world.run(0.5)
    assert owed(world, a) == 1
    settle(world, 1.0)
    assert owed(world, a) == 0


@pytest.mark.parametrize(("wait_ms", "outcomes"), [(0, b""), (0, bytes(4)), (-1, bytes(3))])
def test_an_answer_that_fits_no_batch_ends_the_link_and_pays_nothing(wait_ms: int, outcomes: bytes) -> None:
    world, a, _, c = trio()
    with apart(world, c):
        for number in range(3):
            write(world, b"v", a, f"key{number}")
    answers = catch(world, m.HINTED, source=c, target=a)
    world.run(0.1)
    [(_, _, message)] = answers.messages
    with pytest.raises(m.MessageError):
        world.hosts[a].node.on_batch(WorldLink(world, a, c), [[m.HINTED, message[1], wait_ms, outcomes]])
    assert owed(world, a) == 3
    assert len(hints(world, a)) == 3


def test_a_key_that_is_owed_again_keeps_its_row() -> None:
    """The row of what was paid goes with the next sweep, and not if it is needed again by then."""
    world, a, _, c = trio()
    rows = world.hosts[a].node.handoff._rows
    with apart(world, c):
        write(world, b"v", a)
        rows.remove(c, world.row_key("k"))
        rows.put(c, world.row_key("k"), world.now_ms())
        world.run(0.2)
        assert len(hints(world, a)) == 1
        rows.remove(c, world.row_key("k"))
        world.run(0.2)
        assert hints(world, a) == []


def test_hints_for_a_node_that_is_no_longer_configured_are_removed() -> None:
    world, a, _, _ = trio()
    world.hosts[a].engine.put_meta(f"{hintrows.PREFIX}gone/0000/default\0k", bytes(8), sync=True, then=None)
    world.run()
    world.crash(a)
    world.restart(a)
    world.run(0.2)
    assert owed(world, a) == 0
    assert hints(world, a) == []


def test_trees_are_compared_after_debts_are_paid() -> None:
    """A node that is back gets what it is owed first; what the trees find is then little."""
    world = World(3)
    node = world.hosts[0].node
    assert not node.healing.anti_entropy.is_owed(1)
    node.handoff.owe(world.row_key("k"), 1 << 1)
    assert node.healing.anti_entropy.is_owed(1)
    assert not node.healing.anti_entropy.is_owed(2)


def test_what_was_lost_with_a_link_is_owed_though_the_next_link_answers_at_once() -> None:
    """A heartbeat vouches for what was sent on its own link, not on the one before."""
    world, a, b, c = trio()
    lost = catch(world, m.ENTRY, target=c)
    write(world, b"v", a)
    world.run(4.0)
    assert owed(world, a) == 0
    lost.stop()
    world.cut(a, c)
    world.mend(a, c)
    beat(world, a, b, c)
    settle(world)
    assert seen_by(world, c) == b"v"
