"""Every program in docs/examples, as it stands, against a gateway: each checks itself what it shows."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from gateways import Gateway

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
PACKAGES_VARIABLE = "KVNODE_NODE_PACKAGES"
"""A directory whose node_modules has @dapr/dapr; without it npm installs it, if there is npm and a registry."""


def run(gateway: Gateway, *command: str, cwd: Path | None = None) -> str:
    """Run an example to its end and return what it printed."""
    http_port, grpc_port = gateway.address.rpartition(":")[2], gateway.grpc_address.rpartition(":")[2]
    environment = {
        **os.environ,
        "DAPR_HTTP_ENDPOINT": gateway.url,
        "DAPR_HTTP_PORT": http_port,
        "DAPR_GRPC_ENDPOINT": gateway.grpc_address,
        "DAPR_GRPC_PORT": grpc_port,
    }
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, cwd=cwd, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def need(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed on this machine")


@pytest.mark.parametrize("name", ["requests", "httpx", "dapr_sdk"])
def test_the_python_examples_run(gateway: Gateway, name: str) -> None:
    shown = run(gateway, sys.executable, str(EXAMPLES / f"state_with_{name}.py"))
    assert "4 writers added 5 each" in shown


def test_the_curl_example_runs(gateway: Gateway) -> None:
    need("bash", "curl")
    if "--json" not in subprocess.run(["curl", "--help", "all"], capture_output=True, text=True, check=False).stdout:
        pytest.skip("curl on this machine is older than 7.82, which brought --json")
    assert "tally is 9" in run(gateway, "bash", str(EXAMPLES / "state_with_curl.sh"))


def test_the_javascript_example_without_packages_runs(gateway: Gateway) -> None:
    need("node")
    if not has_fetch():
        pytest.skip("node on this machine has no fetch: it is older than 18")
    assert "clicks is 20" in run(gateway, "node", str(EXAMPLES / "state_with_fetch.mjs"))


def has_fetch() -> bool:
    """Return whether JavaScript here has fetch."""
    done = subprocess.run(["node", "-p", "typeof fetch"], capture_output=True, text=True, check=False)
    return done.stdout.strip() == "function"


@pytest.fixture(scope="session")
def node_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which Dapr's SDK for JavaScript is installed."""
    need("node", "npm")
    if given := os.environ.get(PACKAGES_VARIABLE):
        return Path(given)
    directory = tmp_path_factory.mktemp("node")
    install = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(directory)]
    try:
        done = subprocess.run(
            [*install, "@dapr/dapr@3"], capture_output=True, text=True, timeout=180, cwd=directory, check=False
        )
    except subprocess.TimeoutExpired:
        pytest.skip("npm did not get Dapr's SDK for JavaScript within 180 s")
    if done.returncode != 0:
        pytest.skip(f"npm cannot get Dapr's SDK for JavaScript here: {done.stderr.strip().splitlines()[-1:]}")
    return directory


def test_the_example_with_the_sdk_for_javascript_runs_over_http_and_grpc(
    gateway: Gateway, node_packages: Path, tmp_path: Path
) -> None:
    shutil.copy(EXAMPLES / "state_with_dapr_sdk.mjs", tmp_path)
    (tmp_path / "node_modules").symlink_to(node_packages / "node_modules")
    shown = run(gateway, "node", "state_with_dapr_sdk.mjs", cwd=tmp_path)
    for way in ("HTTP", "gRPC"):
        assert "likes is 12" in shown.partition(f"{way}: 3 writers")[2].splitlines()[0], shown


def test_every_example_is_run_here() -> None:
    """An example that nobody runs is wrong one day."""
    names = {path.name for path in EXAMPLES.iterdir() if path.is_file() and path.suffix != ".md"}
    run_here = {f"state_with_{name}.py" for name in ("requests", "httpx", "dapr_sdk")}
    assert names == run_here | {"state_with_curl.sh", "state_with_fetch.mjs", "state_with_dapr_sdk.mjs"}
