"""Acknowledged writes that get lost, and dead ones that come back: the register's own rules (R9-R20, protocol 5a, 6).

Every scenario runs twice: as the product is, and with its rule switched off, where it must break.
"""

from __future__ import annotations

from mutants import rounds
from schedule import Case, apart, both_ways, catch, claim, propose_and_die, put, seen_by, settle, trio
from world import World

from kvclient.wire import messages as m
from kvclient.wire.values import NO_VERSION, Ballot
from kvnode.config import StoreConfig
from kvnode.core import register
from kvnode.core.record import EMPTY_IMAGE, NO_RECORD
from kvnode.core.version import BallotIssuer

# -- R12: the mark and the drop are one


def a_commit_marks_and_drops_at_once() -> None:
    """5a: commit mark lost, drop of `accepted` kept: the next round adopts a dead proposal."""
    world, a, b, c = trio()
    put(world, b"old", a)
    settle(world)
    propose_and_die(world, c, lambda: world.put("k", b"dead", c))
    with world.silenced(c):
        put(world, b"acked", a)
        settle(world)
    world.crash(a)
    claim(world.read("k", b) == b"acked", "an acknowledged write was lost")


# -- R15: the base


def accepted_below_committed_is_dead() -> None:
    """R15: a proposal accepted below the greatest committed ballot is ignored."""
    world, a, _b, c = trio()
    put(world, b"old", a)
    settle(world)
    propose_and_die(world, c, lambda: world.put("k", b"dead", c))
    with world.silenced(c):
        put(world, b"acked", a)
        settle(world)
    world.crash(a)
    call = world.put("k", b"late", c, etag="not an etag")
    world.run(2.0)
    claim(call.value == b"acked", "a dead proposal came back over an acknowledged write")


def the_base_is_chosen_by_ballot() -> None:
    """5a: candidate chosen by version instead of ballot: a proposal that a round has settled comes back.

    The operation is reported as definitely not applied by an identity round, which keeps the old version.
    """
    world, a, _b, c = trio()
    put(world, b"old", a)
    settle(world)
    issued = world.now_ms(c)
    propose_and_die(world, c, lambda: world.put("k", b"dead", c, sequence=900, session=b"victim!!"))
    world.run(6.0)
    with world.silenced(c):
        retry = world.put("k", b"dead", a, sequence=900, session=b"victim!!", attempt=2, issued_at_ms=issued)
        world.run(0.5)
        claim(retry.kind == m.FAILED and retry.outcome == "not applied" and retry.answer[4], str(retry.answer))
        settle(world)
    with world.silenced(a):
        check = world.put("k", b"x", c, etag="not an etag")
        world.run(2.0)
    claim(check.kind == m.CONFLICT and check.value == b"old", "what was reported as not applied took effect")


# -- R19: the cached promise


def the_cached_ballot_is_exactly_the_promised_one() -> None:
    """5a: `next` replaced by any greater ballot: an update is lost, and one ETag wins twice."""
    world, a, b, _c = trio()
    etag = put(world, b"1", a).etag
    settle(world)
    with world.silenced(a):
        second = world.put("k", b"2", b, etag=etag)
        world.run()
    claim(second.kind == m.APPLIED, str(second.answer))
    third = world.put("k", b"3", a, etag=etag)
    world.run(2.0)
    claim(third.kind == m.CONFLICT, "two writers won with one ETag")


# -- R26: an accept quorum meets every prepare quorum


def q2_acknowledgements_choose() -> None:
    """C7, M10c: fewer than Q2 acknowledgements, and a later round need not see the write."""
    world, a, b, _c = trio()
    put(world, b"old", a)
    settle(world)
    catch(world, m.ACCEPT, source=a)
    call = world.put("k", b"new", a)
    world.run()
    world.crash(a)
    claim(call.kind != m.APPLIED or world.read("k", b) == b"new", "an acknowledged write was lost")


# -- R13, C9: copies are votes


def repair_carries_no_undecided_proposal() -> None:
    """C9, M9a: an eventual read repairs a replica; the proposal that it met there must not travel along."""
    world, a, b, c = trio()
    with apart(world, a):
        put(world, b"old", b)
        settle(world)
    propose_and_die(world, c, lambda: world.put("k", b"undecided", c))
    with world.silenced(b):
        world.get("k", a, strong=False, r=2)
        settle(world)
        claim(seen_by(world, a) == b"old", f"an undecided proposal was read: {seen_by(world, a)!r}")


# -- C11: floors


