"""The Unix socket at which a sidecar finds a component.

Decides: where it lies, that a file left over by a component that died is removed, and that one which somebody listens
at, or which is no socket, is not.  The name of the file is the name of the component: `kvnode.sock` is `state.kvnode`.
Leaves to others: listening (`component`).

Caveat: a sidecar lists the folder once, when it starts, and a socket at which nobody listens can hang it.  So a socket
is bound at a private place and appears at its own when it is served; it is taken away before it no longer is.  That
also keeps the gRPC library, which removes what it has bound, from removing the socket of a successor.
"""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

from kvclient import ConfigError

FOLDER_NAME = "DAPR_COMPONENTS_SOCKETS_FOLDER"
DEFAULT_FOLDER = Path("/tmp/dapr-components-sockets")
FILE_NAME = "kvnode.sock"
PATH_BYTES_MAX = 104
"""What fits into a socket's address on Linux, 107 bytes, less what a private place may be longer."""
PROBE_S = 5.0

Identity = tuple[int, int]


def default_path(environment: Mapping[str, str]) -> Path:
    """Return where sidecars look, as far as the environment says."""
    return Path(environment.get(FOLDER_NAME) or DEFAULT_FOLDER) / FILE_NAME


def make_way(path: Path) -> None:
    """Make sure that a socket can be bound at `path`: its folder is there, nothing else is.  Raises ConfigError."""
    if len(os.fsencode(path)) > PATH_BYTES_MAX:
        raise ConfigError(f"the socket's path must have at most {PATH_BYTES_MAX} bytes: {path}")
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"the socket {path} cannot be made: {error.strerror}") from error
    if not stat.S_ISSOCK(kind):
        raise ConfigError(f"{path} is there and no socket: remove it or choose another path")
    if _is_listened_at(path):
        raise ConfigError(f"another process listens at {path}: stop it or choose another path")
    path.unlink(missing_ok=True)


def private_place(path: Path) -> Path:
    """Return where the socket can be bound before it appears at `path`: a directory that nobody else can enter.

    Raises ConfigError.
    """
    try:
        return Path(tempfile.mkdtemp(prefix=".k", dir=path.parent)) / "s"
    except OSError as error:
        raise ConfigError(f"the socket {path} cannot be made: {error.strerror}") from error


def publish(private: Path, path: Path, mode: int) -> Identity:
    """Let a bound socket appear at `path` for those whom `mode` allows; return what it is.  Raises ConfigError."""
    private.chmod(mode)
    made = _identity(private)
    try:
        os.link(private, path)
    except FileExistsError as error:
        raise ConfigError(f"another process has made {path} just now: stop it or choose another path") from error
    except OSError:  # a file system that links no sockets
        private.rename(path)
    return made


def clear(private: Path) -> None:
    """Remove the private place."""
    private.unlink(missing_ok=True)
    private.parent.rmdir()


def remove(path: Path, made: Identity) -> None:
    """Take the socket away, unless another process has put its own there."""
    try:
        if _identity(path) == made:
            path.unlink()
    except FileNotFoundError:
        return


def _identity(path: Path) -> Identity:
    """Return what tells this socket from another that is made at the same path later."""
    told = path.lstat()
    return told.st_dev, told.st_ino


def _is_listened_at(path: Path) -> bool:
    """Say whether a connection is accepted or at least queued; what cannot be asked is taken to be in use."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(PROBE_S)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
        return True
