"""The data directory: whose rows these are, and whether this process may use them (R1, R44, R48).

Decides: when a directory is refused, and the node's id and incarnation.  Leaves to others: the rows (`rocks`) and the
binding of a name to an id at the other nodes (R1, `service`).

    lock            held with flock while the process lives; holds its pid
    identity.json   format, cluster, node, node_id, incarnation, boot_id, clean, volatile, has_rows, is_bound, crc32c
    rows/           the engine's

Invariants: the identity is replaced as a whole (written aside, synced, renamed, folder synced), so a crash leaves the
old or the new one; the incarnation on disk is at least that of every process that ever served from here.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

from crc32c import crc32c

from kvnode.storage.engine import LEAVE_DOWN, DamagedRow, StorageError

FORMAT = 1
"""Raised with every change of the layout that an older version would misread."""
NODE_ID_BITS = 64
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Identity:
    """What the directory knows about itself."""

    format: int
    cluster: str
    node: str
    node_id: int
    incarnation: int
    boot_id: str
    """The boot of the machine in which the last process ran; empty where that cannot be told."""
    clean: bool
    """True if the last process finished everything before it ended."""
    volatile: bool
    """True if the last process acknowledged writes of some store before they were synced (`durability = "os"`)."""
    has_rows: bool
    """True once the engine has made its files: from then on an empty `rows` is a lost disk (R44)."""
    is_bound: bool
    """True once more than half of the other nodes have stored this name, id and incarnation (R1)."""


class DataDirectory:
    """A locked data directory with its identity.  Close it last, after the engine."""

    def __init__(self, path: Path, identity: Identity, lock: IO[str], *, may_have_lost: bool) -> None:
        self.path = path
        self.may_have_lost = may_have_lost
        """True if acknowledged writes may be missing and the start was allowed all the same (R48)."""
        self._identity = identity
        self._lock = lock

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        cluster: str,
        node: str,
        random_bits: Callable[[int], int],
        volatile: bool,
        accept_data_loss: bool = False,
        boot_id: str | None = None,
    ) -> DataDirectory:
        """Lock the directory, check whose it is, and store the next incarnation durably before anything is served.

        `path` is made if absent.  `volatile` says whether any store has durability "os".  `boot_id` is read from the
        system unless given.  Raises StorageError with one sentence: what is wrong and what to do.
        """
        _make(path)
        lock = _locked(path)
        try:
            boot_id = _boot_id() if boot_id is None else boot_id
            before = _read_identity(path) or _new_identity(path, cluster, node, random_bits)
            _check_owner(path, before, cluster, node)
            lost = before.volatile and not before.clean and before.boot_id != boot_id
            if lost and not accept_data_loss:
                raise StorageError(_loss_text(path))
            identity = replace(
                before, incarnation=before.incarnation + 1, boot_id=boot_id, clean=False, volatile=volatile
            )
            _write_identity(path, identity)
        except BaseException:
            lock.close()
            raise
        return cls(path, identity, lock, may_have_lost=lost)

    @property
    def rows_path(self) -> Path:
        """The folder of the engine's files."""
        return self.path / "rows"

    @property
    def node_id(self) -> int:
        """The node's id: random, kept for the life of the directory (R1)."""
        return self._identity.node_id

    @property
    def incarnation(self) -> int:
        """The number of this start, from 1 (R1)."""
        return self._identity.incarnation

    @property
    def has_rows(self) -> bool:
        """True if an earlier start has made the engine's files: the engine must then find them."""
        return self._identity.has_rows

    def mark_rows(self) -> None:
        """Note durably that the engine's files exist.  Call it once the engine is open, before anything is stored."""
        if not self._identity.has_rows:
            self._replace(has_rows=True)

    @property
    def is_bound(self) -> bool:
        """False until the others know this directory's id: a new directory must not serve before that (R1)."""
        return self._identity.is_bound

    def mark_bound(self) -> None:
        """Note durably that the others have bound this node's name to its id."""
        if not self._identity.is_bound:
            self._replace(is_bound=True)

    def mark_clean(self) -> None:
        """Note durably that everything acknowledged is synced.  Call it once the engine was closed without an error."""
        self._replace(clean=True)

    def close(self) -> None:
        """Release the lock."""
        self._lock.close()

    def _replace(self, **changes: Any) -> None:
        self._identity = replace(self._identity, **changes)
        _write_identity(self.path, self._identity)


