"""Eventual writes beside strong ones: what they may never override, and what they must never lose to (R7, R8, R15,
R29-R31, R63, protocol 4a and 6).

Every scenario runs twice: as the product is, and with its rule switched off, where it must break.
"""

from __future__ import annotations

from mutants import overlay
from schedule import Case, apart, both_ways, catch, claim, propose_and_die, put, seen_by, settle, trio
from world import Call, World

from kvclient.wire import messages as m
from kvclient.wire.values import BALLOT_BYTES, etag_parse
from kvnode.core import reading, register
from kvnode.core.record import EMPTY_IMAGE


def written(world: World, value: bytes, at: int, **options: object) -> Call:
    """Run an eventual write to its end; it must be applied."""
    call = world.write("k", value, at, **options)  # type: ignore[arg-type]
    world.run()
    if call.answer is None:
        world.run(1.0)
    assert call.kind == m.APPLIED, call.answer
    return call


def an_older_eventual_write_never_beats_a_strong_one() -> None:
    """C4: w, acknowledged by a fast clock, is met by a read after a later strong write."""
    world, a, b, c = trio()
    put(world, b"old", b)
    settle(world)
    world.set_clock(a, 400)
    entries = catch(world, m.ENTRY)
    written(world, b"w", a)
    with world.silenced(a):
        put(world, b"u", b)
        settle(world)
    entries.pour()
    settle(world)
    claim(world.read("k", a) == b"u", "a strong read returned an older eventual write")
    claim(seen_by(world, c) == b"u", "an eventual write overrode a strong one that it had not seen")


def a_cached_ballot_is_not_a_time() -> None:
    """C6: b+ is promised at noon and used at 12:10; eventual writes in between must not beat the strong one."""
    world, a, b, c = trio()
    put(world, b"noon", a)
    settle(world)
    world.run(600.0)
    written(world, b"w", b, w=3)
    put(world, b"", a, key="other")  # the ceiling has moved on; else the cached promise would be lost with the wait
    put(world, b"12:10", a)
    settle(world)
    for index in (a, b, c):
        claim(seen_by(world, index) == b"12:10", "an eventual write beat a later strong one")


def a_clock_behind_loses_nothing_its_client_saw() -> None:
    """C5: the second write of one client, through a slow clock, with the token of its first."""
    world, a, b, c = trio()
    put(world, b"old", b)
    settle(world)
    world.set_clock(a, -300)
    entries = catch(world, m.ENTRY, source=b)
    first = written(world, b"first", b)
    token = first.answer[2]  # type: ignore[index]
    written(world, b"second", a, token=token)
    entries.pour()
    settle(world)
    for index in (a, b, c):
        claim(seen_by(world, index) == b"second", "a write lost to one that its client had seen")


def a_write_on_a_strong_one_carries_its_ballot() -> None:
    """C5: no clock behind can make a write lose to the strong one that its replica had seen."""
    world, a, b, c = trio()
    world.set_clock(a, -10_000)
    put(world, b"strong", b)
    settle(world)
    written(world, b"w", a, w=3)
    settle(world)
    for index in (a, b, c):
        claim(seen_by(world, index) == b"w", "an acknowledged write was dropped silently")
    claim(world.read("k", c) == b"w", "an acknowledged write was dropped silently")


def what_was_acked_at_one_is_read_when_it_is_there() -> None:
    """C1, M8d: with W=1 a strong read without that replica returns the old value, which is documented; with it, the
    write is absorbed by an accept and stays, though its only holder goes."""
    world, a, b, c = trio()
    put(world, b"old", a)
    settle(world)
    catch(world, m.ENTRY)
    written(world, b"w", a)
    with apart(world, a):
        assert world.read("k", b) == b"old"
    with apart(world, c):
        claim(world.read("k", a) == b"w", "the entry was there, and was not read")
    world.crash(a)
    claim(world.read("k", c) == b"w", "a value was read and then vanished")


