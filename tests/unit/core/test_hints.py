"""The ledger of what is owed: one debt per key and target, bounded, never lost while it is sent (R32)."""

from __future__ import annotations

import random

import pytest

from kvclient.wire.values import Version
from kvnode.core.hints import DEBT_BYTES, Debt, Hints, Ledger, Owed


def version(number: int) -> Version:
    return Version(bytes(43) + bytes([number]))


def hints(bytes_max: int = 1 << 20, count_max: int = 1000) -> tuple[Hints, Ledger]:
    made = Hints([1, 2], bytes_max, count_max)
    return made, made.ledgers[1]


def test_many_writes_of_a_key_make_one_debt() -> None:
    made, ledger = hints()
    assert [made.owe(1, b"k", now_ms) for now_ms in (5, 6, 7)] == [Owed.NEW, Owed.HELD, Owed.HELD]
    assert made.total == 1
    assert ledger.waiting[b"k"].since_ms == 5


def test_each_target_is_owed_for_itself() -> None:
    made, _ = hints()
    assert made.owe(1, b"k", 5) is made.owe(2, b"k", 5) is Owed.NEW
    assert made.ledgers[1].take() == (b"k", Debt(5, 1 + DEBT_BYTES, Version(b"")))
    assert made.ledgers[1].pay(b"k")
    assert made.ledgers[2].holds(b"k")


def test_the_oldest_is_taken_first() -> None:
    made, ledger = hints()
    for number in range(5):
        made.owe(1, b"%d" % number, number)
    assert [ledger.take()[0] for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]  # type: ignore[index]


def test_a_key_written_while_it_is_sent_is_owed_still() -> None:
    """What was sent may be older than what is here now; and the row on disk stays until both are paid."""
    made, ledger = hints()
    made.owe(1, b"k", 5)
    ledger.take()
    assert made.owe(1, b"k", 9) is Owed.HELD
    assert ledger.take() is None, "the answer to the first would be taken for that to the second"
    assert not ledger.pay(b"k")
    assert ledger.holds(b"k")
    ledger.take()
    assert ledger.pay(b"k")
    assert ledger.size_bytes == made.total == 0


@pytest.mark.parametrize("is_first", [True, False])
def test_what_was_sent_in_vain_waits_again(*, is_first: bool) -> None:
    made, ledger = hints()
    made.owe(1, b"a", 1)
    made.owe(1, b"b", 2)
    ledger.take()
    ledger.put_back(b"a", first=is_first)
    assert list(ledger.waiting) == ([b"a", b"b"] if is_first else [b"b", b"a"])


def test_a_newer_debt_makes_what_was_sent_in_vain_superfluous() -> None:
    made, ledger = hints()
    made.owe(1, b"k", 1)
    ledger.take()
    made.owe(1, b"k", 2)
    ledger.put_back(b"k", first=True)
    assert ledger.waiting[b"k"].since_ms == 2
    assert ledger.size_bytes == 1 + DEBT_BYTES


def test_a_newer_entry_replaces_an_older_and_never_the_reverse() -> None:
    made, ledger = hints()
    assert made.owe(1, b"k", 1, version(5), 100) is Owed.NEW
    assert made.owe(1, b"k", 2, version(7), 300) is Owed.NEW
    assert made.owe(1, b"k", 3, version(6), 200) is Owed.HELD
    assert ledger.waiting[b"k"] == Debt(1, 1 + DEBT_BYTES + 300, version(7))
    assert ledger.size_bytes == 1 + DEBT_BYTES + 300
    ledger.take()
    assert made.owe(1, b"k", 4, version(7), 300) is Owed.HELD
    assert made.owe(1, b"k", 5, version(8), 300) is Owed.NEW


def test_debts_beyond_the_bytes_of_a_target_are_dropped_and_counted() -> None:
    made, ledger = hints(bytes_max=3 * (2 + DEBT_BYTES))
    owed = [made.owe(1, b"%02d" % number, 0) for number in range(5)]
    assert owed == [Owed.NEW] * 3 + [Owed.FULL] * 2
    assert ledger.dropped == 2
    assert made.owe(1, b"01", 0) is Owed.HELD, "what is held costs nothing"
    assert made.owe(2, b"01", 0) is Owed.NEW, "the bound is each target's own"


def test_debts_beyond_the_count_of_all_are_dropped_and_counted() -> None:
    made, _ = hints(count_max=3)
    owed = [made.owe(1 + number % 2, b"%d" % number, 0) for number in range(5)]
    assert owed == [Owed.NEW] * 3 + [Owed.FULL] * 2
    assert sum(ledger.dropped for ledger in made.ledgers.values()) == 2
    assert made.owe(1, b"0", 0) is Owed.HELD


def test_debts_are_given_up_at_their_age() -> None:
    made, ledger = hints()
    for number in range(4):
        made.owe(1, b"%d" % number, number)
    assert [ledger.take_expired(2) for _ in range(3)] == [b"0", b"1", None]
    assert ledger.expired == 2
    assert list(ledger.waiting) == [b"2", b"3"]


@pytest.mark.parametrize("seed", range(30))
def test_whatever_happens_nothing_is_lost_and_bytes_add_up(seed: int) -> None:
    """A model: a key is dirty from its write until a send that began later is paid."""
    rng = random.Random(seed)
    made, ledger = hints()
    dirty: dict[bytes, int] = {}
    sent: dict[bytes, int] = {}
    for step in range(400):
        key = b"%d" % rng.randrange(8)
        act = rng.randrange(4)
        if act == 0:
            made.owe(1, key, step)
            dirty[key] = step
        elif act == 1 and ledger.waiting:
            taken = ledger.take()
            if taken is not None:
                sent[taken[0]] = step
        elif act == 2 and key in sent:
            if dirty.get(key, -1) < sent.pop(key):
                dirty.pop(key, None)
            ledger.pay(key)
        elif act == 3 and key in sent:
            del sent[key]
            ledger.put_back(key, first=bool(rng.randrange(2)))
        assert {key for key in dirty if not ledger.holds(key)} == set()
        debts = [*ledger.waiting.values(), *ledger.sent.values()]
        assert ledger.size_bytes == sum(debt.size_bytes for debt in debts)
