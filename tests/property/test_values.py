"""R5-R8, R20, R23: bytes that compare as the protocol orders them, come back whole, and are refused when malformed."""

from __future__ import annotations

import struct

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kvclient.wire.values import (
    BALLOT_BYTES,
    NO_BALLOT,
    NO_SBALLOT,
    VERSION_BYTES,
    Ballot,
    Version,
    body_content,
    body_pack,
    body_times,
    body_version,
    etag_of,
    etag_parse,
)
from kvnode.core.quorum import Quorums
from kvnode.core.reading import FastRead, Reading
from kvnode.core.record import EMPTY_IMAGE, NO_ENTRY, NO_RECORD, Entry, Image, Record, entry_make
from kvnode.core.register import digest_of, digest_parse, digests_agree
from kvnode.core.version import (
    ballot_make,
    ballot_stamp,
    entry_counts,
    entry_proves_stale,
    entry_visible,
    version_eventual,
    version_fold,
    version_sballot,
    version_stamp,
    version_strong,
)
from kvnode.core.window import Window

U64 = st.integers(0, 2**64 - 1)
SMALL = st.integers(0, 3)
PARTS = st.tuples(U64, U64, st.integers(0, 2**32 - 1), U64)
CLOSE_PARTS = st.tuples(SMALL, SMALL, SMALL, SMALL)
BALLOTS = st.one_of(PARTS, CLOSE_PARTS).map(lambda parts: ballot_make(*parts))
CLOSE_BALLOTS = st.integers(1, 4).map(lambda number: ballot_make(number, 1, 1, number))
STAMPS = st.integers(1, 4)


def versions(
    ballots: st.SearchStrategy[Ballot] = BALLOTS, stamps: st.SearchStrategy[int] = U64
) -> st.SearchStrategy[Version]:
    strong = st.builds(version_strong, ballots, st.integers(0, 3))
    return st.one_of(strong, st.builds(version_eventual, st.one_of(ballots, st.just(NO_BALLOT)), stamps, stamps))


CLOSE_VERSIONS = versions(CLOSE_BALLOTS, STAMPS)
ENTRIES = st.builds(
    lambda ballot, stamp, absent: entry_make(
        body_pack(version_eventual(ballot, stamp, 1), 0, 0, b"\x00e"), absent=absent
    ),
    st.one_of(CLOSE_BALLOTS, st.just(NO_BALLOT)),
    STAMPS,
    st.booleans(),
)


@st.composite
def images(draw: st.DrawFn) -> Image:
    """An image as rules can make it: accepted above committed, ballots with their records."""
    image = EMPTY_IMAGE
    committed = draw(st.one_of(st.just(NO_BALLOT), CLOSE_BALLOTS))
    accepted = draw(st.one_of(st.just(NO_BALLOT), CLOSE_BALLOTS))

    def record(ballot: Ballot) -> Record:
        return Record(body_pack(version_strong(ballot, 0), 0, 0, b"\x00v"), b"") if ballot else NO_RECORD

    if accepted <= committed:
        accepted = NO_BALLOT
    return image._replace(
        accepted_ballot=accepted,
        accepted=record(accepted),
        committed_ballot=committed,
        committed=record(committed),
        overlay=draw(st.one_of(st.just(NO_ENTRY), ENTRIES)),
        settled=bool(committed) and draw(st.booleans()),
    )


# -- ballots and versions


@given(st.one_of(PARTS, CLOSE_PARTS), st.one_of(PARTS, CLOSE_PARTS))
def test_ballots_compare_as_bytes_as_their_parts_do(one: tuple[int, ...], two: tuple[int, ...]) -> None:
    """R5."""
    assert (ballot_make(*one) < ballot_make(*two)) == (one < two)  # type: ignore[arg-type]
    assert (ballot_make(*one) == ballot_make(*two)) == (one == two)  # type: ignore[arg-type]
    assert ballot_stamp(ballot_make(*one)) == one[0]  # type: ignore[arg-type]


@given(BALLOTS, U64, U64, BALLOTS, U64, U64)
def test_versions_compare_by_sballot_then_stamp_then_node(
    ballot: Ballot, stamp: int, node: int, other: Ballot, other_stamp: int, other_node: int
) -> None:
    """R7."""
    one, two = version_eventual(ballot, stamp, node), version_eventual(other, other_stamp, other_node)
    assert (one < two) == ((ballot, stamp, node) < (other, other_stamp, other_node))
    assert (version_sballot(one), version_stamp(one)) == (ballot, stamp)


