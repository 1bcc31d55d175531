"""Hash trees: what a walk finds is exactly what two sets of keys differ in, and every contribution can be undone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvclient.wire.values import NO_BALLOT, body_pack
from kvnode.core.merkle import Tree, children, item_of, levels_of, position_of, shorten
from kvnode.core.record import EMPTY_IMAGE, NO_RECORD, Image, Record, entry_make
from kvnode.core.version import ballot_make, version_eventual, version_strong

_BALLOTS = [ballot_make(stamp << 16, 1, 1, 1) for stamp in range(1, 5)]
_SALT = 0x9E3779B97F4A7C15


def _image(committed: int, overlay: int, *, settled: bool = False, accepted: int = 0) -> Image:
    image = EMPTY_IMAGE
    if committed:
        ballot = _BALLOTS[committed - 1]
        body = body_pack(version_strong(ballot, 0), 0, 0, b"" if settled else b"\0value")
        image = image._replace(committed_ballot=ballot, committed=Record(body, b"window"), settled=settled)
    if overlay:
        version = version_eventual(NO_BALLOT, overlay << 16, 7)
        image = image._replace(overlay=entry_make(body_pack(version, 0, 0, b"\0entry"), absent=True))
    if accepted:
        ballot = _BALLOTS[-1]
        image = image._replace(accepted_ballot=ballot, accepted=Record(b"x" * 60, b""), promised=ballot)
    return image


_KEYS = st.integers(0, 300).map(lambda number: b"\0\1store\0key%d" % number)
_IMAGES = st.builds(_image, st.integers(0, 3), st.integers(0, 3))
_STATES = st.dictionaries(_KEYS, _IMAGES, max_size=60)


def _tree(states: dict[bytes, Image], bits: int) -> Tree:
    tree = Tree(bits)
    for key, image in states.items():
        tree.replace(position_of(key), 0, item_of(key, image))
    return tree


def _walk(one: Tree, other: Tree) -> tuple[int, list[int]]:
    """Walk as two nodes do: `one` sends, `other` answers which nodes differ.  Return the last level, and its nodes."""
    level, numbers = 0, [0] if one.root != other.root else []
    for deeper in levels_of(min(one.bits, other.bits), max(one.count, other.count)):
        numbers = children(level, deeper, numbers)
        sent = [shorten(node, _SALT) for node in one.nodes(deeper, numbers)]
        numbers, level = other.differing(deeper, numbers, sent, _SALT), deeper
    return level, numbers


def _differing_keys(one: dict[bytes, Image], other: dict[bytes, Image]) -> set[bytes]:
    empty = EMPTY_IMAGE
    keys = one.keys() | other.keys()
    return {key for key in keys if item_of(key, one.get(key, empty)) != item_of(key, other.get(key, empty))}


@given(_STATES, _STATES, st.sampled_from([0, 3, 6, 8, 9, 12]), st.sampled_from([6, 12]))
def test_a_walk_finds_the_keys_that_differ_and_no_node_without_one(
    one: dict[bytes, Image], other: dict[bytes, Image], bits: int, other_bits: int
) -> None:
    level, numbers = _walk(_tree(one, bits), _tree(other, other_bits))
    differing = _differing_keys(one, other)
    assert set(numbers) == {position_of(key) >> (64 - level) for key in differing}


@given(_STATES, _STATES)
def test_a_tree_is_what_its_keys_are_whatever_they_were_before(
    before: dict[bytes, Image], after: dict[bytes, Image]
) -> None:
    tree = _tree(before, 6)
    for key in before.keys() | after.keys():
        old, new = (item_of(key, states.get(key, EMPTY_IMAGE)) for states in (before, after))
        tree.replace(position_of(key), old, new)
        tree.invariants()
    fresh = _tree(after, 6)
    assert (tree.root, tree.count, tree.leaves) == (fresh.root, fresh.count, fresh.leaves)


def test_a_settled_tombstone_and_an_absent_key_are_equal() -> None:
    """R38: nothing spreads a settled tombstone again."""
    key = b"\0\1store\0key"
    assert item_of(key, _image(1, 0, settled=True)) == item_of(key, EMPTY_IMAGE) == 0
    assert item_of(key, _image(1, 2, settled=True)) == item_of(key, _image(0, 2))
    unsettled = _image(1, 0)._replace(committed=Record(body_pack(version_strong(_BALLOTS[0], 0), 0, 0, b""), b""))
    assert item_of(key, unsettled) != 0


def test_promises_and_proposals_are_no_data() -> None:
    """R13: a proposal whose fate is unknown is never carried from replica to replica, so it must not count."""
    key = b"\0\1store\0key"
    assert item_of(key, _image(0, 0, accepted=1)) == 0
    assert item_of(key, _image(2, 1, accepted=1)) == item_of(key, _image(2, 1))
    assert EMPTY_IMAGE.accepted is NO_RECORD


def test_an_entry_and_the_record_that_it_was_folded_into_are_not_equal() -> None:
    """A fold keeps the entry's version; the replica that has only the entry still lacks the record."""
    key = b"\0\1store\0key"
    entry = _image(0, 2)
    folded = EMPTY_IMAGE._replace(committed_ballot=_BALLOTS[0], committed=Record(entry.overlay[1:], b""))
    assert item_of(key, entry) != item_of(key, folded)


def test_one_difference_among_a_million_keys_costs_a_few_numbers() -> None:
    """O(d log n): 64 nodes of the first level, 8 of each further one, for 4,000 keys (a partition of a million)."""
    states = {b"\0\1store\0key%d" % number: _image(1, 0) for number in range(4000)}
    one = _tree(states, 12)
    other = _tree({**states, b"\0\1store\0key7": _image(2, 0)}, 12)
    levels = levels_of(12, 4000)
    assert levels == [6, 9, 12]
    level, numbers = _walk(one, other)
    assert (level, len(numbers)) == (12, 1)
