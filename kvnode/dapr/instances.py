"""The instances of a component: one for each component file that names it, each with the properties of its own Init.

Decides: what the properties mean, and that a component which is started again still knows them: a sidecar that
reconnects sends no second Init.  Kept are the properties that this program uses and no others (some are secrets), in
one small file that is replaced at once.  Leaves to others: what is done with an instance's store (`component`).

Invariant: what `keep` has kept is on the disk.
"""

from __future__ import annotations

import difflib
import fcntl
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from kvclient import ConfigError
from kvnode.dapr import options
from kvnode.dapr.errors import Call, StateError
from kvnode.dapr.settings import DaprStore

INSTANCES_MAX = 256
TEXT_CHARS_MAX = 1024
"""Characters of an instance's name and of a property: 256 instances then fit into a file of a megabyte."""
FILE_NAME = "instances.json"
LOCK_NAME = "instances.lock"
FORMAT = 1
DEFAULT_STORE = "default"

USED = ("store", "consistency", options.TTL_NAME)
"""The properties that have a meaning here."""
THE_SIDECARS = (
    "keyPrefix",
    "actorStateStore",
    "outboxPublishPubsub",
    "outboxPublishTopic",
    "outboxPubsub",
    "outboxDiscardWhenMissingState",
    "primaryEncryptionKey",
    "secondaryEncryptionKey",
)
"""The properties that the sidecar itself obeys, before a request gets here."""


def used_of(properties: Mapping[str, str]) -> dict[str, str]:
    """Return the properties that this program uses, under their own names.  Raises ConfigError for unknown ones.

    Names match in any case, as everywhere in Dapr.
    """
    known = {name.lower(): name for name in (*USED, *THE_SIDECARS)}
    used = {}
    for given, text in properties.items():
        name = known.get(given.lower())
        if name is None:
            near = difflib.get_close_matches(given.lower(), known, n=1)
            hint = f"; did you mean {known[near[0]]}?" if near else f"; there are {', '.join(USED)}"
            raise ConfigError(f"the component's metadata has an unknown name {given!r:.80}{hint}")
        if name in USED:
            if len(text) > TEXT_CHARS_MAX:
                raise ConfigError(f"{name} must have at most {TEXT_CHARS_MAX} characters, not {len(text)}")
            used[name] = text
    return used


def store_of(instance: str, used: Mapping[str, str]) -> DaprStore:
    """Return the store that an instance's properties describe.  Raises ConfigError.

    An instance that names no store has the one of its own name.  The sidecar has prefixed the keys.
    """
    try:
        consistency = options.consistency_of(used.get("consistency"))
        ttl = options.ttl_of(used, Call.SAVE, instance, "")
    except StateError as error:
        raise ConfigError(error.detail) from error
    ttl_s = 0.0 if ttl == "never" else ttl
    store = used.get("store") or instance or DEFAULT_STORE
    return DaprStore(name=instance, store=store, ttl_s=ttl_s, consistency=consistency)


class Instances:
    """What every instance was told, in memory and in a directory that belongs to one process at a time."""

    def __init__(self, directory: Path) -> None:
        """Take the directory, which is made if it is missing, and read what is there.  Raises ConfigError."""
        self._directory = directory
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(f"{directory} cannot keep the component's instances: {error.strerror}") from error
        try:
            self._take()
            self._used = self._read()
        except BaseException:
            os.close(self._lock)
            raise

    def _take(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(
                f"{self._directory} is in use by another component: stop that, or give this one its own with --memory"
            ) from error

    def close(self) -> None:
        """Give the directory back."""
        os.close(self._lock)

    def all(self) -> dict[str, DaprStore]:
        """Return every instance's store, by its name."""
        return {name: store_of(name, used) for name, used in self._used.items()}

    def keep(self, instance: str, used: Mapping[str, str]) -> None:
        """Keep what an instance is told, instead of what it was told before.  Raises ConfigError; OSError: the disk."""
        if self._used.get(instance) == used:
            return
        if len(instance) > TEXT_CHARS_MAX:
            raise ConfigError(f"an instance's name must have at most {TEXT_CHARS_MAX} characters, not {len(instance)}")
        if instance not in self._used and len(self._used) >= INSTANCES_MAX:
            raise ConfigError(
                f"the component has {INSTANCES_MAX} instances, as many as it takes: stop it, remove"
                f" {self._directory / FILE_NAME}, and start the sidecars that are still in use again"
            )
        known = self._used | {instance: dict(used)}
        self._write(known)
        self._used = known

    def _read(self) -> dict[str, dict[str, str]]:
        path = self._directory / FILE_NAME
        try:
            kept = json.loads(path.read_bytes())
            if kept["format"] != FORMAT:
                raise ConfigError(f"{path} has format {kept['format']}, this program reads {FORMAT}")
            used = {str(name): used_of(properties) for name, properties in kept["instances"].items()}
            for name, properties in used.items():
                store_of(name, properties)
        except FileNotFoundError:
            return {}
        except ConfigError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{path} cannot be read ({error}): remove it and start the sidecars again") from error
        return used

    def _write(self, known: Mapping[str, Mapping[str, str]]) -> None:
        """Replace the file: after a crash it is the old one or the new one."""
        text = json.dumps({"format": FORMAT, "instances": known}, indent=1)
        scratch = self._directory / f"{FILE_NAME}.new"
        try:
            file = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(file, "w") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            scratch.replace(self._directory / FILE_NAME)
            folder = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError:
            with suppress(OSError):
                scratch.unlink()
            raise
