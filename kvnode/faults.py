"""Faults on purpose, for tests with real processes: a clock that jumps, a disk that is slow, full, or fails to sync.

Decides: how a test says what is wrong with a node, and how it goes wrong.  Leaves to others: when to hurt whom
(`scripts/chaos.py`), and everything that follows from it.

`process` imports this only if the environment says where the faults are (KVNODE_FAULTS, a directory); then node n1
follows its file there, `n1.json`, looked at every POLL_S.  What the file does not name is as it should be, and so is
everything without a file.  Replace the file as a whole, never write into it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from rocksdict import Rdict, WriteBatch, WriteOptions

from kvclient.errors import ConfigError
from kvnode.config import Limits
from kvnode.runtime import RealClock
from kvnode.storage.rocks import RocksEngine

POLL_S = 0.02
SYNC_DELAY_S_MAX = 60.0
SyncFailure = Literal["", "lost", "kept"]


@dataclass(frozen=True, slots=True)
class Faults:
    """What is wrong with one node."""

    clock_offset_ms: int = 0
    """Added to its wall clock."""
    sync_delay_s: float = 0.0
    """Added to every sync."""
    sync_failure: SyncFailure = ""
    """The next sync fails; what it should have synced is "lost", or is "kept" though nobody can know it."""
    is_full: bool = False
    """The disk has less free than the reserve."""


HEALTHY = Faults()
_EXPECTED = {
    "clock_offset_ms": "an integer of milliseconds",
    "sync_delay_s": f"a number of seconds from 0 to {SYNC_DELAY_S_MAX:g}",
    "sync_failure": " or ".join(f'"{failure}"' for failure in get_args(SyncFailure)),
    "is_full": "true or false",
}


def load(path: Path) -> Faults:
    """Return what the file says; nothing is wrong without one.  Raises ConfigError with one sentence."""
    try:
        facts = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return HEALTHY
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error
    if not isinstance(facts, dict):
        raise ConfigError(f"{path} holds {_shown(facts)}; an object with what is wrong with a node is expected")
    for name, value in facts.items():
        if name not in _EXPECTED:
            raise ConfigError(f'{path}: there is no fault "{name}"; there are {", ".join(_EXPECTED)}')
        if not _is_possible(name, value):
            raise ConfigError(f"{path}: {name} = {_shown(value)}; {_EXPECTED[name]} is expected")
    return Faults(**facts)


def _is_possible(name: str, value: object) -> bool:
    """Return whether a fault may have that value; True is not 1, but 1 is 1.0."""
    if name == "is_full":
        return isinstance(value, bool)
    if name == "sync_failure":
        return value in get_args(SyncFailure)
    if name == "clock_offset_ms":
        return type(value) is int
    return type(value) in (int, float) and 0 <= value <= SYNC_DELAY_S_MAX  # type: ignore[operator]


def _shown(value: object) -> str:
    return f"{json.dumps(value):.60}"


class FaultyEngine(RocksEngine):
    """The engine, over a disk that does what `faults` says."""

    faults = HEALTHY

    def __init__(
        self,
        database: Rdict,
        path: Path,
        limits: Limits,
        fatal: Callable[[BaseException], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(FaultyDatabase(database, self), path, limits, fatal, loop)  # type: ignore[arg-type]

    def _has_space(self) -> bool:
        return not self.faults.is_full and super()._has_space()


class FaultyDatabase:
    """An open database whose writes are slow or fail."""

    def __init__(self, database: Rdict, engine: FaultyEngine) -> None:
        self._database = database
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    def write(self, batch: WriteBatch, options: WriteOptions) -> None:
        """Write a batch, and sync it if the options say so and nothing is wrong."""
        faults = self._engine.faults
        if not options.sync:
            self._database.write(batch, options)
            return
        if faults.sync_failure:
            if faults.sync_failure == "kept":
                self._database.write(batch, WriteOptions())
            raise OSError(5, "Input/output error (made on purpose)")
        self._database.write(batch, options)
        if faults.sync_delay_s:
            time.sleep(faults.sync_delay_s)


class Follower:
    """Keeps one node's clock and engine as wrong as its file says."""

    def __init__(self, path: Path, clock: RealClock, loop: asyncio.AbstractEventLoop) -> None:
        self._path = path
        self._clock = clock
        self._loop = loop
        self._clock_offset_ms = clock.offset_ms
        self.engine: FaultyEngine | None = None
        self.follow()

    def open_engine(self, *where: Any, create: bool) -> FaultyEngine:
        """Open an engine that this follower steers; see `RocksEngine.open`."""
        engine = FaultyEngine.open(*where, create=create)
        assert isinstance(engine, FaultyEngine)
        engine.faults = load(self._path)
        self.engine = engine
        return engine

    def follow(self) -> None:
        """Look into the file now, and again and again from now on."""
        faults = load(self._path)
        self._clock.offset_ms = self._clock_offset_ms + faults.clock_offset_ms
        if self.engine is not None:
            self.engine.faults = faults
        self._loop.call_later(POLL_S, self.follow)