def a_superseded_write_is_acknowledged_and_not_kept() -> None:
    """R29: an entry that is not visible over what is committed is acknowledged as superseded, and not stored."""
    world, a, b, c = trio()
    put(world, b"old", a)
    settle(world)
    stamp = world.ask(a, m.STAMP, b"default\0k", 5000, b"")
    world.run()
    put(world, b"strong", b)
    settle(world)
    call = written(world, b"late", c, stamp=stamp.answer[2], w=3)  # type: ignore[index]
    settle(world)
    claim(call.answer is not None and call.answer[3] == 1, f"not called superseded: {call.answer}")
    for index in (a, b, c):
        claim(not world.register(index, "k").image.overlay, "a superseded entry was stored")
        claim(seen_by(world, index) == b"strong", "a superseded entry is shown")


def a_commit_hides_the_entries_that_missed_it() -> None:
    """R30: E is dropped when a committed S arrives over which it is not visible; not when S is merely accepted."""
    world, a, b, c = trio()
    put(world, b"old", a)
    settle(world)
    catch(world, m.MARKS, source=a)
    with world.silenced(c):
        put(world, b"strong", a)
    world.crash(a)  # b has accepted it, and nobody there knows that it is chosen
    written(world, b"w", c)
    claim(seen_by(world, b) in (b"w", b"old"), "an undecided proposal was shown")
    call = world.read("k", b)
    settle(world)
    claim(call == b"strong" and seen_by(world, c) == b"strong" == seen_by(world, b), "an acknowledged write was lost")


# -- R7: the base of an eventual write


def the_base_of_an_entry_is_chosen() -> None:
    """R7: an entry on an undecided branch, whose ballot is greater than the version of what is then settled."""
    world, a, b, c = trio()
    put(world, b"old", a)
    settle(world)
    propose_and_die(world, c, lambda: world.put("k", b"branch", c))
    with world.silenced(c):
        settled = world.put("k", b"x", a, etag="identity", attempt=2)  # proposed, for its refusal is recorded
        world.run(1.0)
    assert settled.kind == m.CONFLICT, settled.answer
    with apart(world, c):
        write = world.write("k", b"w", c)
        world.run(1.0)
    assert write.kind == m.APPLIED, write.answer
    call = world.get("k", c, timeout_ms=2000)
    world.run(3.0)
    claim(call.kind == m.ITEM, "an entry on a branch that was never chosen keeps the key from being read")
    claim(call.value == b"w" == world.read("k", b), "the entry was dropped")


def a_write_waits_for_the_commit_that_its_client_knows() -> None:
    """R7, 4a: the strong write is done, its mark is on the way; the client's next write must not miss it."""
    world, a, b, c = trio()
    put(world, b"old", a)
    settle(world)
    put(world, b"strong", a)  # the marks leave 20 ms later
    call = world.write("k", b"next", b)
    world.run(0.2)
    assert call.kind == m.APPLIED
    settle(world)
    for index in (a, b, c):
        claim(seen_by(world, index) == b"next", "a client's eventual write missed its own strong one")


def a_write_waits_50_ms_at_most() -> None:
    """4a: two of three nodes are dead, the proposal here stays undecided, and eventual writes go on."""
    world, a, b, c = trio()
    put(world, b"old", a)
    settle(world)
    accepts = catch(world, m.ACCEPT, source=a)
    world.put("k", b"undecided", a)
    world.run()
    assert accepts.messages
    world.crash(b)
    world.crash(c)
    call = world.write("k", b"w", a)
    world.run(0.07)
    claim(call.kind == m.APPLIED, f"after 70 ms: {call.answer}")


def a_token_is_confirmed_before_it_is_a_base() -> None:
    """4a: the client saw a strong write whose coordinator died before it told anybody; it writes elsewhere."""
    world, a, b, c = trio()
    put(world, b"old", a)
    settle(world)
    catch(world, m.MARKS, m.COMMIT, source=a)
    token = etag_parse(put(world, b"strong", a).etag)
    world.crash(a)
    call = world.write("k", b"next", b, token=token or b"")
    world.run(1.0)
    assert call.kind == m.APPLIED, call.answer
    settle(world)
    claim(world.read("k", c) == b"next", "a write lost to one that its client had seen")
    claim(seen_by(world, b) == b"next", "a write lost to one that its client had seen")


