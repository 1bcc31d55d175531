"""The journal of an import: every line has one id while that lives, and is in doubt when it lives no more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvclient import OperationId
from kvclient.errors import ConfigError
from kvnode.cli import journal
from kvnode.cli.journal import BASE_LIFE_S, BASE_SERVES_MS, RESERVE_LINES, Journal, Source

SOURCE = Source("digest", 10, "default", "strong", {"n1": 1, "n2": 2})


class Clock:
    """Issues ids in a time of its own."""

    def __init__(self) -> None:
        self.now_ms = 1_000_000
        self.made = 0

    def new_operation_id(self, *, timeout: float) -> OperationId:
        self.made += 1
        return OperationId(self.made.to_bytes(8, "big"), 1, self.now_ms, self.now_ms + round(timeout * 1000))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.kvnode-import"


def loaded(path: Path) -> Journal:
    found = journal.load(path)
    assert found is not None
    return found


def test_lines_of_one_base_differ_in_their_sequence_only(path: Path) -> None:
    kept, clock = Journal(path, SOURCE), Clock()
    first, second = kept.ticket(1, clock), kept.ticket(2, clock)
    assert (first.operation_id.sequence, second.operation_id.sequence) == (1, 2)
    assert first.operation_id[0] == second.operation_id[0]
    assert not first.in_doubt


def test_a_line_is_on_disk_as_reached_before_its_ticket_is_given(path: Path) -> None:
    kept, clock = Journal(path, SOURCE), Clock()
    for line in (1, 2, RESERVE_LINES + 1, RESERVE_LINES + 2, 3 * RESERVE_LINES):
        kept.ticket(line, clock)
        assert json.loads(path.read_text())["reached"] >= line


def test_an_interrupted_line_has_the_same_id_while_that_lives(path: Path) -> None:
    """R23: the same id is never applied twice."""
    kept, clock = Journal(path, SOURCE), Clock()
    before = [kept.ticket(line, clock) for line in range(1, 11)]
    kept.done = 4
    kept.save()
    clock.now_ms += round(BASE_LIFE_S * 1000)
    kept.release()  # its process has died
    again = loaded(path)
    again.resume(clock)
    assert [again.ticket(line, clock) for line in range(5, 11)] == before[4:]


def test_an_interrupted_line_whose_id_has_passed_its_deadline_is_in_doubt_and_has_a_new_one(path: Path) -> None:
    """R24: past its deadline the old write can take effect no more, but it may have."""
    kept, clock = Journal(path, SOURCE), Clock()
    before = [kept.ticket(line, clock) for line in range(1, 11)]
    clock.now_ms += round(BASE_LIFE_S * 1000) + 1
    kept.release()  # its process has died
    again = loaded(path)
    again.resume(clock)
    ticket = again.ticket(5, clock)
    assert ticket.in_doubt
    assert ticket.operation_id != before[4].operation_id
    assert ticket.operation_id.deadline_ms > clock.now_ms


def test_a_line_in_doubt_stays_so_through_a_second_interruption_with_its_newer_id(path: Path) -> None:
    kept, clock = Journal(path, SOURCE), Clock()
    kept.ticket(5, clock)
    clock.now_ms += round(BASE_LIFE_S * 1000) + 1
    kept.release()  # its process has died
    second = loaded(path)
    second.resume(clock)
    ticket = second.ticket(5, clock)
    second.release()
    third = loaded(path)
    third.resume(clock)
    assert third.ticket(5, clock) == ticket


def test_lines_beyond_what_was_reached_are_never_in_doubt(path: Path) -> None:
    kept, clock = Journal(path, SOURCE), Clock()
    kept.ticket(1, clock)
    clock.now_ms += round(BASE_LIFE_S * 1000) + 1
    kept.release()  # its process has died
    again = loaded(path)
    again.resume(clock)
    assert again.ticket(again.reached, clock).in_doubt
    assert not again.ticket(again.reached + 1, clock).in_doubt


def test_a_base_that_has_served_long_enough_makes_way_for_a_new_one(path: Path) -> None:
    kept, clock = Journal(path, SOURCE), Clock()
    first = kept.ticket(1, clock)
    clock.now_ms += BASE_SERVES_MS + 1
    second = kept.ticket(2, clock)
    assert second.operation_id[0] != first.operation_id[0]
    kept.release()  # its process has died
    again = loaded(path)
    again.resume(clock)
    assert (again.ticket(1, clock), again.ticket(2, clock)) == (first, second)


def test_two_imports_never_share_a_journal(path: Path) -> None:
    """R17: ids that another import may send are not known to be sent for the first time."""
    kept, clock = Journal(path, SOURCE), Clock()
    kept.ticket(1, clock)
    with pytest.raises(ConfigError, match="another import"):
        journal.load(path)
    kept.save()
    with pytest.raises(ConfigError, match="another import"):
        journal.load(path)
    kept.release()
    again = loaded(path)
    with pytest.raises(ConfigError, match="another import"):
        journal.load(path)
    again.release()
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_a_run_that_ended_by_itself_gives_back_what_was_refused_and_new_lines_have_ids_of_the_new_run(
    path: Path,
) -> None:
    """R23: an id of an earlier run may have been sent then, so its refusals are never definite."""
    kept, clock = Journal(path, SOURCE), Clock()
    before = [kept.ticket(line, clock) for line in range(1, 6)]
    kept.end(sent_up_to=2)
    kept.release()
    again = loaded(path)
    assert again.reached == 2
    again.resume(clock)
    after = [again.ticket(line, clock) for line in range(1, 6)]
    assert after[:2] == before[:2]
    assert {ticket.operation_id.session for ticket in after[2:]}.isdisjoint({before[0].operation_id.session})
    again.end(sent_up_to=0)
    assert again.reached == 2  # the first run may have sent them


def test_a_journal_without_a_path_is_kept_nowhere(tmp_path: Path) -> None:
    kept, clock = Journal(None, SOURCE), Clock()
    kept.ticket(1, clock)
    kept.save()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "other",
    [
        Source("other", 10, "default", "strong", SOURCE.nodes),
        Source("digest", 11, "default", "strong", SOURCE.nodes),
        Source("digest", 10, "other", "strong", SOURCE.nodes),
        Source("digest", 10, "default", "eventual", SOURCE.nodes),
        Source("digest", 10, "default", "strong", {"n1": 1, "n2": 7}),
        Source("digest", 10, "default", "strong", {"n3": 3}),
        Source("digest", 10, "default", "strong", {}),
    ],
)
def test_another_file_store_or_cluster_is_another_import(other: Source) -> None:
    assert not SOURCE.is_same(other)


def test_the_same_cluster_is_recognised_by_the_nodes_that_answer() -> None:
    assert SOURCE.is_same(Source("digest", 10, "default", "strong", {"n2": 2, "n3": 3}))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 9}', "null"])
def test_a_file_that_is_no_journal_is_refused_and_left_alone(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"file\.kvnode-import"):
        journal.load(path)
    assert path.read_text() == text


@pytest.mark.parametrize("name", ["done", "bases", "source"])
def test_a_journal_with_a_part_missing_or_damaged_is_refused(path: Path, name: str) -> None:
    kept, clock = Journal(path, SOURCE), Clock()
    kept.ticket(1, clock)
    facts = json.loads(path.read_text())
    for damaged in ({key: value for key, value in facts.items() if key != name}, {**facts, name: "damaged"}):
        path.write_text(json.dumps(damaged))
        with pytest.raises(ConfigError, match="progress"):
            journal.load(path)


def test_a_directory_that_cannot_be_written_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    kept, clock = Journal(tmp_path / "missing" / "file", SOURCE), Clock()
    with pytest.raises(ConfigError, match="--progress"):
        kept.ticket(1, clock)