@given(versions(), versions())
def test_a_fold_has_the_bases_sballot_and_lies_above_it_iff_its_stamp_does(base: Version, entry: Version) -> None:
    """R7.  Only over a tombstone that was purged has an entry a greater sballot; the fold keeps it."""
    folded = version_fold(base, entry)
    assert version_sballot(folded) == max(version_sballot(base), version_sballot(entry))
    assert folded[BALLOT_BYTES:] == entry[BALLOT_BYTES:]
    if version_sballot(entry) <= version_sballot(base):
        assert (folded > base) == (entry[BALLOT_BYTES:] > base[BALLOT_BYTES:])
    assert folded >= entry


@given(ENTRIES, CLOSE_VERSIONS)
def test_an_entry_counts_or_is_superseded_or_proves_the_round_stale_and_never_two_of_them(
    entry: Entry, base: Version
) -> None:
    """R15."""
    counts, stale = entry_counts(entry, base, False), entry_proves_stale(entry, base)
    assert not (counts and stale)
    assert entry_visible(entry, base, False) == (counts or stale), "what R8 shows is what R15 folds or cannot yet judge"


@given(ENTRIES, CLOSE_VERSIONS)
def test_an_entry_never_counts_over_its_own_fold(entry: Entry, base: Version) -> None:
    """R7, R15: at most one effect."""
    assert not entry_counts(entry, version_fold(base, Version(entry[1:45])), False)


# -- ETags


@given(versions())
def test_an_etag_comes_back_as_its_version_and_needs_no_quoting(version: Version) -> None:
    """R7."""
    etag = etag_of(version)
    assert etag_parse(etag) == version
    assert etag.replace("-", "").replace("_", "").isalnum()


@given(versions(), versions())
def test_etags_are_equal_iff_their_versions_are(one: Version, two: Version) -> None:
    assert (etag_of(one) == etag_of(two)) == (one == two)


@given(st.one_of(st.text(), st.binary(max_size=90).map(lambda raw: raw.decode("latin-1"))))
def test_whatever_text_is_no_etag_is_a_mismatch_and_never_an_error(text: str) -> None:
    """Section 2: an ETag that cannot be parsed is a mismatch."""
    version = etag_parse(text)
    assert version is None or etag_of(version) == text


@given(versions(), st.data())
def test_a_damaged_etag_never_parses_to_the_same_version(version: Version, data: st.DataObject) -> None:
    etag = etag_of(version)
    at = data.draw(st.integers(0, len(etag) - 1))
    damaged = etag[:at] + data.draw(st.characters(codec="ascii")) + etag[at + 1 :]
    assume(damaged != etag)
    assert etag_parse(damaged) != version


@given(versions(), st.sampled_from(["=", "==", "\n", " ", "A"]))
def test_an_etag_with_something_more_is_none(version: Version, more: str) -> None:
    assert etag_parse(etag_of(version) + more) is None
    assert etag_parse(more + etag_of(version)) is None


@given(versions(), U64, U64, st.binary(max_size=50))
def test_a_body_gives_back_its_parts(version: Version, expires_ms: int, created_ms: int, content: bytes) -> None:
    """R6, R63."""
    body = body_pack(version, expires_ms, created_ms, content)
    assert (body_version(body), body_times(body), body_content(body)) == (version, (expires_ms, created_ms), content)


# -- digests


@given(images(), st.one_of(st.just(NO_BALLOT), CLOSE_BALLOTS))
def test_a_digest_gives_back_what_it_was_made_of(image: Image, floor: Ballot) -> None:
    """R20."""
    digest = digest_parse(digest_of(image, floor))
    assert digest.accepted_ballot == image.accepted_ballot
    assert digest.committed_ballot == image.committed_ballot
    assert digest.committed_version == image.committed.version
    assert digest.overlay_version == image.overlay[1:45]
    assert digest.is_settled == image.settled
    assert digest.floor == (NO_BALLOT if digest.greatest else floor)


@given(st.binary(max_size=260))
def test_bytes_that_are_no_digest_raise_value_error_and_nothing_else(encoded: bytes) -> None:
    try:
        digest = digest_parse(encoded)
    except ValueError:
        return
    sizes = {len(digest.accepted_ballot), len(digest.committed_ballot), len(digest.floor)}
    assert sizes <= {0, BALLOT_BYTES}


