"""What `kvnode partition A,B/C` means: which links are cut, and which words are refused."""

from __future__ import annotations

import pytest

from kvclient.errors import InvalidRequest
from kvnode.local.partition import cuts_of, describe, sides_of

THREE = ["n1", "n2", "n3"]
FIVE = [*THREE, "n4", "n5"]


def cut(text: str, names: list[str], *, one_way: bool = False) -> str:
    return describe(cuts_of(sides_of(text, names), one_way=one_way))


def test_two_sides_are_cut_in_both_directions() -> None:
    assert cuts_of(sides_of("n1,n2/n3", THREE)) == {("n1", "n3"), ("n3", "n1"), ("n2", "n3"), ("n3", "n2")}


def test_who_is_not_named_forms_one_more_side() -> None:
    assert cut("n3", THREE) == cut("n1,n2/n3", THREE) == "n1 | n3, n2 | n3"


def test_a_node_on_two_sides_is_a_bridge() -> None:
    assert cut("n1,n2/n2,n3", THREE) == "n1 | n3"


def test_in_a_ring_each_node_reaches_its_two_neighbours() -> None:
    ring = cuts_of(sides_of("n1,n2/n2,n3/n3,n4/n4,n5/n5,n1", FIVE))
    for name in FIVE:
        assert len([pair for pair in ring if pair[0] == name]) == 2


def test_everyone_can_be_alone() -> None:
    assert len(cuts_of(sides_of("n1/n2/n3", THREE))) == 6


def test_one_way_loses_only_what_the_first_side_says() -> None:
    assert cuts_of(sides_of("n1", THREE), one_way=True) == {("n1", "n2"), ("n1", "n3")}
    assert cut("n1", THREE, one_way=True) == "n1 > n2, n1 > n3"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("n9/n1", 'no node "n9"; the nodes are n1, n2, n3'),
        ("n1/", "has no nodes"),
        ("", "has no nodes"),
        ("n1,n2,n3", "all nodes on one side"),
    ],
)
def test_what_names_no_partition_is_refused_with_what_would(text: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        sides_of(text, THREE)