def a_purge_keeps_the_promise() -> None:
    """C11, R36: a purged key refuses whatever its promise refused, strictly; two creates cannot both succeed.

    The purge itself is not built; a register that starts empty over its floor is what it leaves.
    """
    ballots = [BallotIssuer(1, 1).issue(stamp << 16, Ballot(b"")) for stamp in (7, 9)]
    purged = register.Register(EMPTY_IMAGE, Ballot(b""), floor=ballots[1])
    record = NO_RECORD._replace(body=bytes(61))
    following = BallotIssuer(1, 1).issue(10 << 16, Ballot(b""))
    claim(purged.prepare(ballots[0], 9, 500) is register.Verdict.NACK, "a prepare below the floor was promised")
    claim(purged.commit(ballots[1], record) is register.Verdict.FLOOR, "a commit at the floor was stored")
    verdict = purged.accept(ballots[1], record, NO_VERSION, following)
    claim(verdict is register.Verdict.NACK, "an accept at the floor was taken")


# -- R20: the fast read


def a_primary_does_not_answer_alone() -> None:
    """5a: a primary that answers a strong read by itself is stale after a partition."""
    world, a, b, _c = trio()
    put(world, b"old", a)
    settle(world)
    with world.silenced(a):
        put(world, b"new", b)
        settle(world)
    call = world.get("k", a)
    world.run(0.3)
    claim(call.value == b"new", "a strong read was stale")


def a_read_proves_what_it_returns() -> None:
    """M4b: the greatest value seen is returned without proof, and is gone when its only holder is."""
    world, a, b, c = trio()
    put(world, b"old", a)
    settle(world)
    propose_and_die(world, c, lambda: world.put("k", b"undecided", c))
    catch(world, source=c, target=b)
    catch(world, m.COMMIT, m.ACCEPT)
    catch(world, m.READ, m.DIGEST, source=b)
    call = world.get("k", c)
    world.run(0.5)
    world.crash(c)
    world.on_post = lambda source, target, message: True
    after = world.read("k", a)
    claim(not (call.answer and call.kind == m.ITEM and call.value == b"undecided") or after == b"undecided", "flicker")


def lagging_replicas_prove_nothing() -> None:
    """R20, M10a: two of five replicas missed a write; a read that meets both first must go on asking, hedged or not."""
    for seed in range(4):
        world = World(5, seed, store=StoreConfig("default", replicas=5))
        a, b, _c, d, e = world.owners("k")
        put(world, b"old", a)
        settle(world)
        with apart(world, d, e):
            put(world, b"new", a)
            settle(world)
        with world.silenced(a, b):
            call = world.get("k", d)
            world.run(0.5)
        claim(call.kind == m.ITEM and call.value == b"new", f"a strong read was stale: {call.answer}")


# -- 4a: commit on an accept


def a_commit_on_a_refused_accept_stands() -> None:
    """4a: the commit that rides along is done first, and stands if the accept is refused."""
    world, a, b, c = trio()
    put(world, b"old", a)
    settle(world)
    put(world, b"chosen", a)  # its mark waits for the next accept
    catch(world, m.ACCEPT, source=c)
    world.put("k", b"other", c)
    world.run()  # b has promised to c
    back = catch(world, m.NACK, source=b)
    world.put("k", b"next", a)
    world.run()
    assert back.messages, "the accept was not refused"
    claim(seen_by(world, b) == b"chosen", "the commit was lost with the accept that carried it")


CASES = [
    Case("R12", a_commit_marks_and_drops_at_once, rounds.the_mark_is_lost),
    Case("R15", accepted_below_committed_is_dead, rounds.accepted_goes_before_committed),
    Case("R15, R24", the_base_is_chosen_by_ballot, rounds.the_base_is_chosen_by_version),
    Case("R19", the_cached_ballot_is_exactly_the_promised_one, rounds.the_cached_ballot_jumps),
    Case("R26", q2_acknowledgements_choose, rounds.one_acknowledgement_is_enough),
    Case("R13", repair_carries_no_undecided_proposal, rounds.repair_copies_what_was_accepted),
    Case("R36", a_purge_keeps_the_promise, rounds.floors_are_ignored),
    Case("R20", a_primary_does_not_answer_alone, rounds.one_reply_answers_a_read),
    Case("R20", lagging_replicas_prove_nothing, rounds.read_sets_are_too_small),
    Case("R20", a_read_proves_what_it_returns, rounds.the_greatest_seen_is_returned),
    Case("R12, 4a", a_commit_on_a_refused_accept_stands, rounds.the_commit_falls_with_the_accept),
]

test_the_counterexample_is_excluded, test_it_comes_back_without_its_rule = both_ways(CASES)
