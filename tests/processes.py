"""Real clusters for the tests: three node processes under a supervisor, on free ports, in a temporary directory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kvnode import config as configuration
from kvnode.config import Config
from kvnode.local import detached, plan, statefile

ROOT = Path(__file__).parents[1]


class RealCluster:
    """A running cluster, and the command line that talks to it."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.directory = config.data_dir

    @property
    def addresses(self) -> list[str]:
        """Every node's address, for `kvclient.connect`."""
        return [node.address for node in self.config.nodes]

    def node(self, name: str) -> statefile.NodeState:
        """What the supervisor says of a node."""
        return next(node for node in statefile.running(self.directory).nodes if node.id == name)

    def kvnode(self, *arguments: str, stdin: bytes = b"", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command against this cluster."""
        return kvnode(*arguments, "--data-dir", str(self.directory), stdin=stdin, cwd=cwd)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command against this cluster and leave it running.

        It takes Ctrl-C also where the tests run in the background of a shell, which has them ignore SIGINT.
        """
        command = [sys.executable, "-m", "kvnode", *arguments, "--data-dir", str(self.directory)]
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def tell(self, what: str, node: str) -> None:
        """Ask the supervisor to kill, pause, resume or restart a node; returns when it is done."""
        statefile.ask(self.directory, 60, do=what, node=node)


def kvnode(*arguments: str, stdin: bytes = b"", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a kvnode command to its end; stdout and stderr as text (bytes that are not UTF-8 as surrogates)."""
    done = subprocess.run(
        [sys.executable, "-m", "kvnode", *arguments],
        input=stdin,
        capture_output=True,
        timeout=120,
        cwd=cwd,
        check=False,
    )
    texts = (stream.decode("utf-8", "surrogateescape") for stream in (done.stdout, done.stderr))
    return subprocess.CompletedProcess(done.args, done.returncode, *texts)


@pytest.fixture(scope="session", autouse=True)
def own_packages() -> Iterator[None]:
    """Let the processes that tests start find these packages, installed or not."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), str(ROOT / "client"), before)))
    yield
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


@contextmanager
def run_cluster(
    directory: Path, nodes: int = 3, store: dict[str, Any] | None = None, *, proxied: bool = False, **limits: Any
) -> Iterator[RealCluster]:
    """Run a cluster until the block ends; `store` and `limits` change settings of [stores.default] and [limits]."""
    config = configuration.local(nodes, directory)
    default = replace(config.stores["default"], **(store or {}))
    config = replace(config, stores={"default": default}, limits=replace(config.limits, **limits))
    config = plan.on_free_ports(config)
    with detached.cluster(config, *(["--proxied"] if proxied else [])):
        yield RealCluster(config)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[RealCluster]:
    """Three nodes of its own for one test: to be killed, paused and restarted at will."""
    with run_cluster(tmp_path / "cluster") as running:
        yield running


@pytest.fixture(scope="module")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    """Three nodes for all tests of a module that leave every node running and use keys of their own."""
    with run_cluster(tmp_path_factory.mktemp("shared") / "cluster") as running:
        yield running


@pytest.fixture
def new_cluster(tmp_path: Path) -> Callable[..., AbstractContextManager[RealCluster]]:
    """Start clusters with settings of their own: `with new_cluster("name", nodes=5) as cluster`."""

    def start(name: str, **settings: Any) -> AbstractContextManager[RealCluster]:
        return run_cluster(tmp_path / name, **settings)

    return start


@pytest.fixture
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """The function `kvnode`, for commands that name their cluster themselves."""
    return kvnode