def a_token_that_names_nothing_is_no_base() -> None:
    """4a: a sballot known only from a token is confirmed; one that no chosen change has is never a base."""
    world, a, b, c = trio()
    put(world, b"old", a)
    settle(world)
    forged = b"\x02" + bytes(BALLOT_BYTES - 1) + bytes(16)
    written(world, b"w", a, token=forged)
    settle(world)
    call = world.put("k", b"strong", b)
    world.run(6.0)
    claim(call.kind == m.APPLIED, f"no strong write is possible any more: {call.answer}")
    settle(world)
    for index in (a, b, c):
        claim(seen_by(world, index) == b"strong", "a forged token beats every strong write to come")


# -- R10: a steady strong writer


def a_cached_round_sees_the_overlay() -> None:
    """R10, Unseen: a round that skips the prepare must not pass over an eventual write that all N hold.

    The coordinator's own replica holds it, too, but not on disk yet, so it could not join it to its base (R6).
    """
    world, a, b, _c = trio()
    etag = put(world, b"old", a).etag
    settle(world)
    world.hold_disk(a)
    written(world, b"w", b, w=2)
    call = world.put("k", b"x", a, etag=etag)
    world.run(0.5)
    world.release_disk(a)
    world.run(0.5)
    claim(call.kind == m.CONFLICT and call.value == b"w", f"a write that all hold was passed over: {call.answer}")


# -- R15: a quorum that missed a chosen change


def an_entry_above_the_base_sends_the_round_back() -> None:
    """R15, R20: an entry names a chosen change that these replies have missed; it is never ignored."""
    digests = [
        register.digest_of(EMPTY_IMAGE._replace(overlay=_entry(b"\x05")), register.NO_BALLOT),
        register.digest_of(EMPTY_IMAGE, register.NO_BALLOT),
    ]
    read = reading.FastRead(_quorums())
    outcomes = [read.on_digest(index, digest) for index, digest in enumerate(digests)]
    claim(outcomes[-1] is reading.Reading.ROUND, f"answered {outcomes[-1].name} past a chosen change")


def _entry(first: bytes) -> register.Entry:
    return register.Entry(b"\x00" + first + bytes(43) + bytes(16) + b"\0v")


def _quorums() -> reading.Quorums:
    return reading.Quorums(3, 2, 2)


CASES = [
    Case("R8, R15", an_older_eventual_write_never_beats_a_strong_one, overlay.ordered_by_stamp_alone),
    Case("R7, R19", a_cached_ballot_is_not_a_time, overlay.ordered_by_stamp_alone),
    Case("R29", a_clock_behind_loses_nothing_its_client_saw, overlay.stamps_know_only_the_clock),
    Case("R7", a_write_on_a_strong_one_carries_its_ballot, overlay.ordered_by_stamp_alone),
    Case("R20", what_was_acked_at_one_is_read_when_it_is_there, overlay.overlays_are_shown_unabsorbed),
    Case("R15", what_was_acked_at_one_is_read_when_it_is_there, overlay.overlays_are_never_folded),
    Case("R29", a_superseded_write_is_acknowledged_and_not_kept, overlay.every_entry_is_visible),
    Case("R30", a_commit_hides_the_entries_that_missed_it, overlay.every_entry_is_visible),
    Case("R7", the_base_of_an_entry_is_chosen, overlay.entries_build_on_proposals),
    Case("R7, 4a", a_write_waits_for_the_commit_that_its_client_knows, overlay.writes_do_not_wait),
    Case("4a", a_write_waits_50_ms_at_most, overlay.patience_is_endless),
    Case("4a", a_token_is_confirmed_before_it_is_a_base, overlay.tokens_are_not_confirmed),
    Case("4a", a_token_that_names_nothing_is_no_base, overlay.a_token_is_believed),
    Case("R10", a_cached_round_sees_the_overlay, overlay.nothing_is_unseen),
    Case("R15, R20", an_entry_above_the_base_sends_the_round_back, overlay.entries_prove_nothing),
]

test_the_counterexample_is_excluded, test_it_comes_back_without_its_rule = both_ways(CASES)
