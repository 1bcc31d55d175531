"""Deleted data that comes back, and what else a purge can break (R34-R38, C11, R23).

Every scenario runs twice: as the product is, and with its rule switched off, where it must break.
"""

from __future__ import annotations

from mutants import purge
from reaping import absent_everywhere, buried, mourning, mourning_until, removed_at
from schedule import Case, apart, both_ways, catch, claim, finished, seen_by, settle
from world import name_of

from kvclient.wire import messages as m


def a_purge_keeps_the_promise() -> None:
    """C11, R36: A promised b = 9 to P and purges the tombstone with a floor below that; P2 creates at 7, and then P's
    accept at 9 comes: two creates succeed."""
    world, a, b, c, removals = mourning_until(m.REMOVE)
    catch(world, m.PREPARE, source=c, target=b)
    promises = catch(world, m.PROMISE, source=a, target=c)
    nine = world.put("k", b"nine", c, create=True)
    world.run()
    assert promises.messages, "A has not promised"
    removals.pour()
    world.run()
    assert all(removed_at(world, index) for index in (a, b, c))
    accepts = catch(world, m.ACCEPT, source=c)
    promises.pour()
    world.run()
    world.hosts[b].clock.offset_ms = -400
    world.hold(b, c)
    seven = world.put("k", b"seven", b, create=True)
    world.run(0.1)
    accepts.pour(target=a)
    world.run()
    world.release(b, c)
    world.run(2.0)
    claim([nine.kind, seven.kind].count(m.APPLIED) <= 1, "two creates of one key succeeded")


def all_replicas_take_part() -> None:
    """R35: a purge while one replica is away with the old value: it comes back with it."""
    world, a, b, c = mourning(deleted=False)
    with apart(world, c):
        world.delete("k", a)
        world.run(300.0)
        facts = world.hosts[a].node.upkeep.facts()["tombstones"]
    settle(world)
    for at in (c, b):
        claim(world.read("k", at) is None, "a deleted value came back")
    claim(seen_by(world, c) is None, "an eventual read shows what was deleted")
    claim(facts["waits_for"] == {world.config.nodes[c].id: 1}, f"nobody says who is waited for: {facts}")
    world.run(300.0)
    claim(absent_everywhere(world), "the tombstone was never purged")


def all_settle_before_one_removes() -> None:
    """R35: one has removed the tombstone, another still takes it for a delete that an eventual write had not seen."""
    world, a, b, c, removals = mourning_until(m.REMOVE)
    removals.pour(target=c)
    world.run()
    assert removed_at(world, c), "the tombstone is still there"
    call = world.write("k", b"new", c)
    world.run(1.0)
    assert call.kind == m.APPLIED
    for at in (b, a, c):
        claim(world.read("k", at) == b"new", "an acknowledged write was lost")


def late_writes_are_refused() -> None:
    """R37: an eventual write that was on its way for longer than gc_grace meets an absent key."""
    world, a, b, c = mourning(deleted=False)
    entries = catch(world, m.ENTRY, source=c, target=a)
    world.write("k", b"late", c)
    world.run()
    buried(world, a)
    assert removed_at(world, a), "the tombstone is still there"
    entries.pour()
    world.run()
    claim(seen_by(world, a) is None, "a deleted value came back")
    claim(world.read("k", b) is None, "a deleted value came back")
    claim(world.hosts[a].node.replica.stale == 1, "nobody counted it")


def tombstones_wait_for_late_writes() -> None:
    """R35: the same write, younger than gc_grace: there must be a tombstone yet that it loses to."""
    world, a, b, c = mourning(deleted=False)
    entries = catch(world, m.ENTRY, source=c, target=a)
    world.write("k", b"late", c)
    world.run()
    world.delete("k", a, timeout_ms=100)
    world.run(80.0)
    entries.pour()
    world.run()
    claim(seen_by(world, a) is None, "a deleted value came back")
    claim(world.read("k", b) is None, "a deleted value came back")


def late_writes_meet_no_change() -> None:
    """R37: the same late write, where something of the key is there that deletes nothing: the window of a refused retry
    (R23), or a proposal of which nobody knows whether it is chosen."""
    for is_proposal in (False, True):
        world, a, b, c = mourning(deleted=False)
        entries = catch(world, m.ENTRY, source=c, target=a)
        world.write("k", b"late", c)
        world.run()
        buried(world, a)
        assert removed_at(world, a), "the tombstone is still there"
        if is_proposal:
            lost = catch(world, m.ACCEPT, source=b, target=c), catch(world, m.ACCEPTED, source=a, target=b)
            world.put("k", b"proposed", b)
            world.run()
            assert all(each.messages for each in lost)
        else:
            refused = finished(world, world.put("k", b"v", b, etag="AAAA", attempt=2))
            assert refused.kind == m.CONFLICT
        settle(world)
        entries.pour()
        world.run()
        claim(seen_by(world, a) is None, "a deleted value came back")


def a_refusal_deletes_nothing() -> None:
    """R17, R23, R38: one has removed the tombstone and taken an eventual write since; a retry, refused by the others,
    would have its refusal recorded with the tombstone, which nobody could tell from a later delete."""
    world, _a, b, c, removals = mourning_until(m.REMOVE)
    removals.pour(target=c)
    world.run()
    assert removed_at(world, c), "the tombstone is still there"
    entries = catch(world, m.ENTRY, source=c)
    call = world.write("k", b"new", c)
    world.run()
    assert call.kind == m.APPLIED
    prepares = catch(world, m.PREPARE, target=c)
    retry = finished(world, world.put("k", b"v", b, etag="AAAA", attempt=2))
    prepares.stop()
    entries.stop()
    settle(world, 1.0)
    claim(seen_by(world, c) == b"new", "an acknowledged write was lost")
    claim(world.read("k", c) == b"new", "an acknowledged write was lost")
    assert retry.outcome == "unknown", retry.answer
    again = finished(world, world.put("k", b"v", b, etag="AAAA", attempt=3))
    assert again.kind == m.CONFLICT


