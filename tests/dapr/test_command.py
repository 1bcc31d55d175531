"""`kvnode gateway` as people type it: what is refused, in one sentence and with which exit code, before it serves."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from processes import kvnode

from kvnode import config as configuration

USAGE, FAILED = 2, 1
COMPONENT = "kind: Component\nmetadata: {name: orders}\nspec: {type: state.redis}\n"


def refused(directory: Path, *options: str) -> tuple[int, str]:
    """Return the exit code of a gateway that does not start, and its one sentence."""
    done = kvnode("gateway", "--config", str(directory / "cluster.toml"), *options)
    assert not done.stdout
    assert done.stderr.startswith("kvnode: ")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.returncode, done.stderr


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with a cluster file and component files."""
    (tmp_path / "cluster.toml").write_text(configuration.local(1, tmp_path).to_toml())
    (tmp_path / "components").mkdir()
    (tmp_path / "components" / "orders.yaml").write_text(COMPONENT)
    return tmp_path


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--app-id", "a||b"], 'the prefix "a||b" of keys must neither hold "||"'),
        (["--app-id", "a" * 65], "the option app_id = "),
        (["--host", ""], 'the option host = "" (a string) is out of bounds'),
        (["--resources-path", "HERE/components"], 'component "orders": spec.type is "state.redis"'),
        (["--resources-path", "HERE/nowhere"], "/nowhere cannot be read: No such file"),
        (["--config", "HERE/other.toml"], "other.toml: there is no such file"),
        (["--http-port", "65536"], "Invalid value for '--http-port'"),
    ],
)
def test_what_cannot_be_is_a_usage_error(directory: Path, options: list[str], said: str) -> None:
    code, sentence = refused(directory, *(option.replace("HERE", str(directory)) for option in options))
    assert code == USAGE
    assert said in sentence


@pytest.mark.parametrize("option", ["--http-port", "--grpc-port"])
def test_a_port_in_use_is_a_failure_as_of_a_node(directory: Path, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, sentence = refused(directory, "--http-port", "0", "--grpc-port", "0", option, str(port))
    assert code == FAILED
    assert f"cannot listen on 127.0.0.1:{port}: another process does; " in sentence
