"""Operations that take effect twice, or are reported as something that they are not: retries, refusals, outcomes,
deadlines (R17, R18, R21-R25, protocol 5a, 6).

Every scenario runs twice: as the product is, and with its rule switched off, where it must break.
"""

from __future__ import annotations

import msgpack
from mutants import retries
from schedule import Case, both_ways, catch, claim, finished, propose_and_die, put, settle, trio
from world import World

from kvclient.wire import messages as m

RIVAL = b"rival..."


# -- R23: the request window


def a_refusal_outlives_a_delayed_first_attempt() -> None:
    """5a: the second attempt of a create is refused, the key is deleted, the first attempt arrives and creates."""
    world, a, b, c = trio()
    put(world, b"there", a)
    settle(world)
    issued = world.now_ms()
    second = finished(world, world.put("k", b"mine", a, create=True, sequence=500, attempt=2))
    claim(second.kind == m.CONFLICT, str(second.answer))
    finished(world, world.delete("k", b, session=RIVAL))
    first = finished(world, world.put("k", b"mine", c, create=True, sequence=500, issued_at_ms=issued))
    claim(first.kind != m.APPLIED and world.read("k", a) is None, "a refused create took effect")


def retried_after(between) -> None:  # type: ignore[no-untyped-def]
    world, a, b, c = trio()
    put(world, b"base", a)
    settle(world)
    issued = world.now_ms()
    first = put(world, b"once", a, sequence=600)
    settle(world)
    between(world, a, b, c)
    settle(world)
    before = world.read("k", a)
    again = finished(world, world.put("k", b"once", b, sequence=600, attempt=2, issued_at_ms=issued))
    claim(again.kind == m.APPLIED and again.etag == first.etag, f"the retry was not recognized: {again.answer}")
    claim(world.read("k", a) == before, "an applied operation was applied again")


def a_fold_keeps_the_window() -> None:
    """5a: an id window that an eventual write's fold discards (R15, R24)."""

    def eventual_write(world: World, a: int, b: int, c: int) -> None:
        finished(world, world.write("k", b"eventual", a))
        finished(world, world.put("k", b"x", a, etag="folds, and refuses"))

    retried_after(eventual_write)


def an_overwrite_keeps_the_window() -> None:
    """C14: a blind write that does not read its predecessor drops the window."""
    retried_after(lambda world, a, b, c: put(world, b"blind", b, session=RIVAL))


def a_delete_keeps_the_window() -> None:
    """R34: tombstones keep it."""
    retried_after(lambda world, a, b, c: finished(world, world.delete("k", c, session=RIVAL)))


def a_transaction_keeps_the_window() -> None:
    """R24: so does a transaction."""
    steps = change_steps([[m.PUT, 0, "", b"\0t", 0], [m.DELETE, 0, "", b"", 0]])
    retried_after(lambda world, a, b, c: finished(world, world.mutate("k", m.TRANSACT, steps, a, session=RIVAL)))


def change_steps(steps: list[list[object]]) -> bytes:
    return bytes(msgpack.packb(steps))


# -- R18: own request id in the base


def an_own_proposal_in_the_base_is_finished() -> None:
    """C3: a CAS is accepted at one replica; its retry meets its own record and reports "failed" though it shows."""
    world, a, b, _c = trio()
    etag = put(world, b"0", a).etag
    settle(world)
    accepts = catch(world, m.ACCEPT, source=a)
    call = world.put("k", b"1", a, etag=etag)
    world.run(0.5)
    accepts.stop()
    finished(world, call)
    claim(
        call.kind == m.APPLIED and world.read("k", b) == b"1", f"reported {call.answer}, reads {world.read('k', b)!r}"
    )


# -- C2, R25, R29: an eventual write has one version for ever


def stamped(world: World, at: int) -> bytes:
    call = finished(world, world.ask(at, m.STAMP, b"default\0k", 5000, b""))
    assert call.answer is not None
    assert call.answer[0] == m.STAMPED
    return bytes(call.answer[2])


