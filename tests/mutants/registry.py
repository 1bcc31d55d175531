"""Every planted mistake in one list: what it breaks, and within how many seeds the simulator must find it.

A checker that cannot fail is worthless: so CI plants each of these, runs seeds with it, and fails if one survives its
budget (docs/testing.md, section 4).  A mistake is a patch of the product from outside: the product has no switches.

`bias` gives the runs more of what a mistake needs to show itself than the swarm does: a crash that must fall between
two syncs is met by every thousandth run of everything, and by every tenth of runs that do little else.  It never names
the schedule: which messages, which moment, which node is left to the seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import pytest
from mutants import durability, outcomes, overlay, retries, rounds
from simulation.swarm import NO_BIAS, Bias

Plant = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Mutant:
    """One mistake."""

    plant: Plant
    rule: str
    """The rule that it breaks, and its tag in docs/testing.md."""
    breaks: str
    """What a client or a disk would see, in a few words."""
    seeds: int = 40
    """Within how many seeds it must be caught."""
    bias: Bias = field(default=NO_BIAS)

    @property
    def name(self) -> str:
        """The name by which scripts and tests call it."""
        return self.plant.__name__


def together(*plants: Plant) -> Plant:
    """Return a mistake made of several; it has the name of the first."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        for each in plants:
            each(patch)

    plant.__name__ = plants[0].__name__
    return plant


LOST: Final = "an acknowledged write is lost"
STALE: Final = "a strong read is stale"
TWICE: Final = "an operation takes effect twice"
FLICKER: Final = "a value is shown, and then never was"

MUTANTS: Final = (
    Mutant(durability.cached_promises_survive, "R19", "two records with one ballot"),
    Mutant(durability.a_restart_begins_where_it_began, "R3, R5, M5", "a stamp or a ballot is issued twice"),
    Mutant(durability.promises_count_for_nothing_after_a_restart, "R11, M2", LOST),
    Mutant(durability.no_promise_is_synced, "R9, R11, M2", LOST),
    Mutant(durability.answers_do_not_wait_for_the_disk, "R10, R45", LOST),
    Mutant(durability.the_disk_syncs_nothing, "R45", LOST),
    Mutant(durability.reads_show_what_is_not_durable, "R6", FLICKER),
    Mutant(rounds.the_mark_is_lost, "R12", LOST),
    Mutant(rounds.accepted_goes_before_committed, "R15", "a dead proposal comes back"),
    Mutant(rounds.the_base_is_chosen_by_version, "R15, M4a", "a dead proposal comes back"),
    Mutant(rounds.the_cached_ballot_jumps, "R19", LOST),
    Mutant(rounds.one_acknowledgement_is_enough, "R16, R26, M10c", LOST),
    Mutant(rounds.repair_copies_what_was_accepted, "R13, M9a", "a proposal is chosen by copies"),
    Mutant(rounds.one_reply_answers_a_read, "R20", STALE),
    Mutant(rounds.the_greatest_seen_is_returned, "R20, M4b", FLICKER),
    Mutant(rounds.read_sets_are_too_small, "R20, M10a", STALE),
    Mutant(rounds.the_commit_falls_with_the_accept, "R12, 4a", "a mark is lost"),
    Mutant(outcomes.doubt_is_always_cleared, "R21", "what was called not applied takes effect"),
    Mutant(outcomes.no_accept_is_in_doubt, "R21", "what was called not applied takes effect"),
    Mutant(outcomes.doubt_is_never_cleared, "R21", "what was refused by all is called unknown"),
    Mutant(outcomes.the_wall_clock_decides, "R24", TWICE),
    Mutant(outcomes.links_are_not_counted, "4a", "what cannot succeed is sent"),
    Mutant(outcomes.expiry_is_judged_by_the_reader, "R63", "an expired value comes back"),
    Mutant(overlay.ordered_by_stamp_alone, "R7, R8, R15, M8f", "an eventual write overrides a strong one"),
    Mutant(overlay.stamps_know_only_the_clock, "R29, C5", "a write loses to one that its client had seen"),
    Mutant(overlay.overlays_are_shown_unabsorbed, "R20, M8d", FLICKER),
    Mutant(overlay.overlays_are_never_folded, "R15, M8d", LOST),
    Mutant(overlay.every_entry_is_visible, "R8, R29, R30", "a superseded write is shown"),
    Mutant(overlay.entries_build_on_proposals, "R7", "an entry rests on what was never chosen"),
    Mutant(overlay.writes_do_not_wait, "R7, 4a", "a write loses to one that its client had seen"),
    Mutant(overlay.patience_is_endless, "4a", "an eventual write waits for a dead majority"),
    Mutant(overlay.tokens_are_not_confirmed, "R7, 4a", "an entry rests on what was never chosen"),
    Mutant(overlay.nothing_is_unseen, "R10", "a write that all hold is passed over"),
    Mutant(overlay.entries_prove_nothing, "R15, R20, M8d", STALE),
    Mutant(retries.only_effects_are_remembered, "R23", "a refused operation takes effect"),
    Mutant(retries.a_fold_drops_the_window, "R15, R24", TWICE),
    Mutant(retries.changes_drop_the_window, "R24, R34, C14", TWICE),
    Mutant(retries.nothing_is_remembered, "R18, R23, M1b", TWICE),
    Mutant(retries.a_repeated_write_is_stamped_anew, "R25, C2, M7f", TWICE),
    Mutant(retries.promises_prove_everything, "R17, C8, M3", FLICKER),
    Mutant(retries.reads_join_what_runs, "4a", STALE),
)
"""Those that the simulator must catch."""

BY_NAME: Final = {mutant.name: mutant for mutant in MUTANTS}
