"""What a client is told, and when: the four outcomes, deadlines and expiry on any clock, refusals at once (R21, R24,
R63, protocol 4a and 6).

Every scenario runs twice: as the product is, and with its rule switched off, where it must break.
"""

from __future__ import annotations

from mutants import outcomes
from schedule import Case, apart, both_ways, catch, claim, finished, put, settle, trio

from kvclient.wire import messages as m

RIVAL = b"rival..."

# -- R21: outcomes


def a_lone_accept_is_unknown_when_links_go() -> None:
    """C15: no quorum of acknowledgements never means "did not happen": another proposer adopts the lone accept."""
    world, a, b, c = trio()
    put(world, b"old", a)
    settle(world)
    catch(world, m.ACCEPT, source=a)
    call = world.put("k", b"lone", a)
    world.run()
    with apart(world, a):
        finished(world, call)
    settle(world)
    with world.silenced(c):
        now = world.read("k", b)
    claim(not (now == b"lone" and call.outcome == "not applied"), "what was reported as not applied took effect")
    claim(call.outcome != "not applied" or now == b"old", str(call.answer))


def a_lone_accept_is_unknown_at_the_deadline() -> None:
    """R21: no answer is no nack."""
    world, a, _b, _c = trio()
    put(world, b"old", a)
    settle(world)
    catch(world, m.ACCEPT, source=a)
    call = world.put("k", b"lone", a)
    world.run(7.0)
    claim(call.answer is not None and call.outcome == "unknown", str(call.answer))
    world.on_post = lambda source, target, message: True
    claim(world.read("k", a) == b"lone", "the scenario is wrong: the proposal is gone")


def refused_by_all_is_not_applied() -> None:
    """R21: every acceptor that it was sent to refused it."""
    world, a, b, c = trio()
    put(world, b"old", a)  # a has a cached promise
    settle(world)
    own = catch(world, m.ACCEPT, source=c)
    world.put("k", b"other", c)
    world.run()  # all have promised to c
    assert own.messages
    call = world.put("k", b"refused", a)
    slow = catch(world, m.PREPARE, source=a)
    while world.scheduler.turn() or world._deliver_any():
        pass
    assert call.answer is None
    world.cut(a, b)
    world.cut(a, c)
    world.run(0.4)
    claim(slow.messages == [] or call.answer is not None, "no answer")
    claim(call.answer is not None and call.outcome == "not applied", str(call.answer))


def refused_by_all_is_not_applied_at_the_deadline() -> None:
    """R21: the same when it is time that ends it."""
    world, a, _b, c = trio()
    put(world, b"old", a)
    settle(world)
    own = catch(world, m.ACCEPT, source=c)
    world.put("k", b"other", c)
    world.run()
    assert own.messages
    catch(world, m.PREPARE, source=a)
    call = world.put("k", b"refused", a, timeout_ms=300)
    world.run(2.0)
    claim(call.answer is not None and call.outcome == "not applied", str(call.answer))


# -- R24: deadlines


def a_deadline_is_kept_on_any_clock() -> None:
    """R24: the window has dropped the operation; a late attempt through a slow clock must not run it again."""
    world, a, b, _c = trio()
    put(world, b"0", b)
    issued = world.now_ms()
    put(world, b"once", b, sequence=700)
    settle(world)
    world.run(70.0)
    put(world, b"later", b, session=RIVAL)
    settle(world)
    world.set_clock(a, -120_000)
    late = world.put("k", b"once", a, sequence=700, attempt=2, issued_at_ms=issued)
    finished(world, late)
    claim(late.kind != m.APPLIED and world.read("k", b) == b"later", "an operation ran twice, long past its deadline")


# -- 4a: nothing is sent that cannot succeed


def too_few_links_are_refused_at_once() -> None:
    """4a: fewer than Q2 open links: NOT_APPLIED at once, nothing sent."""
    world, a, b, c = trio()
    world.cut(a, b)
    world.cut(a, c)
    call = world.put("k", b"v", a)
    world.run()
    claim(call.answer is not None and call.outcome == "not applied", f"not refused at once: {call.answer}")
    claim(world.register(a, "k").promised == world.hosts[a].node.ceilings.restart_promise, "something was sent")


def too_few_replicas_for_w_are_refused_at_once() -> None:
    """4a: too few live replicas for an eventual W: NOT_APPLIED before sending."""
    world, a, b, c = trio()
    world.cut(a, c)
    call = world.write("k", b"v", a, w=3)
    world.run()
    claim(call.answer is not None and call.outcome == "not applied", f"not refused at once: {call.answer}")
    claim(world.get("k", b, strong=False).value is None, "something was sent")


# -- R63


def what_has_expired_stays_expired() -> None:
    """R63: a node 400 ms ahead finds a value expired; no later read, on any clock, may show it again."""
    world, a, b, c = trio()
    put(world, b"v", a, ttl_ms=5000)
    settle(world)
    world.run(4.6)
    world.set_clock(b, 400)
    ahead = world.read("k", b)
    claim(ahead is None, "the scenario is wrong: it has not expired at b")
    claim(world.read("k", a) is None and world.read("k", c) is None, "an expired value came back")
    created = world.put("k", b"again", c, create=True)
    world.run(1.0)
    claim(created.kind == m.APPLIED, "an expired key exists for a create")


CASES = [
    Case("R21", a_lone_accept_is_unknown_when_links_go, outcomes.doubt_is_always_cleared),
    Case("R21", a_lone_accept_is_unknown_at_the_deadline, outcomes.no_accept_is_in_doubt),
    Case("R21", refused_by_all_is_not_applied, outcomes.doubt_is_never_cleared),
    Case("R21", refused_by_all_is_not_applied_at_the_deadline, outcomes.doubt_is_never_cleared),
    Case("R24", a_deadline_is_kept_on_any_clock, outcomes.the_wall_clock_decides),
    Case("4a", too_few_links_are_refused_at_once, outcomes.links_are_not_counted),
    Case("4a", too_few_replicas_for_w_are_refused_at_once, outcomes.links_are_not_counted),
    Case("R63", what_has_expired_stays_expired, outcomes.expiry_is_judged_by_the_reader),
]

test_the_counterexample_is_excluded, test_it_comes_back_without_its_rule = both_ways(CASES)