def a_stamped_write_happens_once() -> None:
    """C2, M7f: a write sent again through another coordinator overwrites the CAS that was based on it."""
    world, a, b, c = trio()
    put(world, b"old", a)
    settle(world)
    stamp = stamped(world, a)
    lost = catch(world, m.WRITTEN)
    world.write("k", b"w", b, stamp=stamp, w=3)
    world.run(0.1)
    lost.stop()
    shown = world.get("k", c)
    finished(world, shown)
    claim(shown.value == b"w", "the write is not there")
    cas = finished(world, world.put("k", b"x", c, etag=shown.etag))
    claim(cas.kind == m.APPLIED, str(cas.answer))
    for at in (a, b, c):
        again = finished(world, world.write("k", b"w", at, stamp=stamp, w=2))
        claim(again.kind == m.APPLIED, "a repeated write must be acknowledged")
    settle(world)
    claim(world.read("k", a) == b"x", "an eventual write took effect twice and destroyed a CAS")


# -- R17: negative answers have evidence


def refused_on(etag: str) -> None:
    world, a, b, c = trio()
    put(world, b"old", a)
    settle(world)
    propose_and_die(world, c, lambda: world.put("k", b"maybe", c))
    to_b = catch(world, source=b), catch(world, target=b)
    call = finished(world, world.put("k", b"x", c, etag=etag), 3.0)
    for caught in to_b:
        caught.stop()
    world.crash(c)
    now = world.read("k", a)
    claim(call.kind != m.CONFLICT or call.value == now, f"a refusal showed {call.answer}, and then {now!r} was read")


def a_failed_check_is_anchored() -> None:
    """C8, M3 (CASSANDRA-12126): a value at one replica is shown by a failing CAS and then vanishes."""
    refused_on("AAAA")


def an_unparsable_etag_needs_evidence_too() -> None:
    """4a: an unparsable ETag is a mismatch, with the same evidence."""
    refused_on("no etag at all!")


def deleting_nothing_changes_nothing() -> None:
    """4a: a strong delete of an absent key makes no tombstone, on Q2 empty promises."""
    world, a, b, c = trio()
    call = finished(world, world.delete("k", a))
    claim(call.kind == m.APPLIED and call.answer is not None and call.answer[2] == b"", str(call.answer))
    claim(all(world.register(index, "k").is_absent for index in (a, b, c)), "a tombstone was made")
    folded = finished(world, world.write("k", b"eventual", b))
    settle(world)
    deleted = finished(world, world.delete("k", a))
    claim(folded.kind == m.APPLIED and deleted.answer is not None and deleted.answer[2] != b"", "no fold before")
    claim(world.read("k", c) is None, "the deleted value is still there")


# -- 4a: nobody joins a read already sent


def a_read_never_joins_one_already_sent() -> None:
    """4a: a read that began after an acknowledged write is answered by digests from before it."""
    world, a, b, _c = trio()
    put(world, b"old", a)
    settle(world)
    digests = catch(world, m.DIGEST, target=a)
    first = world.get("k", a)
    world.run()
    assert digests.messages
    catch(world, m.ACCEPT, source=b, target=a)
    put(world, b"new", b)
    second = world.get("k", a)
    digests.pour()
    finished(world, first)
    finished(world, second)
    claim(second.value == b"new", "a strong read was stale")


CASES = [
    Case("R23", a_refusal_outlives_a_delayed_first_attempt, retries.only_effects_are_remembered),
    Case("R15, R24", a_fold_keeps_the_window, retries.a_fold_drops_the_window),
    Case("R24", an_overwrite_keeps_the_window, retries.changes_drop_the_window),
    Case("R34", a_delete_keeps_the_window, retries.changes_drop_the_window),
    Case("R24", a_transaction_keeps_the_window, retries.changes_drop_the_window),
    Case("R23, M1b", an_overwrite_keeps_the_window, retries.nothing_is_remembered),
    Case("R18", an_own_proposal_in_the_base_is_finished, retries.nothing_is_remembered),
    Case("R25, R29", a_stamped_write_happens_once, retries.a_repeated_write_is_stamped_anew),
    Case("R17", a_failed_check_is_anchored, retries.promises_prove_everything),
    Case("R17, 4a", an_unparsable_etag_needs_evidence_too, retries.promises_prove_everything),
    Case("R17, 4a", deleting_nothing_changes_nothing, retries.promises_prove_nothing),
    Case("4a", a_read_never_joins_one_already_sent, retries.reads_join_what_runs),
]

test_the_counterexample_is_excluded, test_it_comes_back_without_its_rule = both_ways(CASES)
