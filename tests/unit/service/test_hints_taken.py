"""What a replica makes of a hint: R12 and R29, acknowledged when durable, refused when too old (R13, R37)."""

from __future__ import annotations

from typing import Any

import pytest
from schedule import put, seen_by, settle, trio
from world import EPOCH, World, body

from kvclient.wire import messages as m
from kvnode.config import StoreConfig
from kvnode.core.record import entry_make
from kvnode.core.version import ballot_make, version_eventual, version_strong

DAY_MS = 86_400_000


class Sender:
    """The link of a node that hands something over."""

    index = 1
    requests = 0

    def __init__(self) -> None:
        self.answers: list[Any] = []

    def send(self, message: Any) -> bool:
        self.answers.append(message)
        return True


def hand(world: World, at: int, *parts: Any, epoch: int = EPOCH, key: str = "k") -> list[Any]:
    sender = Sender()
    world.hosts[at].node.on_batch(sender, [[m.HINTS, 7, epoch, [world.row_key(key), *parts]]])
    return sender.answers


def taken(*outcomes: int, wait_ms: int = 0) -> tuple[Any, ...]:
    """Return the answer that says these outcomes."""
    return (m.HINTED, 7, wait_ms, bytes(outcomes))


def entry_of(world: World, age_ms: int = 0, value: bytes = b"e", sballot: bytes = b"") -> bytes:
    version = version_eventual(sballot, (world.now_ms() - age_ms) << 16, 5)  # type: ignore[arg-type]
    return entry_make(body(version, value), absent=not sballot)


def record_of(world: World) -> tuple[bytes, bytes]:
    ballot = ballot_make(world.now_ms() << 16, 5, 1, 1)
    return ballot, body(version_strong(ballot, 0), b"r")


def test_a_record_is_committed_and_never_accepted() -> None:
    """R13."""
    world, a, _, _ = trio()
    ballot, record = record_of(world)
    answers = hand(world, a, ballot, record, b"", b"")
    assert answers == [], "it is not durable yet"
    world.run()
    assert answers == [taken(m.HINT_TAKEN)]
    image = world.register(a, "k").shown
    assert (image.committed_ballot, image.accepted_ballot) == (ballot, b"")


def test_record_and_entry_go_together() -> None:
    world, a, _, _ = trio()
    ballot, record = record_of(world)
    answers = hand(world, a, ballot, record, b"", entry_of(world, sballot=ballot))
    world.run()
    assert answers == [taken(m.HINT_TAKEN)]
    assert seen_by(world, a) == b"e"
    assert world.register(a, "k").image.committed_ballot == ballot


@pytest.mark.parametrize("what", ["record", "entry", "nothing"])
def test_what_is_acknowledged_survives_a_crash(what: str) -> None:
    """A commit need not be durable (R12); a hint is forgotten by its sender, so what it brought must be."""
    world, a, _, _ = trio()
    ballot, record = record_of(world) if what == "record" else (b"", b"")
    answers = hand(world, a, ballot, record, b"", entry_of(world) if what == "entry" else b"")
    world.run()
    assert answers == [taken(m.HINT_TAKEN)]
    world.crash(a)
    world.restart(a)
    assert seen_by(world, a) == {"record": b"r", "entry": b"e", "nothing": None}[what]


def test_what_is_older_than_what_is_here_changes_nothing_and_is_acknowledged() -> None:
    world, a, _, _ = trio()
    ballot, record = record_of(world)
    world.run(1.0)
    put(world, b"new", a)
    before = world.register(a, "k").image
    answers = hand(world, a, ballot, record, b"", entry_of(world, age_ms=1000))
    world.run()
    assert answers == [taken(m.HINT_TAKEN)]
    assert world.register(a, "k").image == before


@pytest.mark.parametrize(("age_ms", "is_taken"), [(59_000, True), (61_000, False)])
def test_an_entry_older_than_gc_grace_is_refused(age_ms: int, *, is_taken: bool) -> None:
    """R37: what superseded it may be purged here."""
    world = World(3, store=StoreConfig("default", replicas=3, gc_grace_s=60))
    answers = hand(world, 0, b"", b"", b"", entry_of(world, age_ms))
    world.run()
    assert answers == [taken(m.HINT_TAKEN if is_taken else m.HINT_STALE)]
    assert seen_by(world, 0) == (b"e" if is_taken else None)


def test_the_default_gc_grace_is_a_day() -> None:
    world, a, _, _ = trio()
    assert hand(world, a, b"", b"", b"", entry_of(world, DAY_MS + 1000)) == [taken(m.HINT_STALE)]


def test_an_entry_from_a_clock_far_ahead_is_refused() -> None:
    """R2."""
    world, a, _, _ = trio()
    assert hand(world, a, b"", b"", b"", entry_of(world, -5000)) == [taken(m.HINT_LATER)]
    assert seen_by(world, a) is None


