"""How far an import has come, and with which operation ids: a small file that lets it be interrupted and go on.

Decides: which id a line's write carries, and whether a line must be read before it is written.  Leaves to others: the
writes themselves (`transfer`).

The n-th line is written under `base.with_sequence(n)`, where a *base* is an operation id with a session of its own and
a deadline BASE_LIFE_S away (ids must not live long: a write that is under way may take effect until then).  So a line
that is sent again under the same base is applied at most once (R23).  A base serves new lines for half of its life;
then a new one takes over.  After an interruption:

- a line whose base still lives is simply sent again, with the same id;
- a line that may have been sent under a base whose time has passed is *in doubt*: that write can take effect no more
  (R24), so a strong read tells what stands, and the line is written, under a new base, only if its value does not stand
  there.  (If somebody else has overwritten it since, it is written again: the file is what was asked for.)

A line under a base of this run is known to be sent for the first time, so its refusal is definite (`kvclient`'s
`IssuedIds`); a line under a base of an earlier run may have been sent then.  Both need that no two imports use a
journal at once: it is locked for as long as its import runs.  So new lines have a base of their own run, and a run that
ends by itself gives back the lines that were never sent, or refused for certain.

Invariants: `reached`, the greatest line that may have been sent, and every base are on disk before a line is sent under
them; `done` counts a line only when its outcome is known, and all lines before it.
"""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

from kvclient import OperationId
from kvclient.errors import ConfigError

FORMAT = 1
BASE_LIFE_S = 300.0
BASE_SERVES_MS = 150_000
RESERVE_LINES = 4096
"""Lines that are noted as reached ahead of need: one small synced write of the file for so many lines."""


class Ticket(NamedTuple):
    """How a line is to be written."""

    operation_id: OperationId
    in_doubt: bool
    """Read first: it may have been written under an id that lives no more."""


class Issuer(Protocol):
    """Who makes operation ids: somebody who knows the server's time."""

    def new_operation_id(self, *, timeout: float) -> OperationId:
        """Return a new id, issued now, with its deadline `timeout` seconds away."""


@dataclass(slots=True)
class Source:
    """What is imported and whereto: a journal serves one of these and no other."""

    digest: str
    lines: int
    store: str
    consistency: str
    nodes: dict[str, int]
    """The identities of the cluster's nodes, as far as they could be asked: an emptied cluster is another one."""

    def is_same(self, other: Source) -> bool:
        """Return whether `other` is this file going to this store of this cluster."""
        shared = self.nodes.keys() & other.nodes.keys()
        same_cluster = bool(shared) and all(self.nodes[name] == other.nodes[name] for name in shared)
        mine = (self.digest, self.lines, self.store, self.consistency)
        return same_cluster and mine == (other.digest, other.lines, other.store, other.consistency)


@dataclass(slots=True)
class Base:
    """An id whose session serves the lines from `first` to the next base; those up to `doubt` must be read first."""

    first: int
    doubt: int
    id: str

    @property
    def operation_id(self) -> OperationId:
        """The id itself.  Raises ValueError if the file holds something else."""
        session, sequence, issued_at, deadline = self.id.split("/")
        return OperationId(bytes.fromhex(session), int(sequence), int(issued_at), int(deadline))


