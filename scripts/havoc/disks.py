"""What happens to disks: one that is really full, bits that flip, and the torn end of a log.

Decides: how each is done to files.  Leaves to others: when, and to which node; nothing here may be done to the files of
a node that runs, except to fill its disk.
"""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

SMALL_DISK_BYTES = 192 << 20
_ENTER = ("unshare", "--user", "--map-root-user", "--mount")
_INSIDE = "KVNODE_CHAOS_NAMESPACE"
_BALLAST = "ballast"
_LOG_BLOCK_BYTES = 32 * 1024
_LOG_HEADER_BYTES = 7


def is_in_namespace() -> bool:
    """Return whether `enter_namespace` has brought us into one."""
    return _INSIDE in os.environ


def enter_namespace() -> None:
    """Go on in a user namespace of our own, where a file system may be mounted; do nothing where that is forbidden.

    The program is started again, with the same arguments; what it starts lives in the namespace too.
    """
    try:
        subprocess.run([*_ENTER, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return
    sys.stdout.flush()
    os.execvpe(_ENTER[0], [*_ENTER, sys.executable, *sys.argv], {**os.environ, _INSIDE: "1"})


@dataclass(frozen=True, slots=True)
class SmallDisk:
    """A file system of its own in memory, which can be filled; it ends with our namespace."""

    path: Path

    @classmethod
    def mount(cls, path: Path) -> SmallDisk | None:
        """Mount one; None where that is forbidden."""
        path.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_BYTES}", "tmpfs", str(path)]
        done = subprocess.run(command, check=False, capture_output=True)
        return None if done.returncode else cls(path)

    def unmount(self) -> None:
        """End it, and what is on it."""
        subprocess.run(["umount", "--lazy", str(self.path)], check=False, capture_output=True)

    def fill(self, leave_bytes: int) -> None:
        """Take all space but `leave_bytes`."""
        facts = os.statvfs(self.path)
        taken = facts.f_bavail * facts.f_frsize - leave_bytes
        if taken > 0:
            with open(self.path / _BALLAST, "ab") as ballast:
                os.posix_fallocate(ballast.fileno(), ballast.tell(), taken)

    def free(self) -> None:
        """Give the space back."""
        (self.path / _BALLAST).unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Flip:
    """One bit of a file that was turned over."""

    path: Path
    at: int
    bit: int

    @classmethod
    def draw(cls, rows: Path, rng: random.Random) -> Flip:
        """Choose a bit of a table or log in `rows`, each bit alike."""
        files = [path for path in sorted(rows.iterdir()) if path.suffix in (".sst", ".log") and path.stat().st_size]
        (path,) = rng.choices(files, [path.stat().st_size for path in files])
        return cls(path, rng.randrange(path.stat().st_size), rng.randrange(8))

    def turn(self) -> None:
        """Turn the bit over; a second time turns it back.  A file that is gone by then is left alone."""
        if not self.path.exists():
            return
        with open(self.path, "r+b") as file:
            file.seek(self.at)
            (byte,) = file.read(1)
            file.seek(self.at)
            file.write(bytes([byte ^ (1 << self.bit)]))

    def __str__(self) -> str:
        return f"bit {self.bit} of byte {self.at} of {self.path.name}"


def tear_tail(rows: Path, rng: random.Random) -> str:
    """Append a record to the newest log of which only the beginning reached the disk; return what was done.

    It says that it is longer than what is there, as the last record does after a crash in the middle of a write.
    """
    log = max(rows.glob("*.log"), key=lambda path: int(path.stem))
    left = _LOG_BLOCK_BYTES - log.stat().st_size % _LOG_BLOCK_BYTES
    if left <= _LOG_HEADER_BYTES + 1:
        return f"{log.name} ends at a block's end: nothing to tear"
    length = rng.randrange(1, left - _LOG_HEADER_BYTES + 1)
    written = rng.randrange(length)
    record = struct.pack("<IHB", rng.getrandbits(32), length, 1) + rng.randbytes(length)
    with open(log, "ab") as file:
        file.write(record[: rng.choice([rng.randrange(1, _LOG_HEADER_BYTES), _LOG_HEADER_BYTES + written])])
    return f"{log.name} ends in the middle of a record"