@given(images(), st.data())
def test_a_digest_with_a_byte_too_few_or_too_many_is_refused(image: Image, data: st.DataObject) -> None:
    encoded = digest_of(image, NO_BALLOT)
    cut = data.draw(st.integers(0, len(encoded) - 1))
    for malformed in (encoded[:cut], encoded + b"\x00"):
        with pytest.raises(ValueError, match="digest"):
            digest_parse(malformed)


@given(images(), images())
def test_digests_that_agree_unparsed_settle_a_fast_read_at_the_same_ballot(home: Image, other: Image) -> None:
    """R20: the short way is equal to the plain one."""
    first, second = digest_of(home, NO_BALLOT), digest_of(other, NO_BALLOT)
    if digests_agree(first, second):
        read = FastRead(Quorums(3, 2, 2))
        read.on_digest(0, first)
        assert read.on_digest(1, second) is Reading.SETTLED
        assert read.ballot == first[1 : 1 + BALLOT_BYTES]
        assert read.laggards == []


@given(
    st.lists(images(), min_size=3, max_size=3), st.permutations(range(3)), st.one_of(st.just(NO_BALLOT), CLOSE_BALLOTS)
)
def test_what_all_digests_together_prove_does_not_depend_on_their_order(
    states: list[Image], order: list[int], floor: Ballot
) -> None:
    """R20: judged once all have answered."""
    for image in states:  # one ballot, one record: the same replica state may differ, a ballot's record may not
        assume(not image.committed_ballot or image.committed.version == version_strong(image.committed_ballot, 0))
    readings = []
    for sequence in (range(3), order):
        read = FastRead(Quorums(3, 1, 3), needed=3)
        for replica in sequence:
            reading = read.on_digest(replica, digest_of(states[replica], floor))
        readings.append((reading, read.ballot, sorted(read.laggards)))
    assert readings[0] == readings[1]


# -- windows

OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from([b"session1", b"session2", b"\x00" * 8]),
        st.integers(0, 5),
        st.integers(0, 8),
        st.sampled_from([1, 2, 3]),
        st.integers(0, 200_000),
        CLOSE_VERSIONS,
    ),
    max_size=30,
    unique_by=lambda drawn: (drawn[0], drawn[2]),  # an operation has one deadline (R24)
)


def window_of(operations: list[tuple[bytes, int, int, int, int, Version]]) -> Window:
    window = Window()
    for session, mark, sequence, result, deadline_ms, version in operations:
        if not window.is_answered(session, sequence):
            window.record(session, min(mark, sequence), sequence, result, deadline_ms, version)
        window.invariants()
    return window


@given(OPERATIONS)
def test_a_window_comes_back_whole(operations: list[tuple[bytes, int, int, int, int, Version]]) -> None:
    """R23."""
    window = window_of(operations)
    again = Window.decode(window.encode())
    again.invariants()
    assert again.encode() == window.encode()
    assert again.size == window.size
    for session, _, sequence, *_ in operations:
        assert again.find(session, sequence) == window.find(session, sequence)
        assert again.is_answered(session, sequence) == window.is_answered(session, sequence)


@given(OPERATIONS, st.integers(0, 300_000))
def test_no_operation_whose_time_may_come_is_forgotten(
    operations: list[tuple[bytes, int, int, int, int, Version]], ballot_ms: int
) -> None:
    """R23, R24: found, or below its mark, until a ballot 60 s past its deadline.

    What was below its mark when it came was answered before, and is not told to the window.
    """
    window = Window()
    told: dict[tuple[bytes, int], int] = {}
    for session, mark, sequence, result, deadline_ms, version in operations:
        if not window.is_answered(session, sequence):
            window.record(session, min(mark, sequence), sequence, result, deadline_ms, version)
            told[session, sequence] = deadline_ms
    window.expire(ballot_ms)
    window.invariants()
    for one, deadline_ms in told.items():
        if ballot_ms < deadline_ms + 60_000:
            assert window.is_answered(*one) or window.find(*one)


@given(st.binary(max_size=400))
def test_bytes_that_are_no_window_raise_value_error_and_nothing_else(encoded: bytes) -> None:
    try:
        Window.decode(encoded)
    except ValueError:
        assert len(encoded) % struct.calcsize(">8sQQBQ44s")


@settings(max_examples=20)
@given(st.integers(0, VERSION_BYTES - 1))
def test_a_short_version_has_no_etag_that_parses(size: int) -> None:
    assert etag_parse(etag_of(Version(bytes(size)))) is None
    assert len(NO_SBALLOT) == BALLOT_BYTES
