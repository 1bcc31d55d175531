"""Results as people and machines see them."""

from __future__ import annotations

import io
import sys

import pytest

from kvnode.cli import show


class Screen(io.StringIO):
    """A terminal, as far as its users can tell."""

    def isatty(self) -> bool:
        return True


def test_plain_columns_are_aligned_and_numbers_stand_right() -> None:
    assert show.plain_table(("node", "keys"), [("n1", 5), ("node-2", 12345)]).splitlines() == [
        "node     keys",
        "n1          5",
        "node-2  12345",
    ]


def test_addresses_are_no_numbers() -> None:
    assert show.plain_table(("address", "x"), [("127.0.0.1:7401", "y")]).splitlines()[0] == "address         x"


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1 << 20, "1.0 MiB"), (3 << 29, "1.5 GiB")]
)
def test_sizes_are_shown_in_binary_units(count: int, text: str) -> None:
    assert show.size(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (99, "99 s"), (120, "2 min"), (7200, "2.0 h")])
def test_durations_are_shown_in_the_unit_that_fits(seconds: float, text: str) -> None:
    assert show.duration(seconds) == text


def test_a_silent_node_has_its_state_only() -> None:
    (row,) = show.status_rows([{"node": "n1", "state": "down", "pid": None, "address": "a:1", "error": "?"}])
    assert show.STATUS_HEADERS[5] == "~keys"  # an estimate
    assert row == ["n1", "down", "-", "a:1", *["-"] * 14]
    assert len(row) == len(show.STATUS_HEADERS)


def test_a_node_that_says_little_is_shown_all_the_same() -> None:
    (row,) = show.status_rows([{"node": "n1", "state": "joining", "pid": 1, "address": "a:1", "epoch": 1}])
    assert len(row) == len(show.STATUS_HEADERS)


def test_an_explanation_names_silent_replicas_and_says_whether_the_others_agree() -> None:
    state = {"ballot": "b1", "version": "v1", "etag": "e", "value": "5 bytes"}
    text = show.explanation(
        {
            "key": "k",
            "store": "s",
            "partition": 7,
            "preference": ["n1", "n2"],
            "replicas": [
                {"node": "n1", "promised": "b2", "accepted": None, "committed": state, "overlay": None},
                {"node": "n2", "error": "not connected"},
            ],
            "agree": False,
            "differ": False,
            "strong_read": "runs a round",
        }
    )
    assert "1 of 2 replicas did not answer; the others agree; a strong read: runs a round" in text
    assert [line.split()[:4] for line in text.splitlines()[2:5]] == [
        ["n1", "promised", "b2", "-"],
        ["n1", "committed", "b1", "v1"],
        ["n2", "unreachable", "not", "connected"],
    ]


def test_an_explanation_says_until_when_a_value_lives() -> None:
    mortal = {"ballot": "b1", "version": "v1", "etag": "e", "value": "1 byte", "expires_ms": 1795327893439}
    replica = {"node": "n1", "promised": "b2", "accepted": None, "committed": mortal, "overlay": None}
    facts = {"key": "k", "store": "s", "partition": 7, "preference": ["n1"], "replicas": [replica]}
    text = show.explanation({**facts, "agree": True, "differ": False, "strong_read": "answers at once"})
    assert "1 byte until 2026-11-22T06:11:33Z" in text


def test_progress_towards_an_unknown_total_reads_as_a_count_and_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("NO_COLOR", "1")
    with show.progress("repair", None) as advance:
        advance(1768, "of 2,000 ranges")
    assert "1,768 of 2,000 ranges" in screen.getvalue()


def test_status_says_for_whom_deleted_keys_wait() -> None:
    """R35"""
    quiet = {"node": "n2", "tombstones": {"waits_for": {}}, "proposals": {"undecided": 3}}
    waiting = {"node": "n1", "tombstones": {"waits_for": {"n3": 1200, "n2": 1}}, "proposals": {"undecided": 5000}}
    assert show.status_notes([quiet, {"node": "n4", "state": "down"}]) == []
    assert show.status_notes([waiting]) == [
        "n1: 1 deleted key to be purged once n2 takes part",
        "n1: 1,200 deleted keys to be purged once n3 takes part",
        "n1: 5,000 proposals not known to be chosen yet; rounds settle them",
    ]


def test_what_is_owed_is_said_below_the_table() -> None:
    facts = {
        "node": "n1",
        "hints_owed": {"n3": 1200},
        "hints_dropped": {"full": 5, "expired": 0, "stale": 1},
        "peers": {"n2": "up", "n3": "silent"},
    }
    assert show.owed_lines(facts) == [
        "n1 owes hints: n3 1,200",
        "n1 has dropped hints since its start: 5 full, 1 stale; anti-entropy finds what they stood for",
        "n1 hears nothing of n3, which is connected",
    ]
    assert show.owed_lines({"node": "n1", "hints_owed": {}, "hints_dropped": {"full": 0}, "peers": {"n2": "up"}}) == []
    assert show.owed_lines({"node": "n1", "state": "down"}) == []


def test_a_node_of_another_epoch_and_one_that_reads_avoid_are_said_below_the_table() -> None:
    """R40"""
    load = {"in_flight": 1200, "loop_ms": 31.25, "commit_ms": 2.0}
    links = {
        "n2": {"epoch": 2, "busy": False, "load": None},
        "n3": {"epoch": 1, "busy": True, "load": load},
        "n4": {"epoch": None, "busy": False, "load": None},
    }
    assert show.status_notes([{"node": "n1", "epoch": 1, "links": links}]) == [
        "n1: n2 goes by epoch 2 of the ring, not 1",
        "n1: reads avoid n3, whose loop is 31.2 ms late (1,200 requests in flight)",
    ]