def _make(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        (path / "rows").mkdir(exist_ok=True)
        _sync_folder(path.parent)
        _sync_folder(path)
    except OSError as error:
        raise StorageError(
            f"the data directory {path} cannot be made or written: {error.strerror}; choose another with data_dir in"
            " [cluster], or mend its rights"
        ) from error


def _locked(path: Path) -> IO[str]:
    """Return the open, locked lock file; the lock ends with the process, however it ends."""
    try:
        lock = open(path / "lock", "a+", encoding="ascii")  # noqa: SIM115
    except OSError as error:
        raise StorageError(
            f"the data directory {path} is not writable: {error.strerror}; mend its rights or choose another"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.seek(0)
        pid = lock.read().strip() or "unknown"
        lock.close()
        raise StorageError(f"the data directory {path} is in use by pid {pid}; stop that process first") from error
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    return lock


def _new_identity(path: Path, cluster: str, node: str, random_bits: Callable[[int], int]) -> Identity:
    if any((path / "rows").iterdir()):
        raise StorageError(
            f"the data directory {path} holds rows but no identity.json, so it cannot be told whose they are; put"
            f" the whole directory back, as its node left it, or {LEAVE_DOWN} (docs/protocol.md R44)"
        )
    # Zero stands for "no node" on the wire.
    node_id = random_bits(NODE_ID_BITS) or 1
    return Identity(FORMAT, cluster, node, node_id, 0, "", clean=True, volatile=False, has_rows=False, is_bound=False)


def _check_owner(path: Path, found: Identity, cluster: str, node: str) -> None:
    if found.cluster != cluster:
        raise StorageError(
            f'the data directory {path} belongs to the cluster "{found.cluster}", not to "{cluster}"; use another'
            " data_dir, or the name that the cluster had"
        )
    if found.node != node:
        raise StorageError(
            f'the data directory {path} belongs to the node "{found.node}", not to "{node}"; give each node a directory'
            " of its own"
        )
    if found.has_rows and not any((path / "rows").iterdir()):
        raise StorageError(
            f'the rows of node "{node}" are gone from {path}: it must not come back empty under its old identity:'
            f" {LEAVE_DOWN} (docs/protocol.md R44)"
        )


def _loss_text(path: Path) -> str:
    return (
        f'the machine was restarted while {path} was in use, and some stores have durability "os", so the last'
        " acknowledged writes may be lost and promises forgotten (docs/protocol.md R48); start with --accept-data-loss"
        " to go on without them"
    )


def _read_identity(path: Path) -> Identity | None:
    file = path / "identity.json"
    try:
        facts = json.loads(file.read_bytes())
        checksum = facts.pop("crc32c")
        if facts.get("format") != FORMAT:
            raise StorageError(
                f"the data directory {path} has format {facts.get('format')}, this version reads format {FORMAT}; use"
                " the version of kvnode that wrote it"
            )
        if checksum != _checksum(facts):
            raise ValueError("its checksum is wrong")
        return Identity(**facts)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"the file {file} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedRow(f"the file {file} is damaged ({error})") from error


def _write_identity(path: Path, identity: Identity) -> None:
    facts = asdict(identity)
    facts["crc32c"] = _checksum(facts)
    aside = path / "identity.json.new"
    try:
        with open(aside, "w", encoding="utf-8") as file:
            json.dump(facts, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path / "identity.json")
        _sync_folder(path)
    except OSError as error:
        raise StorageError(f"the file {path / 'identity.json'} cannot be written: {error.strerror}") from error


def _checksum(facts: dict[str, Any]) -> int:
    return crc32c(json.dumps(facts, sort_keys=True).encode())


def _sync_folder(path: Path) -> None:
    """Make renames and new names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except OSError:  # not Linux: a restart cannot be told, which then counts as none
        return ""
