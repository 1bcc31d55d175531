"""A data directory serves one node of one cluster, in one process, and says why when it does not (R1, R44, R48)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kvnode.storage.directory import DataDirectory
from kvnode.storage.engine import DamagedRow, StorageError


class Opener:
    """Opens one path again and again, as node n1 of cluster c unless told otherwise."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.opened: list[DataDirectory] = []

    def __call__(self, **changes: Any) -> DataDirectory:
        facts: dict[str, Any] = {
            "cluster": "c", "node": "n1", "random_bits": lambda bits: 2**bits - 7, "volatile": False, "boot_id": "boot1"
        }  # fmt: skip
        self.opened.append(DataDirectory.open(self.path, **{**facts, **changes}))
        return self.opened[-1]

    def run_once(self, *, clean: bool = True, **changes: Any) -> DataDirectory:
        """Open, use and close; without `clean`, as a killed process leaves it."""
        directory = self(**changes)
        (directory.rows_path / "CURRENT").write_text("x")
        directory.mark_rows()
        if clean:
            directory.mark_clean()
        directory.close()
        return directory


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Opener]:
    opener = Opener(tmp_path / "data" / "n1")
    yield opener
    for directory in opener.opened:
        directory.close()


def identity(path: Path) -> dict[str, Any]:
    return dict(json.loads((path / "identity.json").read_text()))


def test_a_new_directory_is_made_with_a_random_id_and_incarnation_one(start: Opener) -> None:
    """R1."""
    directory = start()
    assert (directory.node_id, directory.incarnation) == (2**64 - 7, 1)
    assert not directory.is_bound
    assert not directory.may_have_lost
    assert directory.rows_path.is_dir()


def test_every_start_has_the_same_id_and_a_greater_incarnation(start: Opener) -> None:
    """R1."""
    starts = [start.run_once(clean=i % 2 == 0, random_bits=lambda bits, i=i: i + 1) for i in range(4)]
    assert [(d.node_id, d.incarnation) for d in starts] == [(1, 1), (1, 2), (1, 3), (1, 4)]


def test_the_incarnation_is_on_disk_before_the_directory_is_handed_out(start: Opener, monkeypatch: Any) -> None:
    """R1: file and folder are synced."""
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    directory = start()
    assert identity(start.path)["incarnation"] == directory.incarnation
    assert synced[-2:] == [str(start.path / "identity.json.new"), str(start.path)]


def test_an_id_of_zero_is_never_given(start: Opener) -> None:
    assert start(random_bits=lambda bits: 0).node_id == 1


def test_a_name_stays_bound_once_the_others_know_it(start: Opener) -> None:
    """R1."""
    start().mark_bound()
    start.opened[0].close()
    assert start().is_bound


def test_a_directory_in_use_is_refused_with_the_pid(start: Opener) -> None:
    start()
    with pytest.raises(StorageError, match=f"{start.path} is in use by pid {os.getpid()}; stop that process first"):
        start()


def test_a_refused_directory_is_unlocked_again(start: Opener) -> None:
    start.run_once()
    with pytest.raises(StorageError):
        start(cluster="other")
    assert start().incarnation == 2


def test_a_directory_of_another_cluster_is_refused(start: Opener) -> None:
    start.run_once()
    with pytest.raises(StorageError, match='belongs to the cluster "c", not to "prod"; use another data_dir'):
        start(cluster="prod")


def test_a_directory_of_another_node_is_refused(start: Opener) -> None:
    start.run_once()
    with pytest.raises(StorageError, match='belongs to the node "n1", not to "n2"; give each node a directory'):
        start(node="n2")


def test_a_directory_of_another_format_is_refused(start: Opener) -> None:
    start.run_once()
    facts = identity(start.path)
    (start.path / "identity.json").write_text(json.dumps({**facts, "format": 2}))
    with pytest.raises(StorageError, match="has format 2, this version reads format 1; use the version of kvnode"):
        start()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "{}", '{"format": 1, "crc32c": 0}', '{"format": 1, "crc32c": null, "x": 1}']
)
def test_a_damaged_identity_is_refused_by_name(start: Opener, text: str) -> None:
    """R46."""
    start.run_once()
    (start.path / "identity.json").write_text(text)
    with pytest.raises(StorageError, match=r"identity\.json is damaged|has format None"):
        start()


def test_an_identity_with_a_changed_digit_is_refused(start: Opener) -> None:
    """R1: an incarnation that went back would use ballots twice."""
    start.run_once()
    file = start.path / "identity.json"
    file.write_text(file.read_text().replace('"incarnation": 1', '"incarnation": 0'))
    with pytest.raises(DamagedRow, match=r"its checksum is wrong.* must stay out: leave it down, keep its directory"):
        start()


def test_rows_without_an_identity_are_refused(start: Opener) -> None:
    start.run_once()
    (start.path / "identity.json").unlink()
    with pytest.raises(StorageError, match=r"holds rows but no identity\.json, so it cannot be told whose they are"):
        start()


def test_an_identity_without_its_rows_is_refused(start: Opener) -> None:
    """R44: never restart an emptied directory under the old id."""
    start.run_once()
    (start.path / "rows" / "CURRENT").unlink()
    with pytest.raises(StorageError, match=r'the rows of node "n1" are gone from .*: leave it down, keep its .* R44'):
        start()


def test_a_start_that_died_before_it_made_rows_may_start_again(start: Opener) -> None:
    start().close()
    assert start().incarnation == 2


def test_a_directory_that_cannot_be_made_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="cannot be made or written: Not a directory; choose another with data_dir"):
        Opener(tmp_path / "file" / "n1")()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_may_not_be_written_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o500)
    with pytest.raises(StorageError, match="cannot be made or written: Permission denied"):
        Opener(tmp_path / "data" / "n1")()


def test_an_unclean_stop_and_a_reboot_with_unsynced_acknowledgements_is_refused(start: Opener) -> None:
    """R48: the page cache is gone, and with it what was acknowledged from it."""
    start.run_once(clean=False, volatile=True)
    with pytest.raises(StorageError, match=r'durability "os".* R48.*; start with --accept-data-loss to go on'):
        start(boot_id="boot2", volatile=True)


def test_the_loss_may_be_accepted_and_is_then_reported(start: Opener) -> None:
    """R48."""
    start.run_once(clean=False, volatile=True)
    assert start(boot_id="boot2", volatile=True, accept_data_loss=True).may_have_lost


def test_what_the_last_process_promised_counts_and_not_todays_settings(start: Opener) -> None:
    """R48: changing durability to "fsync" after the power cut brings nothing back."""
    start.run_once(clean=False, volatile=True)
    with pytest.raises(StorageError, match="R48"):
        start(boot_id="boot2", volatile=False)


@pytest.mark.parametrize(
    ("clean", "volatile", "boot_id"), [(True, True, "boot2"), (False, False, "boot2"), (False, True, "boot1")]
)
def test_a_clean_stop_or_synced_stores_or_the_same_boot_lose_nothing(
    start: Opener, clean: bool, volatile: bool, boot_id: str
) -> None:
    """R48: kill -9 alone does not lose the page cache."""
    start.run_once(clean=clean, volatile=volatile)
    assert not start(boot_id=boot_id, volatile=volatile).may_have_lost


def test_the_systems_boot_id_is_read_unless_given(start: Opener) -> None:
    start.run_once(boot_id=None)
    assert identity(start.path)["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
