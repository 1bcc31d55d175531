"""Every planted mistake in one list: what it breaks, and within how many seeds the simulator must find it.

A checker that cannot fail is worthless: so CI plants each of these, runs seeds with it, and fails if one survives its
budget (docs/testing.md, section 4).  A mistake is a patch of the product from outside: the product has no switches.

`bias` gives the runs more of what a mistake needs to show itself than the swarm does: a crash that must fall between
two syncs is met by every thousandth run of everything, and by every tenth of runs that do little else.  It never names
the schedule: which messages, which moment, which node is left to the seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

import pytest
from mutants import durability, hints, outcomes, overlay, purge, recovery, repair, retries, rounds
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
    seeds: int = 100
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
REVIVED: Final = "a dead proposal comes back"
LIED: Final = "what was called not applied takes effect"
BEATEN: Final = "a write loses to one that its client had seen"
REFUSED: Final = "a node takes no writes although nothing is wrong"
BASELESS: Final = "an entry rests on what was never chosen"
RISEN: Final = "a deleted value comes back"
LOST_HINT: Final = "a hint is lost"
UNHEALED: Final = "replicas differ until somebody reads"

NO_CACHE: Final[dict[str, float]] = {"cached_promises_max": 0}
SLOW_MARKS: Final[dict[str, float]] = {"commit_delay_s": 0.3}

NO_HINTS: Final = Bias(limits={"hint_bytes_max": 0})
"""What a replica missed is found by comparisons only."""
DUELS: Final = Bias(
    key_kinds=("strong",), keys=1, operations=100, is_steered=True, fs=("put", "get", "cas"), horizon_ms=1000.0
)
"""Several coordinators at one key."""
CRASHES: Final = replace(DUELS, faults=("crash", "one-way", "slow link", "slow node"), fault_count=14)
CUTS: Final = replace(DUELS, faults=("one-way", "partition", "crash", "reset"), fault_count=14)
SLOW: Final = replace(DUELS, faults=("slow link", "slow node", "slow disk", "one-way"), fault_count=10)
IN_DOUBT: Final = replace(
    DUELS,
    is_steered=False,
    fs=("put", "get"),
    limits={"cached_promises_max": 65536},
    faults=("full disk", "steered"),
    fault_count=14,
)
"""Proposals that some refuse, for their disks are full, and one has accepted."""
MIXED: Final = Bias(key_kinds=("mixed",), keys=1, operations=100, is_steered=True, horizon_ms=1000.0)
RETRIED: Final = Bias(
    key_kinds=("strong",),
    keys=1,
    operations=100,
    fs=("create", "delete", "cas", "drop"),
    faults=("one-way", "reset", "half-open", "partition", "crash", "slow link"),
    fault_count=16,
    horizon_ms=1000.0,
)
"""Calls that are repeated, and whose first attempts come late."""

PURGES: Final = Bias(
    is_purged=True, key_kinds=("strong",), keys=3, operations=40, fs=("put", "delete"), horizon_ms=8000.0
)
"""Keys that are deleted and left alone, so that they are purged while things go wrong."""
AWAY: Final = replace(PURGES, faults=("crash", "partition", "stop"), fault_count=6)
OWED: Final = Bias(
    compares=False,
    key_kinds=("mixed",),
    operations=20,
    fs=("put", "weak put"),
    limits={"link_silence_s": 1.0},
    faults=("crash", "partition", "one-way"),
    fault_count=8,
    horizon_ms=2000.0,
)
"""Replicas that miss something, and are not compared."""

MUTANTS: Final = (
    Mutant(durability.cached_promises_survive, "R19", "two records with one ballot"),
    Mutant(
        together(durability.a_restart_begins_where_it_began, rounds.prepares_are_granted_at_equality),
        "R3, R5, R9, M5",
        "a stamp or a ballot is issued twice",
        bias=replace(CRASHES, limits=NO_CACHE, faults=("crash", "one-way", "clock")),
    ),
    Mutant(
        durability.promises_count_for_nothing_after_a_restart, "R11, M2", LOST, bias=replace(CRASHES, limits=NO_CACHE)
    ),
    Mutant(
        durability.no_promise_is_synced,
        "R9, R11, M2",
        LOST,
        bias=replace(
            CRASHES,
            limits={**NO_CACHE, "max_offset_ms": 500},
            offsets_ms=(0, 400, 480),
            faults=("crash", "slow node", "one-way"),
            fault_count=20,
        ),
    ),
    Mutant(durability.answers_do_not_wait_for_the_disk, "R10, R45", LOST),
    Mutant(durability.the_disk_syncs_nothing, "R45", LOST),
    Mutant(durability.reads_show_what_is_not_durable, "R6", FLICKER, bias=replace(SLOW, sync_ms=8.0)),
    Mutant(
        durability.what_cannot_be_read_is_absent,
        "R46",
        LOST,
        bias=Bias(keys=5, limits={"registers_max": 1}, faults=("unreadable disk", "misdirected write"), fault_count=6),
    ),
    Mutant(rounds.the_mark_is_lost, "R12", LOST),
    Mutant(rounds.accepted_goes_before_committed, "R15", REVIVED, bias=CUTS),
    Mutant(rounds.the_base_is_chosen_by_version, "R15, M4a", REVIVED, bias=CUTS),
    Mutant(rounds.the_cached_ballot_jumps, "R19", LOST),
    Mutant(rounds.one_acknowledgement_is_enough, "R16, R26, M10c", LOST),
    Mutant(
        rounds.repair_copies_what_was_accepted,
        "R13, M9a",
        "a proposal is chosen by copies",
        bias=replace(SLOW, fs=("put", "weak get"), limits=SLOW_MARKS, sync_ms=8.0),
    ),
    Mutant(hints.hints_carry_proposals, "R13, C9", "a proposal is chosen by copies", bias=CUTS),
    Mutant(hints.hints_count, "R28, C10", LOST, bias=CUTS),
    Mutant(rounds.one_reply_answers_a_read, "R20", STALE, bias=CUTS),
    Mutant(rounds.the_greatest_seen_is_returned, "R20, M4b", FLICKER, bias=CUTS),
    Mutant(rounds.read_sets_are_too_small, "R20, M10a", STALE, bias=CUTS),
    Mutant(outcomes.doubt_is_always_cleared, "R21", LIED, bias=IN_DOUBT),
    Mutant(outcomes.no_accept_is_in_doubt, "R21", LIED, bias=IN_DOUBT),
    Mutant(
        outcomes.one_refusal_clears_doubt,
        "R21",
        LIED,
        bias=IN_DOUBT,
    ),
    Mutant(
        outcomes.expiry_is_judged_by_the_reader,
        "R63",
        "an expired value comes back",
        bias=replace(DUELS, key_kinds=("ttl",), fs=("put", "get"), offsets_ms=(0, 60, -60, 400), fault_count=0),
    ),
    Mutant(overlay.ordered_by_stamp_alone, "R7, R8, R15, M8f", "an eventual write overrides a strong one"),
    Mutant(
        overlay.stamps_know_only_the_clock,
        "R29, C5",
        BEATEN,
        bias=replace(
            MIXED,
            fs=("weak put", "weak get"),
            offsets_ms=(0, 60, -60),
            faults=("hang up", "steered", "one-way", "partition"),
            fault_count=40,
        ),
    ),
    Mutant(overlay.overlays_are_shown_unabsorbed, "R20, M8d", FLICKER),
    Mutant(overlay.overlays_are_never_folded, "R15, M8d", LOST),
    Mutant(overlay.every_entry_is_visible, "R8, R29, R30", "a superseded write is shown"),
    Mutant(
        overlay.entries_build_on_proposals,
        "R7",
        BASELESS,
        bias=replace(
            MIXED, is_steered=False, fs=("put", "weak put"), faults=("slow disk", "held disk"), fault_count=14
        ),
    ),
    Mutant(
        overlay.tokens_are_not_confirmed,
        "R7, 4a",
        BEATEN,
        bias=replace(MIXED, limits=SLOW_MARKS, faults=("crash", "reset", "steered", "refuse"), fault_count=14),
    ),
    Mutant(overlay.entries_prove_nothing, "R15, R20, M8d", STALE),
    Mutant(
        retries.only_effects_are_remembered,
        "R23",
        "a refused operation takes effect",
        bias=replace(
            RETRIED, shapes=((3, 3, 2, 2),), fs=("create", "delete"), faults=("hang up", "slow node"), fault_count=60
        ),
    ),
    Mutant(retries.a_fold_drops_the_window, "R15, R24", TWICE),
    Mutant(retries.changes_drop_the_window, "R24, R34, C14", TWICE),
    Mutant(retries.nothing_is_remembered, "R18, R23, M1b", TWICE, bias=RETRIED),
    Mutant(
        retries.a_repeated_write_is_stamped_anew,
        "R25, C2, M7f",
        TWICE,
        bias=replace(MIXED, fs=("weak put", "cas", "get"), faults=("reset", "one-way", "crash"), fault_count=14),
    ),
    Mutant(retries.promises_prove_everything, "R17, C8, M3", FLICKER, bias=CUTS),
    Mutant(retries.refusals_come_from_home, "R17, M6d", STALE, bias=CUTS),
    Mutant(
        retries.reads_join_what_runs,
        "4a",
        STALE,
        bias=replace(
            DUELS,
            fs=("put", "get"),
            limits={"hedge_min_s": 0.1, "hedge_max_s": 0.1},
            faults=("slow link",),
            fault_count=24,
        ),
    ),
    Mutant(recovery.a_clock_is_wrong_for_ever, "R4", REFUSED, bias=replace(MIXED, faults=("clock",), fault_count=4)),
    Mutant(
        recovery.leaps_are_followed,
        "R2, R4",
        "one leap of a clock keeps replicas apart until its time has come",
        bias=replace(MIXED, fs=("weak put", "put", "get"), is_steered=True, faults=("clock",), fault_count=1),
    ),
    Mutant(recovery.a_disk_is_clogged_for_ever, "R29", REFUSED, bias=Bias(faults=("full disk",), fault_count=1)),
    Mutant(repair.replicas_are_never_compared, "R32", UNHEALED, bias=NO_HINTS),
    Mutant(repair.overlays_are_not_compared, "R32", UNHEALED, bias=NO_HINTS),
    Mutant(repair.only_one_side_sends, "R32", UNHEALED, bias=NO_HINTS),
    Mutant(repair.a_tree_misses_commits, "R32", UNHEALED, bias=NO_HINTS),
    Mutant(
        repair.comparisons_carry_proposals,
        "R13, C9, M9a",
        "a proposal is chosen by copies",
        bias=replace(
            CUTS,
            fs=("put",),
            limits={**SLOW_MARKS, **NO_CACHE, "repair_interval_s": 0.1, "tree_rebuild_s": 0.5, "hint_bytes_max": 0},
        ),
    ),
    Mutant(purge.most_are_all, "R35", RISEN, bias=AWAY),
    Mutant(purge.nothing_is_settled, "R35", RISEN, bias=PURGES),
    Mutant(purge.no_grace_is_given, "R35, R37", RISEN, bias=PURGES),
    Mutant(purge.floors_end_with_their_process, "R36", RISEN, bias=replace(PURGES, faults=("crash",), fault_count=14)),
    Mutant(
        purge.floors_forget_promises,
        "R36, C11",
        "two creates of one key succeed",
        bias=replace(
            PURGES, fs=("create", "delete", "get"), is_steered=True, faults=("slow link", "slow node"), fault_count=10
        ),
    ),
    Mutant(
        purge.what_has_expired_goes_at_once, "R35, R63", RISEN, bias=replace(PURGES, key_kinds=("ttl",), fs=("put",))
    ),
    Mutant(
        hints.hints_end_with_their_process,
        "R32",
        LOST_HINT,
        bias=replace(OWED, shapes=((3, 3, 2, 2),), faults=("crash",), fault_count=2, horizon_ms=500.0),
    ),
    Mutant(
        hints.hints_never_grow_old,
        "R32, R37",
        RISEN,
        bias=replace(
            PURGES,
            shapes=((5, 3, 2, 2),),
            compares=False,
            key_kinds=("mixed",),
            keys=6,
            fs=("weak put", "delete"),
            copies=(-1,),
            is_steered=True,
            faults=(),
            horizon_ms=4000.0,
        ),
    ),
    Mutant(
        hints.hints_are_cleared_when_sent,
        "R32",
        LOST_HINT,
        bias=replace(OWED, faults=("reset", "half-open", "one-way"), fault_count=30),
    ),
)
"""Those that the simulator must catch."""

BY_NAME: Final = {mutant.name: mutant for mutant in MUTANTS}
