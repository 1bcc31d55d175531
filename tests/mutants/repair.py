"""Anti-entropy that forgets what makes it find everything, or what it may carry (R13, R32)."""

from __future__ import annotations

from typing import Any

import pytest

from kvnode.core.merkle import item_of
from kvnode.core.record import NO_ENTRY, Image
from kvnode.service.healing import anti_entropy, comparing, mending, trees

_record_of = comparing.record_of


def replicas_are_never_compared(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(anti_entropy.AntiEntropy, "_compare", lambda self, index, store, tally: None)


def comparisons_carry_proposals(patch: pytest.MonkeyPatch) -> None:
    def item(key: bytes, image: Image) -> int:
        return item_of(key, _adopted(image))

    def record(key: bytes, image: Image) -> Any:
        return _record_of(key, _adopted(image))

    for module in (trees, mending, anti_entropy):
        patch.setattr(module, "item_of", item)
    patch.setattr(comparing, "record_of", record)
    replace = trees.Trees._replace

    def unnoticed(self: Any, partition: int, built: Any) -> None:
        replace(self, partition, built)
        self.drifted = 0  # an accept changes no tree, which is not what this is about

    patch.setattr(trees.Trees, "_replace", unnoticed)


def _adopted(image: Image) -> Image:
    if not image.accepted_ballot:
        return image
    return image._replace(committed_ballot=image.accepted_ballot, committed=image.accepted)


def overlays_are_not_compared(patch: pytest.MonkeyPatch) -> None:
    for module in (trees, mending, anti_entropy):
        patch.setattr(module, "item_of", lambda key, image: item_of(key, image._replace(overlay=NO_ENTRY)))


def only_one_side_sends(patch: pytest.MonkeyPatch) -> None:
    judge = mending._judge
    patch.setattr(mending, "_judge", lambda *arguments: (judge(*arguments)[0], False))
    patch.setattr(comparing, "pack_positions", lambda positions: b"")


def a_tree_misses_commits(patch: pytest.MonkeyPatch) -> None:
    on_change = trees.Trees.on_change

    def forgetful(self: Any, key: bytes, before: Image, after: Image) -> None:
        if before.committed_ballot == after.committed_ballot:
            on_change(self, key, before, after)

    patch.setattr(trees.Trees, "on_change", forgetful)