def test_a_record_at_or_below_the_floor_is_settled_above_it_first() -> None:
    """R12, R36."""
    world, a, _, _ = trio()
    ballot, record = record_of(world)
    world.register(a, "k").floor = ballot  # type: ignore[assignment]
    answers = hand(world, a, ballot, record, b"", b"")
    assert [answer[0] for answer in answers] == [m.BELOW_FLOOR, m.HINTED]
    assert answers[1] == taken(m.HINT_LATER)
    assert world.register(a, "k").is_absent


def test_a_full_disk_refuses() -> None:
    world, a, _, _ = trio()
    world.hosts[a].engine.writable = False
    ballot, record = record_of(world)
    assert hand(world, a, ballot, record, b"", b"")[0][2] == "overloaded"
    assert world.register(a, "k").is_absent


def test_another_epoch_is_refused() -> None:
    """R40."""
    world, a, _, _ = trio()
    assert hand(world, a, b"", b"", b"", entry_of(world), epoch=EPOCH + 1)[0][2] == "stale-epoch"


@pytest.mark.parametrize(
    "parts", [(b"short", b"x" * 80, b"", b""), (bytes(28), b"short", b"", b""), (b"", b"x" * 80, b"", b""),
              (b"", b"", b"", b"short")]
)  # fmt: skip
def test_a_malformed_hint_ends_the_link(parts: tuple[bytes, ...]) -> None:
    world, a, _, _ = trio()
    with pytest.raises(m.MessageError):
        hand(world, a, *parts)


def test_hints_count_against_the_repair_budget_of_the_receiver() -> None:
    world, a, _, _ = trio()
    charged: list[int] = []

    def charge(size_bytes: int, operations: int) -> float:
        charged.extend((size_bytes, operations))
        return 0.25

    world.hosts[a].node.replica.charge = charge
    answers = hand(world, a, b"", b"", b"", entry_of(world))
    settle(world)
    assert charged
    assert charged[0] > len(entry_of(world))
    assert charged[1:] == [1]
    assert answers == [taken(m.HINT_TAKEN, wait_ms=250)], "and the sender is asked to wait"


def test_the_hints_of_a_batch_are_acknowledged_together_each_for_itself() -> None:
    """One answer, one write: what is refused does not hold up the rest."""
    world = World(3, store=StoreConfig("default", replicas=3, gc_grace_s=60))
    sender, syncs = Sender(), world.hosts[0].engine.syncs
    fields: list[bytes] = []
    for number, age_ms in enumerate((0, 61_000, -5000, 59_000)):
        fields += [world.row_key(f"key{number}"), b"", b"", b"", entry_of(world, age_ms)]
    world.hosts[0].node.on_batch(sender, [[m.HINTS, 7, EPOCH, fields]])
    assert sender.answers == [], "they are not durable yet"
    world.run()
    assert sender.answers == [taken(m.HINT_TAKEN, m.HINT_STALE, m.HINT_LATER, m.HINT_TAKEN)]
    assert world.hosts[0].engine.syncs == syncs + 1
    world.crash(0)
    world.restart(0)
    assert [seen_by(world, 0, f"key{number}") for number in range(4)] == [b"e", None, None, b"e"]


def test_a_batch_that_brings_nothing_new_is_acknowledged_at_once() -> None:
    """A hint delivered twice is harmless (R12, R29); and costs no write."""
    world, a, _, _ = trio()
    entry = entry_of(world)
    hand(world, a, b"", b"", b"", entry)
    world.run()
    syncs = world.hosts[a].engine.syncs
    assert hand(world, a, b"", b"", b"", entry) == [taken(m.HINT_TAKEN)]
    assert world.hosts[a].engine.syncs == syncs


def test_what_is_on_its_way_to_the_disk_is_acknowledged_when_it_is_there() -> None:
    world, a, _, _ = trio()
    entry = entry_of(world)
    hand(world, a, b"", b"", b"", entry)
    answers = hand(world, a, b"", b"", b"", entry)
    assert answers == []
    world.run()
    assert answers == [taken(m.HINT_TAKEN)]


def test_a_batch_with_one_malformed_hint_changes_nothing() -> None:
    world, a, _, _ = trio()
    good = [world.row_key("k"), b"", b"", b"", entry_of(world)]
    for bad in (
        [world.row_key("j"), b"", b"", b"", b"short"],
        [world.row_key("j")],
        [world.row_key("j"), b"", b"", b"", 5],
    ):
        with pytest.raises(m.MessageError):
            world.hosts[a].node.on_batch(Sender(), [[m.HINTS, 7, EPOCH, [*good, *bad]]])
    assert world.register(a, "k").is_absent


def test_more_hints_than_are_allowed_end_the_link() -> None:
    world, a, _, _ = trio()
    hint = [world.row_key("k"), b"", b"", b"", entry_of(world)]
    with pytest.raises(m.MessageError, match="at most"):
        world.hosts[a].node.on_batch(Sender(), [[m.HINTS, 7, EPOCH, hint * (m.HINTS_MAX + 1)]])