def a_purged_base_is_no_missed_change() -> None:
    """R7, R15, R38: a replica that has the tombstone still, settled, takes an eventual write; the others have removed
    it.  To them the write names a change that they have missed, and its fold, of a smaller version, would lie below."""
    for has_stamp in (False, True):
        world, a, b, c, settles = mourning_until(m.SETTLE)
        stamped = world.ask(c, m.STAMP, name_of("k"), 5000, b"")  # given before the tombstone is settled there
        world.run()
        assert stamped.answer is not None
        removals = catch(world, m.REMOVE, source=a)
        settles.pour()
        world.run()
        removed = catch(world, m.PURGED, source=b, target=a)
        removals.pour()
        world.run()
        assert removed_at(world, b), "the tombstone is still there"
        assert removed_at(world, c), "the tombstone is still there"
        assert world.register(a, "k").image.settled
        call = world.write("k", b"new", a, stamp=stamped.answer[2] if has_stamp else b"")
        world.run()
        assert call.kind == m.APPLIED
        with apart(world, a):
            got = finished(world, world.get("k", b))
            claim(got.kind == m.ITEM, "two of three replicas cannot be read")
            claim(got.value == b"new", "an acknowledged write was lost")
            settle(world)
        removed.stop()
        settle(world, 1.0)
        for at in (a, b, c):
            got = finished(world, world.get("k", at))
            claim(got.kind == m.ITEM and got.value == b"new", "no round of the key succeeds any more")
        claim(finished(world, world.put("k", b"x", c)).kind == m.APPLIED, "no round of the key succeeds any more")


def a_tombstone_keeps_what_retries_ask_for() -> None:
    """R23, R24: the reply to a create was lost; its retry comes after the key was deleted and gc_grace has passed."""
    world, a, b, _c = mourning(deleted=False, put_first=False)
    issued = world.now_ms(a)
    first = world.put("k", b"v", a, create=True, sequence=900, timeout_ms=900_000)
    world.run()
    assert first.kind == m.APPLIED
    buried(world, b)
    retry = world.put("k", b"v", b, create=True, sequence=900, attempt=2, issued_at_ms=issued, timeout_ms=900_000)
    world.run(2.0)
    claim(world.read("k", a) is None, "a create took effect twice")
    claim(retry.kind == m.APPLIED, f"the retry is not told that its first attempt was applied: {retry.answer}")


def a_floor_outlives_a_crash() -> None:
    """R36: an old record, out of a hint, reaches a replica that has purged the key and was restarted since."""
    world, a, b, c = mourning(deleted=False)
    old = world.register(b, "k").image
    buried(world, a)
    for index in (a, b, c):
        world.crash(index)
    for index in (a, b, c):
        world.restart(index)
    world.post(b, a, (m.COMMIT, 1, world.row_key("k"), old.committed_ballot, *old.committed))
    world.run(3.0)
    claim(seen_by(world, a) is None, "a deleted value came back")
    claim(world.read("k", b) is None, "a deleted value came back")


def nobody_repairs_what_is_being_purged() -> None:
    """R38: one has removed the tombstone and another has it settled: they are equal, and no read mends that."""
    world, a, b, c, removals = mourning_until(m.REMOVE)
    removals.pour(target=c)
    world.run()
    sent = catch(world, m.COMMIT, m.PREPARE)
    for at in (a, b, c):
        world.get("k", at, strong=False, r=3)
        claim(world.read("k", at) is None, "a deleted value came back")
    claim(not sent.messages, "a read spreads a settled tombstone again")


CASES = [
    Case("R36, C11", a_purge_keeps_the_promise, purge.floors_forget_promises),
    Case("R35", all_replicas_take_part, purge.most_are_all),
    Case("R35", all_settle_before_one_removes, purge.nothing_is_settled),
    Case("R37", late_writes_are_refused, purge.late_writes_are_taken),
    Case("R37", late_writes_meet_no_change, purge.late_writes_are_taken),
    Case("R37", late_writes_meet_no_change, purge.only_what_is_absent_is_late),
    Case("R17, R23, R38", a_refusal_deletes_nothing, purge.refusals_wake_tombstones),
    Case("R7, R38", a_purged_base_is_no_missed_change, purge.folds_forget_purged_tombstones),
    Case("R15, R38", a_purged_base_is_no_missed_change, purge.what_is_purged_was_missed),
    Case("R35, R37", tombstones_wait_for_late_writes, purge.no_grace_is_given),
    Case("R23, R24, R34", a_tombstone_keeps_what_retries_ask_for, purge.windows_go_with_their_tombstones),
    Case("R36", a_floor_outlives_a_crash, purge.floors_are_not_kept),
    Case("R12, R36", a_floor_outlives_a_crash, purge.commits_pass_under_floors),
    Case("R38", nobody_repairs_what_is_being_purged, purge.settled_tombstones_are_spread),
]

test_the_counterexample_is_excluded, test_it_comes_back_without_its_rule = both_ways(CASES)