class Journal:
    """The progress of one import.  Without a path it is kept nowhere: what cannot be read twice cannot be resumed."""

    def __init__(self, path: Path | None, source: Source) -> None:
        self.path = path
        self.source = source
        self.done = 0
        self.reached = 0
        self.bad = 0
        self.finished = False
        self._bases: list[Base] = []
        self._resumed_at = 0
        self._has_base_of_this_run = False
        self._held: IO[bytes] | None = None  # the locked file

    def resume(self, issuer: Issuer) -> None:
        """Take up a journal that was loaded: give new bases to the lines whose base has passed its deadline."""
        self._resumed_at = self.reached
        now_ms = issuer.new_operation_id(timeout=BASE_LIFE_S).issued_at_ms
        while len(self._bases) > 1 and self._bases[1].first <= self.done + 1:
            del self._bases[0]
        for base in self._bases:
            if base.operation_id.deadline_ms < now_ms:
                base.id = str(issuer.new_operation_id(timeout=BASE_LIFE_S))
                base.doubt = self.reached
        self.save()

    def ticket(self, line: int, issuer: Issuer) -> Ticket:
        """Return how `line` is to be written.  Lines that were never sent must be asked for in rising order.

        What must be on disk before the line may be sent is there when this returns.  Raises ConfigError.
        """
        is_new, renewed = line > self._resumed_at, False
        if is_new and not (self._has_base_of_this_run and self._last_base_serves(issuer)):
            self._bases = [base for base in self._bases if base.first < line]
            self._bases.append(Base(line, 0, str(issuer.new_operation_id(timeout=BASE_LIFE_S))))
            self._has_base_of_this_run = renewed = True
        if line > self.reached:
            self.reached = line + RESERVE_LINES
            renewed = True
        if renewed:
            self.save()
        base = next(base for base in reversed(self._bases) if base.first <= line)
        return Ticket(base.operation_id.with_sequence(line), line <= base.doubt)

    def _last_base_serves(self, issuer: Issuer) -> bool:
        if not self._bases:
            return False
        now_ms = issuer.new_operation_id(timeout=BASE_LIFE_S).issued_at_ms
        return now_ms <= self._bases[-1].operation_id.issued_at_ms + BASE_SERVES_MS

    def end(self, sent_up_to: int) -> None:
        """Put the journal on disk at the end of a run; `sent_up_to` is the greatest line that this run may have sent
        and that was not refused for certain.  Raises ConfigError."""
        was_reached = self.reached
        self.reached = max(self._resumed_at, sent_up_to)
        if was_reached or self.finished:
            self.save()

    def release(self) -> None:
        """Let another import have the file."""
        held, self._held = self._held, None
        if held is not None:
            held.close()

    def save(self) -> None:
        """Put the journal on disk.  Raises ConfigError if it cannot be written."""
        if self.path is None:
            return
        facts = {
            "format": FORMAT,
            "source": asdict(self.source),
            "done": self.done,
            "reached": self.reached,
            "bad": self.bad,
            "finished": self.finished,
            "bases": [asdict(base) for base in self._bases],
        }
        try:
            draft = self.path.with_name(self.path.name + ".new")
            held = _locked(draft, create=True)
            held.truncate(0)
            held.write(json.dumps(facts, indent=1).encode() + b"\n")
            held.flush()
            os.fsync(held.fileno())
            draft.replace(self.path)
        except OSError as error:
            raise ConfigError(
                f"cannot note the import's progress in {self.path}: {error.strerror}; name another file with --progress"
            ) from error
        self.release()
        self._held = held


def _locked(path: Path, *, create: bool = False) -> IO[bytes]:
    """Open a file that no other import has locked, and lock it until it is closed.  Raises OSError or ConfigError."""
    while True:
        file = os.fdopen(os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o666), "r+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except BlockingIOError as error:
            file.close()
            raise ConfigError(
                f"another import keeps its progress in {path}: wait for it, or name another file with --progress"
            ) from error
        except FileNotFoundError:
            pass
        file.close()  # it was replaced before we had the lock


def load(path: Path) -> Journal | None:
    """Return the journal in `path`, locked; None if there is no such file.  Raises ConfigError."""
    try:
        held = _locked(path)
        facts: dict[str, Any] = json.loads(held.read().decode())
        if facts["format"] != FORMAT:
            raise ConfigError(
                f"{path} has format {facts['format']}, this kvnode writes {FORMAT}: remove it to start again"
            )
        journal = Journal(path, Source(**facts["source"]))
        journal.done, journal.reached, journal.bad = (int(facts[name]) for name in ("done", "reached", "bad"))
        journal.finished = bool(facts["finished"])
        journal._bases = [Base(**base) for base in facts["bases"]]
        _ = [base.operation_id for base in journal._bases]
        journal._held = held
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; name another file with --progress") from error
    except ConfigError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} does not hold an import's progress: remove it, or name another with --progress"
        ) from error
    return journal
