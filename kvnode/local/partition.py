"""How people say which nodes can reach each other: `n1,n2/n3`, and how it is said back to them.

Decides: what the words mean.  Leaves to others: cutting anything (`network`).

    n1,n2/n3        two sides
    n3              the same among three nodes: whoever is not named forms one more side
    n1,n2/n2,n3     a bridge: n2 is on both sides
    n1,n2/n2,n3/n3,n4/n4,n5/n5,n1    a ring: each of five nodes reaches its two neighbours

Two nodes reach each other iff some side has both.  One-way, only what the first side says is lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import permutations

from kvclient.errors import InvalidRequest

Pair = tuple[str, str]
"""A link: the node that sends, and the node that receives."""


def sides_of(text: str, names: Sequence[str]) -> list[set[str]]:
    """Return the sides that `text` names, and the one of the nodes that it does not name, if any.

    Raises InvalidRequest for a node that is not one of `names`, for a side without nodes, and for a single side.
    """
    sides = [{name.strip() for name in side.split(",")} for side in text.split("/")]
    for name in sorted(set().union(*sides)):
        if name not in names:
            what = f'there is no node "{name}"' if name else f'a side of "{text}" has no nodes'
            raise InvalidRequest(f"{what}; the nodes are {', '.join(names)}, and a partition is written n1,n2/n3")
    rest = set(names) - set().union(*sides)
    if rest:
        sides.append(rest)
    if len(sides) == 1:
        raise InvalidRequest(f'"{text}" has all nodes on one side: name those that are to be cut off from the rest')
    return sides


def cuts_of(sides: Sequence[set[str]], *, one_way: bool = False) -> set[Pair]:
    """Return the links that are cut between these sides; `one_way`: only those that lead out of the first."""
    everyone = sorted(set().union(*sides))
    apart = {pair for pair in permutations(everyone, 2) if not any(side.issuperset(pair) for side in sides)}
    return {pair for pair in apart if pair[0] in sides[0]} if one_way else apart


def describe(cuts: Iterable[Pair]) -> str:
    """Return the cut links in a few words: `n1 | n2, n1 > n3` (nothing from n1 reaches n3)."""
    cut = sorted(set(cuts))
    words = [f"{one} | {other}" for one, other in cut if one < other and (other, one) in cut]
    words += [f"{one} > {other}" for one, other in cut if (other, one) not in cut]
    return ", ".join(words)
