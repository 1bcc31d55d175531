"""Operation ids and marks (R23): a mark never passes what somebody may still ask for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import kvclient
from kvclient.session import (
    ISSUED_MAX,
    SEEN_KEYS_MAX,
    IssuedIds,
    OperationId,
    Seen,
    Session,
    operation_id_of,
)
from kvclient.wire.values import Version


class Marks(RuleBasedStateMachine):
    """A session beside the plainest model of one: the set of open operations of each name."""

    def __init__(self) -> None:
        super().__init__()
        self.session = Session()
        self.open: dict[bytes, set[int]] = {}
        self.greatest = 0

    @rule(name=st.sampled_from([b"a", b"b"]))
    def begin(self, name: bytes) -> None:
        sequence = self.session.begin(name)
        assert sequence > self.greatest
        self.greatest = sequence
        self.open.setdefault(name, set()).add(sequence)

    @rule(name=st.sampled_from([b"a", b"b"]), which=st.randoms(use_true_random=False))
    def end(self, name: bytes, which: object) -> None:
        if self.open.get(name):
            sequence = which.choice(sorted(self.open[name]))  # type: ignore[attr-defined]
            self.open[name].discard(sequence)
            self.session.end(name, sequence)

    @invariant()
    def the_mark_is_the_least_open_sequence(self) -> None:
        for name, sequences in self.open.items():
            assert self.session.mark(name) == min(sequences, default=0)

    @invariant()
    def only_open_names_take_memory(self) -> None:
        assert len(self.session._open) == sum(map(bool, self.open.values()))


TestMarks = Marks.TestCase


@given(
    st.binary(min_size=8, max_size=8), st.integers(1, (1 << 63) - 1), st.integers(1, 1 << 40), st.integers(1, 3_600_000)
)
def test_an_operation_id_survives_its_text(session: bytes, sequence: int, issued: int, timeout: int) -> None:
    operation = OperationId(session, sequence, issued, issued + timeout)
    assert operation_id_of(str(operation)) == operation == operation_id_of(operation)


@pytest.mark.parametrize(
    "given",
    [
        "",
        "x",
        "00/1/2/3",
        "0011223344556677/1/2",
        "0011223344556677/0/1/2",
        "0011223344556677/-1/1/2",
        "0011223344556677/9223372036854775808/1/2",
        "0011223344556677/1/5/5",
        "0011223344556677/1/0/5",
        "0011223344556677/1/5/999999999999999999",
        "zz11223344556677/1/1/2",
        7,
        None,
        OperationId(b"short", 1, 1, 2),
        OperationId(bytes(8), 0, 1, 2),
        OperationId(bytes(8), True, 1, 2),
        OperationId("12345678", 1, 1, 2),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_operation_id_is_refused(given: object) -> None:
    with pytest.raises(kvclient.InvalidRequest):
        operation_id_of(given)  # type: ignore[arg-type]


def test_ids_of_one_piece_of_work_differ_in_their_sequence_only() -> None:
    first = OperationId(bytes(8), 1, 10, 20)
    assert first.with_sequence(7) == OperationId(bytes(8), 7, 10, 20)
    with pytest.raises(kvclient.InvalidRequest):
        first.with_sequence(0)


async def test_an_id_is_sent_for_the_first_time_once() -> None:
    """R17."""
    issued, base = IssuedIds(), OperationId(bytes(8), 1, 10, 20)
    assert issued.begin(base, is_text=False) == 0
    issued.note_issued(base)
    assert [issued.begin(base.with_sequence(n), is_text=False) for n in (1, 3, 2, 3, 2, 1)] == [1, 1, 1, 0, 0, 0]
    assert issued.in_flight(base) is not None
    issued.end(base.with_sequence(2), next_attempt=5)
    issued.end(base, next_attempt=0)
    assert issued.in_flight(base) is None
    assert [issued.begin(base.with_sequence(n), is_text=False) for n in (1, 2)] == [0, 5]


@given(st.lists(st.integers(1, 60), max_size=300))
async def test_what_is_forgotten_counts_as_sent(sequences: list[int]) -> None:
    """R17: no bound on memory may make an id fresh again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kvclient.session.SENT_MAX", 4)
        issued, base, sent = IssuedIds(), OperationId(bytes(8), 1, 10, 20), set[int]()
        issued.note_issued(base)
        for sequence in sequences:
            if issued.begin(base.with_sequence(sequence), is_text=False):
                assert sequence not in sent
                issued.end(base.with_sequence(sequence), 0)
            sent.add(sequence)
        assert len(issued._series[base.session].sent) <= 4


def test_issued_ids_are_bounded_and_the_one_not_used_for_longest_makes_room() -> None:
    issued = IssuedIds()
    ids = [OperationId(n.to_bytes(8, "big"), 1, 10, 20) for n in range(ISSUED_MAX + 1)]
    for one in ids[:-1]:
        issued.note_issued(one)
    issued.begin(ids[0], is_text=True)
    issued.note_issued(ids[-1])
    assert len(issued._series) == ISSUED_MAX
    assert ids[0].session in issued._series
    assert ids[1].session not in issued._series


def test_seen_keeps_the_greatest_version_of_the_last_keys() -> None:
    seen = Seen()
    seen.note(b"k", Version(b"2"))
    seen.note(b"k", Version(b"1"))
    assert seen.token(b"k") == b"2"
    for number in range(SEEN_KEYS_MAX - 1):
        seen.note(b"%d" % number, Version(b"1"))
    assert seen.token(b"k") == b"2"
    seen.note(b"one more", Version(b"1"))
    assert seen.token(b"k") == b""
    assert seen.token(b"0") == b"1"
